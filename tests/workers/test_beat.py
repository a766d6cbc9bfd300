"""Beat: what is due is sent, by one of several, through outages, and leaves no pile behind."""

import json
import time
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from redbeat.decoder import RedBeatJSONEncoder
from redis import Redis

from tests.platform import Platform, Program, eventually
from tests.servers import ValkeyServer

pytestmark = pytest.mark.system


def sends(valkey: ValkeyServer) -> bool:
    """Take what waits for a maintenance worker, for beat sends no job that waits; return whether any did."""
    with Redis.from_url(valkey.url()) as client:
        return bool(client.delete("maintenance"))


def beats(platform: Platform) -> Program:
    """Start a beat, and wait until it holds the lock."""
    beat = platform.start("beat")
    eventually(lambda: "Acquired lock" in beat.output(), what="beat holds the lock")
    return beat


def test_another_takes_over_within_seconds_and_an_outage_ends_neither(
    platform: Platform, valkey: ValkeyServer
) -> None:
    platform.set(recover_every_seconds=0.5)
    first = beats(platform)
    second = platform.start("beat")
    eventually(lambda: sends(valkey))
    eventually(lambda: sends(valkey), what="it goes on")
    eventually(lambda: "is starting" in second.output(), what="another stands by")
    assert "Acquired lock" not in second.output()

    first.kill()
    killed = time.monotonic()
    eventually(lambda: "Acquired lock" in second.output(), what="the other has taken over")
    sends(valkey)
    eventually(lambda: sends(valkey), what="the other sends")
    assert time.monotonic() - killed < 10

    valkey.kill()
    eventually(lambda: second.output().count("beat.turn_failed") >= 2, what="it finds no broker")
    valkey.start()
    with Redis.from_url(valkey.url()) as client:
        # As after an outage that was longer than the lock lives.
        client.delete("roomkeeper:beat::lock")
    sends(valkey)
    eventually(lambda: sends(valkey), what="it sends again")
    assert second.process.poll() is None
    # It ends in good order, broker or not.
    valkey.kill()
    second.process.terminate()
    assert second.process.wait(timeout=20) == 0


def test_no_pile_of_runs_is_left_behind(platform: Platform, valkey: ValkeyServer) -> None:
    platform.set(audit_every_seconds=0.5)
    beat = beats(platform)
    eventually(lambda: beat.output().count('"entry": "attachments.recover"') >= 1, what="another job is sent")
    eventually(lambda: beat.output().count('"entry": "delivery.audit"') >= 1)
    time_of_other_sends = time.monotonic() + 2
    eventually(lambda: time.monotonic() > time_of_other_sends, what="it is due a few times more")
    with Redis.from_url(valkey.url()) as client:
        tasks = [json.loads(message)["headers"]["task"] for message in client.lrange("maintenance", 0, -1)]
    assert len(tasks) == len(set(tasks)) > 1


def test_a_message_that_has_expired_costs_no_run(platform: Platform, valkey: ValkeyServer) -> None:
    platform.set(audit_every_seconds=100000)
    key = "roomkeeper:beat:delivery.audit"

    def queued() -> list[Any]:
        with Redis.from_url(valkey.url()) as client:
            return [json.loads(message) for message in client.lrange("maintenance", 0, -1)]

    def waits() -> bool:
        return any(message["headers"]["task"] == "delivery.audit" for message in queued())

    first = beats(platform)
    eventually(queued)
    first.kill()
    # As after an outage of the workers that was longer than the period.
    ago = datetime.now(UTC) - timedelta(seconds=100001)
    meta = {"last_run_at": ago, "total_run_count": 1}
    with Redis.from_url(valkey.url()) as client:
        message = queued()[0]
        message["headers"] |= {"task": "delivery.audit", "expires": ago.isoformat()}
        client.delete("maintenance")
        client.lpush("maintenance", json.dumps(message))
        client.hset(key, "meta", json.dumps(meta, cls=RedBeatJSONEncoder))
        client.zadd("roomkeeper:beat::schedule", {key: ago.timestamp() + 100000})
    beats(platform)
    eventually(lambda: len(queued()) > 1, what="other jobs are sent")
    assert sum(one["headers"]["task"] == "delivery.audit" for one in queued()) == 1
    sends(valkey)
    eventually(waits, 10, "the run is made up for")


def test_a_run_has_the_slot_that_it_was_sent_for(platform: Platform, valkey: ValkeyServer) -> None:
    platform.set(sweep_every="echoroom.typing=1", sweep_off="echoroom.ghosts")
    platform.worker("maintenance")
    beats(platform)

    def runs() -> Any:
        return platform.sql(
            "SELECT slot, started_at FROM roomkeeper.job_runs WHERE job = 'echoroom.typing'"
            " ORDER BY started_at"
        )

    eventually(lambda: len(runs()) >= 4, what="some runs have ended")
    found = runs()
    for slot, started in found:
        assert timedelta(0) <= started - slot < timedelta(seconds=1)
    for (before, _), (slot, _) in pairwise(found):
        assert timedelta(seconds=1) <= slot - before < timedelta(seconds=1.5)
    # What beat keeps is the timetable, and no slot of it.
    with Redis.from_url(valkey.url(), decode_responses=True) as client:
        kept = client.hgetall("roomkeeper:beat:echoroom.typing")
    assert set(kept) == {"definition", "meta"}
    assert json.loads(kept["definition"])["options"] == {"expires": 600}
    assert "slot" not in str(kept)


def test_what_is_sent_late_has_the_slot_that_it_missed(platform: Platform, valkey: ValkeyServer) -> None:
    platform.set(sweep_every="echoroom.typing=1000")
    first = beats(platform)
    with Redis.from_url(valkey.url()) as client:
        eventually(lambda: client.exists("roomkeeper:beat::statics"), what="the timetable is written")
    first.kill()
    ago = datetime.now(UTC) - timedelta(seconds=4000)
    key = "roomkeeper:beat:echoroom.typing"
    with Redis.from_url(valkey.url()) as client:
        # As after an outage of more than an hour.
        meta = {"last_run_at": ago, "total_run_count": 7}
        client.hset(key, "meta", json.dumps(meta, cls=RedBeatJSONEncoder))
        client.zadd("roomkeeper:beat::schedule", {key: ago.timestamp() + 1000})
    platform.worker("maintenance")
    beats(platform)
    slots = eventually(
        lambda: platform.sql("SELECT slot FROM roomkeeper.job_runs WHERE job = 'echoroom.typing'")
    )
    assert abs(slots[0][0] - (ago + timedelta(seconds=1000))) < timedelta(seconds=0.01)


def test_what_nobody_has_sent_for_a_slot_has_none(platform: Platform) -> None:
    platform.worker("maintenance")
    platform.send("echoroom.typing", queue="cleanup")
    rows = eventually(lambda: platform.sql("SELECT job, slot FROM roomkeeper.job_runs"))
    assert [tuple(row) for row in rows] == [("echoroom.typing", None)]
