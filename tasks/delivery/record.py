"""`delivery.record`: merges what an API service reports of its messages."""

from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError, OperationalError

from tasks.apps import APPS
from tasks.delivery import inbox
from tasks.delivery.events import RecordStatus
from tasks.delivery.merge import merge
from workers.app import task
from workers.db import transaction
from workers.queues import DELIVERY
from workers.settings import get_settings


@task(
    name=inbox.TASK,
    queue=DELIVERY,
    pydantic=True,
    # An id and a time come as JSON text, which strict validation would refuse.
    pydantic_strict=False,
    # A message that is deleted in the moment in which its status is written.
    autoretry_for=(OperationalError, IntegrityError),
)
def record(request: RecordStatus) -> str:
    """Merge 1 to 1,000 statuses of one application; return how many, in words.

    Safe to send twice, late, in any order. Those whose message is not there yet wait in the inbox.
    """
    table = APPS[request.app].delivery
    assert table is not None
    with transaction() as connection:
        missing = merge(connection, table, request.events)
        waiting = [event for event in request.events if event.pair in missing]
        if waiting:
            now = connection.execute(select(func.now())).scalar_one()
            inbox.put_back(connection, request.app, waiting, now, get_settings())
    return f"{len(request.events) - len(waiting)} recorded" + (f", {len(waiting)} wait" if waiting else "")
