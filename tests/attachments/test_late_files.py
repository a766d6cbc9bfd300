"""Files whose object is not there yet: they wait for it by the age of their row, and say so."""

from uuid import UUID

import pytest

from tests.attachments.context import AppContext
from tests.attachments.shelf import Shelf
from tests.commands.cli import on
from tests.platform import Platform
from workers.storage.keys import doubts

TEXT = b"Milk\n"


@pytest.fixture(params=["local", "s3"])
def shelf(request: pytest.FixtureRequest, platform: Platform) -> Shelf:
    if request.param == "s3":
        platform.use_s3(request.getfixturevalue("seaweedfs"), request.getfixturevalue("bucket"))
    platform.set(attachment_retry_seconds=10, attachment_retry_max_seconds=300)
    return Shelf(platform, "openchat", request.param)


@pytest.fixture
def context(platform: Platform) -> AppContext:
    return AppContext(platform, "openchat")


def known_for(context: AppContext, row_id: UUID, seconds: float) -> None:
    """Let the platform have known the file for so long."""
    context.platform.sql(
        "UPDATE roomkeeper.attachment_jobs SET created_at = now() - make_interval(secs => :seconds)"
        " WHERE attachment_id = :id",
        id=row_id,
        seconds=seconds,
    )


def pause(context: AppContext, row_id: UUID) -> float:
    job = context.job(row_id)
    return float((job.not_before - job.updated_at).total_seconds())


def test_an_object_that_comes_within_the_hour_is_taken(shelf: Shelf) -> None:
    row_id = shelf.upload(None, file_size=len(TEXT))
    pauses = []
    for _ in range(7):
        assert shelf.again(row_id) == "waiting (object_missing)"
        pauses.append(pause(shelf, row_id))
    assert shelf.job(row_id).failures == 0
    assert pauses[0] <= 10 < 100 < pauses[6] <= 300
    row = shelf.row(row_id)
    assert row.processing_status == "pending"
    assert row.processing_error.startswith("object_missing: there is no such object: key 'uploads/")
    assert row.processing_error.endswith(f"' in the store {shelf.provider}")
    shelf.replace(row_id, TEXT)
    assert shelf.again(row_id) == "accepted"
    shelf.served(row_id)


def test_after_the_hour_it_fails_for_good(shelf: Shelf) -> None:
    row_id = shelf.upload(None, file_size=len(TEXT))
    for _ in range(3):
        assert shelf.again(row_id) == "waiting (object_missing)"
    known_for(shelf, row_id, 3590)
    assert shelf.again(row_id) == "waiting (object_missing)"
    # The last look is at the end of the time, not minutes after it.
    assert 1 <= pause(shelf, row_id) <= 10
    waiting = shelf.row(row_id).processing_error
    known_for(shelf, row_id, 3600)
    assert shelf.again(row_id) == "failed (object_missing)"
    row, job = shelf.row(row_id), shelf.job(row_id)
    assert (row.processing_status, row.processing_error) == ("failed", waiting)
    assert (job.state, job.reason, job.failures) == ("failed", "object_missing", 0)
    assert shelf.work(row_id) == "nothing to do"


@pytest.mark.parametrize("away", ["10 days", "-10 days"])
def test_a_service_s_wrong_clock_makes_no_difference(context: AppContext, away: str) -> None:
    row_id = context.upload(None)
    context.platform.sql(
        "UPDATE openchat.attachment SET created_at = now() - CAST(:away AS interval) WHERE id = :id",
        away=away,
        id=row_id,
    )
    for _ in range(4):
        assert context.again(row_id) == "waiting (object_missing)"
    known_for(context, row_id, 3600)
    assert context.again(row_id) == "failed (object_missing)"


def test_an_object_that_was_there_is_looked_for_some_times(context: AppContext) -> None:
    """Its row is old: an operator or a rescan has it looked at, while a disk is being mounted, say."""
    row_id = context.upload(None, file_size=len(TEXT))
    context.platform.set(attachment_missing_seconds=0)
    assert context.work(row_id) == "waiting (object_missing)"
    assert context.again(row_id) == "waiting (object_missing)"
    assert context.again(row_id) == "failed (object_missing)"


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("/uploads/a.txt", ["the key begins with a slash"]),
        ("uploads/a.txt\t", ["the key has a tab", "the key ends with whitespace"]),
        ("uploads/a\nb.txt", ["the key has a line break"]),
        (" uploads/a.txt", ["the key begins with whitespace"]),
        ("uploads/a.txt\u00a0", ["the key ends with whitespace"]),
        ("uploads/my%20file.txt", ["the key seems to be percent-encoded"]),
        ("https://cdn.example/uploads/a.txt?v=1", ["the key is a URL"]),
        ("s3://bucket/uploads/a.txt", ["the key is a URL"]),
        ("uploads/100%.txt", []),
        ("uploads/a b.txt", []),
    ],
)
def test_what_is_wrong_with_a_key_is_said(context: AppContext, key: str, expected: list[str]) -> None:
    assert doubts(key) == expected
    row_id = context.upload(None, storage_key=key)
    assert context.work(row_id) == "waiting (object_missing)"
    error = context.row(row_id).processing_error
    for words in expected:
        assert f"; {words}" in error
    assert f"key {key!r} in the store local" in error
    assert context.job(row_id).detail == error.removeprefix("object_missing: ")


def test_show_says_when_it_looks_next(context: AppContext) -> None:
    row_id = context.upload(None)
    context.work(row_id)
    job = context.job(row_id)
    lines = on(context.platform, "attachments", "show", "openchat", str(row_id)).out.splitlines()
    assert f"      next attempt  {job.not_before:%Y-%m-%d %H:%M:%S} UTC" in lines
    (until,) = [line for line in lines if line.startswith("       waits until  ")]
    assert until.endswith(" UTC; then it fails (ROOMKEEPER_ATTACHMENT_MISSING_SECONDS)")
    known_for(context, row_id, 3600)
    context.again(row_id)
    context.again(row_id)
    context.again(row_id)
    out = on(context.platform, "attachments", "show", "openchat", str(row_id)).out
    assert context.job(row_id).state == "failed"
    assert "next attempt" not in out
    assert "waits until" not in out
