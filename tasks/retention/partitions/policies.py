"""Which tables there are by an operator's word, and which policies of retention take their rows."""

import difflib
from datetime import timedelta

from sqlalchemy import Table
from sqlalchemy.orm import InstrumentedAttribute

from models.base import Base
from tasks.apps import APPS, POLICIES, after, policies
from tasks.policies.retention import Retention
from tasks.policies.sweep import Delete
from tasks.retention.cascade import files_of
from tasks.retention.partitions.catalog import PartitionError
from workers.settings import Settings

#: The platform's own schema, and what its tables are named by.
PLATFORM = "roomkeeper"


def named(name: str) -> Table:
    """Return the table that is called `APP.TABLE`.

    Raises:
        PartitionError: there is none; the sentence says what is likely meant.
    """
    schemas = {app: tuple(page.models.SCHEMAS) for app, page in APPS.items()} | {PLATFORM: (PLATFORM,)}
    tables = {
        f"{app}.{table.name}": table
        for app, names in schemas.items()
        for table in Base.metadata.tables.values()
        if table.schema in names
    }
    if name not in tables:
        likely = difflib.get_close_matches(name, tables, n=1)
        hint = f" Did you mean {likely[0]!r}?" if likely else f" Say APP.TABLE; APP is {', '.join(schemas)}."
        raise PartitionError(f"There is no table {name!r}.{hint}")
    return tables[name]


def policies_of(table: Table) -> list[Retention]:
    """Return all retention policies that take rows of the table, set or not."""
    return [one for one in POLICIES.values() if isinstance(one, Retention) and one.table is table]


def running(table: Table, settings: Settings) -> list[tuple[Retention, timedelta]]:
    """Return those that run, and take rows by themselves and whole; with their periods."""
    on = policies(settings)
    found = []
    for one in policies_of(table):
        period = after(one, settings)
        if one.name in on and period is not None and whole(one):
            found.append((one, period))
    return found


def whole(policy: Retention) -> bool:
    """Return whether a policy's rows may go together: nothing refers to them or changes with them.

    Nor do they have objects, whose deletion would have to be noted row by row.
    """
    plain = policy.cutoff is None and policy.until is None and files_of(policy) is None
    return isinstance(policy.action, Delete) and not policy.refers and plain


def age_of(table: Table, by: str | None = None) -> str:
    """Return the column that a table's rows are as old as: its policies' own, or `by`.

    Where there is no policy it is `created_at`.

    Raises:
        PartitionError: no policy says it, or they do not agree.
    """
    if by is not None:
        return by
    columns = [_column(one) for one in policies_of(table)]
    ages = sorted({name for name in columns if name is not None})
    if len(ages) == 1 and None not in columns:
        return ages[0]
    if not columns and "created_at" in table.columns:
        return "created_at"
    if not columns:
        why = f"No retention policy says by what column {table.fullname} ages"
    elif None in columns:
        why = f"The policies of {table.fullname} tell the age by more than one column of a row"
    else:
        why = f"The policies of {table.fullname} do not agree by what it ages: {', '.join(ages)}"
    raise PartitionError(f"{why}: name one with --by COLUMN.")


def _column(policy: Retention) -> str | None:
    if not isinstance(policy.age, InstrumentedAttribute):
        return None
    name: str = policy.age.property.columns[0].name
    return name
