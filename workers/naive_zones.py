"""The time zone in which an application's columns without a time zone were written by their defaults."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from workers import time_zones

_ALLOWED = (
    "must be openchat=Europe/Berlin, or openchat=Europe/Berlin until 2026-12-01T09:00Z: an application, a "
    "time zone by region and city, and the moment from which on UTC is written; several separated by commas"
)


@dataclass(frozen=True, slots=True)
class NaiveZone:
    """A time zone, and until when it was written; None for until now."""

    zone: str
    until: datetime | None = None

    def at(self, moment: datetime) -> str:
        """Return the zone in which `moment` is written."""
        return "UTC" if self.until is not None and moment >= self.until else self.zone


def parse(value: str) -> dict[str, NaiveZone]:
    """Return the zones by application.

    Raises:
        ValueError: the value is not as is allowed; the message says what is.
    """
    zones = {}
    for part in filter(None, (part.strip() for part in value.split(","))):
        match = re.fullmatch(r"(\w+)\s*=\s*(\w+/[\w/+-]+)(?:\s+until\s+(\S+))?", part)
        if match is None:
            raise ValueError(_ALLOWED)
        name, zone, until = match.groups()
        try:
            moment = datetime.fromisoformat(until) if until else None
        except ValueError:
            raise ValueError(_ALLOWED) from None
        if time_zones.fault_of(zone) or (moment is not None and moment.tzinfo is None):
            raise ValueError(_ALLOWED)
        zones[name] = NaiveZone(zone, moment and moment.astimezone(UTC))
    return zones
