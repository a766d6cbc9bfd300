"""Messages that cannot be read, taken on a bad day: none is lost, none ends a program."""

import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from redis import Redis
from sqlalchemy import select

from models.platform import DeadLetter
from tests.commands.cli import on
from tests.faults.brokers import alive, held, logged, own_broker
from tests.platform import Platform, environment, eventually
from tests.servers import PostgresServer, ValkeyServer
from tests.workers.test_metrics import asked
from workers import dead_letters, migrate
from workers.db import get_engine, transaction
from workers.quarantined import packed, unpacked
from workers.queues import QUARANTINE, REFUSED
from workers.state_metrics import State

pytestmark = pytest.mark.system


@pytest.fixture
def broker(platform: Platform, tmp_path: Path) -> Iterator[ValkeyServer]:
    with own_broker(platform, tmp_path) as server:
        yield server


def message(row_id: object, **headers: object) -> dict[str, Any]:
    """Return a message to process an attachment, as it is in a list; `id=None` makes it unreadable."""
    body = base64.b64encode(json.dumps([[{"app": "openchat", "id": str(row_id)}], {}, {}]).encode()).decode()
    return {
        "body": body,
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {"task": "attachments.process", "id": str(uuid4())} | headers,
        "properties": {
            "delivery_tag": str(uuid4()),
            "delivery_info": {"exchange": "", "routing_key": "attachments"},
            "body_encoding": "base64",
        },
    }


def unreadable() -> bytes:
    return json.dumps(message(uuid4(), id=None)).encode()


def quarantined(client: "Redis") -> list[bytes]:
    """Return the messages in the quarantine, without their reasons."""
    packets: list[Any] = client.lrange(QUARANTINE, 0, -1)
    return [unpacked(packet)[0] for packet in packets]


def test_what_was_taken_while_the_database_was_away_becomes_a_dead_letter(platform: Platform) -> None:
    url = platform.environment["ROOMKEEPER_BROKER_URL"]
    platform.set(worker_processes=1)
    worker = platform.worker()
    bad = [unreadable() for _ in range(3)]
    platform.sql("ALTER TABLE roomkeeper.dead_letters RENAME TO away")
    with Redis.from_url(url) as client:
        client.lpush("attachments", *bad)
        eventually(lambda: quarantined(client) == bad[::-1], what="they are in the quarantine")
        found = asked(State(platform.settings))
        assert found["roomkeeper_quarantine_length", ()] == 3
        # The database is still away: nothing is taken out.
        outcome = on(platform, "dead-letters", "collect")
        assert (outcome.code, client.llen(QUARANTINE)) == (1, 3)
        assert outcome.err == "The database does not take them; 3 are left in the broker.\n"
        platform.sql("ALTER TABLE roomkeeper.away RENAME TO dead_letters")
        outcome = on(platform, "dead-letters", "collect")
        assert (outcome.code, outcome.out) == (0, "3 collected.\n")
        assert client.llen(QUARANTINE) == 0
        assert [letter.reason for letter in platform.dead_letters()] == [
            "id: Input should be a valid string"
        ] * 3

        # The job does so by itself.
        client.lpush(QUARANTINE, bad[0])
        platform.worker("maintenance")
        platform.send("dead_letters.collect", queue="maintenance")
        eventually(lambda: len(platform.dead_letters()) == 4, what="the job has collected it")
        eventually(lambda: client.llen(QUARANTINE) == 0)
    alive(worker)


def test_what_has_become_readable_can_be_sent_again(platform: Platform) -> None:
    row_id = platform.openchat_attachment(b"late\n", "a.txt")
    with Redis.from_url(platform.environment["ROOMKEEPER_BROKER_URL"]) as client:
        # Taken by an earlier version, say, that did not know the task.
        client.lpush(QUARANTINE, json.dumps(message(row_id)))
        assert on(platform, "dead-letters", "collect").out == "1 collected.\n"
        (letter,) = platform.dead_letters()
        assert on(platform, "dead-letters", "retry", str(letter.id)).out == "1 sent again.\n"
        assert client.llen("attachments") == 1


def test_a_broker_that_is_full_too_gets_it_later(platform: Platform, broker: ValkeyServer) -> None:
    platform.set(worker_processes=1)
    worker = platform.worker()
    platform.sql("ALTER TABLE roomkeeper.dead_letters RENAME TO away")
    bad = unreadable()
    with Redis.from_url(broker.url()) as client:
        # A list that takes nothing: as a broker that makes no exceptions when it is full.
        client.set(QUARANTINE, "in the way")
        client.lpush("attachments", bad)
        logged(worker, "broker.message_kept_here")
        client.delete(QUARANTINE)
        eventually(lambda: quarantined(client) == [bad], what="it has been handed over")
        alive(worker)

        client.delete(QUARANTINE)
        client.set(QUARANTINE, "in the way")
        client.lpush("attachments", bad)
        logged(worker, "broker.message_kept_here", 1)
    # Its worker ends before the broker takes it: then the database is all there is.
    platform.sql("ALTER TABLE roomkeeper.away RENAME TO dead_letters")
    worker.process.terminate()
    worker.process.wait(timeout=30)
    assert [letter.reason for letter in platform.dead_letters()] == ["id: Input should be a valid string"]


# -- A database that refuses a dead letter ----------------------------------------------------------------


def test_what_the_database_refuses_does_not_hold_up_what_comes_after(platform: Platform) -> None:
    platform.sql("ALTER TABLE roomkeeper.dead_letters ADD CHECK (task <> 'refused.task')")
    with Redis.from_url(platform.environment["ROOMKEEPER_BROKER_URL"]) as client:
        refused = json.dumps(message(uuid4(), task="refused.task")).encode()
        client.lpush(QUARANTINE, packed(refused, "why"), unreadable(), packed(unreadable(), "because"))
        outcome = on(platform, "dead-letters", "collect")
        assert outcome.code == 0
        assert outcome.out.endswith("2 collected.\n")
        assert client.lrange(REFUSED, 0, -1) == [packed(refused, "why")]
        assert [letter.reason for letter in platform.dead_letters()] == [
            "id: Input should be a valid string",
            "because",
        ]
        found = asked(State(platform.settings))
        assert found["roomkeeper_quarantine_length", ()] == 0
        assert found["roomkeeper_quarantine_refused", ()] == 1


def test_a_database_that_knows_few_characters_takes_every_dead_letter(
    postgres: PostgresServer, platform: Platform
) -> None:
    name = f"latin1_{uuid4().hex}"
    with psycopg.connect(postgres.url(), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name} ENCODING LATIN1 LOCALE 'C' TEMPLATE template0")
        try:
            with environment({"DATABASE_URL": postgres.url(name)}):
                migrate.upgrade(get_engine())
                payload = {"args": ["whole 😀", "a\\b", {"ñ": 1}], "kwargs": {}}
                assert dead_letters.keep(task="😀", task_id="1", payload=payload, reason="no 😀")
                with transaction() as connection:
                    (letter,) = connection.execute(select(*DeadLetter.__table__.columns)).all()
        finally:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    assert letter.task == "\\U0001f600"
    assert letter.reason == "no \\U0001f600; stored as ASCII: UntranslatableCharacter"
    # As it was sent, to be sent again.
    assert dead_letters.sent(letter.payload) == payload


@pytest.mark.parametrize("item", [b"\xff\xfe", b"", "ñ😀".encode(), b'{"reason": "x"}'])
@pytest.mark.parametrize("reason", ["why", "\0", "half \ud83d"])
def test_any_bytes_survive_the_quarantine(item: bytes, reason: str) -> None:
    assert unpacked(packed(item, reason)) == (item, reason)
    # Or as an earlier version has left it.
    assert unpacked(item) == (item, None)


GARBAGE = ["", "null", "5", "{}", "[]", '["a", "b", "c"]', "[{}, null, 5]", "[" * 5000, b"\xff\xfe"]


def test_garbage_among_the_notes_holds_nobody_up(platform: Platform, broker: ValkeyServer) -> None:
    row_ids = [platform.openchat_attachment(b"Milk\n", "notes.txt") for _ in range(3)]
    with Redis.from_url(broker.url()) as client:
        for number, note in enumerate(GARBAGE):
            client.hset("unacked", f"garbage-{number}", note)
        # What a dead worker held: long ago; by a clock that was years ahead; with no place in the index.
        for tag, row_id in zip(("old", "future", "alone"), row_ids, strict=True):
            client.hset("unacked", tag, json.dumps([message(row_id), "", "attachments"]))
        client.zadd("unacked_index", {f"garbage-{number}": number - 4 for number in range(len(GARBAGE))})
        client.zadd("unacked_index", {"old": 1, "future": time.time() + 1e8, "of nothing": 1, b"\xff": 2})
        # A message that is none, but is in a proper note.
        client.hset("unacked", "empty", json.dumps([{}, "", "attachments"]))
        worker = platform.worker()
        for row_id in row_ids:
            assert platform.finished(row_id).outcome == "accepted"
        eventually(lambda: held(client) == (0, 0), what="nothing is left over")
        eventually(lambda: len(platform.collected()) == len(GARBAGE) + 1)
    reasons = sorted(letter.reason for letter in platform.dead_letters())
    assert reasons[0].startswith("body: Field required")
    assert all(reason.startswith("unacked: the note ") for reason in reasons[1:])
    assert worker.output().count("Connected to") == 1, "it had to connect again"


def test_keys_of_another_type_are_set_aside(platform: Platform, broker: ValkeyServer) -> None:
    platform.set(worker_processes=1)
    names = ("unacked", "unacked_index", "attachments", QUARANTINE)
    with Redis.from_url(broker.url()) as client:
        client.mset(dict.fromkeys(names, "in the way"))
        worker = platform.worker()
        logged(worker, "broker.key_set_aside", len(names) - 1)
        assert len(client.keys("roomkeeper.set_aside.*")) == len(names)
        # Or while it runs.
        for name in ("unacked", "unacked_index", "attachments"):
            client.delete(name)
            client.set(name, "in the way")
            if name == "attachments":
                eventually(lambda: not client.exists("attachments"), what="it is set aside")
            row_id = platform.openchat_attachment(b"Bread\n", "notes.txt")
            client.lpush("attachments", json.dumps(message(row_id)))
            assert platform.finished(row_id, 30).outcome == "accepted"
    alive(worker)
