"""Partitions of months to come, and of months that are to be filled again.

A partition is made as a table of its own and then attached: that does not keep anybody from reading or
writing the others, as CREATE TABLE ... PARTITION OF would. ATTACH gives it the indexes, keys and
triggers of the table; the replica identity and the publications of the others it is given here.
"""

import random
import re
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from psycopg.errors import DuplicateTable, InsufficientPrivilege
from sqlalchemy import Connection, Table, func, select
from sqlalchemy.exc import DBAPIError

from tasks.retention.partitions import identities, publications
from tasks.retention.partitions.catalog import (
    Found,
    Partition,
    PartitionError,
    find,
    month,
    name_of,
    overlap,
    partitions,
    quoter,
)
from tasks.retention.partitions.policies import age_of
from tasks.sweeps.batch import Contested, Refused, begin

if TYPE_CHECKING:
    import pyarrow as pa

#: Months ahead of the present one: even if no one looks for a quarter, no row is refused.
AHEAD = 3
#: How long others may stand in line behind a change of partitions, and how often that is tried.
PATIENCE_MS = 200
TRIES = 25
_STATEMENT_MS = 60_000
#: What is before Christ, or for ever, has no month.
_DATE = re.compile(r"(?P<month>\d{4}-\d\d)-\d\d(?!.*BC)")


def missing_months(there: list[Partition], now: datetime) -> list[datetime]:
    """Return the beginnings of the months, from this one to three ahead, that have no partition."""
    return [begins for ahead in range(AHEAD + 1) if not _covered(there, begins := month(now, ahead))]


def create_upcoming(found: Found, now: datetime) -> list[str]:
    """Make the partitions that are missing, of this month and three ahead; return their names.

    Raises:
        PartitionError: one cannot be made; those before it are.
    """
    made: list[str] = []
    for ahead in range(AHEAD + 1):
        begins = month(now, ahead)
        name = _patiently(found, begins)
        made += [name] if name else []
    return made


def create_for_rows(connection: Connection, table: Table, rows: "pa.Table") -> list[str]:
    """Make the partitions in which archived rows were, where they have gone; return their names.

    Nothing is done if the table is not partitioned by its age. In the caller's transaction.

    Raises:
        PartitionError: one cannot be made.
    """
    try:
        found = find(connection, table, age_of(table))
    except PartitionError:
        return []
    if not found.partitioned:
        return []
    made = []
    try:
        for begins in _months(rows.column(found.age).to_pylist()):
            name = _make(connection, found, begins)
            made += [name] if name else []
    except DBAPIError as error:
        raise _as_reported(found, error) from error
    return made


def _months(ages: Iterable[str | None]) -> list[datetime]:
    """Return the months of ages, which are texts as PostgreSQL prints them in UTC."""
    found = {month["month"] for age in ages if (month := _DATE.match(age or ""))}
    return sorted(datetime.fromisoformat(f"{one}-01").replace(tzinfo=UTC) for one in found)


def _patiently(found: Found, begins: datetime) -> str | None:
    for attempt in range(TRIES):
        try:
            with begin(PATIENCE_MS, _STATEMENT_MS) as connection:
                return _make(connection, found, begins)
        except Contested:
            # So that those behind us get their turn.
            time.sleep(random.uniform(0.02, 0.1) * (attempt + 1))  # noqa: S311
        except Refused as error:
            raise PartitionError(f"The partition of {begins:%Y-%m} cannot be made: {error}.") from error
        except DBAPIError as error:
            raise _as_reported(found, error) from error
    raise PartitionError(
        f"{found.row.schema}.{found.row.name} is in use all the time by others that lock it: the partition "
        f"of {begins:%Y-%m} could not be made; the next run tries again."
    )


def _make(connection: Connection, found: Found, begins: datetime) -> str | None:
    """Make a month's partition, if there is none; return its name."""
    ends = month(begins, 1)
    lock = f"roomkeeper:partitions:{found.row.schema}.{found.row.name}"
    # Two at once: the second sees what the first has made.
    connection.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(lock, 0))))
    there = partitions(connection, found)
    if _covered(there, begins):
        return None
    name = name_of(found.row.name, begins)
    identity = identities.common(identities.members(connection, found.row.oid))
    for one in there:
        if overlap(one, begins, ends):
            raise PartitionError(
                f"{one.name} has some of {begins:%Y-%m}, from {_shown(one.begins)} to {_shown(one.ends)}: "
                "make a partition of the rest yourself; partitions that are made here are whole months."
            )
        if one.default:
            _none_in_default(connection, found, one, begins, ends)
    quote = quoter(connection)
    parent, real = found.real(connection), found.real(connection, name)
    # Columns, what they must be, and how they are kept; identities belong to the whole table.
    made = f"CREATE TABLE {real} (LIKE {parent} INCLUDING ALL EXCLUDING INDEXES EXCLUDING IDENTITY)"
    connection.exec_driver_sql(made)
    if found.row.row_security:
        # Rows that the table would not show must not be readable by the partition's own name.
        connection.exec_driver_sql(f"ALTER TABLE {real} ENABLE ROW LEVEL SECURITY")
    # It belongs to whom the table belongs to: their migrations go on altering it.
    connection.exec_driver_sql(f"ALTER TABLE {real} OWNER TO {quote(found.row.owner)}")
    bounds = f"FROM ({found.written(begins, 'MINVALUE')}) TO ({found.written(ends, 'MAXVALUE')})"
    connection.exec_driver_sql(f"ALTER TABLE {parent} ATTACH PARTITION {real} FOR VALUES {bounds}")
    (oid,) = (one.oid for one in partitions(connection, found) if one.name == name)
    connection.exec_driver_sql(identities.statement(connection, identity, oid, real))
    publications.publish(connection, found, there, begins, real)
    return name


def _covered(there: list[Partition], begins: datetime) -> bool:
    """Return whether partitions have all of a month, without a gap."""
    at, ends = begins, month(begins, 1)
    for one in there:
        if overlap(one, begins, ends) and (one.begins is None or one.begins <= at):
            if one.ends is None or one.ends >= ends:
                return True
            at = one.ends
    return False


def _none_in_default(
    connection: Connection, found: Found, default: Partition, begins: datetime, ends: datetime
) -> None:
    quote = quoter(connection)
    name = f"{quote(default.schema)}.{quote(default.name)}"
    age = quote(found.age)
    rows = connection.exec_driver_sql(
        f"SELECT count(*) FROM {name} WHERE {age} >= {found.written(begins, '')}"  # noqa: S608
        f" AND {age} < {found.written(ends, '')}"
    ).scalar_one()
    if rows:
        raise PartitionError(
            f"The default partition {default.name} holds {rows:,} rows of {begins:%Y-%m}: while it does, "
            "PostgreSQL makes no partition of that month. In one transaction: detach it, make the month's "
            "partition, insert its rows into the table again, and attach what is left."
        )


def _shown(moment: datetime | None) -> str:
    return "ever" if moment is None else f"{moment:%Y-%m-%d %H:%M}"


def _as_reported(found: Found, error: DBAPIError) -> Exception:
    if isinstance(error.orig, InsufficientPrivilege):
        return PartitionError(
            f"The role may not make partitions of {found.row.schema}.{found.row.name}: who does must be "
            f"{found.row.owner}, whom it belongs to, or a member of that role: GRANT {found.row.owner} TO ..."
        )
    if isinstance(error.orig, DuplicateTable):
        return PartitionError(
            f"The name that a partition of {found.row.schema}.{found.row.name} would have is a table's "
            "which is no partition of it: was it detached? Drop it, attach it or rename it."
        )
    return error
