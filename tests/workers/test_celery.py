"""The Celery application: what it refuses at import, what no message can do to it, how it publishes."""

import base64
import json
import subprocess
import sys
from typing import Any
from uuid import uuid4

import pytest
from redis import Redis

from tests.platform import Platform, environment, eventually
from tests.servers import ValkeyServer
from workers.app import app, task
from workers.queues import KINDS, QUARANTINE
from workers.task import PlatformTask

pytestmark = pytest.mark.system

#: What a user wrote: it may stand in the dead letters and nowhere else.
SECRET = "meet-me-at-midnight"


def packed(body: object) -> str:
    """Return a message's body as Celery packs it."""
    return base64.b64encode(body if isinstance(body, bytes) else json.dumps(body).encode()).decode()


def message(
    content: object = ([SECRET], {}, {}),
    headers: dict[str, Any] | None = None,
    properties: dict[str, Any] | None = None,
    envelope: dict[str, Any] | None = None,
) -> bytes:
    """Return a message as it lies in the broker's list, changed as told; `...` stands for 'left out'."""
    good = {
        "body": packed(content),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": _changed(
            {"lang": "py", "task": "attachments.process", "id": str(uuid4()), "timelimit": [None, None]},
            headers,
        ),
        "properties": _changed(
            {
                "delivery_tag": str(uuid4()),
                "delivery_info": {"exchange": "", "routing_key": "attachments"},
                "body_encoding": "base64",
            },
            properties,
        ),
    }
    return json.dumps(_changed(good, envelope)).encode()


def _changed(good: dict[str, Any], changes: dict[str, Any] | None) -> dict[str, Any]:
    return {name: value for name, value in (good | (changes or {})).items() if value is not ...}


#: Each of these once ended or stalled the worker that took it, or vanished without a trace: how its dead
#: letter's reason begins → the message.
UNREADABLE: list[tuple[str, bytes]] = [
    ("the message is not JSON", SECRET.encode()),
    ("the message is not JSON", b""),
    ("the message is not JSON", b"\xff\xfe" + SECRET.encode()),
    ("the message is not JSON", b"[" * 100_000),
    ("payload: Input should be a valid dictionary", b"null"),
    ("payload: Input should be a valid dictionary", json.dumps([SECRET]).encode()),
    ("body: Field required", message(envelope={"body": ...})),
    ("body: Input should be a valid string", message(envelope={"body": None})),
    ("body: Error", message(envelope={"body": "mmmmm"})),
    ("body: DecodeError", message(SECRET.encode())),
    ("body: DecodeError", message(b"\xff\xfe")),
    ("body: DecodeError", message(b"[" * 100_000)),
    ("body: must be a list of args, kwargs, embed", message([[SECRET], {}])),
    ("body: must be a list of args, kwargs, embed", message([[SECRET], {}, {}, {}])),
    ("body: must be a list of args, kwargs, embed", message({"task": SECRET})),
    ("body: must be a list of args, kwargs, embed", message(5)),
    ("body: must be a list of args, kwargs, embed", message(headers={"compression": "gzip"})),
    ("args: Input should be a valid list", message([5, {}, {}])),
    ("args: Input should be a valid list", message([None, {}, {}])),
    ("kwargs: Input should be a valid dictionary", message([[], [SECRET], {}])),
    ("embed: Input should be a valid dictionary", message([[SECRET], {}, [SECRET]])),
    ("embed.errbacks: Input should be a valid list", message([[SECRET], {}, {"errbacks": SECRET}])),
    ("embed.task: Extra inputs are not permitted", message([[SECRET], {}, {"task": 5}])),
    ("timelimit: Input should be a valid list", message(headers={"timelimit": SECRET})),
    ("timelimit: Input should be a valid list", message(headers={"timelimit": 5})),
    ("timelimit.0: Input should be a valid number", message(headers={"timelimit": [SECRET, None]})),
    ("timelimit.1: Input should be greater than 0", message(headers={"timelimit": [None, -1]})),
    ("timelimit: List should have at most 2 items", message(headers={"timelimit": [1, 2, 3]})),
    ("id: Field required", message(headers={"id": ...})),
    ("id: Input should be a valid string", message(headers={"id": None})),
    ("id: Input should be a valid string", message(headers={"id": [SECRET]})),
    ("task: Field required", message(headers={"task": ...})),
    ("task: Input should be a valid string", message(headers={"task": [SECRET]})),
    ("shadow: Input should be a valid string", message(headers={"shadow": [SECRET]})),
    ("eta: must be a moment in ISO 8601", message(headers={"eta": SECRET})),
    ("expires: must be a moment in ISO 8601", message(headers={"expires": SECRET})),
    ("expires: Input should be a valid string", message(headers={"expires": 5})),
    ("retries: Input should be a valid integer", message(headers={"retries": SECRET})),
    (
        "headers: Input should be a valid dictionary",
        message(envelope={"headers": 5}),
    ),
    ("id: Field required; task: Field required", message(envelope={"headers": None})),
    (
        "id: Field required",
        message({"task": "attachments.process", "args": [], "kwargs": {}}, envelope={"headers": {}}),
    ),
    ("properties: Field required", message(envelope={"properties": ...})),
    ("properties: Input should be a valid dictionary", message(envelope={"properties": [SECRET]})),
    ("properties.delivery_tag: Field required", message(properties={"delivery_tag": ...})),
    ("properties.delivery_tag: Input should be a valid string", message(properties={"delivery_tag": [1]})),
    (
        "properties.delivery_info: Input should be a valid dictionary",
        message(properties={"delivery_info": "x"}),
    ),
    ("properties.delivery_info.exchange: Field required", message(properties={"delivery_info": {}})),
    ("properties.body_encoding: Input should be 'base64'", message(properties={"body_encoding": "rot13"})),
    (
        "content-type: Input should be 'application/json'",
        message(envelope={"content-type": "application/x-yaml"}),
    ),
    ("content-type: Input should be 'application/json'", message(envelope={"content-type": [SECRET]})),
    ("content-type: Field required", message(envelope={"content-type": ...})),
]


def test_what_no_worker_could_read_becomes_a_dead_letter_and_the_worker_goes_on(platform: Platform) -> None:
    platform.set(worker_processes=1)
    worker = platform.worker()
    row_id = platform.openchat_attachment(b"Milk\n", "notes.txt", "text/plain")
    with Redis.from_url(platform.environment["ROOMKEEPER_BROKER_URL"]) as client:
        client.lpush("attachments", *(raw for _, raw in UNREADABLE))
        platform.enqueue("openchat", row_id)
        assert platform.finished(row_id).outcome == "accepted"
        assert (client.llen("attachments"), client.llen(QUARANTINE)) == (0, len(UNREADABLE))
        eventually(lambda: client.zcard("unacked_index") == 0)
    letters = sorted(platform.collected(), key=lambda letter: letter.id)
    assert len(letters) == len(UNREADABLE)
    for letter, (reason, raw) in zip(letters, UNREADABLE, strict=True):
        assert letter.reason.startswith(reason), raw
        assert set(letter.payload) <= {"message", "cut"}
    assert SECRET in str(letters)
    assert SECRET not in worker.output()
    assert worker.process.poll() is None
    assert worker.output().count("Connected to") == 1, "it had to connect again"


def test_the_older_protocol_and_compressed_messages_are_read(platform: Platform) -> None:
    platform.set(worker_processes=1)
    worker = platform.worker()
    row_ids = [platform.openchat_attachment(b"Milk\n", "notes.txt", "text/plain") for _ in range(3)]
    old = {"task": "attachments.process", "id": "1", "kwargs": {}}
    arguments = [{"app": "openchat", "id": str(row_ids[0])}]
    with Redis.from_url(platform.environment["ROOMKEEPER_BROKER_URL"]) as client:
        client.lpush("attachments", message(old | {"args": arguments}, envelope={"headers": {}}))
        platform.send("attachments.process", {"app": "openchat", "id": str(row_ids[1])}, compression="gzip")
        # What waits in a list of lower priority is looked at as well.
        platform.send("attachments.process", {"app": "openchat", "id": str(row_ids[2])}, priority=9)
        client.lpush("attachments\x06\x169", message(headers={"id": ...}))
        for row_id in row_ids:
            assert platform.finished(row_id).outcome == "accepted"
        eventually(lambda: [letter.reason for letter in platform.collected()] == ["id: Field required"])
    assert worker.output().count("Connected to") == 1, "it had to connect again"


def test_a_misspelt_option_fails_at_import_with_the_likely_one() -> None:
    with pytest.raises(
        TypeError, match=r"'ignore_results' is not an option of a task; did you mean 'ignore_result'\?"
    ):
        task(name="nothing", ignore_results=True)


def test_an_option_like_no_other_fails_at_import() -> None:
    with pytest.raises(TypeError, match=r"'qqq' is not an option of a task$"):
        task(name="nothing", qqq=1)


def test_every_task_goes_to_a_queue_that_some_worker_takes_from(platform: Platform) -> None:
    app.loader.import_default_modules()
    queues = {queue for kind in KINDS.values() for queue in kind.queues}
    own_tasks = [found for name, found in app.tasks.items() if not name.startswith("celery.")]
    assert {found.name for found in own_tasks} >= {"attachments.process", "attachments.recover"}
    for found in own_tasks:
        assert isinstance(found, PlatformTask)
        assert getattr(found, "queue", None) in queues
        assert found.acks_late
        assert found.reject_on_worker_lost


PUBLISH = """
import sys, time
from kombu.exceptions import OperationalError
from workers.app import app
# The same, five times as fast.
app.conf.broker_transport_options["socket_timeout"] /= 5
app.send_task("attachments.recover", queue="maintenance")
print("ready", flush=True)
sys.stdin.readline()
began = time.monotonic()
try:
    app.send_task("attachments.recover", queue="maintenance")
except OperationalError:
    print(time.monotonic() - began)
"""


def test_publishing_to_a_frozen_broker_fails_in_bounded_time(
    platform: Platform, valkey: ValkeyServer
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PUBLISH],
        env=platform.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as publisher:
        assert publisher.stdout is not None
        assert publisher.stdout.readline() == "ready\n"
        valkey.freeze()
        try:
            seconds, _ = publisher.communicate("\n", timeout=20)
        finally:
            publisher.kill()
    assert float(seconds) * 5 < 30


def test_publishing_goes_on_after_the_broker_was_restarted(platform: Platform, valkey: ValkeyServer) -> None:
    with environment({}), app.connection_for_write() as connection, Redis.from_url(valkey.url()) as client:
        app.send_task("attachments.recover", queue="maintenance", connection=connection)
        valkey.kill()
        valkey.start()
        app.send_task("attachments.recover", queue="maintenance", connection=connection)
        assert client.llen("maintenance") == 2
