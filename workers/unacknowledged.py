"""Messages that were taken and are not acknowledged yet: how the broker knows of them.

Kombu notes each message that a worker has taken in a hash of the broker, `unacked`, with the moment in a
sorted set, `unacked_index`. A note that is not renewed for long is a dead worker's: its message goes back to
its list. Here a message is never lost for want of its note: it is in this process's memory as well. And
nothing that is found in hash or set ends a worker.
"""

import time
from typing import TYPE_CHECKING, Any

import structlog
from kombu.transport import redis, virtual
from kombu.utils.json import dumps, loads
from redis.exceptions import OutOfMemoryError, RedisError, ResponseError

from workers import installation
from workers.broker_clock import clock
from workers.broker_errors import BROKER_AWAY, described
from workers.broker_scripts import NOTE, REFRESH, REINDEX, RESTORE
from workers.outstanding import Message, outstanding

log = structlog.get_logger(__name__)

if TYPE_CHECKING:
    _Base = Any  # the stubs lack most of it
else:
    _Base = redis.QoS

#: What a note consists of: the message, its exchange and its routing key.
PARTS = (dict, str, str)
#: The most notes that are looked at in one scan, on either side of now.
SUSPECTS = 1000
#: The longest that one scan puts messages back, in seconds.
RESTORE_SECONDS = 0.2


class QoS(_Base):  # type: ignore[misc]
    """Kombu's bookkeeping, but by the broker's clock, with scripts that a full broker runs too."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: Messages that are held without a note: tag → the list that each came from.
        self._unnoted: dict[str, str] = {}
        #: Notes that were not renewed for a while: tag and moment → since when, by this process's clock.
        self._suspects: dict[tuple[bytes, float], float] = {}

    # -- taken ------------------------------------------------------------------------------------------

    def append(self, message: Any, delivery_tag: str) -> None:
        """Note a message that was taken. One that the broker does not note is worked on nevertheless."""
        try:
            self._note(message, delivery_tag)
        except (RedisError, OSError) as error:
            # It is off its list: only this process has it now.
            self._unnoted[delivery_tag] = self.channel.taken_from
            log.warning("broker.message_not_noted", error=described(error))
        virtual.QoS.append(self, message, delivery_tag)

    def _note(self, message: Any, tag: str) -> None:
        info = message.delivery_info
        note = dumps([message._raw, info["exchange"], info["routing_key"]])
        with self.channel.conn_or_acquire() as client:
            NOTE(client, [self.unacked_index_key, self.unacked_key], [clock.now(), tag, note])

    def refresh(self) -> None:
        """Tell the broker that what is held is still held, and hand over what it could not take before.

        Raises:
            RedisError: it does not answer, or cannot serve.
        """
        self._flush()
        with self.channel.conn_or_acquire() as client:
            seconds, microseconds = client.time()
            clock.set(seconds + microseconds / 1e6)
            installation.confirm_or_end(client)
            if self._delivered:
                REFRESH(client, [self.unacked_index_key], [clock.now(), *self._delivered])
            outstanding.settle(client, self.unacked_index_key, self.unacked_key)
            for tag in list(self._unnoted):
                self._note(self._delivered[tag], tag)
                del self._unnoted[tag]

    # -- done -------------------------------------------------------------------------------------------

    def ack(self, delivery_tag: str) -> None:
        """Forget a message that is done. If the broker does not remove the note, that is made up for."""
        self._unnoted.pop(delivery_tag, None)
        try:
            self._remove_from_indices(delivery_tag).execute()
        except BROKER_AWAY as error:
            # Were it still held, a worker that holds as many as it may would never ask for another.
            outstanding.done.add(delivery_tag)
            log.warning("broker.message_not_acknowledged", error=described(error))
        virtual.QoS.ack(self, delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Forget a message, or put it back as the last of its list."""
        if not requeue:
            self.ack(delivery_tag)
            return
        try:
            self.restore_by_tag(delivery_tag, leftmost=True)
        except BROKER_AWAY as error:
            self._keep_here(delivery_tag, error)
        virtual.QoS.ack(self, delivery_tag)

    # -- put back ---------------------------------------------------------------------------------------

    def restore_unacked(self, client: Any = None) -> None:
        """Put everything back that is held: the connection is closed."""
        away: Exception | None = None
        for tag in list(self._delivered):
            try:
                # Once away, it is not waited for again for each of them.
                if away is None:
                    self.restore_by_tag(tag, client=client)
            except (RedisError, OSError) as error:
                away = error
            if away is not None:
                self._keep_here(tag, away)
        self._delivered.clear()
        self._unnoted.clear()

    def restore_visible(self, start: int = 0, num: int | None = None, interval: int = 1) -> None:
        """Put back what dead workers held: each message whose note was not renewed for long.

        Without Kombu's lock, which a full broker refuses: two that find the same message put it back once.
        What takes long goes on with the next scan: the worker's loop waits meanwhile.
        """
        del start, num
        self._vrestore_count += 1
        if (self._vrestore_count - 1) % (interval or 1):
            return
        deadline = time.monotonic() + RESTORE_SECONDS
        with self.channel.conn_or_acquire() as client:
            # First: this process may have been suspended, and its own clock has stood still.
            self.look_at_notes(client)
            for tag in self._abandoned(client):
                try:
                    self.restore_by_tag(tag, client)
                except OutOfMemoryError as error:
                    # Of a server that makes no exceptions: when it has room.
                    log.warning("broker.restore_postponed", error=described(error))
                    return
                except BROKER_AWAY:
                    raise
                except ResponseError as error:
                    log.error("broker.not_restored", error=described(error))
                if time.monotonic() > deadline:
                    return

    def look_at_notes(self, client: Any) -> None:
        """Ask the broker what time it is, and note in the index whatever is not there.

        Raises:
            RedisError: the broker does not answer, or cannot serve.
        """
        with client.pipeline(transaction=False) as pipe:
            pipe.time()
            pipe.hlen(self.unacked_key)
            pipe.zcard(self.unacked_index_key)
            (seconds, microseconds), notes, places = pipe.execute()
        clock.set(seconds + microseconds / 1e6)
        if notes > places:
            REINDEX(client, [self.unacked_index_key, self.unacked_key], [clock.now()])

    def _abandoned(self, client: Any) -> list[bytes]:
        """Return the tags of notes that were not renewed for the visibility timeout.

        Their moments alone do not tell. The broker's clock may have been set; a host that was suspended has
        not renewed its notes yet; an earlier version notes by its own host's clock. So a note must also have
        had the same moment for half of the timeout, while this process has watched: a worker that holds a
        message renews its note twice in that time.
        """
        now, watched, timeout = clock.now(), time.monotonic(), self.visibility_timeout
        suspects: dict[tuple[bytes, float], float] = {}
        abandoned = []
        for low, high in (("-inf", now - timeout / 4), (now + timeout / 2, "+inf")):
            for tag, moment in client.zrange(
                self.unacked_index_key, low, high, byscore=True, offset=0, num=SUSPECTS, withscores=True
            ):
                if tag.decode(errors="replace") in self._delivered:
                    # This worker's own, which it has not renewed in time.
                    continue
                since = suspects[tag, moment] = self._suspects.get((tag, moment), watched)
                if abs(now - moment) >= timeout and watched - since >= timeout / 2:
                    abandoned.append(tag)
        self._suspects = suspects
        return abandoned

    def restore_by_tag(self, tag: Any, client: Any = None, leftmost: bool = False) -> None:
        """Put one message back. A note that is none becomes a dead letter."""
        with self.channel.conn_or_acquire(client) as client:
            if tag in self._unnoted:
                self._keep_unnoted(tag, leftmost)
                outstanding.settle(client, self.unacked_index_key, self.unacked_key)
                return
            note = client.hget(self.unacked_key, tag)
            if note is None:
                # It has been acknowledged, or put back by another.
                client.zrem(self.unacked_index_key, tag)
                return
            try:
                message, exchange, routing_key = _parts(note)
                lists = self._lists(message, exchange, routing_key)
            except ValueError as error:
                self.channel.quarantine(note, f"unacked: {error}")
                self._remove_from_indices(tag).execute()
                return
            keys = [self.unacked_index_key, self.unacked_key, *lists]
            RESTORE(client, keys, [tag, _command(leftmost), _redelivered(message)])

    def _lists(self, message: dict[str, Any], exchange: str, routing_key: str) -> list[str]:
        queues = self.channel._lookup(exchange, routing_key)
        if not queues:
            raise ValueError("no queue is bound for its exchange and routing key")
        priority = self.channel._get_message_priority(message, reverse=False)
        return [self.channel._q_for_pri(queue, priority) for queue in queues if queue]

    def _keep_here(self, tag: str, error: Exception) -> None:
        """Keep a message in this process that has no note; one that has comes back by it."""
        log.warning("broker.message_not_put_back", error=described(error))
        if tag in self._unnoted:
            self._keep_unnoted(tag, leftmost=False)

    def _keep_unnoted(self, tag: str, leftmost: bool) -> None:
        item = _redelivered(self._delivered[tag]._raw).encode()
        # Its note may be there nevertheless: only the broker's answer was lost.
        outstanding.done.add(tag)
        outstanding.keep(
            Message(
                self._unnoted.pop(tag),
                _command(leftmost),
                item,
                lambda: self.channel.bury(item, "its worker ended while the broker was away"),
            )
        )


def _parts(note: bytes) -> tuple[dict[str, Any], str, str]:
    """Return what a note consists of.

    Raises:
        ValueError: it is none; the text says why, without a word of it.
    """
    try:
        parts = loads(note.decode())
    except (ValueError, RecursionError):
        raise ValueError("the note is not JSON") from None
    if not (isinstance(parts, list) and len(parts) == len(PARTS)):
        raise ValueError(f"the note must be a list of {len(PARTS)}")
    message, exchange, routing_key = parts
    if not all(map(isinstance, parts, PARTS)):
        raise ValueError("the note must consist of a message, its exchange and its routing key")
    return message, exchange, routing_key


def _redelivered(message: dict[str, Any]) -> str:
    """Return a message as it goes back into its list. Whether it can be read is seen when it is taken."""
    headers, properties = message.get("headers"), message.get("properties")
    if isinstance(headers, dict):
        headers["redelivered"] = True
        if isinstance(properties, dict) and isinstance(properties.get("delivery_info"), dict):
            properties["delivery_info"]["redelivered"] = True
    text: str = dumps(message)
    return text


def _command(leftmost: bool) -> str:
    # Taken from the right.
    return "LPUSH" if leftmost else "RPUSH"
