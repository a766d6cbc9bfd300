"""`delivery.record`: merges what an API service reports of its messages."""

from datetime import datetime

import structlog
from sqlalchemy import Connection, func, select
from sqlalchemy.exc import DBAPIError

from tasks.apps import APPS
from tasks.availability import available
from tasks.delivery import inbox
from tasks.delivery.arrival import arrive
from tasks.delivery.events import RecordStatus, dumped
from tasks.delivery.merge import Statuses, merge
from workers.app import task
from workers.database_errors import is_unavailable
from workers.db import transaction
from workers.queues import DELIVERY
from workers.settings import get_settings

log = structlog.get_logger(__name__)


@task(
    name=inbox.TASK,
    queue=DELIVERY,
    pydantic=True,
    # An id and a time come as JSON text, which strict validation would refuse.
    pydantic_strict=False,
    # Nothing but this message knows of these events: it outlives whatever is in its way, however long.
    max_retries=None,
)
def record(request: RecordStatus) -> str:
    """Merge 1 to 1,000 statuses of one application; return how many, in words.

    Safe to send twice, late, in any order. Those whose message is not there yet wait in the inbox; so do all
    where they cannot be merged at once: there they are taken in smaller portions, with pauses. A time that is
    ahead of the database's clock counts as of now; one more than a day ahead makes its event a dead letter.
    """
    table = APPS[request.app].delivery
    assert table is not None
    if request.app in available(get_settings()):
        try:
            return _merged(table, request)
        except DBAPIError as error:
            if is_unavailable(error):
                raise
            log.warning("delivery.postponed", app=request.app, error=type(error.orig).__name__)
    with transaction() as connection:
        inbox.put(connection, request.app, dumped(request.events), _now(connection))
    return f"{len(request.events)} wait"


def _merged(table: Statuses, request: RecordStatus) -> str:
    with transaction() as connection:
        now = _now(connection)
        arrived = arrive(connection, request.app, request.events, now)
        missing = merge(connection, table, arrived.events) if arrived.events else set()
        waiting = [event for event in arrived.events if event.pair in missing]
        if waiting:
            inbox.put_back(connection, request.app, dumped(waiting), now, get_settings())
    arrived.count()
    counts = [f"{len(arrived.events) - len(waiting)} recorded"]
    counts += [f"{len(waiting)} wait"] if waiting else []
    counts += [f"{arrived.refused} refused, more than a day ahead"] if arrived.refused else []
    return ", ".join(counts)


def _now(connection: Connection) -> datetime:
    """Return the database's time: what waits is measured by that clock alone."""
    return connection.execute(select(func.now())).scalar_one()
