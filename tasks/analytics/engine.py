"""The rollup engine: puts statistics in the place of those that are there, bucket by bucket.

A run, in this order, each step in a transaction of its own:

1. What the application will overwrite is copied (`Rollup.snapshot`).
2. **Open** buckets are computed, whatever else is left to do: key by key where the rollup says what has
   changed; else as a whole, if the counters of its tables say that anything was written.
3. Buckets whose time to settle is over are computed as a whole and **closed**: the watermark moves on in the
   same transaction. After a pause there are many; the run goes on for its time, and the next one takes up the
   rest.
4. Closed buckets are **revisited**, each about once a day for as long as the rollup says: what came late, was
   corrected or deleted since. A bucket that comes out the same is not written.

Every transaction that computes holds the rollup's row of state, so no two compute the same bucket from
different moments; those of a backfill share it, and each holds its bucket. Buckets that begin at or before
`frozen_to` have lost rows to retention: they are never computed again, for there is less to compute them of.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from time import monotonic
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy import Connection, Executable, Row, Table, delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DBAPIError, IntegrityError

from models.analytics import RollupLive, RollupState
from tasks.analytics.calendar import Bucket, Seam, bucket_at, buckets
from tasks.analytics.state import State, check, due_by, frozen, set_state, state_of
from tasks.analytics.statements import PROBE, statements
from tasks.analytics.zones import restarted
from tasks.policies.rollup import CLOCKS_SET, Rollup
from workers.database_errors import is_unavailable
from workers.db import transaction

log = structlog.get_logger(__name__)

#: How often closed buckets are revisited, and whole tables surveyed.
ROUND = timedelta(days=1)
#: After such a pause what a run has not seen is looked for in whole tables.
PAUSE = timedelta(hours=1)
#: A transaction that was under way at the last run has written rows since that say they are older.
SLACK = timedelta(minutes=10)
#: How often a bucket is computed at most, if what it is about goes meanwhile.
TURNS = 3
#: How long one statement may take, if not said otherwise.
LONGEST_MS = 120_000
#: Sorting a day in memory takes half as long as on disk. Plans are made for the bucket that is asked for, and
#: not compiled, which takes longer than most of them run. Of what the steps of a select give PostgreSQL knows
#: nothing, and sorts it all to merge a few rows, where it could look them up. A commit does not wait for the
#: disk: what a crash of the database takes back is statistics and watermark together, and is computed again.
_SET = """
    SELECT set_config('work_mem', '64MB', true), set_config('jit', 'off', true),
           set_config('plan_cache_mode', 'force_custom_plan', true),
           set_config('enable_mergejoin', 'off', true), set_config('synchronous_commit', 'off', true),
           set_config('statement_timeout', %(longest)s, true), set_config('lock_timeout', '30s', true)
"""


@dataclass(slots=True)
class RollupProgress:
    """What a run has done so far.

    Attributes:
        rows: of statistics that it wrote or took away.
        closed: buckets.
        revisited: closed buckets that it computed again.
        buckets: all that it computed, as a whole or in part.
        frozen: buckets that it left as they are, because rows of them are gone.
        more: whether it stopped with work left.
    """

    rows: int = 0
    closed: int = 0
    revisited: int = 0
    buckets: int = 0
    frozen: int = 0
    more: bool = False


class MovedError(Exception):
    """Another run has moved the watermark; the next run goes by what it finds."""


@dataclass(slots=True)
class RollupRun:
    """One run of a rollup.

    Attributes:
        now: the moment that it goes by.
        zone: the time zone that is set.
        seconds: how long it goes on; what is not closed by then is the next run's.
        longest_ms: how long one statement may take.
        watch: is called after each bucket.
    """

    rollup: Rollup
    now: datetime
    zone: str
    seconds: float = 60
    longest_ms: int = LONGEST_MS
    watch: Callable[[RollupProgress], None] = lambda _progress: None
    progress: RollupProgress = field(default_factory=RollupProgress)
    _seam: Seam | None = field(default=None, init=False, repr=False)

    def go(self) -> RollupProgress:
        """Do it; return what it did. What it raises, it raises between two whole transactions.

        Raises:
            OtherZoneError, NewerDefinitionError: see `tasks.analytics.state.check`.
        """
        deadline = monotonic() + self.seconds
        with self._transaction() as connection:
            state = self._begun(connection)
            self._observe(connection, state)
        state = self._open()
        while due_by(self.rollup, bucket := self._bucket(state.watermark)) <= self.now:
            # One at least: or one that takes longer than a run would never be closed.
            if self.progress.closed and monotonic() > deadline:
                self.progress.more = True
                return self.progress
            state = self._close(bucket)
            if state.watermark < bucket.end:
                raise MovedError("another run has moved the watermark meanwhile")
        while monotonic() < deadline and self._revisit_due(state):
            state = self._revisit()
        return self.progress

    # -- the state ------------------------------------------------------------------------------------------

    def begin(self) -> State:
        """Return the state; make it if this is the first run."""
        with self._transaction() as connection:
            return self._begun(connection)

    def _begun(self, connection: Connection) -> State:
        state = self._checked(state_of(connection, self.rollup))
        if state is None or state != self._current(state):
            state = self._locked(connection)
            if state is None:
                self._first(connection)
            else:
                self._set(connection, **asdict(self._current(state)))
            state = self._locked(connection)
            assert state is not None
        return state

    def _first(self, connection: Connection) -> None:
        first = connection.execute(statements(self.rollup).earliest).scalar_one()
        # As far back as late rows may be of; but not where the application has made the statistics so far:
        # it is not known from which rows.
        back = (
            self.now - (self.rollup.recompute_for or timedelta(0))
            if self.rollup.empty_values is None
            else self.now
        )
        start = self._bucket(back if first is None else min(first, back)).start
        values = {"name": self.rollup.name, "zone": self.zone, "watermark": start, "covered_from": start}
        values["definition"] = self.rollup.definition
        connection.execute(insert(RollupState).values(**values).on_conflict_do_nothing())

    def _current(self, state: State) -> State:
        """Return a state that holds: of this definition, at a bucket's edge, and not ahead of the moment.

        The rules of a zone may change after the fact, and a clock may have been ahead for a while.
        """
        if state.definition < self.rollup.definition:
            state = restarted(self.rollup, state, self.zone)
        bucket = bucket_at(min(state.watermark, self.now), self.rollup.grain, self.zone, state.seam)
        edge, seam = bucket.start, state.seam
        if edge < state.watermark <= self.now and self._must_stay(state, bucket):
            # It ended here by the rules of that time.
            edge, seam = state.watermark, Seam(state.watermark, self.zone)

        def past(moment: datetime | None) -> datetime | None:
            return None if moment is None else min(moment, self.now)

        return replace(
            state,
            watermark=edge,
            covered_from=min(state.covered_from, edge),
            ticked_at=past(state.ticked_at),
            daily_snapshot_at=past(state.daily_snapshot_at),
            recomputed_at=past(state.recomputed_at),
            zone_from=None if seam is None else seam.at,
            zone_before=None if seam is None else seam.zone,
        )

    def _must_stay(self, state: State, bucket: Bucket) -> bool:
        """Return whether what is closed of a bucket cannot be computed again."""
        if state.watermark <= state.covered_from:
            return False
        lost = state.frozen_to is not None and bucket.start <= state.frozen_to
        return lost or self.rollup.recompute_for is None

    def _locked(self, connection: Connection) -> State | None:
        return self._checked(state_of(connection, self.rollup, lock=True))

    def _checked(self, state: State | None) -> State | None:
        if state is not None:
            check(self.rollup, state, self.zone)
            self._seam = state.seam
        return state

    def _set(self, connection: Connection, **values: Any) -> None:
        set_state(connection, self.rollup, **values)

    # -- the steps ------------------------------------------------------------------------------------------

    def _observe(self, connection: Connection, state: State) -> None:
        since = state.ticked_at or CLOCKS_SET
        values = {"now": self.now, "since": since}
        for statement in self.rollup.snapshot:
            connection.execute(statement, values)
        paused = self.now - since > PAUSE
        long_ago = state.daily_snapshot_at is None or self.now - state.daily_snapshot_at >= ROUND
        if self.rollup.daily_snapshot and (paused or long_ago):
            try:
                with connection.begin_nested():
                    for statement in self.rollup.daily_snapshot:
                        connection.execute(statement, values)
            except DBAPIError as error:
                if is_unavailable(error):
                    raise
                # A table too large for the time there is: statistics are made all the same, and it is tried
                # again in a day.
                log.warning(
                    "rollup.daily_snapshot_failed", rollup=self.rollup.name, error=type(error.orig).__name__
                )
            self._set(connection, daily_snapshot_at=self.now)

    def _close(self, bucket: Bucket) -> State:
        """Compute a bucket as a whole, and move the watermark to its end."""
        with self._transaction() as connection:
            state = self._locked(connection)
            assert state is not None
            # Another run may have closed it meanwhile: then there is nothing to do.
            if state.watermark == bucket.start:
                if state.frozen_to is None or bucket.start > state.frozen_to:
                    self._replace(connection, bucket)
                self._set(connection, watermark=bucket.end)
                state = replace(state, watermark=bucket.end)
                self.progress.closed += 1
        self.watch(self.progress)
        return state

    def _open(self) -> State:
        """Bring the open buckets up to the moment: those that are not to be closed yet."""
        first = self._bucket(self.now - self.rollup.grace).start
        with self._transaction() as connection:
            state = self._locked(connection)
            assert state is not None
            start = max(first, state.watermark)
            if self.rollup.keyed is not None:
                self._open_keys(connection, state, start)
            else:
                probe = self._probe(connection)
                # Rows of a bucket may be written before it begins. Without `track_counts` the counters carry
                # no information.
                begun = state.ticked_at is None or state.ticked_at <= self._bucket(self.now).start
                if begun or probe is None or probe != state.probe:
                    self._whole(connection, state, start)
                self._set(connection, ticked_at=self.now, probe=probe)
        self.watch(self.progress)
        return state

    def _whole(self, connection: Connection, state: State, start: datetime) -> None:
        for bucket in self._buckets(start, self.now):
            if not frozen(self.rollup, state, bucket):
                self._replace(connection, bucket)

    def _open_keys(self, connection: Connection, state: State, start: datetime) -> None:
        keyed = self.rollup.keyed
        assert keyed is not None
        own_rows = RollupLive.rollup == self.rollup.name
        live = {row[0]: row[1] for row in connection.execute(keyed.live, {"now": self.now})}
        before = {row.key: row.since for row in connection.execute(select(RollupLive).where(own_rows))}
        if state.ticked_at is None or self.now - state.ticked_at > ROUND:
            self._whole(connection, state, start)
        else:
            since = state.ticked_at - SLACK
            values = {"now": self.now, "since": since}
            todo = {key: max(at, start) for key, at in live.items()}
            for key, at in connection.execute(keyed.changed, values):
                todo[key] = min(at, todo.get(key, at))
            # What has ended since may have ended long ago: only now is it said.
            for key, at in before.items():
                if key not in live or live[key] > at:
                    todo[key] = min(at, todo.get(key, at))
            self._replace_keys(connection, state, todo)
        if live != before:
            over = [key for key in before if key not in live]
            connection.execute(delete(RollupLive).where(own_rows, RollupLive.key.in_(over)))
            new = [
                {"rollup": self.rollup.name, "key": key, "since": at}
                for key, at in live.items()
                if before.get(key) != at
            ]
            if new:
                put = insert(RollupLive)
                same = [RollupLive.rollup, RollupLive.key]
                connection.execute(
                    put.on_conflict_do_update(index_elements=same, set_={"since": put.excluded.since}), new
                )
        self._set(connection, ticked_at=self.now)

    def _window(self, state: State) -> list[Bucket]:
        """Return the closed buckets that are looked at again."""
        if self.rollup.recompute_for is None:
            return []
        return self._buckets(max(state.covered_from, self.now - self.rollup.recompute_for), state.watermark)

    def _revisit_due(self, state: State) -> bool:
        window = self._window(state)
        pace = ROUND / max(1, len(window))
        return bool(window) and (state.recomputed_at is None or self.now - state.recomputed_at >= pace)

    def _revisit(self) -> State:
        """Compute the next closed bucket again; they take turns, so that each is looked at once a ROUND."""
        with self._transaction() as connection:
            state = self._locked(connection)
            assert state is not None
            if not self._revisit_due(state):
                return state
            window = self._window(state)
            later = [one for one in window if state.recompute_at is not None and one.end > state.recompute_at]
            bucket = later[0] if later else window[0]
            if frozen(self.rollup, state, bucket):
                self.progress.frozen += 1
            else:
                self._replace(connection, bucket)
                self.progress.revisited += 1
            # Of a long pause it is enough to make up for one round.
            pace = ROUND / len(window)
            last = state.recomputed_at or self.now - pace
            state = replace(state, recompute_at=bucket.end, recomputed_at=max(last + pace, self.now - ROUND))
            self._set(connection, recompute_at=state.recompute_at, recomputed_at=state.recomputed_at)
        self.watch(self.progress)
        return state

    # -- buckets --------------------------------------------------------------------------------------------

    def compute_keys(self, todo: Mapping[UUID, datetime]) -> None:
        """Compute the buckets of some keys at once, from a moment each until now."""
        with self._transaction() as connection:
            state = self._locked(connection)
            assert state is not None
            self._replace_keys(connection, state, todo)

    def _replace_keys(self, connection: Connection, state: State, todo: Mapping[UUID, datetime]) -> None:
        oldest = max(state.covered_from, self.now - (self.rollup.recompute_for or timedelta(0)))
        most = self.rollup.keyed.most if self.rollup.keyed is not None else 0
        of: dict[Bucket, list[UUID]] = defaultdict(list)
        for key, since in todo.items():
            for bucket in self._buckets(max(since, oldest), self.now):
                of[bucket].append(key)
        for bucket in sorted(of):
            if not frozen(self.rollup, state, bucket):
                # Of many keys it takes longer to look each up than to read the bucket.
                keys = sorted(of[bucket]) if len(of[bucket]) <= most else None
                self._replace(connection, bucket, keys)

    def _replace(self, connection: Connection, bucket: Bucket, keys: Sequence[UUID] | None = None) -> None:
        self.progress.rows += replace_bucket(connection, self.rollup, bucket, self.now, keys)
        self.progress.buckets += 1

    def _bucket(self, moment: datetime) -> Bucket:
        return bucket_at(moment, self.rollup.grain, self.zone, self._seam)

    def _buckets(self, start: datetime, end: datetime) -> list[Bucket]:
        return buckets(start, end, self.rollup.grain, self.zone, self._seam)

    def _probe(self, connection: Connection) -> str | None:
        real = connection.get_execution_options().get("schema_translate_map") or {}
        named = [_quoted(feed.table, real, connection) for feed in self.rollup.source_tables]
        probe: str | None = connection.exec_driver_sql(PROBE, {"tables": named}).scalar_one()
        return probe if probe is not None and probe.endswith("/on") else None

    def _transaction(self) -> AbstractContextManager[Connection]:
        return computing(self.longest_ms)


@contextmanager
def computing(longest_ms: int = LONGEST_MS) -> Iterator[Connection]:
    """Open a transaction that computes buckets.

    Args:
        longest_ms: how long one statement may take.
    """
    with transaction() as connection:
        connection.exec_driver_sql(_SET, {"longest": str(longest_ms)})
        yield connection


def replace_bucket(
    connection: Connection, rollup: Rollup, bucket: Bucket, now: datetime, keys: Sequence[UUID] | None = None
) -> int:
    """Compute one bucket in the place of what is there; return how many rows were written or taken away.

    Args:
        keys: the keys that are computed; None for the whole bucket.
    """
    made = statements(rollup)
    values = parameters(bucket, now)
    statement: Executable = made.replace
    if keys is not None:
        assert made.replace_keys is not None
        statement, values = made.replace_keys, {**values, "keys": list(keys)}
    for turn in range(1, TURNS + 1):
        try:
            with connection.begin_nested():
                written, removed = connection.execute(statement, values).one()
            break
        except IntegrityError:
            # A room that was there when it was computed is not any more.
            if turn == TURNS:
                raise
    return int(written + removed)


def parameters(bucket: Bucket, now: datetime) -> dict[str, Any]:
    """Return the parameters of a select for one bucket."""
    return {"bucket_from": bucket.start, "bucket_to": bucket.end, "bucket": bucket.label, "now": now}


def _quoted(table: Table, real: Mapping[Any, Any], connection: Connection) -> str:
    quote = connection.dialect.identifier_preparer.quote
    return f"{quote(real.get(table.schema, table.schema))}.{quote(table.name)}"


def differences(connection: Connection, rollup: Rollup, bucket: Bucket, now: datetime) -> Sequence[Row[Any]]:
    """Return what computing a bucket again would change, row by row; see `Statements.differs`."""
    connection.exec_driver_sql(_SET, {"longest": str(LONGEST_MS)})
    return connection.execute(statements(rollup).differs, parameters(bucket, now)).all()
