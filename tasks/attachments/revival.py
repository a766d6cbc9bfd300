"""A file that has failed or is not served is enqueued again: it is looked at again if its object is another.

A service enqueues a file again when its upload is complete, or was repeated. The message says nothing of
that, and may just as well be a duplicate; the store tells. What is served, or being worked on, is left alone.
"""

from functools import cache
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, Select, bindparam, func, select, update

from models.platform import AttachmentJob as Job
from tasks.attachments import attachment_work, history
from tasks.policies.attachment import AttachmentTable
from workers.db import transaction
from workers.settings import Settings
from workers.storage import StoreError, UnknownProvider, store_for

#: Reasons of failure that no object was judged for: there was none, or another each time.
UNSEEN = ("object_missing", "object_changed")


def candidate(connection: Connection, app: str, table: AttachmentTable, row_id: UUID) -> Row[Any] | None:
    """Return what is known of a file that could not be claimed; None if no other object would matter."""
    row = connection.execute(_described(table), {"app": app, "row_id": row_id}).one_or_none()
    if row is None or not _unserved(row) or row.override == "quarantine":
        return None
    return row


def revive(app: str, table: AttachmentTable, row_id: UUID, row: Row[Any], settings: Settings) -> bool:
    """Have a `candidate` looked at again if its object has appeared or changed; return whether it is."""
    try:
        found = store_for(row.provider, settings).fingerprint(row.key)
    except UnknownProvider:
        return False
    except (StoreError, OSError):
        # The message is the only one that says so. The pipeline waits for the store.
        found = "unknown"
    if found is None or found == row.judged_object:
        return False
    why = "the object has changed" if row.judged_object else "the object is there"
    with transaction() as connection:
        same = (Job.app == app) & (Job.attachment_id == row_id) & (Job.attempt == row.attempt)
        still = select(Job.attempt).where(same, Job.state == row.state).with_for_update()
        if connection.execute(still).one_or_none() is None:
            return False
        if row.state == "waiting":
            connection.execute(update(Job).where(same).values(not_before=func.now()))
        else:
            attachment_work.reopen(connection, app, table, row_id, f"enqueued again: {why}")
        history.note(connection, app, row_id, "enqueued_again", attempt=row.attempt, why=why)
    return True


@cache
def _described(table: AttachmentTable) -> Select[Any]:
    """Return the query, made once: a duplicate of a served file costs no more than this."""
    return (
        select(
            *(Job.state, Job.outcome, Job.reason, Job.attempt, Job.override, Job.judged_object),
            table.key.label("key"),
            table.store_name().label("provider"),
        )
        .join(table.model, table.id == Job.attachment_id)
        .where(Job.app == bindparam("app"), Job.attachment_id == bindparam("row_id"), table.live)
    )


def _unserved(row: Row[Any]) -> bool:
    if row.state == "waiting":
        return bool(row.reason == "object_missing")
    return row.state == "failed" or row.outcome in ("refused", "quarantined")
