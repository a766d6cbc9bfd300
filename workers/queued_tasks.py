"""Which tasks wait in the broker's queues, by their messages."""

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

from celery.utils.time import maybe_iso8601
from redis.client import NEVER_DECODE

from workers.broker_clock import clock
from workers.broker_errors import BROKER_AWAY

if TYPE_CHECKING:
    from redis import Redis


def queued_tasks(client: "Redis", queues: Iterable[str], limit: int) -> dict[str, dict[str, bool] | None]:
    """Return the names of the tasks that wait in each queue; None for a queue of `limit` messages or more.

    Each with whether a message of its has not expired. The others wait for a worker to discard them.

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
    found: dict[str, dict[str, bool] | None] = {}
    for queue, messages in answers.items():
        if isinstance(messages, BROKER_AWAY):
            raise messages
        # A key that is no list is set aside by the next process that publishes to it.
        known = messages if isinstance(messages, list) else []
        found[queue] = None if len(known) >= limit else _tasks(known)
    return found


def _tasks(messages: Iterable[bytes]) -> dict[str, bool]:
    found: dict[str, bool] = {}
    for message in messages:
        try:
            headers = json.loads(message)["headers"]
            task, expires = headers["task"], headers.get("expires")
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
            # It does not say which task it is for: its content is from outside.
            continue
        if isinstance(task, str):
            found[task] = found.get(task, False) or not _expired(expires)
    return found


def _expired(expires: object) -> bool:
    """Return whether this moment is over; what is none is not."""
    try:
        moment = maybe_iso8601(expires) if isinstance(expires, str) else None
        return moment is not None and moment.timestamp() < clock.now()
    except (ValueError, OverflowError):
        return False
