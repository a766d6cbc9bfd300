"""A file is announced once, however long the queue is; messages that were lost are made up for."""

import json

from redis import Redis

from tasks import outbox
from tasks.attachments import recover as module
from tasks.attachments.recover import recover
from tests.attachments.test_recover import Configure, announced, configure, enter, upload
from tests.platform import Platform

__all__ = ["configure"]

FILES = 120


def enqueue(platform: Platform, *row_ids: object) -> None:
    """Enqueue files of openchat as an API service does in SQL."""
    for row_id in row_ids:
        payload = json.dumps({"app": "openchat", "id": str(row_id)})
        platform.sql("SELECT roomkeeper.enqueue('attachments.process', CAST(:p AS jsonb))", p=payload)


def length(platform: Platform) -> int:
    with Redis.from_url(platform.environment["ROOMKEEPER_BROKER_URL"]) as client:
        found = client.llen("attachments")
    assert isinstance(found, int)
    return found


def test_one_message_for_each_file_that_was_enqueued_in_sql(platform: Platform, configure: Configure) -> None:
    """No worker takes them: the queue is as long as there are files, whatever the recovery job does."""
    rows = [upload(platform, "openchat") for _ in range(FILES)]
    enqueue(platform, *rows)
    outbox.relay.run()
    assert length(platform) == FILES
    recover.run()
    assert length(platform) == FILES
    job = platform.job(rows[0])
    assert job is not None
    assert (job.state, job.attempt, job.not_before) == ("waiting", 0, None)
    assert job.enqueued_at is not None
    # A long queue keeps a file waiting for longer than the recovery job waits for a message.
    configure(attachment_requeue_seconds=0.001)
    for _ in range(2):
        recover.run()
    assert length(platform) == FILES

    # Of messages that were lost as many are announced again.
    with Redis.from_url(platform.environment["ROOMKEEPER_BROKER_URL"]) as client:
        client.ltrim("attachments", 0, FILES - 16)
    recover.run()
    assert length(platform) == FILES
    with Redis.from_url(platform.environment["ROOMKEEPER_BROKER_URL"]) as client:
        client.delete("attachments")
    recover.run()
    assert {row_id for _, row_id in announced(platform)} == set(rows)


def test_messages_of_clients_are_counted_too(platform: Platform, configure: Configure) -> None:
    """A service that publishes over the broker leaves no row of ours: its files are new to us."""
    rows = [upload(platform, "openchat") for _ in range(module.LONG)]
    for row_id in rows:
        module.publish("openchat", row_id)
    recover.run()
    assert length(platform) == module.LONG
    assert platform.job(rows[0]) is not None
    # A short queue says little of what was lost.
    announced(platform)
    row_id = upload(platform, "openchat")
    module.publish("openchat", rows[0])
    recover.run()
    assert ("openchat", row_id) in announced(platform)


def test_only_files_that_exist_and_wait_are_noted(platform: Platform, configure: Configure) -> None:
    existing, finished, running, deleted = (upload(platform, "openchat") for _ in range(4))
    unknown = "00000000-0000-0000-0000-000000000000"
    enter(platform, "openchat", finished, "finished", outcome="'accepted'")
    enter(platform, "openchat", running, "running", lease_until="now() + interval '1 hour'")
    platform.sql("UPDATE openchat.attachment SET is_deleted = true WHERE id = :id", id=deleted)
    before = platform.job(finished), platform.job(running)
    enqueue(platform, existing, finished, running, deleted, unknown)
    outbox.relay.run()
    assert length(platform) == 5
    assert (platform.job(finished), platform.job(running)) == before
    assert platform.job(deleted) is None
    jobs = platform.sql("SELECT attachment_id FROM roomkeeper.attachment_jobs WHERE state = 'waiting'")
    assert [job.attachment_id for job in jobs] == [existing]


def test_an_application_that_is_switched_off_keeps_no_message_from_being_published(
    platform: Platform, configure: Configure
) -> None:
    row_id = upload(platform, "openchat")
    enqueue(platform, row_id)
    platform.sql("ALTER TABLE openchat.attachment RENAME COLUMN storage_key TO key")
    outbox.relay.run()
    assert length(platform) == 1
    assert platform.job(row_id) is None
