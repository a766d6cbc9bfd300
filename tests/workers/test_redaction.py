"""No text of an error that is stored or logged repeats what is in a row."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from tests.platform import environment
from workers import dead_letters, job_history, telemetry
from workers.db import create, transaction
from workers.redaction import without_values
from workers.settings import load

SECRET = "meet-me@midnight"
#: A value may look like the end of a detail.
LINES = f"{SECRET}\nDETAIL:  \n{SECRET}"
TABLE = """
    CREATE TABLE parent (id int PRIMARY KEY);
    CREATE TABLE t (id int PRIMARY KEY, email text UNIQUE, name text NOT NULL CHECK (name <> 'x' || email),
                    parent int REFERENCES parent, place int4range,
                    EXCLUDE USING gist (place WITH &&));
    INSERT INTO t VALUES (1, %(value)s, 'a', NULL, '[1,9]')
"""
VIOLATIONS = {
    "unique": "INSERT INTO t VALUES (2, %(value)s, 'b')",
    "not null": "INSERT INTO t VALUES (3, %(value)s || '3', NULL)",
    "check": "INSERT INTO t VALUES (4, %(value)s || '4', 'x' || %(value)s || '4')",
    "foreign key": "INSERT INTO t VALUES (5, %(value)s || '5', 'c', 7)",
    "exclusion": "INSERT INTO t VALUES (6, %(value)s || '6', 'd', NULL, '[2,3]')",
    "uuid": "SELECT CAST(CAST(%(value)s AS text) AS uuid)",
    "integer": "SELECT CAST(CAST(%(value)s AS text) AS int)",
    "date": "SELECT CAST('2026-99-99' || CAST(%(value)s AS text) AS date)",
    "json": "SELECT CAST('{' || CAST(%(value)s AS text) AS json)",
}


@pytest.fixture
def engine(empty_database: str) -> Iterator[Engine]:
    made = create(load({"DATABASE_URL": empty_database}))
    yield made
    made.dispose()


def violate(engine: Engine, statement: str, value: str) -> DBAPIError:
    with engine.begin() as connection:
        for part in TABLE.split(";"):
            connection.exec_driver_sql(part, {"value": value})
    with pytest.raises(DBAPIError) as caught, engine.begin() as connection:
        connection.exec_driver_sql(statement, {"value": value})
    return caught.value


@pytest.mark.parametrize("value", [SECRET, LINES], ids=["a line", "lines"])
@pytest.mark.parametrize("name", VIOLATIONS)
def test_no_text_repeats_a_value(engine: Engine, name: str, value: str) -> None:
    error = violate(engine, VIOLATIONS[name], value)
    texts = [str(error), repr(error), str(error.orig), repr(error.orig), dead_letters.reason(error)]
    for text in map(without_values, texts):
        assert SECRET not in text
        assert "Error" in text or len(text) > 10


@pytest.mark.parametrize("name", VIOLATIONS)
def test_no_log_line_repeats_a_value(engine: Engine, name: str) -> None:
    error = violate(engine, VIOLATIONS[name], LINES)
    root, before, config = logging.getLogger(), logging.getLogger().handlers, structlog.get_config()
    written = io.StringIO()
    try:
        telemetry.setup("json")
        handler = root.handlers[0]
        assert isinstance(handler, logging.StreamHandler)
        handler.setStream(written)
        logging.getLogger("celery").error("Task raised unexpected: %r", error, exc_info=error)
        structlog.get_logger("ours").error("failed", error=str(error), exc_info=error)
    finally:
        root.handlers = before
        structlog.configure(**config)
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    assert len(lines) == 2
    assert SECRET not in written.getvalue()
    assert all("Traceback" in line["exception"] for line in lines)


def test_the_job_history_repeats_no_value(database: str) -> None:
    with environment({"DATABASE_URL": database}):
        with pytest.raises(DBAPIError), job_history.run("a.job"), transaction() as connection:
            insert = """
                INSERT INTO openchat."user" (name, email, email_verified)
                VALUES (%(value)s, %(value)s, true)
            """
            for _ in range(2):
                connection.exec_driver_sql(insert, {"value": LINES})
        with transaction() as connection:
            ((error,),) = connection.exec_driver_sql("SELECT error FROM roomkeeper.job_runs").all()
    assert SECRET not in error
    assert "user_email_unique" in error or "unique constraint" in error
