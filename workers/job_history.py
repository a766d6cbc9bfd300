"""The job history: a row for each run of a periodic job, and one run of a job at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from sqlalchemy import Connection, bindparam, func, insert, select
from sqlalchemy.exc import SQLAlchemyError

from models.platform import JobRun
from workers.db import refuse_read_only, release_snapshot, transaction

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class RunEntry:
    """The entry of a run in progress, which is written when the run ends.

    Attributes:
        connection: its transaction.
        started_at: by the database's clock.
        rows: how many rows it has changed; for the job to count.
        outcome: 'done', or 'more' where it stopped with work left.
        batches: how many transactions of its own changed rows.
        remaining: rows that it saw and could not change.
        error: why not, if the database said so.
    """

    connection: Connection
    started_at: datetime
    rows: int = 0
    outcome: str = "done"
    batches: int = 0
    remaining: int = 0
    error: str | None = None


@contextmanager
def run(
    job: str,
    *,
    quiet: bool = False,
    slot: datetime | None = None,
    longest: timedelta = timedelta(minutes=10),
) -> Iterator[RunEntry | None]:
    """Open a transaction for one run of `job`; None where another run of it is under way.

    The run's row is written in the same transaction; a failed run leaves one with its error, if the database
    takes it. A server that takes no writes runs nothing: what it does not know may be in the primary.

    Args:
        quiet: a run that was skipped or changed no row leaves none: for jobs that look every second.
        slot: when it was to begin, for a run that beat has sent.
        longest: after so long without an end it is taken for dead, and another may run.

    Raises:
        InternalError: the server takes no writes.
    """
    started = this = None
    try:
        with transaction() as connection:
            refuse_read_only(connection)
            # Of the transaction, not the session: it cannot outlive a crash, and a pooler keeps it.
            asked = {"key": f"roomkeeper:{job}", "longest": f"{longest.total_seconds():.0f}s"}
            started, taken, *_ = connection.execute(_TAKE, asked).one()
            if not taken:
                if not quiet:
                    _write(connection, job, slot, RunEntry(connection, started, outcome="skipped"))
                yield None
                return
            # The run may take long, and this transaction waits for it.
            release_snapshot(connection)
            this = RunEntry(connection, started)
            yield this
            if this.rows or not quiet:
                _write(connection, job, slot, this)
    except BaseException as error:  # Ctrl-C too: what it has changed is changed
        if started is not None:
            _write_failed(job, slot, started, this, error)
        raise


@contextmanager
def run_within(outer: RunEntry, job: str) -> Iterator[RunEntry | None]:
    """Open a run of `job` on the connection of a run in progress; None where another run of it is under way.

    A run that is skipped or changes no row leaves no row in the job history; another is written with that of
    the outer run. No other run of `job` begins until this one ends.
    """
    connection, this = outer.connection, None
    try:
        with connection.begin_nested() as savepoint:
            started, taken = connection.execute(_TAKE_WITHIN, {"key": f"roomkeeper:{job}"}).one()
            this = RunEntry(connection, started) if taken else None
            release_snapshot(connection)
            yield this
            # The lock ends with the savepoint in which it was taken, if that is rolled back.
            savepoint.rollback()
    except BaseException as error:
        if this is not None:
            _write_failed(job, None, this.started_at, this, error)
        raise
    if this is not None and this.rows:
        _write(connection, job, None, this)


def _write_failed(
    job: str, slot: datetime | None, started: datetime, this: RunEntry | None, error: BaseException
) -> None:
    """Write the row of a run that failed; if that fails, too, the run's own error is what is raised."""
    try:
        with transaction() as connection:
            # What it changed in transactions of its own is changed.
            failed = this or RunEntry(connection, started)
            failed.outcome = "failed"
            failed.error = f"{type(error).__name__}: {error}"[:1000]
            _write(connection, job, slot, failed)
    except SQLAlchemyError as also:
        log.warning("job_history.not_written", job=job, error=type(error).__name__, also=type(also).__name__)


# Made once: some jobs run every few seconds and mostly find nothing.
_LOCKED = func.pg_try_advisory_xact_lock(func.hashtextextended(bindparam("key"), 0))
_TAKE_WITHIN = select(func.clock_timestamp(), _LOCKED)
_TAKE = select(
    func.clock_timestamp(),
    _LOCKED,
    # A crash may take the row of a run back; what the run did is in transactions of its own.
    func.set_config("synchronous_commit", "off", True),
    # This transaction waits for those that do the work. Whatever the server allows, it lives as long as they
    # may take, and no longer: a run whose host has gone would keep others from running for hours.
    func.set_config("idle_in_transaction_session_timeout", bindparam("longest"), True),
)
_INSERT = insert(JobRun.__table__).values(finished_at=func.clock_timestamp())  # type: ignore[arg-type]


def _write(connection: Connection, job: str, slot: datetime | None, run: RunEntry) -> None:
    connection.execute(
        _INSERT,
        {
            "job": job,
            "started_at": run.started_at,
            "slot": slot,
            "rows": run.rows,
            "batches": run.batches,
            "remaining": run.remaining,
            "outcome": run.outcome,
            "error": run.error,
        },
    )
