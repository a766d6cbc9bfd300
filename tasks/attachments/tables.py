"""Which tables of attachments this database has, whose rows name objects.

A row names its object whether its application is enabled or not. Before an object is deleted because no row
names it, all these tables must be readable.
"""

from sqlalchemy import Connection, text

from tasks.apps import APPS, enabled
from tasks.policies.attachment import AttachmentTable
from tasks.policies.columns import names_of, table_of
from workers.inspection import Fault, Need, inspect
from workers.settings import Settings, variable

#: Where tables of a name are, and how many of some columns they have.
_ELSEWHERE = text("""
    SELECT space.nspname
      FROM pg_catalog.pg_class AS class
      JOIN pg_catalog.pg_namespace AS space ON space.oid = class.relnamespace
     WHERE class.relname = :name AND class.relkind IN ('r', 'p', 'f', 'v')
       AND NOT space.nspname = ANY(CAST(:known AS text[]))
       AND (SELECT count(*) FROM pg_catalog.pg_attribute AS attribute
             WHERE attribute.attrelid = class.oid AND attribute.attname = ANY(CAST(:columns AS text[])))
           = cardinality(CAST(:columns AS text[]))
""")
_THERE = text("""
    SELECT EXISTS (
        SELECT FROM pg_catalog.pg_class AS class
          JOIN pg_catalog.pg_namespace AS space ON space.oid = class.relnamespace
         WHERE space.nspname = :schema AND class.relname = :name)
""")


class CannotAskError(Exception):
    """A table whose rows name objects cannot be read: whatever it names would be taken for unused."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__(" ".join(fault.sentence for fault in faults))
        self.faults = faults


def askable(connection: Connection, settings: Settings) -> dict[str, AttachmentTable]:
    """Return the tables of attachments that there are, by application, enabled or not.

    Raises:
        CannotAskError: one of them is out of sight, wholly or in part.
    """
    on, tables = enabled(settings), _tables()
    asked = {
        name: table for name, table in tables.items() if name in on or _there(connection, table, settings)
    }
    faults = inspect(connection, [_need(table) for table in asked.values()], settings.schemas)
    for name in tables.keys() - asked.keys():
        faults += _elsewhere(connection, name, tables[name], settings)
    if faults:
        raise CannotAskError(faults)
    return asked


def _tables() -> dict[str, AttachmentTable]:
    return {name: app.attachments for name, app in APPS.items() if app.attachments is not None}


def _need(table: AttachmentTable) -> Need:
    columns = names_of((table.id, table.key, table.provider, table.app_columns.small_key))
    return Need(table_of(table.model), frozenset(columns), frozenset({"SELECT"}))


def _real(table: AttachmentTable, settings: Settings) -> str:
    schema = table_of(table.model).schema or ""
    return settings.schemas.get(schema, schema)


def _there(connection: Connection, table: AttachmentTable, settings: Settings) -> bool:
    parameters = {"schema": _real(table, settings), "name": table_of(table.model).name}
    return bool(connection.scalar(_THERE, parameters))


def _elsewhere(connection: Connection, name: str, table: AttachmentTable, settings: Settings) -> list[Fault]:
    """Return a fault if an application's table seems to be in a schema that is not configured."""
    known = [_real(other, settings) for other in _tables().values()]
    columns = sorted(column.name for column in table_of(table.model).columns)
    parameters = {"name": table_of(table.model).name, "known": known, "columns": columns}
    schema = table_of(table.model).schema
    return [
        Fault(
            f"{found}.{parameters['name']} looks like the table of {name}, whose files it would name.",
            f"If it is, say so: {variable('schemas')}={schema}={found}",
        )
        for found in connection.scalars(_ELSEWHERE, parameters)
    ]
