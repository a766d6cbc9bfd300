"""Originals that lose their personal metadata, through the whole pipeline."""

import io
from hashlib import sha256
from pathlib import Path

import pytest
from PIL import Image

from stack.demo.samples import drawing, photo
from tasks.attachments import attachment_work
from tests.attachments.context import BOTH, AppContext, stored
from tests.platform import Platform
from workers.sandbox import SandboxFailure
from workers.scanner import Answer, Scanner
from workers.storage.local import LocalStore


@pytest.fixture
def context(platform: Platform, app: str) -> AppContext:
    platform.set(strip_originals=app)
    return AppContext(platform, app)


def personal(content: bytes) -> bool:
    exif = Image.open(io.BytesIO(content)).getexif()
    return bool(exif.get_ifd(0x8825)) or b"taken at home" in content


@BOTH
def test_an_original_is_stripped_and_its_row_says_so(context: AppContext) -> None:
    content = photo(400, 300)
    assert personal(content)
    row_id = context.upload(content, "photo.jpg", "image/jpeg")
    assert context.work(row_id) == "accepted"
    kept = stored(context.platform.store)[context.key(row_id)]
    assert not personal(kept)
    before, after = Image.open(io.BytesIO(content)), Image.open(io.BytesIO(kept))
    assert after.getexif().get(0x0112) == 6
    assert after.tobytes() == before.tobytes()
    row, job = context.row(row_id), context.job(row_id)
    assert row.file_size == job.size_bytes == len(kept)
    assert job.sha256 == sha256(kept).hexdigest()
    if context.app == "pern":
        assert row.file_hash == job.sha256
    # What the row says now is what is there: another run changes nothing.
    context.platform.sql("UPDATE roomkeeper.attachment_jobs SET state = 'waiting', outcome = NULL")
    assert context.work(row_id) == "accepted"
    assert stored(context.platform.store)[context.key(row_id)] == kept


@BOTH
def test_another_applications_originals_are_left_alone(context: AppContext) -> None:
    other = "pern" if context.app == "openchat" else "openchat"
    context.platform.set(strip_originals=other)
    row_id = context.upload(content := photo(400, 300), "photo.jpg", "image/jpeg")
    assert context.work(row_id) == "accepted"
    assert stored(context.platform.store)[context.key(row_id)] == content


@BOTH
def test_what_has_nothing_personal_is_not_written_again(context: AppContext) -> None:
    row_id = context.upload(content := drawing("PNG"), "a.png", "image/png")
    inode = (context.platform.store / context.key(row_id)).stat().st_ino
    assert context.work(row_id) == "accepted"
    path = context.platform.store / context.key(row_id)
    assert (path.read_bytes(), path.stat().st_ino) == (content, inode)
    assert context.job(row_id).rewritten_sha256 is None


@BOTH
def test_what_cannot_be_stripped_is_served_as_it_is_and_the_story_says_so(context: AppContext) -> None:
    row_id = context.upload(b"Milk\n")
    assert context.work(row_id) == "accepted"
    story = context.platform.sql("SELECT detail FROM roomkeeper.attachment_events WHERE event = 'strip'")
    assert story[0].detail["changed"] is False
    assert story[0].detail["unavailable"]


@BOTH
@pytest.mark.parametrize("after_the_write", [False, True])
def test_a_death_around_the_rewriting_is_made_good(
    context: AppContext, monkeypatch: pytest.MonkeyPatch, after_the_write: bool
) -> None:
    row_id = context.upload(photo(400, 300), "photo.jpg", "image/jpeg")
    real = LocalStore.put

    def put(self: LocalStore, key: str, source: Path, media_type: str, name: str = "") -> str:
        if source.name != "stripped":
            return real(self, key, source, media_type, name)
        monkeypatch.setattr(LocalStore, "put", real)
        if after_the_write:
            real(self, key, source, media_type, name)
        raise KeyboardInterrupt

    monkeypatch.setattr(LocalStore, "put", put)
    with pytest.raises(KeyboardInterrupt):
        context.work(row_id)
    context.assert_unserved_row(row_id)
    assert context.again(row_id) == "accepted"
    kept = stored(context.platform.store)[context.key(row_id)]
    assert not personal(kept)
    assert context.row(row_id).file_size == len(kept)
    if context.app == "pern":
        assert context.row(row_id).file_hash == sha256(kept).hexdigest()


@BOTH
def test_what_is_found_in_the_stripped_file_is_not_served(
    context: AppContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    row_id = context.upload(content := photo(400, 300), "photo.jpg", "image/jpeg")
    real = Scanner.scan_file

    def scan_file(self: Scanner, path: Path) -> Answer:
        return Answer("Found.Late") if path.name == "stripped" else real(self, path)

    monkeypatch.setattr(Scanner, "scan_file", scan_file)
    assert context.work(row_id) == "refused (malware)"
    assert stored(context.platform.store) == {context.key(row_id): content}
    context.assert_unserved(row_id)


@BOTH
def test_stripping_that_fails_is_tried_again(context: AppContext, monkeypatch: pytest.MonkeyPatch) -> None:
    from workers import sandbox

    context.platform.set(attachment_attempts=2)
    real = sandbox.run

    def run(work: str, *rest: object, **more: object) -> dict[str, object]:
        if work.endswith(":strip"):
            raise SandboxFailure("sandbox_died", "in a test")
        return real(work, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(sandbox, "run", run)
    row_id = context.upload(photo(400, 300), "photo.jpg", "image/jpeg")
    assert context.work(row_id) == "waiting (strip_failed)"
    assert context.again(row_id) == "failed (strip_failed)"
    context.assert_unserved(row_id)


@BOTH
def test_who_lost_the_file_does_not_rewrite_it(context: AppContext, monkeypatch: pytest.MonkeyPatch) -> None:
    row_id = context.upload(content := photo(400, 300), "photo.jpg", "image/jpeg")
    real = attachment_work.rewrite

    def rewrite(*arguments: object) -> None:
        context.platform.sql("UPDATE roomkeeper.attachment_jobs SET attempt = attempt + 1")
        real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(attachment_work, "rewrite", rewrite)
    assert context.work(row_id) == "taken over"
    assert stored(context.platform.store)[context.key(row_id)] == content
