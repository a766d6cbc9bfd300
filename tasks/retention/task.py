"""Retention: each policy is a task of its own, run in batches that are archived and receipted.

Before a run takes anything it counts. More than `ROOMKEEPER_RETENTION_FACTOR` times what its runs usually
take, and more than `ROOMKEEPER_RETENTION_FLOOR`, is more likely an accident than age: the run stops and waits
for an operator. So does a policy whose rows were put back since: they are due still.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from uuid import uuid4

import structlog
from sqlalchemy import Connection, select

from tasks.analytics import rollup_guard
from tasks.apps import POLICIES, after
from tasks.jobs import periodic
from tasks.policies.columns import table_of
from tasks.policies.retention import Retention
from tasks.retention import foreign_keys, partitions
from tasks.retention.archive import archives_of
from tasks.retention.batch import PACE, Enough, RetentionBatches
from tasks.retention.batch_archives import remove_unfinished
from tasks.retention.safety_limit import Allowance, ApprovalRequired, allowance
from tasks.sweeps.batch import Taken
from tasks.sweeps.engine import SweepProgress, SweepRun
from tasks.sweeps.limits import table_share, time_limit
from tasks.sweeps.statements import key_of
from workers import advice, job_history
from workers.db import transaction
from workers.queues import RETENTION
from workers.settings import Settings, variable

#: So many rows are named of those that say what is ignored.
EXAMPLES = 10

log = structlog.get_logger(__name__)


def run(
    policy: Retention,
    settings: Settings,
    *,
    slot: datetime | None = None,
    now: datetime | None = None,
    by_hand: bool = False,
    operator: str | None = None,
    watch: Callable[[SweepProgress], None] = lambda _progress: None,
) -> SweepProgress | None:
    """Run `policy` once; return what it did, or None where another run of it is under way.

    Args:
        slot, now, by_hand, watch: as `tasks.sweeps.task.run` has them.
        operator: who runs it by hand; receipts name them.

    Raises:
        ApprovalRequired: it waits for an approval; nothing was done. The job history says so.
        StoreError: there is no archive, or it or the objects cannot be reached.
    """
    longest = time_limit(settings, by_hand=by_hand)
    period = after(policy, settings)
    if policy.off_until_set and period is None:
        raise ApprovalRequired(
            f"{policy.name} has no period: set {variable('retention_days')}={policy.name}=DAYS"
        )
    stopped: ApprovalRequired | None = None
    with job_history.run(policy.name, slot=slot, longest=longest + timedelta(minutes=10)) as entry:
        if entry is None:
            return None
        moment = now or entry.started_at
        archives = archives_of(policy, settings)
        remove_unfinished(policy.name, archives)
        sweep: SweepRun | None = None
        try:
            with transaction() as connection:
                if strangers := foreign_keys.unknown(connection, policy):
                    raise foreign_keys.UnknownReferenceError(
                        f"{policy.name} does not know what becomes of {', '.join(strangers)}, which would go "
                        "along by a foreign key: nothing goes until it is RESTRICT, or the policy names it"
                    )
            # What lies in months that are past as a whole goes with them.
            dropped = partitions.keep(
                policy, settings, moment, operator=operator, seconds=longest.total_seconds(), within=entry
            )
            entry.error = "; ".join(dropped) or None
            with transaction() as connection:
                allowed = allowance(connection, policy, settings)
                rolled_up = rollup_guard.ask(connection, [policy], settings, moment)
            batches = RetentionBatches(
                policy,
                moment,
                period,
                closed=rolled_up,
                settings=settings,
                run=uuid4(),
                archives=archives,
                operator=operator,
                approval=allowed.approval,
                allowed=allowed.rows,
            )

            def after_batch(progress: SweepProgress, _taken: Taken) -> None:
                watch(progress)

            share = table_share(policy, settings, by_hand=by_hand)
            sweep = SweepRun(
                batches, longest.total_seconds(), share=share, pace=PACE, after_batch=after_batch
            )
            if allowed.approval is None and sweep.foresee(allowed.rows + 1) > allowed.rows:
                raise _far_more(policy, allowed)
            try:
                sweep.go()
            except Enough:
                sweep.progress.more = True
            sweep.progress.more |= batches.spent
        except ApprovalRequired as reason:
            stopped = reason
            entry.outcome, entry.error = "stopped", str(reason)
        finally:
            if sweep is not None:
                sweep.progress.record(entry)
        if stopped is None and sweep is not None and sweep.progress.more:
            entry.outcome = "more"
    if stopped is not None:
        raise stopped
    _tell_ignored(policy)
    assert sweep is not None
    return sweep.progress


def ignored(connection: Connection, policy: Retention, at_most: int) -> list[Any]:
    """Return the keys of rows that say what the policy ignores, so many at most."""
    if policy.ignored is None:
        return []
    key = key_of(table_of(policy.ignored.model))
    return list(connection.execute(select(key).where(policy.ignored.which).limit(at_most)).scalars())


def _tell_ignored(policy: Retention) -> None:
    if policy.ignored is None:
        return
    with transaction() as connection:
        found = ignored(connection, policy, EXAMPLES)
    if found:
        table = table_of(policy.ignored.model).fullname
        ids = [str(one) for one in found]
        log.warning("retention.ignored", policy=policy.name, why=policy.ignored.why, table=table, ids=ids)


def _far_more(policy: Retention, allowed: Allowance) -> ApprovalRequired:
    return ApprovalRequired(
        f"{policy.name} would take more than {allowed.rows:,} rows, and a run of it usually takes "
        f"{allowed.usual:,}. Look with: roomkeeper retention preview {policy.name}; if it is right: "
        f"{advice.approve(policy.name)}"
    )


def _scheduled(policy: Retention, settings: Settings, *, slot: datetime | None) -> None:
    try:
        run(policy, settings, slot=slot)
    except ApprovalRequired:
        # The job history says so, the metric, and `roomkeeper check`: it is no fault of the task's.
        return


for _policy in POLICIES.values():
    if isinstance(_policy, Retention):
        periodic(_policy.task, RETENTION, partial(_scheduled, _policy))
