"""Sub-commands are imported when they are called; what is printed without them is what they say."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from syrupy.assertion import SnapshotAssertion

from commands.main import ENTRIES, Roomkeeper
from tests.commands.cli import roomkeeper

ROOT = Path(__file__).parent.parent.parent
#: What takes long to import, and what a command that prints a table of its own has no use for.
COSTLY = ("sqlalchemy", "alembic", "celery", "kombu", "boto3", "botocore", "PIL", "psycopg", "redis", "tasks")


def modules(*arguments: str, **variables: str) -> set[str]:
    """Run `roomkeeper ARGUMENTS` in a process of its own; return the names of what it has imported."""
    code = (
        "import atexit, sys; from commands.start import start; sys.argv[0] = 'roomkeeper';"
        "atexit.register(lambda: print(*sys.modules, file=sys.stderr)); start()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode in {0, 1}, done.stderr
    return set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize(
    "arguments", [("--help",), ("settings",), ("apps",), ("apps", "pern"), ("apps", "x")]
)
def test_what_needs_no_database_imports_nothing_for_one(arguments: tuple[str, ...]) -> None:
    assert modules(*arguments).isdisjoint(COSTLY)


def test_the_whole_help_imports_no_sub_command_and_no_settings() -> None:
    imported = modules("--help")
    assert imported.isdisjoint(
        {entry.module for entry in ENTRIES.values()} | {"pydantic", "workers.settings"}
    )


def test_only_db_imports_alembic() -> None:
    code = (
        "import sys; from commands.main import ENTRIES;"
        "[entry.load(name) for name, entry in ENTRIES.items() if name != 'db']; print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    imported = set(done.stdout.split())
    assert imported >= {entry.module for name, entry in ENTRIES.items() if name != "db"}
    assert imported.isdisjoint({"alembic", "celery", "boto3", "PIL"})


@pytest.mark.parametrize("name", ["policies", "check"])
def test_what_asks_the_database_needs_neither_celery_nor_alembic(name: str) -> None:
    # No server listens there: the command gets as far as to notice that, or to print what is wrong.
    imported = modules(name, DATABASE_URL="postgresql://127.0.0.1:1/none", ROOMKEEPER_CLAMD="unix:/none")
    assert "sqlalchemy" in imported
    assert imported.isdisjoint({"alembic", "celery", "boto3", "PIL"})


@pytest.mark.parametrize("name", ENTRIES)
def test_a_summary_is_what_the_module_says(name: str) -> None:
    command = ENTRIES[name].load(name)
    assert command.help is not None
    assert ENTRIES[name].summary == " ".join(command.help.partition("\n\n")[0].split())
    assert (command.name, command.short_help, command.hidden, command.deprecated) == (
        name,
        None,
        False,
        False,
    )


@pytest.mark.parametrize("width", ["60", "100", "160"])
def test_the_whole_help_is_as_if_all_were_imported(width: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", width)

    class Eager(Roomkeeper):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.commands = {name: entry.load(name) for name, entry in self.entries.items()}

    lazy = roomkeeper("--help")
    monkeypatch.setattr("commands.main.app.info.cls", Eager)
    assert roomkeeper("--help") == lazy
    assert lazy.code == 0


@pytest.mark.parametrize(("typed", "meant"), [("chek", "check"), ("retentoin", "retention"), ("zzz", None)])
def test_what_was_meant_is_named(typed: str, meant: str | None, snapshot: SnapshotAssertion) -> None:
    outcome = roomkeeper(typed)
    assert (outcome.code, outcome.out) == (2, "")
    assert repr(typed) in outcome.err
    assert meant is None or repr(meant) in outcome.err
    assert outcome.err == snapshot
