"""Time zones come from the pinned package `tzdata`, on every host.

By default `zoneinfo` prefers the files of the operating system, whose rules differ from host to host: two
hosts would compute different days for a zone whose rules have changed.
"""

import zoneinfo
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import tzdata

#: PostgreSQL has these names twice: as zones with summer time, and as abbreviations of a fixed offset, which
#: `AT TIME ZONE` and `date_trunc` prefer. Each with a place that has the same clocks.
AMBIGUOUS = {
    "CET": "Europe/Brussels",
    "EET": "Europe/Athens",
    "MET": "Europe/Brussels",
    "WET": "Europe/Lisbon",
}


def use_pinned_rules() -> None:
    """Have `zoneinfo` read the package `tzdata` alone, in this process."""
    # As a directory: without one, the first zone imports `importlib.resources`, for a fifth of a second.
    zoneinfo.reset_tzpath((str(Path(tzdata.__file__).with_name("zoneinfo")),))
    # Zones that were read before are of the system's files.
    ZoneInfo.clear_cache()


def fault_of(name: str) -> str | None:
    """Return why days of this zone cannot be counted, as the end of a sentence; None if they can."""
    if place := AMBIGUOUS.get(name):
        return (
            f"{name} is two things to PostgreSQL, with and without summer time: name a place, such as {place}"
        )
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return f"there is no time zone {name!r}"
    return None
