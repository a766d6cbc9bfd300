"""Messages that a dead worker held come back; those of a live one do not, whatever its clock says."""

import json
import time
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from kombu import Connection
from redis import Redis
from redis.exceptions import TimeoutError as RedisTimeoutError

from tests.faults.test_quarantine import message
from tests.platform import Platform, eventually
from workers import unacknowledged
from workers.broker_clock import clock
from workers.outstanding import outstanding
from workers.transport import Transport

pytestmark = pytest.mark.system

TIMEOUT = 1.0
HOUR = 3600.0


@pytest.fixture
def client(platform: Platform) -> Iterator[Any]:
    with Redis.from_url(platform.environment["ROOMKEEPER_BROKER_URL"]) as client:
        yield client


@pytest.fixture
def channel(platform: Platform) -> Iterator[Any]:
    """A worker's channel that waits a second for a silent worker."""
    url = platform.environment["ROOMKEEPER_BROKER_URL"]
    options = {"visibility_timeout": TIMEOUT}
    with Connection(url, transport=Transport, transport_options=options) as connection:
        yield connection.default_channel


def note(client: Any, tag: str, ahead: float) -> None:
    """Note, or renew, a message that another worker holds, by a clock that is so far ahead."""
    client.hset("unacked", tag, json.dumps([message(uuid4()), "", "attachments"]))
    client.zadd("unacked_index", {tag: time.time() + ahead})


def put_back(client: Any, channel: Any) -> int:
    """Look for abandoned messages, as a worker does every two seconds; return how many have come back."""
    channel.qos.restore_visible()
    return int(client.llen("attachments"))


def test_a_host_that_was_suspended_puts_nothing_back(client: Any, channel: Any) -> None:
    note(client, "another's", 0)
    # Its clock has stood still for an hour.
    clock.set(time.time() - HOUR)
    assert put_back(client, channel) == 0
    assert abs(clock.ahead()) < 1


@pytest.mark.parametrize("ahead", [HOUR, -HOUR], ids=["ahead", "behind"])
def test_a_note_by_a_wrong_clock_stays_as_long_as_it_is_renewed(
    client: Any, channel: Any, ahead: float
) -> None:
    """The broker's clock was set, or an earlier version notes by its own host's."""
    until = time.monotonic() + 2 * TIMEOUT
    while time.monotonic() < until:
        note(client, "another's", ahead)
        assert put_back(client, channel) == 0
        time.sleep(TIMEOUT / 4)
    stopped = time.monotonic()
    eventually(lambda: put_back(client, channel) == 1, 10, "it has come back")
    assert time.monotonic() - stopped >= TIMEOUT / 4
    assert not client.exists("unacked", "unacked_index")


def test_a_worker_that_was_suspended_does_not_put_its_own_back(client: Any, channel: Any) -> None:
    client.lpush("attachments", json.dumps(message(uuid4())))
    taken = channel._get("attachments")
    tag = taken["properties"]["delivery_tag"]
    channel.qos.append(channel.message_to_python(taken), tag)
    until = time.monotonic() + TIMEOUT
    while time.monotonic() < until:
        client.zadd("unacked_index", {tag: time.time() - HOUR})
        assert put_back(client, channel) == 0
        time.sleep(TIMEOUT / 4)
    channel.qos.ack(tag)
    assert not client.exists("unacked", "unacked_index")


def test_many_come_back_in_portions(client: Any, channel: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unacknowledged, "RESTORE_SECONDS", 0.02)
    many = 3000
    packed = json.dumps([message(uuid4()), "", "attachments"])
    client.hset("unacked", mapping={str(number): packed for number in range(many)})
    client.zadd("unacked_index", {str(number): number for number in range(many)})
    so_far = 0

    def scanned() -> int:
        nonlocal so_far
        before, so_far = so_far, put_back(client, channel)
        # One scan never takes them all: the worker's loop has to turn meanwhile.
        assert so_far - before <= unacknowledged.SUSPECTS
        return so_far

    eventually(lambda: scanned() == many, 30, "all have come back")


def test_a_message_whose_note_seemed_to_fail_comes_back_once(
    client: Any, channel: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.lpush("attachments", json.dumps(message(uuid4())))
    taken = channel._get("attachments")
    tag = taken["properties"]["delivery_tag"]
    channel.taken_from = "attachments"
    noted = channel.qos._note

    def answer_is_lost(*args: Any) -> None:
        noted(*args)
        raise RedisTimeoutError("Timeout reading from socket")

    monkeypatch.setattr(channel.qos, "_note", answer_is_lost)
    channel.qos.append(channel.message_to_python(taken), tag)
    channel.qos.reject(tag, requeue=True)
    assert client.llen("attachments") == 1
    # Nothing is left that would bring it back again.
    assert not client.exists("unacked", "unacked_index")
    assert not outstanding.done
