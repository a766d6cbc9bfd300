"""Beat and messages where clocks are wrong, and a schedule that others have written into."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.schedules import schedule
from kombu import Connection, Queue
from redbeat.decoder import RedBeatJSONEncoder
from redis import Redis

from tests.faults.brokers import alive, logged
from tests.platform import Platform, Program, eventually
from workers import beat as beats
from workers import broker_clock
from workers.app import app
from workers.broker_clock import BrokerClock, clock
from workers.transport import Transport

pytestmark = pytest.mark.system

PREFIX = "roomkeeper:beat:"
SCHEDULE = f"{PREFIX}:schedule"
RECOVER = "attachments.recover"
#: What beat sends to in these tests.
QUEUES = ("maintenance", "delivery-periodic")


@pytest.fixture
def client(platform: Platform) -> Iterator[Any]:
    with Redis.from_url(platform.environment["ROOMKEEPER_BROKER_URL"]) as client:
        yield client


def started(platform: Platform, client: Any) -> Program:
    """Start a beat, and wait until it has written its timetable."""
    beat = platform.start("beat")
    logged(beat, "Acquired lock")
    eventually(lambda: client.exists(f"{PREFIX}:statics"), what="the timetable is written")
    return beat


def take(client: Any) -> int:
    """Take what waits, as workers would: beat sends no job that waits. Return how many messages."""
    lengths = [client.llen(queue) for queue in QUEUES]
    client.delete(*QUEUES)
    return sum(lengths)


def sent(beat: Program, client: Any, entry: str) -> int:
    take(client)
    return beat.output().count(f'"entry": "{entry}"')


def meta(moment: datetime) -> str:
    return json.dumps({"last_run_at": moment, "total_run_count": 7}, cls=RedBeatJSONEncoder)


def test_what_a_clock_three_hours_ahead_has_left_is_corrected(platform: Platform, client: Any) -> None:
    platform.set(recover_every_seconds=1)
    started(platform, client).kill()
    # As a beat leaves it whose clock was ahead.
    ahead = datetime.now(UTC) + timedelta(hours=3)
    for key in client.zrange(SCHEDULE, 0, -1):
        client.hset(key, "meta", meta(ahead))
        client.zadd(SCHEDULE, {key: ahead.timestamp() + 1})
    take(client)

    again = platform.start("beat")
    eventually(lambda: sent(again, client, RECOVER) >= 2, 15, "it sends within seconds, and goes on")
    assert again.output().count("beat.run_in_the_future") == client.zcard(SCHEDULE)
    # Nothing of the wrong time is left.
    latest = client.zrange(SCHEDULE, 0, 0, desc=True, withscores=True)[0][1]
    assert latest < ahead.timestamp()


EVERY_SECOND = {"__type__": "interval", "every": 1, "relative": False}


def test_garbage_in_the_schedule_ends_nothing(platform: Platform, client: Any) -> None:
    platform.set(recover_every_seconds=1)
    started(platform, client).kill()
    garbage: list[str | bytes] = [
        "",
        "{",
        "null",
        "[]",
        b"\xff",
        json.dumps({"name": "a"}),
        json.dumps({"name": RECOVER, "task": RECOVER, "schedule": {"__type__": "lunar"}}),
        json.dumps(
            {"name": RECOVER, "task": RECOVER, "schedule": {"__type__": "crontab", "minute": "never"}}
        ),
        json.dumps({"name": RECOVER, "task": RECOVER, "schedule": 5, "options": 7}),
        # Nothing is wrong with these but what they send.
        json.dumps({"name": "other-9", "task": ["x"], "schedule": EVERY_SECOND}),
        json.dumps(
            {"name": "other-10", "task": RECOVER, "schedule": EVERY_SECOND, "options": {"headers": "zz"}}
        ),
        json.dumps(
            {"name": "other-11", "task": RECOVER, "schedule": EVERY_SECOND, "options": {"headers": None}}
        ),
    ]
    for number, definition in enumerate(garbage):
        client.hset(f"{PREFIX}other-{number}", mapping={"definition": definition, "meta": "{}"})
        client.zadd(SCHEDULE, {f"{PREFIX}other-{number}": 1})
    # Keys of another type, of none, and of another program; bytes that are no text.
    client.set(f"{PREFIX}string", "x")
    client.lpush("another", "program's")
    client.zadd(SCHEDULE, {f"{PREFIX}string": 1, "another": 1, b"\xff\xfe": 1, f"{PREFIX}nothing": 1})
    client.sadd(f"{PREFIX}:statics", b"\xff", ":lock", ":schedule", "of-an-earlier-version")
    # The timetable's own.
    client.hset(f"{PREFIX}{RECOVER}", mapping={"definition": garbage[6], "meta": "garbage"})
    client.zadd(SCHEDULE, {f"{PREFIX}{RECOVER}": 1})
    client.delete(f"{PREFIX}outbox.relay")
    client.set(f"{PREFIX}outbox.relay", "x")
    take(client)

    again = platform.start("beat")
    eventually(lambda: sent(again, client, RECOVER) >= 2, 15, "it sends")
    eventually(lambda: sent(again, client, "outbox.relay") >= 2, what="and what was of another type, too")
    members = client.zrange(SCHEDULE, 0, -1)
    assert not [key for key in members if not key.startswith(PREFIX.encode()) or b"other" in key]
    assert client.lrange("another", 0, -1) == [b"program's"]
    assert "beat.entry_unreadable" in again.output()

    # While it runs: an entry, the schedule, the lock, and all of it.
    def spoiled(what: Callable[[], object]) -> None:
        what()
        before = sent(again, client, RECOVER)
        eventually(lambda: sent(again, client, RECOVER) >= before + 2, 20, f"it goes on after {what}")

    spoiled(lambda: client.hset(f"{PREFIX}{RECOVER}", "definition", "garbage"))
    spoiled(lambda: (client.delete(SCHEDULE), client.set(SCHEDULE, "x")))
    spoiled(lambda: client.delete(SCHEDULE))
    spoiled(lambda: client.set(f"{PREFIX}:lock", "stale"))
    spoiled(client.flushall)
    alive(again)


class Times:
    """Clocks to be set: what `time` and `monotonic` return."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall, self.steady = time.time(), time.monotonic()
        monkeypatch.setattr(time, "time", lambda: self.wall)
        monkeypatch.setattr(time, "monotonic", lambda: self.steady)
        monkeypatch.setattr(broker_clock, "steady", lambda: self.steady)

    def passes(self, seconds: float) -> None:
        self.wall += seconds
        self.steady += seconds


@pytest.fixture
def health_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "alive"
    monkeypatch.setattr(beats, "touch_health_file", path.touch)
    return path


@pytest.fixture
def scheduler(platform: Platform, client: Any) -> Iterator[Any]:
    """Beat's scheduler in this process, with an entry each minute."""
    url = platform.environment["ROOMKEEPER_BROKER_URL"]
    with Celery("beat", broker=url, set_as_current=False) as celery:
        celery.conf.update(
            redbeat_redis_url=url,
            redbeat_redis_options=dict(app.conf.redbeat_redis_options),
            redbeat_key_prefix=PREFIX,
            redbeat_lock_timeout=6,
            beat_schedule={
                "minutely": {
                    "task": RECOVER,
                    "schedule": timedelta(seconds=60),
                    "options": {"queue": "maintenance"},
                }
            },
        )
        made = beats.Scheduler(celery, max_interval=1)
        try:
            yield made
        finally:
            made.close()


def at(scheduler: Any, monkeypatch: pytest.MonkeyPatch) -> Times:
    """Let a scheduler live by clocks that are set."""
    times = Times(monkeypatch)

    def now() -> datetime:
        return datetime.fromtimestamp(times.wall, UTC)

    monkeypatch.setattr(scheduler.app, "now", now)
    monkeypatch.setattr(schedule, "now", lambda self: now())
    return times


def test_a_clock_that_is_set_back_silences_nobody(
    scheduler: Any, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = at(scheduler, monkeypatch)
    scheduler.tick()
    times.passes(61)
    scheduler.tick()
    assert take(client) == 1
    times.wall -= 3 * 3600
    for _ in range(70):
        times.passes(1)
        scheduler.tick()
    assert take(client) == 1


def test_health_means_that_messages_are_sent(
    scheduler: Any, client: Any, health_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = at(scheduler, monkeypatch)

    def well() -> bool:
        health_file.unlink(missing_ok=True)
        scheduler.tick()
        return health_file.exists()

    assert well(), "at the start"
    for _ in range(3):
        times.passes(61)
        assert well(), "when it sends"
    # It is connected, and an entry is due: but none is ever sent.
    with monkeypatch.context() as patch:
        patch.setattr(scheduler, "send_task", lambda *_, **__: 1 / 0)
        patch.setattr(scheduler.app.tasks, "get", lambda _: None)
        take(client)
        times.passes(61)
        assert well(), "for some periods that may be"
        times.passes(180)
        assert not well()
    assert well(), "once it sends again"

    # While the broker is away, it says so, and is not to be killed for it.
    client.config_set("maxmemory", "1")
    try:
        for _ in range(5):
            times.passes(61)
            assert well()
    finally:
        client.config_set("maxmemory", "0")
    assert well()
    # While another has the lock, it stands by.
    client.set(f"{PREFIX}:lock", "another's", ex=60)
    for _ in range(5):
        times.passes(61)
        assert well()


def test_what_was_due_while_the_broker_was_full_is_sent_when_it_has_room(
    scheduler: Any, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = at(scheduler, monkeypatch)
    scheduler.tick()
    times.passes(61)
    with monkeypatch.context() as patch:
        # It goes away between the note of the run and the message.
        reserve = scheduler.reserve

        def then_full(entry: Any) -> Any:
            entry = reserve(entry)
            client.config_set("maxmemory", "1")
            return entry

        patch.setattr(scheduler, "reserve", then_full)
        try:
            scheduler.tick()
        finally:
            client.config_set("maxmemory", "0")
    assert client.llen("maintenance") == 0
    times.passes(1)
    scheduler.tick()
    times.passes(1)
    scheduler.tick()
    assert client.llen("maintenance") == 1


def test_a_job_waits_once(
    scheduler: Any, client: Any, health_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A queue that nobody takes from does not grow; each job of overloaded workers has its turn."""
    times = at(scheduler, monkeypatch)
    # Of other senders, of none, and of something else.
    client.rpush(
        "maintenance", b"\xff", "{", "[]", '{"headers": {"task": ["x"]}}', '{"headers": {"task": "x"}}'
    )
    others = client.llen("maintenance")
    scheduler.tick()
    for _ in range(6):
        times.passes(61)
        scheduler.tick()
        assert client.llen("maintenance") == others + 1
    health_file.unlink(missing_ok=True)
    times.passes(200)
    scheduler.tick()
    assert health_file.exists(), "it is the workers that are ill"
    take(client)
    times.passes(61)
    scheduler.tick()
    assert client.llen("maintenance") == 1


def test_a_queue_of_thousands_is_neither_read_nor_filled(
    scheduler: Any, client: Any, health_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beats, "PILE", 3)
    times = at(scheduler, monkeypatch)
    client.rpush("maintenance", "1", "2")
    scheduler.tick()
    times.passes(61)
    scheduler.tick()
    assert client.llen("maintenance") == 3
    # Beat's own among them is taken.
    client.delete("maintenance")
    client.rpush("maintenance", "1", "2", "3")
    health_file.unlink(missing_ok=True)
    times.passes(200)
    scheduler.tick()
    assert client.llen("maintenance") == 3
    assert health_file.exists(), "it is the workers that are ill"
    take(client)
    times.passes(61)
    scheduler.tick()
    assert client.llen("maintenance") == 1


# -- messages ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sender", [-600, 600])
@pytest.mark.parametrize("receiver", [-600, 600])
def test_hosts_whose_clocks_differ_agree_on_when_a_message_expires(
    platform: Platform, sender: float, receiver: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has another clock than the broker, by ten minutes: what is to live a minute lives a minute."""
    url = platform.environment["ROOMKEEPER_BROKER_URL"]
    true = time.time
    app.loader.import_default_modules()
    monkeypatch.setattr(clock, "_since", None)
    with Connection(url, transport=Transport) as connection:
        channel = connection.default_channel
        monkeypatch.setattr(time, "time", lambda: true() + sender)
        local = datetime.fromtimestamp(true() + sender, UTC)
        headers = {
            "task": RECOVER,
            "id": "1",
            "expires": (local + timedelta(seconds=60)).isoformat(),
            "eta": (local + timedelta(seconds=30)).isoformat(),
        }
        with connection.Producer(channel) as producer:
            producer.publish([[], {}, {}], headers=headers, routing_key="maintenance", serializer="json")
        monkeypatch.setattr(time, "time", lambda: true() + receiver)
        local = datetime.fromtimestamp(true() + receiver, UTC)
        message = Queue("maintenance")(channel).get(no_ack=True)
        assert message is not None
        for name, seconds in (("expires", 60), ("eta", 30)):
            moment = datetime.fromisoformat(message.headers[name])
            assert abs((moment - local).total_seconds() - seconds) < 5


#: A host whose clock is ten minutes behind sends a job that is to begin within a minute.
BEHIND = """
import time
from datetime import UTC, datetime, timedelta
true = time.time
time.time = lambda: true() - 600
from workers.app import app
app.now = lambda: datetime.now(UTC) - timedelta(minutes=10)
app.send_task("delivery.audit", queue="maintenance", expires=60)
"""


def test_what_a_host_ten_minutes_behind_sends_is_done(platform: Platform) -> None:
    subprocess.run([sys.executable, "-c", BEHIND], env=platform.environment, check=True, timeout=60)
    worker = platform.worker("maintenance")
    eventually(
        lambda: "delivery.audit[" in worker.output() and "succeeded" in worker.output(), 20, "it has run"
    )
    assert "Discarding revoked task" not in worker.output()


def test_a_foreign_clients_moments_are_its_own() -> None:
    other = BrokerClock()
    other.set(time.time() + 600)
    headers = {"task": RECOVER, "expires": "2026-11-30T00:00:00+00:00", "eta": None}
    assert other.received(headers) == headers
    assert other.sent({"eta": "soon", "expires": "2026-11-30T00:00:00"})["eta"] == "soon"
    assert other.received({"clock": "broker", "eta": "9999-12-31T23:59:59+00:00"})["eta"].startswith("9999")
