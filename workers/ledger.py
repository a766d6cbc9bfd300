"""The ledger: a row for each run of a periodic job, and one run of a job at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import Connection, func, insert, select

from models.platform import JobRun
from workers.db import transaction


@dataclass(slots=True)
class Run:
    """A run in progress.

    Attributes:
        connection: its transaction.
        rows: how many rows it has changed; for the job to count.
        outcome: 'done', or 'more' where it stopped with work left.
    """

    connection: Connection
    rows: int = 0
    outcome: str = "done"


@contextmanager
def run(job: str, *, quiet: bool = False) -> Iterator[Run | None]:
    """Open a transaction for one run of `job`; None where another run of it is under way.

    The run's row is written in the same transaction; a failed run leaves one with its error.

    Args:
        quiet: a run that was skipped or changed no row leaves none: for jobs that look every second.
    """
    started = this = None
    try:
        with transaction() as connection:
            started = connection.execute(select(func.clock_timestamp())).scalar_one()
            # Of the transaction, not the session: it can not outlive a crash, and a pooler keeps it.
            if not connection.execute(select(func.pg_try_advisory_xact_lock(_key(job)))).scalar_one():
                if not quiet:
                    _write(connection, job, started, 0, "skipped")
                yield None
                return
            this = Run(connection)
            yield this
            if this.rows or not quiet:
                _write(connection, job, started, this.rows, this.outcome)
    except Exception as error:
        if started is not None:
            with transaction() as connection:
                # What it changed in transactions of its own is changed.
                rows = this.rows if this else 0
                _write(connection, job, started, rows, "failed", f"{type(error).__name__}: {error}"[:1000])
        raise


def _key(job: str) -> object:
    return func.hashtextextended(f"roomkeeper:{job}", 0)


def _write(
    connection: Connection, job: str, started: object, rows: int, outcome: str, error: str | None = None
) -> None:
    connection.execute(
        insert(JobRun).values(
            job=job,
            started_at=started,
            finished_at=func.clock_timestamp(),
            rows=rows,
            outcome=outcome,
            error=error,
        )
    )
