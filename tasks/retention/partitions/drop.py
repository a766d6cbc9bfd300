"""Months that are over are dropped as a whole: archived, receipted, and only if every row in them is due.

It goes in this order, and whatever dies in between leaves the partition as it was:

1. A partition that ends before the longest period of the table's policies is looked at: is every row due, by
   one of the policies that run? Rows on hold are not.
2. It is archived, some pages at a time, by transactions that hold nothing. Archives that a crash leaves were
   noted (`roomkeeper.unfinished_archives`), and go with the next run.
3. In one transaction, of some hundredths of a second: the partition's writers are kept out, and its rows are
   looked at once more. They must be those that were archived, and due. The figures that count them are
   frozen (`tasks/analytics/rollup_guard.py`); the receipts are written; it is detached and dropped.

That nothing was changed since is told by the rows themselves: each says which transaction has written it
(`xmin`). If all were there before the archive was begun, and there are as many as it has, they are the same.

DETACH needs the whole table for itself, for some milliseconds. Whoever reads or writes it is not waited for
longer than PATIENCE_MS, in which others queue up; then it is tried again, later. DETACH CONCURRENTLY would
not have to wait, but it can be in no transaction with the receipt, nor where there is a default partition;
a crash in the middle leaves a partition that is neither there nor gone.
"""

import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from time import monotonic, perf_counter
from typing import Any
from uuid import UUID, uuid4

from psycopg.errors import InsufficientPrivilege, UndefinedTable
from sqlalchemy import (
    BigInteger,
    BindParameter,
    Column,
    ColumnElement,
    Connection,
    MetaData,
    Select,
    String,
    Table,
    and_,
    bindparam,
    case,
    delete,
    false,
    func,
    literal_column,
    or_,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.visitors import replacement_traverse

from models.platform import Receipt, UnfinishedArchive
from tasks.analytics import rollup_guard
from tasks.analytics.rollup_guard import Closed, Latest
from tasks.policies.retention import Retention
from tasks.policies.sweep import AFTER
from tasks.retention import archive, receipts
from tasks.retention.archive import Archived, archives_of
from tasks.retention.batch import HOLD_PATIENCE_MS, HOLDS_LOCK, STORE_SECONDS, remove_unfinished
from tasks.retention.cascade import ALL
from tasks.retention.partitions.catalog import Found, Partition, PartitionError, find, partitions, quoter
from tasks.retention.partitions.create import PATIENCE_MS, TRIES
from tasks.retention.partitions.policies import age_of, running
from tasks.retention.safety_limit import ApprovalRequired, allowance
from tasks.sweeps.batch import Contested, Refused, begin
from tasks.sweeps.statements import key_of, on_pages
from workers import advice, job_history
from workers.db import transaction
from workers.settings import Settings
from workers.storage import ObjectStore

#: Rows of an archive, about; and of what is read for it, in bytes, that memory stays what it is.
ARCHIVE_ROWS = 100_000
_READ_BYTES = 64 * 1024 * 1024
#: How long the look at all rows of a partition may take.
_LOOK_MS = 600_000
_BEGIN = text(
    f"SELECT pg_advisory_xact_lock_shared(hashtextextended('{HOLDS_LOCK}', 0)),"
    " set_config('synchronous_commit', 'on', true),"
    f" set_config('idle_in_transaction_session_timeout', '{STORE_SECONDS}s', true)"
)
_PATIENCE = text("SELECT set_config('lock_timeout', :patience, true)")
#: What was written by older transactions than this one was there before.
_HORIZON = text("SELECT CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS bigint)")
#: `xmin` has the lower half of a number that only grows: the upper half is that of the latest.
_WRITER: ColumnElement[int] = literal_column(
    "(SELECT latest - latest % 4294967296 FROM (SELECT CAST(CAST(pg_snapshot_xmax(pg_current_snapshot())"
    " AS text) AS bigint) AS latest) AS clock) + CAST(CAST(xmin AS text) AS bigint)"
)
_WRITTEN_BY = case(
    (
        literal_column("(SELECT CAST(CAST(pg_snapshot_xmax(pg_current_snapshot()) AS text) AS bigint))")
        > _WRITER,
        _WRITER,
    ),
    else_=_WRITER - 2**32,
)
_ON_PAGES = text("ctid >= CAST(:first_place AS tid) AND ctid < CAST(:last_place AS tid)").bindparams(
    bindparam("first_place", type_=String), bindparam("last_place", type_=String)
)
_SIZE = text("""
    SELECT pg_relation_size(oid) / current_setting('block_size')::bigint AS pages,
           pg_table_size(oid) AS bytes, pg_relation_filenode(oid) AS file
      FROM pg_catalog.pg_class WHERE oid = :oid
""")


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

    fates: list[DropResult] = field(default_factory=list)
    busy: bool = False


class _Changed(Exception):
    """The partition is not what was archived, or is to stay."""


@dataclass(frozen=True, slots=True)
class _PolicyMatch:
    """A policy that runs, and which rows of a partition it takes."""

    policy: Retention
    after: timedelta
    takes: ColumnElement[bool]


def drop_past(
    table: Table,
    settings: Settings,
    now: datetime,
    *,
    operator: str | None = None,
    dry_run: bool = False,
    seconds: float | None = None,
    watch: Callable[[str, int], None] = lambda _name, _rows: None,
) -> Dropped:
    """Drop the partitions whose time is over, if every row in them is due; the oldest first.

    Nothing is done if the table is not partitioned by what its policies go by, or none of them runs.

    Args:
        operator: who does it by hand; receipts name them.
        dry_run: only say what would become of which.
        seconds: no partition is begun, or archived on, after so long; None for to the end.
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
        done.fates = [dropping.foresee(one) for one in todo]
        return done
    longest = timedelta(days=1) if seconds is None else timedelta(seconds=seconds + _LOOK_MS / 1000)
    with job_history.run(job, quiet=True, longest=longest) as entry:
        if entry is None:
            done.busy = True
            return done
        dropping.clear()
        for one in todo:
            fate = dropping.drop(one)
            done.fates.append(fate)
            if fate.kept is None:
                entry.rows += fate.rows
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


def _why_kept(counts: "_Counts") -> str | None:
    if not counts.kept:
        return None
    which = "1 row in it is" if counts.kept == 1 else f"{counts.kept:,} rows in it are"
    return f"{which} not due: on hold, not in the figures yet, or of a policy that is off or keeps it"


@dataclass(frozen=True, slots=True)
class _Counts:
    """Rows of a partition: all, those that stay, those that were written since, and each policy's.

    `file` is another if the table was written anew. `latest` are their latest moments by rollup.
    """

    rows: int
    kept: int
    written: int
    file: int
    by_policy: tuple[int, ...] = ()
    latest: Latest = field(default_factory=dict, compare=False)


@dataclass(frozen=True, slots=True, eq=False)
class _PartitionQuery:
    """A partition as a table of statements, and who takes its rows.

    Attributes:
        look: counts its rows, those of each policy too.
        look_again: counts them as far as that tells whether something was changed; with their latest moments,
            each for one of the rollups `freezing`.
        closed: how far the rollups have come that count them.
    """

    table: Table
    oid: int
    judges: tuple[_PolicyMatch, ...]
    look: Select[Any]
    look_again: Select[Any]
    freezing: tuple[str, ...]
    closed: Closed

    @classmethod
    def of(
        cls, connection: Connection, found: Found, one: Partition, settings: Settings, now: datetime
    ) -> "_PartitionQuery":
        """Make it; `connection` tells what schemas are called."""
        real = connection.get_execution_options().get("schema_translate_map", {})
        logical = {called: schema for schema, called in real.items()}
        schema = logical.get(one.schema, one.schema)
        table = found.table.to_metadata(MetaData(), schema=schema, name=one.name)
        judges, before = [], list[ColumnElement[bool]]()
        on = running(found.table, settings)
        for number, (policy, period) in enumerate(on):
            takes = _moved(rollup_guard.due(policy), found.table, table, number)
            # A row that two of them would take is the first one's.
            judges.append(_PolicyMatch(policy, period, and_(takes, *(one.is_not(True) for one in before))))
            before.append(takes)
        rows: Select[Any] = select(
            func.count(),
            func.count().filter(or_(false(), *before).is_not(True)),
            func.count().filter(bindparam("horizon", type_=BigInteger) <= _WRITTEN_BY),
            func.pg_relation_filenode(one.oid),
        ).select_from(table)
        look = rows.add_columns(*(func.count().filter(one.takes) for one in judges))
        moments = rollup_guard.moments(found.table)
        again = rows.add_columns(*(func.max(_moved(at, found.table, table, 0)) for _, at in moments))
        names = tuple(name for name, _ in moments)
        rolled_up = rollup_guard.ask(connection, [policy for policy, _ in on], settings, now)
        return cls(table, one.oid, tuple(judges), look, again, names, rolled_up)

    def values(self, now: datetime) -> dict[str, Any]:
        """Return the parameters of the policies' conditions."""
        periods = {f"after_{number}": one.after for number, one in enumerate(self.judges)}
        return {"now": now, **periods, **self.closed.values}

    def count(self, connection: Connection, now: datetime, horizon: int) -> _Counts:
        """Look at all rows."""
        values = {**self.values(now), "horizon": horizon}
        rows, kept, written, file, *by_policy = connection.execute(self.look, values).one()
        return _Counts(rows, kept, written, file, tuple(by_policy))

    def count_again(self, connection: Connection, now: datetime, horizon: int) -> _Counts:
        """Look at all rows once more."""
        values = {**self.values(now), "horizon": horizon}
        rows, kept, written, file, *moments = connection.execute(self.look_again, values).one()
        latest = rollup_guard.merged(self.freezing, [moments])
        return _Counts(rows, kept, written, file, latest=latest)


def _moved(condition: ColumnElement[Any], table: Table, to: Table, number: int) -> ColumnElement[Any]:
    """Return an expression on rows of `table` as one on those of a partition, with a period of its own."""

    def other(element: Any, **_: Any) -> Any:
        if isinstance(element, Column) and getattr(element.table, "fullname", None) == table.fullname:
            return to.c[element.key]
        if isinstance(element, BindParameter) and element.key == AFTER.key:
            return bindparam(f"after_{number}", type_=element.type)
        return None

    moved: ColumnElement[Any] = replacement_traverse(condition, {}, other)
    return moved


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
        with begin(PATIENCE_MS, _LOOK_MS) as connection:
            sheet = _PartitionQuery.of(connection, self.found, one, self.settings, self.now)
            counts = sheet.count(connection, self.now, horizon=2**62)
        kept = _why_kept(counts)
        if kept is None:
            try:
                self._approvals(sheet, counts)
            except ApprovalRequired as reason:
                kept = str(reason)
            else:
                self._count(sheet, counts)
        return DropResult(one.name, counts.rows, kept)

    def drop(self, one: Partition) -> DropResult:
        """Archive a partition and drop it, if all is as it must be."""
        with begin(PATIENCE_MS, _LOOK_MS) as connection:
            sheet = _PartitionQuery.of(connection, self.found, one, self.settings, self.now)
            # Before anything is read: what was written since is told by it.
            horizon = connection.execute(_HORIZON).scalar_one()
        with begin(PATIENCE_MS, _LOOK_MS) as connection:
            counts = sheet.count(connection, self.now, horizon)
            size = connection.execute(_SIZE, {"oid": one.oid}).one()
        if kept := _why_kept(counts):
            return DropResult(one.name, counts.rows, kept)
        if counts.written:
            return DropResult(
                one.name, counts.rows, "rows were written to it just now; the next run looks again"
            )
        approvals = self._approvals(sheet, counts)
        stores = {judge.policy.name: self._store(judge.policy) for judge in sheet.judges}
        archived: dict[str, _Archives] = {}
        try:
            for number, judge in enumerate(sheet.judges):
                store = stores[judge.policy.name]
                if counts.by_policy[number] and store is not None:
                    ranges = _ranges(size, counts.rows, counts.by_policy[number])
                    archived[judge.policy.name] = self._archive(sheet, judge, store, one, ranges)
            fate = self._take(sheet, one, counts, archived, approvals, horizon)
        except _Changed as reason:
            fate = DropResult(one.name, counts.rows, str(reason))
        if fate.kept is not None:
            for name, made in archived.items():
                store = stores[name]
                assert store is not None
                self._forget(store, [each.key for each in made.archived])
        return fate

    def _store(self, policy: Retention) -> ObjectStore | None:
        # It looks at us before it sweeps.
        return archives_of(policy, self.settings)

    def _approvals(self, sheet: "_PartitionQuery", counts: _Counts) -> dict[str, int | None]:
        """See that no policy takes more than it may; return by which approvals.

        Partitions are compared with partitions: a month's rows are many more than what a run sweeps.
        """
        approvals: dict[str, int | None] = {}
        for judge, rows in zip(sheet.judges, counts.by_policy, strict=True):
            if not rows:
                continue
            name = judge.policy.name
            with transaction() as connection:
                allowed = allowance(connection, judge.policy, self.settings)
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

    def _archive(
        self,
        sheet: "_PartitionQuery",
        judge: _PolicyMatch,
        store: ObjectStore,
        one: Partition,
        ranges: Iterator[tuple[int, int]],
    ) -> "_Archives":
        policy = judge.policy.name
        made = _Archives()
        about = {"policy": policy, "run": str(self.run), "now": self.now.isoformat(), "partition": one.name}
        statement = select(ALL).select_from(sheet.table).where(_ON_PAGES, judge.takes)
        for first, last in ranges:
            if self.deadline is not None and monotonic() > self.deadline:
                raise _Changed(
                    "to archive it takes longer than a scheduled run has; by hand: "
                    f"roomkeeper partition run {self.found.table.fullname}"
                )
            with begin(PATIENCE_MS, _LOOK_MS) as connection:
                values = {**sheet.values(self.now), **on_pages(first, last)}
                rows = archive.copy_out(connection, statement, values)
            if not rows.num_rows:
                continue
            number = len(made.archived) + 1
            key = f"{policy}/{self.now:%Y/%m/%d}/{self.run}-{number:05}-{one.name}.parquet"
            with transaction() as connection:
                connection.execute(insert(UnfinishedArchive).values(key=key, policy=self.job))
            made.archived.append(archive.write(store, key, self.found.table.fullname, rows, about))
            made.see(rows, key_of(self.found.table).name)
            self.watch(one.name, made.rows)
        return made

    def _take(
        self,
        sheet: "_PartitionQuery",
        one: Partition,
        counts: _Counts,
        archived: "Mapping[str, _Archives]",
        approvals: Mapping[str, int | None],
        horizon: int,
    ) -> DropResult:
        last = ""
        for attempt in range(TRIES):
            try:
                return self._at_once(sheet, one, counts, archived, approvals, horizon)
            except Contested as error:
                last = str(error)
                # So that those behind us get their turn.
                time.sleep(random.uniform(0.02, 0.1) * (attempt + 1))  # noqa: S311
            except Refused as error:
                return DropResult(one.name, counts.rows, f"the database refuses: {error}")
            except DBAPIError as error:
                if isinstance(error.orig, UndefinedTable):
                    return DropResult(one.name, counts.rows, "somebody else has dropped it meanwhile")
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
        sheet: "_PartitionQuery",
        one: Partition,
        before: _Counts,
        archived: "Mapping[str, _Archives]",
        approvals: Mapping[str, int | None],
        horizon: int,
    ) -> DropResult:
        numbers = []
        with begin(HOLD_PATIENCE_MS, _LOOK_MS) as connection:
            quote = quoter(connection)
            name = f"{quote(one.schema)}.{quote(one.name)}"
            connection.execute(_BEGIN)
            connection.execute(_PATIENCE, {"patience": str(PATIENCE_MS)})
            # Who reads it goes on; nobody writes it, or drops it, until we are done.
            connection.exec_driver_sql(f"LOCK TABLE {name} IN SHARE ROW EXCLUSIVE MODE")
            counts = sheet.count_again(connection, self.now, horizon)
            self._same(counts, before, archived, sheet)
            rollup_guard.freeze(connection, sheet.closed, counts.latest)
            for judge, rows in zip(sheet.judges, before.by_policy, strict=True):
                # An empty one goes too, and somebody must have said so.
                if rows or (not before.rows and judge is sheet.judges[0]):
                    policy = judge.policy.name
                    made = archived.get(policy, _Archives())
                    numbers.append(self._receipt(connection, judge, one, rows, made, approvals.get(policy)))
            connection.execute(_PATIENCE, {"patience": str(PATIENCE_MS)})
            began = perf_counter()
            connection.exec_driver_sql(f"ALTER TABLE {self.found.real(connection)} DETACH PARTITION {name}")
            connection.exec_driver_sql(f"DROP TABLE {name}")
        seconds = perf_counter() - began
        self._count(sheet, before)
        return DropResult(one.name, before.rows, None, tuple(numbers), seconds)

    def _count(self, sheet: "_PartitionQuery", counts: _Counts) -> None:
        for judge, rows in zip(sheet.judges, counts.by_policy, strict=True):
            self.taken[judge.policy.name] = self.taken.get(judge.policy.name, 0) + rows

    def _same(
        self, counts: _Counts, before: _Counts, archived: "Mapping[str, _Archives]", sheet: "_PartitionQuery"
    ) -> None:
        """See that a partition has the rows that were archived, and that all of them are due."""
        if kept := _why_kept(counts):
            raise _Changed(kept)
        # What was not written since is of the same policy still.
        same = counts == replace(before, by_policy=())
        for judge, rows in zip(sheet.judges, before.by_policy, strict=True):
            made = archived.get(judge.policy.name)
            same = same and (made is None or made.rows == rows)
        if not same:
            raise _Changed("its rows were changed while they were archived; the next run begins anew")

    def _receipt(
        self,
        connection: Connection,
        judge: _PolicyMatch,
        one: Partition,
        rows: int,
        made: "_Archives",
        approval: int | None,
    ) -> int:
        keys = [each.key for each in made.archived]
        if keys:
            noted = delete(UnfinishedArchive).where(UnfinishedArchive.key.in_(keys))
            if connection.execute(noted).rowcount != len(keys):
                raise _Changed("its archives were taken for those of a run that has died")
        policy = judge.policy
        content = {
            "app": policy.app,
            "table": policy.table.fullname,
            "rule": policy.rule,
            "cutoff": (self.now - judge.after).isoformat(),
            "now": self.now.isoformat(),
            "period_seconds": judge.after.total_seconds(),
            "partition": {
                "name": one.name,
                "begins": one.begins.isoformat() if one.begins else None,
                "ends": one.ends.isoformat() if one.ends else None,
            },
            "keys": made.keys,
            "tables": {policy.table.fullname: rows},
            "objects": 0,
            "archives": [each.said() for each in made.archived],
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

    def _forget(self, store: ObjectStore, keys: list[str]) -> None:
        if not keys:
            return
        store.delete_many(keys)
        with transaction() as connection:
            connection.execute(delete(UnfinishedArchive).where(UnfinishedArchive.key.in_(keys)))


@dataclass(slots=True)
class _Archives:
    """A policy's archives of one partition; `keys` are the first and the last key in them."""

    archived: list[Archived] = field(default_factory=list)
    rows: int = 0
    keys: list[str] = field(default_factory=list)

    def see(self, rows: Any, key: str) -> None:
        """Take an archive's rows into account."""
        from pyarrow import compute

        ends = compute.min_max(rows[key]).as_py()
        self.rows += rows.num_rows
        self.keys = [min([ends["min"], *self.keys[:1]]), max([ends["max"], *self.keys[1:]])]


def _ranges(size: Any, rows: int, its: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of pages that have about an archive's rows each, and not too much to be held at once."""
    pages = max(1, size.pages)
    at_once = min(
        ARCHIVE_ROWS * pages / max(1, its),
        # Where its rows lie close together there are more of them: never so many more.
        4 * ARCHIVE_ROWS * pages / max(1, rows),
        _READ_BYTES * pages / max(1, size.bytes),
    )
    step = max(1, int(at_once))
    for first in range(0, pages, step):
        # To the end, whatever was added: it is seen, then.
        yield first, first + step


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
