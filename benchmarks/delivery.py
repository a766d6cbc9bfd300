"""How fast message statuses get into the database and what they cost, against the way that `pern` documents.

    python -m benchmarks.delivery

Prints one line, from one PostgreSQL (with fsync, as in production), one Valkey and one real worker of two
processes on this machine. 50,000 events of 25,000 messages and people, delivered and read, with
repetitions, up to a minute late and so out of order; every foreign key and index is there. From the first
event sent to the last row committed; CPU time is that of senders and workers, without PostgreSQL and
Valkey. Medians of three rounds, but for `documented`:

documented  pern.md's job on Bull 4 and Sequelize 6, an event a message: one at a time (the first 5,000 events
            only) and fifty at a time
record      `delivery.record` with lists of 500, sent by a plain Celery client
inbox       `roomkeeper.record_status` with 100 events a transaction, and `delivery.drain` each second
limit       no queue: one loop of merging statements, 1,000 events each
full        `record` where 500,000 statuses of other messages are there already

"wrong" counts rows that are not what all events say together. The documented job keeps no times of events, so
of its rows only the status counts, and which times are there.

What the documented way consists of is installed beside its source at the first run.
"""

import json
import math
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any
from uuid import UUID, uuid4

import psycopg
from celery import Celery
from redis import Redis

from benchmarks import _harness as harness
from benchmarks._harness import Aim, Result, sized
from stack.ports import free_port
from stack.servers.postgres import Postgres
from stack.servers.valkey import Valkey
from tasks.apps import APPS
from tests.nodejs import NODE, npm_ci
from tests.platform import Platform, Program, eventually
from tests.servers import PostgresServer, ValkeyServer
from workers import migrate
from workers.bootstrap import bootstrap
from workers.db import create
from workers.settings import load

CONVERSATIONS, MESSAGES, PEOPLE = sized((50, 5_000, 10), (5, 20, 10))
#: Of a message's ten people five are there; seven of ten of them read it; the rest are repetitions.
ONLINE, READ, EVENTS = 5, 0.7, sized(50_000, 200)
#: How many messages the table holds for `full`, each with a status for each of its people.
OTHERS = sized(50_000, 50)
SAMPLE = sized(5_000, 40)
LIST, CALL, STATEMENT = 500, 100, 1_000
ROUNDS = sized(3, 1)
START = datetime(2026, 3, 1, 12, tzinfo=UTC)
PEER = Path(__file__).with_name("delivery_peer")
#: Of Valkey's numbered databases; Celery has 0.
PEER_DATABASE = 1
_TICK = os.sysconf("SC_CLK_TCK")

#: For each message and person: status, delivered, read.
Rows = dict[tuple[UUID, UUID], tuple[str, datetime | None, datetime | None]]


@dataclass(frozen=True)
class Event:
    """One status. It knows its JSON as an API service would: as text."""

    message: UUID
    user: UUID
    status: str
    at: datetime

    @property
    def json(self) -> dict[str, str]:
        return {
            "message_id": str(self.message),
            "user_id": str(self.user),
            "status": self.status,
            "at": self.at.isoformat(),
        }


@dataclass(frozen=True)
class Cost:
    """What a run took: events a second, CPU seconds for 1,000 events, wrong rows."""

    rate: float
    cpu: float
    wrong: int

    def __str__(self) -> str:
        return f"{self.rate:,.0f}/s at {self.cpu:.3f} s CPU"


@dataclass
class Clock:
    """Wall time and CPU time since `start`, of some processes with all their descendants, and of our own."""

    pids: list[int]
    began: float = 0.0
    spent: float = 0.0
    own: float = 0.0

    def start(self) -> None:
        self.spent, self.own = self._others(), time.process_time()
        self.began = time.perf_counter()

    def sent(self) -> None:
        """From now on our own process only looks whether all is done."""
        self.own = time.process_time() - self.own

    def stop(self, events: int, ended: float | None = None) -> tuple[float, float]:
        """Return events a second, until now or `ended`, and CPU seconds for 1,000 events."""
        took = (ended or time.perf_counter()) - self.began
        return events / took, (self._others() - self.spent + self.own) / events * 1000

    def _others(self) -> float:
        ticks, processes = 0, list(self.pids)
        while processes:
            pid = processes.pop()
            for thread in Path(f"/proc/{pid}/task").iterdir():
                processes += map(int, (thread / "children").read_text().split())
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            # Its own and that of children that have ended.
            ticks += sum(map(int, fields[11:15]))
        return ticks / _TICK


@dataclass
class Bench:
    """The servers, the worker and the events."""

    platform: Platform
    worker: Program
    database: psycopg.Connection[Any]
    broker: Redis
    #: The broker's.
    port: int
    events: list[Event]

    # -- the table ------------------------------------------------------------------------------------------

    def empty(self) -> None:
        """Take out every status."""
        self.database.execute("TRUNCATE pern.message_statuses, roomkeeper.status_inbox")
        self._settle()

    def without_ours(self) -> None:
        """Take out the statuses of the events, and leave those of other messages."""
        self.database.execute(
            "DELETE FROM pern.message_statuses WHERE message_id = ANY(%s)", [self._messages]
        )
        self._settle()

    def fill(self) -> None:
        """Add a status for each of the other messages' people."""
        with self.database.transaction():
            # Without foreign keys: all are there, and to look would take longer than all the rest.
            self.database.execute("SET LOCAL session_replication_role = replica")
            self.database.execute(
                """
                INSERT INTO pern.message_statuses
                       (id, message_id, user_id, status, delivered_at, read_at, created_at, updated_at)
                SELECT gen_random_uuid(), message.id, person.user_id, 'read', at, at + '1 min', at, at
                  FROM pern.messages AS message
                  JOIN pern.conversation_participants AS person USING (conversation_id)
                 CROSS JOIN LATERAL (SELECT message.created_at - random() * '30 days'::interval) AS _ (at)
                 WHERE message.id <> ALL(%s)
                """,
                [self._messages],
            )
        self._settle()

    def _settle(self) -> None:
        # What autovacuum would do, and the checkpoint that another run's writing would bring on.
        self.database.execute("VACUUM ANALYZE pern.message_statuses")
        self.database.execute("CHECKPOINT")

    @property
    def _messages(self) -> list[UUID]:
        return list({event.message for event in self.events})

    def wrong(self, *, times: bool = True) -> int:
        """Return how many rows are not what the events say; without `times` any time is right."""
        found: Rows = {
            (message, user): (status, delivered, read)
            for message, user, status, delivered, read in self.database.execute(
                "SELECT message_id, user_id, status::text, delivered_at, read_at FROM pern.message_statuses"
                " WHERE message_id = ANY(%s)",
                [self._messages],
            )
        }
        right = expected(self.events)
        if not times:
            found, right = _without_times(found), _without_times(right)
        return sum(found.get(pair) != right.get(pair) for pair in found.keys() | right.keys())

    # -- the ways -------------------------------------------------------------------------------------------

    def documented(self, at_once: int, events: list[Event]) -> Cost:
        """Bull and Sequelize."""
        self.empty()
        file = self.platform.folder / "events.json"
        file.write_text(json.dumps([event.json for event in events]))
        redis = json.dumps({"host": "127.0.0.1", "port": self.port, "db": PEER_DATABASE})
        with (
            Redis(port=self.port, db=PEER_DATABASE) as queue,
            node("worker.js", self.platform.environment["DATABASE_URL"], redis, str(at_once)) as worker,
            node("producer.js", redis, str(file)) as producer,
        ):
            clock = Clock([worker.pid, producer.pid])
            assert producer.stdin is not None
            clock.start()
            producer.stdin.write(b"go\n")
            producer.stdin.flush()
            clock.sent()

            def done() -> bool:
                assert not queue.zcard("bull:message processing:failed"), "a documented job has failed"
                return bool(queue.zcard("bull:message processing:completed") == len(events))

            eventually(done, patience_seconds=600, what="all jobs are completed")
            rate, cpu = clock.stop(len(events))
            queue.flushdb()
        return Cost(rate, cpu, self.wrong(times=False))

    def record(self) -> Cost:
        """`delivery.record` through Celery."""
        clock = Clock([self.worker.process.pid])
        with Celery("client", broker=self.platform.environment["ROOMKEEPER_BROKER_URL"]) as client:
            # A client that has been there for a while: it is connected.
            client.send_task("delivery.drain", queue="delivery-periodic")
            self._handled()
            clock.start()
            for some in _lists(self.events, LIST):
                request = {"app": "pern", "events": [event.json for event in some]}
                client.send_task("delivery.record", args=[request], queue="delivery")
            clock.sent()
            rate, cpu = clock.stop(len(self.events), self._handled())
        return Cost(rate, cpu, self.wrong())

    def _handled(self) -> float:
        """Wait until the worker has no message and none waits; return since when."""
        since = math.inf

        def settled() -> bool:
            nonlocal since
            assert self.worker.process.poll() is None, self.worker.output()
            now = time.perf_counter()
            idle = self.broker.llen("delivery") == self.broker.hlen("unacked") == 0
            since = min(since, now) if idle else math.inf
            # On its way from the queue to the worker a message is in neither for a moment.
            return now - since > 0.2

        eventually(settled, what="the worker has handled all")
        return since

    def inbox(self) -> Cost:
        """`roomkeeper.record_status`, drained as beat has it."""
        clock, done = Clock([self.worker.process.pid]), threading.Event()
        with Celery("beat", broker=self.platform.environment["ROOMKEEPER_BROKER_URL"]) as client:

            def beat() -> None:
                while not done.wait(1):
                    client.send_task("delivery.drain", queue="delivery-periodic", expires=1)

            ticks = threading.Thread(target=beat)
            clock.start()
            ticks.start()
            try:
                for some in _lists(self.events, CALL):
                    # A transaction each.
                    self.database.execute(
                        "SELECT roomkeeper.record_status('pern', %s)",
                        [json.dumps([event.json for event in some])],
                    )
                clock.sent()
                # An event leaves it in the transaction that merges it.
                eventually(lambda: not self._waiting(), what="the inbox is empty")
                rate, cpu = clock.stop(len(self.events))
            finally:
                done.set()
                ticks.join()
        self._handled()
        return Cost(rate, cpu, self.wrong())

    def _waiting(self) -> bool:
        found = self.database.execute("SELECT FROM roomkeeper.status_inbox LIMIT 1").fetchone()
        return found is not None

    def limit(self) -> Cost:
        """The same rows without a queue."""
        clock = Clock([])
        clock.start()
        for some in _lists(self.events, STATEMENT):
            columns = (
                [event.message for event in some],
                [event.user for event in some],
                [event.status for event in some],
                [event.at for event in some],
            )
            self.database.execute(_LIMIT, columns)
        clock.sent()
        rate, cpu = clock.stop(len(self.events))
        return Cost(rate, cpu, self.wrong())


_LIMIT = """
    INSERT INTO pern.message_statuses AS held
           (id, message_id, user_id, status, delivered_at, read_at, created_at, updated_at)
    SELECT gen_random_uuid(), message_id, user_id, max(status), min(at),
           min(at) FILTER (WHERE status = 'read'), now(), now()
      FROM unnest(%s::uuid[], %s::uuid[], %s::pern.enum_message_statuses_status[], %s::timestamptz[])
           AS given (message_id, user_id, status, at)
     GROUP BY message_id, user_id
     ORDER BY message_id, user_id
        ON CONFLICT (message_id, user_id) DO UPDATE
       SET status = greatest(held.status, excluded.status),
           delivered_at = least(held.delivered_at, excluded.delivered_at),
           read_at = least(held.read_at, excluded.read_at),
           updated_at = excluded.updated_at
"""


def expected(events: list[Event]) -> Rows:
    """Return what the events say together: read is more than delivered, the earliest times count."""
    rows: Rows = {}
    for event in events:
        status, delivered, read = rows.get((event.message, event.user), (event.status, event.at, None))
        if event.status == "read":
            status, read = "read", min(read or event.at, event.at)
        rows[event.message, event.user] = (status, min(delivered or event.at, event.at), read)
    return rows


def _without_times(rows: Rows) -> Rows:
    return {
        pair: (status, delivered and START, read and START)
        for pair, (status, delivered, read) in rows.items()
    }


def _lists(events: list[Event], size: int) -> Iterator[list[Event]]:
    return (events[start : start + size] for start in range(0, len(events), size))


def _install_peer() -> None:
    wanted, installed = PEER / "package-lock.json", PEER / "node_modules" / ".package-lock.json"
    if installed.exists() and installed.stat().st_mtime >= wanted.stat().st_mtime:
        return
    npm_ci(PEER, os.environ, "--omit=optional")


@contextmanager
def node(script: str, *arguments: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Run one of the documented way's programs, from when it says that it is ready."""
    process = subprocess.Popen(
        [str(NODE), str(PEER / script), *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n", f"{script} did not start"
        yield process
    finally:
        process.kill()
        process.communicate()


def _make_events(database: "psycopg.Connection[Any]") -> list[Event]:
    """Make people, conversations and messages; return the events of the first messages."""
    chance = random.Random(1)  # noqa: S311 - the same mix each time
    people = [[uuid4() for _ in range(PEOPLE)] for _ in range(CONVERSATIONS)]
    rooms = [uuid4() for _ in range(CONVERSATIONS)]
    messages = [(uuid4(), number % CONVERSATIONS) for number in range(MESSAGES + OTHERS)]
    stamps = (START, START)
    tables: dict[str, list[tuple[object, ...]]] = {
        "users (id, username, email, password_hash, display_name, created_at, updated_at)": [
            (user, user.hex, f"{user}@x.org", "x", "Ada", *stamps) for room in people for user in room
        ],
        "conversations (id, created_by, created_at, updated_at)": [
            (room, people[number][0], *stamps) for number, room in enumerate(rooms)
        ],
        "conversation_participants (id, conversation_id, user_id, joined_at, created_at, updated_at)": [
            (uuid4(), room, user, START, *stamps)
            for room, users in zip(rooms, people, strict=True)
            for user in users
        ],
        "messages (id, conversation_id, sender_id, content_encrypted, created_at, updated_at)": [
            (message, rooms[room], people[room][0], "…", *stamps) for message, room in messages
        ],
    }
    with database.cursor() as cursor:
        for table, rows in tables.items():
            with cursor.copy(f"COPY pern.{table} FROM STDIN") as copy:
                for row in rows:
                    copy.write_row(row)
        cursor.execute("ANALYZE")
    arrivals: list[tuple[datetime, Event]] = []
    for number, (message, room) in enumerate(messages[:MESSAGES]):
        for user in chance.sample(people[room], ONLINE):
            at = START + timedelta(seconds=number + chance.uniform(0, 5))
            reports = [Event(message, user, "delivered", at)]
            if chance.random() < READ:
                reports.append(Event(message, user, "read", at + timedelta(seconds=chance.uniform(1, 600))))
            arrivals += [(event.at + timedelta(seconds=chance.uniform(0, 60)), event) for event in reports]
    # Some are reported twice.
    arrivals += chance.sample(arrivals, EVENTS - len(arrivals))
    return [event for _, event in sorted(arrivals, key=lambda arrival: arrival[0])]


@contextmanager
def _bench() -> Iterator[Bench]:
    folder = Path(tempfile.mkdtemp(prefix="roomkeeper-benchmark-"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        postgres = PostgresServer(Postgres(folder / "postgres", free_port(), durable=not harness.TINY))
        valkey = ValkeyServer(Valkey(folder / "valkey", free_port()))
        for server in (postgres, valkey):
            stack.callback(server.stop)
            server.start()
        (folder / "storage").mkdir()
        values = {
            "DATABASE_URL": postgres.url(),
            "ROOMKEEPER_BROKER_URL": valkey.url(),
            "ROOMKEEPER_STORAGE_ROOT": str(folder / "storage"),
            "ROOMKEEPER_QUARANTINE_ROOT": str(folder / "quarantine"),
        }
        engine = create(load(values), connections=4)
        bootstrap(engine, [app.models for app in APPS.values()])
        migrate.upgrade(engine)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("ROOMKEEPER_")}
        platform = Platform(engine, inherited | values, folder)
        stack.callback(platform.close)
        database = stack.enter_context(psycopg.connect(postgres.url(), autocommit=True))
        broker = stack.enter_context(Redis.from_url(valkey.url()))
        events = _make_events(database)
        yield Bench(platform, platform.worker("delivery"), database, broker, valkey.server.port, events)


def _say(what: object) -> None:
    sys.stderr.write(f"delivery: {what}\n")


def measure() -> Result:
    """Report the same events in all ways; only the documented one may leave rows wrong."""
    _say("installing the documented way and starting the servers; some minutes in all")
    _install_peer()
    with _bench() as bench:
        rows = len(expected(bench.events))
        # Warm: imports, connections, statements.
        bench.empty()
        bench.record()
        record, inbox, limit = _rounds(bench.record, bench.inbox, bench.limit, before=bench.empty)
        one = _printed(bench.documented(1, bench.events[:SAMPLE]))
        fifty = _printed(bench.documented(50, bench.events))
        bench.empty()
        bench.fill()
        (full,) = _rounds(bench.record, before=bench.without_ours)
    for cost in (record, inbox, limit, full):
        assert not cost.wrong, f"{cost.wrong} rows are wrong"
    return Result(
        f"delivery: PostgreSQL with fsync, {EVENTS:,} events, CPU for 1,000;"
        f" documented one at a time {one} (from {SAMPLE:,} events);"
        f" documented fifty at a time {fifty}, {fifty.wrong:,} of {rows:,} rows wrong;"
        f" record {record}, {record.wrong} wrong,"
        f" {record.rate / one.rate:.0f} and {record.rate / fifty.rate:.0f} times documented,"
        f" {record.rate / limit.rate:.0%} of the limit;"
        f" inbox {inbox}, {inbox.wrong} wrong, {inbox.rate / fifty.rate:.0f} times documented at fifty;"
        f" limit {limit}, {limit.wrong} wrong;"
        f" full {full}, {full.wrong} wrong, {record.rate / full.rate:.2f} times as long an event as record",
        (
            Aim("record, times documented at fifty", record.rate / fifty.rate, 10),
            Aim("inbox, times documented at fifty", inbox.rate / fifty.rate, 5),
            Aim("record, share of the limit", record.rate / limit.rate, 0.25),
            Aim("full, times as long an event as record", record.rate / full.rate, 2, at_most=True),
        ),
    )


def _rounds(*ways: Callable[[], Cost], before: Callable[[], None]) -> list[Cost]:
    """Return for each way the medians of some rounds, and how many rows were wrong in all of them."""
    rounds = []
    for _ in range(ROUNDS):
        costs = []
        for way in ways:
            before()
            costs.append(_printed(way()))
        rounds.append(costs)
    return [
        Cost(
            median(cost.rate for cost in costs),
            median(cost.cpu for cost in costs),
            sum(cost.wrong for cost in costs),
        )
        for costs in zip(*rounds, strict=True)
    ]


def _printed(cost: Cost) -> Cost:
    _say(cost)
    return cost


if __name__ == "__main__":
    harness.run(measure)
