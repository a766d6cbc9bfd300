"""Tables that are partitioned by month: months to come are made, and past ones dropped as a whole.

Nothing here makes an application's table a partitioned one: `plan` explains whether it can be, and says what
the application's own migration would run. Where a table is partitioned by the age that retention goes by,
`create_upcoming` and `drop_past` keep its partitions; the sweep takes the rest row by row.
"""

from collections.abc import Callable
from datetime import datetime

from tasks.policies.retention import Retention
from tasks.retention.partitions.catalog import PartitionError, find, partitions
from tasks.retention.partitions.create import create_for_rows, create_upcoming, missing_months
from tasks.retention.partitions.drop import Dropped, DropResult, drop_past, past
from tasks.retention.partitions.plan import Plan, plan
from tasks.retention.partitions.policies import age_of, named, policies_of
from workers.db import transaction
from workers.job_history import RunEntry
from workers.settings import Settings


def keep(
    policy: Retention,
    settings: Settings,
    now: datetime,
    *,
    operator: str | None = None,
    seconds: float | None = None,
    within: RunEntry | None = None,
) -> list[str]:
    """See to the partitions of a policy's table before the policy takes rows one by one.

    Nothing is done where it is not partitioned by the column that the policy goes by.

    Args:
        operator, seconds, within: as `drop_past` has them.

    Returns:
        What could not be done, in sentences.

    Raises:
        tasks.retention.safety_limit.Stopped, StoreError: as `drop_past`.
    """
    try:
        with transaction() as connection:
            found = find(connection, policy.table, age_of(policy.table))
        if not found.partitioned:
            return []
    except PartitionError:
        # Whether the table is there is for others to say.
        return []
    problems = []
    parts: tuple[Callable[[], object], ...] = (
        lambda: create_upcoming(found, now),
        lambda: drop_past(policy.table, settings, now, operator=operator, seconds=seconds, within=within),
    )
    for part in parts:
        try:
            part()
        except PartitionError as error:
            problems.append(str(error))
    return problems


__all__ = [
    "DropResult",
    "Dropped",
    "PartitionError",
    "Plan",
    "age_of",
    "create_for_rows",
    "create_upcoming",
    "drop_past",
    "find",
    "keep",
    "missing_months",
    "named",
    "partitions",
    "past",
    "plan",
    "policies_of",
]
