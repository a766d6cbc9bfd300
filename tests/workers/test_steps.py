"""The worker's own steps: messages that it holds stay its own, and come back when it dies."""

import time
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID

import pytest
from kombu import Connection, Queue
from redis import Redis

from tests.platform import Platform, eventually
from tests.servers import ClamdServer, ValkeyServer
from workers.app import app
from workers.steps import VisibilityRefresh
from workers.transport import Transport

pytestmark = pytest.mark.system


def begun(platform: Platform, row_id: UUID) -> None:
    """Wait until the attachment's scan has begun."""
    eventually(
        lambda: (job := platform.job(row_id)) is not None and job.phase == "scan", what="it is scanned"
    )


def test_a_task_longer_than_the_visibility_timeout_runs_once(
    platform: Platform, clamd: ClamdServer, valkey: ValkeyServer, tmp_path: Path
) -> None:
    alive = tmp_path / "alive"
    platform.set(worker_processes=1, health_file=alive)
    workers = [platform.start("worker", "attachments") for _ in range(2)]
    eventually(lambda: all(" ready." in worker.output() for worker in workers))
    # A reconnect ends all timers of a worker: ours must begin anew.
    valkey.kill()
    alive.unlink(missing_ok=True)
    eventually(alive.exists, what="a worker shows that it lives though the broker does not")
    valkey.start()
    eventually(lambda: all(worker.output().count("Connected to") == 2 for worker in workers))

    clamd.freeze()
    row_id = platform.openchat_attachment(b"Milk\n", "notes.txt", "text/plain")
    task_id = platform.enqueue("openchat", row_id)
    began = time.monotonic()
    begun(platform, row_id)
    alive.unlink(missing_ok=True)
    eventually(lambda: time.monotonic() - began > 2.2 * platform.settings.visibility_timeout_seconds)
    assert alive.exists(), "no worker has shown since that it lives"
    clamd.thaw()
    assert platform.finished(row_id).attempt == 1
    with Redis.from_url(valkey.url()) as client:
        eventually(lambda: client.zcard("unacked_index") == client.llen("attachments") == 0)
        assert client.hlen("unacked") == 0
    assert sum(worker.output().count(f"{task_id}] received") for worker in workers) == 1


def test_what_a_killed_worker_held_others_get_in_about_the_timeout(
    platform: Platform, clamd: ClamdServer
) -> None:
    platform.set(worker_processes=1)
    first_worker = platform.worker()
    clamd.freeze()
    busy, waiting = (platform.openchat_attachment(b"Milk\n", "notes.txt", "text/plain") for _ in range(2))
    with Redis.from_url(platform.environment["ROOMKEEPER_BROKER_URL"]) as client:
        platform.send("attachments.process", {"app": "openchat", "id": str(waiting)}, countdown=3)
        eventually(lambda: client.zcard("unacked_index") == 1, what="one is held that is not due")
        platform.enqueue("openchat", busy)
        begun(platform, busy)
        other = platform.worker()
        first_worker.kill()
        killed = time.monotonic()
        clamd.thaw()
        attempts = [platform.finished(row_id).attempt for row_id in (busy, waiting)]
        took = time.monotonic() - killed
        eventually(lambda: client.zcard("unacked_index") == client.llen("attachments") == 0)
    # What was begun is begun again; what was only held is done for the first time.
    assert attempts == [2, 1]
    # It is looked for every two seconds, which is much of so short a timeout.
    assert took < 3 * platform.settings.visibility_timeout_seconds
    assert other.process.poll() is None


def test_only_what_is_held_is_refreshed(platform: Platform) -> None:
    for number in range(2):
        platform.send("attachments.process", number, queue="maintenance")
    app.loader.import_default_modules()
    step = VisibilityRefresh(None)
    tags: list[str] = []
    url = platform.environment["ROOMKEEPER_BROKER_URL"]
    with Connection(url, transport=Transport) as connection, Redis.from_url(url) as client:
        consumer = app.amqp.TaskConsumer(connection.channel(), queues=[Queue("maintenance")])
        consumer.on_message = lambda message: tags.append(str(message.delivery_tag))
        with consumer:
            while len(tags) < 2:
                connection.drain_events(timeout=5)
            acknowledged, held = tags
            client.zadd("unacked_index", dict.fromkeys(tags, 1.0))
            # As when it is acknowledged, or handed to another, while the worker still believes to have it.
            client.zrem("unacked_index", acknowledged)
            step.tick(SimpleNamespace(task_consumer=consumer))
            scores = dict(client.zrange("unacked_index", 0, -1, withscores=True))
    assert list(scores) == [held.encode()]
    assert time.time() - scores[held.encode()] < 60
