"""The whole way, on real parts: a message, a worker process, the scanner, the store, the rows."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import pytest
from redis import Redis

from models import openchat, pern
from stack.demo.samples import SAMPLES, Sample, photo
from tests.platform import Platform, Program, eventually
from tests.servers import ClamdServer, PostgresServer, ValkeyServer
from workers.known_bad import EICAR

pytestmark = pytest.mark.system

TEXT = b"Milk, bread\n"


def note(platform: Platform) -> UUID:
    """Upload a small text to `openchat`."""
    return platform.openchat_attachment(TEXT, "notes.txt", "text/plain")


def in_phase(platform: Platform, row_id: UUID, phase: str, attempt: int = 1) -> None:
    """Wait until the attempt is in the phase."""

    def there() -> bool:
        job = platform.job(row_id)
        return job is not None and (job.state, job.phase, job.attempt) == ("running", phase, attempt)

    eventually(there, what=f"attempt {attempt} is in the phase {phase}; now {platform.job(row_id)}")


def recover(platform: Platform) -> None:
    """Have the worker that runs do the recovery job's work once."""
    platform.send("attachments.recover", queue="attachments")


def abandoned(platform: Platform, row_id: UUID) -> None:
    """Wait until the lease of a dead worker has run out."""
    eventually(
        lambda: platform.sql(
            "SELECT FROM roomkeeper.attachment_jobs WHERE attachment_id = :id AND lease_until < now()",
            id=row_id,
        ),
        what="the lease has run out",
    )


def is_empty(platform: Platform) -> bool:
    """Return whether the broker holds no message, neither waiting nor with a worker."""
    with Redis.from_url(platform.environment["ROOMKEEPER_BROKER_URL"]) as client:
        waiting = int(client.llen("attachments")) + int(client.llen("maintenance"))
        return waiting + int(client.zcard("unacked_index")) + int(client.hlen("unacked")) == 0


def pictures(platform: Platform, row_id: UUID) -> dict[str, int]:
    """Return the attachment's pictures in the store, with the moment of their writing."""
    return {path.name: path.stat().st_mtime_ns for path in platform.store.glob(f"derived/*/{row_id}/*")}


def upload(platform: Platform, sample: Sample) -> UUID:
    """Upload a sample, and enqueue it."""
    content = sample.content()
    if sample.app == "openchat":
        row_id = platform.openchat_attachment(content, sample.name, sample.media_type)
    else:
        row_id = platform.pern_attachment(
            content, sample.name, sample.media_type, is_encrypted=sample.encrypted
        )
    platform.enqueue(sample.app, row_id)
    return row_id


def test_every_sample_meets_its_fate(platform: Platform) -> None:
    platform.worker()
    row_ids = {sample.name: upload(platform, sample) for sample in SAMPLES}
    for sample in SAMPLES:
        row_id = row_ids[sample.name]
        job = platform.finished(row_id)
        fate = (sample.outcome, sample.verdict, sample.reason)
        assert (job.outcome, job.verdict, job.reason, job.attempt) == (*fate, 1), sample.says
        assert set(pictures(platform, row_id)) == ({"small.webp", "large.webp"} if sample.pictures else set())
        served = sample.outcome == "accepted"
        if sample.app == "openchat":
            row = platform.row(openchat.Attachment, row_id)
            assert row.processing_status == ("completed" if served else "failed"), sample.says
            assert row.scan_result == sample.verdict
            assert (row.storage_url is not None) is served
            assert (row.thumbnail_url is not None) is sample.pictures
            assert (row.preview_url is not None) is sample.pictures
            # Only malware leaves the store.
            assert (platform.store / row.storage_key).exists() is (job.quarantine_key is None)
        else:
            row = platform.row(pern.Attachment, row_id)
            assert row.thumbnail_path == (f"derived/pern/{row_id}/small.webp" if sample.pictures else None)
        quarantined = list(platform.settings.quarantine_root.rglob(str(row_id)))
        assert bool(quarantined) is (sample.outcome == "quarantined"), sample.says
    assert platform.dead_letters() == []
    eventually(lambda: is_empty(platform))


def test_what_is_enqueued_twenty_times_at_once_is_done_once(platform: Platform) -> None:
    platform.worker()
    row_id = platform.openchat_attachment(photo(), "photo.jpg", "image/jpeg")
    with ThreadPoolExecutor(5) as pool:
        list(pool.map(lambda _: platform.enqueue("openchat", row_id), range(20)))
    platform.finished(row_id)
    drawn = pictures(platform, row_id)
    eventually(lambda: is_empty(platform), what="all twenty messages are dealt with")
    job = platform.job(row_id)
    assert job is not None
    assert (job.attempt, job.state) == (1, "finished")
    assert len(drawn) == 2
    assert pictures(platform, row_id) == drawn
    assert platform.dead_letters() == []


def killed_child(worker: Program) -> None:
    """SIGKILL the one process that does a worker's tasks."""
    [child] = worker.children()
    os.kill(child, signal.SIGKILL)
    eventually(lambda: worker.children() not in ([], [child]), what="it has a new one")


def test_a_file_whose_process_is_killed_is_done_soon_after(platform: Platform, clamd: ClamdServer) -> None:
    platform.set(worker_processes=1)
    worker = platform.worker()
    content = photo()
    row_id = platform.openchat_attachment(content, "photo.jpg", "image/jpeg")
    clamd.freeze()
    platform.enqueue("openchat", row_id)
    in_phase(platform, row_id, "scan")
    killed_child(worker)
    clamd.thaw()
    abandoned(platform, row_id)
    recover(platform)
    job = platform.finished(row_id)
    assert (job.outcome, job.attempt, job.failures) == ("accepted", 2, 1)
    assert len(pictures(platform, row_id)) == 2
    eventually(lambda: is_empty(platform))


def test_the_twin_finds_what_a_killed_worker_and_a_forgetful_broker_have_lost(
    platform: Platform, clamd: ClamdServer, valkey: ValkeyServer
) -> None:
    platform.set(recover_every_seconds=1)
    first_worker = platform.worker()
    clamd.freeze()
    begun, queued, forgotten = note(platform), note(platform), note(platform)
    platform.enqueue("openchat", begun)
    in_phase(platform, begun, "scan")
    first_worker.kill()
    platform.enqueue("openchat", queued)
    valkey.flush()
    clamd.thaw()
    for program in ("beat",), ("worker", "maintenance"), ("worker", "attachments"):
        platform.start(*program)
    jobs = [platform.finished(row_id) for row_id in (begun, queued, forgotten)]
    assert [(job.outcome, job.attempt) for job in jobs] == [("accepted", 2), ("accepted", 1), ("accepted", 1)]
    eventually(lambda: platform.sql("SELECT FROM roomkeeper.job_runs WHERE job = 'attachments.recover'"))


def test_a_file_that_kills_its_worker_three_times_is_parked_and_the_queue_goes_on(
    platform: Platform, clamd: ClamdServer
) -> None:
    platform.set(worker_processes=1, attachment_lease_seconds=1)
    worker = platform.worker()
    clamd.freeze()
    deadly = note(platform)
    platform.enqueue("openchat", deadly)
    for attempt in 1, 2, 3:
        in_phase(platform, deadly, "scan", attempt)
        killed_child(worker)
        abandoned(platform, deadly)
        recover(platform)
    job = platform.finished(deadly)
    assert (job.state, job.outcome, job.failures) == ("failed", None, 3)
    assert (job.reason, job.detail) == ("worker_lost", "3 attempts failed or died, the last one at: scan")
    row = platform.row(openchat.Attachment, deadly)
    assert row.processing_status == "failed"
    assert row.processing_error == "worker_lost: 3 attempts failed or died, the last one at: scan"
    assert (row.storage_url, row.is_scanned) == (None, False)

    clamd.thaw()
    harmless = note(platform)
    platform.enqueue("openchat", harmless)
    assert platform.finished(harmless).outcome == "accepted"
    recover(platform)
    eventually(lambda: is_empty(platform))
    assert platform.job(deadly) == job


def test_without_a_scanner_files_wait_and_are_done_when_it_is_back(
    platform: Platform, clamd: ClamdServer
) -> None:
    platform.set(attachment_attempts=1, attachment_requeue_seconds=0.1)
    platform.worker()
    clamd.stop()
    row_ids = [note(platform), platform.openchat_attachment(EICAR, "invoice.txt", "text/plain")]
    for row_id in row_ids:
        platform.enqueue("openchat", row_id)

    def waited(times: int) -> bool:
        recover(platform)
        time.sleep(0.2)  # for the runs that this asks for, not for a fact
        jobs = [platform.job(row_id) for row_id in row_ids]
        return all(job is not None and job.waits >= times for job in jobs)

    eventually(lambda: waited(4), what="several attempts were in vain")
    for row_id in row_ids:
        job, row = platform.job(row_id), platform.row(openchat.Attachment, row_id)
        assert job is not None
        assert (job.outcome, job.verdict, job.failures) == (None, None, 0)
        assert (job.reason, row.scan_result, row.is_scanned) == ("scanner_unavailable", None, False)
        assert row.processing_status in {"pending", "processing"}
        assert (row.storage_url, row.thumbnail_url) == (None, None)

    clamd.start()
    back = time.monotonic()

    def done() -> bool:
        recover(platform)
        time.sleep(0.2)  # as above
        jobs = [platform.job(row_id) for row_id in row_ids]
        return all(job is not None and job.state == "finished" for job in jobs)

    eventually(done)
    # With room for a machine that has much to do.
    assert time.monotonic() - back < platform.settings.attachment_retry_max_seconds + 15
    assert [platform.job(row_id).verdict for row_id in row_ids] == ["clean", "infected"]  # type: ignore[union-attr]


def test_nothing_is_lost_when_the_broker_is_killed_and_started_again(
    platform: Platform, clamd: ClamdServer, valkey: ValkeyServer
) -> None:
    platform.set(attachment_requeue_seconds=1)
    worker = platform.worker()
    clamd.freeze()
    row_ids = [note(platform) for _ in range(12)]
    for row_id in row_ids:
        platform.enqueue("openchat", row_id)
    in_phase(platform, row_ids[0], "scan")
    valkey.kill()
    clamd.thaw()
    # Those in work are finished meanwhile; no message can be sent.
    platform.finished(row_ids[0])
    valkey.start()

    def done() -> bool:
        recover(platform)
        time.sleep(0.3)  # for the runs that this asks for, not for a fact
        jobs = [platform.job(row_id) for row_id in row_ids]
        return all(job is not None and job.state == "finished" for job in jobs)

    eventually(done)
    jobs = [platform.job(row_id) for row_id in row_ids]
    assert {(job.outcome, job.attempt) for job in jobs if job is not None} == {("accepted", 1)}
    assert worker.process.poll() is None


def test_files_are_done_in_spite_of_a_restart_of_the_database(
    platform: Platform, clamd: ClamdServer, postgres: PostgresServer
) -> None:
    platform.set(attachment_requeue_seconds=1)
    worker = platform.worker()
    clamd.freeze()
    busy, next_one = note(platform), note(platform)
    platform.enqueue("openchat", busy)
    in_phase(platform, busy, "scan")
    # In good order: the tests' own database does not sync, and would forget the last rows.
    postgres.stop()
    platform.enqueue("openchat", next_one)
    # Its claim finds no database: it is tried again by itself.
    eventually(lambda: "] retry" in worker.output(), what="the next one waits for the database")
    clamd.thaw()
    postgres.start()
    assert platform.finished(next_one).outcome == "accepted"

    def done() -> bool:
        recover(platform)
        time.sleep(0.3)  # for the run that this asks for, not for a fact
        job = platform.job(busy)
        return job is not None and job.state == "finished"

    eventually(done)
    assert platform.row(openchat.Attachment, busy).processing_status == "completed"
    assert worker.process.poll() is None
