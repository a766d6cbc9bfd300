"""How long a run of the sweep engine may take, and how much of its table it looks through."""

from datetime import timedelta

from tasks.apps import every
from tasks.jobs import BY_HAND
from tasks.policies.sweep import Sweep
from workers.settings import Settings


def time_limit(settings: Settings, *, by_hand: bool) -> timedelta:
    """Return how long a run may take: well before a soft limit of the task that is shorter."""
    if by_hand:
        return BY_HAND
    return timedelta(seconds=min(settings.sweep_seconds, settings.task_soft_limit_seconds / 2))


def table_share(policy: Sweep, settings: Settings, *, by_hand: bool) -> float:
    """Return which share of the table a run looks through at least; all of it by hand, or at each run."""
    if by_hand or policy.full_pass_every is None:
        return 1.0
    return every(policy, settings) / policy.full_pass_every
