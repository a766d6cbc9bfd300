"""The whole timetable: what runs when, one line each.

Beat loses a run whose publishing fails, so no job here depends on each tick: each catches up by itself.
A message expires with its period, so that an outage leaves no pile of runs behind.
"""

from datetime import timedelta
from typing import Any

from tasks.apps import every as often
from tasks.apps import policies, rollups
from workers.settings import Settings


def timetable(settings: Settings) -> dict[str, dict[str, Any]]:
    """Return Celery's beat schedule: name of the entry → task, period, expiry."""
    return {
        "delivery.drain": every(settings.drain_every_seconds, "delivery.drain", patience_seconds=60),
        "delivery.audit": every(settings.audit_every_seconds, "delivery.audit"),
        "attachments.recover": every(
            settings.recover_every_seconds, "attachments.recover", patience_seconds=60
        ),
        "attachments.rescan": every(settings.rescan_every_seconds, "attachments.rescan"),
        "attachments.renew_urls": every(600, "attachments.renew_urls"),
        "retention.delete_objects": every(60, "retention.delete_objects"),
        "dead_letters.collect": every(60, "dead_letters.collect"),
        "outbox.relay": every(settings.outbox_every_seconds, "outbox.relay", patience_seconds=60),
        # How often is in the applications' definitions, beside what they do: `roomkeeper policies` lists
        # them.
        **{
            name: every(often(policy, settings).total_seconds(), policy.task, patience_seconds=60)
            for name, policy in policies(settings).items()
        },
        **{
            name: every(often(rollup, settings).total_seconds(), rollup.task, patience_seconds=60)
            for name, rollup in rollups(settings).items()
        },
    }


def every(seconds: float, task: str, patience_seconds: float = 0) -> dict[str, Any]:
    """Return the entry that runs `task` every so many seconds.

    Args:
        patience_seconds: how long its message may wait, if longer than its period. One of each second would
            expire behind a run that takes longer. Those that have waited find nothing left to do.
    """
    expires = max(seconds, patience_seconds)
    return {"task": task, "schedule": timedelta(seconds=seconds), "options": {"expires": expires}}
