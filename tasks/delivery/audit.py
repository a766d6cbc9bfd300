"""`delivery.audit`: recounts what nothing in the database maintains, reports what was wrong, and mends it.

Some conversations at each turn, in the order of their ids, so that each one's turn comes.
"""

from time import monotonic
from uuid import UUID

import structlog
from sqlalchemy import Connection, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DBAPIError

from models.platform import Checkpoint
from tasks.availability import available
from tasks.delivery import counts
from tasks.delivery.pointers import lock_conversations
from tasks.policies.status import ReadPointers
from workers import job_history, metrics
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
#: What is recounted, and how; by the name under which drift is told.
COUNTERS = {
    "read_by_count": counts.read_by,
    "unread_count": counts.unread,
    "conversation": counts.conversation,
}

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
            repaired, ended = _walk(name, table, monotonic() + RUN_SECONDS / len(tables))
            run.rows += repaired
            run.outcome = run.outcome if ended else "more"


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
        with transaction() as connection:
            # No merge may come in between: its changes are not drift.
            lock_conversations(connection, [conversation])
            drift = {
                name: connection.execute(statement(table), {"conversation": conversation}).rowcount
                for name, statement in COUNTERS.items()
            }
    except DBAPIError as error:
        if kind_of(error) is not ErrorKind.CONTENTION:
            raise
        # Too large for one statement, or locked by another for too long: the others have their turn.
        log.warning("audit.postponed", app=app, conversation=str(conversation), error=type(error).__name__)
        return 0
    for name, rows in drift.items():
        if rows:
            metrics.DRIFT.labels(app, name).inc(rows)
            log.warning("audit.drift", app=app, conversation=str(conversation), counter=name, rows=rows)
    return sum(drift.values())
