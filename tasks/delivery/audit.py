"""`delivery.audit`: recounts what nothing in the database maintains, reports what was wrong, and mends it.

Up to half of a run is for conversations in which something has just happened, the latest first: there people
see a wrong badge. The rest takes all in the order of their ids, so that each one's turn comes.
"""

from datetime import timedelta
from time import monotonic
from uuid import UUID

import structlog
from sqlalchemy import Connection, DateTime, func, select, union_all
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DBAPIError

from models.platform import Checkpoint
from tasks.availability import available
from tasks.delivery.recount import recount_all_of
from tasks.policies.status import ReadPointers
from workers import job_history
from workers.app import task
from workers.database_errors import ErrorKind, kind_of
from workers.db import transaction
from workers.queues import MAINTENANCE
from workers.settings import get_settings

JOB = "delivery.audit"
#: How long a run goes on, over all applications.
RUN_SECONDS = 3
#: How many conversations are looked up at once.
BATCH = 100
#: In a recent conversation something was written or read within so long.
RECENT = timedelta(hours=1)

log = structlog.get_logger(__name__)


@task(name=JOB, queue=MAINTENANCE)
def audit() -> None:
    """Recount some conversations of each application that keeps counters."""
    pages = {name: app.delivery for name, app in available(get_settings()).items()}
    tables = {name: table for name, table in pages.items() if isinstance(table, ReadPointers)}
    with job_history.run(JOB) as run:
        if run is None:
            return
        for name, table in tables.items():
            began, seconds = monotonic(), RUN_SECONDS / len(tables)
            run.rows += _recount_recent(name, table, began + seconds / 2)
            repaired, ended = _walk(name, table, began + seconds)
            run.rows += repaired
            run.outcome = run.outcome if ended else "more"


def _recount_recent(app: str, table: ReadPointers, deadline: float) -> int:
    """Recount recent conversations, the latest first; return how many rows were wrong."""
    now = func.timezone("UTC", func.now(), type_=DateTime())
    conversation, participant = table.conversation_id, table.member_of
    # A time ahead is that of a wrong clock. Each by its index.
    latest = [
        select(key.label("conversation"), at.label("at"))
        .where(at.between(now - RECENT, now))
        .order_by(at.desc())
        .limit(BATCH)
        for key, at in ((conversation, table.last_activity_at), (participant, table.last_read_at))
    ]
    either = union_all(*(select(one.subquery()) for one in latest)).subquery("either")
    recent = (
        select(either.c.conversation)
        .group_by(either.c.conversation)
        .order_by(func.max(either.c.at).desc(), either.c.conversation)
    )
    with transaction() as connection:
        found = list(connection.scalars(recent))
    repaired = 0
    for one in found:
        repaired += _recount(app, table, one)
        if monotonic() >= deadline:
            break
    return repaired


def _walk(app: str, table: ReadPointers, deadline: float) -> tuple[int, bool]:
    """Go on from where the last run stopped; return how many rows were wrong, and whether it ended."""
    repaired = 0
    with transaction() as connection:
        place = connection.scalar(
            select(Checkpoint.position).where(Checkpoint.job == JOB, Checkpoint.app == app)
        )
    while True:
        with transaction() as connection:
            key = table.conversation_id
            ahead = select(key).order_by(key).limit(BATCH)
            batch = list(connection.scalars(ahead if place is None else ahead.where(key > place)))
        for conversation in batch:
            repaired += _recount(app, table, conversation)
            place = conversation
            if monotonic() >= deadline:
                break
        ended = len(batch) < BATCH and (not batch or place == batch[-1])
        with transaction() as connection:
            _stop_at(connection, app, None if ended else place)
        if ended or monotonic() >= deadline:
            return repaired, ended


def _stop_at(connection: Connection, app: str, place: UUID | None) -> None:
    statement = insert(Checkpoint).values(job=JOB, app=app, position=place)
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=[Checkpoint.job, Checkpoint.app], set_={"position": statement.excluded.position}
        )
    )


def _recount(app: str, table: ReadPointers, conversation: UUID) -> int:
    """Recount one conversation; return how many rows were wrong."""
    try:
        return recount_all_of(app, table, conversation)
    except DBAPIError as error:
        if kind_of(error) is not ErrorKind.CONTENTION:
            raise
        # Too large for one statement, or locked for too long: the others have their turn.
        log.warning("audit.postponed", app=app, conversation=str(conversation), error=type(error).__name__)
        return 0
