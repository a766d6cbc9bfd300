"""Rows that name the same object, which is malware: each of them ends so, in any order."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest

from tasks.attachments import operator_actions
from tests.attachments.context import AppContext, at_scan
from tests.attachments.shelf import Shelf
from tests.platform import Platform
from workers.known_bad import EICAR
from workers.storage import store_for
from workers.storage.local import LocalStore
from workers.storage.s3 import S3Store

KEY = "uploads/forwarded.bin"


@pytest.fixture(params=["local", "s3"])
def shelf(request: pytest.FixtureRequest, platform: Platform) -> Shelf:
    if request.param == "s3":
        platform.use_s3(request.getfixturevalue("seaweedfs"), request.getfixturevalue("bucket"))
    return Shelf(platform, "openchat", request.param)


def pair(shelf: Shelf, content: bytes = EICAR) -> list[UUID]:
    """Upload one object that two rows name."""
    first = shelf.upload(content, storage_key=KEY)
    return [first, shelf.upload(None, storage_key=KEY, file_size=len(content))]


def assert_malware(shelf: AppContext, row_id: UUID) -> None:
    job = shelf.job(row_id)
    assert (job.state, job.outcome, job.verdict, job.reason) == (
        "finished",
        "quarantined",
        "infected",
        "malware",
    )
    assert job.quarantine_key == f"{shelf.app}/{row_id}"
    assert shelf.quarantined(row_id) == EICAR
    if shelf.app == "openchat":
        row = shelf.row(row_id)
        assert (row.processing_status, row.scan_result, row.storage_url) == ("failed", "infected", None)
        assert row.processing_error.startswith("malware: ")


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_one_after_the_other(shelf: Shelf, order: tuple[int, int]) -> None:
    rows = pair(shelf)
    for number in order:
        assert shelf.work(rows[number]) == "quarantined (malware)"
    for row_id in rows:
        assert_malware(shelf, row_id)
    assert KEY not in shelf.objects()


@pytest.mark.parametrize("order", [("openchat", "pern"), ("pern", "openchat")])
def test_of_two_applications(platform: Platform, order: tuple[str, str]) -> None:
    sides = {app: AppContext(platform, app) for app in order}
    rows = {"openchat": sides["openchat"].upload(EICAR, storage_key=KEY)}
    rows["pern"] = sides["pern"].upload(None, file_path=KEY, file_size=len(EICAR))
    for app in order:
        assert sides[app].work(rows[app]) == "quarantined (malware)"
    for app in order:
        assert_malware(sides[app], rows[app])


def test_an_encrypted_row_names_it_too(platform: Platform) -> None:
    """Whether it is encrypted is what its row says."""
    openchat, pern = AppContext(platform, "openchat"), AppContext(platform, "pern")
    first = openchat.upload(EICAR, storage_key=KEY)
    second = pern.upload(None, file_path=KEY, is_encrypted=True)
    assert openchat.work(first) == "quarantined (malware)"
    assert pern.work(second) == "quarantined (malware)"
    assert_malware(pern, second)


def test_both_at_once(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers have the object, and know what it is, before either moves it."""
    rows = pair(shelf)
    kind: Any = LocalStore if shelf.provider == "local" else S3Store
    real, barrier = kind.quarantine, threading.Barrier(2, timeout=30)

    def quarantine(self: Any, key: str, name: str) -> Any:
        barrier.wait()
        return real(self, key, name)

    monkeypatch.setattr(kind, "quarantine", quarantine)
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(shelf.work, rows)) == ["quarantined (malware)"] * 2
    for row_id in rows:
        assert_malware(shelf, row_id)
    assert KEY not in shelf.objects()


def test_one_overtakes_the_other(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = pair(shelf)
    at_scan(monkeypatch, lambda: shelf.work(rows[1]))
    assert shelf.work(rows[0]) == "quarantined (malware)"
    for row_id in rows:
        assert_malware(shelf, row_id)


def test_a_late_detection_takes_both(shelf: Shelf) -> None:
    """Both were served; newer signatures know better, and the first that is looked at moves the object."""
    rows = pair(shelf)
    shelf.platform.sql(
        "UPDATE openchat.attachment SET processing_status = 'completed', storage_url = '/files/x'"
    )
    for row_id in rows:
        shelf.platform.sql(
            "INSERT INTO roomkeeper.attachment_jobs (app, attachment_id, state, outcome, verdict)"
            " VALUES ('openchat', :id, 'finished', 'accepted', 'clean')",
            id=row_id,
        )
        operator_actions.act("retry", "openchat", row_id, actor="Ada", reason="new signatures")
    for row_id in rows:
        assert shelf.work(row_id) == "quarantined (malware)"
        assert_malware(shelf, row_id)


def test_one_is_released_without_the_other(shelf: Shelf) -> None:
    rows = pair(shelf)
    for row_id in rows:
        shelf.work(row_id)
    operator_actions.act("release", "openchat", rows[1], actor="Ada", reason="a false alarm")
    assert shelf.work(rows[1]) == "accepted"
    assert shelf.objects()[KEY] == EICAR
    assert_malware(shelf, rows[0])


def test_what_newer_signatures_know_better_comes_back_for_one(shelf: Shelf) -> None:
    rows = pair(shelf)
    assert shelf.work(rows[0]) == "quarantined (malware)"
    shelf.platform.sql("UPDATE roomkeeper.scan_verdicts SET verdict = 'clean', signature = NULL")
    assert shelf.work(rows[1]) == "accepted"
    assert shelf.objects()[KEY] == EICAR
    assert_malware(shelf, rows[0])


def test_what_an_operator_has_quarantined_is_not_brought_back_by_another_row(shelf: Shelf) -> None:
    rows = pair(shelf, b"text")
    operator_actions.act("quarantine", "openchat", rows[0], actor="Ada", reason="reported")
    assert shelf.work(rows[0]) == "quarantined (operator)"
    assert shelf.work(rows[1]) == "waiting (object_missing)"
    assert KEY not in shelf.objects()


def test_what_is_deleted_meanwhile_with_its_object_leaves_nothing(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    row_id = shelf.upload(EICAR, storage_key=KEY)

    def delete() -> None:
        shelf.platform.sql("DELETE FROM openchat.attachment WHERE id = :id", id=row_id)
        store_for(shelf.provider, shelf.platform.settings).delete(KEY)

    at_scan(monkeypatch, delete)
    assert shelf.work(row_id) == "vanished"
    assert shelf.platform.quarantined(shelf.provider) == {}
