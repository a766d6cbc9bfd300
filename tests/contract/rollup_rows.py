"""The rows by which the contract of rollups is shown: at a bucket's edges, with NULLs, late, corrected."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, delete, insert, update
from sqlalchemy.schema import sort_tables

from tasks.analytics.calendar import Bucket
from tasks.analytics.rollup_guard import Closed, freeze
from tasks.policies.columns import names_of, table_of
from tasks.policies.rollup import DAY, Rollup
from tests.analytics.figuring import INSTANT, Rows, midnight
from tests.contract.rollup_example import Example, Source
from workers.db import get_engine

#: Where days of statistics are those of a zone: its clocks change on this day, which has 23 hours.
ZONE, CHANGE = "Europe/Berlin", date(2026, 3, 29)
#: How often a row counts, by the bucket's label and the name of the target's column.
Counts = Counter[tuple[Any, str]]


def three_buckets(rollup: Rollup, zone: str) -> tuple[Bucket, Bucket, Bucket]:
    """Return the bucket in which the clocks change, between the one before it and the one after it."""
    if rollup.grain is DAY:
        days = [CHANGE + timedelta(days=number) for number in range(-1, 3)]
        edges = [midnight(day, zone) for day in days]
        labels: list[Any] = list(days)
    else:
        edges = labels = [datetime(2026, 3, 29, hour, tzinfo=UTC) for hour in range(4)]
    first, second, third = (Bucket(edges[number], edges[number + 1], labels[number]) for number in range(3))
    return first, second, third


@dataclass(eq=False)
class SourceRow:
    """One row of a source.

    Attributes:
        counts: whether it counts in the bucket of its moment.
        late: whether it is written long after its moment.
        written, gone: whether it was inserted, and deleted.
    """

    source: Source
    key: UUID
    moment: datetime
    values: dict[str, Any]
    counts: bool = True
    late: bool = False
    written: bool = False
    deleted: bool = False


class SourceRows:
    """The rows of all sources of an example, which are written as time goes on.

    Attributes:
        buckets: three that follow each other.
        length: of most buckets.
    """

    def __init__(self, example: Example) -> None:
        self.rollup = example.rollup
        by_day = self.rollup.grain is DAY
        self.zone = ZONE if by_day else "UTC"
        self.length = timedelta(days=1) if by_day else timedelta(hours=1)
        self.buckets = three_buckets(self.rollup, self.zone)
        self._tables = {source: table_of(source.of) for source in example.sources}
        self._made = Rows()
        self._rows: list[SourceRow] = []
        for source in example.sources:
            self._make(source)
        own = {id(row.values) for row in self._rows}
        #: What the rows refer to: people, places, other rows.
        self._context = {
            table: [row for row in rows if id(row) not in own] for table, rows in self._made.tables.items()
        }

    def _make(self, source: Source) -> None:
        buckets = [three_buckets(self.rollup, zone)[1] for zone in {self.zone, "UTC"}]
        edges = {edge for bucket in buckets for edge in (bucket.start, bucket.end)}
        for edge in sorted(edges):
            self._add(source, edge - INSTANT)
            self._add(source, edge)
        middle = self.buckets[1].start + self.length / 2
        nullable = {column.name for column in self._tables[source].c if column.nullable}
        at, first, needs = names_of(source.at), names_of(source.at[:1]), names_of(source.needs)
        self._add(source, middle, nulls=nullable - at - needs)
        for name in sorted((first | needs) & nullable):
            self._add(source, middle, nulls=at & nullable if name in first else {name}, counts=False)
        self._add(source, middle + INSTANT, late=True)

    def _add(self, source: Source, moment: datetime, nulls: Iterable[str] = (), **of_row: bool) -> None:
        key = source.add(self._made, moment)
        values = next(row for row in reversed(self._made.of(source.of)) if row[source.key] == key)
        values.update(dict.fromkeys(nulls))
        self._rows.append(SourceRow(source, key, moment, values, **of_row))

    # -- what the application does ----------------------------------------------------------------------

    def write(self, now: datetime, *, late: bool = False) -> None:
        """Insert the rows of moments before now, the late ones if asked."""
        todo, self._context = self._context, {}
        for row in self._rows:
            if not row.written and row.moment < now and (late or not row.late):
                row.written = True
                todo.setdefault(self._tables[row.source], []).append(row.values)
        with _writing() as connection:
            for table in sort_tables(todo):
                # Those with the same columns together: what is not given is the table's to say.
                alike: dict[frozenset[str], list[dict[str, Any]]] = {}
                for values in todo[table]:
                    alike.setdefault(frozenset(values), []).append(values)
                for several in alike.values():
                    connection.execute(insert(table), several)

    def correct(self) -> None:
        """Of each source, move the row at the beginning of the second bucket to the first bucket, and delete
        the row at the end of it."""
        earlier, bucket, _ = self.buckets
        moved_to = earlier.start + self.length / 2
        with _writing() as connection:
            for source, table in self._tables.items():
                key = table.c[source.key]
                if source.at:
                    row = self._at(source, bucket.start)
                    row.moment = moved_to
                    for column in source.at:
                        of = column.property.columns[0]
                        row.values[of.name] = moved_to if of.type.timezone else moved_to.replace(tzinfo=None)
                    moved = {name: row.values[name] for name in names_of(source.at)}
                    connection.execute(update(table).where(key == row.key).values(moved))
                row = self._at(source, bucket.end - INSTANT)
                row.deleted = True
                connection.execute(delete(table).where(key == row.key))

    def _at(self, source: Source, moment: datetime) -> SourceRow:
        return next(row for row in self._rows if row.source is source and row.moment == moment)

    # -- what retention does ----------------------------------------------------------------------------

    def take(self) -> None:
        """Delete the rows of the first two buckets as retention does: up to the latest of their moments, as
        the rollup's `source_tables` name them, buckets are frozen."""
        moments = []
        with _writing() as connection:
            for table in reversed(sort_tables(set(self._tables.values()))):
                taken = [row for row in self._taken() if self._tables[row.source] is table]
                for row in taken:
                    row.deleted = True
                key = table.c[taken[0].source.key]
                connection.execute(delete(table).where(key.in_([row.key for row in taken])))
                (feed,) = (feed for feed in self.rollup.source_tables if feed.table is table)
                moments += [row.values.get(name) for row in taken for name in names_of(feed.at)]
            latest = max(at if at.tzinfo else at.replace(tzinfo=UTC) for at in moments if at is not None)
            freeze(connection, Closed(frozenset({self.rollup.name})), {self.rollup.name: latest})

    def _taken(self) -> list[SourceRow]:
        end = self.buckets[1].end
        return [row for row in self._rows if row.written and not row.deleted and row.moment < end]

    # -- what it comes to -------------------------------------------------------------------------------

    def counts(self, buckets: Sequence[Bucket]) -> Counts:
        """Return how often the rows that are there count in each of these buckets, by plain comparison."""
        return Counter(
            (bucket.label, column.key)
            for row in self._rows
            if row.counts and row.written and not row.deleted
            for bucket in buckets
            if bucket.start <= row.moment < bucket.end
            for column in row.source.counts
        )


@contextmanager
def _writing() -> Iterator[Connection]:
    """Open a transaction whose rows the server's counters tell of at once: runs go by these."""
    with get_engine().begin() as connection:
        yield connection
        connection.exec_driver_sql("SELECT pg_stat_force_next_flush()")
