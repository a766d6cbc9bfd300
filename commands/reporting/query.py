"""Reads what a report shows: statistics day by day, which days have any, and how the jobs are."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import cycle
from typing import Any

from sqlalchemy import Column as TableColumn
from sqlalchemy import Connection, Select, Table, case, func, literal_column, select

from commands.formatting import printable
from commands.reporting.charts import Drawn, Heat, Known, Line, Ranked, Report, RollupCoverage, known
from commands.reporting.jobs import read_jobs
from commands.reporting.records import By, Chart, Colour, Hours, Number, Page, Ranking, Series, id_of
from models.analytics import RollupState
from tasks.analytics.calendar import bucket_at, day_of
from tasks.policies.columns import Column, parts_of
from tasks.policies.rollup import Grain
from workers.inspection import Need

LONGEST_NAME = 40
_DAY = timedelta(days=1)
_PALETTE = tuple(Colour)


def needs(page: Page) -> list[Need]:
    """Return what a page needs of the database."""
    read: dict[Table, set[str]] = {}
    for one in parts_of(*(part.expression for shown in page.shown for part in shown.reads)):
        if isinstance(one, TableColumn) and isinstance(one.table, Table):
            read.setdefault(one.table, set()).add(one.name)
    return [Need(table, frozenset(names), frozenset({"SELECT"})) for table, names in read.items()]


def progress(connection: Connection, rollups: Iterable[str]) -> dict[str, RollupCoverage]:
    """Return how far those of the rollups have come that have begun."""
    columns = [
        getattr(RollupState, name)
        for name in ("name", "zone", "covered_from", "watermark", "ticked_at", "zone_from", "zone_before")
    ]
    rows = connection.execute(select(*columns).where(RollupState.name.in_(list(rollups))))
    return {row.name: RollupCoverage(*row) for row in rows}


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
    states = progress(connection, page.rollups)
    days = tuple(first + _DAY * at for at in range((last - first).days + 1))
    return Report(
        app,
        first,
        last,
        now,
        tuple(_chart(connection, chart, days, states.get(chart.rollup.name)) for chart in page.charts),
        tuple(_hours(connection, hours, first, last, states.get(hours.rollup.name)) for hours in page.hours),
        tuple(_ranking(connection, one, days, states.get(one.rollup.name)) for one in page.rankings),
        tuple(states[name] for name in page.rollups if name in states),
        tuple(read_jobs(connection, jobs, now)),
    )


# -- days ------------------------------------------------------------------------------------------------


def _chart(
    connection: Connection, chart: Chart, days: tuple[date, ...], state: RollupCoverage | None
) -> Drawn:
    first = _first(connection, chart)
    seen = tuple(known(day, state, first) for day in days)
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
    begins = None
    if state is not None and first is not None:
        begins = max(first, _first_covered(state))
    return Drawn(chart, days, seen, begins, state.days_of if state else "UTC", tuple(lines))


def _first(connection: Connection, shown: Chart | Hours | Ranking) -> Any:
    """Return the bucket of the first row of what is shown."""
    query = select(func.min(shown.rollup.bucket))
    where = shown.where if isinstance(shown, Chart) else None
    return connection.scalar(query if where is None else query.where(where))


def _first_covered(state: RollupCoverage) -> date:
    """Return the first day that a rollup covers from its beginning."""
    day = bucket_at(state.covered_from, Grain.DAY, state.zone, state.seam)
    return day.label if day.start == state.covered_from else day.label + _DAY


def _query(chart: Chart | Ranking, covered: Sequence[date], *columns: Any) -> Select[Any]:
    query = select(*columns).where(chart.rollup.bucket.between(covered[0], covered[-1]))
    where = chart.where if isinstance(chart, Chart) else None
    return query if where is None else query.where(where)


def _named(
    connection: Connection, chart: Chart, series: tuple[Series, ...], covered: Sequence[date]
) -> Iterator[Line]:
    values = [one.statistic.value.label(f"v{at}") for at, one in enumerate(series)]
    day = chart.rollup.bucket
    query = _query(chart, covered, day.label("day"), *values).group_by(day)
    rows = {row[0]: row[1:] for row in connection.execute(query)}
    colours = _colours([one.colour for one in series])
    for at, one in enumerate(series):
        found = (plain(rows[day][at]) if day in rows else one.statistic.empty for day in covered)
        yield Line(one.name, colours[at], tuple(found))


def _by(connection: Connection, chart: Chart, by: By, covered: Sequence[date]) -> Iterator[Line]:
    key: Any = chart.key
    value, day = by.statistic.value, chart.rollup.bucket
    top = None
    if by.top is not None:
        ranked = _query(chart, covered, key).where(key.is_not(None)).group_by(key)
        top = connection.scalars(ranked.order_by(value.desc(), key).limit(by.top)).all()
        # Whatever is not among them is one series, without a key.
        key = case((key.in_(top), key))
    query = _query(chart, covered, day.label("day"), key.label("series"), value.label("value"))
    # By its name: an expression with parameters would not be seen to be the same once more.
    rows = connection.execute(query.group_by(day, literal_column("series"))).all()
    found: dict[Any, dict[date, Number | None]] = {}
    for row in rows:
        found.setdefault(row.series, {})[row.day] = plain(row.value)
    order = list(top) if top is not None else _ordered(found, by)
    names = _names(connection, by.name, order)
    keys = [*order, *([None] if None in found else [])]
    means = [by.colours.get(str(one)) if by.colours else None for one in order]
    colours = _colours(means, [one for one in _PALETTE if one is not Colour.GREY or top is None])
    for at, one in enumerate(keys):
        name, colour = (by.others, Colour.GREY) if one is None else (names[one], colours[at])
        values = found.get(one, {})
        yield Line(name, colour, tuple(values.get(day, by.statistic.empty) for day in covered))


def _ordered(found: Iterable[Any], by: By) -> list[Any]:
    meant = list(by.colours or ())
    keys = [one for one in found if one is not None]
    return sorted(keys, key=lambda one: (meant.index(one) if one in meant else len(meant), str(one)))


def _colours(given: Sequence[Colour | None], palette: Sequence[Colour] = _PALETTE) -> list[Colour]:
    free = cycle([one for one in palette if one not in given] or palette)
    return [one if one is not None else next(free) for one in given]


def _names(connection: Connection, name: Column | None, keys: Sequence[Any]) -> dict[Any, str]:
    """Return what keys are called, each differently."""
    called = {key: str(key) for key in keys}
    if name is not None:
        key_column = id_of(name)
        query = select(key_column, name).where(key_column.in_(keys))
        found = {row[0]: row[1] for row in connection.execute(query)}
        given = [found.get(key) or "gone" for key in keys]
        called = {
            key: one if found.get(key) and given.count(one) == 1 else f"{shortened(one)} ({str(key)[:8]})"
            for key, one in zip(keys, given, strict=True)
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
    shown = printable(name)
    return shown if len(shown) <= LONGEST_NAME else f"{shown[: LONGEST_NAME - 1]}…"


def plain(value: Any) -> Number | None:
    """Return a number as Python and JSON have it."""
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return value  # type: ignore[no-any-return]


# -- rankings, hours ------------------------------------------------------------------------------------


def _ranking(
    connection: Connection, ranking: Ranking, days: tuple[date, ...], state: RollupCoverage | None
) -> Ranked:
    first = _first(connection, ranking)
    covered = [day for day in days if known(day, state, first) is not Known.NOTHING]
    if not covered:
        return Ranked(ranking, ())
    values = [one.statistic.value.label(f"v{at}") for at, one in enumerate(ranking.columns)]
    query = (
        _query(ranking, covered, ranking.key.label("key"), *values)
        .where(ranking.key.is_not(None))
        .group_by(ranking.key)
        .order_by(values[0].desc(), ranking.key)
        .limit(ranking.limit)
    )
    rows = connection.execute(query).all()
    names = _names(connection, ranking.name, [row.key for row in rows])
    return Ranked(ranking, tuple((names[row.key], tuple(map(plain, row[1:]))) for row in rows))


def _hours(
    connection: Connection, hours: Hours, first: date, last: date, state: RollupCoverage | None
) -> Heat:
    hour = timedelta(hours=1)
    start, end = day_of(first, "UTC").start, day_of(last, "UTC").end
    values: dict[datetime, float] = {}
    begins = _first(connection, hours)
    if state is None or begins is None:
        end = start
    else:
        start, end = max(start, state.covered_from, begins), min(end, state.watermark)
        at_hour = hours.rollup.bucket
        query = select(at_hour, hours.statistic.value).where(at_hour >= start, at_hour < end)
        values = {row[0]: float(row[1]) for row in connection.execute(query.group_by(at_hour))}
    sums = [[0.0] * 24 for _ in range(7)]
    counts = [[0] * 24 for _ in range(7)]
    while start < end:
        at = start.astimezone(UTC)
        sums[at.weekday()][at.hour] += values.get(start, 0.0)
        counts[at.weekday()][at.hour] += 1
        start += hour
    means = tuple(
        tuple(total / count if count else None for total, count in zip(*row, strict=True))
        for row in zip(sums, counts, strict=True)
    )
    return Heat(hours, means, tuple(map(tuple, counts)))
