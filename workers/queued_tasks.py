"""Which tasks wait in the broker's queues, by their messages."""

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

from redis.client import NEVER_DECODE

from workers.broker_errors import BROKER_AWAY

if TYPE_CHECKING:
    from redis import Redis


def queued_tasks(client: "Redis", queues: Iterable[str], limit: int) -> dict[str, set[str] | None]:
    """Return the names of the tasks that wait in each queue; None for a queue of `limit` messages or more.

    Raises:
        BROKER_AWAY: the broker does not answer.
    """
    names = sorted(queues)
    with client.pipeline(transaction=False) as pipe:
        for queue in names:
            # Bytes: what others publish may be no text.
            pipe.execute_command(  # type: ignore[no-untyped-call]  # not in its types
                "LRANGE", queue, 0, limit - 1, **{NEVER_DECODE: True}
            )
        answers = dict(zip(names, pipe.execute(raise_on_error=False), strict=True))
    found: dict[str, set[str] | None] = {}
    for queue, messages in answers.items():
        if isinstance(messages, BROKER_AWAY):
            raise messages
        # A key that is no list is set aside by the next process that publishes to it.
        known = messages if isinstance(messages, list) else []
        found[queue] = None if len(known) >= limit else set(filter(None, map(_task, known)))
    return found


def _task(message: bytes) -> str | None:
    """Return which task a message is for; None where it does not say, for its content is from outside."""
    try:
        task = json.loads(message)["headers"]["task"]
    except (ValueError, TypeError, LookupError, RecursionError):
        return None
    return task if isinstance(task, str) else None
