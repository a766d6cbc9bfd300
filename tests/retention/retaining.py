"""Runs of retention policies at an exact moment, and all that they must leave alone."""

from typing import Any

from tasks.apps import POLICIES
from tasks.policies.retention import Retention
from tasks.retention import task as retention
from tasks.sweeps.engine import SweepProgress
from tests.platform import Platform
from tests.sweeps.sweeping import NOW, close_rollups

#: Tables of ours in which a run leaves something.
RUN_TABLES = {
    "roomkeeper.job_runs",
    "roomkeeper.sweep_checkpoints",
    "roomkeeper.receipts",
    "roomkeeper.deletion_events",
    "roomkeeper.rollups",
    "roomkeeper.pern_facts",
    "roomkeeper.attachment_facts",
}


def policy(name: str) -> Retention:
    """Return a retention policy."""
    found = POLICIES[name]
    assert isinstance(found, Retention)
    return found


def days(platform: Platform, **periods: float) -> None:
    """Set periods: `days(platform, **{"pern.messages": 30})`; and a place for archives.

    Statistics keep nothing then, nor where `retain` is called.
    """
    close_rollups(platform)
    platform.set(
        retention_days=",".join(f"{name}={period}" for name, period in periods.items()),
        archive_root=platform.folder / "archive",
    )


def retain(platform: Platform, name: str, *, by_hand: bool = True, **given: Any) -> SweepProgress:
    """Run a policy at NOW, through its whole table, or as beat would."""
    close_rollups(platform)
    done = retention.run(policy(name), platform.settings, now=NOW, by_hand=by_hand, **given)
    assert done is not None, "another run is under way"
    return done


def everything(platform: Platform) -> dict[str, list[tuple[Any, ...]]]:
    """Return every row of every table but those in which a run leaves something."""
    return {name: found for name, found in platform.everything().items() if name not in RUN_TABLES}
