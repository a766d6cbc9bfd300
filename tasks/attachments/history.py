"""A file's event log: one row for each phase of each attempt, and for what operators did."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from time import monotonic
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Interval, bindparam, func, insert

from models.platform import AttachmentEvent
from tasks.policies.columns import table_of

#: The table, not the class: that costs twice as much, and does nothing more here.
_INSERT = insert(table_of(AttachmentEvent))
#: When by the database's clock: that of this machine may be another.
_INSERT_AGO = _INSERT.values(at=func.clock_timestamp() - bindparam("ago", type_=Interval()))


@dataclass(slots=True)
class Event:
    """One thing that happened: `seconds` for what took time, `detail` for what was found, by name.

    `began` is by this process's own clock, which tells no time of day.
    """

    name: str
    began: float
    seconds: float | None = None
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class EventLog:
    """What one attempt has done so far. Kept in memory, and written with the attempt's end: a killed worker's
    is recorded by the job's phase and by the worker that takes over."""

    app: str
    attachment_id: UUID
    attempt: int
    worker: str
    events: list[Event] = field(default_factory=list)
    #: What tells the object that was fetched from any other, as the job keeps it.
    judged_object: str | None = None

    @contextmanager
    def phase(self, name: str) -> Iterator[dict[str, Any]]:
        """Time a phase; yield the dictionary that takes what it finds."""
        event = Event(name, monotonic())
        self.events.append(event)
        try:
            yield event.detail
        except BaseException as error:
            event.detail["error"] = type(error).__name__
            raise
        finally:
            event.seconds = round(monotonic() - event.began, 4)

    def add(self, name: str, **detail: Any) -> None:
        """Note what took no time."""
        self.events.append(Event(name, monotonic(), detail={k: v for k, v in detail.items() if v}))

    def timings(self) -> dict[str, float]:
        """Return how long each phase took, in seconds."""
        return {event.name: event.seconds for event in self.events if event.seconds is not None}

    def write(self, connection: Connection) -> None:
        """Write the events, and forget them."""
        now = monotonic()
        rows = [
            {
                "app": self.app,
                "attachment_id": self.attachment_id,
                "attempt": self.attempt,
                "worker": self.worker,
                "event": event.name,
                "ago": timedelta(seconds=now - event.began),
                "seconds": event.seconds,
                "detail": event.detail,
            }
            for event in self.events
        ]
        if rows:
            connection.execute(_INSERT_AGO, rows)
        self.events.clear()


def note(
    connection: Connection,
    app: str,
    attachment_id: UUID,
    event: str,
    *,
    attempt: int = 0,
    worker: str | None = None,
    actor: str | None = None,
    reason: str | None = None,
    **detail: Any,
) -> None:
    """Write one event that belongs to no attempt: what an operator or a periodic job did."""
    connection.execute(
        _INSERT,
        {
            "app": app,
            "attachment_id": attachment_id,
            "attempt": attempt,
            "worker": worker,
            "event": event,
            "actor": actor,
            "reason": reason,
            "detail": {name: value for name, value in detail.items() if value is not None},
        },
    )
