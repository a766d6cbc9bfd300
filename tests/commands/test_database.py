"""`roomkeeper db`: what it makes, that again it makes nothing, and that it alters nothing of others."""

import re
import subprocess
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, text
from syrupy.assertion import SnapshotAssertion

from commands import checks
from stack.programs import roomkeeper as command
from tasks.apps import APPS
from tests.commands.cli import refused, roomkeeper, stable
from tests.platform import environment
from workers import revision
from workers.db import create
from workers.settings import load


@pytest.fixture
def engine(empty_database: str) -> Iterator[Engine]:
    """An empty database, which the commands are told to use."""
    values = {"DATABASE_URL": empty_database}
    with environment(values):
        engine = create(load(values))
        yield engine
        engine.dispose()


def run(*arguments: str) -> list[str]:
    """Run the real console script; return the lines that it prints."""
    done = subprocess.run(command(arguments), capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_both_make_what_is_needed_and_again_nothing(
    engine: Engine, empty_database: str, snapshot: SnapshotAssertion
) -> None:
    newest = revision.newest()
    made = run("db", "bootstrap")
    assert [tuple(re.findall(r"^\w+|\d+", line)) for line in made] == [
        (name, str(len(app.tables()))) for name, app in APPS.items()
    ]
    assert made == snapshot(name="bootstrap")
    (upgraded,) = run("db", "upgrade")
    assert newest in upgraded
    assert stable(upgraded, newest=newest) == snapshot(name="upgrade")
    assert checks.database(load({"DATABASE_URL": empty_database})) == []
    again = run("db", "bootstrap")
    assert [line.partition(":")[0] for line in again] == list(APPS)
    assert again == snapshot(name="bootstrap again")
    (upgraded,) = run("db", "upgrade")
    assert stable(upgraded, newest=newest) == snapshot(name="upgrade again")
    assert checks.database(load({"DATABASE_URL": empty_database})) == []


def test_upgrade_makes_our_schema_and_nothing_else(engine: Engine) -> None:
    assert roomkeeper("db", "upgrade").code == 0
    with engine.begin() as connection:
        schemas = connection.execute(
            text(
                "SELECT DISTINCT table_schema FROM information_schema.tables"
                " WHERE table_schema NOT IN ('pg_catalog', 'information_schema')"
            )
        ).scalars()
        assert list(schemas) == ["roomkeeper"]


def test_bootstrap_makes_only_the_enabled_applications(engine: Engine, empty_database: str) -> None:
    with environment({"DATABASE_URL": empty_database, "ROOMKEEPER_APPS": "audiorooms"}):
        outcome = roomkeeper("db", "bootstrap")
        again = roomkeeper("db", "bootstrap")
    for each in (outcome, again):
        (line,) = each.out.splitlines()
        assert (each.code, line.partition(":")[0]) == (0, "audiorooms")
    assert " 4 " in outcome.out


def test_bootstrap_makes_schemas_as_they_are_called(engine: Engine, empty_database: str) -> None:
    values = {
        "DATABASE_URL": empty_database,
        "ROOMKEEPER_APPS": "openchat",
        "ROOMKEEPER_SCHEMAS": "openchat=public",
    }
    with environment(values):
        assert roomkeeper("db", "bootstrap").code == 0
        assert roomkeeper("db", "upgrade").code == 0
        assert checks.database(load(values)) == []
    with engine.begin() as connection:
        assert connection.execute(text("SELECT count(*) FROM public.attachment")).scalar() == 0


def test_bootstrap_does_not_complete_what_it_did_not_begin(
    engine: Engine, snapshot: SnapshotAssertion
) -> None:
    with engine.begin() as connection:
        connection.execute(text("CREATE SCHEMA pern"))
        connection.execute(text("CREATE TABLE pern.users (id uuid PRIMARY KEY)"))
    outcome = roomkeeper("db", "bootstrap")
    assert outcome.code == 1
    assert "pern.messages" in outcome.err
    assert outcome.err == snapshot


def test_a_database_of_a_newer_version_is_left_alone(engine: Engine, snapshot: SnapshotAssertion) -> None:
    assert roomkeeper("db", "upgrade").code == 0
    with engine.begin() as connection:
        connection.execute(text("UPDATE roomkeeper.alembic_version SET version_num = '9999'"))
    assert refused(roomkeeper("db", "upgrade"), "'9999'") == snapshot


def test_a_role_that_may_not_make_the_schema_is_told(
    engine: Engine, empty_database: str, snapshot: SnapshotAssertion
) -> None:
    with engine.begin() as connection:
        connection.execute(
            text("DO $$ BEGIN CREATE ROLE reader LOGIN; EXCEPTION WHEN duplicate_object THEN END $$")
        )
    with environment({"DATABASE_URL": empty_database.replace("roomkeeper@", "reader@")}):
        outcome = roomkeeper("db", "upgrade")
    assert (outcome.code, outcome.out) == (1, "")
    ((_, advice),) = outcome.faults
    assert "DATABASE_URL" in advice
    assert stable(outcome, database=engine.url.database) == snapshot
