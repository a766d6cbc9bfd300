"""A file that is enqueued again is looked at again if its object has appeared or changed, and only then."""

import json
import os
from typing import Any
from uuid import UUID

import pytest

from stack.demo.samples import photo
from tasks import outbox
from tasks.attachments import examine, operator_actions
from tasks.attachments.process import process
from tests.attachments.context import AppContext, at_scan
from tests.attachments.shelf import Shelf
from tests.attachments.test_recover import Configure, announced, configure
from tests.platform import Platform
from workers.known_bad import EICAR
from workers.storage.local import LocalStore
from workers.storage.s3 import S3Store

__all__ = ["configure"]
TEXT = b"Milk, bread\n"


@pytest.fixture(params=["local", "s3"])
def shelf(request: pytest.FixtureRequest, platform: Platform) -> Shelf:
    if request.param == "s3":
        platform.use_s3(request.getfixturevalue("seaweedfs"), request.getfixturevalue("bucket"))
    return Shelf(platform, "openchat", request.param)


@pytest.fixture
def context(platform: Platform) -> AppContext:
    return AppContext(platform, "openchat")


def events(context: AppContext, row_id: UUID) -> list[str]:
    rows = context.platform.sql(
        "SELECT event FROM roomkeeper.attachment_events WHERE attachment_id = :id ORDER BY id", id=row_id
    )
    return [row.event for row in rows]


def stays(shelf: AppContext, row_id: UUID) -> None:
    """A message of the file changes nothing at all."""
    before = shelf.platform.everything()
    for _ in range(2):
        assert shelf.work(row_id) == "nothing to do"
    assert shelf.platform.everything() == before


def failed(shelf: AppContext, row_id: UUID, why: str) -> None:
    shelf.platform.set(attachment_attempts=1, attachment_missing_seconds=0)
    assert shelf.work(row_id) == f"failed ({why})"


def test_one_that_failed_for_want_of_its_object_is_revived(shelf: Shelf) -> None:
    row_id = shelf.upload(None, file_size=len(TEXT))
    failed(shelf, row_id, "object_missing")
    stays(shelf, row_id)
    shelf.replace(row_id, TEXT)
    assert shelf.work(row_id) == "accepted"
    assert "enqueued_again" in events(shelf, row_id)
    shelf.served(row_id)
    stays(shelf, row_id)


def test_one_that_waits_is_looked_at_at_once(shelf: Shelf) -> None:
    shelf.platform.set(attachment_retry_seconds=300, attachment_retry_max_seconds=300)
    row_id = shelf.upload(None, file_size=len(TEXT))
    assert shelf.work(row_id) == "waiting (object_missing)"
    stays(shelf, row_id)
    shelf.replace(row_id, TEXT)
    assert shelf.work(row_id) == "accepted"


def test_one_whose_upload_was_not_complete_is_judged_again(shelf: Shelf) -> None:
    row_id = shelf.upload(TEXT[:5], file_size=len(TEXT))
    assert shelf.work(row_id) == "refused (size_mismatch)"
    stays(shelf, row_id)
    shelf.replace(row_id, TEXT)
    assert shelf.work(row_id) == "accepted"
    shelf.served(row_id)


def test_other_bytes_of_the_same_size_are_seen(shelf: Shelf) -> None:
    row_id = shelf.upload(b"<!doctype html><p>1</p>", "a.png", "image/png")
    assert shelf.work(row_id).startswith("refused")
    stays(shelf, row_id)
    shelf.replace(row_id, b"<!doctype html><p>2</p>")
    assert shelf.work(row_id).startswith("refused")
    stays(shelf, row_id)


def test_one_that_is_too_large_is_not_read_again(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf.platform.set(max_file_bytes=1000)
    row_id = shelf.upload(b"x" * 1001)
    assert shelf.work(row_id) == "refused (too_large)"
    with monkeypatch.context() as patched:
        for kind in (LocalStore, S3Store):
            patched.setattr(kind, "fetch", None)
        stays(shelf, row_id)
    shelf.replace(row_id, TEXT)
    shelf.platform.sql("UPDATE openchat.attachment SET file_size = :size", size=len(TEXT))
    assert shelf.work(row_id) == "accepted"


def test_malware_stays_where_it_is_until_there_is_another_object(shelf: Shelf) -> None:
    row_id = shelf.upload(EICAR)
    assert shelf.work(row_id) == "quarantined (malware)"
    stays(shelf, row_id)
    shelf.replace(row_id, TEXT)
    shelf.platform.sql("UPDATE openchat.attachment SET file_size = :size", size=len(TEXT))
    assert shelf.work(row_id) == "accepted"


def test_what_an_operator_has_quarantined_stays(shelf: Shelf) -> None:
    row_id = shelf.upload(TEXT)
    operator_actions.act("quarantine", "openchat", row_id, actor="Ada", reason="reported")
    assert shelf.work(row_id) == "quarantined (operator)"
    shelf.replace(row_id, TEXT + b"more")
    stays(shelf, row_id)


def test_what_is_served_stays_so_whatever_is_under_its_key(shelf: Shelf) -> None:
    row_id = shelf.upload(photo(40, 30), "a.jpg", "image/jpeg")
    assert shelf.work(row_id) == "accepted"
    stays(shelf, row_id)
    shelf.replace(row_id, EICAR)
    stays(shelf, row_id)


def test_one_that_killed_its_workers_is_not_tried_again_unchanged(context: AppContext) -> None:
    context.platform.set(attachment_attempts=1)
    row_id = context.upload(TEXT)
    context.platform.sql(
        "INSERT INTO roomkeeper.attachment_jobs (app, attachment_id, state, attempt, lease_until)"
        " VALUES ('openchat', :id, 'running', 1, now() - interval '1 hour')",
        id=row_id,
    )
    assert context.work(row_id) == "failed (worker_lost)"
    stays(context, row_id)
    os.utime(context.platform.store / context.key(row_id), ns=(1, 1))
    assert context.work(row_id) == "accepted"


def test_one_that_failed_with_its_object_is_not_tried_again_unchanged(
    context: AppContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(*_: Any) -> None:
        raise ZeroDivisionError

    row_id = context.upload(TEXT)
    with monkeypatch.context() as patched:
        patched.setattr(examine, "_identify", fault)
        failed(context, row_id, "internal_error")
    stays(context, row_id)
    os.utime(context.platform.store / context.key(row_id), ns=(1, 1))
    assert context.work(row_id) == "accepted"


def test_one_that_changed_under_its_worker_has_another_try(
    context: AppContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What there is now was never judged."""
    row_id = context.upload(TEXT)
    real = LocalStore.publish

    def publish(self: LocalStore, *arguments: Any) -> None:
        os.utime(context.platform.store / context.key(row_id), ns=(1, 1))
        real(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(LocalStore, "publish", publish)
        failed(context, row_id, "object_changed")
    assert context.work(row_id) == "accepted"


@pytest.mark.parametrize("content", [TEXT[:5], EICAR], ids=["incomplete", "malware"])
def test_a_message_that_comes_while_an_earlier_object_is_judged_is_not_lost(
    shelf: Shelf, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    row_id = shelf.upload(content, file_size=len(TEXT))

    def completed() -> None:
        shelf.replace(row_id, TEXT)
        assert shelf.work(row_id) == "nothing to do"

    at_scan(monkeypatch, completed)
    assert shelf.work(row_id) == "waiting (object_changed)"
    assert shelf.again(row_id) == "accepted"
    assert shelf.quarantined(row_id) is None


def test_a_store_that_is_away_loses_no_message(context: AppContext) -> None:
    row_id = context.upload(TEXT[:5], file_size=len(TEXT))
    assert context.work(row_id) == "refused (size_mismatch)"
    store = context.platform.store
    store.rename(away := store.with_name("away"))
    assert context.work(row_id) == "waiting (store_unavailable)"
    away.rename(store)
    context.platform.put(TEXT, context.key(row_id))
    assert context.again(row_id) == "accepted"


def test_a_second_message_at_the_same_time_does_nothing(
    context: AppContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    row_id = context.upload(None, file_size=len(TEXT))
    failed(context, row_id, "object_missing")
    context.platform.put(TEXT, context.key(row_id))
    real = LocalStore.fingerprint

    def fingerprint(self: LocalStore, key: str) -> str | None:
        monkeypatch.setattr(LocalStore, "fingerprint", real)
        assert context.work(row_id) == "accepted"
        return real(self, key)

    monkeypatch.setattr(LocalStore, "fingerprint", fingerprint)
    assert context.work(row_id) == "nothing to do"
    assert context.job(row_id).outcome == "accepted"


@pytest.mark.parametrize("way", ["SQL", "client"])
def test_services_enqueue_it_as_always(context: AppContext, configure: Configure, way: str) -> None:
    row_id = context.upload(None, file_size=len(TEXT))
    failed(context, row_id, "object_missing")
    context.platform.put(TEXT, context.key(row_id))
    if way == "SQL":
        payload = json.dumps({"app": "openchat", "id": str(row_id)})
        statement = "SELECT roomkeeper.enqueue('attachments.process', CAST(:p AS jsonb))"
        context.platform.sql(statement, p=payload)
        outbox.relay.run()
    else:
        context.platform.enqueue("openchat", row_id)
    assert announced(context.platform) == [("openchat", row_id)]
    assert process.run({"app": "openchat", "id": str(row_id)}) == "accepted"
