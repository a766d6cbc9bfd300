"""`delivery.recount`: recounts one conversation at once, for an API service that knows what it has changed.

It deletes a message, and the badges of all who have not read it are too high; or it removes a member, for
whom alone messages were waiting. Nothing in the database reports either. Its recovery job, `delivery.audit`,
recounts all conversations in turn.
"""

from uuid import UUID

import structlog
from sqlalchemy import Connection

from tasks.apps import APPS
from tasks.availability import available
from tasks.delivery import counts
from tasks.delivery.payload import RecountConversation
from tasks.delivery.pointers import lock_conversations
from tasks.policies.status import ReadPointers
from workers import metrics
from workers.app import task
from workers.db import transaction
from workers.queues import DELIVERY
from workers.settings import get_settings

#: What is recounted, and how; by the name under which drift is reported.
COUNTERS = {
    "read_by_count": counts.read_by,
    "unread_count": counts.unread,
    "conversation": counts.conversation,
}

log = structlog.get_logger(__name__)


def recount_conversation(connection: Connection, table: ReadPointers, conversation: UUID) -> dict[str, int]:
    """Correct what is wrong in one conversation; return how many rows were, by the counter.

    `status` is a portion: if it is `counts.MOST_CHANGED`, there may be more.
    """
    # No other worker may merge in between: what it does is not drift.
    lock_conversations(connection, [conversation])
    values = {"conversation": conversation}
    drift = {
        name: connection.execute(statement(table), values).rowcount for name, statement in COUNTERS.items()
    }
    portion = {**values, "at_most": counts.MOST_CHANGED}
    drift["status"] = connection.execute(counts.status(table), portion).rowcount
    return drift


def recount_all_of(app: str, table: ReadPointers, conversation: UUID) -> int:
    """Correct all that is wrong in one conversation, report it, and return how many rows were wrong.

    Raises:
        DBAPIError: it is too much for one statement, or another transaction is in the way.
    """
    total = 0
    while True:
        with transaction() as connection:
            drift = recount_conversation(connection, table, conversation)
        for name, rows in drift.items():
            if rows:
                metrics.DRIFT.labels(app, name).inc(rows)
                log.warning("audit.drift", app=app, conversation=str(conversation), counter=name, rows=rows)
        total += sum(drift.values())
        if drift["status"] < counts.MOST_CHANGED:
            return total


@task(
    name="delivery.recount",
    queue=DELIVERY,
    pydantic=True,
    # An id comes as JSON text, which strict validation would refuse.
    pydantic_strict=False,
)
def recount(request: RecountConversation) -> str:
    """Recount one conversation; return how many rows were wrong, in words. Safe to send twice, or late."""
    table = APPS[request.app].delivery
    assert isinstance(table, ReadPointers)
    if request.app not in available(get_settings()):
        return f"left to the audit: {request.app} is not enabled, or switched off"
    return f"{recount_all_of(request.app, table, request.conversation_id)} corrected"
