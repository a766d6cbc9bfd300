"""Files that are broken, hostile or strange, through the whole pipeline and in both stores."""

import json
import struct
import unicodedata
import zlib
from email.message import Message
from functools import cache
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from sqlalchemy.exc import DataError

from tests.attachments import hostile, media
from tests.attachments.carriers import DOCX, HTML, NOISE, heic, letter, pdf, picture, windows_program
from tests.attachments.context import AppContext
from tests.attachments.shelf import Shelf
from tests.platform import Platform
from workers import sandbox
from workers.known_bad import EICAR, encrypted_zip, zipped
from workers.sandbox import SandboxFailure

S3 = pytest.mark.parametrize("shelf", ["s3"], indirect=True)
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'


@pytest.fixture(params=["local", "s3"])
def shelf(request: pytest.FixtureRequest, platform: Platform) -> Shelf:
    if request.param == "s3":
        platform.use_s3(request.getfixturevalue("seaweedfs"), request.getfixturevalue("bucket"))
    return Shelf(platform, "openchat", request.param)


# -- Not served ---------------------------------------------------------------------------------------------


def png_bomb() -> bytes:
    """Return an honest PNG of some KB and 144 megapixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    side = 12_000
    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(1 + side // 8)) for _ in range(side)) + packer.flush()
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def gif_bomb() -> bytes:
    """Return a small GIF that says it is 65,535 pixels wide and high."""
    gif = bytearray(picture("GIF"))
    gif[6:10] = struct.pack("<HH", 65_535, 65_535)
    return bytes(gif)


def pdf_with_file(content: bytes) -> bytes:
    """Return a PDF with a packed file in it."""
    head = b"<< /Type /EmbeddedFile /Filter /FlateDecode /Length"
    return pdf(streams=(zlib.compress(content),)).replace(b"<< /Length", head)


def cut(kind: str) -> dict[str, tuple[bytes, str, str]]:
    """Return pictures that end too early: content, name and declared type."""
    media_type = f"image/{kind.lower()}"
    whole = heic() if kind == "HEIC" else picture(kind, (200, 150))
    lengths = {"in its middle": len(whole) // 2, "before its end": len(whole) - 40}
    return {
        f"{kind} cut {where}": (whole[:length], f"a.{kind.lower()}", media_type)
        for where, length in lengths.items()
    }


@cache
def refused() -> dict[str, tuple[bytes, str, str, str | None, str]]:
    """Return content, name, declared type, verdict and reason of what is not served."""
    zip_type = "application/zip"
    return {
        "zip that lies": (hostile.liar(), "a.zip", zip_type, "suspicious", "zip_bomb"),
        "zip that overlaps": (hostile.overlapping(), "a.zip", zip_type, "suspicious", "zip_bomb"),
        "encrypted zip": (encrypted_zip(), "a.zip", zip_type, "suspicious", "encrypted_archive"),
        "letter with macros": (hostile.macro_letter(), "a.docx", "", "suspicious", "macros"),
        "GIF and script": (hostile.gif_script(), "a.gif", "image/gif", "clean", "polyglot"),
        "JPEG and program": (
            picture("JPEG") + windows_program(),
            "a.jpg",
            "image/jpeg",
            "clean",
            "polyglot",
        ),
        "name that turns round": (
            windows_program(),
            "photo\u202egpj.exe",
            "application/x-msdownload",
            "clean",
            "unsafe_name",
        ),
        "EICAR in a zip in a zip": (zipped(zipped(EICAR)), "a.zip", zip_type, "infected", "malware"),
        "EICAR in a PDF": (pdf_with_file(EICAR), "a.pdf", "application/pdf", "infected", "malware"),
        "EICAR in a letter": (
            letter({"word/embeddings/a.bin": EICAR}),
            "a.docx",
            "",
            "infected",
            "malware",
        ),
    }


def test_what_is_broken_or_hostile_is_refused_with_its_reason_and_leaves_nothing(shelf: Shelf) -> None:
    platform, folder = shelf.platform, shelf.workplace()
    neighbour = platform.openchat_attachment(b"theirs", metadata_="{}", thumbnail_url="/t")
    before = shelf.row(neighbour)
    for what, (content, name, media_type, verdict, reason) in refused().items():
        row_id = shelf.upload(content, name, media_type)
        outcome = "quarantined" if reason == "malware" else "refused"
        assert shelf.work(row_id) == f"{outcome} ({reason})", what
        job, row = shelf.job(row_id), shelf.row(row_id)
        assert (job.state, job.outcome, job.verdict, job.reason) == ("finished", outcome, verdict, reason)
        assert job.detail, what
        assert (job.attempt, job.failures, job.small_key, job.large_key) == (1, 0, None, None), what
        assert (row.storage_url, row.thumbnail_url, row.preview_url) == (None, None, None), what
        assert (row.processing_status, row.is_scanned, row.scan_result) == ("failed", True, verdict), what
        assert row.processing_error == f"{reason}: {job.detail}", what
        # What the uploader said stays as it was.
        declared = (row.mime_type, row.original_filename, row.file_size, row.metadata)
        assert declared == (media_type, name, len(content), None), what
        assert list(folder.iterdir()) == [], what
    assert shelf.row(neighbour) == before
    if shelf.provider == "local":
        shelf.uploaded[neighbour] = b"theirs"
        shelf.work(neighbour)
    shelf.assert_nothing_else_is_left()


@cache
def without_preview() -> dict[str, tuple[bytes, str, str, str]]:
    """Return content, name, declared type, and why there is no preview of what is served nevertheless."""
    cuts: dict[str, tuple[bytes, str, str]] = {}
    for kind in ("WEBP", "AVIF", "HEIC"):
        cuts |= cut(kind)
    return {what: (*file, "undecodable") for what, file in cuts.items()} | {
        "PNG bomb": (png_bomb(), "a.png", "image/png", "over_budget"),
        "GIF bomb": (gif_bomb(), "a.gif", "image/gif", "over_budget"),
        "film without a frame": (film_head(), "a.mp4", "video/mp4", "undecodable"),
        "film of large frames": (media.video([media.flag(1280, 720)]), "a.mp4", "video/mp4", "over_budget"),
        "broken PDF": (b"%PDF-1.7\n%%EOF\n", "a.pdf", "application/pdf", "undecodable"),
    }


def film_head() -> bytes:
    """Return the beginning of a film of which nothing else has arrived."""
    return media.video([media.flag()] * 5)[:40]


def test_what_cannot_be_drawn_is_served_without_a_preview(shelf: Shelf) -> None:
    shelf.platform.set(draw_decoded_bytes=2_000_000)
    folder = shelf.workplace()
    for what, (content, name, media_type, reason) in without_preview().items():
        row_id = shelf.upload(content, name, media_type, metadata_='{"small": 1, "theirs": 2}')
        assert shelf.work(row_id) == "accepted", what
        job, row = shelf.job(row_id), shelf.served(row_id)
        assert (job.state, job.verdict, job.reason, job.attempt) == ("finished", "clean", None, 1), what
        assert (row.thumbnail_url, row.preview_url, row.mime_type) == (None, None, media_type), what
        metadata = json.loads(row.metadata)
        assert (metadata["preview_reason"], metadata["theirs"]) == (reason, 2), what
        assert metadata["preview_detail"], what
        assert "small" not in metadata, what
        assert shelf.pictures(row_id) == [], what
        events = shelf.platform.sql(
            "SELECT detail->>'reason' FROM roomkeeper.attachment_events"
            " WHERE attachment_id = :id AND event = 'no_preview'",
            id=row_id,
        )
        assert [reason for (reason,) in events] == [reason], what
        assert list(folder.iterdir()) == [], what
    shelf.assert_nothing_else_is_left()


def test_what_is_cut_short_is_served_and_drawn_as_far_as_it_goes(shelf: Shelf) -> None:
    for kind in ("JPEG", "PNG", "GIF", "BMP", "TIFF"):
        for what, (content, name, media_type) in cut(kind).items():
            row_id = shelf.upload(content, name, media_type)
            assert shelf.work(row_id) == "accepted", what
            assert len(shelf.pictures(row_id)) == 2, what
            assert "preview_reason" not in json.loads(shelf.served(row_id).metadata), what


@S3
def test_the_limit_of_size_is_exact_in_a_bucket_too(shelf: Shelf) -> None:
    limit = 300_000
    folder = shelf.workplace()
    shelf.platform.set(max_file_bytes=limit)
    for size in (limit - 1, limit):
        assert shelf.work(shelf.upload(b"x" * size)) == "accepted"
    row_id = shelf.upload(b"x" * (limit + 1))
    assert shelf.work(row_id) == "refused (too_large)"
    shelf.assert_refused(row_id, "suspicious", "too_large")
    assert list(folder.iterdir()) == []


def test_an_encrypted_file_has_a_limit_of_size_too(platform: Platform) -> None:
    platform.set(max_file_bytes=1_000)
    context = AppContext(platform, "pern")
    for size, end in ((1_000, "accepted"), (1_001, "refused (too_large)")):
        assert context.work(context.upload(b"x" * size, is_encrypted=True)) == end


# -- Served, but with care ----------------------------------------------------------------------------------

NAMES = (
    "../../etc/passwd.txt",
    "..\\..\\windows\\win.txt",
    "/etc/cron.d/x.txt",
    "invoice\u202efdp.txt",
    "x" * 296 + ".txt",
    "ü" * 300,
    'a"; filename="evil.html',
    "a\r\nSet-Cookie: a=b\r\n\r\n<script>.txt",
    "a\x1b[2J\x7f\u0085\u2028b.txt",
    "%2e%2e%2fa.txt",
    "🎉 \u05d0\u05d1\u05d2.txt",
    ".htaccess",
    "a.txt. . ",
    " ",
    "",
)


def got(url: str) -> tuple[bytes, Message]:
    """Return what a browser gets under a signed address."""
    with urlopen(Request(url), timeout=20) as answer:
        headers = Message()
        for name, value in answer.headers.items():
            headers[name] = value
        return answer.read(), headers


def test_strange_names_reach_neither_keys_nor_headers(shelf: Shelf) -> None:
    keys = []
    for name in NAMES:
        row_id = shelf.upload(b"Milk\n", name, "text/plain")
        keys.append(shelf.key(row_id))
        assert shelf.work(row_id) == "accepted", name
        row = shelf.served(row_id)
        assert row.original_filename == name
        if shelf.provider == "local":
            assert row.storage_url == f"/files/{keys[-1]}"
            continue
        content, headers = got(row.storage_url)
        assert content == b"Milk\n"
        assert headers["Content-Type"] == "text/plain"
        assert headers["Set-Cookie"] is None
        assert headers.get_content_disposition() == "inline", name
        saved = headers.get_filename("")
        assert not set(saved) & set('/\\"<>%'), name
        assert not any(unicodedata.category(letter)[0] == "C" for letter in saved), name
        assert len(saved) <= 120
        assert saved.strip(". ") == saved
        if name.isascii() and "." in name.strip(". ") and len(name) < 100:
            assert saved, name
    assert set(shelf.objects()) == set(keys)


PAGES = (
    (SVG, "a.svg", "image/svg+xml"),
    (HTML, "a.html", "text/html"),
    (HTML, "a.bin", "application/octet-stream"),
    (b"<?xml version='1.0'?><html xmlns='http://www.w3.org/1999/xhtml'></html>", "a.xhtml", "text/xml"),
    (b"alert(1)\n", "a.js", "text/javascript"),
    (pdf(), "a.pdf", "application/pdf"),
    # Texts with a page's tags in them, and pages that other programs open.
    (HTML, "README.md", "text/markdown"),
    (b"const page = `<!doctype html><html></html>`;\n", "app.js", "text/javascript"),
    (b'import x\ns = "<table><tr>"\nprint(s)\n', "report.py", "text/x-python"),
    (b"insert into a values ('<html><body>');\n", "a.sql", "application/sql"),
    (b"id,text\n1,<html><body><b>bold</b>\n", "a.csv", "text/csv"),
    (b"01:00 GET / <html><head>\n", "server.log", "text/plain"),
    (b'Hello,\nplease see <a href="http://x.example">here</a>.\n', "mail.txt", "text/plain"),
    (b'<html xmlns:x="urn:schemas-microsoft-com:office:excel"></html>', "a.xls", "application/vnd.ms-excel"),
    (b"<html><body>Dear Ada</body></html>", "a.doc", "application/msword"),
    (SVG, "a.txt", "text/plain"),
)


@S3
def test_what_a_browser_could_run_is_only_ever_saved(shelf: Shelf) -> None:
    for content, name, media_type in PAGES:
        row_id = shelf.upload(content, name, media_type)
        key = shelf.key(row_id)
        # As a careless service stores it, or an attacker with an upload form.
        shelf.platform.put(content, key, "s3", ContentType="text/html", ContentDisposition="inline")
        assert shelf.work(row_id) == "accepted", name
        url = shelf.served(row_id).storage_url
        body, headers = got(url)
        assert body == content
        # With the signed words, and with those that the object itself has, for who serves the bucket.
        assert shelf.platform.client is not None
        bare = shelf.platform.client.head_object(Bucket=str(shelf.platform.settings.s3_bucket), Key=key)
        assert headers["Content-Type"] == bare["ContentType"] == "application/octet-stream", name
        assert headers.get_content_disposition() == "attachment", name
        assert bare["ContentDisposition"].startswith("attachment"), name
        with pytest.raises(HTTPError, match="403"):
            got(url.replace("application%2Foctet-stream", "text%2Fhtml"))
        if media_type != "application/octet-stream":
            assert shelf.row(row_id).mime_type == media_type


UNKNOWN = (
    (NOISE, "a.emf", "image/emf", "image/emf", "application/octet-stream"),
    (NOISE, "a.dv", "video/x-dv", "video/x-dv", "video/x-dv"),
    (NOISE, "a.png", "image/png", "application/octet-stream", "application/octet-stream"),
    (NOISE, "a.docx", DOCX, "application/octet-stream", "application/octet-stream"),
    (
        b"! XPM2\n1 1 1 1\na c #000000\na\n",
        "a.xpm",
        "image/x-xpixmap",
        "image/x-xpixmap",
        "application/octet-stream",
    ),
    (b"a\tb\n" + bytes(99) + b"c\td\n" * 40, "a.log", "text/plain", "text/plain", "text/plain"),
    (picture("PNG"), "a.pdf", "application/pdf", "image/png", "image/png"),
    (zipped(b"x"), "a.jpg", "image/jpeg", "application/zip", "application/zip"),
)


@S3
def test_what_is_unknown_or_renamed_is_served_as_what_does_no_harm(shelf: Shelf) -> None:
    for content, name, media_type, kept, served in UNKNOWN:
        row_id = shelf.upload(content, name, media_type)
        assert shelf.work(row_id) == "accepted", name
        row = shelf.served(row_id)
        assert row.mime_type == kept
        body, headers = got(row.storage_url)
        assert body == content
        assert headers["Content-Type"] == served, name
        shown = served.startswith(("image/", "video/", "text/plain"))
        assert headers.get_content_disposition() == ("inline" if shown else "attachment"), name


@pytest.mark.parametrize(
    "stored",
    ["[" * 100_000, '{"a": ' + "9" * 5_000 + "}", '{"a": NaN}', '{"a": "\\u0000\\ud800"}', "\ufeff{}", '"x"'],
    ids=["deep", "long number", "NaN", "NUL and half a letter", "byte order mark", "text"],
)
def test_metadata_that_is_no_json_or_hardly_costs_nobody_anything(platform: Platform, stored: str) -> None:
    context = AppContext(platform, "openchat")
    row_id = context.upload(picture("PNG"), "a.png", "image/png", metadata_=stored)
    assert context.work(row_id) == "accepted"
    metadata = json.loads(context.row(row_id).metadata)
    assert (metadata["width"], metadata["height"]) == (40, 30)
    assert "a" in metadata or metadata["unparsed"] == stored


# -- Letters that the database cannot hold -----------------------------------------------------------------


def test_the_database_itself_keeps_nul_out_of_names(platform: Platform) -> None:
    with pytest.raises(DataError, match="NUL"):
        AppContext(platform, "openchat").upload(b"Milk\n", "a\0.txt")


@pytest.mark.parametrize("work", ["identify:inspect", "drawing.picture:draw", "strip:strip"])
def test_what_a_taken_over_process_says_can_be_written_down(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, work: str
) -> None:
    real = sandbox.run

    def run(asked: str, *arguments: object, **options: object) -> object:
        if asked.endswith(work):
            raise SandboxFailure("sandbox_raised", "ValueError: \0 \ud800 \u202e \x1b[2J" + "x" * 400)
        return real(asked, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(sandbox, "run", run)
    platform.set(attachment_attempts=2, strip_originals="openchat")
    context = AppContext(platform, "openchat")
    row_id = context.upload(picture("PNG"), "a.png", "image/png")
    if work == "drawing.picture:draw":
        assert context.work(row_id) == "accepted"
        metadata = json.loads(context.row(row_id).metadata)
        assert metadata["preview_reason"] == "crashed"
        assert metadata["preview_detail"].startswith("sandbox_raised: ValueError: ")
        return
    reason = {"identify:inspect": "identify_failed", "strip:strip": "strip_failed"}[work]
    assert context.work(row_id) == f"waiting ({reason})"
    assert context.again(row_id) == f"failed ({reason})"
    assert context.job(row_id).detail.startswith("sandbox_raised: ValueError: ")
    context.assert_unserved(row_id)
