"""No error of the database repeats what is in a row, whatever is made of it."""

import ast
import pickle
import traceback
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from tasks.retention.archive import copy_in
from tests.platform import environment
from workers import dead_letters, job_history
from workers.db import create, transaction
from workers.settings import load

ROOT = Path(__file__).parents[2]
SECRET = "meet-me@midnight"
#: A value may have lines of its own.
LINES = f"{SECRET}\nDETAIL:  \n{SECRET}"
TABLE = """
    CREATE TABLE parent (id int PRIMARY KEY);
    CREATE TABLE t (id int PRIMARY KEY, email text UNIQUE, name text NOT NULL CHECK (name <> 'x' || email),
                    parent int REFERENCES parent DEFERRABLE INITIALLY DEFERRED, place int4range,
                    EXCLUDE USING gist (place WITH &&));
    CREATE TABLE short (id int, name varchar(5));
    INSERT INTO t VALUES (1, %(value)s, 'a', NULL, '[1,9]')
"""
#: Raises with any SQLSTATE what it is handed.
RAISE = """
    CREATE FUNCTION refuse(what text, state text) RETURNS int LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'not %%', what USING ERRCODE = state, DETAIL = what, HINT = what; END $$
"""
VIOLATIONS = {
    "unique": "INSERT INTO t VALUES (2, %(value)s, 'b')",
    "not null": "INSERT INTO t VALUES (3, %(value)s || '3', NULL)",
    "check": "INSERT INTO t VALUES (4, %(value)s || '4', 'x' || %(value)s || '4')",
    "foreign key, at commit": "INSERT INTO t VALUES (5, %(value)s || '5', 'c', 7)",
    "exclusion": "INSERT INTO t VALUES (6, %(value)s || '6', 'd', NULL, '[2,3]')",
    "uuid": "SELECT CAST(CAST(%(value)s AS text) AS uuid)",
    "integer": "SELECT CAST(CAST(%(value)s AS text) AS int)",
    "array": "SELECT CAST(CAST(%(value)s AS text) AS int[])",
    "date": "SELECT CAST('2026-99-99' || CAST(%(value)s AS text) AS date)",
    "zone": "SELECT now() AT TIME ZONE CAST(%(value)s AS text)",
    "json": "SELECT CAST('{' || CAST(%(value)s AS text) AS json)",
    "type in json": "SELECT * FROM json_to_record(json_build_object('a', CAST(%(value)s AS text))) x(a int)",
    "number in json": "SELECT jsonb_path_query(to_jsonb(CAST(%(value)s AS text)), '$.double()')",
    "raised": "SELECT refuse(%(value)s, 'P0001')",
    "raised as another": "SELECT refuse(%(value)s, '23505')",
    "raised as one of its own": "SELECT refuse(%(value)s, 'ZZ001')",
    "asserted": "DO $$ BEGIN ASSERT false, (SELECT 'not ' || email FROM t); END $$",
    "read by the driver": "SELECT CAST('infinity' AS timestamptz), CAST(%(value)s AS text)",
    "from within a function": (
        "DO $$ BEGIN EXECUTE format('SELECT CAST(%%L AS uuid)', (SELECT email FROM t)); END $$"
    ),
}


@pytest.fixture
def engine(empty_database: str) -> Iterator[Engine]:
    made = create(load({"DATABASE_URL": empty_database}))
    yield made
    made.dispose()


def prepare(engine: Engine, value: str) -> None:
    with engine.begin() as connection:
        for part in [*TABLE.split(";\n"), RAISE]:
            connection.exec_driver_sql(part, {"value": value})


def all_texts(error: DBAPIError) -> str:
    """Return whatever logs, events, tables and other processes may get of an error."""
    copied = pickle.loads(pickle.dumps(error))
    each = [error, error.orig, copied, copied.orig]
    written = [
        *map(str, each),
        *map(repr, each),
        *traceback.format_exception(error),
        dead_letters.reason(error),
    ]
    return "\n".join(written)


@pytest.mark.parametrize("value", [SECRET, LINES], ids=["a line", "lines"])
@pytest.mark.parametrize("name", VIOLATIONS)
def test_no_text_repeats_a_value(engine: Engine, name: str, value: str) -> None:
    prepare(engine, value)
    with pytest.raises(DBAPIError) as caught, engine.begin() as connection:
        result = connection.exec_driver_sql(VIOLATIONS[name], {"value": value})
        # Some are raised as rows are read, and one at the commit.
        _ = result.returns_rows and result.all()
    text = all_texts(caught.value)
    assert SECRET not in text
    assert type(caught.value.orig).__name__ in text
    assert len(str(caught.value.orig)) > 5


@pytest.mark.parametrize("value", [SECRET, LINES], ids=["a line", "lines"])
@pytest.mark.parametrize("table", ["t (id, email)", "short (id, name)", "t (email, id)"])
def test_nor_does_that_of_a_copy(engine: Engine, table: str, value: str) -> None:
    prepare(engine, value)
    rows = pa.table([pa.array(["1"]), pa.array([value])], names=["a", "b"])
    with pytest.raises(DBAPIError) as caught, engine.begin() as connection:
        copy_in(connection, table, rows)
    assert SECRET not in all_texts(caught.value)


def test_names_stay_and_the_place_of_what_a_function_raises(engine: Engine) -> None:
    prepare(engine, SECRET)
    messages = {}
    for name in ("unique", "uuid", "raised"):
        with pytest.raises(DBAPIError) as caught, engine.begin() as connection:
            connection.exec_driver_sql(VIOLATIONS[name], {"value": SECRET}).all()
        messages[name] = str(caught.value.orig)
    assert messages == {
        "unique": 'duplicate key value violates unique constraint "t_email_key"',
        "uuid": "invalid input syntax for type uuid: …",
        "raised": "raised by PL/pgSQL function refuse(text,text) line 1 at RAISE",
    }


def test_what_our_own_functions_say_stays(database: str) -> None:
    engine = create(load({"DATABASE_URL": database}))
    with pytest.raises(DBAPIError) as caught, engine.begin() as connection:
        connection.exec_driver_sql("SELECT roomkeeper.enqueue('no.such', '{}')")
    engine.dispose()
    assert str(caught.value.orig).startswith("task: ")


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


#: Ways to the database around the engine of `workers.db`, or to what it takes out of errors.
AROUND = {
    "create_engine",
    "engine_from_config",
    "driver_connection",
    "dbapi_connection",
    "message_detail",
    "message_primary",
    "context",
}
KNOWN = {
    # The engine itself, and what takes the values out.
    "workers/db.py": {"create_engine"},
    "workers/redaction.py": {"message_primary", "context"},
    # COPY; its errors are redacted there.
    "tasks/retention/archive.py": {"driver_connection"},
    # Reads the number of the server's process.
    "commands/check_pooler.py": {"dbapi_connection"},
}


def test_every_error_of_the_database_comes_by_the_engine() -> None:
    found: dict[str, set[str]] = {}
    for folder in ("commands", "migrations", "tasks", "workers"):
        for path in (ROOT / folder).rglob("*.py"):
            used = set()
            for node in ast.walk(ast.parse(path.read_text())):
                match node:
                    case ast.Attribute(attr=name) | ast.Name(id=name) if name in AROUND:
                        of_diagnostics = ast.unparse(node).startswith(("diag", "error.diag"))
                        if name != "context" or of_diagnostics:
                            used.add(name)
                    case ast.Attribute(value=ast.Name(id="psycopg"), attr="connect"):
                        used.add("psycopg.connect")
            if used:
                found[str(path.relative_to(ROOT))] = used
    assert found == KNOWN
