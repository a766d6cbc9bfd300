"""A report's statistics, as they are read and before they are drawn."""

from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum

from commands.reporting.jobs import Job
from commands.reporting.records import Chart, Colour, Hours, Number, Over, Ranking, Shape
from tasks.analytics.calendar import Seam, day_of


class Known(StrEnum):
    """What is known of a day."""

    #: Its statistics are final, but for corrections.
    CLOSED = "closed"
    #: Rows may still come.
    PROVISIONAL = "provisional"
    #: Before the first row, or not computed: there are no statistics, which is not the same as 0.
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Line:
    """One series: a value for each day; None where there is none."""

    name: str
    colour: Colour
    values: tuple[Number | None, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """A chart with its statistics.

    Attributes:
        days: the days shown, and what is known of each.
        begins: the first day that has statistics, shown or not; None if there are none yet.
        zone: whose days they are.
    """

    chart: Chart
    days: tuple[date, ...]
    known: tuple[Known, ...]
    begins: date | None
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

    def over_all(self) -> tuple[Number, date | None] | None:
        """Return the value of all days together, if they have one; of the highest, with its day."""
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
    """A statistic by weekday (Monday first) and hour: its mean, and of how many hours; None of none."""

    hours: Hours
    means: tuple[tuple[float | None, ...], ...]
    counts: tuple[tuple[int, ...], ...]

    @property
    def any(self) -> bool:
        """Whether there is anything to be drawn."""
        return any(mean is not None for row in self.means for mean in row)

    @property
    def highest(self) -> float:
        """The highest mean."""
        return max((mean for row in self.means for mean in row if mean is not None), default=0.0)


@dataclass(frozen=True, slots=True, eq=False)
class Ranked:
    """A ranking with its statistics."""

    ranking: Ranking
    rows: tuple[tuple[str, tuple[Number | None, ...]], ...]


@dataclass(frozen=True, slots=True)
class RollupCoverage:
    """How far a rollup has come."""

    rollup: str
    zone: str
    covered_from: datetime
    watermark: datetime
    ticked_at: datetime | None
    zone_from: datetime | None = None
    zone_before: str | None = None

    @property
    def seam(self) -> Seam | None:
        """Where the days of `zone` begin; None where all are."""
        if self.zone_from is None or self.zone_before is None:
            return None
        return Seam(self.zone_from, self.zone_before)

    @property
    def days_of(self) -> str:
        """Whose days they are."""
        if (seam := self.seam) is None or seam.at <= self.covered_from:
            return self.zone
        return f"{self.zone} ({seam.zone} up to {seam.last_day})"


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
    progress: tuple[RollupCoverage, ...]
    jobs: tuple[Job, ...]


def known(day: date, state: RollupCoverage | None, first: date | None) -> Known:
    """Return what is known of a day.

    Args:
        first: the day of the first row: an application that was not in use yet has no statistics, not 0.
    """
    if state is None or first is None or day < first:
        return Known.NOTHING
    bucket = day_of(day, state.zone, state.seam)
    if bucket.start < state.covered_from:
        # What the application's table may hold from before was not made by us.
        return Known.NOTHING
    if bucket.end <= state.watermark:
        return Known.CLOSED
    computed = state.ticked_at is not None and bucket.start <= state.ticked_at
    return Known.PROVISIONAL if computed else Known.NOTHING
