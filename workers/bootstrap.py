"""Makes the applications' tables for development and tests. In production their own migrations do."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from psycopg.errors import DuplicateFunction, DuplicateObject, DuplicateTable
from sqlalchemy import Connection, Engine, Table, text
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.schema import CheckFirst, CreateSchema

from models import supabase
from models.base import Base
from workers.errors import OperatorError

#: One for all applications: they may share a schema, and some share Supabase's.
_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended('roomkeeper bootstrap', 0))")
#: The engine's limits suit jobs. Here one waits for another bootstrap to finish, and a table takes its time.
_PATIENCE = text(
    "SELECT set_config('lock_timeout', '60s', true), set_config('statement_timeout', '60s', true)"
)
# Tables in any guise: an application may have partitioned one, or put a view in its place.
_RELATIONS = text("""
    SELECT space.nspname || '.' || class.relname
      FROM pg_catalog.pg_class AS class
      JOIN pg_catalog.pg_namespace AS space ON space.oid = class.relnamespace
     WHERE space.nspname = ANY(:schemas) AND class.relkind IN ('r', 'p', 'f', 'v')
""")
_SCHEMAS = text("SELECT nspname FROM pg_catalog.pg_namespace WHERE nspname = ANY(:schemas)")
_FUNCTION = text("SELECT to_regprocedure(:signature) IS NOT NULL")


class BootstrapError(OperatorError):
    """The database holds something that the bootstrap must not touch. The message says what to do."""


class Application(Protocol):
    """A module of `models` that describes an application's database."""

    __name__: str
    #: The logical names of its schemas.
    SCHEMAS: tuple[str, ...]
    #: SQL to run after the tables; `{schema}` stands for the real name of the logical `schema`, quoted.
    ROUTINES: tuple[str, ...]


@dataclass(frozen=True)
class Outcome:
    """What the bootstrap did for one application."""

    app: str
    #: `schema.table` as really called; empty when all were there.
    created: tuple[str, ...]


def bootstrap(engine: Engine, applications: Sequence[Application]) -> list[Outcome]:
    """Create what is absent of each application: schemas, types, tables, indexes, routines.

    Each application gets a transaction of its own. Schemas are called what `engine` translates them to.
    `auth.users` and `auth.uid()` are made where they are absent and an application refers to them.

    Raises:
        BootstrapError: only some of an application's tables are there, or two of the applications would
            share a table. The applications before it in `applications` stay as they were made.
    """
    renames: Mapping[str, str] = engine.get_execution_options().get("schema_translate_map", {})
    _refuse_clashes(applications, renames)
    outcomes = []
    for application in applications:
        with engine.begin() as connection:
            connection.execute(_PATIENCE)
            connection.execute(_LOCK)
            outcomes.append(_make(connection, application, renames))
    return outcomes


def _make(connection: Connection, application: Application, renames: Mapping[str, str]) -> Outcome:
    app = application.__name__.rpartition(".")[2]
    tables = _tables(application)
    names = {_real(table, renames): table for table in tables}
    missing = sorted(names.keys() - _present(connection, tables, renames))
    if not missing:
        return Outcome(app, ())
    if len(missing) < len(names):
        raise BootstrapError(
            f"{app}: {', '.join(missing)} missing, though the application's other tables are there. "
            "Roomkeeper never alters an application's tables: run the application's own migrations, or "
            "use an empty database."
        )
    if _needs_supabase(application, tables):
        _make_supabase(connection, renames)
    _make_schemas(connection, application.SCHEMAS, renames)
    _make_tables(connection, tables)
    for routine in application.ROUTINES:
        _run(connection, routine, (*application.SCHEMAS, *supabase.SCHEMAS), renames)
    return Outcome(app, tuple(missing))


def _make_supabase(connection: Connection, renames: Mapping[str, str]) -> None:
    # Piece by piece, and none of it when it is there: on Supabase our role may not create in `auth`.
    _make_schemas(connection, supabase.SCHEMAS, renames)
    tables = _tables(supabase)
    if not _present(connection, tables, renames):
        _make_tables(connection, tables)
    (schema,) = supabase.SCHEMAS
    signature = f"{_quote(connection, renames.get(schema, schema))}.uid()"
    if not connection.execute(_FUNCTION, {"signature": signature}).scalar_one():
        for routine in supabase.ROUTINES:
            _run(connection, routine, supabase.SCHEMAS, renames)


def _make_schemas(connection: Connection, schemas: Sequence[str], renames: Mapping[str, str]) -> None:
    # IF NOT EXISTS alone would ask for the right to create schemas even where they are all there.
    real = {renames.get(schema, schema) for schema in schemas}
    present = set(connection.execute(_SCHEMAS, {"schemas": list(real)}).scalars())
    for schema in sorted(real - present):
        connection.execute(CreateSchema(schema, if_not_exists=True))


def _make_tables(connection: Connection, tables: Sequence[Table]) -> None:
    # One by one: `create_all` makes the enum types of every application, whichever tables it is given.
    for table in tables:
        table.create(connection, checkfirst=CheckFirst.TYPES)


def _run(connection: Connection, routine: str, schemas: Sequence[str], renames: Mapping[str, str]) -> None:
    """Run `routine`; a function, trigger, view or policy of that name that is there already is kept."""
    for schema in schemas:
        routine = routine.replace(f"{{{schema}}}", _quote(connection, renames.get(schema, schema)))
    try:
        with connection.begin_nested():
            connection.exec_driver_sql(routine)
    except ProgrammingError as error:
        if not isinstance(error.orig, DuplicateFunction | DuplicateTable | DuplicateObject):
            raise


def _present(connection: Connection, tables: Sequence[Table], renames: Mapping[str, str]) -> set[str]:
    names = {_real(table, renames) for table in tables}
    schemas = list({renames.get(str(table.schema), str(table.schema)) for table in tables})
    return names & set(connection.execute(_RELATIONS, {"schemas": schemas}).scalars())


def _refuse_clashes(applications: Sequence[Application], renames: Mapping[str, str]) -> None:
    count = Counter(_real(table, renames) for each in applications for table in _tables(each))
    shared = sorted(name for name, times in count.items() if times > 1)
    if shared:
        raise BootstrapError(
            f"{', '.join(shared)} would belong to more than one application. "
            "Give the applications different schemas in ROOMKEEPER_SCHEMAS."
        )


def _needs_supabase(application: Application, tables: Sequence[Table]) -> bool:
    return any(
        key.column.table.schema in supabase.SCHEMAS for table in tables for key in table.foreign_keys
    ) or any(f"{{{schema}}}" in routine for schema in supabase.SCHEMAS for routine in application.ROUTINES)


def _tables(application: Application) -> list[Table]:
    return [table for table in Base.metadata.sorted_tables if table.schema in application.SCHEMAS]


def _real(table: Table, renames: Mapping[str, str]) -> str:
    schema = str(table.schema)
    return f"{renames.get(schema, schema)}.{table.name}"


def _quote(connection: Connection, name: str) -> str:
    return connection.dialect.identifier_preparer.quote_identifier(name)
