"""`attachments.recover`: the recovery job of `attachments.process`.

The broker may lose a message, an API service may never send one, a worker may die, a scanner may be away.
The rows know. This finds those that no worker processes, and announces them.
"""

from dataclasses import dataclass
from uuid import UUID

from redis.exceptions import RedisError
from sqlalchemy import ColumnElement, Connection, func, literal, select, update
from sqlalchemy.dialects.postgresql import insert

from models.platform import AttachmentJob as Job
from models.platform import Checkpoint
from tasks.attachments import attachment_work
from tasks.attachments.payload import ProcessAttachment
from tasks.attachments.process import process
from tasks.availability import available
from tasks.policies.attachment import AttachmentTable
from tasks.policies.naive import moment_of
from workers import job_history, queue_lengths
from workers.app import task
from workers.queues import ATTACHMENTS, MAINTENANCE
from workers.settings import Settings, get_settings

JOB = "attachments.recover"
#: The most that one run announces of a kind; the rest follows at the next turn.
BATCH = 500
#: How many rows of a table without a state one run compares with our jobs; the next run goes on from there.
STRETCH = 20_000
#: From so many messages on, the length of the queue says how many were lost. A short one may be all others'.
LONG = 100


@task(name=JOB, queue=MAINTENANCE, send_events=False)
def recover() -> None:
    """Announce rows that no worker processes: never enqueued, waiting and due, or left by a dead worker."""
    settings = get_settings()
    apps = available(settings)
    with job_history.run(JOB) as run:
        if run is None:
            return
        queue = _Queue.read(run.connection, settings)
        for name, application in apps.items():
            if application.attachments is None:
                continue
            new, more = _adopt(run.connection, name, application.attachments, settings)
            due = _due(run.connection, name, settings, queue.lost)
            # Counted too generously: the next run sees what is still missing.
            queue.lost -= len(due)
            # Published before the commit: a crash in between announces a file twice, which is harmless. The
            # other way round would leave files marked as announced that were not.
            for row_id in (*queue.unannounced(new), *due):
                publish(name, row_id)
            run.rows += len(new) + len(due)
            if more or len(due) == BATCH:
                run.outcome = "more"


def publish(app: str, row_id: UUID) -> None:
    """Announce one file."""
    request = ProcessAttachment(app=app, id=row_id)
    process.apply_async((request.model_dump(mode="json"),))


@dataclass(slots=True)
class _Queue:
    """What the length of the queue says of the messages in it, where it is long.

    While workers do not keep up a file waits for longer than this job waits for its message. Announced again
    it would make the queue longer still, and could not be taken sooner.

    Attributes:
        lost: how many announced files have no message in it, at least.
        foreign: how many messages are of no file that is noted as announced: services published them.
    """

    lost: int
    foreign: int

    @classmethod
    def read(cls, connection: Connection, settings: Settings) -> "_Queue":
        try:
            length = queue_lengths.read(settings)[ATTACHMENTS]
        except RedisError:
            # What is to be published meets the same, and ends the run.
            length = 0
        if length < LONG:
            return cls(lost=BATCH, foreign=0)
        announced = connection.execute(
            select(func.count()).where(attachment_work.due(), Job.enqueued_at.is_not(None))
        ).scalar_one()
        return cls(lost=max(0, announced - length), foreign=max(0, length - announced))

    def unannounced(self, new: list[UUID]) -> list[UUID]:
        """Return those of new files that are to be announced: not as many as have messages already.

        If these were of other files, the next runs find that messages are missing.
        """
        known = min(self.foreign, len(new))
        self.foreign -= known
        return new[known:]


def _ago(seconds: float) -> object:
    return func.now() - func.make_interval(0, 0, 0, 0, 0, 0, seconds)


def _adopt(
    connection: Connection, name: str, table: AttachmentTable, settings: Settings
) -> tuple[list[UUID], bool]:
    """Make a job for each row that has had none for longer than the grace.

    Return their ids, and whether there may be more at once.
    """
    known = select(Job).where(Job.app == name, Job.attachment_id == table.id).exists()
    orphans = (
        select(literal(name), table.id, literal("waiting"), func.now())
        .where(table.live, ~known)
        .where(moment_of(table.created_at) < _ago(settings.attachment_grace_seconds))
        .limit(BATCH)
    )
    stretch = None
    if table.unprocessed is not None:
        orphans = orphans.where(table.unprocessed)
    else:
        stretch = _stretch(connection, name, table)
        orphans = orphans.where(*stretch.conditions(table))
    # In the order in which the outbox notes files: each waits for the other's, and neither for both.
    found = orphans.subquery()
    ordered = select(found).order_by(found.c[1])
    statement = insert(Job).from_select(["app", "attachment_id", "state", "enqueued_at"], ordered)
    # A worker may have claimed one of them since.
    new = list(connection.scalars(statement.on_conflict_do_nothing().returning(Job.attachment_id)))
    full = len(new) == BATCH
    if stretch and stretch.end != stretch.start and not full:
        place = insert(Checkpoint).values(job=JOB, app=name, position=stretch.end)
        key = [Checkpoint.job, Checkpoint.app]
        connection.execute(
            place.on_conflict_do_update(index_elements=key, set_={"position": place.excluded.position})
        )
    return new, full


@dataclass(frozen=True, slots=True)
class _Stretch:
    """A part of a table in the order of its ids: after `start`, up to `end`; None for the table's own."""

    start: UUID | None
    end: UUID | None

    def conditions(self, table: AttachmentTable) -> list[ColumnElement[bool]]:
        after = [table.id > self.start] if self.start is not None else []
        return after + ([table.id <= self.end] if self.end is not None else [])


def _stretch(connection: Connection, name: str, table: AttachmentTable) -> _Stretch:
    """Return the stretch that this turn looks at, where no column says which rows to look at.

    Comparing the whole table with our jobs would take a second for a million rows, at each turn.
    """
    place = select(Checkpoint.position).where(Checkpoint.job == JOB, Checkpoint.app == name)
    start = connection.scalar(place)
    ahead = select(table.id).order_by(table.id).offset(STRETCH - 1).limit(1)
    if start is not None:
        ahead = ahead.where(table.id > start)
    return _Stretch(start, connection.scalar(ahead))


def _due(connection: Connection, name: str, settings: Settings, lost: int = BATCH) -> list[UUID]:
    """Mark the jobs that are due as announced; return their ids.

    A file that was announced and is still due may just be far back in a long queue: it is announced again
    only after `attachment_requeue_seconds`, and no more than `lost` of these.
    """
    new = _mark(connection, name, Job.enqueued_at.is_(None), BATCH)
    again = Job.enqueued_at < _ago(settings.attachment_requeue_seconds)
    return new + _mark(connection, name, again, min(lost, BATCH - len(new)))


def _mark(connection: Connection, name: str, which: ColumnElement[bool], most: int) -> list[UUID]:
    if most <= 0:
        return []
    due = (
        select(Job.attachment_id)
        .where(Job.app == name, which)
        .where(attachment_work.due())
        .limit(most)
        .with_for_update(skip_locked=True)
        # A common table expression runs once. A subquery may run again for each row that it is compared with,
        # and lock and return others each time, past the limit.
        .cte("due")
    )
    due_jobs = (Job.app == name) & Job.attachment_id.in_(select(due.c.attachment_id))
    statement = update(Job).where(due_jobs).values(enqueued_at=func.now())
    return list(connection.scalars(statement.returning(Job.attachment_id)))
