"""Reads what a report shows: figures day by day, which days are closed, and how the jobs are."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from itertools import cycle
from typing import Any

from sqlalchemy import Column as TableColumn
from sqlalchemy import Connection, Select, Table, case, literal_column, select

from commands import arguments
from commands.reporting.jobs import Job, read_jobs
from commands.reporting.records import By, Chart, Colour, Hours, Over, Page, Ranking, Series, Shape
from models.analytics import RollupState
from tasks.analytics.calendar import day_of
from tasks.policies.columns import Column, parts_of
from workers.inspection import Need

LONGEST_NAME = 40
_DAY = timedelta(days=1)
_PALETTE = tuple(Colour)

Number = int | float


class Known(StrEnum):
    """What is known of a day."""

    #: Its figures are final, but for corrections.
    CLOSED = "closed"
    #: Rows may still come.
    PROVISIONAL = "provisional"
    #: Nobody has computed it: there are no figures, which is not the same as 0.
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Line:
    """One series: a value for each day; None where there is none."""

    name: str
    colour: Colour
    values: tuple[Number | None, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """A chart with its figures.

    Attributes:
        days: the days shown, and what is known of each.
        zone: whose days they are.
    """

    chart: Chart
    days: tuple[date, ...]
    known: tuple[Known, ...]
    zone: str
    lines: tuple[Line, ...]

    @property
    def any(self) -> bool:
        """Whether there is anything to be drawn."""
        return any(value is not None for line in self.lines for value in line.values)

    def whole(self) -> tuple[Number | None, ...]:
        """Return each day's value where a chart has one series, or series that add up to something."""
        if len(self.lines) == 1 or self.chart.shape is Shape.LINES:
            return self.lines[0].values if self.lines else ()
        return tuple(
            None if one is Known.NOTHING else sum(line.values[at] or 0 for line in self.lines)
            for at, one in enumerate(self.known)
        )

    def told(self) -> tuple[Number, date | None] | None:
        """Return what may be told of all days together; for the highest, of which day it is."""
        values = [
            (value, day) for value, day in zip(self.whole(), self.days, strict=False) if value is not None
        ]
        if not values or self.chart.over is Over.NOTHING:
            return None
        if self.chart.over is Over.SUM:
            return sum(value for value, _ in values), None
        # Of equals the first.
        return max(values, key=lambda one: (one[0], -one[1].toordinal()))


@dataclass(frozen=True, slots=True, eq=False)
class Heat:
    """A figure by weekday (Monday first) and hour: its mean, and of how many hours; None of none."""

    hours: Hours
    means: tuple[tuple[float | None, ...], ...]
    counts: tuple[tuple[int, ...], ...]

    @property
    def highest(self) -> float:
        """The highest mean."""
        return max((mean for row in self.means for mean in row if mean is not None), default=0.0)


@dataclass(frozen=True, slots=True, eq=False)
class Ranked:
    """A ranking with its figures."""

    ranking: Ranking
    rows: tuple[tuple[str, tuple[Number | None, ...]], ...]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a rollup has come."""

    rollup: str
    zone: str
    covered_from: datetime
    watermark: datetime
    ticked_at: datetime | None


@dataclass(frozen=True, slots=True)
class Report:
    """All that a report shows of an application."""

    app: str
    first: date
    last: date
    made_at: datetime
    charts: tuple[Drawn, ...]
    heats: tuple[Heat, ...]
    rankings: tuple[Ranked, ...]
    progress: tuple[Progress, ...]
    jobs: tuple[Job, ...]


def rollups_of(page: Page) -> list[str]:
    """Return the rollups that a page's figures come from."""
    shown: tuple[Chart | Hours | Ranking, ...] = (*page.charts, *page.hours, *page.rankings)
    return list(dict.fromkeys(one.rollup for one in shown))


def needs(page: Page) -> list[Need]:
    """Return what a page needs of the database."""
    parts: list[Any] = []
    for hours in page.hours:
        parts += [hours.hour, hours.value]
    for ranking in page.rankings:
        parts += [ranking.day, ranking.key, ranking.name, ranking.of]
        parts += [series.value for series, _ in ranking.columns]
    for chart in page.charts:
        parts += [chart.day, chart.where]
        if isinstance(chart.series, By):
            parts += [chart.series.key, chart.series.value, chart.series.name, chart.series.of]
        else:
            parts += [series.value for series in chart.series]
    read: dict[Table, set[str]] = {}
    for one in parts_of(*(part.expression for part in parts if part is not None)):
        if isinstance(one, TableColumn) and isinstance(one.table, Table):
            read.setdefault(one.table, set()).add(one.name)
    return [Need(table, frozenset(names), frozenset({"SELECT"})) for table, names in read.items()]


def progress(connection: Connection, rollups: Iterable[str]) -> dict[str, Progress]:
    """Return how far those of the rollups have come that have begun."""
    columns = [
        getattr(RollupState, name) for name in ("name", "zone", "covered_from", "watermark", "ticked_at")
    ]
    rows = connection.execute(select(*columns).where(RollupState.name.in_(list(rollups))))
    return {row.name: Progress(*row) for row in rows}


def read(
    connection: Connection,
    app: str,
    page: Page,
    jobs: dict[str, timedelta],
    first: date,
    last: date,
    now: datetime,
) -> Report:
    """Read a report.

    Args:
        jobs: the application's jobs, with how often each runs.
        first, last: the days that are shown.
    """
    states = progress(connection, rollups_of(page))
    days = tuple(first + _DAY * at for at in range((last - first).days + 1))
    return Report(
        app,
        first,
        last,
        now,
        tuple(_chart(connection, chart, days, states.get(chart.rollup)) for chart in page.charts),
        tuple(_hours(connection, hours, first, last, states.get(hours.rollup)) for hours in page.hours),
        tuple(_ranking(connection, one, days, states.get(one.rollup)) for one in page.rankings),
        tuple(states[name] for name in rollups_of(page) if name in states),
        tuple(read_jobs(connection, jobs, now)),
    )


# -- days ------------------------------------------------------------------------------------------------


def known(day: date, state: Progress | None) -> Known:
    """Return what is known of a day."""
    if state is None:
        return Known.NOTHING
    bucket = day_of(day, state.zone)
    if bucket.start < state.covered_from:
        # What the application's table may hold from before was not made by us.
        return Known.NOTHING
    if bucket.end <= state.watermark:
        return Known.CLOSED
    computed = state.ticked_at is not None and bucket.start <= state.ticked_at
    return Known.PROVISIONAL if computed else Known.NOTHING


def _chart(connection: Connection, chart: Chart, days: tuple[date, ...], state: Progress | None) -> Drawn:
    seen = tuple(known(day, state) for day in days)
    covered = [day for day, one in zip(days, seen, strict=True) if one is not Known.NOTHING]
    lines: list[Line] = []
    if covered and isinstance(chart.series, By):
        lines = [*_by(connection, chart, chart.series, covered)]
    elif covered and not isinstance(chart.series, By):
        lines = [*_named(connection, chart, chart.series, covered)]
    # Of the days that are covered alone; the others have no value.
    at = {day: number for number, day in enumerate(covered)}
    lines = [
        Line(
            line.name,
            line.colour,
            tuple(line.values[at[day]] if day in at else None for day in days),
        )
        for line in lines
    ]
    return Drawn(chart, days, seen, state.zone if state else "UTC", tuple(lines))


def _asked(chart: Chart | Ranking, covered: Sequence[date], *columns: Any) -> Select[Any]:
    asked = select(*columns).where(chart.day.between(covered[0], covered[-1]))
    where = chart.where if isinstance(chart, Chart) else None
    return asked if where is None else asked.where(where)


def _named(
    connection: Connection, chart: Chart, series: tuple[Series, ...], covered: Sequence[date]
) -> Iterator[Line]:
    values = [one.value.label(f"v{at}") for at, one in enumerate(series)]
    asked = _asked(chart, covered, chart.day.label("day"), *values).group_by(chart.day)
    rows = {row[0]: row[1:] for row in connection.execute(asked)}
    colours = _colours([one.colour for one in series])
    for at, one in enumerate(series):
        found = (plain(rows[day][at]) if day in rows else one.empty for day in covered)
        yield Line(one.name, colours[at], tuple(found))


def _by(connection: Connection, chart: Chart, by: By, covered: Sequence[date]) -> Iterator[Line]:
    key: Any = by.key
    top = None
    if by.top is not None:
        ranked = _asked(chart, covered, key).where(key.is_not(None)).group_by(key)
        top = connection.scalars(ranked.order_by(by.value.desc(), key).limit(by.top)).all()
        # Whatever is not among them is one series, without a key.
        key = case((key.in_(top), key))
    asked = _asked(chart, covered, chart.day.label("day"), key.label("series"), by.value.label("value"))
    # By its name: an expression with parameters would not be seen to be the same once more.
    rows = connection.execute(asked.group_by(chart.day, literal_column("series"))).all()
    found: dict[Any, dict[date, Number | None]] = {}
    for row in rows:
        found.setdefault(row.series, {})[row.day] = plain(row.value)
    order = list(top) if top is not None else _ordered(found, by)
    names = _names(connection, by.name, by.of, order)
    keys = [*order, *([None] if None in found else [])]
    means = [by.colours.get(str(one)) if by.colours else None for one in order]
    colours = _colours(means, [one for one in _PALETTE if one is not Colour.GREY or top is None])
    for at, one in enumerate(keys):
        name, colour = (by.others, Colour.GREY) if one is None else (names[one], colours[at])
        values = found.get(one, {})
        yield Line(name, colour, tuple(values.get(day, by.empty) for day in covered))


def _ordered(found: Iterable[Any], by: By) -> list[Any]:
    meant = list(by.colours or ())
    keys = [one for one in found if one is not None]
    return sorted(keys, key=lambda one: (meant.index(one) if one in meant else len(meant), str(one)))


def _colours(given: Sequence[Colour | None], palette: Sequence[Colour] = _PALETTE) -> list[Colour]:
    free = cycle([one for one in palette if one not in given] or palette)
    return [one if one is not None else next(free) for one in given]


def _names(
    connection: Connection, name: Column | None, of: Column | None, keys: Sequence[Any]
) -> dict[Any, str]:
    """Return what keys are called, each differently."""
    called = {key: str(key) for key in keys}
    if name is not None and of is not None:
        found = {row[0]: row[1] for row in connection.execute(select(of, name).where(of.in_(keys)))}
        told = [found.get(key) or "gone" for key in keys]
        called = {
            key: one if found.get(key) and told.count(one) == 1 else f"{shortened(one)} ({str(key)[:8]})"
            for key, one in zip(keys, told, strict=True)
        }
    names: dict[Any, str] = {}
    for key, one in called.items():
        # What no terminal shows may be all that tells two names apart.
        shown = same = shortened(one)
        number = 2
        while shown in names.values():
            shown, number = f"{same} ({number})", number + 1
        names[key] = shown
    return names


def shortened(name: str) -> str:
    """Return a name that strangers gave as it can be shown: letters only, and not too many."""
    shown = arguments.words(name)
    return shown if len(shown) <= LONGEST_NAME else f"{shown[: LONGEST_NAME - 1]}…"


def plain(value: Any) -> Number | None:
    """Return a number as Python and JSON have it."""
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return value  # type: ignore[no-any-return]


# -- rankings, hours ------------------------------------------------------------------------------------


def _ranking(
    connection: Connection, ranking: Ranking, days: tuple[date, ...], state: Progress | None
) -> Ranked:
    covered = [day for day in days if known(day, state) is not Known.NOTHING]
    if not covered:
        return Ranked(ranking, ())
    values = [one.value.label(f"v{at}") for at, (one, _) in enumerate(ranking.columns)]
    asked = (
        _asked(ranking, covered, ranking.key.label("key"), *values)
        .where(ranking.key.is_not(None))
        .group_by(ranking.key)
        .order_by(values[0].desc(), ranking.key)
        .limit(ranking.limit)
    )
    rows = connection.execute(asked).all()
    names = _names(connection, ranking.name, ranking.of, [row.key for row in rows])
    return Ranked(ranking, tuple((names[row.key], tuple(map(plain, row[1:]))) for row in rows))


def _hours(connection: Connection, hours: Hours, first: date, last: date, state: Progress | None) -> Heat:
    hour = timedelta(hours=1)
    start, end = day_of(first, "UTC").start, day_of(last, "UTC").end
    values: dict[datetime, float] = {}
    if state is not None:
        start, end = max(start, state.covered_from), min(end, state.watermark)
        asked = select(hours.hour, hours.value).where(hours.hour >= start, hours.hour < end)
        values = {row[0]: float(row[1]) for row in connection.execute(asked.group_by(hours.hour))}
    sums = [[0.0] * 24 for _ in range(7)]
    counts = [[0] * 24 for _ in range(7)]
    while state is not None and start < end:
        at = start.astimezone(UTC)
        sums[at.weekday()][at.hour] += values.get(start, 0.0)
        counts[at.weekday()][at.hour] += 1
        start += hour
    means = tuple(
        tuple(total / count if count else None for total, count in zip(*row, strict=True))
        for row in zip(sums, counts, strict=True)
    )
    return Heat(hours, means, tuple(map(tuple, counts)))
