"""How an application's jobs are, by the job history."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, func, select

from models.platform import JobRun
from workers import health

#: What the job history keeps.
LEDGER = timedelta(days=7)
_OUTCOMES = ("done", "more", "skipped", "failed", "stopped")


@dataclass(frozen=True, slots=True)
class Job:
    """A job of the application, by the job history.

    Attributes:
        outcomes: how many runs ended how, of those that ended in any way.
        rows: how many rows the runs changed.
        median, longest: seconds; of runs that were not skipped.
    """

    name: str
    health: health.Health
    outcomes: dict[str, int]
    rows: int
    median: float | None
    longest: float | None


def read_jobs(connection: Connection, jobs: dict[str, timedelta], now: datetime) -> Iterator[Job]:
    """Yield each of the jobs that are given with how often it runs."""
    took = func.extract("epoch", JobRun.finished_at - JobRun.started_at)
    ran = JobRun.outcome != "skipped"
    asked = (
        select(
            JobRun.job,
            *(func.count().filter(JobRun.outcome == outcome).label(outcome) for outcome in _OUTCOMES),
            func.sum(JobRun.rows).label("changed"),
            func.percentile_cont(0.5).within_group(took).filter(ran).label("median"),
            func.max(took).filter(ran).label("longest"),
        )
        .where(JobRun.job.in_(list(jobs)), JobRun.started_at >= now - LEDGER)
        .group_by(JobRun.job)
    )
    rows = {row.job: row for row in connection.execute(asked)}
    found = health.ask(connection, jobs).jobs
    for name in jobs:
        row = rows.get(name)
        yield Job(
            name,
            found[name],
            {outcome: getattr(row, outcome) for outcome in _OUTCOMES if row and getattr(row, outcome)},
            int(row.changed) if row else 0,
            None if row is None or row.median is None else float(row.median),
            None if row is None or row.longest is None else float(row.longest),
        )
