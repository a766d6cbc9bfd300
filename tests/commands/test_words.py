"""What the command line says to people, word for word: it stands in files, so that words are improved there.

`pytest tests/commands --snapshot-update` writes the files; the difference is for a reviewer.
"""

from collections.abc import Iterator

import pytest
from syrupy.assertion import SnapshotAssertion

from commands.main import ENTRIES
from tests.commands.cli import on, roomkeeper, stable
from tests.platform import Platform
from workers import revision


def paths() -> Iterator[tuple[str, ...]]:
    """Yield what follows `roomkeeper` for each command and group of commands."""
    yield ()
    for name, entry in ENTRIES.items():
        yield (name,)
        for below in getattr(entry.load(name), "commands", ()):
            yield name, below


@pytest.mark.parametrize("path", list(paths()), ids=lambda path: " ".join(("roomkeeper", *path)))
def test_help(path: tuple[str, ...], snapshot: SnapshotAssertion) -> None:
    outcome = roomkeeper(*path, "--help")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out == snapshot


def test_settings(snapshot: SnapshotAssertion, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    assert roomkeeper("settings").out == snapshot


@pytest.mark.parametrize("app", ["audiorooms", "connect", "echoroom", "openchat", "pern"])
def test_apps(app: str, snapshot: SnapshotAssertion) -> None:
    assert roomkeeper("apps", app).out == snapshot


#: What an operator may find at 3 a.m.: what is wrong, and what `roomkeeper check` says.
WRONG = {
    "the schema is not there": "DROP SCHEMA roomkeeper CASCADE",
    "an older version's schema": "UPDATE roomkeeper.alembic_version SET version_num = '0001'",
    "a column is gone": "ALTER TABLE openchat.attachment DROP COLUMN scan_result",
    "a table is gone": "DROP TABLE audiorooms.room_participants CASCADE",
    "an index is gone": "DROP INDEX audiorooms.idx_participants_active",
    "read-only": "ALTER DATABASE {database} SET default_transaction_read_only = on",
}


@pytest.mark.parametrize("wrong", WRONG)
def test_check(platform: Platform, snapshot: SnapshotAssertion, wrong: str) -> None:
    platform.set(max_file_bytes=100_000)
    platform.sql(WRONG[wrong].format(database=platform.engine.url.database))
    outcome = on(platform, "check")
    assert stable(outcome, newest=revision.newest()) == snapshot
