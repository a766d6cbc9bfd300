"""Buckets of time: whole hours of UTC, and the days of a time zone, which are not always 24 hours long.

Where a rollup's zone has changed there may be a **seam**: days before it are those of the earlier zone. The
first day of the new zone begins at the seam. The day that ends there keeps its name; so the first one has a
later name, and lasts up to the end of the day of that name: from some minutes to 51 hours.
"""

from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from tasks.policies.rollup import Grain

_HOUR = timedelta(hours=1)
_DAY = timedelta(days=1)
#: Any moment in the last half of a day is of that day, by newer rules of its zone too.
_HALF_A_DAY = timedelta(hours=12)


@dataclass(frozen=True, slots=True, order=True)
class Bucket:
    """One bucket, [start, end).

    Attributes:
        label: as the target has it: the day, or when the hour begins.
    """

    start: datetime
    end: datetime
    label: date | datetime


@dataclass(frozen=True, slots=True)
class Seam:
    """Where the days of one zone end and those of another begin.

    Attributes:
        at: the moment, which is the end of a day.
        zone: the zone whose days are before it.
    """

    at: datetime
    zone: str

    @property
    def last_day(self) -> date:
        """The day that ends here."""
        return _date(_day_at(self.at - _HALF_A_DAY, self.zone))


def bucket_at(moment: datetime, grain: Grain, zone: str, seam: Seam | None = None) -> Bucket:
    """Return the bucket that a moment is in."""
    if grain is Grain.HOUR:
        start = moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
        return Bucket(start, start + _HOUR, start)
    if seam is None:
        return _day_at(moment, zone)
    if moment < seam.at:
        day = _day_at(moment, seam.zone)
        return replace(day, end=min(day.end, seam.at))
    first = _first_day(zone, seam)
    return first if moment < first.end else _day_at(moment, zone)


def _first_day(zone: str, seam: Seam) -> Bucket:
    """Return the day that begins at a seam."""
    label = max(_date(_day_at(seam.at, zone)), seam.last_day + _DAY)
    return Bucket(seam.at, _day(label, zone).end, label)


def _day_at(moment: datetime, zone: str) -> Bucket:
    day = _day(moment.astimezone(ZoneInfo(zone)).date(), zone)
    # Where midnight comes twice, or never, the date alone does not tell.
    while moment < day.start:
        day = _day(_date(day) - _DAY, zone)
    while moment >= day.end:
        day = _day(_date(day) + _DAY, zone)
    return day


def following(bucket: Bucket, grain: Grain, zone: str, seam: Seam | None = None) -> Bucket:
    """Return the bucket after this one."""
    return bucket_at(bucket.end, grain, zone, seam)


def preceding(bucket: Bucket, grain: Grain, zone: str, seam: Seam | None = None) -> Bucket:
    """Return the bucket before this one."""
    return bucket_at(bucket.start - timedelta(microseconds=1), grain, zone, seam)


def buckets(
    start: datetime, end: datetime, grain: Grain, zone: str, seam: Seam | None = None
) -> list[Bucket]:
    """Return the buckets that have a moment in [start, end), in their order."""
    found = []
    at = start
    while at < end:
        found.append(bucket_at(at, grain, zone, seam))
        at = found[-1].end
    return found


def day_of(label: date, zone: str, seam: Seam | None = None) -> Bucket:
    """Return the day that is called so; at a seam, a day that was left out is empty."""
    if seam is None:
        return _day(label, zone)
    first = _first_day(zone, seam)
    if label >= _date(first):
        return first if label == first.label else _day(label, zone)
    day = _day(label, seam.zone)
    return replace(day, start=min(day.start, seam.at), end=min(day.end, seam.at))


def _date(day: Bucket) -> date:
    return day.label


def _day(label: date, zone: str) -> Bucket:
    return Bucket(_midnight(label, zone), _midnight(label + _DAY, zone), label)


def _midnight(label: date, zone: str) -> datetime:
    # A midnight that does not exist is the moment at which clocks leap over it; of two, the first.
    return datetime.combine(label, time(), ZoneInfo(zone)).astimezone(UTC)
