"""What holds for every rollup, whatever it counts: one history of rows, and the runs that count it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from unittest.mock import patch

from sqlalchemy import Connection, event, func, insert, select

from models.analytics import RollupState
from tasks.analytics import engine
from tasks.analytics.backfill import Backfill
from tasks.analytics.engine import RollupProgress, RollupRun, differences, parameters
from tasks.analytics.state import State, frozen, state_of
from tasks.analytics.statements import statements
from tasks.policies.columns import names_of, table_of
from tasks.policies.rollup import HOUR, Rollup
from tests.contract.rollup_example import Example
from tests.contract.rollup_rows import Counts, SourceRows, three_buckets
from workers.db import get_engine

STATE = "roomkeeper.rollups"
#: Of each table with rows, its rows as texts, each with the transaction that wrote it.
Database = dict[str, set[tuple[str, str]]]
_TABLES_WITH_ROWS = """
    SELECT quote_ident(nspname) || '.' || quote_ident(relname) FROM pg_catalog.pg_class
      JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
     WHERE relkind = 'r' AND relpersistence <> 't' AND nspname !~ '^(pg_|information_schema)'
       AND pg_relation_size(pg_class.oid) > 0
"""


def check(example: Example) -> None:
    """Fail with a sentence on the rule that the rollup breaks. The database is empty before."""
    _sources_are_complete(example)
    _Contract(example).check()


def _sources_are_complete(example: Example) -> None:
    rollup = example.rollup
    assert (rollup.recompute_for is not None) == example.recomputed, (
        f"{rollup.name}: closed buckets are {'' if example.recomputed else 'not '}to be computed again: "
        "its Example and its `recompute_for` differ."
    )
    for feed in rollup.source_tables:
        sources = [source for source in example.sources if source.of is feed.model]
        assert sources, f"{rollup.name} counts {feed.table.fullname}: add a source to its Example."
        moments = names_of(column for source in sources for column in source.at)
        assert moments in (set(), names_of(feed.at)), (
            f"{rollup.name}: rows of {feed.table.fullname} count by {', '.join(sorted(moments))}, and its "
            f"`source_tables` names {', '.join(sorted(names_of(feed.at)))}."
        )
    for source in example.sources:
        table = table_of(source.of)
        assert source.of in rollup.models, (
            f"{rollup.name}: rows of {table.fullname} count, and its `source_tables` does not name it."
        )


class _Contract:
    """The runs of one rollup over one history, and what is to be seen after each.

    The steps follow each other: each begins with what the one before has left. The third bucket is
    open at first, and gets more rows before it is closed.

    Attributes:
        database: as it was at the beginning of the step.
    """

    database: Database

    def __init__(self, example: Example) -> None:
        self.rows, self.recomputed = SourceRows(example), example.recomputed
        self.rollup, self.zone = example.rollup, self.rows.zone
        self.by_moment = f"a row counts in the bucket of its moment, to the microsecond, in {self.zone}"
        self.columns = sorted({column.key for source in example.sources for column in source.counts})

    def check(self) -> None:
        _, bucket, _ = self.rows.buckets
        with _rounds(self.rollup, self.rows.length):
            closing = bucket.end + self.rollup.grace
            self.begin()
            self.killed(closing)
            self.closed(closing)
            self.late(closing + self.rows.length)
            self.again(closing + self.rows.length)
            if self.zone != "UTC":
                self.in_utc(closing + self.rows.length)
            self.frozen(closing + 2 * self.rows.length)

    def begin(self) -> None:
        """Say that all buckets before the history are closed: or a first run closes those without rows."""
        start = self.rows.buckets[0].start
        values = {"zone": self.zone, "watermark": start, "covered_from": start}
        with get_engine().begin() as connection:
            connection.execute(insert(RollupState).values(name=self.rollup.name, **values))

    # -- rule by rule -----------------------------------------------------------------------------------

    def killed(self, now: datetime) -> None:
        self.rows.write(now)
        self.database = _database()
        with _killed_at_its_first_write(self.rollup):
            self.run(now)
        changed = _changed(self.database, _database()) - {STATE}
        self.others_are_left_alone(changed)
        self.rule(not changed, f"a run that is killed leaves everything as it was; {changed} changed")
        kept = self.state().watermark == self.rows.buckets[0].start
        self.rule(kept, "a run that is killed moves no watermark")

    def closed(self, now: datetime) -> None:
        self.run(now)
        self.rule(
            self.state().watermark == self.rows.buckets[1].end,
            "a bucket is closed as soon as its time to settle is over",
        )
        self.counts(
            self.rows.counts(self.rows.buckets),
            f"{self.by_moment}, in closed buckets and in the open one; NULL in a column that does not matter "
            "leaves no row out, and NULL for its moment does",
        )
        before, self.database = self.database, _database()
        self.others_are_left_alone(_changed(before, self.database))
        self.run(now)
        self.computed_anew(now)
        self.same("a second run writes nothing")

    def late(self, now: datetime) -> None:
        *closed, last = self.rows.buckets
        kept = self.rows.counts(closed)
        self.rows.write(now, late=True)
        self.rows.correct()
        self.run(now)
        if self.recomputed:
            wanted = self.rows.counts(self.rows.buckets)
            rule = "closed buckets follow rows that come late, are corrected or deleted"
        else:
            wanted = kept + self.rows.counts([last])
            rule = "closed buckets are never computed again where cleanup takes the rows soon"
        self.counts(wanted, rule)

    def again(self, now: datetime) -> None:
        state, (_, bucket, _) = self.state(), self.rows.buckets
        with get_engine().begin() as connection:
            for one in self.rows.buckets:
                if not frozen(self.rollup, state, one):
                    found = differences(connection, self.rollup, one, now)
                    self.rule(not found, f"an audit finds no difference; it found {found}")
        done = Backfill(self.rollup, now, self.zone).compute_all([bucket])
        sound = (done.rows, done.frozen) == (0, 0 if self.recomputed else 1)
        self.rule(sound, f"runs end in what one backfill computes, not {done}")

    def in_utc(self, now: datetime) -> None:
        buckets, found = three_buckets(self.rollup, "UTC"), Counts()
        with get_engine().begin() as connection:
            for bucket in buckets:
                for row in connection.execute(self.rollup.select, parameters(bucket, now)).mappings():
                    found.update({(bucket.label, name): int(row[name]) for name in self.columns})
        self.equal(found, self.rows.counts(buckets), "a row counts in the bucket of its moment, in UTC")

    def frozen(self, now: datetime) -> None:
        self.rows.take()
        target = [self.rollup.table.fullname]
        before = _database(target)
        done = self.run(now)
        kept = _database(target) == before
        self.rule(kept, "a closed bucket keeps its statistics when retention takes its rows")
        assert done.frozen or not self.recomputed, "no frozen bucket was looked at"

    # -- what is there ----------------------------------------------------------------------------------

    def run(self, now: datetime) -> RollupProgress:
        return RollupRun(self.rollup, now, self.zone).go()

    def state(self) -> State:
        with get_engine().begin() as connection:
            state = state_of(connection, self.rollup)
        assert state is not None
        return state

    def own_tables(self) -> set[str]:
        """Return the tables to which a run may write: its target, and those of the platform that it names."""
        needs = self.rollup.needs()
        written = {need.table.fullname for need in needs if need.privileges - {"SELECT"}}
        platform_tables = {name for name in written if name.startswith("roomkeeper.")}
        return {self.rollup.table.fullname, STATE, "roomkeeper.rollup_live", *platform_tables}

    def counts(self, wanted: Counts, rule: str) -> None:
        table = self.rollup.table
        label = table.c[self.rollup.bucket.key]
        sums = select(label, *(func.sum(table.c[name]) for name in self.columns)).group_by(label)
        found = Counts()
        with get_engine().begin() as connection:
            for bucket, *values in connection.execute(sums):
                pairs = zip(self.columns, values, strict=True)
                found.update({(bucket, name): int(value) for name, value in pairs})
        self.equal(found, wanted, rule)

    def equal(self, found: Counts, wanted: Counts, rule: str) -> None:
        wrong = [
            f"{name} of {bucket} is {found[bucket, name]}, not {wanted[bucket, name]}"
            for bucket, name in sorted({*found, *wanted})
            if found[bucket, name] != wanted[bucket, name]
        ]
        self.rule(not wrong, f"{rule}; {', '.join(wrong)}")

    def computed_anew(self, now: datetime) -> None:
        """Compute all buckets as a backfill does, and see that nothing is written."""
        replace_bucket, rows = statements(self.rollup).replace, 0
        with get_engine().begin() as connection:
            for bucket in self.rows.buckets:
                rows += sum(connection.execute(replace_bucket, parameters(bucket, now)).one())
        self.rule(not rows, f"a second run writes nothing; it wrote {rows} rows")

    def others_are_left_alone(self, changed: set[str]) -> None:
        others = sorted(changed - self.own_tables())
        self.rule(not others, f"a run leaves other tables alone; it wrote to {', '.join(others)}")

    def same(self, rule: str) -> None:
        changed = sorted(_changed(self.database, _database()) - {STATE})
        self.rule(not changed, f"{rule}; {', '.join(changed)} changed")

    def rule(self, holds: bool, sentence: str) -> None:
        assert holds, f"{self.rollup.name}: {sentence}."


def _database(tables: Sequence[str] = ()) -> Database:
    """Return the rows of these tables, or of all."""
    with get_engine().begin() as connection:
        names = tables or connection.exec_driver_sql(_TABLES_WITH_ROWS).scalars().all()
        found: Database = {name.replace('"', ""): set() for name in names}
        every = [f"SELECT '{name}', t.xmin::text, t::text FROM {name} AS t" for name in names]
        for name, written, row in connection.exec_driver_sql(" UNION ALL ".join(every)):
            found[name.replace('"', "")].add((written, row))
    return found


def _changed(before: Database, after: Database) -> set[str]:
    """Return the tables that do not hold the same rows, written by the same transactions."""
    return {name for name in {*before, *after} if before.get(name, set()) != after.get(name, set())}


class _Killed(BaseException):
    """The process dies here."""


@contextmanager
def _killed_at_its_first_write(rollup: Rollup) -> Iterator[None]:
    """Die when a row of the target has been written, and nothing is committed."""
    write = f"INSERT INTO {rollup.table.fullname} "

    def die(_connection: Connection, _cursor: object, statement: str, *_: object) -> None:
        if write in statement:
            raise _Killed

    event.listen(get_engine(), "after_cursor_execute", die)
    try:
        yield
    except _Killed:
        pass
    else:
        raise AssertionError(f"{rollup.name}: the run was to write to {rollup.table.fullname}")
    finally:
        event.remove(get_engine(), "after_cursor_execute", die)


@contextmanager
def _rounds(rollup: Rollup, length: timedelta) -> Iterator[None]:
    """Have closed hours computed again once an hour, not once a day: or 24 more would have to be closed."""
    with patch.object(engine, "ROUND", length if rollup.grain is HOUR else engine.ROUND):
        yield
