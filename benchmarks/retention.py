"""How fast rows are archived and deleted, against a plain DELETE and a plain COPY of the same rows.

    python -m benchmarks.retention

Prints one line, from one PostgreSQL (with fsync, as in production) on this machine. Medians of three rounds,
1 million rows of `pern.audit_logs` made anew for each, all of them due, with all indexes:

delete   one DELETE of all
copy     one COPY of all to this process, which throws them away
retain   the policy `pern.audit_info`: archived as Parquet, read back, deleted, receipted, on local disk

"Memory" is by how much the process that retains has grown at its peak, beside the same with a fifth of the
rows.
"""

import logging
import multiprocessing
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

import psycopg
import structlog

from benchmarks import _harness as harness
from benchmarks._harness import Aim, Result, sized
from stack.ports import free_port
from stack.servers.postgres import Postgres
from tasks.apps import APPS
from tests.platform import environment
from tests.servers import PostgresServer
from workers import migrate
from workers.bootstrap import bootstrap
from workers.db import clock, create
from workers.settings import load

ROWS, ROUNDS = sized((1_000_000, 3), (2_000, 1))
FEW = ROWS // 5

_LOGS = """
    INSERT INTO pern.audit_logs (id, action, resource_type, resource_id, old_values, new_values, ip_address,
                                 user_agent, severity, created_at)
    SELECT gen_random_uuid(), 'user.login.' || n %% 20, 'session', gen_random_uuid(),
           jsonb_build_object('a', n, 'b', 'before'), jsonb_build_object('a', n + 1, 'name', 'someone ' || n),
           ('10.' || n %% 250 || '.' || n / 250 %% 250 || '.1')::inet,
           'Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126 Safari/537.36',
           'info', now() - interval '400 days' + n * interval '1 second'
      FROM generate_series(1, %s) AS n
"""


def fill(database: "psycopg.Connection[tuple[object, ...]]", rows: int) -> None:
    """Make the table anew."""
    database.execute("TRUNCATE pern.audit_logs")
    database.execute(_LOGS, (rows,))
    database.execute("VACUUM ANALYZE pern.audit_logs")
    database.execute("CHECKPOINT")


def delete(database: "psycopg.Connection[tuple[object, ...]]") -> None:
    """Delete all in one statement."""
    database.execute("DELETE FROM pern.audit_logs WHERE severity = 'info' AND created_at < now()")


def copy(database: "psycopg.Connection[tuple[object, ...]]") -> None:
    """Copy all to this process."""
    with database.cursor().copy("COPY pern.audit_logs TO STDOUT (FORMAT csv)") as rows:
        for _ in rows:
            pass


def retain(values: dict[str, str], rows: int) -> tuple[float, float]:
    """Archive and delete all, in a process of its own; return seconds, and by how many MiB it grew."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_retain, (values, rows))


def _retain(values: dict[str, str], rows: int) -> tuple[float, float]:
    from tasks.apps import POLICIES
    from tasks.policies.retention import Retention
    from tasks.retention import task as retention

    # A line for each receipt.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    policy = POLICIES["pern.audit_info"]
    assert isinstance(policy, Retention)
    with environment(values):
        clock()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began = time.perf_counter()
        done = retention.run(policy, load(values), by_hand=True)
        seconds = time.perf_counter() - began
        assert done is not None
        assert done.rows == rows, f"{done.rows} of {rows}"
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return seconds, grown / 1024


@contextmanager
def _database() -> Iterator[tuple["psycopg.Connection[tuple[object, ...]]", dict[str, str]]]:
    folder = Path(tempfile.mkdtemp(prefix="roomkeeper-benchmark-"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        postgres = PostgresServer(Postgres(folder / "postgres", free_port(), durable=not harness.TINY))
        stack.callback(postgres.stop)
        postgres.start()
        values = {
            "DATABASE_URL": postgres.url(),
            "ROOMKEEPER_RETENTION_DAYS": "pern.audit_info=30",
            "ROOMKEEPER_RETENTION_FLOOR": str(ROWS),
            "ROOMKEEPER_ARCHIVE_ROOT": str(folder / "archive"),
        }
        engine = create(load(values))
        bootstrap(engine, [app.models for app in APPS.values()])
        migrate.upgrade(engine)
        engine.dispose()
        database = stack.enter_context(psycopg.connect(postgres.url(), autocommit=True))
        # What is archived has been counted.
        database.execute(
            "INSERT INTO roomkeeper.rollups (name, zone, covered_from, watermark)"
            " VALUES ('pern.security_daily', 'UTC', '0001-01-01Z', '9999-12-31Z')"
        )
        yield database, values


def _assert_none(database: "psycopg.Connection[tuple[object, ...]]") -> None:
    left = database.execute("SELECT count(*) FROM pern.audit_logs").fetchone()
    assert left == (0,), f"{left} rows are left"


def _timed(what: Callable[[], object]) -> float:
    began = time.perf_counter()
    what()
    return time.perf_counter() - began


def _say(what: object) -> None:
    sys.stderr.write(f"retention: {what}\n")


def measure() -> Result:
    """Delete, copy and retain the same rows in turn."""
    _say(f"{ROWS:,} rows, {ROUNDS} rounds; some minutes in all")
    rates: dict[str, list[float]] = {"delete": [], "copy": [], "retain": []}
    with _database() as (database, values):
        for _ in range(ROUNDS):
            fill(database, ROWS)
            rates["copy"].append(ROWS / _timed(lambda: copy(database)))
            rates["delete"].append(ROWS / _timed(lambda: delete(database)))
            _assert_none(database)
            fill(database, ROWS)
            seconds, memory = retain(values, ROWS)
            rates["retain"].append(ROWS / seconds)
            _assert_none(database)
            _say(", ".join(f"{name} {found[-1]:,.0f} rows/s" for name, found in rates.items()))
        fill(database, FEW)
        _, of_few = retain(values, FEW)
        root = Path(values["ROOMKEEPER_ARCHIVE_ROOT"])
        archive = sum(path.stat().st_size for path in root.rglob("*.parquet"))
    delete_, copy_, retain_ = (median(found) for found in rates.values())
    each = archive / (ROUNDS * ROWS + FEW)
    return Result(
        f"retention: PostgreSQL with fsync, {ROWS:,} audit logs; DELETE {delete_:,.0f} rows/s, COPY TO "
        f"{copy_:,.0f}, archived, verified and deleted {retain_:,.0f}: {retain_ / delete_:.2f} times the "
        f"DELETE, {retain_ / copy_:.2f} times the COPY; archive {each:.0f} bytes a row; memory "
        f"+{memory:.0f} MiB, +{of_few:.0f} MiB with {FEW:,} rows",
        (
            Aim("rows a second, times one DELETE", retain_ / delete_, 0.25),
            Aim("memory, MiB more than for a fifth of the rows", memory - of_few, 30, at_most=True),
        ),
    )


if __name__ == "__main__":
    harness.run(measure)
