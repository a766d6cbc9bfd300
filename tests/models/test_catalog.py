"""A bootstrapped database is the catalogue of the applications' tables, entry by entry."""

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, text

from models import audiorooms, connect, echoroom, openchat, pern
from models.base import Base
from workers.bootstrap import bootstrap
from workers.db import create
from workers.settings import load

APPS = (echoroom, openchat, connect, pern, audiorooms)
CATALOGUE: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parent.parent / "data" / "catalog.json").read_text()
)

COLUMNS = text("""
    SELECT attrelid::regclass::text AS entry, attname AS name, format_type(atttypid, atttypmod) AS type,
           attnotnull AS required, pg_get_expr(adbin, adrelid) AS fallback
      FROM pg_attribute
      JOIN pg_class ON pg_class.oid = attrelid AND relkind IN ('r', 'v')
      LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
     WHERE relnamespace = ANY(CAST(:schemas AS regnamespace[])) AND attnum > 0
""")
# NOT NULL is a column's property in the catalogue; PostgreSQL 18 lists it as a constraint as well.
CONSTRAINTS = text("""
    SELECT conrelid::regclass::text AS entry, pg_get_constraintdef(oid) AS definition
      FROM pg_constraint
     WHERE connamespace = ANY(CAST(:schemas AS regnamespace[])) AND contype <> 'n'
""")
INDEXES = text("""
    SELECT indrelid::regclass::text AS entry, pg_get_indexdef(indexrelid) AS definition
      FROM pg_index JOIN pg_class ON pg_class.oid = indrelid
     WHERE relnamespace = ANY(CAST(:schemas AS regnamespace[]))
""")


def read(connection: Connection) -> dict[str, dict[str, Any]]:
    """Return the database's catalogue in the form of the stored one."""
    schemas = {"schemas": [schema for app in APPS for schema in app.SCHEMAS]}
    entries: dict[str, dict[str, Any]] = defaultdict(
        lambda: {"columns": {}, "constraints": [], "indexes": []}
    )
    for row in connection.execute(COLUMNS, schemas):
        entries[row.entry.replace('"', "")]["columns"][row.name] = [row.type, row.required, row.fallback]
    for part, query in (("constraints", CONSTRAINTS), ("indexes", INDEXES)):
        for row in connection.execute(query, schemas):
            entries[row.entry.replace('"', "")][part].append(row.definition)
    return entries


def lines(entry: dict[str, Any]) -> set[str]:
    """Return an entry as lines that can be compared and read."""
    columns = {f"column {name} {json.dumps(facts)}" for name, facts in entry.get("columns", {}).items()}
    return columns.union(entry.get("constraints", ()), entry.get("indexes", ()))


@pytest.fixture
def engine(empty_database: str) -> Iterator[Engine]:
    engine = create(load({"DATABASE_URL": empty_database}))
    yield engine
    engine.dispose()


def test_bootstrapped_database_is_the_catalogue(engine: Engine) -> None:
    bootstrap(engine, APPS)
    with engine.begin() as connection:
        database = read(connection)

    differences = []
    for name in sorted(CATALOGUE.keys() | database.keys()):
        wanted, real = lines(CATALOGUE.get(name, {})), lines(database.get(name, {}))
        differences += [f"{name}: only in the catalogue: {line}" for line in sorted(wanted - real)]
        differences += [f"{name}: only in the database: {line}" for line in sorted(real - wanted)]
    assert len(CATALOGUE) == 40
    assert not differences, "\n" + "\n".join(differences)


def test_no_table_is_mapped_that_the_catalogue_lacks() -> None:
    mapped = {
        f"{table.schema}.{table.name}"
        for table in Base.metadata.tables.values()
        if table.schema not in ("auth", "roomkeeper")
    }
    views = {"audiorooms.active_rooms_view", "audiorooms.room_statistics_view"}
    assert mapped == CATALOGUE.keys() - views
