"""How fast a sweep is, and how little it costs others, against one DELETE; and what rest costs.

    python -m benchmarks.sweep

Prints one line, from one PostgreSQL (with fsync, as in production) on this machine. Medians of three rounds,
the table made anew for each:

naive   one DELETE of all typing indicators of `echoroom` that have expired: 1 million of 2 million, on all
        pages, with all indexes
sweep   the policy `echoroom.typing` on the same, with time enough to finish

All the while a client updates rows that have not expired, one every 2 ms: "p99" is how long one takes. Then

idle    a run of each policy on tables of some hundred thousand rows of which none is due, job history
        included: the database's own time (`active_time` of its statistics)
"""

import random
import re
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import psycopg

from benchmarks import _harness as harness
from benchmarks._harness import Aim, Result, sized
from stack.ports import free_port
from stack.servers.postgres import Postgres
from tasks.apps import APPS, POLICIES
from tasks.policies.retention import Retention
from tasks.sweeps import task as cleanup
from tests.platform import environment, eventually
from tests.servers import PostgresServer
from workers import migrate
from workers.bootstrap import bootstrap
from workers.db import create, get_engine
from workers.settings import Settings, load

ROWS, ROUNDS = sized((2_000_000, 3), (4_000, 1))
IDLE_RUNS, WARM_RUNS = sized((20, 10), (1, 1))
AT_REST = Path(__file__).with_name("sweep_at_rest.sql")

_ROOM = "00000000-0000-0000-0000-000000000001"
_INDICATORS = f"""
    INSERT INTO echoroom.typing_indicators (session_id, user_id, username, expires_at)
    SELECT '{_ROOM}', lpad(to_hex(n), 32, '0')::uuid, 'user ' || n,
           now() + CASE WHEN hashint4(n) % 2 = 0 THEN -1 ELSE 1 END * interval '1 hour'
      FROM generate_series(1, {ROWS}) AS n
"""  # noqa: S608 - its numbers are our own


@dataclass(frozen=True)
class Cost:
    """One round: rows a second, the longest transaction, and how long an update beside it took."""

    rate: float
    longest_ms: float
    p99_ms: float

    def __str__(self) -> str:
        return f"{self.rate:,.0f} rows/s, longest {self.longest_ms:.0f} ms, p99 {self.p99_ms:.1f} ms"


@dataclass
class Bench:
    """The database, and the settings of what runs on it."""

    url: str
    settings: Settings
    database: "psycopg.Connection[tuple[object, ...]]"
    #: How many rows are due after `fill`.
    due: int = 0

    def _due(self) -> int:
        row = self.database.execute(
            "SELECT count(*) FROM echoroom.typing_indicators WHERE expires_at < now()"
        ).fetchone()
        assert row is not None
        return int(str(row[0]))

    def fill(self) -> None:
        """Make the table anew."""
        self.database.execute("TRUNCATE echoroom.typing_indicators")
        self.database.execute(_INDICATORS)
        self.database.execute("VACUUM ANALYZE echoroom.typing_indicators")
        self.database.execute("CHECKPOINT")
        self.due = self._due()

    def naive(self) -> tuple[int, float]:
        began = time.perf_counter()
        done = self.database.execute("DELETE FROM echoroom.typing_indicators WHERE expires_at < now()")
        return done.rowcount, time.perf_counter() - began

    def sweep(self) -> tuple[int, float]:
        done = cleanup.run(POLICIES["echoroom.typing"], self.settings)
        assert done is not None
        assert not done.more
        return done.rows, done.longest_seconds

    def measure(self, way: Callable[[], tuple[int, float]]) -> Cost:
        """Measure it while another session updates rows."""
        self.fill()
        with self._updates() as waits:
            began = time.perf_counter()
            rows, longest = way()
            seconds = time.perf_counter() - began
        # Both take the same rows, and only those.
        assert rows == self.due, f"{way.__name__}: {rows} of {self.due} rows"
        assert not self._due(), f"{way.__name__} left rows that are due"
        ranked = sorted(waits)
        cost = Cost(rows / seconds, longest * 1000, ranked[int(len(ranked) * 0.99)] * 1000)
        _say(f"{way.__name__}: {cost}")
        return cost

    @contextmanager
    def _updates(self) -> Iterator[list[float]]:
        live = self.database.execute(
            "SELECT id FROM echoroom.typing_indicators WHERE expires_at > now() LIMIT 2000"
        ).fetchall()
        over, waits = threading.Event(), []

        def update() -> None:
            with psycopg.connect(self.url, autocommit=True) as connection:
                while not over.wait(0.002):
                    began = time.perf_counter()
                    connection.execute(
                        "UPDATE echoroom.typing_indicators SET username = 'x' WHERE id = %s",
                        random.choice(live),  # noqa: S311
                    )
                    waits.append(time.perf_counter() - began)

        thread = threading.Thread(target=update)
        thread.start()
        try:
            # Or there would be nothing to rank, where all is over at once.
            eventually(lambda: bool(waits), what="the client updates rows")
            yield waits
        finally:
            over.set()
            thread.join()

    def idle(self) -> dict[str, float]:
        """Return milliseconds of database time for a run of each policy that finds nothing."""
        at_rest = AT_REST.read_text()
        if harness.TINY:
            # All numbers of rows, and what they are divided by.
            at_rest = re.sub(r"\b\d{4,}\b", lambda found: str(int(found.group()) // 50), at_rest)
        self.database.execute(at_rest)
        self.database.execute("VACUUM ANALYZE")
        self.database.execute("SELECT pg_stat_force_next_flush()")
        found = {}
        for name, policy in POLICIES.items():
            if isinstance(policy, Retention):
                continue
            # Plans and caches are warm, as they are in a worker.
            for _ in range(WARM_RUNS):
                assert (done := cleanup.run(policy, self.settings)) is not None
                assert done.rows == 0, f"{name} found something"
            before = self._active_ms()
            for _ in range(IDLE_RUNS):
                cleanup.run(policy, self.settings)
            found[name] = (self._active_ms() - before) / IDLE_RUNS
        return found

    def _active_ms(self) -> float:
        # A session's time is counted when it ends.
        get_engine().dispose()
        sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'roomkeeper'"
        eventually(lambda: self.database.execute(sessions).fetchone() == (0,), what="sessions have ended")
        self.database.execute("SELECT pg_stat_clear_snapshot()")
        row = self.database.execute(
            "SELECT active_time FROM pg_stat_database WHERE datname = current_database()"
        ).fetchone()
        assert row is not None
        assert isinstance(row[0], float)
        return row[0]


@contextmanager
def _bench() -> Iterator[Bench]:
    folder = Path(tempfile.mkdtemp(prefix="roomkeeper-benchmark-"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        postgres = PostgresServer(Postgres(folder / "postgres", free_port(), durable=not harness.TINY))
        stack.callback(postgres.stop)
        postgres.start()
        values = {"DATABASE_URL": postgres.url(), "ROOMKEEPER_SWEEP_SECONDS": "600"}
        stack.enter_context(environment(values))
        settings = load(values)
        engine = create(settings, connections=4)
        bootstrap(engine, [app.models for app in APPS.values()])
        migrate.upgrade(engine)
        engine.dispose()
        database = stack.enter_context(psycopg.connect(postgres.url(), autocommit=True))
        database.execute("INSERT INTO echoroom.chat_sessions (id, category) VALUES (%s, 'Calm')", (_ROOM,))
        database.execute(
            "INSERT INTO echoroom.users (id, username)"
            " SELECT lpad(to_hex(n), 32, '0')::uuid, 'Ada' FROM generate_series(1, %s) AS n",
            (ROWS,),
        )
        yield Bench(postgres.url(), settings, database)


def _say(what: object) -> None:
    sys.stderr.write(f"sweep: {what}\n")


def measure() -> Result:
    """Delete and sweep the same rows in turn; then let each policy find nothing."""
    _say(f"{ROWS:,} rows, {ROUNDS} rounds; some minutes in all")
    with _bench() as bench:
        rounds = [(bench.measure(bench.naive), bench.measure(bench.sweep)) for _ in range(ROUNDS)]
        idle = bench.idle()
    naive, sweep = (
        Cost(
            median(cost.rate for cost in costs),
            median(cost.longest_ms for cost in costs),
            median(cost.p99_ms for cost in costs),
        )
        for costs in zip(*rounds, strict=True)
    )
    for name, spent in sorted(idle.items(), key=lambda item: item[1]):
        _say(f"idle {name}: {spent:.2f} ms")
    dearest = max(idle, key=lambda name: idle[name])
    hourly = sum(spent * 3600 / POLICIES[name].every.total_seconds() for name, spent in idle.items())
    return Result(
        f"sweep: PostgreSQL with fsync, half of {ROWS:,} rows due; naive {naive}; sweep {sweep}, "
        f"{sweep.rate / naive.rate:.2f} times naive; idle, {len(idle)} policies, "
        f"{median(idle.values()):.2f} ms of database time a run, {idle[dearest]:.2f} ms for {dearest}, "
        f"{hourly / 1000:.1f} s in an hour of all",
        (
            Aim("rows a second, times one DELETE", sweep.rate / naive.rate, 0.8),
            Aim("longest transaction, ms", sweep.longest_ms, 500, at_most=True),
            Aim("idle run of the costliest policy, ms of database time", idle[dearest], 20, at_most=True),
        ),
    )


if __name__ == "__main__":
    harness.run(measure)
