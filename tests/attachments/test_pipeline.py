"""One file, phase by phase, on real parts: what ends how, and what is left behind."""

import io
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
from PIL import Image

from stack.demo.samples import drawing, photo, program, sealed
from stack.servers.signatures import EICAR_NAME
from tasks.attachments import attachment_work, pipeline
from tests.attachments.carriers import DOCX
from tests.attachments.context import BOTH, AppContext, at_scan, stored
from tests.attachments.hostile import template_letter
from tests.platform import Platform, eventually
from tests.servers import ClamdServer, PostgresServer
from workers import sandbox
from workers.known_bad import EICAR, encrypted_zip, zipped
from workers.storage.local import LocalStore


@pytest.fixture
def context(platform: Platform, app: str) -> AppContext:
    return AppContext(platform, app)


@pytest.fixture
def openchat_context(platform: Platform) -> AppContext:
    return AppContext(platform, "openchat")


@pytest.fixture
def pern_context(platform: Platform) -> AppContext:
    return AppContext(platform, "pern")


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
def test_a_photo_is_scanned_drawn_and_served(context: AppContext) -> None:
    row_id = context.upload(content := photo(400, 300), "photo.jpg", "image/jpeg")
    assert context.work(row_id) == "accepted"
    job = context.job(row_id)
    prefix = f"derived/{context.app}/{row_id}"
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
    assert context.pictures(row_id) == ["large.webp", "small.webp"]
    row = context.row(row_id)
    if context.app == "openchat":
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


def test_what_is_no_picture_has_none(openchat_context: AppContext) -> None:
    row_id = openchat_context.upload(b"Milk, bread\n")
    assert openchat_context.work(row_id) == "accepted"
    assert set(openchat_context.job(row_id).timings) == {"fetch", "identify", "scan", "store"}
    assert openchat_context.pictures(row_id) == []
    row = openchat_context.row(row_id)
    assert row.storage_url
    assert (row.thumbnail_url, row.preview_url, row.metadata) == (None, None, None)


def test_what_runs_in_a_browser_is_not_drawn(openchat_context: AppContext) -> None:
    svg = b'<svg xmlns="http://www.w3.org/2000/svg"></svg>'
    row_id = openchat_context.upload(svg, "a.svg", "image/svg+xml")
    assert openchat_context.work(row_id) == "accepted"
    assert openchat_context.pictures(row_id) == []


@BOTH
def test_a_type_is_corrected_in_the_row(context: AppContext) -> None:
    row_id = context.upload(drawing("WEBP"), "sunset.jpg", "image/jpeg")
    assert context.work(row_id) == "accepted"
    assert context.row(row_id).mime_type == "image/webp"


def test_another_spelling_of_a_type_is_left_as_it_is(openchat_context: AppContext) -> None:
    for content, name, media_type in (
        (b"Gr\xfc\xdfe\n", "a.txt", "text/plain; charset=iso-8859-1"),
        (drawing("JPEG"), "a.jpg", "IMAGE/JPG"),
        (zipped(b"hi"), "a.zip", "application/x-zip-compressed"),
    ):
        row_id = openchat_context.upload(content, name, media_type)
        assert openchat_context.work(row_id) == "accepted"
        assert openchat_context.row(row_id).mime_type == media_type


@pytest.mark.parametrize("existing", ['{"caption": "hi", "width": 1}', "not JSON", "[1]", "", None])
def test_metadata_of_others_is_kept(openchat_context: AppContext, existing: str | None) -> None:
    row_id = openchat_context.upload(drawing("PNG"), "a.png", "image/png", metadata_=existing)
    assert openchat_context.work(row_id) == "accepted"
    metadata = json.loads(openchat_context.row(row_id).metadata)
    assert (metadata["width"], metadata["height"]) == (640, 480)
    assert metadata.get("caption") == ("hi" if existing and "caption" in existing else None)
    assert metadata.get("unparsed") == (existing if existing in ("not JSON", "[1]") else None)


def test_an_encrypted_file_is_not_looked_into(pern_context: AppContext, clamd: ClamdServer) -> None:
    clamd.stop()
    for content in (sealed(), EICAR, drawing("PNG")):
        row_id = pern_context.upload(content, "a.bin", "image/png", is_encrypted=True)
        assert pern_context.work(row_id) == "accepted"
        job = pern_context.job(row_id)
        assert (job.outcome, job.verdict, job.reason) == ("accepted", "opaque", None)
        assert (job.media_type, job.signature, job.engine_version) == (None, None, None)
        assert job.sha256 == sha256(content).hexdigest()
        assert set(job.timings) == {"fetch", "store"}
        assert pern_context.row(row_id).mime_type == "image/png"
        pern_context.assert_unserved(row_id)


# -- Not what the row says ----------------------------------------------------------------------------------


@BOTH
def test_an_object_of_another_size_is_refused(context: AppContext) -> None:
    content = b"Milk, bread\n"
    for off in (-1, 1):
        row_id = context.upload(unique_text := content + uuid4().bytes.hex().encode(), file_size=44 + off)
        assert len(unique_text) == 44
        assert context.work(row_id) == "refused (size_mismatch)"
        context.assert_refused(row_id, "clean", "size_mismatch")
        assert stored(context.platform.store)[context.key(row_id)] == unique_text


@BOTH
def test_malware_goes_to_quarantine_whatever_the_row_says_of_it(context: AppContext) -> None:
    row_id = context.upload(EICAR, file_size=len(EICAR) + 1)
    assert context.work(row_id) == "quarantined (malware)"
    assert context.quarantined(row_id) == EICAR
    context.assert_unserved(row_id)


@BOTH
def test_an_empty_object_is_refused(context: AppContext) -> None:
    for size in (0, 1):
        row_id = context.upload(b"", file_size=size, **_hash_of(context, str(size).encode()))
        assert context.work(row_id) == "refused (empty)"
        context.assert_refused(row_id, None, "empty")


def _hash_of(context: AppContext, content: bytes) -> dict[str, str]:
    return {"file_hash": sha256(content).hexdigest()} if context.app == "pern" else {}


@BOTH
def test_the_limit_of_size_is_exact(context: AppContext) -> None:
    context.platform.set(max_file_bytes=1000)
    row_id = context.upload(b"x" * 1000)
    assert context.work(row_id) == "accepted"
    for size in (1001, 300_000):
        row_id = context.upload(b"x" * size)
        assert context.work(row_id) == "refused (too_large)"
        context.assert_refused(row_id, "suspicious", "too_large")


@pytest.mark.parametrize("encrypted", [True, False])
def test_an_object_with_another_hash_is_refused(pern_context: AppContext, encrypted: bool) -> None:
    row_id = pern_context.upload(b"x", file_hash=sha256(b"y").hexdigest(), is_encrypted=encrypted)
    assert pern_context.work(row_id) == "refused (hash_mismatch)"
    pern_context.assert_refused(row_id, None if encrypted else "clean", "hash_mismatch")


def test_a_hash_may_be_spelt_in_capitals(pern_context: AppContext) -> None:
    row_id = pern_context.upload(b"x", file_hash=sha256(b"x").hexdigest().upper())
    assert pern_context.work(row_id) == "accepted"


@BOTH
def test_a_disguise_is_refused_and_not_drawn(context: AppContext) -> None:
    for content, name, media_type, reason in (
        (program(), "holiday.png", "image/png", "type_mismatch"),
        (b"<!DOCTYPE html><html></html>", "a.png", "image/png", "type_mismatch"),
        (drawing("GIF"), "cat.exe", "image/gif", "name_mismatch"),
        (drawing("PNG"), "a.html", "text/html", "type_mismatch"),
    ):
        row_id = context.upload(content, name, media_type)
        assert context.work(row_id) == f"refused ({reason})"
        context.assert_refused(row_id, "clean", reason)
        assert context.row(row_id).mime_type == media_type
        assert stored(context.platform.store)[context.key(row_id)] == content


def test_a_letter_may_fetch_from_a_host_that_an_operator_allows(openchat_context: AppContext) -> None:
    platform, content = openchat_context.platform, template_letter(r"file:///\\fs01\templates\a.dotx")
    for hosts, outcome in (
        ("", "refused (external_template)"),
        ("fs02", "refused (external_template)"),
        ("fs02, FS01", "accepted"),
        ("*", "accepted"),
    ):
        platform.set(external_template_hosts=hosts)
        row_id = openchat_context.upload(content, "letter.docx", DOCX)
        assert openchat_context.work(row_id) == outcome, hosts


def test_pictures_that_are_not_drawn_any_more_do_not_stay(openchat_context: AppContext) -> None:
    row_id = openchat_context.upload(b"Milk\n")
    openchat_context.platform.put(b"picture", f"derived/openchat/{row_id}/small.webp")
    assert openchat_context.work(row_id) == "accepted"
    openchat_context.platform.sql("UPDATE roomkeeper.attachment_jobs SET state = 'waiting', outcome = NULL")
    assert openchat_context.work(row_id) == "accepted"
    assert openchat_context.pictures(row_id) == []


@BOTH
def test_what_cannot_be_drawn_is_served(context: AppContext) -> None:
    context.platform.set(draw_decoded_bytes=640 * 480 * 4 - 1)
    row_id = context.upload(drawing("PNG"), "a", "application/octet-stream")
    assert context.work(row_id) == "accepted"
    assert context.pictures(row_id) == []
    if context.app == "openchat":
        metadata = json.loads(context.row(row_id).metadata)
        assert metadata["preview_reason"] == "over_budget"
        # Once it can be drawn nothing is left of that.
        context.platform.set(draw_decoded_bytes=640 * 480 * 4)
        context.platform.sql("UPDATE roomkeeper.attachment_jobs SET state = 'waiting', outcome = NULL")
        assert context.work(row_id) == "accepted"
        metadata = json.loads(context.row(row_id).metadata)
        assert metadata["large"]["width"] == 640
        assert not [name for name in metadata if name.startswith("preview")]


# -- Infected, suspicious -----------------------------------------------------------------------------------


@BOTH
def test_what_is_infected_goes_to_quarantine(context: AppContext) -> None:
    bystander = context.platform.put(b"bystander")
    picture = drawing("PNG") + EICAR
    for content, name, media_type in (
        (EICAR, "a.txt", "text/plain"),
        (zipped(zipped(EICAR)), "a.zip", "application/zip"),
        (zipped(EICAR), "a.png", "image/png"),
        (picture, "a.png", "image/png"),
    ):
        row_id = context.upload(content, name, media_type)
        # Left by an attempt that took it for clean, with older signatures, and died.
        for size in ("small", "large"):
            context.platform.put(b"picture", f"derived/{context.app}/{row_id}/{size}.webp")
        assert context.work(row_id) == "quarantined (malware)"
        job = context.job(row_id)
        assert (job.outcome, job.verdict, job.signature) == ("quarantined", "infected", EICAR_NAME)
        assert job.quarantine_key == f"{context.app}/{row_id}"
        assert context.quarantined(row_id) == content
        context.assert_unserved(row_id)
        if context.app == "openchat":
            row = context.row(row_id)
            assert (row.processing_status, row.is_scanned, row.scan_result) == ("failed", True, "infected")
            assert json.loads(row.scan_details)["signature"] == EICAR_NAME
    assert stored(context.platform.store) == {bystander: b"bystander"}


@BOTH
def test_what_cannot_be_looked_into_is_suspicious(context: AppContext) -> None:
    row_id = context.upload(content := encrypted_zip(), "a.zip", "application/zip")
    assert context.work(row_id) == "refused (encrypted_archive)"
    context.assert_refused(row_id, "suspicious", "encrypted_archive")
    assert stored(context.platform.store) == {context.key(row_id): content}
    assert context.quarantined(row_id) is None


@BOTH
@pytest.mark.parametrize("after_the_move", [False, True])
def test_a_death_around_the_move_into_quarantine_is_made_good(
    context: AppContext, monkeypatch: pytest.MonkeyPatch, after_the_move: bool
) -> None:
    row_id = context.upload(EICAR)
    cut_off(monkeypatch, after_the_move=after_the_move)
    with pytest.raises(KeyboardInterrupt):
        context.work(row_id)
    assert context.job(row_id).state == "running"
    context.assert_unserved(row_id)
    assert context.again(row_id) == "quarantined (malware)"
    assert context.quarantined(row_id) == EICAR
    assert stored(context.platform.store) == {}
    assert (context.job(row_id).outcome, context.job(row_id).failures) == ("quarantined", 1)
    context.assert_unserved(row_id)


# -- Scanners that are away ---------------------------------------------------------------------------------


@BOTH
def test_without_a_scanner_a_file_waits_for_as_long_as_it_takes(
    context: AppContext, clamd: ClamdServer
) -> None:
    context.platform.set(attachment_attempts=1)
    row_id = context.upload(drawing("PNG"), "a.png", "image/png")
    clamd.stop()
    assert context.work(row_id) == "waiting (scanner_unavailable)"
    for _ in range(4):
        assert context.again(row_id) == "waiting (scanner_unavailable)"
    job = context.job(row_id)
    assert (job.state, job.failures, job.waits, job.verdict) == ("waiting", 0, 5, None)
    context.assert_unserved(row_id)
    if context.app == "openchat":
        row = context.row(row_id)
        assert (row.processing_status, row.scan_result) == ("pending", None)
        assert row.processing_error.startswith("scanner_unavailable: ")
    clamd.start()
    assert context.again(row_id) == "accepted"
    job = context.job(row_id)
    assert (job.verdict, job.reason, job.detail) == ("clean", None, None)
    if context.app == "openchat":
        assert context.row(row_id).processing_error is None


@pytest.mark.parametrize("end", ["kill", "freeze"])
@pytest.mark.parametrize("content", [EICAR, b"clean"])
def test_a_scanner_that_goes_away_in_the_middle_has_said_nothing(
    openchat_context: AppContext,
    clamd: ClamdServer,
    monkeypatch: pytest.MonkeyPatch,
    end: str,
    content: bytes,
) -> None:
    # The scanner is trusted by now, which takes longer to find out.
    assert openchat_context.work(openchat_context.upload(b"first")) == "accepted"
    openchat_context.platform.set(scan_timeout_seconds=0.3)
    row_id = openchat_context.upload(content)
    at_scan(monkeypatch, getattr(clamd, end))
    assert openchat_context.work(row_id) == "waiting (scanner_unavailable)"
    assert (openchat_context.job(row_id).failures, openchat_context.job(row_id).verdict) == (0, None)
    openchat_context.assert_unserved(row_id)
    clamd.start()
    openchat_context.platform.set(scan_timeout_seconds=60)
    assert openchat_context.again(row_id) == ("accepted" if content == b"clean" else "quarantined (malware)")


# -- Objects and stores that are away -----------------------------------------------------------------------


@BOTH
def test_a_missing_object_is_given_up_in_the_end(context: AppContext) -> None:
    context.platform.set(attachment_attempts=3, attachment_missing_seconds=0)
    row_id = context.upload(None)
    assert context.work(row_id) == "waiting (object_missing)"
    assert context.again(row_id) == "waiting (object_missing)"
    assert context.again(row_id) == "failed (object_missing)"
    job = context.job(row_id)
    assert (job.state, job.failures, job.reason, job.outcome) == ("failed", 0, "object_missing", None)
    context.assert_unserved(row_id)
    if context.app == "openchat":
        assert context.row(row_id).processing_status == "failed"


def test_an_object_that_comes_late_is_still_taken(openchat_context: AppContext) -> None:
    row_id = openchat_context.upload(None, file_size=5)
    assert openchat_context.work(row_id) == "waiting (object_missing)"
    openchat_context.platform.put(b"Milk\n", openchat_context.key(row_id))
    assert openchat_context.again(row_id) == "accepted"


def test_a_store_that_is_away_is_not_the_files_fault(openchat_context: AppContext) -> None:
    openchat_context.platform.set(attachment_attempts=1)
    row_id = openchat_context.upload(b"Milk\n")
    openchat_context.platform.store.rename(away := openchat_context.platform.store.with_name("away"))
    assert openchat_context.work(row_id) == "waiting (store_unavailable)"
    assert openchat_context.again(row_id) == "waiting (store_unavailable)"
    assert openchat_context.job(row_id).failures == 0
    openchat_context.assert_unserved(row_id)
    away.rename(openchat_context.platform.store)
    assert openchat_context.again(row_id) == "accepted"


@pytest.mark.parametrize("provider", ["gcs", "cloudinary"])
def test_a_store_that_is_not_set_up_is_said(openchat_context: AppContext, provider: str) -> None:
    openchat_context.platform.set(attachment_attempts=2)
    row_id = openchat_context.upload(b"Milk\n", storage_provider=provider)
    assert openchat_context.work(row_id) == "waiting (unknown_provider)"
    assert openchat_context.again(row_id) == "failed (unknown_provider)"
    assert provider in openchat_context.job(row_id).detail
    openchat_context.assert_unserved(row_id)


@BOTH
def test_a_hostile_key_leads_nowhere(context: AppContext) -> None:
    context.platform.set(attachment_attempts=1, attachment_missing_seconds=0)
    secret = context.platform.folder / "secret"
    secret.write_bytes(b"Milk\n")
    store = context.platform.store
    (store / "link").symlink_to(secret)
    (store / "folder").symlink_to(context.platform.folder)
    (store / "loop").symlink_to("loop")
    (store / "directory").mkdir()
    column = "storage_key" if context.app == "openchat" else "file_path"
    keys = ("../secret", "a/../../secret", str(secret), "link", "folder/secret", "", ".", "directory", "loop")
    for key in (*keys, "x" * 500, "a\n", "%2e%2e/secret"):
        row_id = context.upload(None, file_size=5, **_hash_of(context, uuid4().bytes))
        name = {"openchat": "openchat.attachment", "pern": "pern.attachments"}[context.app]
        context.platform.sql(f"UPDATE {name} SET {column} = :key WHERE id = :id", key=key, id=row_id)
        assert context.work(row_id) == "failed (object_missing)", key
        assert key == str(secret) or str(secret) not in context.job(row_id).detail
        context.assert_unserved(row_id)
    assert secret.read_bytes() == b"Milk\n"
    assert not context.platform.settings.quarantine_root.exists()


# -- Drawing that fails -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"draw_timeout_seconds": 0.01}, "timed_out"),
        # Enough to identify the file, and not to decode it.
        ({"draw_memory_bytes": 240 * 2**20}, "out_of_memory"),
    ],
    ids=["time", "memory"],
)
def test_a_decoder_that_finds_no_end_costs_the_preview(
    openchat_context: AppContext, limits: dict[str, float], reason: str
) -> None:
    openchat_context.platform.set(**limits)
    row_id = openchat_context.upload(saved_png(7500, 7500), "a.png", "image/png")
    assert openchat_context.work(row_id) == "accepted"
    assert openchat_context.job(row_id).attempt == 1
    assert openchat_context.pictures(row_id) == []
    assert json.loads(openchat_context.row(row_id).metadata)["preview_reason"] == reason


def saved_png(width: int, height: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height)).save(out, "PNG", compress_level=1)
    return out.getvalue()


def failing_draw(monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    """Have drawing fail in the sandbox for this reason; all other work is done."""
    real = sandbox.run

    def run(work: str, *arguments: Any, **options: Any) -> dict[str, Any]:
        if work.endswith("picture:draw"):
            raise sandbox.SandboxFailure(reason, "in a test")
        return real(work, *arguments, **options)

    monkeypatch.setattr(sandbox, "run", run)


@pytest.mark.parametrize("reason", ["sandbox_died", "sandbox_raised"])
def test_a_decoder_that_crashes_costs_the_preview_at_once(
    openchat_context: AppContext, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    failing_draw(monkeypatch, reason)
    row_id = openchat_context.upload(drawing("PNG"), "a.png", "image/png")
    assert openchat_context.work(row_id) == "accepted"
    assert json.loads(openchat_context.row(row_id).metadata)["preview_reason"] == "crashed"
    assert openchat_context.job(row_id).attempt == 1


def test_a_decoder_that_is_killed_is_tried_again_and_then_costs_the_preview(
    openchat_context: AppContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel kills it if the machine is short of memory."""
    openchat_context.platform.set(attachment_attempts=2)
    failing_draw(monkeypatch, "sandbox_killed")
    row_id = openchat_context.upload(drawing("PNG"), "a.png", "image/png")
    assert openchat_context.work(row_id) == "waiting (drawing_failed)"
    openchat_context.assert_unserved(row_id)
    assert openchat_context.again(row_id) == "accepted"
    assert json.loads(openchat_context.row(row_id).metadata)["preview_reason"] == "crashed"


def test_an_answer_that_makes_no_sense_is_tried_again_and_the_file_never_served(
    openchat_context: AppContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process may have been taken over."""
    openchat_context.platform.set(attachment_attempts=2)
    failing_draw(monkeypatch, "sandbox_nonsense")
    row_id = openchat_context.upload(drawing("PNG"), "a.png", "image/png")
    assert openchat_context.work(row_id) == "waiting (drawing_failed)"
    assert openchat_context.again(row_id) == "failed (drawing_failed)"
    openchat_context.assert_unserved(row_id)


def test_a_sandbox_that_does_not_start_is_waited_for(
    openchat_context: AppContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing_draw(monkeypatch, "sandbox_closed")
    row_id = openchat_context.upload(drawing("PNG"), "a.png", "image/png")
    assert openchat_context.work(row_id) == "waiting (sandbox_unavailable)"
    assert openchat_context.job(row_id).failures == 0
    openchat_context.assert_unserved(row_id)


def test_a_fault_of_our_own_is_a_failure_and_said(
    openchat_context: AppContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    openchat_context.platform.set(attachment_attempts=2)
    row_id = openchat_context.upload(b"Milk\n")

    def fault() -> None:
        raise ZeroDivisionError

    at_scan(monkeypatch, fault)
    assert openchat_context.work(row_id) == "waiting (internal_error)"
    assert openchat_context.job(row_id).detail == "ZeroDivisionError"
    at_scan(monkeypatch, fault)
    assert openchat_context.again(row_id) == "failed (internal_error)"
    openchat_context.assert_unserved(row_id)


def test_a_file_that_takes_too_long_is_a_failure(
    openchat_context: AppContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    row_id = openchat_context.upload(b"Milk\n")

    def late() -> None:
        raise SoftTimeLimitExceeded

    at_scan(monkeypatch, late)
    assert openchat_context.work(row_id) == "waiting (timed_out)"
    assert openchat_context.job(row_id).failures == 1
    openchat_context.assert_unserved(row_id)


# -- Meanwhile ----------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("infected", [False, True])
def test_a_row_that_is_deleted_meanwhile_leaves_no_pictures(
    context: AppContext, monkeypatch: pytest.MonkeyPatch, infected: bool
) -> None:
    content = drawing("PNG") + (EICAR if infected else b"")
    row_id = context.upload(content, "a.png", "image/png")
    key = context.key(row_id)
    table = {"openchat": "openchat.attachment", "pern": "pern.attachments"}[context.app]
    at_scan(monkeypatch, lambda: context.platform.sql(f"DELETE FROM {table}"))
    assert context.work(row_id) == "vanished"
    assert context.platform.job(row_id) is None
    assert context.pictures(row_id) == []
    # Not ours to delete; but malware is not left lying about.
    assert stored(context.platform.store) == ({} if infected else {key: content})
    assert context.quarantined(row_id) == (content if infected else None)


@BOTH
def test_who_loses_the_file_to_another_writes_nothing(
    context: AppContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    for content in (drawing("PNG"), EICAR):
        row_id = context.upload(content, "a", "application/octet-stream")
        before: list[object] = []

        def taken_over(row_id: UUID = row_id, before: list[object] = before) -> None:
            context.platform.sql(
                "UPDATE roomkeeper.attachment_jobs SET attempt = attempt + 1 WHERE attachment_id = :id",
                id=row_id,
            )
            before.append(context.platform.everything())

        at_scan(monkeypatch, taken_over)
        assert context.work(row_id) == "taken over"
        assert context.platform.everything() == before[0]
        assert context.quarantined(row_id) is None
        assert context.key(row_id) in stored(context.platform.store)


def test_two_at_once_do_it_once(openchat_context: AppContext, monkeypatch: pytest.MonkeyPatch) -> None:
    row_id = openchat_context.upload(drawing("PNG"), "a.png", "image/png")
    outcomes: list[str] = []
    at_scan(monkeypatch, lambda: outcomes.append(openchat_context.work(row_id)))
    outcomes.append(openchat_context.work(row_id))
    assert outcomes == ["nothing to do", "accepted"]
    assert openchat_context.job(row_id).attempt == 1


@BOTH
def test_a_second_run_changes_nothing(context: AppContext) -> None:
    context.platform.set(attachment_attempts=1, attachment_missing_seconds=0, max_file_bytes=300_000)
    uploads = [
        context.upload(drawing("PNG"), "a.png", "image/png"),
        context.upload(b"Milk\n"),
        context.upload(EICAR),
        context.upload(encrypted_zip(), "a.zip", "application/zip"),
        context.upload(program(), "a.png", "image/png"),
        context.upload(b"x" * 300_001),
        context.upload(b"Bread\n", file_size=7),
        context.upload(None),
    ]
    first = [context.work(row_id) for row_id in uploads]
    assert len(set(first)) == 7
    rows, objects = context.platform.everything(), stored(context.platform.folder)
    assert [context.work(row_id) for row_id in uploads] == ["nothing to do"] * 8
    assert context.platform.everything() == rows
    assert stored(context.platform.folder) == objects


@BOTH
def test_nobody_elses_row_is_touched(context: AppContext) -> None:
    platform = context.platform
    platform.openchat_attachment(b"theirs", metadata_="{}", thumbnail_url="/t")
    platform.pern_attachment(b"theirs", thumbnail_path="t")
    uploads = [
        context.upload(drawing("PNG"), "a.png", "image/png"),
        context.upload(EICAR),
        context.upload(None),
    ]

    def others() -> dict[str, list[tuple[Any, ...]]]:
        return {
            name: [row for row in rows if not any(value in uploads for value in row)]
            for name, rows in platform.everything().items()
            # Verdicts are of content, not of an upload.
            if name != "roomkeeper.scan_verdicts"
        }

    before = others()
    for row_id in uploads:
        context.work(row_id)
    assert others() == before


def test_an_unknown_row_is_an_error(openchat_context: AppContext) -> None:
    with pytest.raises(attachment_work.UnknownAttachmentError):
        openchat_context.work(uuid4())


def test_a_deleted_row_is_left_alone(openchat_context: AppContext) -> None:
    row_id = openchat_context.upload(EICAR, is_deleted=True)
    before = openchat_context.platform.everything()
    assert openchat_context.work(row_id) == "nothing to do"
    assert openchat_context.platform.everything() == before


def test_no_temporary_file_is_left(
    openchat_context: AppContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    seen: list[Path] = []
    at_scan(monkeypatch, lambda: seen.extend(folder.iterdir()))
    openchat_context.platform.set(attachment_attempts=1)
    for content in (drawing("PNG"), EICAR, encrypted_zip(), None):
        openchat_context.work(openchat_context.upload(content, "a", "application/octet-stream"))
        assert list(folder.iterdir()) == []
    assert len(seen) == 1


def test_the_lease_is_kept_while_a_scan_takes_longer_than_it(
    openchat_context: AppContext, clamd: ClamdServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    openchat_context.platform.set(attachment_lease_seconds=1)
    row_id = openchat_context.upload(b"Milk\n")
    at_scan(monkeypatch, clamd.freeze)
    outcomes: list[str] = []
    thread = threading.Thread(target=lambda: outcomes.append(openchat_context.work(row_id)))
    thread.start()
    eventually(lambda: (job := openchat_context.platform.job(row_id)) and job.phase == "scan")
    first = openchat_context.job(row_id).lease_until
    # Renewed to beyond what the lease taken at the scan's beginning would have allowed.
    eventually(lambda: (openchat_context.job(row_id).lease_until - first).total_seconds() > 1.2)
    assert openchat_context.work(row_id) == "nothing to do"
    clamd.thaw()
    thread.join()
    assert outcomes == ["accepted"]
    assert openchat_context.job(row_id).attempt == 1


def test_a_row_that_is_soft_deleted_meanwhile_is_not_served(
    openchat_context: AppContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    row_id = openchat_context.upload(drawing("PNG"), "a.png", "image/png")
    at_scan(
        monkeypatch, lambda: openchat_context.platform.sql("UPDATE openchat.attachment SET is_deleted = true")
    )
    assert openchat_context.work(row_id) == "vanished"
    openchat_context.assert_unserved(row_id)
    assert openchat_context.platform.job(row_id) is None
    # Restored, it is as if it had never been seen.
    openchat_context.platform.sql("UPDATE openchat.attachment SET is_deleted = NULL")
    assert openchat_context.work(row_id) == "accepted"
    assert openchat_context.row(row_id).processing_status == "completed"


def test_a_database_that_restarts_meanwhile_counts_against_nobody(
    openchat_context: AppContext, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    openchat_context.platform.set(attachment_lease_seconds=30)
    row_id = openchat_context.upload(b"text")
    reached, stopped, noticed = threading.Event(), threading.Event(), threading.Event()

    def outage() -> None:
        reached.set()
        assert stopped.wait(60)

    def pause(seconds: float) -> None:
        noticed.set()
        sleep(seconds)

    at_scan(monkeypatch, outage)
    monkeypatch.setattr(pipeline, "sleep", pause)
    with ThreadPoolExecutor() as pool:
        end = pool.submit(openchat_context.work, row_id)
        assert reached.wait(60)
        postgres.stop()
        stopped.set()
        assert noticed.wait(60)
        postgres.start()
        assert end.result(60) == "waiting (database_unavailable)"
    assert openchat_context.job(row_id).failures == 0
    openchat_context.assert_unserved(row_id)
    assert openchat_context.again(row_id) == "accepted"
