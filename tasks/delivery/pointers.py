"""Merge events where no row is kept for each reader, but read pointers, counts and times (`openchat`).

In any order, any number of times and in any portions, the same events end in the same rows.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, text

from tasks.delivery import pointer_statements as statements
from tasks.delivery.events import Event, Pair, fold
from tasks.policies.status import ReadPointers

_ORDER = ("sent", "failed", "delivered", "read")
#: A transaction locks so many conversations one by one, and for more than these all there are, with one lock.
#: The server's table of locks is one for all programs, and has room for about 64 of each connection.
MOST_LOCKS = 50
_ALL = "hashtextextended('roomkeeper:delivery', 0)"
_LOCK_ALL = text(f"SELECT pg_advisory_xact_lock({_ALL})")
_LOCK_SOME = text(f"SELECT pg_advisory_xact_lock_shared({_ALL})")
_LOCK = text(
    "SELECT pg_advisory_xact_lock(hashtextextended('roomkeeper:delivery:' || conversation, 0))"
    " FROM unnest(CAST(:conversations AS uuid[])) AS conversation"
)


def merge(connection: Connection, table: ReadPointers, events: Sequence[Event]) -> set[Pair]:
    """Merge the events in the caller's transaction, which has to be READ COMMITTED.

    That a message was sent, or failed to be, is for its application to say: such events change nothing.

    The outcome is independent of the order wherever each message at or before a pointer, but the reader's
    own, was delivered no later than the reader's `last_read_at`; and that is how this leaves them.

    Returns:
        the pairs of message and person that cannot be recorded yet: the message is not there, or the person
        is no participant of its conversation.
    """
    known = {pair: entry for pair, entry in fold(events, _ORDER).items() if entry.delivered_at}
    if not known:
        return set()
    messages, users = zip(*known, strict=True)
    found = connection.execute(
        statements.found(table), {"message": list(messages), "user": list(users)}
    ).all()
    missing = known.keys() - {(row.message, row.user) for row in found}
    if not found:
        return missing

    lock_conversations(connection, {row.conversation for row in found})
    # From here on each statement sees all that those before us have done to these conversations.
    entries = [known[row.message, row.user] for row in found]
    values = {
        "message": [row.message for row in found],
        "participant": [row.participant for row in found],
        "reached_at": [_naive(entry.delivered_at) for entry in entries],
        "read_at": [_naive(entry.read_at) for entry in entries],
        "last_read_at": [_naive(entry.last_read_at) for entry in entries],
    }
    readers = [row.participant for row, entry in zip(found, entries, strict=True) if entry.read_at]
    if readers:
        connection.execute(statements.readers_locked(table), {"participant": readers})
    connection.execute(statements.messages_changed(table), values)
    if readers:
        # Last: what is newly passed is told from where the pointers stood.
        connection.execute(statements.pointers_moved(table), values)
    return missing


def lock_conversations(connection: Connection, ids: Iterable[UUID]) -> None:
    """Keep all other workers from merging into these conversations, or recounting them, until the transaction
    ends. Once in a transaction, for all that it will touch: locks are taken in the order of the ids.
    """
    wanted = sorted(ids)
    if len(wanted) > MOST_LOCKS:
        connection.execute(_LOCK_ALL)
        return
    # First, by itself: a transaction that held a conversation and waited for this one could never get it.
    connection.execute(_LOCK_SOME)
    # The database takes an array's elements from the front.
    connection.execute(_LOCK, {"conversations": wanted})


def _naive(at: datetime | None) -> datetime | None:
    """Return the time as the application keeps it. Events are in UTC."""
    return at and at.replace(tzinfo=None)
