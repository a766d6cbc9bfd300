"""What the jobs of policies and rollups share: their tasks and slots, and how long a run by hand may take."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Protocol

from tasks import availability
from workers.app import task
from workers.settings import Settings, get_settings

#: How long a run by hand may take.
BY_HAND = timedelta(days=1)


class RunJob(Protocol):
    """Runs a job once; `slot` is when beat was to send it. What it returns is ignored."""

    def __call__(self, settings: Settings, *, slot: datetime | None) -> object:
        """Run it."""


def periodic(name: str, queue: str, run: RunJob) -> None:
    """Make the task of a periodic job; of an application that is switched off it does nothing.

    Args:
        name: of the task; the timetable and the job history have the job under the same name.
    """

    # Not retried: the next run finds all that this one would have. No events: hundreds of thousands of idle
    # runs a day would push out of Flower what operators look for; the job history has each run.
    @task(name=name, queue=queue, bind=True, autoretry_for=(), send_events=False)
    def job(self: Any) -> None:
        settings, slot = get_settings(), slot_of(self.request.headers)
        if not availability.skipped(name, settings, slot):
            run(settings, slot=slot)


def slot_of(headers: Mapping[str, Any] | None) -> datetime | None:
    """Return when beat was to send a message; None for a message from another sender."""
    try:
        slot = datetime.fromisoformat(str((headers or {}).get("slot")))
    except ValueError:
        return None
    return slot if slot.tzinfo else None
