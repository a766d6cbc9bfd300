"""The whole timetable: what runs when, one line each.

Beat loses a run whose publishing fails, so no job here depends on each tick: each catches up by itself.
A message expires with its period, so that an outage leaves no pile of runs behind.
"""

from datetime import timedelta
from typing import Any

from workers.settings import Settings


def timetable(settings: Settings) -> dict[str, dict[str, Any]]:
    """Return Celery's beat schedule: name of the entry → task, period, expiry."""
    return {
        "attachments.recover": every(settings.recover_every_seconds, "attachments.recover"),
        "attachments.rescan": every(settings.rescan_every_seconds, "attachments.rescan"),
        "attachments.renew_addresses": every(600, "attachments.renew_addresses"),
    }


def every(seconds: float, task: str) -> dict[str, Any]:
    """Return the entry that runs `task` every so many seconds."""
    return {"task": task, "schedule": timedelta(seconds=seconds), "options": {"expires": seconds}}
