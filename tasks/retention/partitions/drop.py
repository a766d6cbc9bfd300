"""Months that are over are dropped as a whole: archived, receipted, and only if every row in them is due.

It goes in this order, and whatever dies in between leaves the partition as it was:

1. A partition that ends before the longest period of the table's policies is looked at: is every row due, by
   one of the policies that run? Rows on hold are not. If a publication publishes its deletes, it is dropped
   when it is empty: subscribers learn of no DROP, so its rows are left to the sweep.
2. It is archived, some pages at a time, by transactions that hold nothing. Archives that a crash leaves were
   noted (`roomkeeper.unfinished_archives`), and go with the next run.
3. In one transaction, of some hundredths of a second: the partition's writers are kept out, and its rows are
   looked at once more. They must be those that were archived, and due. The statistics that count them are
   frozen (`tasks/analytics/rollup_guard.py`); the receipts are written; it is detached and dropped.

That nothing was changed since is told by the rows themselves: each says which transaction has written it
(`xmin`). If all were there before the archive was begun, and there are as many as it has, they are the same.

DETACH needs the whole table for itself, for some milliseconds. It waits no longer than PATIENCE_MS for
transactions that read or write the table, while others queue up; then it is tried again, later. DETACH
CONCURRENTLY would not have to wait, but it can be in no transaction with the receipt, nor where there is a
default partition; a crash in the middle leaves a partition that is neither there nor gone.
"""

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from time import monotonic, perf_counter
from typing import Any
from uuid import UUID, uuid4

from psycopg.errors import InsufficientPrivilege, UndefinedTable
from sqlalchemy import Connection, Select, Table, func, select, text
from sqlalchemy.exc import DBAPIError

from models.platform import Receipt
from tasks.analytics import rollup_guard
from tasks.policies.retention import Retention
from tasks.retention import receipts
from tasks.retention.archive import archives_of
from tasks.retention.batch import HOLD_PATIENCE_MS, HOLDS_LOCK, LONGEST_SECONDS
from tasks.retention.batch_archives import remove_unfinished
from tasks.retention.partitions import archives, publications
from tasks.retention.partitions.archives import Archiver, Archives
from tasks.retention.partitions.catalog import Found, Partition, PartitionError, find, partitions, quoter
from tasks.retention.partitions.create import PATIENCE_MS, TRIES
from tasks.retention.partitions.policies import age_of, running
from tasks.retention.partitions.rows import HORIZON, LOOK_MS, Counts, Kept, PartitionQuery, PolicyMatch
from tasks.retention.safety_limit import ApprovalRequired, allowance
from tasks.sweeps.batch import Contested, Refused, begin
from workers import advice, job_history
from workers.db import transaction
from workers.settings import Settings
from workers.storage import ObjectStore

_BEGIN = text(
    f"SELECT pg_advisory_xact_lock_shared(hashtextextended('{HOLDS_LOCK}', 0)),"
    " set_config('synchronous_commit', 'on', true),"
    f" set_config('idle_in_transaction_session_timeout', '{LONGEST_SECONDS}s', true)"
)
_PATIENCE = text("SELECT set_config('lock_timeout', :patience, true)")


@dataclass(frozen=True, slots=True)
class DropResult:
    """What became of a partition whose time is over.

    Attributes:
        name: its name.
        rows: how many it had.
        kept: why it stays; None if it was dropped, or would be.
        receipts: the numbers of the receipts.
        seconds: how long the table was held for it.
    """

    name: str
    rows: int
    kept: str | None = None
    receipts: tuple[int, ...] = ()
    seconds: float = 0.0


@dataclass(slots=True)
class Dropped:
    """What a run did; `busy` if another run of the table is under way, and nothing was done."""

    results: list[DropResult] = field(default_factory=list)
    busy: bool = False


def drop_past(
    table: Table,
    settings: Settings,
    now: datetime,
    *,
    operator: str | None = None,
    dry_run: bool = False,
    seconds: float | None = None,
    within: job_history.RunEntry | None = None,
    watch: Callable[[str, int], None] = lambda _name, _rows: None,
) -> Dropped:
    """Drop the partitions whose time is over, if every row in them is due; the oldest first.

    Nothing is done if the table is not partitioned by what its policies go by, or none of them runs.

    Args:
        operator: who does it by hand; receipts name them.
        dry_run: only say what would become of which.
        seconds: no partition is begun, or archived on, after so long; None for to the end.
        within: the run that this is a part of, whose connection it uses for its lock.
        watch: is called with a partition's name and the rows archived so far.

    Raises:
        ApprovalRequired: it would take more than it may.
        StoreError: there is no archive, or it cannot be reached.
        PartitionError: the role may not drop them.
    """
    done = Dropped()
    try:
        age = age_of(table)
    except PartitionError:
        return done
    with transaction() as connection:
        found = find(connection, table, age)
        todo = past(connection, found, settings, now)
    if not todo:
        return done
    deadline = None if seconds is None else monotonic() + seconds
    job = f"partitions.{table.fullname}"
    dropping = _Dropping(found, settings, now, job, operator, deadline, watch)
    if dry_run:
        done.results = [dropping.foresee(one) for one in todo]
        return done
    longest = timedelta(days=1) if seconds is None else timedelta(seconds=seconds + LOOK_MS / 1000)
    run = (
        job_history.run(job, quiet=True, longest=longest)
        if within is None
        else job_history.run_within(within, job)
    )
    with run as entry:
        if entry is None:
            done.busy = True
            return done
        dropping.clear()
        for one in todo:
            result = dropping.drop(one)
            done.results.append(result)
            if result.kept is None:
                entry.rows += result.rows
                entry.batches += 1
    return done


def past(connection: Connection, found: Found, settings: Settings, now: datetime) -> list[Partition]:
    """Return the partitions that lie before the longest period of the table's policies that run."""
    periods = [period for _, period in running(found.table, settings)]
    if not found.partitioned or not periods:
        return []
    cutoff = now - max(periods)
    return [
        one
        for one in partitions(connection, found)
        if one.plain and one.ends is not None and one.ends <= cutoff
    ]


@dataclass(slots=True, eq=False)
class _Dropping:
    """One run."""

    found: Found
    settings: Settings
    now: datetime
    job: str
    operator: str | None
    deadline: float | None
    watch: Callable[[str, int], None]
    run: UUID = field(default_factory=uuid4)
    taken: dict[str, int] = field(default_factory=dict)

    def clear(self) -> None:
        """Remove the archives that a run which died has left."""
        from workers.storage.archives import archive_for

        remove_unfinished(self.job, archive_for(self.settings))

    def foresee(self, one: Partition) -> DropResult:
        """Say what would become of a partition."""
        with begin(PATIENCE_MS, LOOK_MS) as connection:
            query = PartitionQuery.of(connection, self.found, one, self.settings, self.now)
            counts = query.count(connection, self.now, horizon=2**62)
            kept = counts.why_kept or _published(connection, one)
        if kept is None:
            try:
                self._approvals(query, counts)
            except ApprovalRequired as reason:
                kept = str(reason)
            else:
                self._count(query, counts)
        return DropResult(one.name, counts.rows, kept)

    def drop(self, one: Partition) -> DropResult:
        """Archive a partition and drop it, if all is as it must be."""
        with begin(PATIENCE_MS, LOOK_MS) as connection:
            if kept := _published(connection, one):
                return DropResult(one.name, one.rows or 0, kept)
            query = PartitionQuery.of(connection, self.found, one, self.settings, self.now)
            # Before anything is read: what was written since is told by it.
            horizon = connection.execute(HORIZON).scalar_one()
        with begin(PATIENCE_MS, LOOK_MS) as connection:
            counts = query.count(connection, self.now, horizon)
            size = connection.execute(archives.SIZE, {"oid": one.oid}).one()
        if kept := counts.why_kept:
            return DropResult(one.name, counts.rows, kept)
        if counts.written:
            return DropResult(
                one.name, counts.rows, "rows were written to it just now; the next run looks again"
            )
        approvals = self._approvals(query, counts)
        stores = {match.policy.name: self._store(match.policy) for match in query.matches}
        archiver = Archiver(self.found.table, self.job, self.run, self.now, self.deadline, self.watch)
        archived: dict[str, Archives] = {}
        try:
            for number, match in enumerate(query.matches):
                store = stores[match.policy.name]
                if counts.by_policy[number] and store is not None:
                    pages = archives.ranges(size, counts.rows, counts.by_policy[number])
                    made = archiver.archive(query, match, store, one, pages)
                    archived[match.policy.name] = made
            result = self._take(query, one, counts, archived, approvals, horizon)
        except Kept as reason:
            result = DropResult(one.name, counts.rows, str(reason))
        if result.kept is not None:
            for name, made in archived.items():
                store = stores[name]
                assert store is not None
                archives.remove(store, made)
        return result

    def _store(self, policy: Retention) -> ObjectStore | None:
        # It looks at us before it sweeps.
        return archives_of(policy, self.settings)

    def _approvals(self, query: PartitionQuery, counts: Counts) -> dict[str, int | None]:
        """See that no policy takes more than it may; return by which approvals.

        Partitions are compared with partitions: a month's rows are many more than what a run sweeps.
        """
        approvals: dict[str, int | None] = {}
        for match, rows in zip(query.matches, counts.by_policy, strict=True):
            if not rows:
                continue
            name = match.policy.name
            with transaction() as connection:
                allowed = allowance(connection, match.policy, self.settings)
                usual = connection.scalar(_usual_month(name, self.run)) or 0
            most = max(allowed.rows, int(self.settings.retention_factor * usual))
            # What was taken by an approval is no more in what it leaves.
            so_far = 0 if allowed.approval is not None else self.taken.get(name, 0)
            if rows + so_far > most:
                raise ApprovalRequired(
                    f"{name} would take {rows + so_far:,} rows with partitions that are over, and may take "
                    f"{most:,}. Look with: roomkeeper partition run {self.found.table.fullname} --dry-run; "
                    f"if it is right: {advice.approve(name)}"
                )
            approvals[name] = allowed.approval
        return approvals

    def _take(
        self,
        query: PartitionQuery,
        one: Partition,
        counts: Counts,
        archived: Mapping[str, Archives],
        approvals: Mapping[str, int | None],
        horizon: int,
    ) -> DropResult:
        last = ""
        for attempt in range(TRIES):
            try:
                return self._at_once(query, one, counts, archived, approvals, horizon)
            except Contested as error:
                last = str(error)
                # So that those behind us get their turn.
                time.sleep(random.uniform(0.02, 0.1) * (attempt + 1))  # noqa: S311
            except Refused as error:
                return DropResult(one.name, counts.rows, f"the database refuses: {error}")
            except DBAPIError as error:
                if isinstance(error.orig, UndefinedTable):
                    return DropResult(one.name, counts.rows, "another session has dropped it meanwhile")
                if isinstance(error.orig, InsufficientPrivilege):
                    owner = self.found.row.owner
                    raise PartitionError(
                        f"The role may not drop {one.schema}.{one.name}: who does must be {owner}, whom the "
                        f"table belongs to, or a member of that role: GRANT {owner} TO ..."
                    ) from error
                raise
        return DropResult(
            one.name, counts.rows, f"others hold it all the time ({last}); the next run tries again"
        )

    def _at_once(
        self,
        query: PartitionQuery,
        one: Partition,
        before: Counts,
        archived: Mapping[str, Archives],
        approvals: Mapping[str, int | None],
        horizon: int,
    ) -> DropResult:
        numbers = []
        with begin(HOLD_PATIENCE_MS, LOOK_MS) as connection:
            quote = quoter(connection)
            name = f"{quote(one.schema)}.{quote(one.name)}"
            connection.execute(_BEGIN)
            connection.execute(_PATIENCE, {"patience": str(PATIENCE_MS)})
            # Readers go on; no session writes it, or drops it, until we are done.
            connection.exec_driver_sql(f"LOCK TABLE {name} IN SHARE ROW EXCLUSIVE MODE")
            counts = query.count_again(connection, self.now, horizon)
            self._same(counts, before, archived, query)
            rollup_guard.freeze(connection, query.closed, counts.latest)
            for match, rows in zip(query.matches, before.by_policy, strict=True):
                # An empty one goes too, and its receipt must say so.
                if rows or (not before.rows and match is query.matches[0]):
                    policy = match.policy.name
                    made = archived.get(policy, Archives())
                    numbers.append(self._receipt(connection, match, one, rows, made, approvals.get(policy)))
            connection.execute(_PATIENCE, {"patience": str(PATIENCE_MS)})
            began = perf_counter()
            connection.exec_driver_sql(f"ALTER TABLE {self.found.real(connection)} DETACH PARTITION {name}")
            connection.exec_driver_sql(f"DROP TABLE {name}")
        seconds = perf_counter() - began
        self._count(query, before)
        return DropResult(one.name, before.rows, None, tuple(numbers), seconds)

    def _count(self, query: PartitionQuery, counts: Counts) -> None:
        for match, rows in zip(query.matches, counts.by_policy, strict=True):
            self.taken[match.policy.name] = self.taken.get(match.policy.name, 0) + rows

    def _same(
        self, counts: Counts, before: Counts, archived: Mapping[str, Archives], query: PartitionQuery
    ) -> None:
        """See that a partition has the rows that were archived, and that all of them are due."""
        if kept := counts.why_kept:
            raise Kept(kept)
        # What was not written since is of the same policy still.
        same = counts == replace(before, by_policy=())
        for match, rows in zip(query.matches, before.by_policy, strict=True):
            made = archived.get(match.policy.name)
            same = same and (made is None or made.rows == rows)
        if not same:
            raise Kept("its rows were changed while they were archived; the next run begins anew")

    def _receipt(
        self,
        connection: Connection,
        match: PolicyMatch,
        one: Partition,
        rows: int,
        made: Archives,
        approval: int | None,
    ) -> int:
        archives.settle(connection, made)
        policy = match.policy
        content = {
            "app": policy.app,
            "table": policy.table.fullname,
            "rule": policy.rule,
            "cutoff": (self.now - match.after).isoformat(),
            "now": self.now.isoformat(),
            "period_seconds": match.after.total_seconds(),
            "partition": {
                "name": one.name,
                "begins": one.begins.isoformat() if one.begins else None,
                "ends": one.ends.isoformat() if one.ends else None,
            },
            "keys": made.keys,
            "tables": {policy.table.fullname: rows},
            "objects": 0,
            "archives": [each.as_json() for each in made.archived],
            "operator": self.operator,
        }
        return receipts.append(
            connection,
            kind="dropped",
            policy=policy.name,
            run=self.run,
            rows=rows,
            content=content,
            approval=approval,
        )


def _published(connection: Connection, one: Partition) -> str | None:
    """Return why a partition with rows must not be dropped: subscribers would keep them for ever."""
    names = publications.of_deletes(connection, one.oid)
    if not names:
        return None
    quote = quoter(connection)
    name = f"{quote(one.schema)}.{quote(one.name)}"
    if not connection.exec_driver_sql(f"SELECT EXISTS (SELECT FROM {name})").scalar_one():  # noqa: S608
        return None
    return (
        f"its deletes are published ({', '.join(names)}), and a DROP is not: its rows are deleted one by "
        "one, and then it is dropped"
    )


def _usual_month(policy: str, run: UUID) -> Select[Any]:
    """Return what a policy's partitions usually have, by those that were dropped last, before this run."""
    latest = (
        select(Receipt.rows)
        .where(Receipt.policy == policy, Receipt.kind == "dropped", Receipt.rows > 0, Receipt.run != run)
        .order_by(Receipt.number.desc())
        .limit(12)
        .subquery()
    )
    return select(func.percentile_disc(0.5).within_group(latest.c.rows))
