"""The whole way, on real parts: a message, a worker process, the scanner, the store, the rows."""

from models import openchat
from stack.samples import photo
from tests.platform import Platform


def test_a_photo_gets_its_pictures(platform: Platform) -> None:
    row_id = platform.openchat_attachment(photo(), "photo.jpg", "image/jpeg")
    platform.worker()
    platform.enqueue("openchat", row_id)
    job = platform.finished(row_id)
    assert (job.outcome, job.verdict, job.reason) == ("accepted", "clean", None)
    row = platform.row(openchat.Attachment, row_id)
    assert row.processing_status == "completed"
