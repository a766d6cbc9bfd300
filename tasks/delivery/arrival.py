"""Times that lie ahead of the platform's clock, which is the database's: judged once, when an event arrives.

An API service's clock, or a phone's, may be ahead. Up to a day an event counts as of its arrival: what is
merged is never ahead, so that no order of events, and no later merge, ends in other rows. An event of later
than that becomes a dead letter, and nothing else of its call does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection

from tasks.delivery import inbox
from tasks.delivery.events import Event, dumped
from workers.metrics import EVENTS_AHEAD

#: An event this far ahead of its arrival is still taken.
MAX_AHEAD = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Arrived:
    """The events of one call as they are merged, and how many were ahead."""

    app: str
    events: list[Event]
    clamped: int = 0
    refused: int = 0

    def count(self) -> None:
        """Count those that were ahead; call it once the transaction has committed."""
        for outcome, number in (("clamped", self.clamped), ("refused", self.refused)):
            if number:
                EVENTS_AHEAD.labels(self.app, outcome).inc(number)


def arrive(connection: Connection, app: str, events: Sequence[Event], arrival: datetime) -> Arrived:
    """Return the events with times up to their arrival; those too far ahead are kept as a dead letter.

    Args:
        arrival: when the platform received them, by the database's clock. The same events with the same
            arrival have the same times again.
    """
    ahead = [event for event in events if event.at > arrival]
    if not ahead:
        return Arrived(app, list(events))
    limit = arrival + MAX_AHEAD
    refused = [event for event in ahead if event.at > limit]
    if refused:
        furthest = max(event.at for event in refused)
        inbox.give_up(
            connection,
            app,
            dumped(refused),
            f"at: {furthest.isoformat()} is more than a day ahead of the platform's clock, "
            f"{arrival.isoformat()}, as the latest of {len(refused)} of {len(events)} events. "
            "Allowed: up to a day ahead, which counts as of its arrival.",
        )
    taken = [
        event.model_copy(update={"at": arrival}) if event.at > arrival else event
        for event in events
        if event.at <= limit
    ]
    return Arrived(app, taken, len(ahead) - len(refused), len(refused))
