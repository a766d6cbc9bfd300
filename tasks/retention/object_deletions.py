"""`retention.delete_objects`: the recovery job for objects whose rows retention has deleted.

A run deletes them itself, right after its commit. A crash in between, or a store that is away, leaves pending
deletions; this job deletes those objects (`tasks/retention/object_deleter.py`), and keeps trying until it is
done. Here is also what can be read about them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from time import monotonic
from typing import Any

import structlog
from sqlalchemy import Connection, Row, case, func, select

from models.platform import DeletionEvent, PendingDeletion
from tasks.retention import object_deleter
from tasks.retention.object_deleter import Deletions
from workers import job_history
from workers.app import task
from workers.queues import MAINTENANCE
from workers.settings import get_settings

JOB = "retention.delete_objects"
#: No batch is begun after so long; the next run goes on.
SECONDS = 20.0

log = structlog.get_logger(__name__)


# Not retried: the next run finds all that this one would have.
@task(name=JOB, queue=MAINTENANCE, autoretry_for=(), send_events=False)
def delete_objects() -> None:
    """Delete the objects of pending deletions that are due."""
    with job_history.run(JOB) as run:
        if run is None:
            return
        done = Deletions()
        try:
            object_deleter.delete_objects(get_settings(), done, deadline=monotonic() + SECONDS)
        finally:
            run.rows, run.remaining, run.error = done.files, done.waiting, done.error
        if done.more:
            run.outcome = "more"
    if done.waiting:
        log.warning("retention.objects_wait", files=done.waiting, error=done.error)


# -- what is known of them ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Waiting:
    """Objects that are still to be deleted.

    Attributes:
        files: attachments that they belonged to.
        objects: how many, without the pictures that the platform made.
        since: when the rows of the oldest were deleted.
        attempts: how many attempts failed, at most.
        failing_since, error: when an attempt failed first, and why the last one did.
    """

    files: int
    objects: int
    since: datetime
    attempts: int
    failing_since: datetime | None
    error: str | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the objects that a receipt names.

    Attributes:
        outcomes: how many were 'deleted', 'kept' or 'cancelled'; see `DeletionEvent`.
        waiting: those that are still to be deleted; None if there are none.
    """

    outcomes: dict[str, int] = field(default_factory=dict)
    waiting: Waiting | None = None


def of_receipt(connection: Connection, receipt: int) -> Outcome | None:
    """Return what became of a receipt's objects; None if that is not known: it names none, or is older."""
    events = select(DeletionEvent.outcome, func.sum(DeletionEvent.objects))
    by_outcome = events.where(DeletionEvent.receipt == receipt).group_by(DeletionEvent.outcome)
    outcomes = {outcome: int(number) for outcome, number in connection.execute(by_outcome)}
    found = connection.execute(select(*_SUMS).where(PendingDeletion.receipt == receipt)).one()
    waiting = _waiting(found) if found.files else None
    return Outcome(outcomes, waiting) if outcomes or waiting else None


def every(connection: Connection) -> Sequence[tuple[Row[Any], Waiting]]:
    """Return all that waits, by receipt, policy and store, the oldest first."""
    by = (PendingDeletion.receipt, PendingDeletion.policy, PendingDeletion.store)
    found = connection.execute(
        select(*by, *_SUMS).group_by(*by).order_by(func.min(PendingDeletion.created_at), *by)
    )
    return [(row, _waiting(row)) for row in found]


def number_of_files(connection: Connection, app: str) -> int:
    """Return how many attachments of an application have objects that are still to be deleted."""
    files = select(func.count()).where(PendingDeletion.app == app)
    return int(connection.execute(files).scalar_one())


def _waiting(row: Row[Any]) -> Waiting:
    return Waiting(row.files, row.objects, row.since, row.attempts, row.failing_since, row.error)


def _one(column: Any) -> Any:
    return case((column.is_not(None), 1), else_=0)


_SUMS = (
    func.count().label("files"),
    func.coalesce(func.sum(_one(PendingDeletion.key) + _one(PendingDeletion.small_key)), 0).label("objects"),
    func.min(PendingDeletion.created_at).label("since"),
    func.coalesce(func.max(PendingDeletion.attempts), 0).label("attempts"),
    func.min(PendingDeletion.failing_since).label("failing_since"),
    func.max(PendingDeletion.error).label("error"),
)
