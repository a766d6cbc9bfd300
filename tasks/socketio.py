"""Emits what sweeps change to Socket.IO clients, over the Redis of the API services' adapter.

A message is one of those that the servers of an API service send each other, as `@socket.io/redis-adapter`
makes them: each server passes it on to its own clients in the room. It is sent when the batch is committed,
and not again: what fails is lost, as it is between the servers themselves.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from time import monotonic
from typing import Any
from uuid import UUID

import msgpack
import structlog
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry
from sqlalchemy.orm import InstrumentedAttribute

from tasks.policies.sweep import Event, Sweep
from workers.settings import Settings

#: The namespace that people are in, and where the adapter listens for it if its `key` is not another.
NAMESPACE = "/"
CHANNEL = f"socket.io#{NAMESPACE}#"
#: Who sends it. A server drops what it has sent itself; a server's own name has six characters.
SENDER = "roomkeeper"
#: The kind of packet, of Socket.IO's protocol.
EVENT = 2
#: How long the Redis may be silent.
TIMEOUT_SECONDS = 1.0
#: How long it is left alone once it has failed: a sweep has other things to do than to wait.
PAUSE_SECONDS = 10.0
#: So many messages are made, and published in one pipeline: a batch of a sweep has up to 20,000.
AT_ONCE = 500
#: No pipeline is begun so long after the first: a Redis that answers slowly must not hold up a sweep.
LONGEST_SECONDS = 5.0

log = structlog.get_logger(__name__)


def wanted(policy: Sweep, settings: Settings) -> bool:
    """Return whether the policy's event is to be emitted."""
    return policy.event is not None and settings.socketio_url is not None


def emit(policy: Sweep, rows: Sequence[Sequence[Any]], settings: Settings) -> None:
    """Publish the policy's event for each row, whose values are those of the event's columns, in order.

    A row without a room is left out. A Redis that does not answer, or is too slow for all of them, is a
    warning in the log, with the number of events that were not, or may not have been, published; then
    nothing is emitted for PAUSE_SECONDS.
    """
    if policy.event is None or settings.socketio_url is None:
        return
    line = _line(settings.socketio_url.get_secret_value())
    if monotonic() < line.rests_until:
        return
    with_room = [row for row in rows if row[0] is not None]
    deadline = monotonic() + LONGEST_SECONDS
    for start in range(0, len(with_room), AT_ONCE):
        messages = [(str(row[0]), _message(policy.event, row)) for row in with_room[start : start + AT_ONCE]]
        try:
            if start and monotonic() >= deadline:
                raise TimeoutError(f"it took more than {LONGEST_SECONDS:.0f} s")
            line.send(messages)
        # ValueError, TypeError: the client does not understand the address.
        except (RedisError, OSError, ValueError, TypeError) as error:
            line.rests_until = monotonic() + PAUSE_SECONDS
            log.warning(
                "socketio.emit_failed",
                policy=policy.name,
                events=len(with_room) - start,
                error=f"{type(error).__name__}: {error}",
            )
            return


@dataclass(slots=True)
class _Line:
    """The way to one Redis.

    Attributes:
        rests_until: it is left alone until then, by the clock of `monotonic`.
    """

    url: str
    client: "Redis | None" = None
    rests_until: float = 0.0

    def send(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """Publish messages, each in its room. None is sent twice."""
        if self.client is None:
            self.client = Redis.from_url(
                self.url,
                socket_timeout=TIMEOUT_SECONDS,
                socket_connect_timeout=TIMEOUT_SECONDS,
                retry=Retry(NoBackoff(), 0),
            )
        with self.client.pipeline(transaction=False) as pipeline:
            for room, message in messages:
                pipeline.publish(f"{CHANNEL}{room}#", message)
            pipeline.execute()


@lru_cache(maxsize=1)
def _line(url: str) -> _Line:
    # A forked child may keep it: the client's pool sees that it is in another process, and connects anew.
    return _Line(url)


def _message(event: Event, row: Sequence[Any]) -> bytes:
    room, *carried = row
    values = iter(carried)
    data = {
        key: next(values) if isinstance(value, InstrumentedAttribute) else value
        for key, value in event.data.items()
    }
    packet = {"type": EVENT, "data": [event.name, data], "nsp": NAMESPACE}
    options = {"rooms": [str(room)], "except": [], "flags": {}}
    packed: bytes = msgpack.packb([SENDER, packet, options], default=_plain)
    return packed


def _plain(value: object) -> str:
    """Return what JSON, which clients get, has in the place of a value."""
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, datetime):
        # As JavaScript writes it. Where a table does not say, it is UTC.
        moment = value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)
        return f"{moment.replace(tzinfo=None).isoformat(timespec='milliseconds')}Z"
    raise TypeError(f"an event cannot tell a {type(value).__name__}")
