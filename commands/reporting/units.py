"""A report's statistics with their units, on the page and in the terminal."""

from rich.filesize import decimal

from commands import formatting
from commands.reporting.records import Number, Unit

WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MINUTES, _SECONDS = 60.0, 3600.0


def with_unit(value: Number | None, unit: Unit) -> str:
    """Return a value with its unit: `1,234`, `2.5 s`, `3 h`, `12.5 %`; `–` for none."""
    if value is None:
        return "–"
    if unit is Unit.SECONDS:
        return formatting.seconds(value)
    if unit is Unit.SPENT:
        return f"{value / _SECONDS:,.1f} h"
    if unit is Unit.MINUTES:
        return f"{value:,.0f} min"
    if unit is Unit.BYTES:
        return decimal(int(value))
    if unit is Unit.SHARE:
        return f"{value * 100:.1f} %"
    return formatting.number(value)


def short_with_unit(value: Number, unit: Unit) -> str:
    """Return a value for where there is little room: `1.2 M`, `340 h`."""
    if unit in {Unit.SPENT, Unit.MINUTES}:
        hours = value / (_SECONDS if unit is Unit.SPENT else _MINUTES)
        return f"{formatting.short_number(hours)} h" if hours >= 1 else with_unit(value, unit)
    if unit is Unit.BYTES:
        size, name = decimal(int(value)).split(" ", 1)
        return f"{float(size.replace(',', '')):.3g} {name}"
    return formatting.short_number(value) if unit is Unit.NUMBER else with_unit(value, unit)
