"""What the tasks are given, checked before it is sent.

The workers check it all again. What they allow is spelled here once more, and a test compares the two: this
package imports nothing of theirs.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Literal, get_args
from uuid import UUID

PROCESS_ATTACHMENT = "attachments.process"
RECORD_STATUS = "delivery.record"
RECOUNT_CONVERSATION = "delivery.recount"
RECOMPUTE_ROOM = "analytics.room"
#: The queue of each task.
QUEUES = {
    PROCESS_ATTACHMENT: "attachments",
    RECORD_STATUS: "delivery",
    RECOUNT_CONVERSATION: "delivery",
    RECOMPUTE_ROOM: "maintenance",
}

WITH_ATTACHMENTS = ("openchat", "pern")
WITH_STATUSES = ("openchat", "connect", "pern")
WITH_COUNTERS = ("openchat",)
WITH_ROOMS = ("audiorooms",)
StatusName = Literal["sent", "delivered", "read", "failed"]
#: The most events that one message, or one call of SQL, may carry.
MAX_EVENTS = 1000

Payload = dict[str, Any]
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_CODE = re.compile(r"[A-Z0-9]{6}")


class InvalidPayload(ValueError):
    """A value that no task would take. The text names the field, what is there, and what is allowed.

    It never repeats the value, so it may be logged.
    """


@dataclass(frozen=True, slots=True)
class Status:
    """One status of one message for one person.

    Args:
        status: `sent`, `delivered`, `read` or `failed`.
        at: when it came about, with its offset from UTC. Whether it lies ahead is judged where it arrives, by
            the database's clock and not by this machine's.

    Raises:
        InvalidPayload: a field is not as it must be.
    """

    message_id: UUID | str
    user_id: UUID | str
    status: StatusName
    at: datetime

    def __post_init__(self) -> None:
        _check_id("message_id", self.message_id)
        _check_id("user_id", self.user_id)
        _check_one_of("status", self.status, get_args(StatusName), "a status")
        _check_moment(self.at)

    def event(self) -> Payload:
        """Return it as the task takes it."""
        return {
            "message_id": str(self.message_id),
            "user_id": str(self.user_id),
            # As text, were it a member of a service's own enumeration of strings.
            "status": str.__str__(self.status),
            "at": _in_utc(self.at).isoformat(),
        }


def attachment(app: str, attachment_id: UUID | str) -> Payload:
    """Return what `attachments.process` is given.

    Raises:
        InvalidPayload: the application has no attachments, or the id is none.
    """
    _check_one_of("app", app, WITH_ATTACHMENTS, "an application with attachments")
    _check_id("attachment_id", attachment_id)
    return {"app": app, "id": str(attachment_id)}


def conversation(app: str, conversation_id: UUID | str) -> Payload:
    """Return what `delivery.recount` is given.

    Raises:
        InvalidPayload: the application keeps no counters of its conversations, or the id is none.
    """
    _check_one_of("app", app, WITH_COUNTERS, "an application with counters of conversations")
    _check_id("conversation_id", conversation_id)
    return {"app": app, "conversation_id": str(conversation_id)}


def room(app: str, room: UUID | str) -> Payload:
    """Return what `analytics.room` is given.

    Args:
        room: its id, or its code.

    Raises:
        InvalidPayload: the application has no such statistics, or the room is neither an id nor a code.
    """
    _check_one_of("app", app, WITH_ROOMS, "an application with statistics of rooms")
    if not (_is_id(room) or (isinstance(room, str) and _CODE.fullmatch(room))):
        raise InvalidPayload(
            f"room: neither a UUID nor a code, but {_shape(room)}. "
            "A code is six capital letters and digits, like ABC123."
        )
    return {"app": app, "room": str.__str__(room) if isinstance(room, str) else str(room)}


def events(app: str, statuses: Iterable[Status]) -> list[list[Payload]]:
    """Return the statuses as the task takes them, in as many lists as it needs; none for none.

    Everything is checked before the first list is sent.

    Raises:
        InvalidPayload: the application has no message statuses, or something is not a `Status`.
    """
    _check_one_of("app", app, WITH_STATUSES, "an application with message statuses")
    if not isinstance(statuses, Iterable):
        raise InvalidPayload(f"statuses: not a list, but {_shape(statuses)}. A list of Status is wanted.")
    found = _events(statuses)
    return list(iter(lambda: list(islice(found, MAX_EVENTS)), []))


def _events(statuses: Iterable[Status]) -> Iterator[Payload]:
    for number, status in enumerate(statuses):
        if not isinstance(status, Status):
            raise InvalidPayload(f"statuses[{number}]: not a Status, but {_shape(status)}.")
        yield status.event()


def _check_one_of(field: str, value: object, allowed: tuple[str, ...], kind: str) -> None:
    if not (isinstance(value, str) and value in allowed):
        raise InvalidPayload(f"{field}: not {kind}, but {_shape(value)}. Allowed: {', '.join(allowed)}.")


def _check_id(field: str, value: object) -> None:
    if not _is_id(value):
        raise InvalidPayload(
            f"{field}: not a UUID, but {_shape(value)}. "
            "A UUID looks like 123e4567-e89b-42d3-a456-426614174000."
        )


def _is_id(value: object) -> bool:
    return isinstance(value, UUID) or (isinstance(value, str) and bool(_UUID.fullmatch(value)))


def _check_moment(value: object) -> None:
    if not isinstance(value, datetime):
        raise InvalidPayload(f"at: not a datetime, but {_shape(value)}.")
    if value.utcoffset() is None:
        raise InvalidPayload("at: without an offset from UTC. datetime.now(UTC) has one.")


def _in_utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError:
        # At either end of what Python has, by its offset only.
        return datetime.min.replace(tzinfo=UTC) if value.year == 1 else datetime.max.replace(tzinfo=UTC)


def _shape(value: object) -> str:
    """Say what a value is, without a word of it."""
    if value is None:
        return "None"
    if isinstance(value, str):
        return f"a string of {len(value)} characters"
    return f"a value of type {type(value).__name__}"
