"""Buckets of time, on the days when clocks leap too."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tasks.analytics.calendar import Bucket, bucket_at, buckets, day_of, following, preceding
from tasks.policies.rollup import DAY, HOUR, Grain
from tests.examples import examples

INSTANT = timedelta(microseconds=1)
#: Among them: midnight that comes twice (Havana), never (Santiago, Beirut), a leap of half an hour (Lord
#: Howe), a day that there was not (Apia, 2011-12-30).
ZONES = [
    "UTC",
    "Europe/Berlin",
    "America/Havana",
    "America/Santiago",
    "Asia/Beirut",
    "Australia/Lord_Howe",
    "Asia/Kathmandu",
    "Pacific/Apia",
]
moments = st.datetimes(datetime(2005, 1, 1), datetime(2035, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


@examples(300)
@given(moment=moments, grain=st.sampled_from(Grain), zone=st.sampled_from(ZONES))
@example(moment=datetime(2011, 12, 30, 10, tzinfo=UTC), grain=DAY, zone="Pacific/Apia")
@example(moment=datetime(2026, 11, 1, 4, 30, tzinfo=UTC), grain=DAY, zone="America/Havana")
@example(moment=datetime(2026, 11, 1, 5, 30, tzinfo=UTC), grain=DAY, zone="America/Havana")
def test_each_moment_is_in_one_bucket_and_they_follow_each_other(
    moment: datetime, grain: Grain, zone: str
) -> None:
    zone = zone if grain is DAY else "UTC"
    found = bucket_at(moment, grain, zone)
    assert found.start <= moment < found.end
    assert found.start.tzinfo is found.end.tzinfo is UTC
    assert bucket_at(found.start, grain, zone) == bucket_at(found.end - INSTANT, grain, zone) == found
    after, before = following(found, grain, zone), preceding(found, grain, zone)
    assert (after.start, before.end) == (found.end, found.start)
    assert before < found < after
    if grain is DAY:
        # As people there say.
        assert moment.astimezone(ZoneInfo(zone)).date() == found.label or zone == "America/Havana"


@pytest.mark.parametrize(
    ("day", "zone", "hours"),
    [
        (date(2026, 3, 29), "Europe/Berlin", 23),
        (date(2026, 10, 25), "Europe/Berlin", 25),
        (date(2026, 3, 29), "UTC", 24),
        (date(2026, 3, 8), "America/Havana", 23),
        (date(2026, 11, 1), "America/Havana", 25),
        (date(2026, 10, 4), "Australia/Lord_Howe", 23.5),
        (date(2026, 4, 5), "Australia/Lord_Howe", 24.5),
    ],
)
def test_days_are_as_long_as_they_are(day: date, zone: str, hours: float) -> None:
    found = day_of(day, zone)
    assert found.end - found.start == timedelta(hours=hours)


def test_a_day_that_there_was_not_is_none() -> None:
    start = datetime(2011, 12, 29, 10, tzinfo=UTC)
    assert [one.label for one in buckets(start, start + timedelta(days=2), DAY, "Pacific/Apia")] == [
        date(2011, 12, 29),
        date(2011, 12, 31),
    ]


def test_a_range_has_the_buckets_that_it_touches() -> None:
    start = datetime(2026, 3, 28, 12, tzinfo=UTC)
    hour = timedelta(hours=1)
    assert buckets(start, start, HOUR, "UTC") == []
    assert buckets(start, start + INSTANT, HOUR, "UTC") == [Bucket(start, start + hour, start)]
    assert len(buckets(start, start + hour, HOUR, "UTC")) == 1
    assert len(buckets(start - INSTANT, start + hour + INSTANT, HOUR, "UTC")) == 3
