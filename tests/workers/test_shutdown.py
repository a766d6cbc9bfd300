"""SIGTERM: a worker finishes what it can in its time, and hands the rest back."""

import signal
from uuid import uuid4

import pytest
from redis import Redis

from tests.platform import Platform, Program, eventually
from tests.servers import ClamdServer

pytestmark = pytest.mark.system


def busy_worker(platform: Platform) -> Program:
    """Return a worker in the middle of a scan, while a second file waits."""
    worker = platform.worker()
    first, second = (platform.openchat_attachment(b"Milk\n", "notes.txt", "text/plain") for _ in range(2))
    platform.enqueue("openchat", first)
    eventually(lambda: (job := platform.job(first)) is not None and job.phase == "scan", what="it is scanned")
    platform.enqueue("openchat", second)
    return worker


def test_what_is_finished_in_time_is_finished(platform: Platform, clamd: ClamdServer) -> None:
    platform.set(worker_processes=1, shutdown_seconds=30)
    clamd.freeze()
    platform.send("attachments.process", {"app": "openchat", "id": str(uuid4())}, countdown=3600)
    worker = busy_worker(platform)
    worker.process.send_signal(signal.SIGTERM)
    eventually(lambda: "Warm shutdown" in worker.output(), what="the worker has begun to shut down")
    clamd.thaw()
    assert worker.process.wait(timeout=20) == 0
    attempts = platform.sql("SELECT state, attempt FROM roomkeeper.attachment_jobs")
    assert attempts == [("finished", 1)]
    with Redis.from_url(platform.environment["ROOMKEEPER_BROKER_URL"]) as client:
        # What it had not begun, and what it held until it was due, is there for others at once.
        assert (client.llen("attachments"), client.zcard("unacked_index")) == (2, 0)


def test_what_takes_longer_goes_back_and_another_does_it(platform: Platform, clamd: ClamdServer) -> None:
    platform.set(worker_processes=1, shutdown_seconds=1, attachment_lease_seconds=1)
    clamd.freeze()
    worker = busy_worker(platform)
    worker.process.send_signal(signal.SIGTERM)
    worker.process.wait(timeout=20)
    with Redis.from_url(platform.environment["ROOMKEEPER_BROKER_URL"]) as client:
        assert (client.llen("attachments"), client.zcard("unacked_index")) == (2, 0)
    clamd.thaw()
    platform.worker()
    eventually(
        lambda: (
            platform.sql("SELECT attempt FROM roomkeeper.attachment_jobs WHERE state = 'finished'")
            in ([(2,), (1,)], [(1,), (2,)])
        )
    )
    assert platform.dead_letters() == []
