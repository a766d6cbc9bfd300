"""Cleanup: each policy is a task of its own, run by the sweep engine, one run at a time."""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

from tasks import availability, socketio
from tasks.analytics import rollup_guard
from tasks.apps import POLICIES, after, every
from tasks.policies.retention import Retention
from tasks.policies.sweep import Sweep
from tasks.sweeps.batch import Batches, Taken
from tasks.sweeps.engine import Progress, Run
from workers import job_history
from workers.app import task
from workers.db import transaction
from workers.queues import CLEANUP
from workers.settings import Settings, get_settings

#: How long a run by hand may take.
BY_HAND = timedelta(days=1)


def run(
    policy: Sweep,
    settings: Settings,
    *,
    slot: datetime | None = None,
    now: datetime | None = None,
    by_hand: bool = False,
    watch: Callable[[Progress], None] = lambda _progress: None,
) -> Progress | None:
    """Run `policy` once; return what it did, or None where another run of it is under way.

    Args:
        slot: when it was to begin, for the job history.
        now: the moment that it goes by; the database's clock if None.
        by_hand: to the end, however long that takes, and through the whole table where no index serves.
        watch: is called after each batch.
    """
    emits = socketio.wanted(policy, settings)

    def after_batch(progress: Progress, taken: Taken) -> None:
        if emits and taken.event_rows:
            socketio.emit(policy, taken.event_rows, settings)
        watch(progress)

    # Well before a soft limit that is shorter.
    seconds = min(settings.sweep_seconds, settings.task_soft_limit_seconds / 2)
    longest = BY_HAND if by_hand else timedelta(seconds=seconds)
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
        share = 1.0 if by_hand or policy.full_pass_every is None else turn / policy.full_pass_every
        sweep = Run(batches, longest.total_seconds(), share=share, after_batch=after_batch)
        try:
            progress = sweep.go()
        finally:
            # Of a run that fails too: what it has changed is changed.
            done = sweep.progress
            entry.rows, entry.batches, entry.remaining = done.rows, done.batches, done.remaining
            entry.error = done.error
        entry.outcome = "more" if progress.more else "done"
    return progress


def slot_of(headers: Mapping[str, Any] | None) -> datetime | None:
    """Return when beat was to send a message; None for one of somebody else."""
    try:
        slot = datetime.fromisoformat(str((headers or {}).get("slot")))
    except ValueError:
        return None
    return slot if slot.tzinfo else None


def _make(policy: Sweep) -> None:
    # Not retried: the next run comes soon, and finds all that this one would have.
    @task(name=policy.task, queue=CLEANUP, bind=True, autoretry_for=())
    def sweep(self: Any) -> None:
        settings, slot = get_settings(), slot_of(self.request.headers)
        if not availability.skipped(policy.name, settings, slot):
            run(policy, settings, slot=slot)


for _policy in POLICIES.values():
    if not isinstance(_policy, Retention):
        _make(_policy)
