"""Films, sounds and raw photos that libmagic does not know, through the whole pipeline."""

import io
import json
import struct
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from PIL import Image

from stack.demo.samples import program
from tests.attachments import media
from tests.attachments.carriers import HTML
from tests.attachments.context import AppContext
from tests.platform import Platform
from workers import sandbox


@pytest.fixture
def context(platform: Platform) -> AppContext:
    return AppContext(platform, "openchat")


@cache
def film(kind: str, brand: str = "", m2ts: str = "") -> bytes:
    options = {"brand": brand} if brand else {"mpegts_m2ts_mode": m2ts} if m2ts else {}
    return media.video([media.flag(128, 96)] * 12, kind=kind, options=options)


def begun_with(boxes: bytes) -> bytes:
    """Return a QuickTime film that begins with other boxes than its type."""
    whole = film("mov")
    # Of the same size, or the film would not find its data.
    assert len(boxes) == int.from_bytes(whole[:4])
    return boxes + whole[int.from_bytes(whole[:4]) :]


def camcorder() -> bytes:
    """Return a film of a tape: DV has one size and one rate."""
    return media.video([media.flag(720, 576)] * 5, kind="dv", codec="dvvideo", fps=25)


def tone(kind: str, codec: str) -> bytes:
    return media.audio(lambda _: 0.5, 1, kind=kind, codec=codec)


FILMS: dict[str, tuple[Callable[[], bytes], str, str]] = {
    "XAVC of a camera": (lambda: film("mp4", brand="XAVC"), "C0001.MP4", "video/mp4"),
    "AVCHD of a camera": (lambda: film("mpegts", m2ts="1"), "00001.MTS", "video/mp2t"),
    "stream of a television": (lambda: film("mpegts"), "a.ts", "video/mp2t"),
    "begins with skip": (lambda: begun_with(b"\0\0\0\x14skip" + bytes(12)), "a.mov", "video/quicktime"),
    "begins with wide": (
        lambda: begun_with(b"\0\0\0\x08wide\0\0\0\x0cfree\0\0\0\0"),
        "a.mov",
        "video/quicktime",
    ),
    "begins with free": (lambda: begun_with(b"\0\0\0\x14free" + bytes(12)), "a.mov", "video/quicktime"),
    "begins with pnot": (lambda: begun_with(b"\0\0\0\x14pnot" + bytes(12)), "a.mov", "video/quicktime"),
    "DV of a tape": (camcorder, "a.dv", "video/x-dv"),
    "MXF of a studio": (
        lambda: media.video([media.flag()] * 12, kind="mxf", codec="mpeg2video", fps=25),
        "a.mxf",
        "video/mxf",
    ),
}
SOUNDS: dict[str, tuple[Callable[[], bytes], str, str]] = {
    "CAF": (lambda: tone("caf", "pcm_s16be"), "a.caf", "audio/x-caf"),
    "WavPack": (lambda: tone("wv", "wavpack"), "a.wv", "audio/x-wavpack"),
    "True Audio": (lambda: tone("tta", "tta"), "a.tta", "audio/x-tta"),
    "MP3 behind zeros": (lambda: bytes(2000) + tone("mp3", "libmp3lame"), "a.mp3", "audio/mpeg"),
}


@pytest.mark.parametrize("what", FILMS)
def test_a_film_is_what_the_decoder_opens(context: AppContext, what: str) -> None:
    make, name, media_type = FILMS[what]
    row_id = context.upload(make(), name, media_type)
    assert context.work(row_id) == "accepted"
    row = context.row(row_id)
    assert row.mime_type == media_type
    metadata = json.loads(row.metadata)
    assert "preview_reason" not in metadata
    assert metadata["video_codec"]
    assert context.pictures(row_id) == ["large.webp", "small.webp"]


@pytest.mark.parametrize("what", SOUNDS)
def test_a_sound_is_what_the_decoder_opens(context: AppContext, what: str) -> None:
    make, name, media_type = SOUNDS[what]
    row_id = context.upload(make(), name, media_type)
    assert context.work(row_id) == "accepted"
    row = context.row(row_id)
    assert row.mime_type == media_type
    assert max(json.loads(row.metadata)["peaks"]) > 90


def test_the_name_is_a_claim_too(context: AppContext) -> None:
    row_id = context.upload(film("mpegts", m2ts="1"), "00001.MTS", "application/octet-stream")
    assert context.work(row_id) == "accepted"
    assert context.row(row_id).mime_type == "video/mp2t"
    assert len(context.pictures(row_id)) == 2


def test_what_the_decoder_does_not_open_is_served_without_a_preview(context: AppContext) -> None:
    noise = bytes(range(1, 256)) * 40
    row_id = context.upload(noise, "a.caf", "audio/x-caf")
    assert context.work(row_id) == "accepted"
    assert context.job(row_id).media_type == "application/octet-stream"
    assert context.pictures(row_id) == []
    assert json.loads(context.row(row_id).metadata)["preview_reason"] == "undecodable"


def test_the_decoder_is_not_asked_about_programs_and_pages(
    context: AppContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, works = sandbox.run, []

    def run(work: str, *arguments: Any, **options: Any) -> dict[str, Any]:
        works.append(work)
        return real(work, *arguments, **options)

    monkeypatch.setattr(sandbox, "run", run)
    for content in (program(), HTML):
        row_id = context.upload(content, "a.mp4", "video/mp4")
        assert context.work(row_id) == "refused (type_mismatch)"
        context.assert_refused(row_id, "clean", "type_mismatch")
    assert set(works) == {"tasks.attachments.identify:inspect"}


def test_a_decoder_that_crashes_while_it_is_asked_opens_nothing(
    context: AppContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = sandbox.run

    def run(work: str, *arguments: Any, **options: Any) -> dict[str, Any]:
        if work.endswith("container:probe"):
            raise sandbox.SandboxFailure("sandbox_died", "in a test")
        return real(work, *arguments, **options)

    monkeypatch.setattr(sandbox, "run", run)
    row_id = context.upload(film("mp4", brand="XAVC"), "a.mp4", "video/mp4")
    context.work(row_id)
    assert context.job(row_id).media_type == "application/octet-stream"
    assert context.pictures(row_id) == []


# -- Raw photos ---------------------------------------------------------------------------------------------


def raw_photo(preview: bytes = b"", orientation: int = 1) -> bytes:
    """Return a TIFF whose only picture is what a sensor's filters let through, with a JPEG behind it."""
    width, height = 64, 48
    sensor = bytes(range(256)) * (width * height * 2 // 256)
    maker = b"Google\0Pixel 8\0"
    count = 13
    at = 8 + 2 + 12 * count + 4
    entries = [
        *((254, 4, 1, 0), (256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 16), (259, 3, 1, 1)),
        *((262, 3, 1, 32803), (271, 2, 7, at), (272, 2, 8, at + 7), (273, 4, 1, at + len(maker))),
        *((274, 3, 1, orientation), (277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, len(sensor))),
    ]
    directory = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    head = b"II*\0\x08\0\0\0" + struct.pack("<H", count) + directory + bytes(4)
    return head + maker + sensor + preview


@pytest.mark.parametrize(
    ("name", "media_type", "kept"),
    [
        ("PXL_1.dng", "image/x-adobe-dng", "image/x-adobe-dng"),
        ("IMG_1.CR2", "image/x-canon-cr2", "image/x-canon-cr2"),
        ("DSC_1.NEF", "image/x-nikon-nef", "image/x-nikon-nef"),
        ("DSC1.ARW", "image/x-sony-arw", "image/x-sony-arw"),
        # Browsers know none of these names.
        ("DSC1.ARW", "application/octet-stream", "image/x-sony-arw"),
        ("PXL_1.dng", "image/tiff", "image/x-adobe-dng"),
    ],
)
def test_a_raw_photo_is_served_under_its_own_type(
    context: AppContext, name: str, media_type: str, kept: str
) -> None:
    # Its tags are what it is developed by: none is taken out.
    context.platform.set(strip_originals="openchat")
    content = raw_photo()
    row_id = context.upload(content, name, media_type)
    assert context.work(row_id) == "accepted"
    row = context.row(row_id)
    assert (row.mime_type, row.preview_url) == (kept, None)
    assert json.loads(row.metadata)["preview_reason"] == "unsupported"
    assert (context.platform.store / context.key(row_id)).read_bytes() == content


def test_the_preview_of_a_camera_is_drawn_upright(context: AppContext) -> None:
    icon, preview = io.BytesIO(), io.BytesIO()
    media.flag(100, 75).save(icon, "JPEG")
    media.flag(640, 480).transpose(Image.Transpose.ROTATE_90).save(preview, "JPEG", quality=95)
    content = raw_photo(icon.getvalue() + bytes(100) + preview.getvalue(), orientation=6)
    row_id = context.upload(content, "PXL_1.dng", "image/x-adobe-dng")
    assert context.work(row_id) == "accepted"
    folder = context.platform.store / "derived" / "openchat" / str(row_id)
    with Image.open(folder / "large.webp") as picture:
        assert picture.size == (640, 480)
        assert media.alike(media.quarters(picture), media.FLAG)


def test_a_picture_that_is_no_tiff_is_no_raw_photo(context: AppContext) -> None:
    out = io.BytesIO()
    media.flag().save(out, "JPEG")
    row_id = context.upload(out.getvalue(), "IMG_1.dng", "image/x-adobe-dng")
    assert context.work(row_id) == "accepted"
    assert context.row(row_id).mime_type == "image/jpeg"
    assert len(context.pictures(row_id)) == 2
