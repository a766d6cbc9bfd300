"""Which objects rows name: originals, pictures, the application's own thumbnails, and pending deletions.

A row names its object whether it is deleted or not, and whether its application is enabled or not.
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Connection,
    Select,
    Subquery,
    Text,
    and_,
    bindparam,
    case,
    cast,
    func,
    literal,
    or_,
    select,
    text,
    union_all,
)

from models.platform import PendingDeletion
from tasks.apps import APPS, enabled
from tasks.apps.columns import names_of, table_of
from tasks.apps.spec import AttachmentTable
from tasks.attachments.draw import NAMES
from tasks.attachments.objects import picture_key
from workers.inspection import Fault, Need, inspect
from workers.settings import Settings, variable
from workers.storage.keys import DERIVED

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


class CanNotAskError(Exception):
    """A table whose rows name objects can not be asked: whatever it names would be taken for an orphan."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__(" ".join(fault.sentence for fault in faults))
        self.faults = faults


def askable(connection: Connection, settings: Settings) -> dict[str, AttachmentTable]:
    """Return the tables of attachments that there are, by application, enabled or not.

    Raises:
        CanNotAskError: one of them is out of sight, wholly or in part.
    """
    on, tables = enabled(settings), _tables()
    asked = {
        name: table for name, table in tables.items() if name in on or _there(connection, table, settings)
    }
    faults = inspect(connection, [_need(table) for table in asked.values()], settings.schemas)
    for name in tables.keys() - asked.keys():
        faults += _elsewhere(connection, name, tables[name], settings)
    if faults:
        raise CanNotAskError(faults)
    return asked


def _tables() -> dict[str, AttachmentTable]:
    return {name: app.attachments for name, app in APPS.items() if app.attachments is not None}


def _need(table: AttachmentTable) -> Need:
    columns = names_of((table.id, table.key, table.provider, table.mirror.small_key))
    return Need(table_of(table.model), frozenset(columns), frozenset({"SELECT"}))


def _real(table: AttachmentTable, settings: Settings) -> str:
    schema = table_of(table.model).schema or ""
    return settings.schemas.get(schema, schema)


def _there(connection: Connection, table: AttachmentTable, settings: Settings) -> bool:
    its = {"schema": _real(table, settings), "name": table_of(table.model).name}
    return bool(connection.scalar(_THERE, its))


def _elsewhere(connection: Connection, name: str, table: AttachmentTable, settings: Settings) -> list[Fault]:
    """Return a fault if an application's table seems to be in a schema that nobody has told us of."""
    known = [_real(other, settings) for other in _tables().values()]
    columns = sorted(column.name for column in table_of(table.model).columns)
    its = {"name": table_of(table.model).name, "known": known, "columns": columns}
    schema = table_of(table.model).schema
    return [
        Fault(
            f"{found}.{its['name']} looks like the table of {name}, whose files it would name.",
            f"If it is, say so: {variable('schemas')}={schema}={found}",
        )
        for found in connection.scalars(_ELSEWHERE, its)
    ]


def normal(key: Any) -> ColumnElement[str]:
    """Return a key as some stores take it: `a//b`, `/a/b`, `a/b/` and `a\\b` are `a/b` to them."""
    odd = or_(key.like("%//%"), key.like("/%"), key.like("%/"), func.strpos(key, "\\") > 0)
    plain = func.regexp_replace(func.btrim(key, "/\\"), r"[/\\]+", "/", "g")
    return case((odd, plain), else_=cast(key, Text))


def named(asked: Mapping[str, AttachmentTable], store: str) -> Subquery:
    """Return all normal keys that rows name in the store, as a table with one column, `key`."""
    found: list[Select[Any]] = []
    for name, table in asked.items():
        its = table.store_name() == store
        found.append(select(normal(table.key).label("key")).where(its))
        found += [select(_picture(name, table.id, each)).where(its) for each in NAMES]
        if (small := table.mirror.small_key) is not None:
            found.append(select(normal(small)).where(its, small.is_not(None)))
    # Retention deletes these itself, and keeps count of them.
    pending = table_of(PendingDeletion).c
    for key in (pending.key, pending.small_key):
        found.append(select(normal(key)).where(pending.store == store, key.is_not(None)))
    for name in asked:
        its = and_(pending.store == store, pending.app == name)
        found += [select(_picture(name, pending.attachment_id, each)).where(its) for each in NAMES]
    return union_all(*found).subquery("named")


def _picture(app: str, row_id: Any, name: str) -> ColumnElement[str]:
    # The key's one definition, with the id left to the database.
    before, after = picture_key(app, "\0", name).split("\0")
    return literal(before) + cast(row_id, Text) + literal(after)


def foreign(key: ColumnElement[str], asked: Mapping[str, AttachmentTable]) -> ColumnElement[bool]:
    """Return the condition on normal keys of pictures whose application is not in this database."""
    ours = or_(*(below(key, app) for app in asked))
    return and_(key.startswith(f"{DERIVED}/", autoescape=True), ~ours)


def below(key: ColumnElement[str], app: str) -> ColumnElement[bool]:
    """Return the condition on normal keys of an application's pictures."""
    return key.startswith(f"{DERIVED}/{app}/", autoescape=True)


def still_named(asked: Mapping[str, AttachmentTable], store: str) -> Select[Any]:
    """Return the query for those of the normal keys in the parameter `keys` that rows name now."""
    names = named(asked, store)
    given = cast(bindparam("keys"), ARRAY(Text))
    return select(names.c.key).where(names.c.key == func.any(given)).distinct()
