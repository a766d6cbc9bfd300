"""The whole timetable: what runs when, one line each.

Beat loses a run whose publishing fails, so no job here depends on each tick: each catches up by itself.
Beat sends a job only if none of its messages waits (`workers/beat.py`), so an outage leaves one run of each.
"""

from datetime import timedelta
from typing import Any

from tasks.apps import every as often
from tasks.apps import policies, rollups
from workers.settings import Settings

#: How long a message waits in a long queue before it expires, if that is longer than its period. Less, and
#: with workers that are overloaded for a while the jobs at the end of each round would never run.
PATIENCE_SECONDS = 600.0


def timetable(settings: Settings) -> dict[str, dict[str, Any]]:
    """Return Celery's beat schedule: name of the entry → task, period, expiry."""
    return {
        "delivery.drain": every(settings.drain_every_seconds, "delivery.drain"),
        "delivery.audit": every(settings.audit_every_seconds, "delivery.audit"),
        "attachments.recover": every(settings.recover_every_seconds, "attachments.recover"),
        "attachments.rescan": every(settings.rescan_every_seconds, "attachments.rescan"),
        "attachments.renew_urls": every(600, "attachments.renew_urls"),
        "retention.delete_objects": every(60, "retention.delete_objects"),
        "dead_letters.collect": every(60, "dead_letters.collect"),
        "outbox.relay": every(settings.outbox_every_seconds, "outbox.relay"),
        # How often is in the applications' definitions, beside what they do: `roomkeeper policies` lists
        # them.
        **{
            name: every(often(policy, settings).total_seconds(), policy.task)
            for name, policy in policies(settings).items()
        },
        **{
            name: every(often(rollup, settings).total_seconds(), rollup.task)
            for name, rollup in rollups(settings).items()
        },
    }


def every(seconds: float, task: str) -> dict[str, Any]:
    """Return the entry that runs `task` every so many seconds."""
    return {
        "task": task,
        "schedule": timedelta(seconds=seconds),
        "options": {"expires": max(seconds, PATIENCE_SECONDS)},
    }
