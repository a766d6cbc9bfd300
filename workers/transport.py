"""The broker's transport: Redis, but for messages that no worker could read.

A body that is not base64 or not a task's, a time limit that is no number, a missing id: each of these ends
the worker that takes it off its list, and then the next. They are found out here, as they are taken off,
and become dead letters; the worker goes on. A message of a task that this version does not know waits for a
worker that does.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Literal

import structlog
from celery import current_app
from celery.utils.time import maybe_iso8601
from kombu.transport import redis, virtual
from kombu.utils.json import loads
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, ValidationError, field_validator
from redis.exceptions import OutOfMemoryError, RedisError

from workers import dead_letters, installation, unknown_tasks
from workers.broker_clock import clock
from workers.broker_errors import REFUSALS, described
from workers.broker_scripts import PUSH, REINDEX
from workers.outstanding import Message as OutstandingMessage
from workers.outstanding import outstanding
from workers.quarantined import packed
from workers.queues import KINDS, QUARANTINE, UNKNOWN
from workers.unacknowledged import QoS

log = structlog.get_logger(__name__)

#: Other lists carry answers and events, which are not tasks.
QUEUES = frozenset(queue for kind in KINDS.values() for queue in kind.queues)
JSON = "application/json"
#: The header that says when a message was sent first, by the broker's clock.
SENT_AT = "sent_at"
#: What a task's body consists of, in this order.
BODY = ("args", "kwargs", "embed")
#: The most retries a message may claim. Celery computes two to their power; a huge number fills the memory.
MAX_RETRIES = 1_000_000
MAX_NAME_CHARS = 255


if TYPE_CHECKING:
    _Channel = Any  # the stubs lack most of it
else:
    _Channel = redis.Channel


class UnreadableError(Exception):
    """A message is none. The text says why, without a word of it."""


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, hide_input_in_errors=True)


class DeliveryInfo(_Part):
    """Where a message was sent; what is not acknowledged goes back there."""

    exchange: str
    routing_key: str


class Properties(_Part):
    """What the transport itself reads."""

    delivery_tag: str
    delivery_info: DeliveryInfo
    body_encoding: Literal["base64"] | None = None


class Envelope(_Part):
    """What is in the list."""

    body: str
    content_type: Literal["application/json"] = Field(alias="content-type")
    content_encoding: str | None = Field(None, alias="content-encoding")
    headers: dict[str, Any] | None = None
    properties: Properties


class Signatures(_Part):
    """What follows a task. It is merged into the request, so nothing else may be in it."""

    model_config = ConfigDict(extra="forbid")

    callbacks: list[dict[str, Any]] | None = None
    errbacks: list[dict[str, Any]] | None = None
    chain: list[dict[str, Any]] | None = None
    chord: dict[str, Any] | None = None


class Call(_Part):  # type: ignore[no-redef]  # Pydantic's plugin has an argument called `kwargs` itself
    """A call of a task, as the worker reads it, of either version of Celery's protocol."""

    id: str = Field(min_length=1, max_length=255)
    task: str
    shadow: str | None = None
    timelimit: list[PositiveFloat | None] | None = Field(None, min_length=2, max_length=2)
    # Pauses double with each.
    retries: int | None = Field(None, ge=0, le=MAX_RETRIES)
    eta: str | None = None
    expires: str | None = None
    args: list[Any]
    kwargs: dict[str, Any]
    embed: Signatures | None = None

    @field_validator("task")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in current_app.tasks:
            tasks = sorted(name for name in current_app.tasks if not name.startswith("celery."))
            likely = get_close_matches(value[:100], tasks, n=1)
            hint = f"did you mean {likely[0]!r}?" if likely else f"there are {', '.join(tasks)}"
            raise ValueError(f"no task is called {value[:100]!r}; {hint}")
        return value

    @field_validator("eta", "expires")
    @classmethod
    def _moment(cls, value: str | None) -> str | None:
        try:
            maybe_iso8601(value)
        except ValueError:
            raise ValueError("must be a moment in ISO 8601") from None
        return value


class Message(virtual.Message):
    """A message whose moments are by this machine's clock, whatever the sender's says."""

    def __init__(self, payload: dict[str, Any], channel: Any = None, **options: Any) -> None:
        super().__init__(payload, channel, **options)
        if isinstance(self.headers, dict):
            # What is noted, and put back, is the message as it came.
            self.headers = clock.received(self.headers)


class Channel(_Channel):  # type: ignore[misc]
    """A channel whose queues yield only what a worker can read, and lose nothing when the broker is full."""

    QoS = QoS
    Message = Message
    #: The list that the message came from that was taken last.
    taken_from = ""

    def _get_client(self) -> Any:
        channel = self

        class Client(super()._get_client()):  # type: ignore[misc]  # Kombu picks the class
            def ping(self, **options: Any) -> Any:
                """Answer Kombu, which asks once as it connects, whether one can work with this broker."""
                channel.look_at(self)
                return super().ping(**options)

            def parse_response(self, connection: Any, command_name: str, **options: Any) -> Any:
                reply = super().parse_response(connection, command_name, **options)
                if command_name == "BRPOP" and reply:
                    channel.taken_from = reply[0].decode()
                    if channel.refused(*reply):
                        # As if the wait had been in vain: the next one begins.
                        return None
                return reply

        return Client

    # -- connecting -------------------------------------------------------------------------------------

    def look_at(self, client: Any) -> None:
        """Make sure that messages can be taken and acknowledged, and set aside what is in the way.

        Raises:
            RedisError: the broker cannot serve now. A full one can.
        """
        expected = {
            self.unacked_key: b"hash",
            self.unacked_index_key: b"zset",
            QUARANTINE: b"list",
            UNKNOWN: b"list",
            **{self._q_for_pri(queue, step): b"list" for queue in QUEUES for step in self.priority_steps},
        }
        with client.pipeline(transaction=False) as pipe:
            pipe.time()
            for key in expected:
                pipe.type(key)
            (seconds, microseconds), *types = pipe.execute()
        clock.set(seconds + microseconds / 1e6)
        for (key, kind), found in zip(expected.items(), types, strict=True):
            if found not in (kind, b"none"):
                aside = f"roomkeeper.set_aside.{key}.{seconds}"
                client.rename(key, aside)
                log.error("broker.key_set_aside", key=key, type=found.decode(), now=aside)
        installation.confirm_or_end(client)
        # A replica, or a broker with a full disk, answers questions, and refuses this.
        client.hdel(self.unacked_key, "")
        if client.hlen(self.unacked_key) > client.zcard(self.unacked_index_key):
            REINDEX(client, [self.unacked_index_key, self.unacked_key], [clock.now()])
        outstanding.settle(client, self.unacked_index_key, self.unacked_key)

    def _queue_bind(self, *args: Any) -> None:
        try:
            super()._queue_bind(*args)
        except OutOfMemoryError as error:
            # Only who publishes by an exchange's name needs it, and makes it. A worker takes by the queue's.
            log.warning("broker.queue_not_bound", error=described(error))

    # -- publishing -------------------------------------------------------------------------------------

    def _put(self, queue: str, message: dict[str, Any], **options: Any) -> None:
        headers = message.get("headers")
        if isinstance(headers, dict) and "task" in headers:
            # Not in place: it may be published again.
            sent_at = {SENT_AT: clock.now()}
            message = {**message, "headers": sent_at | clock.sent(headers)}
        super()._put(queue, message, **options)

    # -- taking -----------------------------------------------------------------------------------------

    def refused(self, key: bytes, item: bytes) -> bool:
        """Return whether a worker could not read `item`; it is kept elsewhere then."""
        # A priority follows the queue's name.
        if key.decode().partition(self.sep)[0] not in QUEUES:
            return False
        call, reason = self.read(item)
        if reason is None:
            return False
        ids = {"task": _name(call.get("task")), "task_id": _name(call.get("id"))}
        if of_unknown_task(call):
            self._set_aside(item, key.decode(), **ids)
            return True
        try:
            self.quarantine(item, reason, **ids)
        except (RedisError, OSError) as error:
            log.warning("broker.not_quarantined", error=described(error))
            outstanding.keep(
                OutstandingMessage(QUARANTINE, "LPUSH", packed(item, reason), lambda: self.bury(item, reason))
            )
        return True

    def _set_aside(self, item: bytes, queue: str, **ids: str) -> None:
        """Leave a message of a task that this version does not know: a newer one may."""
        packet = unknown_tasks.packed(item, queue, loads(item.decode()).get("headers"))
        try:
            with self.conn_or_acquire() as client:
                PUSH(client, [UNKNOWN], ["LPUSH", packet])
        except (RedisError, OSError) as error:
            log.warning("broker.not_set_aside", error=described(error))
            outstanding.keep(OutstandingMessage(UNKNOWN, "LPUSH", packet, lambda: self.bury(item, None)))
        else:
            log.warning("broker.unknown_task", queue=queue, **ids)

    def read(self, item: bytes) -> tuple[Mapping[str, Any], str | None]:
        """Return a message's call, as far as it can be read, and why a worker could not read it."""
        call: Mapping[str, Any] = {}
        try:
            call = self._call(item)
            Call.model_validate(call)
        except (ValidationError, UnreadableError) as error:
            own = isinstance(error, UnreadableError)
            return call, str(error) if own else dead_letters.reason(error)
        return call, None

    def _call(self, item: bytes) -> Mapping[str, Any]:
        try:
            raw = loads(item.decode())
        except (ValueError, RecursionError):
            raise UnreadableError("the message is not JSON") from None
        envelope = Envelope.model_validate(raw)
        try:
            message = self.Message(raw, channel=self)
            message.accept = {JSON}
            # Where Kombu could not decompress it goes on with what there is.
            body = None if message.errors else message.decode()
        except Exception as error:  # noqa: BLE001 - codecs, compressions and character sets: each has its own
            raise UnreadableError(f"body: {type(error).__name__} while it was decoded") from None
        headers = envelope.headers or {}
        if "task" not in headers and isinstance(body, dict):
            return body | {"embed": {name: body.get(name) for name in Signatures.model_fields}}
        if not (isinstance(body, list) and len(body) == len(BODY)):
            raise UnreadableError(f"body: must be a list of {', '.join(BODY)}")
        return headers | dict(zip(BODY, body, strict=True))

    # -- keeping elsewhere ------------------------------------------------------------------------------

    def quarantine(self, item: bytes, reason: str, **ids: str) -> None:
        """Leave a message to the job that makes dead letters; the database may not answer, and is not asked.

        Args:
            ids: for the log: the task's name and its id.

        Raises:
            RedisError: the broker does not take it.
            OSError: the broker is away.
        """
        with self.conn_or_acquire() as client:
            PUSH(client, [QUARANTINE], ["LPUSH", packed(item, reason)])
        log.warning("broker.message_quarantined", reason=reason[: dead_letters.MAX_REASON_CHARS], **ids)

    def bury(self, item: bytes, reason: str | None) -> None:
        """Make a dead letter of any message, one that can be sent again if it can be read.

        Args:
            reason: why; if None, why it cannot be read.

        Raises:
            SQLAlchemyError: it could not be written.
        """
        call, unreadable = self.read(item)
        payload = (
            {"args": call["args"], "kwargs": call["kwargs"]}
            if unreadable is None or of_unknown_task(call)
            else {"message": dict(call) or item.decode(errors="replace")}
        )
        dead_letters.store(
            task=_name(call.get("task")),
            task_id=_name(call.get("id")),
            payload=payload,
            reason=reason or unreadable or "it could not be read when it was taken",
        )


def of_unknown_task(call: Mapping[str, Any]) -> bool:
    """Return whether nothing is wrong with a call but that no task of this version is called so."""
    name = call.get("task")
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME_CHARS or name in current_app.tasks:
        return False
    try:
        Call.model_validate({**call, "task": next(iter(current_app.tasks))})
    except ValidationError:
        return False
    return True


def _name(value: object) -> str:
    return value if isinstance(value, str) else "unknown"


class Transport(redis.Transport):
    """Redis, with our channel. A broker that cannot serve is one that is away: workers reconnect to it."""

    Channel = Channel
    connection_errors = (*redis.Transport.connection_errors, *REFUSALS)
