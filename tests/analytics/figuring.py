"""Rows for rollups, and the statistics that come of them."""

import random
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import Connection, Table, insert, select
from sqlalchemy.schema import sort_tables

from tasks.analytics.calendar import Bucket, buckets
from tasks.analytics.engine import parameters
from tasks.analytics.statements import statements
from tasks.policies.columns import Model, table_of
from tasks.policies.rollup import Grain, Rollup
from tests.platform import Platform

#: The moment that rollups go by in tests.
NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
INSTANT = timedelta(microseconds=1)
#: Zones with a day of 23 or 25 hours near `LEAPS`' date, one without, and UTC.
LEAPS = {
    "UTC": date(2026, 3, 29),
    "Europe/Berlin": date(2026, 3, 29),
    "America/New_York": date(2026, 11, 1),
    "Asia/Kathmandu": date(2026, 3, 29),
}

#: Key columns of a row of statistics, then the name of a figure.
Place = tuple[Any, ...]
Row = dict[str, Any]
#: A transaction that is open, or a platform, of whose database each step is committed.
Database = Platform | Connection


# -- rows -----------------------------------------------------------------------------------------------


@dataclass
class Rows:
    """Rows of several tables: kept for an oracle to look at, then written table by table.

    Attributes:
        chance: where ids come from.
    """

    chance: random.Random = field(default_factory=lambda: random.Random(7))
    tables: dict[Table, list[Row]] = field(default_factory=dict)

    def add(self, model: Model, **values: Any) -> UUID:
        """Keep a row, with an id of its own where the table has ids; return it."""
        table = table_of(model)
        key: UUID = values.pop("id", None) or UUID(int=self.chance.getrandbits(128), version=4)
        self.tables.setdefault(table, []).append(({"id": key} if "id" in table.c else {}) | values)
        return key

    def of(self, model: Model) -> list[Row]:
        """Return the rows of a table."""
        return self.tables.get(table_of(model), [])

    def write(self, database: Database) -> None:
        """Write all into tables that are empty."""
        with _begun(database) as connection:
            for table in sort_tables(self.tables):
                # Those with the same columns together: what is not given is the table's to say.
                alike: dict[frozenset[str], list[Row]] = {}
                for row in self.tables[table]:
                    alike.setdefault(frozenset(row), []).append(row)
                for rows in alike.values():
                    connection.execute(insert(table), rows)


@contextmanager
def rolled_back(platform: Platform) -> Iterator[Connection]:
    """Open a transaction of which nothing stays."""
    with platform.engine.connect() as connection:
        yield connection


@contextmanager
def _begun(database: Database) -> Iterator[Connection]:
    if isinstance(database, Connection):
        yield database
    else:
        with database.engine.begin() as connection:
            yield connection


# -- statistics --------------------------------------------------------------------------------------------


def compute(database: Database, rollup: Rollup, found: Iterable[Bucket], now: datetime = NOW) -> int:
    """Compute these buckets as the engine does; return how many rows of statistics that changed."""
    changed, replace = 0, statements(rollup).replace
    with _begun(database) as connection:
        for bucket in found:
            changed += sum(connection.execute(replace, parameters(bucket, now)).one())
    return changed


def stored_metrics(database: Database, rollup: Rollup) -> dict[Place, Any]:
    """Return the whole target: by the values of its key columns and the name of the figure."""
    keys = [column.property.columns[0].name for column in (rollup.bucket, *rollup.key)]
    with _begun(database) as connection:
        found = connection.execute(select(rollup.table)).mappings().all()
    return flat(
        {tuple(row[key] for key in keys): {name: row[name] for name in rollup.metrics} for row in found}
    )


def flat(rows: Mapping[Place, Mapping[str, Any]]) -> dict[Place, Any]:
    """Return one value for each figure of each row."""
    return {(*key, name): value for key, row in rows.items() for name, value in row.items()}


def days(first: date, last: date, zone: str = "UTC") -> list[Bucket]:
    """Return the days from `first` to `last`, both included, as a zone has them."""
    start, end = midnight(first, zone), midnight(last + timedelta(days=1), zone)
    found = buckets(start, end, Grain.DAY, zone)
    assert [bucket.label for bucket in found] == [
        first + timedelta(days=number) for number in range((last - first).days + 1)
    ]
    return found


def computed(
    database: Database, rollup: Rollup, first: date, last: date, zone: str = "UTC", now: datetime = NOW
) -> dict[Place, Any]:
    """Compute these days, twice: return all statistics, which the second time leaves as they are."""
    wanted = days(first, last, zone)
    with _begun(database) as connection:
        compute(connection, rollup, wanted, now)
        found = stored_metrics(connection, rollup)
        assert compute(connection, rollup, wanted, now) == 0
    return found


def agree(found: Mapping[Place, Any], wanted: Mapping[Place, Any]) -> None:
    """Fail unless the statistics are these: whole numbers exactly, others as far as a float can hold them."""
    assert set(found) == set(wanted)
    for place, value in wanted.items():
        if isinstance(value, Fraction):
            assert isinstance(found[place], float), place
            assert found[place] == pytest.approx(float(value), rel=1e-12, abs=1e-9), place
        else:
            assert found[place] == value, place
            assert type(found[place]) is type(value), place


def needed(rollup: Rollup) -> dict[str, tuple[set[str], set[str]]]:
    """Return what a rollup needs of other tables than its own: columns and rights by a table's full name.

    Of its own it needs all that it writes, and every right.
    """
    needs = {need.table.fullname: (set(need.columns), set(need.privileges)) for need in rollup.needs()}
    columns, rights = needs.pop(rollup.table.fullname)
    assert columns == set(rollup.table.c.keys()) - {"computed_at"}
    assert rights == {"SELECT", "INSERT", "UPDATE", "DELETE"}
    return needs


# -- time -----------------------------------------------------------------------------------------------


def midnight(day: date, zone: str = "UTC") -> datetime:
    """Return when a day begins somewhere; in the zones of `LEAPS` each does once."""
    return datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(zone)).astimezone(UTC)


def day_of(moment: datetime, zone: str = "UTC") -> date:
    """Return the day that a moment is of somewhere."""
    return moment.astimezone(ZoneInfo(zone)).date()


def naive(moment: datetime | None) -> datetime | None:
    """Return the moment as `openchat` keeps it: in UTC, without saying so."""
    return None if moment is None else moment.astimezone(UTC).replace(tzinfo=None)


def near(chance: random.Random, day: date, zone: str) -> datetime:
    """Return a moment within some days of one: often a midnight, or the instant before or after it."""
    at = midnight(day + timedelta(days=chance.randint(-1, 2)), zone)
    match chance.randrange(4):
        case 0:
            return at
        case 1:
            return at + chance.choice([-1, 1]) * INSTANT
        case 2:
            return at + timedelta(seconds=chance.randint(-90, 90))
        case _:
            return at + timedelta(microseconds=chance.randrange(86_400_000_000))


def microseconds(between: timedelta) -> int:
    """Return how long that is."""
    return between // INSTANT


# -- numbers --------------------------------------------------------------------------------------------


def seconds_between(start: datetime, end: datetime) -> Fraction:
    """Return how long it took, and nothing where a clock went back."""
    return Fraction(max(microseconds(end - start), 0), 1_000_000)


def quantile(values: Iterable[Fraction], share: Fraction) -> Fraction | None:
    """Return the quantile of values, between two of them by a straight line; None of nothing."""
    given = sorted(values)
    if not given:
        return None
    place = share * (len(given) - 1)
    below = place.numerator // place.denominator
    above = min(below + 1, len(given) - 1)
    return given[below] + (given[above] - given[below]) * (place - below)


MEDIAN, P95 = Fraction(1, 2), Fraction(95, 100)


def whole(seconds: Fraction) -> int:
    """Return the nearest whole number; of two, the greater."""
    return (2 * seconds.numerator + seconds.denominator) // (2 * seconds.denominator)
