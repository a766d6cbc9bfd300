"""Buckets of time, on the days when clocks leap too."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tasks.analytics.calendar import Bucket, Seam, bucket_at, buckets, day_of, following, preceding
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
@example(moment=datetime(2025, 11, 2, 4, 30, tzinfo=UTC), grain=DAY, zone="America/Havana")
@example(moment=datetime(2025, 11, 2, 5, 30, tzinfo=UTC), grain=DAY, zone="America/Havana")
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
        (date(2025, 3, 9), "America/Havana", 23),
        (date(2025, 11, 2), "America/Havana", 25),
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


# -- where the zone changes ------------------------------------------------------------------------------


@examples(300)
@given(
    moment=moments,
    before=st.sampled_from([*ZONES, "Pacific/Kiritimati"]),
    zone=st.sampled_from([*ZONES, "Pacific/Pago_Pago"]),
    hours=st.integers(-60, 60),
)
@example(moment=datetime(2011, 12, 30, 10, tzinfo=UTC), before="UTC", zone="Pacific/Apia", hours=0)
@example(moment=datetime(2011, 12, 30, 12, tzinfo=UTC), before="Pacific/Apia", zone="UTC", hours=0)
@example(
    moment=datetime(2026, 3, 3, tzinfo=UTC), before="Pacific/Kiritimati", zone="Pacific/Pago_Pago", hours=1
)
@example(
    moment=datetime(2026, 3, 3, tzinfo=UTC), before="Pacific/Pago_Pago", zone="Pacific/Kiritimati", hours=1
)
def test_at_a_seam_days_follow_each_other_and_no_name_is_used_twice(
    moment: datetime, before: str, zone: str, hours: int
) -> None:
    seam = Seam(bucket_at(moment, DAY, before).end, before)
    near = seam.at + timedelta(hours=hours)
    found = bucket_at(near, DAY, zone, seam)
    assert found.start <= near < found.end
    assert found.end <= seam.at or found.start >= seam.at
    assert bucket_at(found.start, DAY, zone, seam) == bucket_at(found.end - INSTANT, DAY, zone, seam) == found
    after, earlier = following(found, DAY, zone, seam), preceding(found, DAY, zone, seam)
    assert (after.start, earlier.end) == (found.end, found.start)
    assert earlier.label < found.label < after.label
    assert {one: day_of(one.label, zone, seam) for one in (earlier, found, after)} == {
        one: one for one in (earlier, found, after)
    }
    # On either side days are those of their zone, except for the first one.
    if found.end <= seam.at:
        assert found == bucket_at(near, DAY, before)
    elif found.start > seam.at:
        assert found == bucket_at(near, DAY, zone)
    else:
        assert found.end == day_of(found.label, zone).end
        assert timedelta(0) < found.end - found.start <= timedelta(hours=51)


@pytest.mark.parametrize(
    ("before", "zone", "label", "hours"),
    [
        ("UTC", "Asia/Kolkata", 3, 18.5),
        ("UTC", "America/New_York", 3, 29),
        ("Asia/Kolkata", "UTC", 3, 29.5),
        ("Pacific/Kiritimati", "Pacific/Pago_Pago", 3, 49),
        ("Pacific/Pago_Pago", "Pacific/Kiritimati", 4, 23),
    ],
)
def test_the_day_after_a_seam_lasts_up_to_its_own_end(
    before: str, zone: str, label: int, hours: float
) -> None:
    seam = Seam(day_of(date(2026, 3, 2), before).end, before)
    first = bucket_at(seam.at, DAY, zone, seam)
    assert (first.label, first.end - first.start) == (date(2026, 3, label), timedelta(hours=hours))
    assert seam.last_day == date(2026, 3, 2)
    # A day that was left out is empty.
    for day in range(3, label):
        assert day_of(date(2026, 3, day), zone, seam) == Bucket(seam.at, seam.at, date(2026, 3, day))


def test_a_seam_holds_when_the_rules_of_its_zone_change_later() -> None:
    """The last day ended at a midnight that now is an hour earlier or later."""
    for hours in (-1, 1):
        seam = Seam(day_of(date(2026, 3, 2), "UTC").end + timedelta(hours=hours), "UTC")
        assert seam.last_day == date(2026, 3, 2)
        first = bucket_at(seam.at, DAY, "UTC", seam)
        assert (first.start, first.label) == (seam.at, date(2026, 3, 3))
        assert bucket_at(seam.at - INSTANT, DAY, "UTC", seam).end == seam.at


def test_every_day_begins_at_a_quarter_of_an_hour() -> None:
    """Facts of deleted rows are kept by the quarter: in whatever zone days are counted, it is of one day."""
    first, days = date(2000, 1, 1), range(0, 40 * 365, 13)
    for name in sorted(available_timezones()):
        zone, since = ZoneInfo(name), datetime(first.year, first.month, first.day, tzinfo=UTC)
        offsets = {(since + timedelta(days=day)).astimezone(zone).utcoffset() for day in days}
        odd = [offset for offset in offsets if offset is None or offset % timedelta(minutes=15)]
        assert not odd, name
