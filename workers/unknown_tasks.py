"""Messages whose task a worker does not know: in a deploy a newer version may send them to an older worker.

The worker pushes such a message into a list of the broker. Each minute the messages in it are put back into
their queues, where a newer worker may take them. After a day a message becomes a dead letter.
"""

import json
from dataclasses import dataclass
from datetime import UTC, timedelta
from time import monotonic
from typing import TYPE_CHECKING, Any

import structlog
from celery.utils.time import maybe_iso8601

from workers.broker_clock import clock
from workers.broker_scripts import EXCHANGE
from workers.queues import UNKNOWN

if TYPE_CHECKING:
    from redis import Redis

log = structlog.get_logger(__name__)

#: How long a message waits for a worker that knows its task.
PATIENCE = timedelta(days=1)
#: The header that says since when, by the broker's clock.
SINCE = "unknown_since"


@dataclass(frozen=True, slots=True)
class Waiting:
    """A message in the list.

    Attributes:
        packet: as it is in the list.
        item: as it was in its queue.
        queue: the key of its queue.
        since: when a worker took it first, by the broker's clock.
        task: the name of its task.
        expires: until when it is of use, by the broker's clock; None for ever.
    """

    packet: bytes
    item: bytes
    queue: str
    since: float
    task: str
    expires: float | None

    @property
    def age(self) -> timedelta:
        return timedelta(seconds=max(0.0, clock.now() - self.since))


def packed(item: bytes, queue: str, headers: Any) -> bytes:
    """Return a message as it waits in the list; its headers may be of any type."""
    since = headers.get(SINCE) if isinstance(headers, dict) else None
    if not isinstance(since, int | float) or not 0 < since <= clock.now():
        since = clock.now()
    return json.dumps({"queue": queue, "since": since, "message": item.decode()}).encode()


def unpacked(packet: bytes) -> Waiting:
    """Read a message in the list.

    Raises:
        ValueError: it is none.
    """
    try:
        found = json.loads(packet)
        item, queue, since = found["message"], found["queue"], float(found["since"])
        message = json.loads(item)
        headers = message.get("headers") or {}
        return Waiting(packet, item.encode(), str(queue), since, str(headers.get("task")), _expiry(headers))
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"no message of an unknown task: {type(error).__name__}") from None


def _expiry(headers: dict[str, Any]) -> float | None:
    moment = maybe_iso8601(headers["expires"]) if isinstance(headers.get("expires"), str) else None
    if moment is None:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def oldest(client: "Redis") -> Waiting | None:
    """Return the message that is offered next; None if there is none, or it is unreadable."""
    packet: Any = client.lindex(UNKNOWN, -1)
    try:
        return unpacked(packet) if packet is not None else None
    except ValueError:
        return None


def offer(client: "Redis", channel: Any, until: float) -> int:
    """Put each message back into its queue once; make dead letters of those that have waited for a day.

    Args:
        channel: of our transport.
        until: the end of this run, by the monotonic clock.

    Returns:
        how many dead letters there are now.

    Raises:
        RedisError: the broker does not answer.
        SQLAlchemyError: the database does not take a dead letter; the message stays.
    """
    buried = 0
    for _ in range(int(client.llen(UNKNOWN))):
        packet: Any = client.lindex(UNKNOWN, -1)
        if packet is None or monotonic() > until:
            break
        try:
            waiting = unpacked(packet)
        except ValueError as error:
            # Other programs may write anything into this list.
            channel.bury(packet, str(error))
            client.lrem(UNKNOWN, -1, packet)
            buried += 1
            continue
        if waiting.expires is not None and waiting.expires < clock.now():
            log.info("unknown_task.expired", task=waiting.task)
            client.lrem(UNKNOWN, -1, packet)
        elif waiting.age >= PATIENCE:
            channel.bury(waiting.item, None)
            client.lrem(UNKNOWN, -1, packet)
            buried += 1
        else:
            EXCHANGE(client, [UNKNOWN, waiting.queue], [packet, _again(waiting)])
    return buried


def _again(waiting: Waiting) -> bytes:
    message = json.loads(waiting.item)
    message["headers"] = {**(message.get("headers") or {}), SINCE: waiting.since}
    return json.dumps(message).encode()
