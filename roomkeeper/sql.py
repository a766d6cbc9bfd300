"""Work handed over in SQL, in the caller's own transaction: it is there if what else happened there is.

For every cursor of Python's DB-API whose parameters are written `%s`, as those of psycopg and psycopg2. An
error of the database is the driver's own, and ends the transaction as any other does.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any, Protocol
from uuid import UUID

from roomkeeper import payloads
from roomkeeper.payloads import Status


class Cursor(Protocol):
    """What is needed of a cursor."""

    def execute(self, query: Any, params: Any, /) -> Any:
        """Run a statement with parameters."""

    def fetchone(self) -> Any:
        """Return a row, as a sequence or as a mapping."""


def process_attachment(cursor: Cursor, app: str, attachment_id: UUID | str) -> UUID:
    """Have an attachment identified, scanned, drawn and served, once the transaction is committed.

    Returns:
        the task's id, as in logs, Flower and dead letters.

    Raises:
        InvalidPayload: before the database is asked anything.
    """
    return _enqueued(cursor, payloads.PROCESS_ATTACHMENT, payloads.attachment(app, attachment_id))


def recount_conversation(cursor: Cursor, app: str, conversation_id: UUID | str) -> UUID:
    """Have the counters of a conversation corrected, once the transaction is committed: that in which a
    message is deleted, or a member leaves.

    Returns:
        the task's id, as in logs, Flower and dead letters.

    Raises:
        InvalidPayload: before the database is asked anything.
    """
    payload = payloads.conversation(app, conversation_id)
    return _enqueued(cursor, payloads.RECOUNT_CONVERSATION, payload)


def recompute_room(cursor: Cursor, app: str, room: UUID | str) -> UUID:
    """Have the statistics of a room that has closed computed, once the transaction is committed.

    Args:
        room: its id, or its code.

    Returns:
        the task's id, as in logs, Flower and dead letters.

    Raises:
        InvalidPayload: before the database is asked anything.
    """
    return _enqueued(cursor, payloads.RECOMPUTE_ROOM, payloads.room(app, room))


def record_status(cursor: Cursor, app: str, statuses: Iterable[Status]) -> list[int]:
    """Have statuses of messages merged, once the transaction is committed, however many; none for none.

    Returns:
        a number for logs for each thousand.

    Raises:
        InvalidPayload: before the database is asked anything.
    """
    query = "SELECT roomkeeper.record_status(%s, %s::jsonb)"
    return [int(_value(cursor, query, app, part)) for part in payloads.events(app, statuses)]


def _enqueued(cursor: Cursor, task: str, payload: payloads.Payload) -> UUID:
    return UUID(str(_value(cursor, "SELECT roomkeeper.enqueue(%s, %s::jsonb)", task, payload)))


def _value(cursor: Cursor, query: str, name: str, payload: object) -> Any:
    cursor.execute(query, (name, json.dumps(payload)))
    row = cursor.fetchone()
    return next(iter(row.values() if isinstance(row, Mapping) else row))
