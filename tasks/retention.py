"""Retention: each policy of the pages is a task of its own, run in batches that are archived and receipted.

Before a run takes anything it counts. More than `ROOMKEEPER_RETENTION_FACTOR` times what its runs usually
take, and more than `ROOMKEEPER_RETENTION_FLOOR`, is more likely an accident than age: the run stops and waits
for an operator. So does a policy whose rows were put back since: they are due still.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

from sqlalchemy import ColumnElement, Connection, func, select

from models.platform import Approval, Receipt
from tasks.apps import POLICIES, after, every
from tasks.apps.retentions import Retention
from tasks.cleanup import BY_HAND, slot_of
from tasks.engines.batch import Taken
from tasks.engines.retire import PACE, Enough, Retiring, remove_unfinished
from tasks.engines.sweep import Progress, Run
from workers import ledger
from workers.app import task
from workers.db import transaction
from workers.queues import MAINTENANCE
from workers.settings import Settings, get_settings, variable
from workers.storage import ObjectStore, StoreError
from workers.storage.archives import archive_for

#: What is usual is told by so many runs.
RUNS = 20


class Stopped(Exception):
    """A run would take what it should not without an operator's word. The message says why."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """How many rows a run may take, and by which approval, if it is more than usual.

    Attributes:
        usual: what a run takes: the median of the latest that took anything.
    """

    rows: int
    usual: int
    approval: int | None = None


def run(
    policy: Retention,
    settings: Settings,
    *,
    slot: datetime | None = None,
    now: datetime | None = None,
    by_hand: bool = False,
    operator: str | None = None,
    watch: Callable[[Progress], None] = lambda _progress: None,
) -> Progress | None:
    """Run `policy` once; return what it did, or None where another run of it is under way.

    Args:
        slot, now, by_hand, watch: as `tasks.cleanup.run` has them.
        operator: who runs it by hand; receipts name them.

    Raises:
        Stopped: it waits for an approval; nothing was done. The ledger says so.
        StoreError: there is no archive, or it or the objects can not be reached.
    """
    seconds = min(settings.sweep_seconds, settings.task_soft_limit_seconds / 2)
    longest = BY_HAND if by_hand else timedelta(seconds=seconds)
    period = after(policy, settings)
    stopped: Stopped | None = None
    with ledger.run(policy.name, slot=slot, longest=longest + timedelta(minutes=10)) as entry:
        if entry is None:
            return None
        moment = now or entry.started_at
        share = 1.0 if by_hand or policy.walk is None else every(policy, settings) / policy.walk
        archives = archives_of(policy, settings)
        remove_unfinished(policy, archives)
        sweep: Run | None = None
        try:
            with transaction() as connection:
                allowed = allowance(connection, policy, settings)
            batches = Retiring(
                policy,
                moment,
                period,
                settings=settings,
                run=uuid4(),
                archives=archives,
                operator=operator,
                approval=allowed.approval,
                allowed=allowed.rows,
            )

            def after_batch(progress: Progress, _taken: Taken) -> None:
                watch(progress)

            sweep = Run(batches, longest.total_seconds(), share=share, pace=PACE, after_batch=after_batch)
            if allowed.approval is None and sweep.foresee(allowed.rows + 1) > allowed.rows:
                raise _far_more(policy, allowed)
            try:
                sweep.go()
            except Enough:
                sweep.progress.more = True
        except Stopped as reason:
            stopped = reason
            entry.outcome, entry.error = "stopped", str(reason)
        finally:
            if sweep is not None:
                done = sweep.progress
                entry.rows, entry.batches, entry.remaining = done.rows, done.batches, done.remaining
                entry.error = entry.error or done.error
        if stopped is None and sweep is not None and sweep.progress.more:
            entry.outcome = "more"
    if stopped is not None:
        raise stopped
    assert sweep is not None
    return sweep.progress


def archives_of(policy: Retention, settings: Settings) -> ObjectStore | None:
    """Return where the policy's rows are archived; None if they are not.

    Raises:
        StoreError: they are to be, and there is no place for them.
    """
    if not policy.archive or policy.name in settings.archive_off:
        return None
    found = archive_for(settings)
    if found is None:
        without = "" if policy.must_archive else f", or name it in {variable('archive_off')} to do without"
        raise StoreError(
            f"{policy.name} archives its rows before they go, and there is no archive: set "
            f"{variable('archive_root')} or {variable('archive_bucket')}{without}"
        )
    return found


def allowance(connection: Connection, policy: Retention, settings: Settings) -> Allowance:
    """Return how many rows a run of the policy may take now.

    Raises:
        Stopped: rows of it were put back, and nobody has said since that it may go on.
    """
    usual = _usual(connection, policy)
    limit = max(settings.retention_floor, int(settings.retention_factor * usual))
    period = after(policy, settings)
    seconds = None if period is None else period.total_seconds()
    its = Approval.policy == policy.name
    approval = connection.execute(
        select(Approval.id, Approval.rows, Approval.approved_at)
        # For the period that was looked at, and no other.
        .where(its, Approval.expires_at > func.now(), Approval.period_seconds.is_not_distinct_from(seconds))
        .order_by(Approval.id.desc())
        .limit(1)
    ).one_or_none()
    last = connection.scalar(select(func.max(Approval.approved_at)).where(its))
    restored = connection.execute(
        select(Receipt.number)
        .where(Receipt.policy == policy.name, Receipt.kind == "restored", _since(last))
        .limit(1)
    ).one_or_none()
    if restored is not None:
        raise Stopped(
            f"Rows of {policy.name} were put back (receipt {restored.number}) and are due still: place a "
            f"hold on whose they are, then say: roomkeeper retention approve {policy.name}"
        )
    if approval is None:
        return Allowance(limit, usual)
    taken = connection.scalar(
        select(func.coalesce(func.sum(Receipt.rows), 0)).where(
            Receipt.policy == policy.name, Receipt.approval == approval.id
        )
    )
    left = approval.rows + limit - int(taken or 0)
    return Allowance(left, usual, approval.id) if left > 0 else Allowance(limit, usual)


def _since(moment: datetime | None) -> ColumnElement[bool]:
    return Receipt.written_at > moment if moment is not None else Receipt.number > 0


def _usual(connection: Connection, policy: Retention) -> int:
    """Return what a run usually takes, of those that went without an approval."""
    its = (
        select(func.sum(Receipt.rows).label("rows"))
        .where(Receipt.policy == policy.name, Receipt.kind == "taken", Receipt.approval.is_(None))
        .group_by(Receipt.run)
        .order_by(func.max(Receipt.number).desc())
        .limit(RUNS)
        .subquery()
    )
    median = func.percentile_disc(0.5).within_group(its.c.rows)
    return int(connection.scalar(select(median)) or 0)


def _far_more(policy: Retention, allowed: Allowance) -> Stopped:
    return Stopped(
        f"{policy.name} would take more than {allowed.rows:,} rows, and a run of it usually takes "
        f"{allowed.usual:,}. Look with: roomkeeper retention preview {policy.name}; if it is right: "
        f"roomkeeper retention approve {policy.name}"
    )


def _make(policy: Retention) -> None:
    # Not retried: the next run finds all that this one would have.
    @task(name=policy.task, queue=MAINTENANCE, bind=True, autoretry_for=())
    def retain(self: Any) -> None:
        try:
            run(policy, get_settings(), slot=slot_of(self.request.headers))
        except Stopped:
            # The ledger says so, the metric, and `roomkeeper check`: it is no fault of the task's.
            return


for _policy in POLICIES.values():
    if isinstance(_policy, Retention):
        _make(_policy)
