"""How fast daily statistics are made, against one plain SQL statement that makes the same ones.

    python -m benchmarks.rollup

Prints one line, from one PostgreSQL (with fsync, as in production) on this machine: 5 million stays in 2,000
rooms of `audiorooms` in 30 days. One in twenty is a reconnect that overlaps the stay before, one in a
thousand lasts for days.

plain      one INSERT … SELECT with window functions, for all days at once, that makes the same statistics;
           the rollup's own settings for memory and compilation backfill   the rollup
           `audiorooms.room_analytics`, day by day; on one connection, and on two day        one day of it,
           median of five tick       a run after a stay began in 1 % of the rooms, median of five: the whole
           run, job history included idle       a run after which nothing has changed: the database's own time
           (`active_time` of its statistics)

"Memory" is by how much the process that backfills has grown at its peak, beside the same of three days.
"""

import multiprocessing
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median

import psycopg

from benchmarks import _harness as harness
from benchmarks._harness import Aim, Result, sized
from stack.ports import free_port
from stack.servers.postgres import Postgres
from tasks.analytics import task as analytics
from tasks.analytics.backfill import Backfill
from tasks.analytics.calendar import Bucket, buckets
from tasks.analytics.engine import RollupRun
from tasks.apps import APPS, ROLLUPS
from tests.platform import environment, eventually
from tests.servers import PostgresServer
from workers import migrate
from workers.bootstrap import bootstrap
from workers.db import create, get_engine
from workers.settings import load

STAYS, ROOMS, DAYS, FEW_DAYS = sized((5_000_000, 2_000, 30, 3), (3_000, 100, 4, 1))
TIMES, IDLE_RUNS = sized((5, 20), (1, 2))
FIRST = datetime(2026, 1, 1, tzinfo=UTC)
LAST = FIRST + timedelta(days=DAYS)
NOW = LAST + timedelta(hours=1)
NAME = "audiorooms.room_analytics"
Database = psycopg.Connection[tuple[object, ...]]

_FILL = (
    # Without looking up each room, and each row of indexes one by one.
    "SET session_replication_role = replica",
    """
    CREATE TEMP TABLE put_back AS
    SELECT indexname AS name, indexdef AS made FROM pg_indexes
     WHERE schemaname = 'audiorooms' AND tablename = 'room_participants' AND indexname !~ 'pkey'
    """,
    """
    DO $$ DECLARE name text; BEGIN
        FOR name IN SELECT put_back.name FROM put_back LOOP
            EXECUTE format('DROP INDEX audiorooms.%I', name);
        END LOOP;
    END $$
    """,
    f"""
    INSERT INTO audiorooms.audio_rooms (id, code, password_hash, active, updated_at)
    SELECT lpad(to_hex(n), 32, '0')::uuid, upper(lpad(to_hex(n), 6, '0')), 'x', false, '{LAST}'
      FROM generate_series(1, {ROOMS}) AS n
    """,  # noqa: S608 - all its values are our own
    f"""
    INSERT INTO audiorooms.room_participants (room_id, client_id, role, joined_at, left_at)
    SELECT lpad(to_hex(1 + (hashint4(stay) & 1048575) % {ROOMS}), 32, '0')::uuid,
           'client-' || (hashint4(stay + 7) & 1048575) %% 200000,
           CASE WHEN n % 50 = 0 THEN 'broadcaster' WHEN n % 10 <> 0 THEN 'listener' END,
           joined,
           least(joined + CASE WHEN n % 1000 = 0 THEN (12 + n % 60) * interval '1 hour'
                               ELSE (60 + (hashint4(n + 13) & 1048575) % 7200) * interval '1 second' END,
                 '{LAST}')
      FROM (SELECT n, n - (n % 20 = 0)::int AS stay,
                   timestamptz '{FIRST}' + (n - 1) * interval '{DAYS} days' / {STAYS} AS joined
              FROM generate_series(1, {STAYS}) AS n) AS stays
    """.replace("%%", "%"),  # noqa: S608
    """
    DO $$ DECLARE made text; BEGIN
        FOR made IN SELECT put_back.made FROM put_back LOOP EXECUTE made; END LOOP;
    END $$
    """,
    "SET session_replication_role = origin",
    "VACUUM ANALYZE",
    "CHECKPOINT",
)

_PLAIN = f"""
    WITH stays AS (
        SELECT room_id, coalesce(user_id::text, ':' || client_id, '#' || id) AS person, day,
               greatest(joined_at, day) AS began, least(left_at, day + interval '1 day') AS ended
          FROM audiorooms.room_participants
         CROSS JOIN LATERAL generate_series(
                date_trunc('day', joined_at), greatest(joined_at, left_at), interval '1 day') AS day
         WHERE role IS DISTINCT FROM 'broadcaster' AND (left_at > day OR joined_at >= day)
           AND day < '{LAST}'
    ), merged AS (
        SELECT room_id, person, day, began, ended,
               max(ended) OVER (PARTITION BY room_id, day, person ORDER BY began, ended
                                ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before
          FROM stays
    ), presence AS (
        SELECT room_id, person, day, greatest(began, before) AS began, ended
          FROM merged WHERE before IS NULL OR ended > before
    ), events AS (
        SELECT room_id, day, began AS at, 1 AS step FROM presence WHERE ended > began
        UNION ALL
        SELECT room_id, day, ended, -1 FROM presence WHERE ended > began
    ), running AS (
        SELECT room_id, day, sum(step) OVER (PARTITION BY room_id, day ORDER BY at, step
                                             ROWS UNBOUNDED PRECEDING) AS listening
          FROM events
    ), peaks AS (
        SELECT room_id, day, max(listening) AS peak FROM running GROUP BY room_id, day
    ), totals AS (
        SELECT room_id, day, sum(ended - began) AS listened, count(DISTINCT person) AS people
          FROM presence GROUP BY room_id, day
    )
    INSERT INTO audiorooms.room_analytics (room_id, date, peak_listeners, total_listen_minutes,
                                           total_listeners)
    SELECT room_id, day::date, coalesce(peak, 0), round(extract(epoch FROM listened) / 60), people
      FROM totals LEFT JOIN peaks USING (room_id, day)
"""  # noqa: S608

_STATISTICS = """
    SELECT room_id, date, peak_listeners, total_listen_minutes, total_listeners
      FROM audiorooms.room_analytics ORDER BY room_id, date
"""


def plain(database: Database) -> None:
    """Make all statistics with one statement."""
    for setting in ("work_mem = '64MB'", "jit = off", "max_parallel_workers_per_gather = 2"):
        database.execute(f"SET {setting}")
    database.execute(_PLAIN)


def days(number: int = DAYS) -> list[Bucket]:
    """Return so many days of the stays."""
    return buckets(FIRST, FIRST + timedelta(days=number), ROLLUPS[NAME].grain, "UTC")


def run() -> RollupRun:
    """Return a run of the rollup, after all stays."""
    return RollupRun(ROLLUPS[NAME], NOW, "UTC", seconds=3600)


def forget(database: Database) -> None:
    """Take all statistics away."""
    database.execute("TRUNCATE audiorooms.room_analytics")
    database.execute("CHECKPOINT")


def backfill(values: dict[str, str], number: int, jobs: int) -> tuple[float, float]:
    """Compute so many days in a process of its own; return seconds and the MiB that it grew by."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_backfill, (values, number, jobs))


def _backfill(values: dict[str, str], number: int, jobs: int) -> tuple[float, float]:
    with environment(values):
        run().begin()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began = time.perf_counter()
        Backfill(ROLLUPS[NAME], NOW, "UTC").compute_all(days(number), jobs)
        seconds = time.perf_counter() - began
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return seconds, grown / 1024


def one_day() -> float:
    """Return how long one day takes."""
    (*_, middle) = days(DAYS // 2)
    return median(_timed(lambda: Backfill(ROLLUPS[NAME], NOW, "UTC").compute(middle)) for _ in range(TIMES))


def ticks(database: Database, values: dict[str, str]) -> tuple[float, float]:
    """Return how long a run takes after 1 % of the rooms have changed, and the database's time at rest."""
    settings = load(values)
    now = LAST + timedelta(hours=1)

    def go() -> None:
        nonlocal now
        now += timedelta(minutes=5)
        assert analytics.run(ROLLUPS[NAME], settings, now=now) is not None

    analytics.run(ROLLUPS[NAME], settings, now=now, by_hand=True)
    go()
    took = []
    for _ in range(TIMES):
        database.execute(
            "INSERT INTO audiorooms.room_participants (room_id, client_id, joined_at, left_at)"
            " SELECT id, 'new', %s, %s FROM audiorooms.audio_rooms ORDER BY id LIMIT %s",
            (now - timedelta(minutes=4), now - timedelta(minutes=1), ROOMS // 100),
        )
        took.append(_timed(go))
    # What changed within the last minutes is looked at once more.
    now += timedelta(hours=1)
    for _ in range(TIMES):
        go()
    before = _active_ms(database)
    for _ in range(IDLE_RUNS):
        now -= timedelta(minutes=4, seconds=50)  # no day is looked at again meanwhile
        go()
    return median(took), (_active_ms(database) - before) / IDLE_RUNS


def _active_ms(database: Database) -> float:
    # A session's time is counted when it ends.
    get_engine().dispose()
    sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'roomkeeper'"
    eventually(lambda: database.execute(sessions).fetchone() == (0,), what="sessions have ended")
    database.execute("SELECT pg_stat_clear_snapshot()")
    row = database.execute("SELECT active_time FROM pg_stat_database WHERE datname = current_database()")
    found = row.fetchone()
    assert found is not None
    return float(str(found[0]))


@contextmanager
def _database() -> Iterator[tuple[Database, dict[str, str]]]:
    folder = Path(tempfile.mkdtemp(prefix="roomkeeper-benchmark-"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        postgres = PostgresServer(Postgres(folder / "postgres", free_port(), durable=not harness.TINY))
        stack.callback(postgres.stop)
        postgres.start()
        values = {"DATABASE_URL": postgres.url(), "ROOMKEEPER_LOCK_TIMEOUT_MS": "60000"}
        engine = create(load(values), connections=4)
        bootstrap(engine, [app.models for app in APPS.values()])
        migrate.upgrade(engine)
        engine.dispose()
        stack.enter_context(environment(values))
        database = stack.enter_context(psycopg.connect(postgres.url(), autocommit=True))
        database.execute("SET TimeZone = 'UTC'")
        yield database, values


def _timed(what: Callable[[], object]) -> float:
    began = time.perf_counter()
    what()
    return time.perf_counter() - began


def _say(what: str) -> None:
    sys.stderr.write(f"rollup: {what}\n")


def measure() -> Result:
    """Have both make the statistics of the same stays."""
    _say(f"{STAYS:,} stays in {ROOMS:,} rooms on {DAYS} days; some minutes in all")
    with _database() as (database, values):
        for statement in _FILL:
            database.execute(statement)
        _say("filled")
        of_plain = _timed(lambda: plain(database))
        wanted = database.execute(_STATISTICS).fetchall()
        _say(f"plain {of_plain:.1f} s")
        # What a run finds first: the stays that last long.
        run().go()
        found: dict[int, tuple[float, float]] = {}
        for jobs in (1, 2):
            forget(database)
            found[jobs] = backfill(values, DAYS, jobs)
            _say(f"on {jobs}: {found[jobs][0]:.1f} s")
            assert database.execute(_STATISTICS).fetchall() == wanted, "the two results differ"
        _, of_few = backfill(values, FEW_DAYS, 1)
        day = one_day()
        _say(f"day {day:.2f} s")
        tick, idle = ticks(database, values)
    seconds, memory = found[1]
    return Result(
        f"rollup: PostgreSQL with fsync, {STAYS:,} stays, {ROOMS:,} rooms, {DAYS} days; plain statement "
        f"{of_plain:.1f} s, backfill {seconds:.1f} s ({of_plain / seconds:.1f} times as fast), on two "
        f"connections {found[2][0]:.1f} s ({of_plain / found[2][0]:.1f} times); one day {day:.2f} s; tick "
        f"with 1 % of rooms {tick * 1000:.0f} ms; idle {idle:.1f} ms of database time; memory "
        f"+{memory:.1f} MiB, +{of_few:.1f} MiB for {FEW_DAYS} days",
        (
            Aim("backfill, times the plain statement", of_plain / seconds, 1.0),
            Aim("backfill on two connections, times the plain statement", of_plain / found[2][0], 1.5),
            Aim("idle run, ms of database time", idle, 20, at_most=True),
            Aim("memory, MiB more than for some days", memory - of_few, 10, at_most=True),
        ),
    )


if __name__ == "__main__":
    harness.run(measure)
