"""Buckets of time: whole hours of UTC, and the days of a time zone, which are not always 24 hours long."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from tasks.policies.rollup import Grain

_HOUR = timedelta(hours=1)
_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True, order=True)
class Bucket:
    """One bucket, [start, end).

    Attributes:
        label: as the target has it: the day, or when the hour begins.
    """

    start: datetime
    end: datetime
    label: date | datetime


def bucket_at(moment: datetime, grain: Grain, zone: str) -> Bucket:
    """Return the bucket that a moment is in."""
    if grain is Grain.HOUR:
        start = moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
        return Bucket(start, start + _HOUR, start)
    day = _day(moment.astimezone(ZoneInfo(zone)).date(), zone)
    # Where midnight comes twice, or never, the date alone does not tell.
    while moment < day.start:
        day = _day(_date(day) - _DAY, zone)
    while moment >= day.end:
        day = _day(_date(day) + _DAY, zone)
    return day


def following(bucket: Bucket, grain: Grain, zone: str) -> Bucket:
    """Return the bucket after this one."""
    return bucket_at(bucket.end, grain, zone)


def preceding(bucket: Bucket, grain: Grain, zone: str) -> Bucket:
    """Return the bucket before this one."""
    return bucket_at(bucket.start - timedelta(microseconds=1), grain, zone)


def buckets(start: datetime, end: datetime, grain: Grain, zone: str) -> list[Bucket]:
    """Return the buckets that have a moment in [start, end), in their order."""
    found = []
    at = start
    while at < end:
        found.append(bucket_at(at, grain, zone))
        at = found[-1].end
    return found


def day_of(label: date, zone: str) -> Bucket:
    """Return the day that is called so."""
    return _day(label, zone)


def _date(day: Bucket) -> date:
    return day.label


def _day(label: date, zone: str) -> Bucket:
    return Bucket(_midnight(label, zone), _midnight(label + _DAY, zone), label)


def _midnight(label: date, zone: str) -> datetime:
    # A midnight that does not exist is the moment at which clocks leap over it; of two, the first.
    return datetime.combine(label, time(), ZoneInfo(zone)).astimezone(UTC)
