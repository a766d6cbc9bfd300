"""Numbers and days as people read them, on the page and in the terminal."""

from datetime import date

from rich.filesize import decimal

from commands.reporting.figures import Number
from commands.reporting.records import Unit

WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MINUTE, _HOUR, _DAY = 60.0, 3600.0, 86400.0


def told(value: Number | None, unit: Unit) -> str:
    """Return a figure with its unit: `1,234`, `2.5 s`, `3 h`, `12.5 %`; `–` for none."""
    if value is None:
        return "–"
    if unit is Unit.SECONDS:
        return seconds(value)
    if unit is Unit.SPENT:
        return f"{value / _HOUR:,.1f} h"
    if unit is Unit.MINUTES:
        return f"{value:,.0f} min"
    if unit is Unit.BYTES:
        return decimal(int(value))
    if unit is Unit.SHARE:
        return f"{value:.1%}".replace("%", " %")
    return number(value)


def number(value: Number) -> str:
    """Return a number with its thousands apart; of a fraction two digits behind the point at most."""
    if value == int(value):
        return f"{int(value):,}"
    return f"{value:,.2f}".rstrip("0").rstrip(".")


def seconds(value: Number) -> str:
    """Return a duration in the longest unit that it has one of."""
    for length, name in ((_DAY, "d"), (_HOUR, "h"), (_MINUTE, "min")):
        if abs(value) >= length:
            return f"{value / length:,.1f}".removesuffix(".0") + f" {name}"
    if value == 0 or abs(value) >= 1:
        return f"{value:.1f}".removesuffix(".0") + " s"
    return f"{value * 1000:.0f} ms" if abs(value) >= 0.001 else "<1 ms"


def in_short(value: Number, unit: Unit) -> str:
    """Return a figure for where there is little room: `1.2 M`, `340 h`."""
    if unit in {Unit.SPENT, Unit.MINUTES}:
        hours = value / (_HOUR if unit is Unit.SPENT else _MINUTE)
        return f"{_shortened(hours)} h" if hours >= 1 else told(value, unit)
    if unit is Unit.BYTES:
        size, name = decimal(int(value)).split(" ", 1)
        return f"{float(size.replace(',', '')):.3g} {name}"
    return _shortened(value) if unit is Unit.NUMBER else told(value, unit)


def _shortened(value: Number) -> str:
    for size, name in ((1e9, "bn"), (1e6, "M"), (1e3, "k")):
        # As it will be written: 999,999 is a million.
        if float(f"{value:.3g}") >= size and value >= 99_999.5:
            return f"{value / size:.3g} {name}"
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"


def day(at: date) -> str:
    """Return a day within a year: `3 Mar`."""
    return f"{at.day} {at:%b}"


def full_day(at: date) -> str:
    """Return a day: `3 Mar 2026`."""
    return f"{at.day} {at:%b} {at.year}"


def span(first: date, last: date) -> str:
    """Return the days from the first to the last: `3–9 Mar 2026`."""
    if first == last:
        return full_day(last)
    if (first.year, first.month) == (last.year, last.month):
        return f"{first.day}–{full_day(last)}"
    return f"{day(first) if first.year == last.year else full_day(first)} – {full_day(last)}"
