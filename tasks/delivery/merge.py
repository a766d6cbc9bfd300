"""Merges events into the tables of an application, in the way that its definition says."""

from collections.abc import Sequence

from sqlalchemy import Connection

from tasks.delivery import pointers, read_receipts, rows
from tasks.delivery.events import Event, Pair
from tasks.policies.status import ReadMarks, ReadPointers, StatusRows

Statuses = StatusRows | ReadMarks | ReadPointers


def merge(connection: Connection, table: Statuses, events: Sequence[Event]) -> set[Pair]:
    """Merge the events in the caller's transaction; any order, repetition and batching ends in the same rows.

    Once in a transaction and table, for locks are taken in order. Return the pairs of message and person that
    cannot be recorded yet: one of the two is not there.

    Raises:
        IntegrityError: a message or a person went away in this very moment. Roll back, and do it again.
    """
    match table:
        case StatusRows():
            return rows.merge(connection, table, events)
        case ReadMarks():
            return read_receipts.merge(connection, table, events)
        case ReadPointers():
            return pointers.merge(connection, table, events)
