"""Do the periodic jobs run, and do they get on? Judged by the job history alone: no table is counted."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, text

from workers import advice
from workers.inspection import Fault

#: A job that has not ended well for so many of its periods, and for so long, is overdue. One whose last runs,
#: so many, saw rows that were due and changed none is stuck: for one run another transaction may hold a row.
PERIODS = 3
LEAST = timedelta(minutes=1)
#: One that never ran is given so long beyond that: a new one waits for its first turn.
GRACE = timedelta(hours=1)
#: How many of a job's runs are looked through for one that ended well: some tenths of a millisecond's worth.
LOOKED_BACK = 1000
#: How many jobs a sentence names, and how much of an error it repeats.
NAMED = 3
ERROR_CHARS = 200


@dataclass(frozen=True, slots=True)
class LastRun:
    """The last run that did anything or failed; one that was skipped, because of another, is none.

    Attributes:
        outcome: 'done', 'more', 'failed' or 'stopped'.
        rows: how many it changed.
        remaining: how many it saw and could not change.
    """

    started_at: datetime
    finished_at: datetime
    outcome: str
    rows: int
    remaining: int
    error: str | None


@dataclass(frozen=True, slots=True)
class Health:
    """How a job is.

    Attributes:
        last: its last run; None if it never ran.
        ended_well_at: when a run last ended as 'done' or 'more', or was 'stopped': that is what it should do.
        running: whether a run of it is under way.
        overdue: it has not ended well for `PERIODS` of its periods, and no run is under way.
        idle: its last runs saw rows that were due, and changed none of them.
        refused: its last runs met rows that the database refused to change, whatever became of others.
    """

    last: LastRun | None
    ended_well_at: datetime | None
    running: bool
    overdue: bool
    idle: bool = False
    refused: bool = False

    @property
    def stopped(self) -> bool:
        """Whether its last run would have taken what it should not, and waits for an operator's word."""
        return self.last is not None and self.last.outcome == "stopped"

    @property
    def stuck_rows(self) -> int:
        """How many rows its last run saw and could not change, where that is a fault."""
        return self.last.remaining if self.last is not None and (self.idle or self.refused) else 0


@dataclass(frozen=True, slots=True)
class JobHistory:
    """What the job history says.

    Attributes:
        empty: nothing has run yet.
        jobs: the health of each job that was asked for.
    """

    empty: bool
    jobs: dict[str, Health]


# Each part is a few rows of the index on job and started_at, however long the job history is. ANY, and an
# order by a job that is the same: with `=` the planner would rather read the index on started_at alone, from
# its end until it meets the job, and that is nearly all of it for a job that runs seldom. The key of a run's
# lock is in `workers.job_history`.
_ASK = text("""
    WITH held AS MATERIALIZED (
        SELECT (classid::bigint << 32) | objid::bigint AS key
          FROM pg_catalog.pg_locks
         WHERE locktype = 'advisory' AND objsubid = 1 AND granted
           AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
    )
    SELECT asked.job, clock_timestamp() AS now, (SELECT min(started_at) FROM roomkeeper.job_runs) AS oldest,
           first.began_at, well.ended_well_at, last.*, streak.*,
           hashtextextended('roomkeeper:' || asked.job, 0) IN (SELECT key FROM held) AS running
      FROM unnest(CAST(:jobs AS text[])) AS asked (job)
      LEFT JOIN LATERAL (
           SELECT started_at AS began_at
             FROM roomkeeper.job_runs WHERE job = ANY (ARRAY[asked.job])
            ORDER BY job, started_at LIMIT 1
           ) AS first ON true
      LEFT JOIN LATERAL (
           SELECT finished_at AS ended_well_at
             FROM (
                  SELECT * FROM roomkeeper.job_runs WHERE job = ANY (ARRAY[asked.job])
                   ORDER BY job DESC, started_at DESC LIMIT :most
                  ) AS recent
            WHERE outcome IN ('done', 'more', 'stopped') LIMIT 1
           ) AS well ON true
      LEFT JOIN LATERAL (
           SELECT count(*) = :runs AND bool_and(rows = 0 AND remaining > 0) AS idle,
                  count(*) = :runs AND bool_and(remaining > 0 AND error IS NOT NULL) AS refused
             FROM (
                  SELECT * FROM (
                         SELECT * FROM roomkeeper.job_runs WHERE job = ANY (ARRAY[asked.job])
                          ORDER BY job DESC, started_at DESC LIMIT :most
                         ) AS recent
                   WHERE outcome <> 'skipped' LIMIT :runs
                  ) AS latest
           ) AS streak ON true
      LEFT JOIN LATERAL (
           SELECT started_at, finished_at, outcome, rows, remaining, error
             FROM (
                  SELECT * FROM roomkeeper.job_runs WHERE job = ANY (ARRAY[asked.job])
                   ORDER BY job DESC, started_at DESC LIMIT :most
                  ) AS recent
            WHERE outcome <> 'skipped' LIMIT 1
           ) AS last ON true
""")


def ask(connection: Connection, periods: Mapping[str, timedelta]) -> JobHistory:
    """Return how the jobs are that `periods` names, each with how often it runs."""
    asked = connection.execute(_ASK, {"jobs": list(periods), "most": LOOKED_BACK, "runs": PERIODS}).all()
    # Since the first of them ran: what was in the job history before may be of a version that did not have
    # them.
    began = min((row.began_at for row in asked if row.began_at is not None), default=None)
    jobs = {row.job: _judge(row, periods[row.job], began or row.oldest) for row in asked}
    return JobHistory(empty=all(row.oldest is None for row in asked), jobs=jobs)


def _judge(row: Row[Any], every: timedelta, since: datetime | None) -> Health:
    """Judge a job; `since` is when there was a job history with anything of its kind in it."""
    last = None
    if row.started_at is not None:
        last = LastRun(row.started_at, row.finished_at, row.outcome, row.rows, row.remaining, row.error)
    if row.ended_well_at is not None or row.began_at is not None:
        overdue = row.now - (row.ended_well_at or row.began_at) > max(LEAST, PERIODS * every)
    else:
        overdue = since is not None and row.now - since > PERIODS * every + GRACE
    return Health(
        last,
        row.ended_well_at,
        running=row.running,
        overdue=overdue and not row.running,
        idle=bool(row.idle),
        refused=bool(row.refused),
    )


def faults(history: JobHistory, why_silent: Callable[[], str]) -> list[Fault]:
    """Return what is wrong with the jobs, a sentence and an advice each; of those that are overdue, one.

    Args:
        why_silent: returns what to do about jobs that do not run, though none fails.
    """
    found = [_stopped(job, health) for job, health in history.jobs.items() if health.stopped]
    found += [_stuck(job, health) for job, health in history.jobs.items() if health.stuck_rows]
    overdue = {job: health for job, health in history.jobs.items() if health.overdue}
    failing = {job: one for job, one in overdue.items() if one.last and one.last.outcome == "failed"}
    if failing:
        found.append(_failing(failing))
    silent = {job: health for job, health in overdue.items() if job not in failing}
    if silent:
        found.append(_silent(silent, why_silent()))
    return found


def _stuck(job: str, health: Health) -> Fault:
    assert health.last is not None
    rows = "a row is" if health.stuck_rows == 1 else f"{health.stuck_rows:,} rows are"
    did = "did nothing" if health.idle else "left some undone"
    return Fault(
        f"{job} {did} in its last {PERIODS} runs, though {rows} due{_error_text(health.last)}.",
        "Look who holds them (pg_locks, pg_stat_activity), whether row level security lets this role change "
        "them, and whether a trigger or a constraint refuses.",
    )


def _stopped(job: str, health: Health) -> Fault:
    assert health.last is not None
    return Fault(
        # The rest of what it says is in the advice.
        f"{job} has stopped{_error_text(health.last).partition('. ')[0]}.",
        f"Look with: roomkeeper retention preview {job}; if all of it may go: {advice.approve(job)}",
    )


def _failing(jobs: Mapping[str, Health]) -> Fault:
    first = next(iter(jobs))
    last = jobs[first].last
    assert last is not None
    since = jobs[first].ended_well_at
    subject = f"{len(jobs)} jobs fail: {_names(jobs)}; the first" if len(jobs) > 1 else f"{first} fails"
    when = f"since {_moment(since)}" if since else "always"
    return Fault(
        f"{subject}, {when}{_error_text(last)}.",
        f"See the log of the maintenance workers; try: roomkeeper run {first}",
    )


def _silent(jobs: Mapping[str, Health], advice: str) -> Fault:
    if len(jobs) > 1:
        return Fault(f"{len(jobs)} jobs have not run for three of their periods: {_names(jobs)}.", advice)
    ((job, health),) = jobs.items()
    if health.last is None:
        return Fault(f"{job} has never run.", advice)
    return Fault(
        f"{job} has not run since {_moment(health.last.finished_at)}, for more than three of its periods.",
        advice,
    )


def _names(jobs: Mapping[str, Health]) -> str:
    more = len(jobs) - NAMED
    return ", ".join(list(jobs)[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _moment(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"


def _error_text(last: LastRun) -> str:
    """Return the first line of the database's error, if there was one."""
    line = (last.error or "").strip().partition("\n")[0].rstrip(".")
    return f": {line[:ERROR_CHARS]}" if line else ""
