"""What a policy would take now, counted and sampled: for commands, which need no Celery to ask."""

from datetime import datetime
from typing import Any

from sqlalchemy import select

from tasks.analytics import rollup_guard
from tasks.apps import after
from tasks.policies.sweep import Sweep
from tasks.sweeps import future_timestamps
from tasks.sweeps.batch import Batches
from tasks.sweeps.statements import key_of
from workers.db import clock, transaction
from workers.settings import Settings


def eligible(policy: Sweep, settings: Settings, at_most: int, now: datetime | None = None) -> int:
    """Count the rows that are due now, up to a number. May read the whole table."""
    moment = now or clock()
    rolled_up = rollup_guard.Closed()
    if rollup_guard.counting(policy):
        with transaction() as connection:
            rolled_up = rollup_guard.ask(connection, [policy], settings, moment)
    return Batches(policy, moment, after(policy, settings), closed=rolled_up).due(at_most)


def samples(policy: Sweep, settings: Settings, at_most: int, now: datetime | None = None) -> list[Any]:
    """Return the keys of some rows that are due. May read the whole table."""
    moment = now or clock()
    with transaction() as connection:
        rolled_up = rollup_guard.ask(connection, [policy], settings, moment)
        values = {"now": moment, "after": after(policy, settings), **rolled_up.values}
        due = future_timestamps.settled(policy, rollup_guard.due(policy))
        found = select(key_of(policy.table)).where(due).limit(at_most)
        return list(connection.execute(found, values).scalars())
