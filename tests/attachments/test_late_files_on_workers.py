"""Late, deleted and shared files on a real worker with two processes, over a real broker."""

from uuid import uuid4

import pytest

from models import openchat
from tests.platform import Platform, eventually
from workers.known_bad import EICAR

pytestmark = pytest.mark.system

TEXT = b"Milk\n"


def test_files_that_are_late_deleted_unknown_or_shared(platform: Platform) -> None:
    platform.set(
        worker_processes=2, row_wait_seconds=3, attachment_retry_seconds=300, attachment_retry_max_seconds=300
    )
    platform.worker()

    # Late: the service enqueues it again when the upload is complete.
    late = platform.openchat_attachment(None, file_size=len(TEXT), storage_key="uploads/late.txt")
    platform.enqueue("openchat", late)

    def reason() -> str | None:
        error: str | None = platform.row(openchat.Attachment, late).processing_error
        return error

    assert str(eventually(reason)).startswith("object_missing: ")
    platform.put(TEXT, "uploads/late.txt")
    platform.enqueue("openchat", late)
    assert platform.finished(late).outcome == "accepted"

    # Two rows with one object, at once.
    shared = [
        platform.openchat_attachment(EICAR, storage_key="uploads/shared.bin"),
        platform.openchat_attachment(None, storage_key="uploads/shared.bin", file_size=len(EICAR)),
    ]
    for row_id in shared:
        platform.enqueue("openchat", row_id)

    def both() -> bool:
        # One may have looked while the other one moved the object.
        platform.sql(
            "UPDATE roomkeeper.attachment_jobs SET not_before = now() WHERE reason = 'object_missing'"
        )
        for row_id in shared:
            job = platform.job(row_id)
            if job is None or job.state == "waiting":
                platform.enqueue("openchat", row_id)
        found = [platform.job(row_id) for row_id in shared]
        return all(job is not None and job.reason == "malware" for job in found)

    eventually(both)

    # Deleted after the platform has seen it, and never seen.
    deleted = platform.openchat_attachment(None)
    platform.enqueue("openchat", deleted)
    eventually(lambda: (job := platform.job(deleted)) is not None and job.state == "waiting")
    platform.sql("DELETE FROM openchat.attachment WHERE id = :id", id=deleted)
    unknown = uuid4()
    messages = [platform.enqueue("openchat", row_id) for row_id in (deleted, deleted, unknown)]
    letters = eventually(platform.dead_letters)
    assert [letter.task_id for letter in letters] == messages[2:]
    assert f"openchat has no attachment {unknown}; none appeared within 3 s: " in letters[0].reason
    # The job waits for its object until then; what looks for it finds no row.
    platform.sql(
        "UPDATE roomkeeper.attachment_jobs SET not_before = now() WHERE attachment_id = :i", i=deleted
    )
    platform.enqueue("openchat", deleted)
    eventually(lambda: platform.job(deleted) is None)
    platform.enqueue("openchat", deleted)
    again = platform.openchat_attachment(TEXT)
    platform.enqueue("openchat", again)
    assert platform.finished(again).outcome == "accepted"
    assert len(platform.dead_letters()) == 1
