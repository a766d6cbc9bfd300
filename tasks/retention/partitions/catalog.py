"""What the database's catalogue says of a table: how it is partitioned, and its partitions."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

from sqlalchemy import Connection, Row, Table, text

#: Types of columns that months can be told by, and how a moment is written in each.
TIMES = {
    "timestamp with time zone": "%Y-%m-%d %H:%M:%S+00",
    "timestamp without time zone": "%Y-%m-%d %H:%M:%S",
    "date": "%Y-%m-%d",
}
_TABLE = text("""
    SELECT class.oid, space.nspname AS schema, class.relname AS name, class.relkind AS kind,
           class.relpersistence AS persistence, class.relispartition AS is_partition,
           class.relrowsecurity AS row_security, class.relforcerowsecurity AS forced_security,
           pg_get_userbyid(class.relowner) AS owner,
           CASE class.relkind WHEN 'p' THEN pg_get_partkeydef(class.oid) END AS key_definition,
           part.partstrat AS strategy,
           (SELECT CASE WHEN part.partnatts = 1 THEN attname END FROM pg_catalog.pg_attribute
             WHERE attrelid = class.oid AND attnum = part.partattrs[0] AND attnum > 0) AS key
      FROM pg_catalog.pg_class AS class
      JOIN pg_catalog.pg_namespace AS space ON space.oid = class.relnamespace
      LEFT JOIN pg_catalog.pg_partitioned_table AS part ON part.partrelid = class.oid
     WHERE space.nspname = :schema AND class.relname = :name
       AND class.relkind IN ('r', 'p', 'v', 'm', 'f')
""")
_COLUMN = text("""
    SELECT format_type(atttypid, NULL) AS type, attnotnull AS required, attgenerated <> '' AS generated
      FROM pg_catalog.pg_attribute
     WHERE attrelid = :oid AND attname = :name AND attnum > 0 AND NOT attisdropped
""")
_PARTITIONS = text("""
    SELECT class.oid, space.nspname AS schema, class.relname AS name, class.relkind AS kind,
           pg_get_expr(class.relpartbound, class.oid) AS bound,
           CASE WHEN class.reltuples >= 0 THEN class.reltuples::bigint END AS rows,
           pg_total_relation_size(class.oid) AS bytes,
           inherits.inhdetachpending AS going
      FROM pg_catalog.pg_inherits AS inherits
      JOIN pg_catalog.pg_class AS class ON class.oid = inherits.inhrelid
      JOIN pg_catalog.pg_namespace AS space ON space.oid = class.relnamespace
     WHERE inherits.inhparent = :oid
""")
_BOUND = re.compile(r"FOR VALUES FROM \((?P<begins>.+?)\) TO \((?P<ends>.+?)\)")
_OPEN = {"MINVALUE", "MAXVALUE"}


class PartitionError(Exception):
    """Partitions cannot be told, made or dropped. The message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Partition:
    """One partition of a table by range.

    Attributes:
        begins, ends: from when, and until before when; None where it is open.
        rows: as the database estimates them; None where it has not been vacuumed or analysed yet.
        default: whether it has what no other takes.
        plain: whether it is a table of its own, and its bounds are moments.
    """

    oid: int
    schema: str
    name: str
    begins: datetime | None
    ends: datetime | None
    rows: int | None
    bytes: int
    default: bool
    plain: bool


@dataclass(frozen=True, slots=True)
class Found:
    """A table as the catalogue has it.

    Attributes:
        table: as the models have it.
        row: its row in the catalogue.
        column: the one that tells the age: its type, and whether it is NOT NULL or generated.
    """

    table: Table
    age: str
    row: Row[Any]
    column: Row[Any]

    @property
    def partitioned(self) -> bool:
        """Whether it is partitioned by range of its age, and nothing else."""
        by_range = self.row.kind == "p" and self.row.strategy == "r"
        return bool(by_range and self.row.key == self.age and self.column.type in TIMES)

    def written(self, moment: datetime | None, open_end: str) -> str:
        """Return a bound as SQL."""
        return open_end if moment is None else f"'{moment.astimezone(UTC).strftime(TIMES[self.column.type])}'"

    def real(self, connection: Connection, name: str | None = None) -> str:
        """Return its name, or that of another table of its schema, quoted where it must be."""
        quote = quoter(connection)
        return f"{quote(self.row.schema)}.{quote(name or self.row.name)}"


def find(connection: Connection, table: Table, age: str) -> Found:
    """Return what the catalogue says of a table.

    Raises:
        PartitionError: there is no such table, or no such column.
    """
    schema = real_schema(connection, table)
    row = connection.execute(_TABLE, {"schema": schema, "name": table.name}).one_or_none()
    if row is None:
        raise PartitionError(f"There is no table {schema}.{table.name} in this database.")
    column = connection.execute(_COLUMN, {"oid": row.oid, "name": age}).one_or_none()
    if column is None:
        raise PartitionError(f"{schema}.{table.name} has no column {age!r}.")
    return Found(table, age, row, column)


def real_schema(connection: Connection, table: Table) -> str:
    """Return what a table's schema is called in this database."""
    schemas = connection.get_execution_options().get("schema_translate_map", {})
    return str(schemas.get(table.schema, table.schema))


def quoter(connection: Connection) -> Callable[[str], str]:
    """Return what quotes names, where they must be."""
    return connection.dialect.identifier_preparer.quote


def partitions(connection: Connection, found: Found) -> list[Partition]:
    """Return the partitions in their order, the default one last."""
    every = [_partition(row) for row in connection.execute(_PARTITIONS, {"oid": found.row.oid})]
    first = datetime.min.replace(tzinfo=UTC)
    return sorted(every, key=lambda one: (one.default, one.begins or first, one.name))


def _partition(row: Row[Any]) -> Partition:
    bound = _BOUND.fullmatch(row.bound)
    try:
        begins, ends = (_moment(bound["begins"]), _moment(bound["ends"])) if bound else (None, None)
        known = bound is not None
    except ValueError:
        # Before Christ, or for ever: nothing of ours.
        begins, ends, known = None, None, False
    return Partition(
        row.oid,
        row.schema,
        row.name,
        begins,
        ends,
        row.rows,
        row.bytes,
        default=row.bound == "DEFAULT",
        plain=known and row.kind == "r" and not row.going,
    )


def _moment(printed: str) -> datetime | None:
    """Return a bound as PostgreSQL prints it in a transaction that is pinned to UTC."""
    if printed in _OPEN:
        return None
    value = printed.strip("'")
    if re.fullmatch(r"\d{4}-\d\d-\d\d", value):
        day = date.fromisoformat(value)
        return datetime(day.year, day.month, day.day, tzinfo=UTC)
    moment = datetime.fromisoformat(value)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


def month(moment: datetime, ahead: int = 0) -> datetime:
    """Return the beginning of the month of a moment, or of one that is so many months ahead, in UTC."""
    moment = moment.astimezone(UTC)
    years, months = divmod(moment.year * 12 + moment.month - 1 + ahead, 12)
    return datetime(years, months + 1, 1, tzinfo=UTC)


def name_of(table: str, begins: datetime) -> str:
    """Return what the partition of a month is called: `audit_logs_y2026m03`."""
    # PostgreSQL cuts names after 63 bytes.
    return f"{table.encode()[:54].decode(errors='ignore')}_y{begins:%Y}m{begins:%m}"


def overlap(one: Partition, begins: datetime, ends: datetime) -> bool:
    """Return whether a partition has some of the time from `begins` until before `ends`."""
    if one.default:
        return False
    return (one.begins is None or one.begins < ends) and (one.ends is None or one.ends > begins)
