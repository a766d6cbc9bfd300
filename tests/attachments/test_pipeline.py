"""One file, phase by phase, on real parts: what ends how, and what is left behind."""

import json
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from time import sleep
from typing import Any
from uuid import UUID, uuid4

import pytest
from celery.exceptions import SoftTimeLimitExceeded

from stack.demo.samples import drawing, photo, program, sealed, unique
from stack.servers.signatures import EICAR_NAME
from tasks.attachments import attachment_work, pipeline
from tests.attachments.desk import BOTH, Desk, at_scan, stored
from tests.platform import Platform, eventually
from tests.servers import ClamdServer, PostgresServer
from workers.known_bad import EICAR, encrypted_zip, zipped
from workers.storage.local import LocalStore


@pytest.fixture
def desk(platform: Platform, app: str) -> Desk:
    return Desk(platform, app)


@pytest.fixture
def open_desk(platform: Platform) -> Desk:
    return Desk(platform, "openchat")


@pytest.fixture
def pern_desk(platform: Platform) -> Desk:
    return Desk(platform, "pern")


def cut_off(monkeypatch: pytest.MonkeyPatch, *, after_the_move: bool) -> None:
    """Let the process end once, just before or just after an object is moved into quarantine."""
    real = LocalStore.quarantine

    def quarantine(self: LocalStore, key: str, name: str) -> str:
        monkeypatch.setattr(LocalStore, "quarantine", real)
        if after_the_move:
            real(self, key, name)
        raise KeyboardInterrupt

    monkeypatch.setattr(LocalStore, "quarantine", quarantine)


# -- Served -------------------------------------------------------------------------------------------------


@BOTH
def test_a_photo_is_scanned_drawn_and_served(desk: Desk) -> None:
    row_id = desk.upload(content := photo(400, 300), "photo.jpg", "image/jpeg")
    assert desk.work(row_id) == "accepted"
    job = desk.job(row_id)
    prefix = f"derived/{desk.app}/{row_id}"
    assert (job.state, job.outcome, job.verdict, job.reason, job.detail) == (
        "finished",
        "accepted",
        "clean",
        None,
        None,
    )
    assert (job.sha256, job.size_bytes) == (sha256(content).hexdigest(), len(content))
    assert (job.media_type, job.signature, job.findings) == ("image/jpeg", None, [])
    assert job.signature_version.isdigit()
    assert job.engine_version[0].isdigit()
    assert (job.small_key, job.large_key) == (f"{prefix}/small.webp", f"{prefix}/large.webp")
    assert (job.attempt, job.failures, job.waits, job.phase) == (1, 0, 0, "finished")
    assert set(job.timings) == {"fetch", "identify", "scan", "draw", "store"}
    assert all(0 <= seconds < 60 for seconds in job.timings.values())
    assert desk.pictures(row_id) == ["large.webp", "small.webp"]
    row = desk.row(row_id)
    if desk.app == "openchat":
        assert row.storage_url == f"/files/{row.storage_key}"
        assert (row.thumbnail_url, row.preview_url) == (
            f"/files/{prefix}/small.webp",
            f"/files/{prefix}/large.webp",
        )
        assert (row.processing_status, row.processing_error) == ("completed", None)
        assert (row.is_scanned, row.scan_result) == (True, "clean")
        details = json.loads(row.scan_details)
        assert details["sha256"] == sha256(content).hexdigest()
        assert details["engine"] == f"ClamAV {job.engine_version}"
        metadata = json.loads(row.metadata)
        assert (metadata["width"], metadata["height"]) == (300, 400)
    else:
        assert row.thumbnail_path == f"{prefix}/small.webp"


def test_what_is_no_picture_has_none(open_desk: Desk) -> None:
    row_id = open_desk.upload(b"Milk, bread\n")
    assert open_desk.work(row_id) == "accepted"
    assert set(open_desk.job(row_id).timings) == {"fetch", "identify", "scan", "store"}
    assert open_desk.pictures(row_id) == []
    row = open_desk.row(row_id)
    assert row.storage_url
    assert (row.thumbnail_url, row.preview_url, row.metadata) == (None, None, None)


def test_what_runs_in_a_browser_is_not_drawn(open_desk: Desk) -> None:
    svg = b'<svg xmlns="http://www.w3.org/2000/svg"></svg>'
    row_id = open_desk.upload(svg, "a.svg", "image/svg+xml")
    assert open_desk.work(row_id) == "accepted"
    assert open_desk.pictures(row_id) == []


@BOTH
def test_a_type_is_corrected_in_the_row(desk: Desk) -> None:
    row_id = desk.upload(drawing("WEBP"), "sunset.jpg", "image/jpeg")
    assert desk.work(row_id) == "accepted"
    assert desk.row(row_id).mime_type == "image/webp"


def test_another_spelling_of_a_type_is_left_as_it_is(open_desk: Desk) -> None:
    for content, name, media_type in (
        (b"Gr\xfc\xdfe\n", "a.txt", "text/plain; charset=iso-8859-1"),
        (drawing("JPEG"), "a.jpg", "IMAGE/JPG"),
        (zipped(b"hi"), "a.zip", "application/x-zip-compressed"),
    ):
        row_id = open_desk.upload(content, name, media_type)
        assert open_desk.work(row_id) == "accepted"
        assert open_desk.row(row_id).mime_type == media_type


@pytest.mark.parametrize("said", ['{"caption": "hi", "width": 1}', "not JSON", "[1]", "", None])
def test_metadata_of_others_is_kept(open_desk: Desk, said: str | None) -> None:
    row_id = open_desk.upload(drawing("PNG"), "a.png", "image/png", metadata_=said)
    assert open_desk.work(row_id) == "accepted"
    metadata = json.loads(open_desk.row(row_id).metadata)
    assert (metadata["width"], metadata["height"]) == (640, 480)
    assert metadata.get("caption") == ("hi" if said and "caption" in said else None)
    assert metadata.get("unparsed") == (said if said in ("not JSON", "[1]") else None)


def test_an_encrypted_file_is_not_looked_into(pern_desk: Desk, clamd: ClamdServer) -> None:
    clamd.stop()
    for content in (sealed(), EICAR, drawing("PNG")):
        row_id = pern_desk.upload(content, "a.bin", "image/png", is_encrypted=True)
        assert pern_desk.work(row_id) == "accepted"
        job = pern_desk.job(row_id)
        assert (job.outcome, job.verdict, job.reason) == ("accepted", "opaque", None)
        assert (job.media_type, job.signature, job.engine_version) == (None, None, None)
        assert job.sha256 == sha256(content).hexdigest()
        assert set(job.timings) == {"fetch", "store"}
        assert pern_desk.row(row_id).mime_type == "image/png"
        pern_desk.assert_unserved(row_id)


# -- Not what the row says ----------------------------------------------------------------------------------


@BOTH
def test_an_object_of_another_size_is_refused(desk: Desk) -> None:
    content = b"Milk, bread\n"
    for off in (-1, 1):
        row_id = desk.upload(unique_text := content + uuid4().bytes.hex().encode(), file_size=44 + off)
        assert len(unique_text) == 44
        assert desk.work(row_id) == "refused (size_mismatch)"
        desk.assert_refused(row_id, "clean", "size_mismatch")
        assert stored(desk.platform.store)[desk.key(row_id)] == unique_text


@BOTH
def test_malware_goes_to_quarantine_whatever_the_row_says_of_it(desk: Desk) -> None:
    row_id = desk.upload(EICAR, file_size=len(EICAR) + 1)
    assert desk.work(row_id) == "quarantined (malware)"
    assert desk.quarantined(row_id) == EICAR
    desk.assert_unserved(row_id)


@BOTH
def test_an_empty_object_is_refused(desk: Desk) -> None:
    for size in (0, 1):
        row_id = desk.upload(b"", file_size=size, **_hash_of(desk, str(size).encode()))
        assert desk.work(row_id) == "refused (empty)"
        desk.assert_refused(row_id, None, "empty")


def _hash_of(desk: Desk, content: bytes) -> dict[str, str]:
    return {"file_hash": sha256(content).hexdigest()} if desk.app == "pern" else {}


@BOTH
def test_the_limit_of_size_is_exact(desk: Desk) -> None:
    desk.platform.set(max_file_bytes=1000)
    row_id = desk.upload(b"x" * 1000)
    assert desk.work(row_id) == "accepted"
    for size in (1001, 300_000):
        row_id = desk.upload(b"x" * size)
        assert desk.work(row_id) == "refused (too_large)"
        desk.assert_refused(row_id, "suspicious", "too_large")


@pytest.mark.parametrize("encrypted", [True, False])
def test_an_object_with_another_hash_is_refused(pern_desk: Desk, encrypted: bool) -> None:
    row_id = pern_desk.upload(b"x", file_hash=sha256(b"y").hexdigest(), is_encrypted=encrypted)
    assert pern_desk.work(row_id) == "refused (hash_mismatch)"
    pern_desk.assert_refused(row_id, None if encrypted else "clean", "hash_mismatch")


def test_a_hash_may_be_spelt_in_capitals(pern_desk: Desk) -> None:
    row_id = pern_desk.upload(b"x", file_hash=sha256(b"x").hexdigest().upper())
    assert pern_desk.work(row_id) == "accepted"


@BOTH
def test_a_disguise_is_refused_and_not_drawn(desk: Desk) -> None:
    for content, name, media_type, reason in (
        (program(), "holiday.png", "image/png", "type_mismatch"),
        (b"<!DOCTYPE html><html></html>", "a.txt", "text/plain", "type_mismatch"),
        (drawing("GIF"), "cat.exe", "image/gif", "name_mismatch"),
        (drawing("PNG"), "a.pdf", "application/pdf", "type_mismatch"),
    ):
        row_id = desk.upload(content, name, media_type)
        assert desk.work(row_id) == f"refused ({reason})"
        desk.assert_refused(row_id, "clean", reason)
        assert desk.row(row_id).mime_type == media_type
        assert stored(desk.platform.store)[desk.key(row_id)] == content


def test_pictures_that_are_not_drawn_any_more_do_not_stay(open_desk: Desk) -> None:
    row_id = open_desk.upload(b"Milk\n")
    open_desk.platform.put(b"picture", f"derived/openchat/{row_id}/small.webp")
    assert open_desk.work(row_id) == "accepted"
    open_desk.platform.sql("UPDATE roomkeeper.attachment_jobs SET state = 'waiting', outcome = NULL")
    assert open_desk.work(row_id) == "accepted"
    assert open_desk.pictures(row_id) == []


def test_what_cannot_be_drawn_is_refused(open_desk: Desk) -> None:
    open_desk.platform.set(max_pixels=640 * 480 - 1)
    for content, reason in ((drawing("PNG"), "too_many_pixels"), (photo(400, 300)[:2000], "undecodable")):
        row_id = open_desk.upload(content, "a", "application/octet-stream")
        assert open_desk.work(row_id) == f"refused ({reason})"
        open_desk.assert_refused(row_id, "clean", reason)


# -- Infected, suspicious -----------------------------------------------------------------------------------


@BOTH
def test_what_is_infected_goes_to_quarantine(desk: Desk) -> None:
    bystander = desk.platform.put(b"bystander")
    picture = drawing("PNG") + EICAR
    for content, name, media_type in (
        (EICAR, "a.txt", "text/plain"),
        (zipped(zipped(EICAR)), "a.zip", "application/zip"),
        (zipped(EICAR), "a.png", "image/png"),
        (picture, "a.png", "image/png"),
    ):
        row_id = desk.upload(content, name, media_type)
        # Left by an attempt that took it for clean, with older signatures, and died.
        for size in ("small", "large"):
            desk.platform.put(b"picture", f"derived/{desk.app}/{row_id}/{size}.webp")
        assert desk.work(row_id) == "quarantined (malware)"
        job = desk.job(row_id)
        assert (job.outcome, job.verdict, job.signature) == ("quarantined", "infected", EICAR_NAME)
        assert job.quarantine_key == f"{desk.app}/{row_id}"
        assert desk.quarantined(row_id) == content
        desk.assert_unserved(row_id)
        if desk.app == "openchat":
            row = desk.row(row_id)
            assert (row.processing_status, row.is_scanned, row.scan_result) == ("failed", True, "infected")
            assert json.loads(row.scan_details)["signature"] == EICAR_NAME
    assert stored(desk.platform.store) == {bystander: b"bystander"}


@BOTH
def test_what_cannot_be_looked_into_is_suspicious(desk: Desk) -> None:
    row_id = desk.upload(content := encrypted_zip(), "a.zip", "application/zip")
    assert desk.work(row_id) == "refused (encrypted_archive)"
    desk.assert_refused(row_id, "suspicious", "encrypted_archive")
    assert stored(desk.platform.store) == {desk.key(row_id): content}
    assert desk.quarantined(row_id) is None


@BOTH
@pytest.mark.parametrize("after_the_move", [False, True])
def test_a_death_around_the_move_into_quarantine_is_made_good(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, after_the_move: bool
) -> None:
    row_id = desk.upload(EICAR)
    cut_off(monkeypatch, after_the_move=after_the_move)
    with pytest.raises(KeyboardInterrupt):
        desk.work(row_id)
    assert desk.job(row_id).state == "running"
    desk.assert_unserved(row_id)
    assert desk.again(row_id) == "quarantined (malware)"
    assert desk.quarantined(row_id) == EICAR
    assert stored(desk.platform.store) == {}
    assert (desk.job(row_id).outcome, desk.job(row_id).failures) == ("quarantined", 1)
    desk.assert_unserved(row_id)


# -- Scanners that are away ---------------------------------------------------------------------------------


@BOTH
def test_without_a_scanner_a_file_waits_for_as_long_as_it_takes(desk: Desk, clamd: ClamdServer) -> None:
    desk.platform.set(attachment_attempts=1)
    row_id = desk.upload(drawing("PNG"), "a.png", "image/png")
    clamd.stop()
    assert desk.work(row_id) == "waiting (scanner_unavailable)"
    for _ in range(4):
        assert desk.again(row_id) == "waiting (scanner_unavailable)"
    job = desk.job(row_id)
    assert (job.state, job.failures, job.waits, job.verdict) == ("waiting", 0, 5, None)
    desk.assert_unserved(row_id)
    if desk.app == "openchat":
        row = desk.row(row_id)
        assert (row.processing_status, row.scan_result) == ("pending", None)
        assert row.processing_error.startswith("scanner_unavailable: ")
    clamd.start()
    assert desk.again(row_id) == "accepted"
    job = desk.job(row_id)
    assert (job.verdict, job.reason, job.detail) == ("clean", None, None)
    if desk.app == "openchat":
        assert desk.row(row_id).processing_error is None


@pytest.mark.parametrize("end", ["kill", "freeze"])
@pytest.mark.parametrize("content", [EICAR, b"clean"])
def test_a_scanner_that_goes_away_in_the_middle_has_said_nothing(
    open_desk: Desk, clamd: ClamdServer, monkeypatch: pytest.MonkeyPatch, end: str, content: bytes
) -> None:
    # The scanner is trusted by now, which takes longer to find out.
    assert open_desk.work(open_desk.upload(b"first")) == "accepted"
    open_desk.platform.set(scan_timeout_seconds=0.3)
    row_id = open_desk.upload(content)
    at_scan(monkeypatch, getattr(clamd, end))
    assert open_desk.work(row_id) == "waiting (scanner_unavailable)"
    assert (open_desk.job(row_id).failures, open_desk.job(row_id).verdict) == (0, None)
    open_desk.assert_unserved(row_id)
    clamd.start()
    open_desk.platform.set(scan_timeout_seconds=60)
    assert open_desk.again(row_id) == ("accepted" if content == b"clean" else "quarantined (malware)")


# -- Objects and stores that are away -----------------------------------------------------------------------


@BOTH
def test_a_missing_object_is_given_up_after_so_many_attempts(desk: Desk) -> None:
    desk.platform.set(attachment_attempts=3)
    row_id = desk.upload(None)
    assert desk.work(row_id) == "waiting (object_missing)"
    assert desk.again(row_id) == "waiting (object_missing)"
    assert desk.again(row_id) == "failed (object_missing)"
    job = desk.job(row_id)
    assert (job.state, job.failures, job.reason, job.outcome) == ("failed", 3, "object_missing", None)
    desk.assert_unserved(row_id)
    if desk.app == "openchat":
        assert desk.row(row_id).processing_status == "failed"


def test_an_object_that_comes_late_is_still_taken(open_desk: Desk) -> None:
    row_id = open_desk.upload(None, file_size=5)
    assert open_desk.work(row_id) == "waiting (object_missing)"
    open_desk.platform.put(b"Milk\n", open_desk.key(row_id))
    assert open_desk.again(row_id) == "accepted"


def test_a_store_that_is_away_is_not_the_files_fault(open_desk: Desk) -> None:
    open_desk.platform.set(attachment_attempts=1)
    row_id = open_desk.upload(b"Milk\n")
    open_desk.platform.store.rename(away := open_desk.platform.store.with_name("away"))
    assert open_desk.work(row_id) == "waiting (store_unavailable)"
    assert open_desk.again(row_id) == "waiting (store_unavailable)"
    assert open_desk.job(row_id).failures == 0
    open_desk.assert_unserved(row_id)
    away.rename(open_desk.platform.store)
    assert open_desk.again(row_id) == "accepted"


@pytest.mark.parametrize("provider", ["gcs", "cloudinary"])
def test_a_store_that_is_not_set_up_is_said(open_desk: Desk, provider: str) -> None:
    open_desk.platform.set(attachment_attempts=2)
    row_id = open_desk.upload(b"Milk\n", storage_provider=provider)
    assert open_desk.work(row_id) == "waiting (unknown_provider)"
    assert open_desk.again(row_id) == "failed (unknown_provider)"
    assert provider in open_desk.job(row_id).detail
    open_desk.assert_unserved(row_id)


@BOTH
def test_a_hostile_key_leads_nowhere(desk: Desk) -> None:
    desk.platform.set(attachment_attempts=1)
    secret = desk.platform.folder / "secret"
    secret.write_bytes(b"Milk\n")
    store = desk.platform.store
    (store / "link").symlink_to(secret)
    (store / "folder").symlink_to(desk.platform.folder)
    (store / "loop").symlink_to("loop")
    (store / "directory").mkdir()
    column = "storage_key" if desk.app == "openchat" else "file_path"
    keys = ("../secret", "a/../../secret", str(secret), "link", "folder/secret", "", ".", "directory", "loop")
    for key in (*keys, "x" * 500, "a\n", "%2e%2e/secret"):
        row_id = desk.upload(None, file_size=5, **_hash_of(desk, uuid4().bytes))
        name = {"openchat": "openchat.attachment", "pern": "pern.attachments"}[desk.app]
        desk.platform.sql(f"UPDATE {name} SET {column} = :key WHERE id = :id", key=key, id=row_id)
        assert desk.work(row_id) == "failed (object_missing)", key
        assert str(secret) not in desk.job(row_id).detail
        desk.assert_unserved(row_id)
    assert secret.read_bytes() == b"Milk\n"
    assert not desk.platform.settings.quarantine_root.exists()


# -- Drawing that fails -------------------------------------------------------------------------------------


def test_drawing_that_fails_is_tried_again_and_then_given_up(open_desk: Desk) -> None:
    open_desk.platform.set(attachment_attempts=2, draw_timeout_seconds=0.01)
    row_id = open_desk.upload(drawing("PNG"), "a.png", "image/png")
    assert open_desk.work(row_id) == "waiting (drawing_failed)"
    open_desk.assert_unserved(row_id)
    assert open_desk.again(row_id) == "failed (drawing_failed)"
    open_desk.assert_unserved(row_id)
    other = open_desk.upload(unique(drawing("PNG")), "a.png", "image/png")
    assert open_desk.work(other) == "waiting (drawing_failed)"
    open_desk.platform.set(draw_timeout_seconds=60)
    assert open_desk.again(other) == "accepted"
    assert open_desk.job(other).failures == 1


def test_a_fault_of_our_own_is_a_failure_and_said(open_desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    open_desk.platform.set(attachment_attempts=2)
    row_id = open_desk.upload(b"Milk\n")

    def fault() -> None:
        raise ZeroDivisionError

    at_scan(monkeypatch, fault)
    assert open_desk.work(row_id) == "waiting (internal_error)"
    assert open_desk.job(row_id).detail == "ZeroDivisionError"
    at_scan(monkeypatch, fault)
    assert open_desk.again(row_id) == "failed (internal_error)"
    open_desk.assert_unserved(row_id)


def test_a_file_that_takes_too_long_is_a_failure(open_desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    row_id = open_desk.upload(b"Milk\n")

    def late() -> None:
        raise SoftTimeLimitExceeded

    at_scan(monkeypatch, late)
    assert open_desk.work(row_id) == "waiting (timed_out)"
    assert open_desk.job(row_id).failures == 1
    open_desk.assert_unserved(row_id)


# -- Meanwhile ----------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("infected", [False, True])
def test_a_row_that_is_deleted_meanwhile_leaves_no_pictures(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, infected: bool
) -> None:
    content = drawing("PNG") + (EICAR if infected else b"")
    row_id = desk.upload(content, "a.png", "image/png")
    key = desk.key(row_id)
    table = {"openchat": "openchat.attachment", "pern": "pern.attachments"}[desk.app]
    at_scan(monkeypatch, lambda: desk.platform.sql(f"DELETE FROM {table}"))
    assert desk.work(row_id) == "vanished"
    assert desk.platform.job(row_id) is None
    assert desk.pictures(row_id) == []
    # Not ours to delete; but malware is not left lying about.
    assert stored(desk.platform.store) == ({} if infected else {key: content})
    assert desk.quarantined(row_id) == (content if infected else None)


@BOTH
def test_who_loses_the_file_to_another_writes_nothing(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    for content in (drawing("PNG"), EICAR):
        row_id = desk.upload(content, "a", "application/octet-stream")
        before: list[object] = []

        def taken_over(row_id: UUID = row_id, before: list[object] = before) -> None:
            desk.platform.sql(
                "UPDATE roomkeeper.attachment_jobs SET attempt = attempt + 1 WHERE attachment_id = :id",
                id=row_id,
            )
            before.append(desk.platform.everything())

        at_scan(monkeypatch, taken_over)
        assert desk.work(row_id) == "taken over"
        assert desk.platform.everything() == before[0]
        assert desk.quarantined(row_id) is None
        assert desk.key(row_id) in stored(desk.platform.store)


def test_two_at_once_do_it_once(open_desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    row_id = open_desk.upload(drawing("PNG"), "a.png", "image/png")
    outcomes: list[str] = []
    at_scan(monkeypatch, lambda: outcomes.append(open_desk.work(row_id)))
    outcomes.append(open_desk.work(row_id))
    assert outcomes == ["nothing to do", "accepted"]
    assert open_desk.job(row_id).attempt == 1


@BOTH
def test_a_second_run_changes_nothing(desk: Desk) -> None:
    desk.platform.set(attachment_attempts=1, max_file_bytes=300_000)
    uploads = [
        desk.upload(drawing("PNG"), "a.png", "image/png"),
        desk.upload(b"Milk\n"),
        desk.upload(EICAR),
        desk.upload(encrypted_zip(), "a.zip", "application/zip"),
        desk.upload(program(), "a.png", "image/png"),
        desk.upload(b"x" * 300_001),
        desk.upload(b"Bread\n", file_size=7),
        desk.upload(None),
    ]
    first = [desk.work(row_id) for row_id in uploads]
    assert len(set(first)) == 7
    rows, objects = desk.platform.everything(), stored(desk.platform.folder)
    assert [desk.work(row_id) for row_id in uploads] == ["nothing to do"] * 8
    assert desk.platform.everything() == rows
    assert stored(desk.platform.folder) == objects


@BOTH
def test_nobody_elses_row_is_touched(desk: Desk) -> None:
    platform = desk.platform
    platform.openchat_attachment(b"theirs", metadata_="{}", thumbnail_url="/t")
    platform.pern_attachment(b"theirs", thumbnail_path="t")
    uploads = [
        desk.upload(drawing("PNG"), "a.png", "image/png"),
        desk.upload(EICAR),
        desk.upload(None),
    ]

    def others() -> dict[str, list[tuple[Any, ...]]]:
        return {
            name: [row for row in rows if not any(value in uploads for value in row)]
            for name, rows in platform.everything().items()
            # Of content, whoever's it is.
            if name != "roomkeeper.scan_verdicts"
        }

    before = others()
    for row_id in uploads:
        desk.work(row_id)
    assert others() == before


def test_an_unknown_row_is_an_error(open_desk: Desk) -> None:
    with pytest.raises(attachment_work.UnknownAttachmentError):
        open_desk.work(uuid4())


def test_a_deleted_row_is_left_alone(open_desk: Desk) -> None:
    row_id = open_desk.upload(EICAR, is_deleted=True)
    before = open_desk.platform.everything()
    assert open_desk.work(row_id) == "nothing to do"
    assert open_desk.platform.everything() == before


def test_no_temporary_file_is_left(open_desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    seen: list[Path] = []
    at_scan(monkeypatch, lambda: seen.extend(folder.iterdir()))
    open_desk.platform.set(attachment_attempts=1)
    for content in (drawing("PNG"), EICAR, encrypted_zip(), None):
        open_desk.work(open_desk.upload(content, "a", "application/octet-stream"))
        assert list(folder.iterdir()) == []
    assert len(seen) == 1


def test_the_lease_is_kept_while_a_scan_takes_longer_than_it(
    open_desk: Desk, clamd: ClamdServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_desk.platform.set(attachment_lease_seconds=1)
    row_id = open_desk.upload(b"Milk\n")
    at_scan(monkeypatch, clamd.freeze)
    outcomes: list[str] = []
    thread = threading.Thread(target=lambda: outcomes.append(open_desk.work(row_id)))
    thread.start()
    eventually(lambda: (job := open_desk.platform.job(row_id)) and job.phase == "scan")
    first = open_desk.job(row_id).lease_until
    # Renewed to beyond what the lease taken at the scan's beginning would have allowed.
    eventually(lambda: (open_desk.job(row_id).lease_until - first).total_seconds() > 1.2)
    assert open_desk.work(row_id) == "nothing to do"
    clamd.thaw()
    thread.join()
    assert outcomes == ["accepted"]
    assert open_desk.job(row_id).attempt == 1


def test_a_row_that_is_soft_deleted_meanwhile_is_not_served(
    open_desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    row_id = open_desk.upload(drawing("PNG"), "a.png", "image/png")
    at_scan(monkeypatch, lambda: open_desk.platform.sql("UPDATE openchat.attachment SET is_deleted = true"))
    assert open_desk.work(row_id) == "vanished"
    open_desk.assert_unserved(row_id)
    assert open_desk.platform.job(row_id) is None
    # Restored, it is as if it had never been seen.
    open_desk.platform.sql("UPDATE openchat.attachment SET is_deleted = NULL")
    assert open_desk.work(row_id) == "accepted"
    assert open_desk.row(row_id).processing_status == "completed"


def test_a_database_that_restarts_meanwhile_counts_against_nobody(
    open_desk: Desk, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_desk.platform.set(attachment_lease_seconds=30)
    row_id = open_desk.upload(b"text")
    reached, gone, noticed = threading.Event(), threading.Event(), threading.Event()

    def outage() -> None:
        reached.set()
        assert gone.wait(60)

    def pause(seconds: float) -> None:
        noticed.set()
        sleep(seconds)

    at_scan(monkeypatch, outage)
    monkeypatch.setattr(pipeline, "sleep", pause)
    with ThreadPoolExecutor() as pool:
        end = pool.submit(open_desk.work, row_id)
        assert reached.wait(60)
        postgres.stop()
        gone.set()
        assert noticed.wait(60)
        postgres.start()
        assert end.result(60) == "waiting (database_unavailable)"
    assert open_desk.job(row_id).failures == 0
    open_desk.assert_unserved(row_id)
    assert open_desk.again(row_id) == "accepted"
