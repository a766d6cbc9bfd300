"""A broker that answers, and cannot serve: it is waited for, and no message is lost."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from redis import Redis
from redis._parsers.base import BaseParser
from redis.exceptions import OutOfMemoryError

from tasks.delivery.events import dumped
from tests.delivery.people import Pern, event
from tests.faults.brokers import alive, held, logged, own_broker, publish
from tests.platform import Platform, Program, eventually
from tests.servers import ClamdServer, PostgresServer, ValkeyServer
from workers import broker_scripts
from workers.broker_errors import BROKER_AWAY, described
from workers.transport import Transport

pytestmark = pytest.mark.system

WORLD = Pern()
#: How many messages each task tells the status of: some ten kilobytes.
EVENTS = 100


@pytest.fixture
def broker(platform: Platform, tmp_path: Path) -> Iterator[ValkeyServer]:
    with own_broker(platform, tmp_path) as server:
        yield server


@pytest.fixture
def messages(platform: Platform) -> list[UUID]:
    with platform.engine.begin() as connection:
        (sender,) = WORLD.people(connection, 1)
        return WORLD.messages(connection, sender, EVENTS)


def readers(platform: Platform, count: int) -> list[UUID]:
    with platform.engine.begin() as connection:
        return WORLD.people(connection, count)


def report(server: ValkeyServer, reader: UUID, messages: list[UUID]) -> bool:
    """Publish that a person has read all messages; return whether the broker took it."""
    events = [event(message, reader, "read", 0) for message in messages]
    return publish(server, "delivery.record", {"app": "pern", "events": dumped(events)}, "delivery")


def merged(platform: Platform) -> set[UUID]:
    """Return for whom everything has been merged."""
    found: Any = platform.sql(
        "SELECT user_id FROM pern.message_statuses WHERE status = 'read' GROUP BY user_id"
        f" HAVING count(*) = {EVENTS}"
    )
    return {row.user_id for row in found}


def fill(platform: Platform, server: ValkeyServer, messages: list[UUID]) -> list[UUID]:
    """Publish until the broker has no room; return whose events it took."""
    with Redis.from_url(server.url()) as client:
        client.config_set("maxmemory", client.info("memory")["used_memory"] + 1_500_000)
        people = readers(platform, 100)
        taken = [reader for reader in people if report(server, reader, messages)]
        assert 10 < len(taken) < len(people), "the broker is full"
        # What clients need for themselves counts: without them it might have room again.
        client.config_set("maxmemory", client.info("memory")["used_memory"] - 100_000)
    return taken


def abandon(client: "Redis") -> None:
    """Leave a message as a worker leaves it that was killed."""
    item = client.rpop("delivery")
    assert isinstance(item, bytes)
    client.hset("unacked", "tag", json.dumps([json.loads(item), "", "delivery"]))
    client.zadd("unacked_index", {"tag": 1})


@pytest.mark.parametrize("running", [True, False], ids=["running", "started"])
def test_a_full_broker_empties_itself_and_nothing_is_lost(
    platform: Platform, broker: ValkeyServer, messages: list[UUID], running: bool, tmp_path: Path
) -> None:
    platform.set(worker_processes=2, health_file=tmp_path / "alive")

    def start() -> list[Program]:
        worker, beat = platform.worker("delivery"), platform.start("beat")
        return [worker, beat]

    if running:
        worker, beat = start()
        logged(beat, "Acquired lock")
        for program in (worker, beat):
            program.freeze()
        taken = fill(platform, broker, messages)
        for program in (worker, beat):
            program.thaw()
    else:
        taken = fill(platform, broker, messages)
        with Redis.from_url(broker.url()) as client:
            limit = client.config_get("maxmemory")["maxmemory"]
            client.config_set("maxmemory", 0)
            abandon(client)
            # So that it is full whatever becomes of its messages.
            client.config_set("maxmemory", 1)
        worker, beat = start()
    eventually(lambda: merged(platform) >= set(taken), 30, "everything has been merged")
    with Redis.from_url(broker.url()) as client:
        eventually(lambda: held(client) == (0, 0), what="everything has been acknowledged")
        if not running:
            logged(beat, "command not allowed when used memory")
            assert (tmp_path / "alive").exists()
            client.config_set("maxmemory", limit)
    # Beat, too, goes on by itself: its jobs are sent, and done.
    before = platform.sql("SELECT clock_timestamp()")[0][0]
    platform.sql("INSERT INTO roomkeeper.outbox (task, payload) VALUES ('delivery.record', '{}')")
    eventually(
        lambda: platform.sql(f"SELECT FROM roomkeeper.outbox WHERE published_at > '{before}'"),
        what="what is enqueued in SQL is published",
    )
    alive(worker, beat)


# -- it answers that it cannot serve ----------------------------------------------------------------------


@dataclass(frozen=True)
class Condition:
    """A state in which a broker does not serve. `words` of its reply are in the programs' logs."""

    name: str
    words: str
    begin: Callable[["Redis", Path], object]
    end: Callable[["Redis"], object]


def _disk_fails(client: "Redis", folder: Path) -> None:
    missing = folder / "gone"
    missing.mkdir()
    client.config_set("dir", str(missing))
    client.config_set("save", "3600 1")
    missing.rmdir()
    # Snapshots fail from now on, and one is tried.
    client.bgsave()
    eventually(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err")


def _script_runs(client: "Redis", _: Path) -> None:
    # Another client's, which waits for it.
    connection = client.connection_pool.get_connection()
    connection.send_command("EVAL", "while true do end", 0)  # type: ignore[no-untyped-call]


CONDITIONS = [
    Condition(
        "a replica",
        "read only replica",
        lambda client, _: client.replicaof("127.0.0.1", "1"),
        lambda client: client.replicaof("NO", "ONE"),
    ),
    Condition(
        "a replica that has lost its primary",
        "Link with MASTER is down",
        lambda client, _: (
            client.config_set("replica-serve-stale-data", "no"),
            client.replicaof("127.0.0.1", "1"),
        ),
        lambda client: client.replicaof("NO", "ONE"),
    ),
    Condition(
        "another password",
        "uthenticat",
        lambda client, _: (
            client.config_set("requirepass", "another"),
            client.client_kill_filter(_type="normal", skipme=True),
        ),
        lambda client: client.config_set("requirepass", ""),
    ),
    Condition(
        "fewer rights",
        "no permissions",
        lambda client, _: client.execute_command("ACL", "SETUSER", "default", "-@list", "-@hash"),  # type: ignore[no-untyped-call]
        lambda client: client.execute_command("ACL", "SETUSER", "default", "+@all"),  # type: ignore[no-untyped-call]
    ),
    Condition("a full disk", "MISCONF", _disk_fails, lambda client: client.config_set("save", "")),
    Condition(
        "too few replicas",
        "NOREPLICAS",
        lambda client, _: client.config_set("min-replicas-to-write", 1),
        lambda client: client.config_set("min-replicas-to-write", 0),
    ),
    Condition("a script that does not end", "BUSY", _script_runs, lambda client: client.script_kill()),
    Condition(
        "too many clients",
        "max number of clients",
        lambda client, _: (
            client.config_set("maxclients", 1),
            client.client_kill_filter(_type="normal", skipme=True),
        ),
        lambda client: client.config_set("maxclients", 1000),
    ),
]


def test_what_cannot_serve_is_waited_for(
    platform: Platform, broker: ValkeyServer, messages: list[UUID], tmp_path: Path
) -> None:
    platform.set(worker_processes=1)
    worker, beat = platform.worker("delivery"), platform.start("beat")
    logged(beat, "Acquired lock")
    people = readers(platform, len(CONDITIONS))
    for number, condition in enumerate(CONDITIONS, start=1):
        so_far = {program.log: program.output().count(condition.words) for program in (worker, beat)}
        with Redis.from_url(broker.url()) as client:
            condition.begin(client, tmp_path)
            for program in (worker, beat):
                logged(program, condition.words, so_far[program.log])
            condition.end(client)
        alive(worker, beat)
        assert report(broker, people[number - 1], messages), condition.name
        expected = set(people[:number])
        eventually(lambda: merged(platform) == expected, 30, f"the worker goes on after {condition.name}")  # noqa: B023
        logged(beat, "beat.sent", beat.output().count("beat.sent"))


def test_a_start_while_the_broker_cannot_serve_is_no_failure(
    platform: Platform, broker: ValkeyServer, messages: list[UUID], tmp_path: Path
) -> None:
    platform.set(worker_processes=1, health_file=tmp_path / "alive")
    (reader,) = readers(platform, 1)
    assert report(broker, reader, messages)
    with Redis.from_url(broker.url()) as client:
        client.replicaof("127.0.0.1", "1")
        worker, beat = platform.start("worker", "delivery"), platform.start("beat")
        for program in (worker, beat):
            logged(program, "read only replica")
        eventually((tmp_path / "alive").exists, what="a broker that is away is no reason to kill")
        client.replicaof("NO", "ONE")
        eventually(lambda: merged(platform) == {reader}, 30, "the worker works")
        logged(beat, "beat.sent")
        eventually(lambda: client.exists("roomkeeper:beat::schedule"))
    alive(worker, beat)


def parsed(reply: str) -> Exception:
    """Return what redis-py raises for a server's reply."""
    error: Exception = BaseParser.parse_error(reply)  # type: ignore[no-untyped-call]
    return error


@pytest.mark.parametrize(
    "reply",
    [
        "LOADING Valkey is loading the dataset in memory",
        "CLUSTERDOWN The cluster is down",
        "TRYAGAIN Multiple keys request during rehashing of slot",
        "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
        "DENIED Running in protected mode",
        "NOAUTH Authentication required.",
        "WRONGPASS invalid username-password pair or user is disabled.",
    ],
)
def test_replies_that_mean_away(reply: str) -> None:
    error = parsed(reply)
    assert isinstance(error, BROKER_AWAY)
    assert isinstance(error, Transport.connection_errors)


def test_a_wrong_command_is_our_own_fault() -> None:
    assert not isinstance(parsed("ERR unknown command 'brpoop'"), BROKER_AWAY)
    assert not isinstance(parsed("WRONGTYPE Operation against a key"), BROKER_AWAY)


def test_what_is_logged_of_an_error_holds_no_message() -> None:
    words = 'Command # 1 (LPUSH delivery {"body": "of pipeline"}) of pipeline caused error: no room'
    assert described(OutOfMemoryError(words)) == "OutOfMemoryError: no room"


def test_scripts_run_on_a_server_that_makes_no_exceptions(
    broker: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not know the first line: Redis before 7. As long as it has room they do the same."""
    monkeypatch.setattr(broker_scripts, "_ALLOWED", "#!unknown flags=allow-oom\n")
    with Redis.from_url(broker.url()) as client:
        broker_scripts.NOTE(client, ["index", "notes"], [1, "tag", "note"])
        assert client.hgetall("notes") == {b"tag": b"note"}
        client.config_set("maxmemory", "1")
        with pytest.raises(OutOfMemoryError):
            broker_scripts.NOTE(client, ["index", "notes"], [1, "another", "note"])


# -- what a task that was taken is worth ------------------------------------------------------------------


def test_a_retry_that_a_full_broker_refuses_loses_nothing(
    platform: Platform, broker: ValkeyServer, messages: list[UUID], postgres: PostgresServer
) -> None:
    """The database is away, so the task is to be tried again, which takes a message."""
    platform.set(worker_processes=1)
    worker = platform.worker("delivery")
    (reader,) = readers(platform, 1)
    database = str(platform.engine.url.database)
    worker.freeze()
    assert report(broker, reader, messages)
    with Redis.from_url(broker.url()) as client, psycopg.connect(postgres.url(), autocommit=True) as admin:
        client.config_set("maxmemory", "1")
        admin.execute(f'ALTER DATABASE "{database}" ALLOW_CONNECTIONS false')
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (database,)
        )
        worker.thaw()
        logged(worker, "task.requeued", 1)
        admin.execute(f'ALTER DATABASE "{database}" ALLOW_CONNECTIONS true')
        eventually(lambda: merged(platform) == {reader}, 30, "it has been merged")
        eventually(lambda: held(client) == (0, 0), what="it has been acknowledged")
    alive(worker)


def test_what_the_broker_does_not_note_is_done_and_put_back(
    platform: Platform, broker: ValkeyServer, clamd: ClamdServer
) -> None:
    # Two: it waits for another while it works on one, and so notices that its connection goes.
    platform.set(worker_processes=2)
    worker = platform.worker()
    rows = [platform.openchat_attachment(b"Milk\n", "notes.txt") for _ in range(2)]
    with Redis.from_url(broker.url()) as client:

        def may_note(allowed: bool) -> None:
            client.execute_command("ACL", "SETUSER", "default", "+hset" if allowed else "-hset")

        may_note(False)
        platform.enqueue("openchat", rows[0])
        logged(worker, "broker.message_not_noted")
        assert platform.finished(rows[0]).outcome == "accepted"

        # Its connection goes while the broker has no note: only the worker has it.
        clamd.freeze()
        platform.enqueue("openchat", rows[1])
        logged(worker, "broker.message_not_noted", 1)
        worker_before = worker.output().count("Connected to")
        client.client_kill_filter(_type="normal", skipme=True)
        logged(worker, "broker.message_put_back")
        may_note(True)
        logged(worker, "Connected to", worker_before)
        clamd.thaw()
        assert platform.finished(rows[1]).outcome == "accepted"
        eventually(lambda: held(client) == (0, 0), what="all has been acknowledged")
    assert not platform.dead_letters()
    alive(worker)


def test_an_acknowledgement_that_is_refused_is_made_up_for(
    platform: Platform, broker: ValkeyServer, clamd: ClamdServer
) -> None:
    """A worker that holds as many as it may asks for no more: it would not see that the broker is back."""
    platform.set(worker_processes=1)
    worker = platform.worker()
    rows = [platform.openchat_attachment(b"Milk\n", "notes.txt") for _ in range(2)]
    with Redis.from_url(broker.url()) as client:
        clamd.freeze()
        platform.enqueue("openchat", rows[0])
        eventually(lambda: held(client) == (1, 1), what="it has been taken")
        client.config_set("min-replicas-to-write", 1)
        clamd.thaw()
        logged(worker, "broker.message_not_acknowledged")
        client.config_set("min-replicas-to-write", 0)
        platform.enqueue("openchat", rows[1])
        for row_id in rows:
            assert platform.finished(row_id).outcome == "accepted"
        eventually(lambda: held(client) == (0, 0), what="both have been acknowledged")
    alive(worker)
