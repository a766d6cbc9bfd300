"""The database: UTC and time-outs in every transaction, an engine for each process."""

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import OperationalError, StatementError

from tests.platform import environment
from workers import db
from workers.database_errors import ErrorKind, kind_of
from workers.db import create
from workers.settings import Settings, load

SETTINGS = text(
    "SELECT current_setting('TimeZone'), current_setting('statement_timeout'), "
    "current_setting('lock_timeout')"
)


@pytest.fixture
def engine(empty_database: str) -> Iterator[Engine]:
    """An engine on an empty database whose own defaults are all wrong."""
    with psycopg.connect(empty_database, autocommit=True) as connection:
        name = connection.info.dbname
        for setting in ("TimeZone = 'Asia/Kathmandu'", "statement_timeout = '1h'", "lock_timeout = '1h'"):
            connection.execute(f"ALTER ROLE roomkeeper IN DATABASE {name} SET {setting}")
    made = db.create(
        load(
            {
                "DATABASE_URL": empty_database,
                "ROOMKEEPER_STATEMENT_TIMEOUT_MS": "300",
                "ROOMKEEPER_LOCK_TIMEOUT_MS": "200",
            }
        )
    )
    yield made
    made.dispose()


def test_every_transaction_is_pinned_whatever_the_role_defaults_to(engine: Engine) -> None:
    with engine.connect() as connection:
        for _ in range(2):
            with connection.begin():
                assert connection.execute(SETTINGS).one() == ("UTC", "300ms", "200ms")
            # Behind a pooler the next transaction on this server connection is another client's.
            driver: Any = connection.connection.dbapi_connection
            assert driver.execute("SHOW TimeZone").fetchone() == ("Asia/Kathmandu",)
            assert driver.execute("SHOW statement_timeout").fetchone() == ("1h",)
            driver.rollback()


def test_a_rolled_back_transaction_leaves_nothing_either(engine: Engine) -> None:
    with engine.connect() as connection:
        connection.begin().rollback()
        with connection.begin():
            assert connection.execute(SETTINGS).one() == ("UTC", "300ms", "200ms")


def test_a_statement_that_takes_too_long_is_ended(engine: Engine) -> None:
    with pytest.raises(OperationalError, match="statement timeout"), engine.begin() as connection:
        connection.execute(text("SELECT pg_sleep(30)"))


def test_a_statement_that_waits_too_long_for_a_lock_is_ended(engine: Engine) -> None:
    with engine.begin() as holder, pytest.raises(OperationalError, match="lock timeout"):
        holder.execute(text("SELECT pg_advisory_xact_lock(1)"))
        with engine.begin() as other:
            other.execute(text("SELECT pg_advisory_xact_lock(1)"))


def test_an_error_does_not_repeat_the_parameters(engine: Engine) -> None:
    with pytest.raises(StatementError) as caught, engine.begin() as connection:
        connection.execute(text("SELECT 1 FROM nowhere WHERE name = :name"), {"name": "meet-me-at-midnight"})
    assert "meet-me-at-midnight" not in str(caught.value)


@pytest.mark.parametrize(("setting", "prepared"), [("true", True), ("false", False)])
def test_statements_are_prepared_only_where_they_may_be(
    empty_database: str, setting: str, prepared: bool
) -> None:
    made = db.create(load({"DATABASE_URL": empty_database, "ROOMKEEPER_PREPARED_STATEMENTS": setting}))
    with made.begin() as connection:
        for _ in range(10):
            connection.execute(text("SELECT 'often'"))
        found = connection.scalar(text("SELECT count(*) FROM pg_prepared_statements"))
    made.dispose()
    assert bool(found) is prepared


def test_schemas_are_called_what_the_settings_say(empty_database: str) -> None:
    made = db.create(load({"DATABASE_URL": empty_database, "ROOMKEEPER_SCHEMAS": "openchat=public"}))
    assert made.get_execution_options()["schema_translate_map"] == {"openchat": "public"}


def test_a_connection_that_went_stale_is_replaced(engine: Engine, empty_database: str) -> None:
    with engine.begin() as connection:
        first = connection.scalar(text("SELECT pg_backend_pid()"))
    with psycopg.connect(empty_database, autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(%s)", [first])
    with engine.begin() as connection:
        assert connection.scalar(text("SELECT pg_backend_pid()")) != first


FORK = """
import os
from sqlalchemy import text
from workers.db import get_engine, transaction

def backend():
    with transaction() as connection:
        return connection.scalar(text("SELECT pg_backend_pid()"))

mine, engine = backend(), get_engine()
reader, writer = os.pipe()
child = os.fork()
if child == 0:
    try:
        theirs = backend()
        assert get_engine() is not engine, "the child uses its parent's engine"
        assert theirs != mine, "the child uses its parent's connection"
        assert theirs == backend(), "the child does not keep its connection"
        os.write(writer, b"well")
    finally:
        os._exit(0)
os.close(writer)
assert os.read(reader, 9) == b"well"
os.waitpid(child, 0)
assert backend() == mine, "the child has closed its parent's connection"
assert get_engine() is engine
"""


def test_a_forked_child_gets_an_engine_of_its_own(empty_database: str) -> None:
    with environment({"DATABASE_URL": empty_database}):
        ended = subprocess.run(
            [sys.executable, "-c", FORK], capture_output=True, text=True, timeout=60, check=False
        )
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.usefixtures("two_connections")
def test_what_needs_a_third_connection_fails_with_a_sentence(
    empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(db, "CONNECTION_SECONDS", 0.2)
    with environment({"DATABASE_URL": empty_database}):
        with (
            db.transaction(),
            db.transaction() as connection,
            pytest.raises(
                db.NoConnectionFree, match="a run may take 2, and this one needs another"
            ) as caught,
            db.transaction(),
        ):
            pass  # pragma: no cover
        # Not waited for: the next attempt would need it, too.
        assert kind_of(caught.value) is ErrorKind.BUG
        with db.for_threads(3), db.transaction(), db.transaction(), db.transaction() as connection:
            connection.exec_driver_sql("SELECT")
        with db.transaction(), db.transaction(), pytest.raises(db.NoConnectionFree), db.transaction():
            pass  # pragma: no cover


def test_a_connection_that_is_in_use_when_the_engine_is_forgotten_is_closed_afterwards(
    empty_database: str,
) -> None:
    with environment({"DATABASE_URL": empty_database}):
        with db.transaction() as connection:
            driver: Any = connection.connection.driver_connection
            db.forget_engine()
            assert connection.scalar(text("SELECT 1")) == 1
        assert driver.closed


def test_threads_that_ask_at_once_share_one_engine(
    empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Engine] = []
    second = Event()

    def slow(settings: Settings, connections: int) -> Engine:
        made.append(create(settings, connections=connections))
        if len(made) == 2:
            second.set()
        second.wait(0.2)
        return made[-1]

    monkeypatch.setattr(db, "create", slow)
    with environment({"DATABASE_URL": empty_database}), ThreadPoolExecutor(2) as threads:
        found = [job.result() for job in [threads.submit(db.get_engine) for _ in range(2)]]
    assert found == made * 2


FORK_MEANWHILE = """
import os, signal
from threading import Event, Thread
from workers import db

real, asked = db.create, Event()

def slow(settings, **options):
    asked.set()
    going_on.wait(0.2)
    return real(settings, **options)

db.create, going_on = slow, Event()
thread = Thread(target=db.get_engine)
thread.start()
asked.wait()
child = os.fork()
if child == 0:
    signal.alarm(20)
    db.create = real
    with db.transaction():
        os._exit(7)
thread.join()
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
with db.transaction():
    pass
"""


def test_a_child_that_is_forked_while_the_engine_is_made_gets_its_own(empty_database: str) -> None:
    with environment({"DATABASE_URL": empty_database}):
        ended = subprocess.run(
            [sys.executable, "-c", FORK_MEANWHILE], capture_output=True, text=True, timeout=60, check=False
        )
    assert (ended.returncode, ended.stderr) == (0, "")
