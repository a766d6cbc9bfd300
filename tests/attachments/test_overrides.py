"""What an operator has said holds for what they knew, survives deletion, and needs nothing of the file."""

from uuid import UUID

import pytest

from stack.demo.samples import drawing, photo
from tasks.attachments import operator_actions
from tests.attachments.context import AppContext, stored
from tests.platform import Platform
from workers.known_bad import EICAR, encrypted_zip
from workers.storage.local import LocalStore


@pytest.fixture
def context(platform: Platform) -> AppContext:
    return AppContext(platform, "openchat")


def act(name: str, row_id: UUID) -> None:
    operator_actions.act(name, "openchat", row_id, actor="Ada", reason="because")


def events(context: AppContext, row_id: UUID) -> list[str]:
    rows = context.platform.sql(
        "SELECT event FROM roomkeeper.attachment_events WHERE attachment_id = :id ORDER BY at, id", id=row_id
    )
    return [row.event for row in rows]


def test_a_release_is_for_the_content_that_was_judged(context: AppContext) -> None:
    row_id = context.upload(b"hello\n", file_size=7)
    assert context.work(row_id) == "refused (size_mismatch)"
    act("release", row_id)
    assert context.work(row_id) == "accepted"
    assert "released" in events(context, row_id)
    # The same reason against other content: the release does not cover it.
    (context.platform.store / context.key(row_id)).write_bytes(b"other\n")
    act("retry", row_id)
    assert context.work(row_id) == "refused (size_mismatch)"
    assert "release_void" in events(context, row_id)


def test_a_release_is_for_the_reason_that_was_known(context: AppContext) -> None:
    row_id = context.upload(drawing("PNG"), "a.html", "text/html")
    assert context.work(row_id) == "refused (type_mismatch)"
    act("release", row_id)
    (context.platform.store / context.key(row_id)).write_bytes(EICAR)
    assert context.work(row_id) == "quarantined (malware)"
    context.assert_unserved(row_id)
    # Said again, in the knowledge of that.
    act("release", row_id)
    assert context.work(row_id) == "accepted"
    assert context.job(row_id).verdict == "infected"


def test_a_release_holds_through_a_retry(context: AppContext) -> None:
    row_id = context.upload(encrypted_zip(), "a.zip", "application/zip")
    assert context.work(row_id).startswith("refused")
    act("release", row_id)
    assert context.work(row_id) == "accepted"
    act("retry", row_id)
    assert context.work(row_id) == "accepted"


def test_a_release_serves_what_cannot_be_drawn(context: AppContext) -> None:
    row_id = context.upload(b"RIFF\x20\0\0\0WEBPVP8 " + bytes(24), "a.webp", "image/webp", file_size=1)
    assert context.work(row_id) == "refused (size_mismatch)"
    act("release", row_id)
    assert context.work(row_id) == "accepted"
    assert context.row(row_id).storage_url is not None
    assert context.pictures(row_id) == []


def test_a_file_beyond_the_limit_can_be_quarantined(context: AppContext) -> None:
    row_id = context.upload(b"x" * 5000)
    assert context.work(row_id) == "accepted"
    context.platform.set(max_file_bytes=1000)
    act("quarantine", row_id)
    assert context.work(row_id) == "quarantined (operator)"
    assert context.quarantined(row_id) == b"x" * 5000
    assert stored(context.platform.store) == {}


def test_an_empty_file_can_be_quarantined(context: AppContext) -> None:
    row_id = context.upload(b"")
    act("quarantine", row_id)
    assert context.work(row_id) == "quarantined (operator)"
    assert context.quarantined(row_id) == b""


@pytest.mark.parametrize("deleted", ["before it is taken up", "while it is worked on"])
def test_a_quarantine_outlives_a_deletion(
    context: AppContext, monkeypatch: pytest.MonkeyPatch, deleted: str
) -> None:
    row_id = context.upload(b"hello\n")
    assert context.work(row_id) == "accepted"
    act("quarantine", row_id)

    def set_deleted(value: bool) -> None:
        context.platform.sql(
            "UPDATE openchat.attachment SET is_deleted = :value WHERE id = :id", value=value, id=row_id
        )

    if deleted == "before it is taken up":
        set_deleted(True)
        assert context.work(row_id) == "nothing to do"
    else:
        real = LocalStore.fetch

        def fetch(self: LocalStore, *arguments: object, **options: object) -> object:
            monkeypatch.setattr(LocalStore, "fetch", real)
            set_deleted(True)
            return real(self, *arguments, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(LocalStore, "fetch", fetch)
        assert context.work(row_id) == "vanished"
    assert context.job(row_id).override == "quarantine"
    set_deleted(False)
    assert context.work(row_id) == "nothing to do"
    assert context.row(row_id).storage_url is None
    act("retry", row_id)
    assert context.work(row_id) == "quarantined (operator)"


def test_what_was_withdrawn_says_nothing_of_what_it_was(context: AppContext) -> None:
    row_id = context.upload(b"hello\n")
    assert context.work(row_id) == "accepted"
    act("retry", row_id)
    job = context.job(row_id)
    assert (job.outcome, job.verdict, job.reason, job.detail, job.signature) == (None,) * 5


def test_two_files_that_are_one_without_metadata_are_not_confused(platform: Platform) -> None:
    """`pern` allows each hash once: the row could not be made to fit the stripped object."""
    platform.set(strip_originals="pern")
    context, picture = AppContext(platform, "pern"), photo(400, 300)
    assert picture[:2] == b"\xff\xd8"
    first = context.upload(picture, "p.jpg", "image/jpeg")
    assert context.work(first) == "accepted"
    other = picture[:2] + b"\xff\xfe\x00\x07hello" + picture[2:]
    second = context.upload(other, "q.jpg", "image/jpeg")
    assert context.work(second) == "refused (duplicate)"
    assert str(first) in context.job(second).detail
    # Untouched.
    assert stored(platform.store)[context.key(second)] == other
