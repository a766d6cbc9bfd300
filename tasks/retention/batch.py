"""One batch of retention: rows, and all that goes with them, are archived and then deleted.

1. In one transaction, which is rolled back: due rows are judged again, and read, with what refers to them.
   What was read is written to the archive and read back. Nothing is locked meanwhile: a store may take long.
   Policies without an archive omit this step.
2. In one transaction: the rows are locked and judged again; what refers to them is changed or deleted; they
   are deleted. What was deleted must be what is in the archive, or all is rolled back. The statistics that
   count it are frozen, or facts of it are kept (`tasks/analytics/rollup_guard.py`); the receipt is written,
   and the objects that belonged to the rows are noted as pending deletions
   (`tasks/retention/pending_deletions.py`). Then it commits.
3. After the commit the objects are deleted, and the pending deletions removed.

A crash before the commit leaves the rows and their objects as they were. The archive that it leaves was noted
(`roomkeeper.unfinished_archives`), and is removed by the policy's next run. What a crash after the commit
leaves of the objects is deleted by a recovery job (`tasks/retention/object_deletions.py`). No legal hold is
placed while the second transaction is at work: it waits. One that is placed before keeps its rows.

Few rows may have many that go with them. A batch of more than `MOST_DEPENDANTS` is tried again with fewer
rows; of one row, these are deleted in portions first, each with an archive and a receipt, and then the row.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from time import monotonic, perf_counter
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID, uuid4

import sqlalchemy
import structlog
from billiard.exceptions import SoftTimeLimitExceeded
from sqlalchemy import (
    Connection,
    Executable,
    Integer,
    Table,
)
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from models.platform import AttachmentJob
from tasks.analytics import rollup_guard
from tasks.policies.columns import table_of
from tasks.policies.retention import Cascade, Retention, SetValues
from tasks.retention import archive, object_deleter, pending_deletions, receipts
from tasks.retention.archive import Archived
from tasks.retention.batch_archives import BatchArchives, remove_unfinished
from tasks.retention.cascade import (
    ALL,
    NOW_SUFFIX,
    Files,
    cascade_statements,
    files_of,
    own_row_statements,
    reading,
    set_values_statements,
)
from tasks.retention.object_deleter import Deletions
from tasks.sweeps.batch import (
    CHANGE_MS,
    PARENT_PATIENCE_MS,
    Batches,
    Contested,
    Refused,
    Seen,
    Taken,
    begin,
    words,
)
from tasks.sweeps.engine import Pace
from tasks.sweeps.statements import key_of
from workers.settings import Settings
from workers.storage import ObjectStore, StoreError

if TYPE_CHECKING:
    import pyarrow as pa

_T = TypeVar("_T")
#: Larger batches than a sweep's: each is an archive, which costs some hundredths of a second by itself.
PACE = Pace(
    seconds=0.5,
    rows=2_000,
    most_rows=100_000,
    keys=500,
    most_keys=5_000,
    pages=250,
    most_pages=5_000,
    look=20_000,
)
#: How long a hold that is being placed is waited for.
HOLD_PATIENCE_MS = 5_000
#: How long a transaction may be idle, and how long a hold that is being placed waits for it.
LONGEST_SECONDS = 60
#: So many rows of other tables are deleted or changed in one transaction.
MOST_DEPENDANTS = 10_000
#: After so long no further portion of one row's dependants is begun; the next run goes on.
PORTIONS_SECONDS = 20.0
#: No deletion of objects is begun so long after a commit: the recovery job goes on.
OBJECT_SECONDS = 60
#: Held by every batch, shared; a transaction that places a hold takes it exclusively.
HOLDS_LOCK = "roomkeeper:holds"
_LOCK = sqlalchemy.text(
    f"SELECT pg_advisory_xact_lock_shared(hashtextextended('{HOLDS_LOCK}', 0)),"
    # What a receipt says has happened: a crash must not take it back.
    " set_config('synchronous_commit', 'on', true),"
    f" set_config('idle_in_transaction_session_timeout', '{LONGEST_SECONDS}s', true)"
)
_PATIENCE = sqlalchemy.text("SELECT set_config('lock_timeout', :patience, true)")

log = structlog.get_logger(__name__)


class Enough(Exception):
    """A run has taken as many rows as it may."""


class _Read(Exception):
    """A batch was read, and its transaction is to be rolled back: it is archived before rows are deleted."""

    def __init__(self, batch: "_TakenRows") -> None:
        self.batch = batch


@dataclass(slots=True)
class _TakenRows:
    """What one batch has taken so far.

    Attributes:
        most_bytes: of one table's rows at once; None where the batch cannot be smaller.
        until: until when the policy's own rows count in statistics, if the policy says that.
        rows: of each table, what was deleted, in the order of the deletions.
        updated: the keys of the policy's own rows, where these stay.
        changed: of each table, rows that stay: their key, and each changed column before and after.
        receipt: the number of the receipt.
        pending: the pending deletions of objects that belonged to the rows.
        facts: what the facts of its rows are found by.
        room: how many more dependants may be taken.
        portion: whether dependants are left, so that the policy's own rows must stay.
        chosen: the keys of those that are not left, for each look at dependants that found too many.
        looks: how many looks at dependants there were.
    """

    room: int = MOST_DEPENDANTS
    portion: bool = False
    chosen: dict[int, list[Any]] = field(default_factory=dict)
    looks: int = 0
    most_bytes: int | None = None
    updated: list[str] = field(default_factory=list)
    until: list[str | None] = field(default_factory=list)
    rows: "list[tuple[Table, pa.Table]]" = field(default_factory=list)
    changed: "list[tuple[Table, pa.Table]]" = field(default_factory=list)
    receipt: int | None = None
    pending: list[dict[str, Any]] = field(default_factory=list)
    facts: UUID = field(default_factory=uuid4)

    def keys(self, table: Table) -> list[str]:
        """Return the first and the last key of a table's rows."""
        from pyarrow import compute

        if self.updated:
            return [self.updated[0], self.updated[-1]]
        (key,) = table.primary_key.columns
        found = [rows[key.name] for of, rows in self.rows if of is table]
        if not found:
            return []
        # Numbers are not in the order of their texts; ids are.
        ordered = found[0].cast("int64") if isinstance(key.type, Integer) else found[0]
        return [str(end) for end in compute.min_max(ordered).as_py().values()]

    def of(self, table: Table) -> "list[pa.Table]":
        """Return what was deleted from a table."""
        return [rows for of, rows in self.rows if of is table]

    def ids(self, table: Table) -> list[UUID]:
        """Return the ids of a table's rows that were deleted."""
        return [UUID(key) for rows in self.of(table) for key in rows["id"].to_pylist()]

    def is_archived_as(self, other: "_TakenRows") -> bool:
        """Return whether it has the rows of another batch."""
        own_tables, other_tables = [*self.rows, *self.changed], [*other.rows, *other.changed]
        return (
            [table for table, _ in own_tables] == [table for table, _ in other_tables]
            and all(
                archive.same(one, two) for (_, one), (_, two) in zip(own_tables, other_tables, strict=True)
            )
            and self.updated == other.updated
        )

    def counts(self) -> dict[str, int]:
        """Return how many rows of each table have gone."""
        counts: dict[str, int] = defaultdict(int)
        for table, rows in self.rows:
            counts[table.fullname] += rows.num_rows
        return dict(counts)


@dataclass(slots=True)
class _Archiving:
    """How far the archive of the batch at work has come.

    Attributes:
        reading: rows are only read.
        batch: what was read, and is in the archives.
    """

    reading: bool = False
    batch: _TakenRows | None = None
    archives: BatchArchives | None = None
    archived: list[Archived] = field(default_factory=list)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class RetentionBatches(Batches):
    """The batches of one run of a retention policy. Each may also raise StoreError, for the archive: then
    it has done nothing. A store of objects that is away fails no batch.

    Attributes:
        settings: where objects and archives are.
        run: the run's id, for receipts.
        archives: where rows are archived; None if they are not.
        operator: who runs it by hand.
        approval: the approval that it goes by.
        allowed: how many rows it may take; `counted` are those of each batch so far.
        deletions: what became of the objects so far.
    """

    settings: Settings
    run: UUID
    archives: ObjectStore | None
    operator: str | None = None
    approval: int | None = None
    allowed: int
    counted: list[int] = field(default_factory=list)
    deletions: Deletions = field(default_factory=Deletions)
    _numbers: "count[int]" = field(default_factory=lambda: count(1))
    _archiving: _Archiving = field(default_factory=_Archiving)

    @property
    def retention(self) -> Retention:
        """The policy."""
        assert isinstance(self.policy, Retention)
        return self.policy

    @property
    def row_local(self) -> bool:
        """Whether rows are taken by themselves: not if they have objects."""
        return self.policy.row_local and files_of(self.retention) is None

    def by_index(self, at_most: int) -> Taken:
        return self._archived_first(lambda: Batches.by_index(self, min(at_most, self._left())))

    def on_pages(self, first: int, last: int) -> Taken:
        left = self._left()
        due = self.due_on_pages(first, last)
        if due > left:
            raise Enough
        return self._archived_first(lambda: Batches.on_pages(self, first, last)) if due else Taken()

    def take(self, seen: Seen) -> Taken:
        """Take those of the rows that are due still and not locked, with all that goes with them."""
        if len(seen) > 1:
            taken, _ = self._archived_first(lambda: self._take(seen, MOST_DEPENDANTS))
            return taken
        at_most, deadline = MOST_DEPENDANTS, monotonic() + PORTIONS_SECONDS
        while True:
            try:
                taken, whole = self._archived_first(lambda: self._take(seen, at_most))  # noqa: B023
            except Contested as error:
                # Too many bytes, or too slow for one statement: fewer may do. Nothing else is helped by it.
                size = isinstance(error, archive.TooLarge) or "QueryCanceled" in str(error)
                if at_most == 1 or not size:
                    raise
                at_most = max(1, at_most // 8)
                continue
            if not whole and monotonic() > deadline:
                return Taken(remaining=1, error="rows that go with one row are too many for one run")
            if whole:
                return taken

    def _take(self, seen: Seen, at_most: int) -> tuple[Taken, bool]:
        """Take rows with at most so many dependants; return False where only dependants of one were taken.

        Raises:
            Contested: several rows have more dependants.
        """
        keys = sorted(row[0] for row in seen[: self._left()])
        files = files_of(self.retention)
        taken, batch = Taken(), _TakenRows(room=at_most)
        own = own_row_statements(self.retention)
        with self._begin(PARENT_PATIENCE_MS) as connection:
            held = keys if self._archiving.reading else self._lock(connection, keys)
            # By a statement that begins when they are held: it sees what refers to them by now.
            found = connection.execute(own.due, self._values(keys=held)).all() if held else []
            if found and files is not None:
                found, taken = self._without_busy(connection, files, found)
            due = [row[0] for row in found]
            if due:
                batch.most_bytes = archive.MOST_BYTES if len(due) > 1 or at_most > 1 else None
                batch.until = [row[1] for row in found]
                self._refers(connection, batch, self.retention.refers, self.policy.table, due)
                if batch.portion and len(due) > 1:
                    raise Contested(f"more than {at_most:,} rows go with {len(due):,}")
                taken.rows = 0 if batch.portion else self._own(connection, batch, due)
                self._finish(connection, batch, taken.rows, files)
            elif keys:
                taken.remaining = self._still_due(connection, keys)
        if not batch.portion:
            self._clear_again(due)
        began = perf_counter()
        self._delete_objects(batch, taken)
        # Or a slow store, or a look at keys without an index, would make batches ever smaller.
        taken.seconds_after = perf_counter() - began
        return taken, not batch.portion

    def _lock(self, connection: Connection, keys: Sequence[Any]) -> list[Any]:
        """Lock those of the rows that are due and free; return their keys."""
        return list(connection.execute(self._statements.rows, self._values(keys=keys)).scalars())

    # -- the archive ----------------------------------------------------------------------------------------

    def _archived_first(self, take: Callable[[], _T]) -> _T:
        """Take a batch whose rows are in the archive before they are deleted, if they are to be archived.

        Raises:
            Contested: rows were changed meanwhile, or are held: nothing was done.
            StoreError: the archive cannot be written: nothing was done.
        """
        if self.archives is None:
            return take()
        state = self._archiving
        state.reading = True
        try:
            # Returns where nothing is due.
            return take()
        except _Read as read:
            batch = read.batch
        finally:
            state.reading = False
        archives = BatchArchives(self.archives, self.retention, self.run, self.now, next(self._numbers))
        archives.note()
        state.archived = archives.write(batch.rows, batch.changed)
        state.batch, state.archives = batch, archives
        committed = False
        try:
            taken = take()
            committed = state.batch is None
            return taken
        finally:
            state.batch = state.archives = None
            if not committed:
                # Those without a receipt. If even that fails, the next run removes them.
                with suppress(StoreError, SQLAlchemyError):
                    remove_unfinished(self.policy.name, self.archives, archives.keys)

    def _copy_out(
        self,
        connection: Connection,
        batch: "_TakenRows",
        statement: Any,
        values: Mapping[str, Any],
        most: int | None,
    ) -> "pa.Table":
        """Execute a DELETE that returns all columns, or only read what it would delete."""
        state = self._archiving
        if state.reading:
            return archive.copy_out(connection, reading(statement), values, most)
        before = state.batch.rows if state.batch is not None else []
        number = len(batch.rows)
        expected = before[number][1] if number < len(before) else None
        return archive.copy_out(connection, statement, values, most, expected)

    # -- the parts of a batch -------------------------------------------------------------------------------

    @contextmanager
    def _begin(self, patience_ms: int) -> Iterator[Connection]:
        with begin(HOLD_PATIENCE_MS, CHANGE_MS) as connection:
            connection.execute(_LOCK)
            connection.execute(_PATIENCE, {"patience": str(patience_ms)})
            yield connection

    @property
    def spent(self) -> bool:
        """Whether it has taken all that it may."""
        return sum(self.counted) >= self.allowed

    def _clear_again(self, keys: Sequence[Any]) -> None:
        """Clear references that no foreign key guards, and that were made while the rows were going."""
        for one in self.retention.refers:
            if keys and isinstance(one, SetValues) and one.to is not None and one.values is None:
                made = set_values_statements(one, of_itself=False)
                try:
                    with begin(PARENT_PATIENCE_MS, CHANGE_MS) as connection:
                        connection.execute(made.change, self._values(keys=keys, going=keys))
                except (Contested, Refused, DBAPIError) as error:
                    # The rows have gone, which is to be counted whatever is in the way here.
                    error_text = words(error) if isinstance(error, DBAPIError) else str(error)
                    table = made.table.fullname
                    log.warning(
                        "retention.references_left", policy=self.policy.name, table=table, error=error_text
                    )

    def _without_busy(
        self, connection: Connection, files: Files, found: Sequence[Any]
    ) -> tuple[list[Any], Taken]:
        """Return those of the due rows whose objects may be deleted now, and how many others there are."""
        stay, why = pending_deletions.held_back(connection, files, [row[0] for row in found], self.settings)
        left = [row for row in found if row[0] not in stay]
        return left, Taken(remaining=len(found) - len(left), error=why)

    def _delete_objects(self, batch: "_TakenRows", taken: Taken) -> None:
        """Delete the objects of rows whose deletion is committed. What fails is left to the recovery job."""
        if not batch.pending:
            return
        # Its rows have gone, which is to be counted whatever fails here. A run whose time is over ends then.
        with suppress(SoftTimeLimitExceeded):
            object_deleter.delete_objects(
                self.settings,
                self.deletions,
                receipt=batch.receipt,
                deadline=monotonic() + OBJECT_SECONDS,
            )
        if self.deletions.error is not None:
            taken.error = taken.error or f"objects of deleted rows wait: {self.deletions.error}"

    def _left(self) -> int:
        if self.spent:
            raise Enough
        return self.allowed - sum(self.counted)

    def _still_due(self, connection: Connection, keys: Sequence[Any]) -> int:
        number: int = connection.execute(self._statements.still_due, self._values(keys=keys)).scalar_one()
        return number

    def _changed(self, connection: Connection, statement: Executable, values: Mapping[str, Any]) -> Taken:
        """Take the rows of a policy whose rows go by themselves; by index, or by pages."""
        assert isinstance(statement, sqlalchemy.Delete)
        batch = _TakenRows()
        most = None if values.get("at_most") == 1 else archive.MOST_BYTES
        rows = self._copy_out(connection, batch, statement.returning(ALL), values, most)
        if rows.num_rows:
            batch.rows.append((self.policy.table, rows))
            self._finish(connection, batch, rows.num_rows, None)
        return Taken(rows=rows.num_rows)

    def _refers(
        self,
        connection: Connection,
        batch: "_TakenRows",
        refers: Sequence[Any],
        table: Table,
        keys: Sequence[Any],
    ) -> None:
        """See to all that refers to the rows of `table` with these keys, as far as there is room for it."""
        for one in refers:
            if isinstance(one, SetValues):
                self._change(connection, batch, one, table, keys)
            elif isinstance(one, Cascade):
                made = cascade_statements(one)
                # What refers to them needs room, too.
                room = (batch.room + 1) // 2 if one.refers else batch.room
                statement = made.keys if self._archiving.reading else made.locked
                child_keys = [
                    key for (key,) in self._some(connection, batch, statement, {"keys": keys}, room)
                ]
                left_over = batch.looks in batch.chosen
                batch.room -= len(child_keys)
                if child_keys:
                    self._refers(connection, batch, one.refers, made.table, child_keys)
                    if batch.portion:
                        return
                    self._keep_facts(connection, batch, made.table, child_keys)
                    rows = self._copy_out(
                        connection, batch, made.delete, {"keys": child_keys}, batch.most_bytes
                    )
                    if rows.num_rows != len(child_keys):
                        raise Refused(f"rows of {made.table.fullname} do not go: a trigger, or a row policy")
                    batch.rows.append((made.table, rows))
                batch.portion = left_over
            if batch.portion:
                return

    def _some(
        self,
        connection: Connection,
        batch: "_TakenRows",
        statement: Executable,
        values: Mapping[str, Any],
        room: int,
        kind: Callable[[Any], Any] = lambda key: key,
    ) -> Sequence[Any]:
        """Return dependants, keys first, as many as there is room for; and note which, if that is not all.

        Where a portion was archived, these are looked at once more, and no others.

        Args:
            kind: makes a key of what the statement returns.
        """
        batch.looks += 1
        archived = self._archiving.batch
        among = archived.chosen.get(batch.looks) if archived is not None else None
        found = connection.execute(statement, {**values, "among": among, "at_most": room + 1}).all()
        if among is not None or len(found) > room:
            found = found[:room]
            batch.chosen[batch.looks] = [kind(row[0]) for row in found]
        return found

    def _change(
        self, connection: Connection, batch: "_TakenRows", one: SetValues, table: Table, keys: Sequence[Any]
    ) -> None:
        import pyarrow as pa

        made = set_values_statements(one, of_itself=table is one.by.property.columns[0].table)
        values = self._values(keys=keys, going=keys)
        kind = key_of(made.table).type.python_type
        found = self._some(connection, batch, made.before, values, batch.room, kind)
        before = {row[0]: row[1:] for row in found}
        batch.portion = batch.looks in batch.chosen
        if not before:
            return
        batch.room -= len(before)
        change = made.change
        if batch.portion:
            change, values = made.change_these, {**values, "these": [kind(key) for key in before]}
        after = {row[0]: row[1:] for row in connection.execute(change, values)}
        names = ["id", *made.columns, *(f"{name}{NOW_SUFFIX}" for name in made.columns)]
        rows = [(key, *before[key], *after[key]) for key in after if key in before]
        columns = [pa.array(list(column), pa.string()) for column in zip(*rows, strict=True)]
        batch.changed.append((made.table, pa.table(columns, names=names)))

    def _own(self, connection: Connection, batch: "_TakenRows", keys: Sequence[Any]) -> int:
        """Delete, or change, the policy's own rows; return how many."""
        own = own_row_statements(self.retention)
        if own.update is not None:
            updated = connection.execute(own.update, self._values(keys=keys)).scalars().all()
            batch.updated = [str(key) for key in sorted(updated)]
            return len(updated)
        assert own.delete is not None
        self._keep_facts(connection, batch, self.policy.table, keys)
        rows = self._copy_out(connection, batch, own.delete, self._values(keys=keys), batch.most_bytes)
        if rows.num_rows != len(keys):
            raise Refused(f"rows of {self.policy.table.fullname} do not go: a trigger, or a row policy")
        batch.rows.append((self.policy.table, rows))
        return int(rows.num_rows)

    def _finish(self, connection: Connection, batch: "_TakenRows", rows: int, files: "Files | None") -> None:
        """Compare what was deleted with the archive, write the receipt, and note objects to be deleted."""
        state = self._archiving
        if state.reading:
            raise _Read(batch)
        if state.batch is not None and not batch.is_archived_as(state.batch):
            raise Contested("rows were changed while they were archived")
        archived = state.archived if self.archives is not None else []
        # At the end, for it waits for rollups.
        self._freeze(connection, batch, files)
        if files is not None:
            # What would refuse the rows at the commit refuses them here: nothing is counted that did not go.
            connection.exec_driver_sql("SET CONSTRAINTS ALL IMMEDIATE")
            deleted = batch.of(files.table)
            batch.pending = pending_deletions.prepare(connection, files, deleted)
        policy = self.retention
        content = {
            "app": policy.app,
            "table": policy.table.fullname,
            "rule": policy.rule,
            "cutoff": None if self.after is None else (self.now - self.after).isoformat(),
            "now": self.now.isoformat(),
            "period_seconds": None if self.after is None else self.after.total_seconds(),
            "keys": batch.keys(policy.table),
            "tables": batch.counts(),
            "objects": pending_deletions.number_of(batch.pending),
            "archives": [one.as_json() for one in archived],
            "operator": self.operator,
        }
        if policy.facts:
            content["facts"] = str(batch.facts)
        if state.archives is not None:
            state.archives.settle(connection)
        batch.receipt = receipts.append(
            connection,
            kind="taken",
            policy=policy.name,
            run=self.run,
            rows=rows,
            content=content,
            approval=self.approval,
        )
        pending_deletions.note(
            connection, batch.pending, app=policy.app, policy=policy.name, receipt=batch.receipt
        )
        self.counted.append(rows)
        state.batch = None

    def _keep_facts(
        self, connection: Connection, batch: "_TakenRows", table: Table, keys: Sequence[Any]
    ) -> None:
        """Keep what statistics need of rows that are about to be deleted, and are locked."""
        if not self._archiving.reading:
            rollup_guard.keep_facts(connection, self.retention, table, keys, self.closed, batch.facts)

    def _freeze(self, connection: Connection, batch: "_TakenRows", files: "Files | None") -> None:
        """Freeze the buckets of what was deleted, and of the jobs that will be."""
        latest = [
            rollup_guard.latest_of(table, rows, self.closed, self.retention, batch.until)
            for table, rows in batch.rows
        ]
        if files is not None and (ids := batch.ids(files.table)):
            table, jobs = table_of(AttachmentJob), pending_deletions.jobs_of(files.app, ids)
            self._keep_facts(connection, batch, table, ids)
            latest.append(rollup_guard.latest_in(connection, table, self.closed, self.retention, jobs))
            if self.retention.facts:
                # A job that an operator has overridden stays, but changes: no fact says what it counted.
                changed = (jobs, AttachmentJob.override.is_not(None))
                latest.append(rollup_guard.latest_in(connection, table, self.closed, None, *changed))
        rollup_guard.freeze(connection, self.closed, *latest)
