"""What an API service reports: a message's status for one person."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter, field_validator

from tasks.apps import APPS

Status = Literal["sent", "delivered", "read", "failed"]
#: The most events that one message or one call of SQL may carry.
MAX_EVENTS = 1000
#: The applications that have message statuses.
WITH_STATUSES = tuple(app.name for app in APPS.values() if app.delivery)

#: A message and a person.
Pair = tuple[UUID, UUID]


def _in_utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError:
        # At either end of what Python has, by its offset only.
        return datetime.min.replace(tzinfo=UTC) if value.year == 1 else datetime.max.replace(tzinfo=UTC)


class Event(BaseModel):
    """One status of one message for one person; `at` is when it came about, with its offset from UTC.

    Any moment is accepted: clients' clocks are wrong at times. `tasks/delivery/arrival.py` judges what is
    ahead, and each merge what is before its message.
    """

    # Values stay out of error messages: those reach logs and Flower.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    message_id: UUID
    user_id: UUID
    status: Status
    at: Annotated[AwareDatetime, AfterValidator(_in_utc)]

    @property
    def pair(self) -> Pair:
        """The message and the person."""
        return self.message_id, self.user_id


class RecordStatus(BaseModel):
    """What `delivery.record` is given: the application's name, and 1 to 1,000 events."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    app: str
    events: Annotated[list[Event], Field(min_length=1, max_length=MAX_EVENTS)]

    @field_validator("app")
    @classmethod
    def _has_statuses(cls, value: str) -> str:
        if value not in WITH_STATUSES:
            raise ValueError(f"must be an application with message statuses: {', '.join(WITH_STATUSES)}")
        return value


_EVENTS = TypeAdapter(list[Event])


def dumped(events: Iterable[Event]) -> list[dict[str, Any]]:
    """Return the events as JSON takes them."""
    dump: list[dict[str, Any]] = _EVENTS.dump_python(list(events), mode="json")
    return dump


@dataclass(slots=True)
class Folded:
    """All that a batch says of one message and one person.

    `delivered_at` and `read_at` are the earliest; `last_read_at` is the latest time of reading.
    """

    status: Status
    delivered_at: datetime | None = None
    read_at: datetime | None = None
    last_read_at: datetime | None = None


def fold(events: Iterable[Event], order: tuple[str, ...]) -> dict[Pair, Folded]:
    """Return one entry for each pair, in the order of their keys: locks are taken in that order.

    Args:
        order: the statuses from the weakest to the strongest. What was read was delivered.
    """
    rank = {status: number for number, status in enumerate(order)}
    found: dict[Pair, Folded] = {}
    for event in events:
        entry = found.get(event.pair)
        if entry is None:
            entry = found[event.pair] = Folded(event.status)
        elif rank[event.status] > rank[entry.status]:
            entry.status = event.status
        if event.status in ("delivered", "read"):
            entry.delivered_at = min(entry.delivered_at or event.at, event.at)
        if event.status == "read":
            entry.read_at = min(entry.read_at or event.at, event.at)
            entry.last_read_at = max(entry.last_read_at or event.at, event.at)
    # By number, as PostgreSQL orders them: comparing the objects takes ten times as long.
    return dict(sorted(found.items(), key=lambda item: (item[0][0].int, item[0][1].int)))
