"""`roomkeeper retention pending`: objects of deleted rows that are still to be deleted."""

from typing import TYPE_CHECKING

from commands.formatting import quantity, timestamp
from commands.policies import ready
from commands.retention.output import console
from workers.db import transaction
from workers.settings import get_settings

if TYPE_CHECKING:
    from tasks.retention.object_deletions import Waiting


def list_pending() -> None:
    """List objects of deleted rows that are still to be deleted, the oldest first, and why they wait."""
    ready(get_settings())
    from tasks.retention import object_deletions

    with transaction() as connection:
        found = object_deletions.every(connection)
    out = console()
    for row, waiting in found:
        receipt = "no receipt" if row.receipt is None else f"receipt {row.receipt}"
        objects = f"{quantity(waiting.objects, 'object')} of {quantity(waiting.files, 'file')}"
        what = f"{row.policy}, {receipt}: {objects} in {row.store}"
        out.print(f"{timestamp(waiting.since)}  {what}; {waits(waiting)}")
    if not found:
        out.print("None.")


def waits(waiting: "Waiting") -> str:
    """Say since when objects wait to be deleted, and why."""
    if waiting.failing_since is None:
        return f"since {timestamp(waiting.since)} UTC, not tried yet"
    tried = quantity(waiting.attempts, "failed attempt")
    return f"{tried} since {timestamp(waiting.failing_since)} UTC: {waiting.error}"
