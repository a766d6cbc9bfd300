"""The axes of charts: scales, ticks and how statistics are written, in Vega's expressions."""

from datetime import UTC, date, datetime
from math import ceil, floor, log10
from typing import Any

from commands.reporting.charts import Drawn
from commands.reporting.records import Number, Shape, Unit

Spec = dict[str, Any]

#: From so many days on, lines are too dense for points, and bars for gaps.
POINTS, GAPS = 62, 120
#: A scale that shows small and large alike is taken where the large ones are so many times larger.
WIDE_APART = 60
DAY_MS = 86_400_000
#: Steps of an axis of seconds that people know.
_STEPS = (
    *(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5),
    *(10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 43200),
    *(86400, 172800, 604800, 1209600, 2419200, 7257600, 31536000),
)
_DECADES = (0, 0.001, 0.01, 0.1, 1, 10, 60, 600, 3600, 21600, 86400, 604800, 2592000)


def _in_units(*units: tuple[int, str], below: str, least: int = 0) -> str:
    """Return an expression for Vega that formats a number in the largest unit that fits, or as `below`.

    Args:
        least: smaller numbers are formatted as `below`.
    """
    parts = (
        f"{{0}} >= {max(size, least)} ? format({{0}} / {size}, '.3~r') + ' {name}' : " for size, name in units
    )
    return "".join(parts) + below


# D3's own SI prefixes are no use to readers: 0.5 would be "500m", a billion "1G".
_COUNT = _in_units((10**9, "bn"), (10**6, "M"), (10**3, "k"), below="format({0}, ',.2~f')", least=10**5)
_SECONDS = _in_units(
    (86400, "d"),
    (3600, "h"),
    (60, "min"),
    below="{0} >= 1 || {0} == 0 ? format({0}, '.3~r') + ' s' : format({0} * 1000, '.3~r') + ' ms'",
)
# The units that the tables and the terminal have.
_BYTES = _in_units(
    (10**15, "PB"),
    (10**12, "TB"),
    (10**9, "GB"),
    (10**6, "MB"),
    (10**3, "kB"),
    below="format({0}, '.3~r') + ' B'",
)
_ON_AXIS = {
    Unit.NUMBER: _COUNT,
    Unit.MINUTES: _COUNT,
    Unit.SECONDS: _SECONDS,
    Unit.SPENT: "format({0} / 3600, ',.2~f') + ' h'",
    Unit.BYTES: _BYTES,
    Unit.SHARE: "format({0} * 100, '.3~r') + ' %'",
}
IN_TOOLTIP = {
    Unit.NUMBER: "format({0}, ',.2~f')",
    Unit.MINUTES: "format({0}, ',.0f') + ' min'",
    Unit.SECONDS: _SECONDS,
    Unit.SPENT: "format({0} / 3600, ',.1f') + ' h'",
    Unit.BYTES: _BYTES,
    Unit.SHARE: "format({0} * 100, '.1f') + ' %'",
}


def of_values(drawn: Drawn) -> Spec:
    """Return the channel of a chart's statistics: its scale and its axis."""
    unit = drawn.chart.unit
    axis: Spec = {"title": None, "labelExpr": _ON_AXIS[unit].format("datum.value")}
    if wide_apart(drawn):
        least, highest = _constant(drawn), max(_values(drawn))
        axis["values"] = [0, *(one for one in _DECADES if least / 3 <= one <= highest)]
        scale: Spec = {"type": "symlog", "constant": least}
    else:
        axis["values"] = _ticks(max(_values(drawn), default=0), unit)
        scale = {"domain": [0, axis["values"][-1]], "nice": False}
    return {"field": "y", "type": "quantitative", "scale": scale, "axis": axis}


def wide_apart(drawn: Drawn) -> bool:
    """Return whether small values would vanish beside the large ones."""
    if drawn.chart.unit is not Unit.SECONDS or drawn.chart.shape is not Shape.LINES:
        return False
    highest = [max((v for v in line.values if v is not None), default=0) for line in drawn.lines]
    above = [one for one in highest if one > 0]
    return bool(above) and max(above) > WIDE_APART * min(above)


def _constant(drawn: Drawn) -> float:
    """Where the scale turns from linear to logarithmic: at the smallest value there is."""
    return max(min((value for value in _values(drawn) if value > 0), default=1), 0.001)


def _values(drawn: Drawn) -> list[Number]:
    values = (
        drawn.whole()
        if drawn.chart.shape is Shape.STACK
        else [v for line in drawn.lines for v in line.values]
    )
    return [value for value in values if value is not None]


def _ticks(highest: Number, unit: Unit) -> list[Number]:
    """Return the values that an axis names, from 0 to one that is not below the highest."""
    if unit is Unit.SECONDS:
        step = next((one for one in _STEPS if highest / one <= 5), _STEPS[-1])
    elif unit is Unit.SPENT:
        # Hours as one counts, not as a clock does.
        step = 3600 * max(_round_step(highest / 3600), 0.1)
    elif unit is Unit.SHARE:
        step = max(_round_step(highest), 0.001)
    else:
        # What is counted has no halves.
        step = max(_round_step(highest), 1)
    count = max(ceil(highest / step - 1e-9), 1)
    return [round(step * at, 6) for at in range(count + 1)]


def _round_step(highest: float) -> float:
    """Return 1, 2 or 5 times a power of ten, of which at most five reach the highest; 0 for 0."""
    if highest <= 0:
        return 0
    power = 10.0 ** floor(log10(highest))
    return next(power * one for one in (0.2, 0.5, 1, 2) if highest / power / one <= 5)


def of_days(days: tuple[date, ...]) -> Spec:
    """Return the channel of days, in milliseconds of UTC: temporal values are of the browser's own zone."""
    return {
        "field": "x",
        "type": "quantitative",
        "scale": {"domain": [ms(days[0]), ms(days[-1]) + DAY_MS], "zero": False, "nice": False},
        "axis": _days_axis(days),
    }


def _days_axis(days: tuple[date, ...]) -> Spec:
    """Say where days are written: each, each Monday, or the first of each month or quarter."""
    shown = "utcFormat(datum.value, '%-d %b')"
    if len(days) <= 10:
        ticks = list(days)
    elif len(days) <= GAPS:
        ticks = [day for day in days if day.weekday() == 0]
    else:
        months = (1, 4, 7, 10) if len(days) > 800 else range(1, 13)
        ticks = [day for day in days if day.day == 1 and day.month in months]
        shown = "utcFormat(datum.value, utcmonth(datum.value) == 0 ? '%b %Y' : '%b')"
    return {
        "title": None,
        "values": [ms(day) + DAY_MS // 2 for day in ticks],
        "labelExpr": shown,
        "labelOverlap": "parity",
        "labelSeparation": 8,
        "grid": False,
    }


def ms(day: date) -> int:
    """Return when a day begins, in milliseconds of UTC."""
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() * 1000)
