"""The command line as a whole: sentences instead of tracebacks, no secrets, nothing undocumented."""

import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from syrupy.assertion import SnapshotAssertion

from commands.main import ENTRIES
from stack.ports import free_port
from stack.programs import PROGRAMS
from stack.programs import roomkeeper as command
from tests.commands.cli import refused, roomkeeper, stable
from tests.platform import Platform, environment
from workers import revision

ROOT = Path(__file__).parent.parent.parent


def commands(group: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield each command that does something, with the words that call it."""
    for name, each in group.items():
        if hasattr(each, "commands"):
            yield from commands(each.commands, (*path, name))
        else:
            yield (*path, name), each


SUB_COMMANDS = {name: entry.load(name) for name, entry in ENTRIES.items()}
COMMANDS = dict(commands(SUB_COMMANDS))
each_command = pytest.mark.parametrize("path", COMMANDS, ids=" ".join)


@each_command
def test_a_command_is_documented(path: tuple[str, ...]) -> None:
    text = "\n".join(file.read_text() for file in [ROOT / "README.md", *ROOT.glob("docs/**/*.md")])
    assert re.search(rf"\broomkeeper {' '.join(path)}\b", text), "neither README.md nor docs/ mentions it"
    for parameter in COMMANDS[path].params:
        for option in parameter.opts:
            assert not option.startswith("-") or option in text, f"{option} is mentioned nowhere"


@each_command
def test_a_command_explains_itself(path: tuple[str, ...]) -> None:
    outcome = roomkeeper(*path, "--help")
    assert (outcome.code, outcome.err) == (0, "")
    assert COMMANDS[path].help
    assert f"Usage: roomkeeper {' '.join(path)}" in outcome.out


def test_every_program_is_a_command() -> None:
    for arguments in PROGRAMS.values():
        assert any(arguments[: len(path)] == path for path in COMMANDS)


def test_without_a_command_it_says_what_there_is() -> None:
    outcome = roomkeeper()
    assert outcome.code == 2
    for path in COMMANDS:
        assert path[0] in outcome.out + outcome.err


@pytest.mark.parametrize(
    "path", [("check",), ("worker", "attachments"), ("beat",), ("db", "upgrade")], ids=" ".join
)
def test_a_wrong_setting_is_a_sentence(path: tuple[str, ...], snapshot: SnapshotAssertion) -> None:
    with environment(
        {"DATABASE_URL": "mysql://root:geheim@h/d", "ROOMKEEPER_BROKER_ULR": "redis://:geheim@h"}
    ):
        outcome = roomkeeper(*path)
    assert (outcome.code, outcome.out) == (1, "")
    first, second = outcome.err.splitlines()
    assert "ROOMKEEPER_BROKER_ULR" in first and "ROOMKEEPER_BROKER_URL" in first
    assert "DATABASE_URL" in second
    assert "geheim" not in outcome.err
    assert outcome.err == snapshot


def test_a_setting_that_is_missing_is_named(snapshot: SnapshotAssertion) -> None:
    # A process of its own: this one's environment may hold it.
    done = subprocess.run(command(("check",)), env={}, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert "DATABASE_URL" in done.stderr
    assert done.stderr == snapshot


@pytest.mark.parametrize("path", [("db", "upgrade"), ("db", "bootstrap")], ids=" ".join)
def test_a_database_that_is_away_is_a_sentence(path: tuple[str, ...], snapshot: SnapshotAssertion) -> None:
    with environment({"DATABASE_URL": f"postgresql://ada:geheim@localhost:{free_port()}/chat"}):
        outcome = roomkeeper(*path)
    assert (outcome.code, outcome.out) == (1, "")
    ((sentence, advice),) = outcome.faults
    assert sentence.endswith("Connection refused.")
    assert "geheim" not in outcome.err
    # What the driver says depends on how many addresses localhost has.
    assert [sentence.partition(":")[0], advice] == snapshot


def test_a_fault_of_ours_keeps_its_traceback(platform: Platform) -> None:
    """Of what no operator can mend the whole story is wanted."""
    platform.sql("DROP TABLE roomkeeper.alembic_version")
    with pytest.raises(Exception, match="already exists"):
        roomkeeper("db", "upgrade")


def test_an_unknown_kind_of_worker_is_a_sentence(snapshot: SnapshotAssertion) -> None:
    assert refused(roomkeeper("worker", "attachment"), "'attachment'") == snapshot


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({}, "ROOMKEEPER_FLOWER_PASSWORD"),
        ({"ROOMKEEPER_FLOWER_PASSWORD": ""}, "ROOMKEEPER_FLOWER_PASSWORD"),
        ({"ROOMKEEPER_FLOWER_PASSWORD": "geheim,eva:pw"}, "ROOMKEEPER_FLOWER_USER"),
    ],
    ids=["none", "empty", "comma"],
)
def test_flower_does_not_run_without_a_password(
    settings: dict[str, str], name: str, snapshot: SnapshotAssertion
) -> None:
    with environment({"DATABASE_URL": "postgresql://h/d"} | settings):
        outcome = roomkeeper("flower")
    assert "geheim" not in outcome.err
    assert refused(outcome, name) == snapshot


@pytest.mark.parametrize(
    ("address", "why"),
    # No machine has the second (TEST-NET-1).
    [("127.0.0.1", "Address already in use"), ("192.0.2.1", "Cannot assign requested address")],
)
def test_flower_says_where_it_cannot_be_served(address: str, why: str, snapshot: SnapshotAssertion) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        settings = {"FLOWER_PASSWORD": "x", "FLOWER_ADDRESS": address, "FLOWER_PORT": str(port)}
        with environment(
            {"DATABASE_URL": "postgresql://h/d"} | {f"ROOMKEEPER_{k}": v for k, v in settings.items()}
        ):
            outcome = roomkeeper("flower")
    assert refused(outcome, f" {address}:{port}: {why};", port=port) == snapshot


def test_the_module_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "commands.main", "apps", "x"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr.splitlines()[0][:6]) == (1, "'x' is")


def test_garbage_is_looked_for_once_it_has_started_but_not_among_what_was_imported() -> None:
    code = (
        "import atexit, gc, sys; from commands.start import start; sys.argv = ['roomkeeper', 'db', '--help'];"
        "atexit.register(lambda: print(gc.isenabled(), gc.get_freeze_count() > 100_000)); start()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines()[-1] == "True True"


# -- a worker that must not start -------------------------------------------------------------------------


def test_a_worker_does_not_start_on_a_database_without_our_schema(
    platform: Platform, snapshot: SnapshotAssertion
) -> None:
    platform.sql("DROP SCHEMA roomkeeper CASCADE")
    done = subprocess.run(
        command(("worker", "attachments")),
        env=platform.environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "roomkeeper db upgrade" in done.stderr
    assert stable(done.stderr, newest=revision.newest()) == snapshot


@pytest.mark.parametrize("kind", ["attachments", "delivery", "maintenance"])
def test_a_worker_does_not_start_where_a_table_of_ours_is_missing(
    platform: Platform, kind: str, snapshot: SnapshotAssertion
) -> None:
    platform.sql("ALTER TABLE roomkeeper.dead_letters RENAME TO letters")
    outcome = roomkeeper("worker", kind)
    assert (outcome.code, outcome.out) == (1, "")
    ((sentence, _),) = outcome.faults
    assert "roomkeeper.dead_letters" in sentence
    assert outcome.err == snapshot
