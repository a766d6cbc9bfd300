"""Cleanup: each policy is a task of its own, run by the sweep engine, one run at a time."""

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial

from tasks import socketio
from tasks.analytics import rollup_guard
from tasks.apps import POLICIES, after, every
from tasks.jobs import periodic
from tasks.policies.retention import Retention
from tasks.policies.sweep import Sweep
from tasks.sweeps.batch import Batches, Taken
from tasks.sweeps.engine import SweepProgress, SweepRun
from tasks.sweeps.limits import table_share, time_limit
from workers import job_history
from workers.db import transaction
from workers.queues import CLEANUP
from workers.settings import Settings


def run(
    policy: Sweep,
    settings: Settings,
    *,
    slot: datetime | None = None,
    now: datetime | None = None,
    by_hand: bool = False,
    watch: Callable[[SweepProgress], None] = lambda _progress: None,
) -> SweepProgress | None:
    """Run `policy` once; return what it did, or None where another run of it is under way.

    Args:
        slot: when it was to begin, for the job history.
        now: the moment that it goes by; the database's clock if None.
        by_hand: to the end, however long that takes, and through the whole table where no index serves.
        watch: is called after each batch.
    """
    emits = socketio.wanted(policy, settings)

    def after_batch(progress: SweepProgress, taken: Taken) -> None:
        if emits and taken.event_rows:
            socketio.emit(policy, taken.event_rows, settings)
        watch(progress)

    longest = time_limit(settings, by_hand=by_hand)
    with job_history.run(policy.name, slot=slot, longest=longest + timedelta(minutes=1)) as entry:
        if entry is None:
            return None
        moment = now or entry.started_at
        with transaction() as connection:
            rolled_up = rollup_guard.ask(connection, [policy], settings, moment)
        turn = every(policy, settings)
        batches = Batches(
            policy,
            moment,
            after(policy, settings),
            emits,
            rolled_up,
            looked_at=max(turn, policy.full_pass_every or turn),
        )
        share = table_share(policy, settings, by_hand=by_hand)
        sweep = SweepRun(batches, longest.total_seconds(), share=share, after_batch=after_batch)
        try:
            progress = sweep.go()
        finally:
            # Of a run that fails too: what it has changed is changed.
            sweep.progress.record(entry)
        entry.outcome = "more" if progress.more else "done"
    return progress


for _policy in POLICIES.values():
    if not isinstance(_policy, Retention):
        periodic(_policy.task, CLEANUP, partial(run, _policy))
