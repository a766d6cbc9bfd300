"""What real bytes are, as people upload them and as they are disguised."""

import bz2
import gzip
import io
import json
import lzma
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from stack.demo.samples import bomb, program
from tasks.attachments import identify
from tasks.attachments.content.finding import Content
from tasks.attachments.policy import decide
from tasks.policies.media_types import normal
from tasks.policies.traits import TRAIT
from tests.attachments.carriers import (
    DOCX,
    HTML,
    MPEG_FRAMES,
    NOISE,
    OFFICE,
    SCRIPT,
    SVG,
    TABLE,
    TYPESCRIPT,
    XLSX,
    carriers,
    letter,
    matroska,
    mp3,
    mp4,
    ole,
    picture,
    sound,
    tar,
    windows_program,
    zipped,
)
from tests.attachments.looking import look, traits

PPTX = f"{OFFICE}.presentationml.presentation"
PROJECT = Path(__file__).parents[2]


def archive(*names: str) -> bytes:
    """Return a zip with entries of these names; `mimetype=…` is stored, as OpenDocument and EPUB want."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        for name in names:
            name, _, content = name.partition("=")
            kind = zipfile.ZIP_STORED if content else zipfile.ZIP_DEFLATED
            file.writestr(name, content or '<?xml version="1.0"?><x/>', kind)
    return out.getvalue()


def office(part: str) -> bytes:
    """Return an office document as Word, Excel and PowerPoint write it."""
    return archive("[Content_Types].xml", "_rels/.rels", part)


#: After a power cut.
LOG = b"Nov 30 01:00:01 host a: started\n" * 50 + bytes(512) + b"Nov 30 01:02:01 host a: started\n" * 50

#: What people upload, as browsers on Windows, macOS, Linux, Android and iOS declare it.
UPLOADS: list[tuple[bytes, str, str]] = [
    (letter(), DOCX, "letter.docx"),
    (letter(), DOCX, "letter.docx"),
    (archive("_rels/.rels", "word/document.xml"), DOCX, "letter.docx"),
    (office("xl/workbook.xml"), XLSX, "numbers.xlsx"),
    (office("xl/workbook.xml"), "application/vnd.ms-excel.sheet.macroEnabled.12", "numbers.xlsm"),
    (office("ppt/presentation.xml"), PPTX, "talk.pptx"),
    (office("visio/document.xml"), "application/vnd.ms-visio.drawing", "plan.vsdx"),
    (letter(), "application/octet-stream", "letter.docx"),
    (letter(), "", "letter.docx"),
    (letter(), "application/zip", "letter.docx"),
    (
        archive("mimetype=application/vnd.oasis.opendocument.text"),
        "application/vnd.oasis.opendocument.text",
        "a.odt",
    ),
    (archive("mimetype=application/vnd.oasis.opendocument.graphics"), "", "a.odg"),
    (archive("mimetype=application/epub+zip"), "application/epub+zip", "book.epub"),
    (ole(), "application/msword", "old.doc"),
    (ole(), "application/vnd.ms-excel", "old.xls"),
    (ole(), "application/vnd.ms-powerpoint", "old.ppt"),
    (ole(), "application/vnd.ms-outlook", "mail.msg"),
    (b"{\\rtf1\\ansi hello}", "application/rtf", "a.rtf"),
    (b"{\\rtf1\\ansi hello}", "application/msword", "a.rtf"),
    (archive("Index/Document.iwa"), "application/vnd.apple.pages", "a.pages"),
    (archive("AndroidManifest.xml"), "application/vnd.android.package-archive", "a.apk"),
    (archive("META-INF/MANIFEST.MF", "A.class"), "application/java-archive", "a.jar"),
    (zipped({"a": b"hi"}), "application/zip", "a.zip"),
    (zipped({"a": b"hi"}), "application/x-zip-compressed", "a.zip"),
    (zipped({"a": b"hi"}), "", "a.zip"),
    (archive(), "application/zip", "empty.zip"),
    (tar("w"), "application/x-tar", "a.tar"),
    (tar("w:gz"), "application/gzip", "a.tar.gz"),
    (tar("w:gz"), "application/x-gzip", "a.tar.gz"),
    (tar("w:gz"), "application/x-compressed", "a.tgz"),
    (tar("w:gz"), "application/x-compressed-tar", "a.tar.gz"),
    (tar("w:bz2"), "application/x-bzip-compressed-tar", "a.tar.bz2"),
    (tar("w:xz"), "application/x-xz-compressed-tar", "a.tar.xz"),
    (gzip.compress(b"log"), "application/gzip", "server.log.gz"),
    (bz2.compress(b"log"), "application/x-bzip2", "a.bz2"),
    (lzma.compress(b"log"), "application/x-xz", "a.xz"),
    (b"7z\xbc\xaf\x27\x1c\0\4" + bytes(40), "application/x-7z-compressed", "a.7z"),
    (b"Rar!\x1a\7\1\0" + bytes(40), "application/vnd.rar", "a.rar"),
    (b"Rar!\x1a\7\1\0" + bytes(40), "application/x-rar-compressed", "a.rar"),
    (TABLE, "text/csv", "a.csv"),
    (TABLE, "application/vnd.ms-excel", "a.csv"),
    (TABLE, "", "a.csv"),
    (TABLE.replace(b",", b";"), "application/vnd.ms-excel", "a.csv"),
    ("Größe,Zahl\nä,1\n".encode("cp1252"), "text/csv", "a.csv"),
    ("\ufeffGröße,Zahl\nä,1\n".encode(), "text/csv", "a.csv"),
    ("Größe,Zahl\nä,1\n".encode("utf-16"), "text/csv", "a.csv"),
    (b'{"a": [1, 2, 3]}', "application/json", "a.json"),
    (b'{"a": [1, 2, 3]}', "text/plain", "a.txt"),
    (b'{"a": 1}\n{"a": 2}\n', "application/x-ndjson", "a.ndjson"),
    (b'{"cells": [], "nbformat": 4}', "application/x-ipynb+json", "a.ipynb"),
    (b'{"type": "FeatureCollection"}', "application/geo+json", "a.geojson"),
    (b"# Title\n\nSome *text*.\n", "", "README.md"),
    (b"# Title\n\nSome *text*.\n", "text/markdown", "README.md"),
    (b'<p align="center">\n<img src="x">\n</p>\n\n# Title\n', "text/markdown", "README.md"),
    (b"a: 1\nb:\n  - x\n", "application/x-yaml", "a.yaml"),
    (b"[tool]\na = 1\n", "application/toml", "pyproject.toml"),
    (b"[autorun]\nopen=x\n", "text/plain", "a.ini"),
    (b"SELECT 1;\n", "application/sql", "a.sql"),
    (b'<?xml version="1.0"?><a/>', "text/xml", "a.xml"),
    (b'<?xml version="1.0"?><gpx></gpx>', "application/gpx+xml", "a.gpx"),
    (b'<?xml version="1.0"?><kml></kml>', "application/vnd.google-earth.kml+xml", "a.kml"),
    (b"\\documentclass{article}\n\\begin{document}\nx\\end{document}\n", "application/x-tex", "a.tex"),
    (b"1\n00:00:01,000 --> 00:00:02,000\nHi\n", "application/x-subrip", "a.srt"),
    (b"BEGIN:VCARD\r\nVERSION:3.0\r\nFN:Ada\r\nEND:VCARD\r\n", "text/x-vcard", "a.vcf"),
    (b"BEGIN:VCALENDAR\r\nVERSION:2.0\r\nEND:VCALENDAR\r\n", "text/calendar", "a.ics"),
    (b"From: a@b.c\r\nTo: d@e.f\r\nSubject: x\r\nMIME-Version: 1.0\r\n\r\nhi\r\n", "message/rfc822", "a.eml"),
    (
        b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
        "application/x-x509-ca-cert",
        "a.crt",
    ),
    (
        b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nmQ\n-----END PGP PUBLIC KEY BLOCK-----\n",
        "text/plain",
        "a.asc",
    ),
    (b"#EXTM3U\n#EXTINF:1,\na.ts\n", "audio/x-mpegurl", "a.m3u8"),
    (b"2024-01-01 12:00:00 started\n", "", "server.log"),
    (b"x", "text/plain", "x.txt"),
    (b"\n", "text/plain", "x.txt"),
    (TYPESCRIPT, "video/mp2t", "a.ts"),
    (TYPESCRIPT, "video/vnd.dlna.mpeg-tts", "a.ts"),
    (TYPESCRIPT, "application/typescript", "a.ts"),
    (TYPESCRIPT, "", "a.tsx"),
    (MPEG_FRAMES, "video/mp2t", "a.ts"),
    (SCRIPT, "text/javascript", "a.js"),
    (SCRIPT, "application/javascript", "a.js"),
    (SCRIPT, "application/x-javascript", "a.js"),
    (b"export default a;\n", "", "a.mjs"),
    (b"#!/usr/bin/env python3\nprint(1)\n", "text/x-python", "a.py"),
    (b"import os\n\ndef main():\n    pass\n", "text/plain", "a.py"),
    (b"#include <stdio.h>\nint main(void) { return 0; }\n", "text/x-csrc", "a.c"),
    (b"#!/bin/sh\necho hi\n", "application/x-sh", "a.sh"),
    (b"#!/bin/sh\necho hi\n", "application/x-shellscript", "a.sh"),
    (b"#!/bin/sh\necho hi\n", "", "a.sh"),
    (b"echo hi\n", "text/x-sh", "a.sh"),
    (b"@echo off\r\ndir\r\n", "application/x-bat", "a.bat"),
    (b"dir\r\n", "", "a.bat"),
    (b'Write-Host "hi"\n', "", "a.ps1"),
    (b"<?php echo 1; ?>", "application/x-httpd-php", "a.php"),
    (HTML, "text/html", "a.html"),
    (b"<div>hello</div>", "text/html", "a.html"),
    (SVG, "image/svg+xml", "a.svg"),
    (b"<!-- made by hand -->\n" + SVG, "image/svg+xml", "a.svg"),
    (b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\ntrailer<<>>\n%%EOF", "application/pdf", "a.pdf"),
    (b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\ntrailer<<>>\n%%EOF", "application/postscript", "a.ai"),
    (b"\xef\xbb\xbf%PDF-1.7\n1 0 obj\n", "application/pdf", "a.pdf"),
    (b"%!PS-Adobe-3.0 EPSF-3.0\n", "image/x-eps", "a.eps"),
    (picture("JPEG"), "image/jpeg", "a.jfif"),
    (picture("JPEG"), "image/heic", "IMG_0001.HEIC"),
    (picture("WEBP"), "image/jpeg", "WhatsApp Image 2024-01-01 at 12.00.00.jpeg"),
    (picture("AVIF"), "image/avif", "a.avif"),
    (picture("TIFF"), "image/tiff", "a.tif"),
    (picture("BMP"), "image/bmp", "a.bmp"),
    (picture("ICO"), "image/x-icon", "favicon.ico"),
    (mp4(b"heic"), "image/heic", "IMG_0001.HEIC"),
    (mp4(b"heic"), "image/jpeg", "IMG_0001.JPG"),
    (mp4(b"mif1"), "image/heif", "a.heif"),
    (mp4(b"heic"), "", "IMG_0001.HEIC"),
    (mp4(b"isom"), "video/mp4", "a.mp4"),
    (mp4(b"qt  "), "video/quicktime", "a.mov"),
    (mp4(b"mp42"), "video/quicktime", "a.MOV"),
    (mp4(b"M4A "), "audio/x-m4a", "voice.m4a"),
    (mp4(b"M4A "), "audio/mp4", "voice.m4a"),
    (mp4(b"isom"), "audio/mp4", "voice.m4a"),
    (mp4(b"3gp4"), "audio/3gpp", "voice.3gp"),
    (mp4(b"M4V "), "video/x-m4v", "a.m4v"),
    (mp4(b"MSNV"), "video/mp4", "a.mp4"),
    (matroska(b"webm"), "audio/webm;codecs=opus", "voice.webm"),
    (matroska(b"webm"), "video/webm", "a.webm"),
    (matroska(b"matroska"), "video/x-matroska", "a.mkv"),
    (b"RIFF\x24\0\0\0AVI LIST" + bytes(20), "video/avi", "a.avi"),
    (b"ID3\3\0\0\0\0\0\0" + mp3("fffb9000"), "audio/mpeg", "a.mp3"),
    (mp3("fffb9000"), "audio/mp3", "a.mp3"),
    (mp3("fff340c4"), "audio/mpeg", "a.mp3"),
    (bytes(10) + mp3("fffb9000"), "audio/mpeg", "a.mp3"),
    (b"caff\0\1\0\0desc" + bytes(30), "audio/x-caf", "voice.caf"),
    (b"#!AMR\n" + b"\x3c" * 30, "audio/amr", "voice.amr"),
    (b"OggS\0\2" + bytes(20) + b"\1\x13OpusHead\1\2" + bytes(20), "audio/ogg; codecs=opus", "voice.ogg"),
    (sound(), "audio/wav", "a.wav"),
    (sound(), "audio/x-wav", "a.wav"),
    (b"fLaC\0\0\0\x22\x10\0\x10\0" + bytes(30), "audio/x-flac", "a.flac"),
    (windows_program(), "application/x-msdownload", "setup.exe"),
    (windows_program(), "application/x-msdos-program", "setup.exe"),
    (windows_program(), "", "setup.exe"),
    (program(), "application/octet-stream", "tool"),
    (program(), "application/x-executable", "tool"),
    (b"\0\1\0\0\0\x0c\0\x80\0\3\0\x40OS/2" + bytes(30), "font/ttf", "a.ttf"),
    (b"\0\1\0\0\0\x0c\0\x80\0\3\0\x40OS/2" + bytes(30), "application/x-font-ttf", "a.ttf"),
    (b"SQLite format 3\0\x10\0\1\1\0\x40\x20\x20" + bytes(80), "application/x-sqlite3", "a.db"),
    (NOISE, "application/octet-stream", "backup.dat"),
    (NOISE, "application/x-mine", "a.mine"),
    (NOISE, "", "noise"),
    # Formats that libmagic does not know, by their uploaders' names.
    (NOISE, "image/emf", "a.emf"),
    (NOISE, "image/jp2", "a.j2k"),
    (NOISE, "image/vnd.ms-dds", "a.dds"),
    (NOISE, "image/x-sgi", "a.sgi"),
    (NOISE, "image/fits", "a.fits"),
    (NOISE, "video/x-dv", "a.dv"),
    (NOISE, "audio/x-wavpack", "a.wv"),
    (NOISE, "font/woff2", "a.woff2"),
    (b"STARTFONT 2.1\nFONT fixed\nSIZE 8 75 75\nENDFONT\n", "application/x-font-bdf", "a.bdf"),
    (b"! XPM2\n2 1 2 1\na c #000000\nb c #ffffff\nab\n", "image/x-xpixmap", "a.xpm"),
    (LOG, "text/plain", "boot.log"),
    (LOG, "", "boot.log"),
    ("Grocery list\nmilk\nbread\n".encode("utf-16-le"), "text/plain", "a.txt"),
    ("Grocery list\nmilk\nbread\n".encode("utf-16-be"), "text/plain", "a.txt"),
    (b"var blank = /[" + bytes(range(1, 9)) + b"]/;\n" + b"var a = 1;\n" * 99, "text/javascript", "a.js"),
    # Texts with a page's tags in them, and pages that other programs open.
    (HTML, "text/plain", "mail.txt"),
    (HTML, "", "README.md"),
    (HTML, "application/vnd.ms-excel", "report.xls"),
    (SVG, "text/plain", "a.txt"),
    (b"#!/bin/sh\necho hi\n", "text/plain", "configure"),
    # Renamed.
    (zipped({"a": b"hi"}), "image/png", "a.png"),
    (b"%PDF-1.7\n", "image/png", "a.png"),
    (TABLE, XLSX, "a.xlsx"),
    (NOISE, "image/png", "a.png"),
    (NOISE, "text/csv", "a.csv"),
]


@pytest.mark.parametrize(
    ("content", "declared", "name"), UPLOADS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_real_upload_is_not_refused(content: bytes, declared: str, name: str) -> None:
    decision = decide(look(content), declared, name)
    assert decision.reason is None, decision.detail


@pytest.mark.parametrize(
    ("content", "declared", "name"),
    [
        (program(), "image/png", "holiday.png"),
        (program(), "", "holiday.png"),
        (program(), DOCX, "cv.docx"),
        (windows_program(), "application/pdf", "invoice.pdf"),
        (windows_program(), "", "invoice.pdf"),
        (windows_program(), "text/plain", "a.txt"),
        (windows_program(), "application/vnd.ms-excel", "a.xls"),
        (b"MZ" + bytes(200), "image/jpeg", "a.jpg"),
        (b"#!/bin/sh\nrm -rf /\n", "image/png", "readme.png"),
        (b"@echo off\r\ndel *\r\n", "application/pdf", "readme.pdf"),
        (SVG, "image/png", "a.png"),
        (SVG, "text/plain", "a.png"),
        (b'<?xml version="1.0"?>\n' + SVG, "image/jpeg", "a.jpg"),
        (HTML, "text/plain", "a.pdf"),
        (HTML, "image/gif", "a.gif"),
        (HTML, XLSX, "report.xlsx"),
        (zipped({"a": b"hi"}), "text/html", "a.html"),
        (TABLE, "application/x-msdownload", "a.exe"),
        (NOISE, "text/html", "a.html"),
        (NOISE, "application/x-msdownload", "a.exe"),
        (picture("GIF"), "image/gif", "a.hta"),
        (picture("PNG"), "image/png", "a.svg"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_disguise_is_seen_through(content: bytes, declared: str, name: str) -> None:
    assert decide(look(content), declared, name).reason in {"type_mismatch", "name_mismatch"}


def test_identifying_does_not_decode() -> None:
    assert look(bomb()) == Content("image/png")


HONEST = carriers()


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_file_of_every_family_is_accepted(name: str) -> None:
    content = look(HONEST[name])
    decision = decide(content, "", "")
    assert decision.reason is None, decision.detail


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("docx", DOCX),
        ("docx with a picture", DOCX),
        ("odt", "application/vnd.oasis.opendocument.text"),
        ("epub", "application/epub+zip"),
        ("heic", "image/heic"),
        ("apng", "image/png"),
        ("motion photo", "image/jpeg"),
        ("pdf behind a mark", "application/pdf"),
        ("pdf from a printer", "application/pdf"),
        # It speaks of PDF, and libmagic takes it for one.
        ("text", "text/plain"),
        ("self-unpacking script", "text/x-shellscript"),
        ("self-unpacking exe", "application/x-dosexec"),
    ],
)
def test_what_libmagic_knows_less_of(name: str, media_type: str) -> None:
    assert look(HONEST[name]).media_type == media_type


def test_an_unknown_beginning_before_an_archive_is_an_archive() -> None:
    assert look(NOISE + zipped({"a.txt": b"hello"})).media_type == "application/zip"
    # But not where bytes follow the archive.
    assert look(NOISE + zipped({"a.txt": b"hello"}) + NOISE).media_type == "application/octet-stream"


@pytest.mark.parametrize(
    ("content", "detail"),
    [
        (SVG, "an SVG picture without scripts or links"),
        (
            b'<svg xmlns="http://www.w3.org/2000/svg"><a href="#b"/></svg>',
            "an SVG picture without scripts or links",
        ),
        (b'<svg xmlns="http://www.w3.org/2000/svg" onload="x()"/>', "an SVG picture with scripts or links"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"><script/></svg>', "an SVG picture with scripts or links"),
        (
            b'<svg xmlns="http://www.w3.org/2000/svg"><a href="//b.c"/></svg>',
            "an SVG picture with scripts or links",
        ),
        (HTML, "runs in a browser: text/html"),
        (b"<?xml version='1.0'?><a/>", "an XML document, which can name its own scripts"),
        (b"  \n<p align='left'>x", "a text that begins like a page"),
        ("<p align='left'>größer</p>".encode("utf-16"), "a text that begins like a page"),
    ],
)
def test_what_a_browser_would_run_is_noted(content: bytes, detail: str) -> None:
    assert traits(content)["active_content"] == detail


@pytest.mark.parametrize(
    "content",
    [
        LOG,
        LOG + bytes(9000),
        "Größe\n".encode("utf-16-le") * 9,
        "Size\n".encode("utf-16-be") * 40_000,
        b"\1" + "Größe\n".encode() * 20_000,
        b"\1" + "Straße nach Köln\n".encode("cp1252") * 20_000,
    ],
    ids=lambda _: "",
)
def test_text_that_libmagic_does_not_see(content: bytes) -> None:
    assert identify.libmagic().from_buffer(content) == "application/octet-stream"
    assert look(content) == Content("text/plain")


@pytest.mark.parametrize(
    "content",
    [
        NOISE,
        NOISE * 40,
        bytes(9000),
        b"text\n" * 9 + bytes(999),
        b"\1\2\3 text\n" * 99,
        b"text\n" * 9000 + NOISE * 200,
        b"ab\0cd\0ef\0" * 999,
        b"\0a" * 9 + NOISE,
    ],
    ids=lambda _: "",
)
def test_data_is_no_text(content: bytes) -> None:
    assert look(content).media_type == "application/octet-stream"


def test_a_page_in_utf_16_without_a_mark_is_noted() -> None:
    page = "<!doctype html><html><script>alert(1)</script>".encode("utf-16-le")
    assert traits(page) == {"active_content": "a text that begins like a page"}


@pytest.mark.parametrize("content", [TABLE, b"a < b <scripture>", b"# <p>\n", b"<pre", b"<x> text"])
def test_other_texts_are_texts(content: bytes) -> None:
    assert traits(content) == {}


# -- What the confined process says is not believed ---------------------------------------------------------


def test_every_trait_is_taken() -> None:
    reported = [{"name": name, "detail": "x"} for name in TRAIT]
    assert [trait.name for trait in identify.parse({"media_type": "a/b", "traits": reported}).traits] == list(
        TRAIT
    )


TRAIT_SAID = {"name": "macros", "detail": "x"}


@pytest.mark.parametrize(
    "answer",
    [
        {},
        [],
        None,
        {"media_type": "a/b"},
        {"traits": []},
        {"media_type": "a/b", "traits": [], "verdict": "clean"},
        {"media_type": None, "traits": []},
        {"media_type": "", "traits": []},
        {"media_type": "a", "traits": []},
        {"media_type": "a/b\n", "traits": []},
        {"media_type": "A/B", "traits": []},
        {"media_type": "a/" + "b" * 128, "traits": []},
        {"media_type": "a/b", "traits": {}},
        {"media_type": "a/b", "traits": ["macros"]},
        {"media_type": "a/b", "traits": [{"name": "macros"}]},
        {"media_type": "a/b", "traits": [{"name": "harmless", "detail": "x"}]},
        {"media_type": "a/b", "traits": [{"name": "macros", "detail": None}]},
        {"media_type": "a/b", "traits": [{"name": "macros", "detail": "x" * 201}]},
        {"media_type": "a/b", "traits": [{"name": "macros", "detail": "a\nb"}]},
        {"media_type": "a/b", "traits": [{**TRAIT_SAID, "action": "accept"}]},
        {"media_type": "a/b", "traits": [TRAIT_SAID, TRAIT_SAID]},
    ],
)
def test_an_answer_that_is_none_is_an_error(answer: Any) -> None:
    with pytest.raises(ValueError, match=r"not a|twice"):
        identify.parse(answer)


def test_the_answer_is_json(tmp_path: Path) -> None:
    path = tmp_path / "content"
    path.write_bytes(HTML)
    answer = identify.inspect(path, tmp_path)
    assert json.loads(json.dumps(answer)) == answer
    assert normal(answer["media_type"]) == answer["media_type"]


def test_strangers_names_are_shown_as_they_are() -> None:
    detail = traits(zipped({"../\u202e\n" + "x" * 300: b"x"}))["unsafe_members"]
    assert len(detail) == 200
    assert detail.startswith("leaves its folder: ../\ufffd\ufffdxxx")


def test_nothing_is_loaded_that_has_no_business_in_the_confined_process() -> None:
    # The process is forked for each file: what is loaded there is paid for each time, and can be misused.
    code = "import sys, tasks.attachments.identify; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, env={}, capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert "tasks.attachments.identify" in loaded
    foreign = {"sqlalchemy", "celery", "pydantic", "redis", "boto3", "structlog", "workers.settings", "PIL"}
    assert not loaded & foreign
