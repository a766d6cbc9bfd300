"""Numbers, durations, times and lists, as all commands print them."""

import subprocess
import sys
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path

import pytest

from commands import formatting

ROOT = Path(__file__).parent.parent.parent


def test_it_imports_nothing_of_the_project() -> None:
    """All commands import it, and `roomkeeper --help` must not wait for what others need."""
    code = "import sys, commands.formatting; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    names = {name.partition(".")[0] for name in done.stdout.split()}
    assert names.isdisjoint({"tasks", "workers", "models", "stack", "sqlalchemy", "pydantic", "rich"})


@pytest.mark.parametrize(
    ("seconds", "full", "short"),
    [
        (1, "1 second", "1 s"),
        (1.5, "1.5 seconds", "1.5 s"),
        (0.25, "0.25 seconds", "0.25 s"),
        (59, "59 seconds", "59 s"),
        (60, "1 minute", "1 min"),
        (90, "90 seconds", "90 s"),
        (1800, "30 minutes", "30 min"),
        (5400, "90 minutes", "90 min"),
        (43200, "12 hours", "12 h"),
        (86400, "1 day", "1 d"),
        (30 * 86400, "30 days", "30 d"),
        (3650 * 86400 + 1, "315,360,001 seconds", "315,360,001 s"),
    ],
)
def test_a_duration(seconds: float, full: str, short: str) -> None:
    period = timedelta(seconds=seconds)
    assert (formatting.duration(period), formatting.short_duration(period)) == (full, short)


@pytest.mark.parametrize(
    ("period", "text"),
    [
        (timedelta(seconds=59), "0 minutes"),
        (timedelta(minutes=1), "1 minute"),
        (timedelta(minutes=119), "119 minutes"),
        (timedelta(minutes=121), "2 hours"),
        (timedelta(hours=47.9), "47 hours"),
        (timedelta(hours=49), "2 days"),
        (timedelta(days=1500), "1,500 days"),
    ],
)
def test_a_rough_duration(period: timedelta, text: str) -> None:
    assert formatting.rough_duration(period) == text


def test_a_quantity() -> None:
    assert [formatting.quantity(count, "row") for count in (0, 1, 2, 1200)] == [
        "0 rows",
        "1 row",
        "2 rows",
        "1,200 rows",
    ]
    assert formatting.quantity(2, "batch", "batches") == "2 batches"


def test_names() -> None:
    assert formatting.alternatives(["a", "b", "c"]) == "a, b or c"
    assert formatting.first_names(["a", "b", "c"]) == "a, b, c"
    assert formatting.first_names(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"
    assert formatting.first_names(["a", "b"], 1) == "a and 1 more"
    assert formatting.did_you_mean("pern.mesages", ["pern.messages"]) == " Did you mean 'pern.messages'?"
    assert formatting.did_you_mean("zzz", ["pern.messages"]) == ""


def test_times_are_of_utc() -> None:
    berlin = timezone(timedelta(hours=1))
    assert formatting.timestamp(datetime(2026, 3, 1, 0, 30, 5, 9, berlin)) == "2026-02-28 23:30:05"
    first, last = date(2026, 3, 1), date(2026, 3, 5)
    assert formatting.buckets(first, last) == "2026-03-01 to 2026-03-05"
    assert formatting.buckets(first, first) == "2026-03-01"
    assert formatting.bucket(datetime(2026, 3, 1, 14, tzinfo=UTC)) == "2026-03-01 14:00"


@pytest.mark.parametrize(
    ("first", "last", "text"),
    [
        (date(2026, 3, 9), date(2026, 3, 9), "9 Mar 2026"),
        (date(2026, 3, 3), date(2026, 3, 9), "3–9 Mar 2026"),
        (date(2026, 2, 3), date(2026, 3, 9), "3 Feb – 9 Mar 2026"),
        (date(2025, 12, 3), date(2026, 3, 9), "3 Dec 2025 – 9 Mar 2026"),
    ],
)
def test_days(first: date, last: date, text: str) -> None:
    assert formatting.days(first, last) == text


def test_what_no_terminal_shows_is_replaced() -> None:
    assert formatting.printable("a\x1b[31m\u2028é\udcff") == "a�[31m�é�"
    assert formatting.printable(None) is None
