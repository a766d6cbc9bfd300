"""What an application's own API sees of its attachments, in the columns that its definition names.

Unscanned means unserved: the URLs are taken away when work begins, and come with a clean verdict only.
"""

import json
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Update, bindparam, func, select, update

from tasks.attachments.objects import ObjectUrls
from tasks.policies.attachment import AttachmentTable
from tasks.policies.columns import Column, table_of


@dataclass(frozen=True, slots=True, kw_only=True)
class AppView:
    """The outcome as the application sees it.

    `scanned` is whether a scanner has looked into the file; `rewritten` the size and SHA-256 of an original
    that was stripped.
    """

    served: bool
    scanned: bool
    verdict: str | None
    error: str | None = None
    details: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    media_type: str | None = None
    rewritten: tuple[int, str] | None = None
    url: str | None = None
    small_url: str | None = None
    large_url: str | None = None
    small_key: str | None = None


def working(connection: Connection, table: AttachmentTable, row_id: UUID) -> None:
    """Say that the file is being worked on; take its URLs away until the verdict."""
    to = table.app_columns
    _write(connection, table, row_id, [(to.status, "processing"), *_unjudged(table)])


def waiting(connection: Connection, table: AttachmentTable, row_id: UUID, error: str) -> None:
    """Say that the file waits, and for what."""
    to = table.app_columns
    _write(connection, table, row_id, [(to.status, "pending"), (to.error, error), *_unjudged(table)])


def failed(connection: Connection, table: AttachmentTable, row_id: UUID, error: str) -> None:
    """Say that the file will not be served, though nothing is known of it."""
    to = table.app_columns
    _write(connection, table, row_id, [(to.status, "failed"), (to.error, error), *_unserved(table)])


def finished(connection: Connection, table: AttachmentTable, row_id: UUID, seen: AppView) -> bool:
    """Write the outcome. Return whether the row is still there, and not deleted meanwhile."""
    to = table.app_columns
    values: list[tuple[Column | None, Any]] = [
        (to.status, "completed" if seen.served else "failed"),
        (to.error, seen.error),
        (to.scanned, seen.scanned),
        (to.verdict, seen.verdict),
        (to.details, json.dumps(seen.details)),
        *_unserved(table),
    ]
    if to.metadata is not None and seen.metadata:
        # Locked, so that what another writes into the same JSON meanwhile is not lost.
        locked = select(to.metadata).where(table.id == row_id, table.live).with_for_update()
        row = connection.execute(locked).one_or_none()
        if row is None:
            return False
        values.append((to.metadata, merged(row[0], seen.metadata)))
    if seen.media_type is not None:
        values.append((to.media_type, seen.media_type))
    if seen.rewritten is not None:
        values += list(zip((table.size, table.sha256), seen.rewritten, strict=True))
    if seen.served:
        values += [
            (to.url, seen.url),
            (to.small_url, seen.small_url),
            (to.large_url, seen.large_url),
            (to.small_key, seen.small_key),
        ]
    return _write(connection, table, row_id, values, live=True)


def renew_urls(connection: Connection, table: AttachmentTable, row_id: UUID, fresh: ObjectUrls) -> None:
    """Write new URLs of a served file, if it is still there."""
    to = table.app_columns
    columns = {"small": to.small_url, "large": to.large_url}
    values: list[tuple[Column | None, Any]] = [(to.url, fresh.original)]
    values += [(columns[name], url) for name, url in fresh.pictures.items()]
    _write(connection, table, row_id, values, live=True)


def merged(text: str | None, added: dict[str, Any]) -> str:
    """Return the JSON text with our keys set, those that are None removed, and all others kept.

    The column may hold NULL, nothing, or what is no JSON object; that is kept under `unparsed`.
    """
    present = {name: value for name, value in added.items() if value is not None}
    if not text or not text.strip():
        return json.dumps(present)
    try:
        existing = json.loads(text)
    except (ValueError, RecursionError):
        existing = None
    if not isinstance(existing, dict):
        existing = {"unparsed": text}
    return json.dumps({name: value for name, value in existing.items() if name not in added} | present)


def _unserved(table: AttachmentTable) -> list[tuple[Column | None, Any]]:
    to = table.app_columns
    return [(column, None) for column in (to.url, to.small_url, to.large_url, to.small_key)]


def _unjudged(table: AttachmentTable) -> list[tuple[Column | None, Any]]:
    # A verdict that was reached before says nothing while another is awaited.
    to = table.app_columns
    return [(to.scanned, False), (to.verdict, None), *_unserved(table)]


def _write(
    connection: Connection,
    table: AttachmentTable,
    row_id: UUID,
    values: list[tuple[Column | None, Any]],
    *,
    live: bool = False,
) -> bool:
    """Write, if the row is there, and `live` if that is asked for. Return whether it was."""
    # A later entry wins: the URLs of a served file come after their removal.
    wanted = {column.property.columns[0].key: value for column, value in values if column is not None}
    statement = _update(table, live=live)
    return connection.execute(statement, {"its_id": row_id} | wanted).rowcount == 1


@cache
def _update(table: AttachmentTable, *, live: bool) -> Update:
    """Return the statement for one row; which columns it writes is said by the parameters."""
    statement = update(table_of(table.model)).where(table.id == bindparam("its_id"))
    if live:
        statement = statement.where(table.live)
    updated_at = table.app_columns.updated_at
    return statement if updated_at is None else statement.values({updated_at: func.now()})
