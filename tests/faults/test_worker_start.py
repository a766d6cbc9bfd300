"""What a worker does at its start on a database that is away, read-only or busy, or that lacks something."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from commands import startup
from stack.ports import free_port
from stack.servers.postgres import Postgres
from tasks.apps import APPS
from tests.commands.cli import on
from tests.platform import Platform, Program, eventually
from tests.servers import PostgresServer
from workers import migrate, revision
from workers.bootstrap import bootstrap
from workers.db import create
from workers.settings import load

pytestmark = pytest.mark.system

KINDS = ("attachments", "delivery", "maintenance")


@pytest.fixture
def own_postgres(platform: Platform, tmp_path: Path) -> Iterator[PostgresServer]:
    """A server of its own, which the platform is told to use; it does not run."""
    server = PostgresServer(Postgres(tmp_path / "postgres", free_port(), durable=False))
    server.start()
    platform.environment["DATABASE_URL"] = server.url()
    platform.set(apps="echoroom")
    engine = create(load({"DATABASE_URL": server.url()}))
    bootstrap(engine, [APPS["echoroom"].models])
    migrate.upgrade(engine)
    engine.dispose()
    server.stop()
    yield server
    server.stop()


def waits(program: Program, why: str) -> None:
    """See that a worker waits for its database, and says why."""

    def reported() -> bool:
        assert program.process.poll() is None, program.output()
        return "worker.waiting_for_database" in program.output() and why in program.output()

    eventually(reported, what=f"it waits, for {why}; it said {program.output()}")


def starts(program: Program) -> None:
    eventually(lambda: " ready." in program.output(), what=f"it starts; it said {program.output()}")


def test_a_database_that_is_away_is_waited_for(platform: Platform, own_postgres: PostgresServer) -> None:
    alive = platform.folder / "alive"
    platform.set(health_file=alive)
    program = platform.start("worker", "delivery")
    waits(program, "The database does not answer: connection failed")
    assert "DATABASE_URL" in program.output()
    # For the container's health check.
    assert alive.exists()
    own_postgres.start()
    starts(program)


def test_a_database_that_takes_no_writes_is_waited_for_until_sigterm(platform: Platform) -> None:
    """A replica, say, that a failover has left behind, or will promote."""
    name = platform.engine.url.database
    platform.sql(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    programs = [platform.start("worker", "delivery") for _ in range(2)]
    for program in programs:
        waits(program, "The database takes no writes: default_transaction_read_only is on.")
    ended, started = programs
    os.kill(ended.process.pid, signal.SIGTERM)
    assert ended.process.wait(timeout=10) == 0
    assert "Traceback" not in ended.output()
    platform.sql(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    starts(started)


def test_a_database_that_is_busy_is_waited_for(platform: Platform) -> None:
    """Another session alters our table; the query is cut short."""
    platform.set(lock_timeout_ms=100)
    with platform.engine.connect() as blocker:
        blocker.exec_driver_sql("LOCK TABLE roomkeeper.alembic_version IN ACCESS EXCLUSIVE MODE")
        fault, _ = startup.look(platform.settings)
        assert fault is not None
        assert fault.sentence.startswith("The database refuses: canceling statement due to lock timeout")
        platform.set(lock_timeout_ms=5000, statement_timeout_ms=100)
        fault, _ = startup.look(platform.settings)
        assert fault is not None
        assert fault.sentence == "The database takes too long: canceling statement due to statement timeout."
        assert "ROOMKEEPER_STATEMENT_TIMEOUT_MS" in fault.advice
    fault, found = startup.look(platform.settings)
    assert (fault, found.all()) == (None, [])


def test_a_worker_of_each_kind_starts_where_policies_are_slow_and_an_application_lacks_something(
    platform: Platform,
) -> None:
    """The worst day: statistics of empty tables, an index that is gone, a migration that has not run yet."""
    with platform.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("ANALYZE")
    platform.sql("DROP INDEX audiorooms.idx_participants_active")
    platform.sql("ALTER TABLE openchat.attachment DROP COLUMN scan_result")
    platform.set(worker_processes=1)
    programs = [platform.start("worker", kind) for kind in KINDS]
    for program in programs:
        starts(program)
        (line,) = [one for one in program.output().splitlines() if "application.switched_off" in one]
        assert '"level": "error"' in line
        assert '"app": "openchat"' in line
        assert "The column openchat.attachment.scan_result does not exist." in line
        assert "Run the migrations of the application that the table belongs to." in line


def test_a_migration_waits_for_a_database_that_is_away(
    platform: Platform, own_postgres: PostgresServer
) -> None:
    """As `docker compose up` runs it, beside a database elsewhere."""
    program = platform.start("db", "upgrade", "--wait")
    eventually(
        lambda: "Waiting for the database, again in 1 s: The database does not answer" in program.output(),
        what="it waits",
    )
    own_postgres.start()
    assert program.process.wait(timeout=60) == 0
    assert program.output().endswith(f"roomkeeper: at {revision.newest()}\n")


def test_a_migration_does_not_wait_where_a_setting_is_wrong(platform: Platform) -> None:
    platform.environment["DATABASE_URL"] = "mysql://127.0.0.1/platform"
    outcome = on(platform, "db", "upgrade", "--wait")
    assert outcome.code == 1
    assert "DATABASE_URL" in outcome.err
    assert "Waiting" not in outcome.err
