"""The broker's transport: Redis, but for messages that no worker could read.

A body that is not base64 or not a task's, a time limit that is no number, a missing id: each of these ends
the worker that takes it off its list, and then the next. They are found out here, as they are taken off,
and become dead letters; the worker goes on.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, Literal

from celery import current_app
from celery.utils.time import maybe_iso8601
from kombu.transport import redis
from kombu.utils.json import loads
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, ValidationError, field_validator

from workers import dead_letters
from workers.queues import KINDS

#: The list of what could not even become a dead letter, because the database was away.
QUARANTINE = "roomkeeper.quarantine"
#: Other lists carry answers and events, which are not tasks.
QUEUES = frozenset(queue for kind in KINDS.values() for queue in kind.queues)
JSON = "application/json"
#: What a task's body consists of, in this order.
BODY = ("args", "kwargs", "embed")


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
    retries: int | None = Field(None, ge=0)
    eta: str | None = None
    expires: str | None = None
    args: list[Any]
    kwargs: dict[str, Any]
    embed: Signatures | None = None

    @field_validator("task")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in current_app.tasks:
            ours = sorted(name for name in current_app.tasks if not name.startswith("celery."))
            likely = get_close_matches(value[:100], ours, n=1)
            hint = f"did you mean {likely[0]!r}?" if likely else f"there are {', '.join(ours)}"
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


class Channel(redis.Channel):
    """A channel whose queues yield only what a worker can read."""

    def _get_client(self) -> Any:
        channel = self

        class Client(super()._get_client()):  # type: ignore[misc]  # Kombu picks the class
            def parse_response(self, connection: Any, command_name: str, **options: Any) -> Any:
                reply = super().parse_response(connection, command_name, **options)
                if command_name == "BRPOP" and reply and channel.refused(*reply):
                    # As if the wait had been in vain: the next one begins.
                    return None
                return reply

        return Client

    def refused(self, key: bytes, item: bytes) -> bool:
        """Return whether a worker could not read `item`; it is kept elsewhere then."""
        # A priority follows the queue's name.
        if key.decode().partition(self.sep)[0] not in QUEUES:
            return False
        call: Mapping[str, Any] = {}
        try:
            call = self._call(item)
            Call.model_validate(call)
        except (ValidationError, UnreadableError) as error:
            own = isinstance(error, UnreadableError)
            self._keep(item, call, str(error) if own else dead_letters.reason(error))
            return True
        return False

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

    def _keep(self, item: bytes, call: Mapping[str, Any], reason: str) -> None:
        kept = dead_letters.keep(
            task=_name(call.get("task")),
            task_id=_name(call.get("id")),
            payload={"message": dict(call) or item.decode(errors="replace")},
            reason=reason,
        )
        if not kept:
            with self.conn_or_acquire() as client:
                client.lpush(QUARANTINE, item)


def _name(value: object) -> str:
    return value if isinstance(value, str) else "unknown"


class Transport(redis.Transport):
    """Redis, with our channel."""

    Channel = Channel
