"""A rollup record: which statistics are made of which rows, bucket by bucket, and when.

A rollup is a record. Its select computes one bucket, [FROM, TO), inside PostgreSQL; the engine
(`tasks/analytics/engine.py`) puts what it gives in the place of what was there.

    Rollup(
        name="pern.sessions_daily",
        model=PernSessionsDaily,
        rule="sessions that began that day, and whose they are",
        why="...",
        grain=DAY,
        bucket=PernSessionsDaily.day,
        select=select(BUCKET.label("day"), func.count().label("sessions"), ...)
            .where(AuthSession.created_at >= FROM, AuthSession.created_at < TO)
            .having(func.count() > 0),
        source_tables=(SourceTable(AuthSession, (AuthSession.created_at,)),),
    )

A bucket without anything in it gives no row. Conditions on time stand on the bare column, so that an index
serves them, and are half-open: what happens exactly at midnight is of the day that begins.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    ARRAY,
    Alias,
    ColumnElement,
    DateTime,
    Delete,
    Insert,
    Select,
    Table,
    Update,
    Uuid,
    bindparam,
    func,
    literal,
)
from sqlalchemy import Column as TableColumn

from tasks.policies.columns import Column, Model, model_of, names_of, parts_of, table_of
from tasks.policies.sweep import PolicyError
from workers import time_zones
from workers.inspection import Need


class Grain(StrEnum):
    """How long a bucket is."""

    HOUR = "hour"
    DAY = "day"


HOUR, DAY = Grain.HOUR, Grain.DAY

#: A clock that says it is earlier was never set: 1970, mostly.
CLOCKS_SET = datetime(2000, 1, 1, tzinfo=UTC)

#: The bucket: from this moment on, and before that one.
FROM: ColumnElement[Any] = bindparam("bucket_from", type_=DateTime(timezone=True))
TO: ColumnElement[Any] = bindparam("bucket_to", type_=DateTime(timezone=True))
#: The same for columns that hold UTC without saying so (`openchat`).
FROM_UTC: ColumnElement[Any] = func.timezone("UTC", FROM, type_=DateTime(timezone=False))
TO_UTC: ColumnElement[Any] = func.timezone("UTC", TO, type_=DateTime(timezone=False))
#: The keys that are computed, in `Keyed.select`.
KEYS: ColumnElement[Any] = bindparam("keys", type_=ARRAY(Uuid()))
#: The moment of the last run, in `Keyed.changed` and `Rollup.snapshot`.
SINCE: ColumnElement[Any] = bindparam("since", type_=DateTime(timezone=True))


def bucket_of(column: Column) -> ColumnElement[Any]:
    """Return the bucket as the target's column has it: the day, or when the hour begins."""
    named = column.property.columns[0]
    return bindparam("bucket", type_=named.type).label(named.name)


def quarter_of(at: Any) -> ColumnElement[Any]:
    """Return the quarter of an hour that a moment is in.

    In any zone a day begins at one, but not always at a full hour.
    """
    return func.date_bin(literal(timedelta(minutes=15)), at, literal(CLOCKS_SET, DateTime(timezone=True)))


@dataclass(frozen=True, slots=True, eq=False)
class SourceTable:
    """A table whose rows a rollup counts.

    Attributes:
        at: its moments, the earliest first. A row counts in no bucket that begins after the latest of them:
            retention leaves it until that bucket is closed, and freezes the buckets up to there when it takes
            the row.
    """

    model: Model
    at: tuple[Column, ...]

    @property
    def table(self) -> Table:
        """The table."""
        return table_of(self.model)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Keyed:
    """How open buckets are kept up to date key by key (room by room), not as a whole.

    Attributes:
        key: the target's column.
        select: the rollup's select, of KEYS alone.
        changed: keys in which something has changed since SINCE, as (key, since): the earliest moment whose
            statistics it may change.
        live: keys in which something goes on at NOW, as (key, since): their statistics grow without any row
            being written. They are computed at each run, and once more from `since` on when they are live no
            longer: that something ended earlier than it seemed is said only then.
        most: of more keys a bucket is computed as a whole, which takes less time.
    """

    key: Column
    select: Select[Any]
    changed: Any
    live: Any
    most: int = 200


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rollup:
    """A rollup of the rollup engine.

    Attributes:
        name: `application.what`: of the rollup, and of its task, entry of the timetable and runs.
        model: the target table.
        rule: what is counted, in words.
        why: the reason, with the document that it comes from.
        grain: how long a bucket is. Hours are of UTC.
        bucket: the target's column that says which bucket.
        key: the target's other key columns.
        select: computes one bucket from FROM, TO and NOW: the bucket, the key columns, and the statistics, by
            the names of the target's columns. What else the target has is left as it is.
        source_tables: the tables whose rows it counts.
        every: how often it runs, unless set otherwise.
        grace: how long after its end a bucket waits for late rows before it is closed.
        recompute_for: for how long a closed bucket is computed again, once a day, for what came later still,
            was corrected or deleted; None, never, where cleanup takes the rows soon after.
        zone: the time zone whose days are meant.
        late_after: when a bucket that should be closed is not, after how long that is a fault.
        keyed: how open buckets are kept up to date; None: as a whole.
        snapshot: statements on NOW and SINCE that copy what the application will overwrite, or find what no
            index finds; run before anything is computed.
        daily_snapshot: the same, for statements that read whole tables: once a day, and after a pause.
        empty_values: what statistics become where a key has none any more, and rows are not ours to delete.
        definition: the number of its definition. Increase it when the select counts something else: all
            buckets are then computed again, except those that have lost rows, and no row leaves before.
    """

    name: str
    model: Model
    rule: str
    why: str
    grain: Grain
    bucket: Column
    select: Select[Any]
    source_tables: tuple[SourceTable, ...]
    key: tuple[Column, ...] = ()
    every: timedelta = timedelta(minutes=15)
    grace: timedelta = timedelta(hours=2)
    recompute_for: timedelta | None = timedelta(days=35)
    zone: str = "UTC"
    late_after: timedelta = timedelta(hours=2)
    keyed: Keyed | None = None
    snapshot: tuple[Any, ...] = ()
    daily_snapshot: tuple[Any, ...] = ()
    empty_values: Mapping[Column, Any] | None = None
    definition: int = 1
    metrics: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        named = [column.name for column in self.select.selected_columns]
        keys = names_of([self.bucket, *self.key])
        object.__setattr__(self, "metrics", tuple(name for name in named if name not in keys))
        for fault in self._faults(named, keys):
            raise PolicyError(f"{self.name}: {fault}")

    def _faults(self, named: list[str], keys: set[str]) -> Iterator[str]:
        if not re.fullmatch(r"[a-z]+\.[a-z_]+", self.name):
            yield "call it application.what, in small letters."
        for name in ("rule", "why"):
            if len(getattr(self, name).split()) < 3:
                yield f"say in a sentence what its {name} is."
        if absent := keys - set(named):
            yield f"its select does not give {', '.join(sorted(absent))}."
        if unknown := [name for name in named if name not in self.table.c]:
            yield f"{self.table.fullname} has no column {', '.join(unknown)}."
        if not self.metrics:
            yield "its select gives no statistics."
        if not self.source_tables:
            yield "say in `source_tables` whose rows it counts."
        for column in (self.bucket, *self.key):
            if table_of(model_of(column)) is not self.table:
                yield f"{column} is not a column of {self.table.fullname}."
        if fault := time_zones.fault_of(self.zone):
            yield f"{fault}."
        if self.grain is HOUR and self.zone != "UTC":
            yield "hours are of UTC: give no zone."
        for name in ("every", "late_after"):
            if getattr(self, name) <= timedelta(0):
                yield f"`{name}` must be longer than nothing."
        if self.grace < timedelta(0):
            yield "`grace` must not be negative."
        if self.keyed is not None:
            if [column.name for column in self.keyed.select.selected_columns] != named:
                yield "the select of its keys must give what its select gives."
            if self.keyed.key not in self.key:
                yield f"{self.keyed.key} is not among its keys."

    @property
    def app(self) -> str:
        """The application, or `roomkeeper`."""
        return self.name.partition(".")[0]

    @property
    def table(self) -> Table:
        """The target."""
        return table_of(self.model)

    @property
    def task(self) -> str:
        """The name of its task."""
        return self.name

    @property
    def models(self) -> tuple[Model, ...]:
        """The tables whose rows it counts."""
        return tuple(feed.model for feed in self.source_tables)

    def _statements(self) -> tuple[Any, ...]:
        keyed = self.keyed
        return (
            self.select,
            *(() if keyed is None else (keyed.select, keyed.changed, keyed.live)),
            *self.snapshot,
            *self.daily_snapshot,
        )

    def needs(self) -> list[Need]:
        """Return what the rollup needs of the database."""
        read: dict[Table, set[str]] = {feed.table: names_of(feed.at) for feed in self.source_tables}
        for part in parts_of(*self._statements()):
            if not isinstance(part, TableColumn):
                continue
            source: Any = part.table
            source = source.element if isinstance(source, Alias) else source
            if isinstance(source, Table):
                read.setdefault(source, set()).add(part.name)
        written = {*self.metrics, *names_of([self.bucket, *self.key])}
        rights_on: dict[Table, set[str]] = {table: {"SELECT"} for table in read}
        for one in (*self.snapshot, *self.daily_snapshot):
            if isinstance(one, Insert | Update | Delete) and isinstance(one.table, Table):
                read.setdefault(one.table, set()).update(one.table.c.keys())
                rights_on.setdefault(one.table, {"SELECT"}).add(type(one).__visit_name__.upper())
        needs = [
            Need(table, frozenset(names), frozenset(rights_on[table]))
            for table, names in read.items()
            if table is not self.table
        ]
        rights = {"SELECT", "INSERT", "UPDATE"} | (set() if self.empty_values is not None else {"DELETE"})
        return [*needs, Need(self.table, frozenset(written), frozenset(rights))]
