"""Can a table be partitioned by month? Asked of the database's own catalogue; and how, if it can.

PostgreSQL keeps a key unique within each partition alone. So each unique key must contain the column that the
partitions are told by; a foreign key from elsewhere, or an ON CONFLICT, needs a unique key on exactly its
columns, and these are hardly ever so.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, Table

from tasks.apps import APPS, POLICIES
from tasks.policies.status import StatusRows
from tasks.policies.sweep import Update
from tasks.retention.partitions import change_feeds, identities, publications
from tasks.retention.partitions.catalog import TIMES, Found, Partition, month, partitions
from tasks.retention.partitions.convert import Conversion, convert
from tasks.retention.partitions.create import AHEAD, missing_months
from tasks.retention.partitions.drop import past
from tasks.retention.partitions.table_facts import TableFacts, ask
from workers.settings import Settings

#: Both steps must be over before the month is: a few days are left for them.
SPARE = timedelta(days=7)
#: A row that is further ahead of the clock is an error of its writer's.
FURTHEST = timedelta(days=366)


@dataclass(slots=True)
class Plan:
    """What there is to say of a table.

    Attributes:
        reasons: why it cannot be partitioned by month, in sentences; none if it can, or is.
        notes: what one should know besides.
        conversion: what the application's migration would run; None if it cannot, or is already.
        partitions: those that it has; None if it is not partitioned by its age.
        coming: the beginnings of months that have no partition, and should have one.
        past: those whose time is over.
        warnings: what subscribers to changes of its partitions may lose, each with what mends it.
        rows, bytes: how many it has, as the database estimates, if it does; and its size with indexes.
    """

    table: str
    age: str
    rows: int | None
    bytes: int
    reasons: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    conversion: Conversion | None = None
    partitions: list[Partition] | None = None
    coming: list[datetime] = field(default_factory=list)
    past: list[Partition] = field(default_factory=list)
    warnings: list[tuple[str, str]] = field(default_factory=list)


def plan(connection: Connection, found: Found, settings: Settings, now: datetime) -> Plan:
    """Explain whether the table can be partitioned by month of its age, or how it stands if it is."""
    asked = ask(connection, found)
    made = Plan(f"{found.row.schema}.{found.row.name}", found.age, asked.rows, asked.bytes)
    if found.partitioned:
        made.partitions = partitions(connection, found)
        made.coming = missing_months(made.partitions, now)
        made.past = past(connection, found, settings, now)
        made.notes = [*change_feeds.notes(connection, found, made.partitions)]
        made.warnings = [*change_feeds.warnings(connection, found, made.partitions)]
        return made
    made.reasons = [
        *_shape(found),
        *_keys(found, asked),
        *_referred(found, asked),
        *_written(found, asked),
        *_published(found, asked),
    ]
    if made.reasons:
        made.reasons += _besides(found, asked)
    else:
        bound, why_not = _bound(asked, now)
        if why_not:
            made.reasons.append(why_not)
        else:
            made.notes = [*_notes(found, asked)]
            made.conversion = convert(connection, found, asked, bound, AHEAD)
    return made


def _shape(found: Found) -> Iterator[str]:
    row, column, age = found.row, found.column, found.age
    if row.kind == "p":
        yield f"It is partitioned already, but not by range of {age}: {row.key_definition}."
    elif row.kind != "r":
        yield "It is no table but a view, or another database's table."
    if row.is_partition:
        yield "It is a partition of another table itself: name that one."
    if row.persistence != "p":
        yield "It is temporary, or not logged: PostgreSQL partitions no such table."
    if column.type not in TIMES:
        yield f"{age} is of type {column.type}, which has no months."
    if column.generated:
        yield f"{age} is a generated column: PostgreSQL partitions by none."


def _keys(found: Found, asked: TableFacts) -> Iterator[str]:
    age, rule = found.age, "PostgreSQL keeps a key unique in a partitioned table only if it contains"
    upserts = _upserts(found.table)
    referred = {tuple(one.to) for one in asked.references}
    # An index beside a constraint says the same once more.
    for key in {tuple(key.columns) or key.name: key for key in reversed(asked.keys)}.values():
        if age in key.columns or (key.primary and key.columns and tuple(key.columns) not in referred):
            # A primary key takes the age in, if nothing needs it as it is.
            continue
        columns = f"({', '.join(key.columns)})" if key.columns else f"by an expression, {key.name},"
        which = "Its primary key" if key.primary else "Its unique key"
        what = f"{which} {columns} does not contain {age}: {rule} {age}"
        needs = next((why for target, why in upserts if target == {*key.columns}), None)
        if needs is not None:
            yield f"{what}; ({', '.join([*key.columns, age])}) would let the same come twice, and {needs}."
        elif key.primary:
            yield f"{what}, and others refer to it as it is."
        else:
            yield f"{what}; with {age} in it, the same could come once more with another {age}."
    for name in asked.exclusions:
        yield f"{name} excludes rows by others of the whole table; partitions know of their own alone."


def _besides(found: Found, asked: TableFacts) -> Iterator[str]:
    """Yield what could be mended, if it were alone."""
    for key in asked.keys:
        if key.primary and found.age not in key.columns and not asked.references:
            columns = ", ".join(key.columns)
            yield (
                f"Its primary key ({columns}) does not contain {found.age} either; that alone could be "
                f"mended, by ({columns}, {found.age})."
            )


def _upserts(table: Table) -> list[tuple[set[str], str]]:
    """Return the keys by which jobs insert or update, and which jobs those are."""
    found = []
    for app in APPS.values():
        job = app.delivery
        if isinstance(job, StatusRows) and job.model.__table__ is table:
            columns = {one.property.columns[0].name for one in (job.message, job.user)}
            unique = ", ".join(one.property.columns[0].name for one in (job.message, job.user))
            found.append(
                (columns, f"{job.task} merges by ON CONFLICT ({unique}), which needs UNIQUE ({unique})")
            )
    return found


def _referred(found: Found, asked: TableFacts) -> Iterator[str]:
    for one in asked.references:
        if found.age not in one.to:
            columns, to = ", ".join(one.columns), ", ".join(one.to)
            yield (
                f"{one.table} ({columns}) refers to its ({to}): a foreign key needs a unique key on exactly "
                f"that, which a table that is partitioned by {found.age} cannot have. It would have to "
                f"carry {found.age} too."
            )


def _written(found: Found, asked: TableFacts) -> Iterator[str]:
    age = found.age
    if asked.without:
        many = "Rows have" if asked.without > 1 else "A row has"
        yield (
            f"{many} no {age} (NULL): partitions by range take none of these. Give them one, and make the "
            "column NOT NULL."
        )
    for name, policy in POLICIES.items():
        changes = policy.action.values if isinstance(policy.action, Update) else {}
        if policy.table is found.table and any(one.property.columns[0].name == age for one in changes):
            yield f"{name} changes {age}: each time, the row would move to another partition."
    for name in asked.restamping:
        yield f"The trigger {name} sets {age} at each change: each time, the row would move."
    for name in asked.with_transition:
        yield f"The trigger {name} looks at all changed rows of a statement: partitions can have none such."
    for name in asked.views:
        yield (
            f"{name} reads it, and would go on to read what is the old partition then: drop it before the "
            "migration, and make it again after."
        )


def _published(found: Found, asked: TableFacts) -> Iterator[str]:
    widened = any(key.primary and found.age not in key.columns for key in asked.keys)
    by_key = asked.identity.kind == identities.KEY or any(
        key.primary and key.name == asked.identity.name for key in asked.keys
    )
    for one in asked.publications:
        lacks_age = one.columns is not None and found.age not in one.columns
        if lacks_age and widened and by_key and (one.updates or one.deletes):
            yield (
                f"The publication {one.name} publishes ({', '.join(one.columns)}), without {found.age}, "
                "which its primary key would contain: PostgreSQL would refuse to update and delete its rows. "
                f"Add {found.age} to that list, after subscribers have the column."
            )
        if (one.columns or one.filter) and not one.via_root and not publications.switches(one):
            yield (
                f"The publication {one.name} publishes some of its columns or rows, and other partitioned "
                "tables by their partitions' names: of a partitioned table PostgreSQL publishes parts only "
                "with publish_via_partition_root. Give this table a publication of its own."
            )


def _bound(asked: TableFacts, now: datetime) -> tuple[datetime, str | None]:
    """Return until before when the old table has all rows; or why there is no such moment."""
    latest = asked.latest
    if latest is not None and latest.tzinfo is None:
        latest = latest.replace(tzinfo=UTC)
    begins = month(now + SPARE, 1)
    if latest is not None and latest > now + FURTHEST:
        return begins, f"It has rows of {latest:%Y-%m-%d}, which is still to come: mend those first."
    if latest is not None and latest >= begins:
        begins = month(latest, 1)
    return begins, None


def _notes(found: Found, asked: TableFacts) -> Iterator[str]:
    (primary,) = (key for key in asked.keys if key.primary) if _has_primary(asked) else (None,)
    if primary is not None and found.age not in primary.columns:
        columns = ", ".join(primary.columns)
        yield (
            f"({columns}) alone is kept unique no more, only with {found.age}; nothing may say "
            f"ON CONFLICT ({columns}) any more."
        )
    if not found.column.required:
        yield f"{found.age} becomes NOT NULL; no row is without it now."
    yield from change_feeds.conversion_notes(asked.publications, asked.identity)
    yield (
        "There is no default partition: rows in one would keep the partition of their month from being made. "
        f"So a row whose {found.age} lies more than {AHEAD} months ahead is refused."
    )


def _has_primary(asked: TableFacts) -> bool:
    return any(key.primary for key in asked.keys)
