"""Numbers, durations, times, days and lists as commands print them. Imports nothing of the project."""

import difflib
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import overload

#: So many names of a list are printed, and the number of the others.
NAMED = 3
#: Longest first, with the names of one, and short ones.
_UNITS = (
    (timedelta(days=1), "day", "d"),
    (timedelta(hours=1), "hour", "h"),
    (timedelta(minutes=1), "minute", "min"),
    (timedelta(seconds=1), "second", "s"),
)
_MINUTE, _HOUR, _DAY = 60.0, 3600.0, 86400.0


# -- numbers ---------------------------------------------------------------------------------------------


def number(value: float) -> str:
    """Return a number with its thousands separated; of a fraction, two decimals at most: `1,234.5`."""
    if value == int(value):
        return f"{int(value):,}"
    return f"{value:,.2f}".rstrip("0").rstrip(".")


def short_number(value: float) -> str:
    """Return a number of three digits where there is little room: `1.23 M`, `123 k`; small ones in full."""
    for size, name in ((1e9, "bn"), (1e6, "M"), (1e3, "k")):
        # As it will be written: 999,999 is a million.
        if float(f"{value:.3g}") >= size and value >= 99_999.5:
            return f"{value / size:.3g} {name}"
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"


def quantity(count: int, noun: str, plural: str | None = None) -> str:
    """Return a number of things: `1 row`, `1,200 rows`.

    Args:
        plural: the noun's, if it is not made with an `s`.
    """
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {plural or f'{noun}s'}"


# -- durations -------------------------------------------------------------------------------------------


def duration(period: timedelta) -> str:
    """Return a period in full, in the longest unit of which it is a whole number: `30 minutes`, `1 day`."""
    count, name, _ = _in_units(period)
    return f"{count} {name}" if count == "1" else f"{count} {name}s"


def short_duration(period: timedelta) -> str:
    """Return the same with the unit's symbol: `5 s`, `1 min`, `12 h`."""
    count, _, name = _in_units(period)
    return f"{count} {name}"


def rough_duration(period: timedelta) -> str:
    """Return about how long a period is: `3 days`, `26 hours`, `40 minutes`; `0 minutes` for seconds."""
    minutes = int(period / timedelta(minutes=1))
    if minutes < 120:
        return quantity(minutes, "minute")
    hours = minutes // 60
    return quantity(hours, "hour") if hours < 48 else quantity(hours // 24, "day")


def seconds(value: float) -> str:
    """Return seconds in the longest unit that fits, with one decimal: `250 ms`, `59.9 s`, `1.5 h`."""
    for length, name in ((_DAY, "d"), (_HOUR, "h"), (_MINUTE, "min")):
        if abs(value) >= length:
            return f"{value / length:,.1f}".removesuffix(".0") + f" {name}"
    if value == 0 or abs(value) >= 1:
        return f"{value:.1f}".removesuffix(".0") + " s"
    return f"{value * 1000:.0f} ms" if abs(value) >= 0.001 else "<1 ms"


def _in_units(period: timedelta) -> tuple[str, str, str]:
    """Return a period in the longest unit of which it is a whole number, and that unit's names."""
    for unit, name, brief in _UNITS:
        if period % unit == timedelta(0):
            return f"{period // unit:,}", name, brief
    return f"{period.total_seconds():,g}", "second", "s"


# -- times and days --------------------------------------------------------------------------------------


def timestamp(at: datetime) -> str:
    """Return a moment in UTC, to the second: `2026-03-01 14:00:00`."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def bucket(label: date) -> str:
    """Return the label of a rollup's bucket: `2026-03-01`, or of an hour `2026-03-01 14:00`."""
    return f"{label:%Y-%m-%d %H:%M}" if isinstance(label, datetime) else f"{label:%Y-%m-%d}"


def buckets(first: date, last: date) -> str:
    """Return the labels of buckets from the first to the last: `2026-03-01 to 2026-03-05`."""
    return bucket(first) if first == last else f"{bucket(first)} to {bucket(last)}"


def day(at: date) -> str:
    """Return a day without its year: `3 Mar`."""
    return f"{at.day} {at:%b}"


def full_day(at: date) -> str:
    """Return a day: `3 Mar 2026`."""
    return f"{at.day} {at:%b} {at.year}"


def days(first: date, last: date) -> str:
    """Return the days from the first to the last: `3–9 Mar 2026`."""
    if first == last:
        return full_day(last)
    if (first.year, first.month) == (last.year, last.month):
        return f"{first.day}–{full_day(last)}"
    return f"{day(first) if first.year == last.year else full_day(first)} – {full_day(last)}"


# -- names and lists -------------------------------------------------------------------------------------


def alternatives(names: Sequence[str]) -> str:
    """Return the names as a choice: `a, b or c`."""
    return f"{', '.join(names[:-1])} or {names[-1]}"


def first_names(names: Sequence[str], most: int = NAMED) -> str:
    """Return the first of some names, and how many more there are: `a, b, c and 2 more`."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more:,} more" if more > 0 else "")


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """Return a question, after a space, that names what resembles `name`; an empty string if nothing does."""
    found = difflib.get_close_matches(name, known, n=1)
    return f" Did you mean {found[0]!r}?" if found else ""


@overload
def printable(text: str) -> str: ...
@overload
def printable(text: None) -> None: ...
def printable(text: str | None) -> str | None:
    """Return a text with � for all that a terminal does not show and a database does not keep."""
    if text is None:
        return None
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
