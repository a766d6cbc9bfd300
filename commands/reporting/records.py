"""What a report may say of its charts: records, that the code beside this file reads and draws.

A chart is made of the rows of one table of figures. Each series is an aggregate of the rows of one day; the
record says what may be done with its days (`over`), so that nothing is added up that must not be.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, func

from tasks.policies.columns import Column, Model


class Shape(StrEnum):
    """How a chart is drawn."""

    #: One bar a day, of parts that add up to something.
    STACK = "stack"
    #: One line for each series.
    LINES = "lines"


class Unit(StrEnum):
    """What a figure is measured in."""

    NUMBER = "number"
    SECONDS = "seconds"
    #: Seconds of many people together, told in hours.
    SPENT = "spent"
    MINUTES = "minutes"
    BYTES = "bytes"
    SHARE = "share"


class Over(StrEnum):
    """What may be told of all days together."""

    #: Their sum.
    SUM = "sum"
    #: The highest of them.
    HIGHEST = "highest"
    #: Nothing: a median, say.
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


def the(column: Column) -> ColumnElement[Any]:
    """Return a column's value, of a table that has one row for a day and series."""
    return func.max(column)


def summed(column: Column) -> ColumnElement[Any]:
    """Return the sum of a day's rows."""
    return func.sum(func.coalesce(column, 0))


def highest(column: Column) -> ColumnElement[Any]:
    """Return the highest of a day's rows."""
    return func.max(func.coalesce(column, 0))


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """A figure by its name.

    Attributes:
        empty: what a day without a row has: 0 where something is counted, None where there is nothing to take
            a median of.
    """

    name: str
    value: ColumnElement[Any]
    colour: Colour | None = None
    empty: float | None = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class By:
    """Series that are told by a column: one for each value of it.

    Attributes:
        key: the column.
        value: the figure.
        name: what a key is called, in the table whose `of` is the key; None: as the key is.
        colours: of keys that mean something.
        top: only so many, those with the highest sums; the rest is added up under `others`.
        empty: see `Series`.
    """

    key: Column
    value: ColumnElement[Any]
    name: Column | None = None
    of: Column | None = None
    colours: Mapping[str, Colour] | None = None
    top: int | None = None
    others: str = "others"
    empty: float | None = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Chart:
    """Daily figures that are looked at together.

    Attributes:
        title: what it shows, in some words.
        says: what a number is, in a sentence or two.
        rollup: the rollup that makes its figures.
        model: the rollup's table.
        day: its day.
        series: what is drawn: named figures, or one for each value of a column.
        where: which of the table's rows are meant; None for all.
        over: what may be told of all days together.
        headline: what that is called; None: it is not told.
    """

    title: str
    says: str
    rollup: str
    model: Model
    day: Column
    series: tuple[Series, ...] | By
    where: ColumnElement[bool] | None = None
    shape: Shape = Shape.STACK
    unit: Unit = Unit.NUMBER
    over: Over = Over.SUM
    headline: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Hours:
    """A figure by weekday and hour of the day: its mean over the hours that are closed."""

    title: str
    says: str
    rollup: str
    model: Model
    hour: Column
    value: ColumnElement[Any]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ranking:
    """Those with the most: the first column's sum decides.

    Attributes:
        key: what is ranked.
        called: what a key's column is headed.
        name, of: see `By`.
        columns: figures over all days shown.
    """

    title: str
    says: str
    rollup: str
    model: Model
    day: Column
    key: Column
    called: str
    name: Column | None = None
    of: Column | None = None
    columns: tuple[tuple[Series, Unit], ...]
    limit: int = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What the report of an application shows, in its order."""

    charts: tuple[Chart, ...]
    hours: tuple[Hours, ...] = ()
    rankings: tuple[Ranking, ...] = ()
