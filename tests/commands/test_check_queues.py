"""`roomkeeper check` names messages that no worker reads: queue, number, age, and the kind that would."""

import base64
import json
import time
from collections.abc import Iterator
from uuid import uuid4

import pytest
from redis import Redis
from syrupy.assertion import SnapshotAssertion

from commands import check_queues
from tests.faults.test_quarantine import message
from tests.platform import Platform
from workers import unknown_tasks
from workers.queues import PROGRAMS, QUARANTINE, UNKNOWN


@pytest.fixture
def client(platform: Platform) -> Iterator["Redis"]:
    with Redis.from_url(platform.environment["ROOMKEEPER_BROKER_URL"]) as found:
        yield found


def run(platform: Platform, *kinds: str) -> None:
    """Leave heartbeats of these kinds."""
    platform.sql("DELETE FROM roomkeeper.workers")
    for kind in kinds:
        platform.sql(
            "INSERT INTO roomkeeper.workers (id, kind, host, pid, version, revision, started_at)"
            " VALUES (gen_random_uuid(), :kind, 'a', 1, '1', '0011', now() - interval '1 hour')",
            kind=kind,
        )


def named(platform: Platform) -> str:
    faults = check_queues.faults(platform.settings)
    return "\n".join(f"{'!' if one.warning else '✗'} {one.sentence}\n  {one.advice}" for one in faults)


def sent(seconds: float, **headers: object) -> str:
    """Return a message that was sent so many seconds ago."""
    return json.dumps(message(uuid4(), sent_at=time.time() - seconds, **headers))


def test_a_queue_whose_workers_do_not_run(
    platform: Platform, client: "Redis", snapshot: SnapshotAssertion
) -> None:
    client.lpush("attachments", sent(300), sent(200), sent(0))
    # Those of the version before write no heartbeats.
    assert named(platform) == ""
    run(platform, *PROGRAMS)
    assert named(platform) == ""
    run(platform, "delivery", "maintenance", "beat")
    assert named(platform) == snapshot(name="no worker")
    # Of foreign clients' messages the age is not known.
    client.delete("attachments")
    client.lpush("delivery", json.dumps(message(uuid4())))
    run(platform, "attachments", "maintenance", "beat")
    assert named(platform) == snapshot(name="no age")
    client.delete("delivery")
    client.lpush("attachments", sent(3 * 3600))
    run(platform)
    assert named(platform) == snapshot(name="no heartbeats")


def test_a_queue_that_no_kind_reads(platform: Platform, client: "Redis", snapshot: SnapshotAssertion) -> None:
    run(platform, *PROGRAMS)
    client.lpush("attachment", sent(7200), sent(0))
    older = {"task": "delivery.record", "id": "1", "args": [], "kwargs": {}}
    envelope = message(uuid4()) | {
        "headers": {},
        "body": base64.b64encode(json.dumps(older).encode()).decode(),
    }
    client.lpush("deliveries", json.dumps(envelope))
    # Lists of other programs, of Celery's own, and of ours.
    client.lpush("sessions", "{}", "garbage")
    client.lpush("answers", json.dumps({"body": "", "properties": {}, "headers": {}}))
    client.lpush(QUARANTINE, sent(0))
    assert sorted(named(platform).splitlines()) == snapshot


def test_messages_that_a_newer_worker_is_needed_for(
    platform: Platform, client: "Redis", snapshot: SnapshotAssertion
) -> None:
    run(platform, *PROGRAMS)
    item = sent(0, task="attachments.fold").encode()
    since = {unknown_tasks.SINCE: time.time() - 600}
    client.lpush(UNKNOWN, unknown_tasks.packed(item, "attachments", since))
    assert named(platform) == snapshot
