"""`roomkeeper settings` prints the configuration table, and docs/settings.md has the same."""

from pathlib import Path

from commands.settings import markdown
from tests.commands.cli import roomkeeper
from workers.settings import Settings, variable

PAGE = Path(__file__).parent.parent.parent / "docs" / "settings.md"


def test_the_page_has_the_table() -> None:
    _, begin, rest = PAGE.read_text().partition("<!-- settings -->\n")
    table, end, _ = rest.partition("\n<!-- /settings -->")
    assert begin and end, "the markers are missing"
    assert table == markdown(), "type: roomkeeper settings, and put what it prints between the markers"


def test_the_command_prints_the_table() -> None:
    outcome = roomkeeper("settings")
    assert (outcome.code, outcome.out, outcome.err) == (0, f"{markdown()}\n", "")


def test_every_setting_is_one_row_of_three_cells() -> None:
    rows = markdown().splitlines()[2:]
    assert [row.split("`")[1] for row in rows] == [variable(field) for field in Settings.model_fields]
    for row in rows:
        cells = row.split("|")
        assert len(cells) == 5, f"a | in a cell breaks the table: {row}"
        assert all(cell.strip() for cell in cells[1:4])


def test_a_default_is_written_as_it_would_be_set() -> None:
    rows = {row.split("`")[1]: row.split("|")[2].strip() for row in markdown().splitlines()[2:]}
    assert rows["DATABASE_URL"] == "must be given"
    assert rows["ROOMKEEPER_APPS"] == "`echoroom,openchat,connect,pern,audiorooms`"
    assert rows["ROOMKEEPER_SCHEMAS"] == "none"
    assert rows["ROOMKEEPER_BROKER_URL"] == "`redis://127.0.0.1:6379/0`"
    assert rows["ROOMKEEPER_PREPARED_STATEMENTS"] == "`false`"
    assert rows["ROOMKEEPER_FLOWER_PASSWORD"] == "none"
