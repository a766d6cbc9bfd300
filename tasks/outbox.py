"""`outbox.relay`: publishes the tasks that were enqueued in SQL, `roomkeeper.enqueue`.

A row is marked in the transaction in which it was published, after that. A crash in between publishes it
again, under the same id; the tasks themselves see to it that twice is like once.
"""

from time import monotonic
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy import ARRAY, BigInteger, Connection, Row, Text, bindparam, delete, func, or_, select, update

from models.platform import OutboxMessage
from tasks.attachments import announced
from tasks.policies.columns import table_of
from workers import dead_letters, job_history, unknown_tasks
from workers.app import app as celery
from workers.app import task
from workers.broker_errors import BROKER_AWAY, described
from workers.db import transaction
from workers.queues import PERIODIC
from workers.settings import Settings, get_settings

log = structlog.get_logger(__name__)

JOB = "outbox.relay"
#: How many rows are published in one transaction: the most that a crash publishes again.
BATCH = 100
#: How many published rows are removed in one transaction.
REMOVED = 1000
#: The longest that a run goes on, in seconds, if half of its soft limit is not shorter.
BUDGET_SECONDS = 20

_outbox = table_of(OutboxMessage)
_DUE = (
    select(_outbox.c.id, _outbox.c.task_id, _outbox.c.task, _outbox.c.payload)
    .where(_outbox.c.published_at.is_(None))
    # One of a task that this version does not know is left to a newer one, for a day.
    .where(
        or_(
            _outbox.c.task == func.any(bindparam("known", type_=ARRAY(Text))),
            _outbox.c.created_at < func.now() - unknown_tasks.PATIENCE,
        )
    )
    .order_by(_outbox.c.id)
    .limit(BATCH)
    # A run that lost its connection, and so its lock, may still be publishing these.
    .with_for_update(skip_locked=True)
)
_MARK = (
    update(_outbox)
    .where(_outbox.c.id == func.any(bindparam("ids", type_=ARRAY(BigInteger))))
    .values(published_at=func.clock_timestamp())
)
_OLD = (
    select(_outbox.c.id)
    .where(
        _outbox.c.published_at < func.now() - func.make_interval(0, 0, 0, 0, 0, 0, bindparam("keep_seconds"))
    )
    .order_by(_outbox.c.published_at)
    .limit(REMOVED)
    .cte("old")
)
_REMOVE = delete(_outbox).where(_outbox.c.id.in_(select(_OLD.c.id)))


# Not tried again by itself when the database is away: the next turn is a second ahead.
@task(name=JOB, queue=PERIODIC, autoretry_for=(), send_events=False)
def relay() -> None:
    """Publish what is due in the order of its ids, and remove what was published long ago."""
    settings = get_settings()
    deadline = monotonic() + min(BUDGET_SECONDS, settings.task_soft_limit_seconds / 2)
    with job_history.run(JOB, quiet=True) as run:
        if run is None:
            return
        for step in (_publish, _remove):
            more = True
            while more and monotonic() < deadline:
                rows, more = step(settings)
                run.rows += rows
            if more:
                run.outcome = "more"


def _publish(settings: Settings) -> tuple[int, bool]:
    """Publish the next rows and mark them; return how many, and whether there may be more at once."""
    marked: list[int] = []
    files: list[object] = []
    with transaction() as connection:
        for row in connection.execute(_DUE, {"known": list(celery.tasks)}).all():
            try:
                _send(connection, row)
            except BROKER_AWAY as error:
                log.warning("outbox.broker_away", error=described(error))
                break
            marked.append(row.id)
            if row.task == announced.TASK:
                files.append(row.payload)
        if marked:
            connection.execute(_MARK, {"ids": marked})
    # Afterwards: while these rows are held, no worker could claim what it has just been sent.
    announced.note(files, settings)
    return len(marked), len(marked) == BATCH


def _send(connection: Connection, row: Row[int, UUID, str, Any]) -> None:
    known = celery.tasks.get(row.task)
    if known is None:
        dead_letters.keep_within(
            connection,
            task=row.task,
            task_id=str(row.task_id),
            payload={"args": [row.payload], "kwargs": {}},
            reason=f"no task of this version is called {row.task[:100]!r}",
        )
        return
    # By name: whether the payload will do is for its worker to say, with a dead letter.
    queue = getattr(known, "queue", None)
    celery.send_task(row.task, args=(row.payload,), task_id=str(row.task_id), queue=queue)


def _remove(settings: Settings) -> tuple[int, bool]:
    """Remove rows that were published long ago; return how many, and whether there may be more."""
    with transaction() as connection:
        removed = connection.execute(_REMOVE, {"keep_seconds": settings.outbox_keep_seconds}).rowcount
    return removed, removed == REMOVED
