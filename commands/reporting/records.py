"""What a report may say of its charts: records, that the code beside this file reads and draws.

A chart says what is its own: a title, its statistics, how they are drawn. Which rollup makes them, and so the
table, its day and its keys, follows from the columns of the statistics; the unit from their names.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from sqlalchemy import Column as TableColumn
from sqlalchemy import ColumnElement, Float, cast, func, inspect

from tasks.apps import ROLLUPS
from tasks.policies.columns import Column, model_of, parts_of
from tasks.policies.rollup import Rollup

Number = int | float


class Shape(StrEnum):
    """How a chart is drawn."""

    #: One bar a day, of parts that add up to something.
    STACK = "stack"
    #: One line for each series.
    LINES = "lines"


class Unit(StrEnum):
    """What a statistic is measured in."""

    NUMBER = "number"
    SECONDS = "seconds"
    #: Seconds of many people together, shown as hours.
    SPENT = "spent"
    MINUTES = "minutes"
    BYTES = "bytes"
    SHARE = "share"


class Over(StrEnum):
    """What a chart may show of all days together."""

    #: Their sum.
    SUM = "sum"
    #: The highest of them.
    HIGHEST = "highest"
    #: Nothing: of medians, percentiles and rates.
    NOTHING = "nothing"


class Colour(StrEnum):
    """Colours that tell series apart for everybody; the page has their values for light and dark."""

    BLUE = "blue"
    RED = "red"
    GREEN = "green"
    YELLOW = "yellow"
    CYAN = "cyan"
    PURPLE = "purple"
    GREY = "grey"


# -- statistics ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Statistic:
    """An aggregate of the rows of a day, or of a day and a key.

    Attributes:
        counts: whether it counts something: without a row it is 0. A median, a percentile or a rate does not:
            without a row there is none, and of several days neither.
    """

    value: ColumnElement[Any]
    unit: Unit = Unit.NUMBER
    counts: bool = True

    @property
    def empty(self) -> float | None:
        """The statistic of a day without rows."""
        return 0 if self.counts else None


def the(column: Column) -> Statistic:
    """Return a column's value, of a table that has one row for a day and series."""
    return Statistic(func.max(column), _unit(column), counts=not _column(column).nullable)


def summed(column: Column) -> Statistic:
    """Return the sum of a day's rows."""
    unit = _unit(column)
    return Statistic(func.sum(func.coalesce(column, 0)), Unit.SPENT if unit is Unit.SECONDS else unit)


def highest(column: Column) -> Statistic:
    """Return the highest of a day's rows."""
    return Statistic(func.max(func.coalesce(column, 0)), _unit(column))


def rows(where: ColumnElement[bool]) -> Statistic:
    """Return the number of a day's rows of which something is true."""
    return Statistic(func.count().filter(where))


def rest(total: Column, *parts: Column) -> Statistic:
    """Return the sum of what is in no part of a day's total."""
    value: ColumnElement[Any] = total.expression
    for part in parts:
        value = value - part
    return Statistic(func.sum(value))


def mean(column: Column, where: ColumnElement[bool]) -> Statistic:
    """Return the mean of those of a day's rows of which something is true."""
    return Statistic(cast(func.avg(column).filter(where), Float), counts=False)


def share(part: Column, whole: Column) -> Statistic:
    """Return the share that a part has of the whole, over all of a day's rows."""
    value = cast(func.sum(part), Float) / func.nullif(func.sum(whole), 0)
    return Statistic(value, Unit.SHARE, counts=False)


def _column(column: Column) -> TableColumn[Any]:
    found: TableColumn[Any] = column.property.columns[0]
    return found


def _unit(column: Column) -> Unit:
    """Return the unit that ends a column's name: `total_seconds`, `size_bytes`."""
    last = _column(column).name.rpartition("_")[2]
    return {"seconds": Unit.SECONDS, "minutes": Unit.MINUTES, "bytes": Unit.BYTES}.get(last, Unit.NUMBER)


# -- series ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """A statistic by its name."""

    name: str
    statistic: Statistic
    colour: Colour | None = None


@dataclass(frozen=True, slots=True, eq=False)
class By:
    """A series for each value of the rollup's key: of the one that the chart's `where` leaves.

    Attributes:
        name: the column of the key's own table that names it; None: it is shown as it is.
        colours: of keys that mean something.
        top: only so many, those with the highest sums; the others are added up as one series.
        others: the name of that series.
    """

    statistic: Statistic
    name: Column | None = None
    colours: Mapping[str, Colour] | None = None
    top: int | None = None
    others: str = "others"


# -- what is shown ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Chart:
    """Daily statistics that are looked at together.

    Attributes:
        title: what it shows, in some words.
        says: what a number is, in a sentence or two.
        series: named statistics, or one for each value of a key.
        where: which of the table's rows are meant; None for all.
        shape: how it is drawn; lines, if nothing is counted.
        over: what may be shown of all days together; nothing, if nothing is counted.
        headline: the name of that; None: it is not shown.
    """

    title: str
    says: str
    series: tuple[Series, ...] | By
    where: ColumnElement[bool] | None = None
    shape: Shape = Shape.STACK
    over: Over = Over.SUM
    headline: str | None = None
    rollup: Rollup = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rollup", _rollup(self.title, self.statistics))
        if not any(statistic.counts for statistic in self.statistics):
            object.__setattr__(self, "shape", Shape.LINES)
            object.__setattr__(self, "over", Over.NOTHING)

    @property
    def statistics(self) -> tuple[Statistic, ...]:
        """The statistics of its series."""
        return (
            (self.series.statistic,)
            if isinstance(self.series, By)
            else tuple(s.statistic for s in self.series)
        )

    @property
    def unit(self) -> Unit:
        """The unit that its statistics have in common."""
        return self.statistics[0].unit

    @property
    def reads(self) -> Iterator[Any]:
        """What it reads of the database."""
        yield from (self.rollup.bucket, *(statistic.value for statistic in self.statistics))
        if self.where is not None:
            yield self.where
        if isinstance(self.series, By):
            yield self.key
            yield from _named(self.series.name)

    @property
    def key(self) -> Column:
        """The key whose values have a series each."""
        fixed = set() if self.where is None else {column.name for column in _columns(self.where)}
        (key,) = (column for column in self.rollup.key if _column(column).name not in fixed)
        return key


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Hours:
    """A statistic by weekday and hour of the day: its mean over the hours that are closed."""

    title: str
    says: str
    statistic: Statistic
    rollup: Rollup = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rollup", _rollup(self.title, [self.statistic]))

    @property
    def reads(self) -> Iterator[Any]:
        """What it reads of the database."""
        yield from (self.rollup.bucket, self.statistic.value)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ranking:
    """The keys of a rollup with the most: the first column's sum decides.

    Attributes:
        name: see `By`.
        columns: statistics over all days shown.
    """

    title: str
    says: str
    name: Column | None = None
    columns: tuple[Series, ...]
    limit: int = 10
    rollup: Rollup = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rollup", _rollup(self.title, [one.statistic for one in self.columns]))

    @property
    def key(self) -> Column:
        """What is ranked."""
        (key,) = self.rollup.key
        return key

    @property
    def heading(self) -> str:
        """The heading of the keys' column."""
        return _column(self.key).name.removesuffix("_id")

    @property
    def reads(self) -> Iterator[Any]:
        """What it reads of the database."""
        yield from (self.rollup.bucket, self.key, *(one.statistic.value for one in self.columns))
        yield from _named(self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What the report of an application shows, in its order."""

    charts: tuple[Chart, ...]
    hours: tuple[Hours, ...] = ()
    rankings: tuple[Ranking, ...] = ()

    @property
    def shown(self) -> tuple[Chart | Hours | Ranking, ...]:
        """All of it."""
        return (*self.charts, *self.hours, *self.rankings)

    @property
    def rollups(self) -> list[str]:
        """The names of the rollups that make its statistics."""
        return list(dict.fromkeys(one.rollup.name for one in self.shown))


def id_of(name: Column) -> Column:
    """Return the key of the table that a name is in."""
    mapper = inspect(model_of(name))
    (key,) = mapper.primary_key
    found: Column = getattr(mapper.class_, mapper.get_property_by_column(key).key)
    return found


def _named(name: Column | None) -> tuple[Column, ...]:
    return () if name is None else (id_of(name), name)


def _rollup(title: str, statistics: Iterable[Statistic]) -> Rollup:
    """Return the rollup that makes some statistics.

    Raises:
        ValueError: they are of no rollup's table, or of several.
    """
    tables = {column.table for column in _columns(*(statistic.value for statistic in statistics))}
    found = [rollup for rollup in ROLLUPS.values() if rollup.table in tables]
    if len(found) != 1:
        names = ", ".join(rollup.name for rollup in found) or "none"
        raise ValueError(f"{title}: its statistics must be of one rollup's table, and are of: {names}")
    return found[0]


def _columns(*expressions: ColumnElement[Any]) -> Iterator[TableColumn[Any]]:
    return (one for one in parts_of(*expressions) if isinstance(one, TableColumn))
