"""The platform's own page: what it keeps for a while."""

from datetime import timedelta

from models.platform import JobRun
from tasks.apps.sweeps import AFTER, NOW, Delete, Sweep

OWN = (
    Sweep(
        name="roomkeeper.runs",
        model=JobRun,
        rule="runs in the ledger older than {after} are deleted",
        why="Some policies run every few seconds; what is older is seen in metrics.",
        due=JobRun.started_at < NOW - AFTER,
        then=Delete(),
        every=timedelta(hours=1),
        after=timedelta(days=7),
    ),
)
