"""The rows of a partition: which policy takes each, and whether they were changed since they were read."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    BindParameter,
    Column,
    ColumnElement,
    Connection,
    MetaData,
    Select,
    Table,
    and_,
    bindparam,
    case,
    false,
    func,
    literal_column,
    or_,
    select,
    text,
)
from sqlalchemy.sql.visitors import replacement_traverse

from tasks.analytics import rollup_guard
from tasks.analytics.rollup_guard import Closed, Latest
from tasks.policies.retention import Retention
from tasks.policies.sweep import AFTER
from tasks.retention.partitions.catalog import Found, Partition
from tasks.retention.partitions.policies import running
from workers.settings import Settings

#: How long the look at all rows of a partition may take.
LOOK_MS = 600_000
#: What was written by older transactions than this one was there before.
HORIZON = text("SELECT CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS bigint)")
#: `xmin` has the lower half of a number that only grows: the upper half is that of the latest.
_WRITER: ColumnElement[int] = literal_column(
    "(SELECT latest - latest % 4294967296 FROM (SELECT CAST(CAST(pg_snapshot_xmax(pg_current_snapshot())"
    " AS text) AS bigint) AS latest) AS clock) + CAST(CAST(xmin AS text) AS bigint)"
)
_WRITTEN_BY = case(
    (
        literal_column("(SELECT CAST(CAST(pg_snapshot_xmax(pg_current_snapshot()) AS text) AS bigint))")
        > _WRITER,
        _WRITER,
    ),
    else_=_WRITER - 2**32,
)


class Kept(Exception):
    """The partition stays. The message says why."""


@dataclass(frozen=True, slots=True)
class PolicyMatch:
    """A policy that runs, and which rows of a partition it takes."""

    policy: Retention
    after: timedelta
    takes: ColumnElement[bool]


@dataclass(frozen=True, slots=True)
class Counts:
    """Rows of a partition: all, those that stay, those that were written since, and each policy's.

    `file` is another if the table was written anew. `latest` are their latest moments by rollup.
    """

    rows: int
    kept: int
    written: int
    file: int
    by_policy: tuple[int, ...] = ()
    latest: Latest = field(default_factory=dict, compare=False)

    @property
    def why_kept(self) -> str | None:
        """Why the partition stays; None if all its rows are due."""
        if not self.kept:
            return None
        which = "1 row in it is" if self.kept == 1 else f"{self.kept:,} rows in it are"
        return f"{which} not due: on hold, not in the statistics yet, or of a policy that is off or keeps it"


@dataclass(frozen=True, slots=True, eq=False)
class PartitionQuery:
    """A partition as a table of statements, and who takes its rows.

    Attributes:
        look: counts its rows, those of each policy too.
        look_again: counts them as far as that tells whether something was changed; with their latest moments,
            each for one of the rollups `freezing`.
        closed: how far the rollups have come that count them.
    """

    table: Table
    oid: int
    matches: tuple[PolicyMatch, ...]
    look: Select[Any]
    look_again: Select[Any]
    freezing: tuple[str, ...]
    closed: Closed

    @classmethod
    def of(
        cls, connection: Connection, found: Found, one: Partition, settings: Settings, now: datetime
    ) -> "PartitionQuery":
        """Make it; `connection` tells what schemas are called."""
        real = connection.get_execution_options().get("schema_translate_map", {})
        logical = {called: schema for schema, called in real.items()}
        schema = logical.get(one.schema, one.schema)
        table = found.table.to_metadata(MetaData(), schema=schema, name=one.name)
        matches, before = [], list[ColumnElement[bool]]()
        on = running(found.table, settings)
        for number, (policy, period) in enumerate(on):
            takes = _moved(rollup_guard.due(policy), found.table, table, number)
            # A row that two of them would take is the first one's.
            matches.append(PolicyMatch(policy, period, and_(takes, *(one.is_not(True) for one in before))))
            before.append(takes)
        rows: Select[Any] = select(
            func.count(),
            func.count().filter(or_(false(), *before).is_not(True)),
            func.count().filter(bindparam("horizon", type_=BigInteger) <= _WRITTEN_BY),
            func.pg_relation_filenode(one.oid),
        ).select_from(table)
        look = rows.add_columns(*(func.count().filter(one.takes) for one in matches))
        moments = rollup_guard.moments(found.table)
        again = rows.add_columns(*(func.max(_moved(at, found.table, table, 0)) for _, at in moments))
        names = tuple(name for name, _ in moments)
        rolled_up = rollup_guard.ask(connection, [policy for policy, _ in on], settings, now)
        return cls(table, one.oid, tuple(matches), look, again, names, rolled_up)

    def values(self, now: datetime) -> dict[str, Any]:
        """Return the parameters of the policies' conditions."""
        periods = {f"after_{number}": one.after for number, one in enumerate(self.matches)}
        return {"now": now, **periods, **self.closed.values}

    def count(self, connection: Connection, now: datetime, horizon: int) -> Counts:
        """Look at all rows."""
        values = {**self.values(now), "horizon": horizon}
        rows, kept, written, file, *by_policy = connection.execute(self.look, values).one()
        return Counts(rows, kept, written, file, tuple(by_policy))

    def count_again(self, connection: Connection, now: datetime, horizon: int) -> Counts:
        """Look at all rows once more."""
        values = {**self.values(now), "horizon": horizon}
        rows, kept, written, file, *moments = connection.execute(self.look_again, values).one()
        latest = rollup_guard.merged(self.freezing, [moments])
        return Counts(rows, kept, written, file, latest=latest)


def _moved(condition: ColumnElement[Any], table: Table, to: Table, number: int) -> ColumnElement[Any]:
    """Return an expression on rows of `table` as one on those of a partition, with a period of its own."""

    def other(element: Any, **_: Any) -> Any:
        if isinstance(element, Column) and getattr(element.table, "fullname", None) == table.fullname:
            return to.c[element.key]
        if isinstance(element, BindParameter) and element.key == AFTER.key:
            return bindparam(f"after_{number}", type_=element.type)
        return None

    moved: ColumnElement[Any] = replacement_traverse(condition, {}, other)
    return moved
