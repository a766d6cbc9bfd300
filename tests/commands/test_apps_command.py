"""`roomkeeper apps` shows every table once."""

import re
import subprocess

from syrupy.assertion import SnapshotAssertion

from commands import app_tables
from stack.programs import roomkeeper as command
from tasks.apps import APPS
from tests.commands.cli import refused, roomkeeper


def printed(out: str) -> list[str]:
    """Return the tables that are printed, in their order."""
    return re.findall(r"^│ (\w+\.\w+) +│", out, re.MULTILINE)


def test_every_table_is_printed_once() -> None:
    done = subprocess.run(command(("apps",)), capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(printed(done.stdout)) == sorted(
        table.fullname for app in APPS.values() for table in app.tables()
    )
    for app in APPS.values():
        assert f"{app.name}: {app.about}" in done.stdout


def test_one_application_is_printed_with_its_jobs() -> None:
    outcome = roomkeeper("apps", "openchat")
    assert outcome.code == 0
    assert sorted(printed(outcome.out)) == sorted(table.fullname for table in APPS["openchat"].tables())
    assert re.search(r"│ openchat\.attachment +│[^│]*│\n│   attachments\.process +│", outcome.out)


def test_jobs_that_only_look_into_a_table_are_printed_with_it() -> None:
    messages = app_tables.read()["pern"]["jobs"]["pern.messages"]
    assert [task for task, _ in messages[:3]] == [
        "pern.messages_by_conversation",
        "pern.messages",
        "pern.daily",
    ]
    assert [tuple(one) for one in messages[3:]] == [
        ("delivery.drain", "Only reads it."),
        ("pern.presence", "Only reads it."),
    ]


def test_an_unknown_application_is_a_sentence(snapshot: SnapshotAssertion) -> None:
    assert refused(roomkeeper("apps", "opencat"), "'opencat'", *APPS) == snapshot


def test_the_file_holds_what_the_definitions_say() -> None:
    assert app_tables.FILE.read_text(encoding="utf-8") == app_tables.text(), "type: make apps"
