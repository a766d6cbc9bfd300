"""Which objects rows name: originals, pictures, the application's own thumbnails, and pending deletions.

A row names its object whether it is deleted or not, and whether its application is enabled or not.
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import (
    ARRAY,
    ColumnElement,
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
    union_all,
)

from models.platform import PendingDeletion
from tasks.attachments.objects import PICTURE_NAMES, picture_key
from tasks.policies.attachment import AttachmentTable
from tasks.policies.columns import table_of
from workers.storage.keys import DERIVED


def normal(key: Any) -> ColumnElement[str]:
    """Return a key as some stores take it: `a//b`, `/a/b`, `a/b/` and `a\\b` are `a/b` to them."""
    odd = or_(key.like("%//%"), key.like("/%"), key.like("%/"), func.strpos(key, "\\") > 0)
    plain = func.regexp_replace(func.btrim(key, "/\\"), r"[/\\]+", "/", "g")
    return case((odd, plain), else_=cast(key, Text))


def named(asked: Mapping[str, AttachmentTable], store: str) -> Subquery:
    """Return all normal keys that rows name in the store, as a table with one column, `key`."""
    found: list[Select[Any]] = []
    for name, table in asked.items():
        in_store = table.store_name() == store
        found.append(select(normal(table.key).label("key")).where(in_store))
        found += [select(_picture(name, table.id, each)).where(in_store) for each in PICTURE_NAMES]
        if (small := table.app_columns.small_key) is not None:
            found.append(select(normal(small)).where(in_store, small.is_not(None)))
    # Retention deletes these itself, and keeps count of them.
    pending = table_of(PendingDeletion).c
    for key in (pending.key, pending.small_key):
        found.append(select(normal(key)).where(pending.store == store, key.is_not(None)))
    for name in asked:
        to_delete = and_(pending.store == store, pending.app == name)
        found += [
            select(_picture(name, pending.attachment_id, each)).where(to_delete) for each in PICTURE_NAMES
        ]
    return union_all(*found).subquery("named")


def _picture(app: str, row_id: Any, name: str) -> ColumnElement[str]:
    # The key's one definition, with the id left to the database.
    before, after = picture_key(app, "\0", name).split("\0")
    return literal(before) + cast(row_id, Text) + literal(after)


def foreign(key: ColumnElement[str], asked: Mapping[str, AttachmentTable]) -> ColumnElement[bool]:
    """Return the condition on normal keys of pictures whose application is not in this database."""
    known = or_(*(below(key, app) for app in asked))
    return and_(key.startswith(f"{DERIVED}/", autoescape=True), ~known)


def below(key: ColumnElement[str], app: str) -> ColumnElement[bool]:
    """Return the condition on normal keys of an application's pictures."""
    return key.startswith(f"{DERIVED}/{app}/", autoescape=True)


def still_named(asked: Mapping[str, AttachmentTable], store: str) -> Select[Any]:
    """Return the query for those of the normal keys in the parameter `keys` that rows name now."""
    names = named(asked, store)
    given = cast(bindparam("keys"), ARRAY(Text))
    return select(names.c.key).where(names.c.key == func.any(given)).distinct()
