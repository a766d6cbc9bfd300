"""Time zones: one zone counts for each rollup, and PostgreSQL has the same rules for it."""

from collections.abc import Iterable, Iterator
from datetime import date, timedelta

from psycopg.errors import InvalidParameterValue
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from commands import formatting, rollup_status
from commands.formatting import quantity
from tasks.analytics.calendar import Bucket, buckets
from tasks.apps import rollups
from tasks.apps import zone as zone_set
from tasks.policies.rollup import CLOCKS_SET, DAY
from workers import time_zones
from workers.db import engine_for
from workers.inspection import Fault
from workers.settings import Settings, variable

#: How far ahead days are compared: the next changes of clocks are among them.
AHEAD = timedelta(days=366)
#: How many days that differ are named.
_NAMED = 3

#: Days that do not begin, by PostgreSQL's rules, when they begin by ours.
_DIFFERENT = text("""
    SELECT label
      FROM unnest(CAST(:starts AS timestamptz[]), CAST(:labels AS date[])) AS day (start, label)
     WHERE CAST(start AT TIME ZONE :zone AS date) <> label
        OR CAST((start - interval '1 microsecond') AT TIME ZONE :zone AS date) >= label
     ORDER BY label
""")


def faults(settings: Settings) -> list[Fault]:
    """Return what is wrong with the zones of the rollups that run. `database` reports one that is away."""
    try:
        with engine_for(settings) as engine, engine.begin() as connection:
            found = rollup_status.read(connection, rollups(settings).values())
    except DBAPIError:
        return []
    in_use: dict[str, list[rollup_status.RollupStatus]] = {}
    for one in found.values():
        if one.state is not None and one.rollup.grain is DAY:
            in_use.setdefault(one.state.zone, []).append(one)
    return [
        *_disagreements(found.values(), settings),
        *(
            fault
            for zone, users in in_use.items()
            if zone != "UTC"
            for fault in _rules(zone, users, settings)
        ),
    ]


def _disagreements(found: Iterable[rollup_status.RollupStatus], settings: Settings) -> Iterator[Fault]:
    for one in found:
        wanted, name = zone_set(one.rollup, settings), one.rollup.name
        if one.state is None or one.state.zone == wanted:
            continue
        command = f"hange the zone for all: roomkeeper rollup zone {name} {wanted}"
        yield Fault(
            f"{name} counts days of {one.state.zone}, and {variable('rollup_zones')} here says {wanted}: by "
            "these settings it is not computed, and none of the rows that it counts is deleted.",
            f"C{command}"
            if time_zones.fault_of(one.state.zone)
            else f"Set {one.state.zone} on every host; or c{command}",
        )


def _rules(zone: str, users: list[rollup_status.RollupStatus], settings: Settings) -> list[Fault]:
    """Compare the days of a zone with PostgreSQL's, from the first one that is covered on."""
    names = formatting.first_names([one.rollup.name for one in users])
    first = min(one.state.covered_from for one in users if one.state is not None)
    days = buckets(max(first, CLOCKS_SET), users[0].now + AHEAD, DAY, zone)
    try:
        different = _different(zone, days, settings)
    except DBAPIError as error:
        if not isinstance(error.orig, InvalidParameterValue):
            raise
        return [
            Fault(
                f"The database server does not know the time zone {zone}, whose days count for {names}: "
                "queries that name it fail.",
                "Update the server, or its package of time zones (tzdata).",
                warning=True,
            )
        ]
    if not different:
        return []
    named = ", ".join(formatting.bucket(day) for day in different[:_NAMED])
    more = f" and {len(different) - _NAMED} more" if len(different) > _NAMED else ""
    begin = "begins" if len(different) == 1 else "begin"
    return [
        Fault(
            f"{quantity(len(different), 'day')} of {zone} {begin} at another moment by the database server's "
            f"rules than by those that count for {names}: {named}{more}.",
            "One of the two has old rules: update the server, or its package of time zones (tzdata); or "
            "install the newest package tzdata of Python on every host.",
            warning=True,
        )
    ]


def _different(zone: str, days: list[Bucket], settings: Settings) -> list[date]:
    values = {"zone": zone, "starts": [day.start for day in days], "labels": [day.label for day in days]}
    with engine_for(settings) as engine, engine.begin() as connection:
        return list(connection.scalars(_DIFFERENT, values))
