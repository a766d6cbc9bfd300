"""Which content may call itself what: the table itself, and real bytes through libmagic."""

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import wave
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from stack.samples import bomb, program
from tasks.attachments.identify import content_type
from tasks.attachments.policy import DRAWABLE, FAMILIES, Decision, decide, normal
from workers.known_bad import zipped

OFFICE = "application/vnd.openxmlformats-officedocument"
DOCX = f"{OFFICE}.wordprocessingml.document"
XLSX = f"{OFFICE}.spreadsheetml.sheet"
PPTX = f"{OFFICE}.presentationml.presentation"
EXE = "application/x-dosexec"
NOISE = bytes((i * 73 + i * i) % 256 for i in range(1000))


# -- The table ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "declared", "name"),
    [
        ("image/jpeg", "image/jpeg", "photo.jpg"),
        ("image/jpeg", "IMAGE/JPEG", "PHOTO.JPG"),
        ("image/jpeg", " image/jpeg ; q=1", "photo"),
        ("image/jpeg", "image/jpg", "photo.jpeg"),
        ("image/jpeg", "image/pjpeg", "photo.JPE"),
        ("image/png", "image/x-png", "a.png"),
        ("image/bmp", "image/x-ms-bmp", "a.bmp"),
        ("application/pdf", "application/pdf", "a.pdf"),
        ("application/pdf", "application/x-pdf", "a.b.c.pdf"),
        ("audio/mpeg", "audio/mp3", "a.mp3"),
        ("audio/x-wav", "audio/wav", "a.wav"),
        ("text/plain", "text/x-markdown", "a.md"),
        ("text/html", "text/html; charset=utf-8", "a.html"),
        ("image/svg+xml", "image/svg+xml", "a.svg"),
        (EXE, "application/x-dosexec", "setup.exe"),
        (EXE, "application/x-msdownload", "setup.exe"),
        ("application/x-pie-executable", "application/x-executable", "tool"),
        ("text/x-shellscript", "application/x-sh", "run.sh"),
        ("text/x-msdos-batch", "application/x-bat", "run.bat"),
        ("application/javascript", "text/javascript", "a.js"),
        ("video/webm", "audio/webm;codecs=opus", "voice.webm"),
        ("application/zip", "application/x-zip-compressed", "a.zip"),
        ("application/x-rar", "application/vnd.rar", "a.rar"),
        ("application/vnd.sqlite3", "application/x-sqlite3", "a.db"),
    ],
)
def test_an_honest_claim_is_accepted(content: str, declared: str, name: str) -> None:
    assert decide(content, declared, name).reason is None


@pytest.mark.parametrize("generic", ["", "application/octet-stream", "binary/octet-stream", "  "])
@pytest.mark.parametrize("content", ["image/png", "text/plain", "application/pdf", "text/html", EXE])
def test_a_claim_that_claims_nothing_becomes_what_the_content_is(content: str, generic: str) -> None:
    assert decide(content, generic, "file").media_type == content
    assert decide(content, generic, "file").reason is None


@pytest.mark.parametrize(
    ("content", "declared", "name", "kept"),
    [
        # A picture is what it is, whatever it is called.
        ("image/webp", "image/jpeg", "a.jpg", "image/webp"),
        ("image/heic", "image/jpeg", "IMG_1.JPG", "image/heic"),
        ("image/jpeg", "image/heic", "IMG_1.HEIC", "image/jpeg"),
        ("application/pdf", "application/postscript", "drawing.ai", "application/pdf"),
        # Where libmagic knows less than the uploader, the uploader's word stays.
        ("text/plain", "text/csv", "a.csv", "text/csv"),
        ("text/plain", "application/json", "a.json", "application/json"),
        ("text/csv", "text/plain", "a.txt", "text/plain"),
        ("application/zip", DOCX, "a.docx", DOCX),
        ("application/zip", "application/vnd.apple.pages", "a.pages", "application/vnd.apple.pages"),
        ("application/zip", "application/java-archive", "a.jar", "application/java-archive"),
        ("video/mp4", "audio/mp4", "a.m4a", "audio/mp4"),
        ("application/cdfv2", "application/msword", "a.doc", "application/msword"),
        (XLSX, "application/vnd.ms-excel.sheet.macroenabled.12", "a.xlsm", None),
        # What names by extension alone say wrongly, the extension or the content puts right.
        ("text/plain", "application/vnd.ms-excel", "a.csv", "text/csv"),
        ("text/x-java", "video/mp2t", "a.ts", "text/plain"),
        ("text/rtf", "application/msword", "a.doc", "text/rtf"),
        # Nothing declared: the extension knows what a container holds and a text is about.
        ("application/zip", "", "a.docx", DOCX),
        ("text/plain", "", "a.md", "text/markdown"),
        ("text/plain", "", "a.html", "text/plain"),
        ("text/x-script.python", "", "a", "text/plain"),
        ("application/octet-stream", "application/x-mine", "a.mine", "application/x-mine"),
        ("application/octet-stream", "", "a.mine", ""),
    ],
)
def test_the_type_that_is_kept(content: str, declared: str, name: str, kept: str | None) -> None:
    decision = decide(content, declared, name)
    assert (decision.reason, decision.media_type) == (None, kept or declared)


@pytest.mark.parametrize(
    ("content", "declared", "name"),
    [
        # Programs disguised.
        (EXE, "image/png", "a.png"),
        (EXE, "application/pdf", "invoice.pdf"),
        (EXE, "application/zip", "a.zip"),
        (EXE, "text/plain", "a.txt"),
        (EXE, "application/java-archive", "a.jar"),
        ("application/x-pie-executable", "image/jpeg", "a.jpg"),
        ("text/x-shellscript", "text/plain", "a.txt"),
        ("application/java-archive", "application/zip", "a.zip"),
        # What runs in a browser.
        ("text/html", "text/plain", "a.txt"),
        ("text/html", "image/png", "a.png"),
        ("text/html", "application/vnd.ms-excel", "a.xls"),
        ("image/svg+xml", "image/png", "a.png"),
        ("image/svg+xml", "text/plain", "a.txt"),
        ("image/svg+xml", "text/html", "a.html"),
        ("application/javascript", "text/plain", "a.txt"),
        # One family for another.
        ("application/zip", "image/png", "a.png"),
        ("image/png", "application/pdf", "a.pdf"),
        ("image/png", "video/mp4", "a.mp4"),
        ("application/pdf", DOCX, "a.docx"),
        ("text/plain", "image/png", "a.png"),
        ("text/plain", "application/pdf", "a.pdf"),
        ("text/plain", EXE, "a.exe"),
        ("text/plain", "application/zip", "a.zip"),
        ("text/plain", DOCX, "a.docx"),
        ("image/png", "text/html", "a.html"),
        ("image/png", "image/svg+xml", "a.svg"),
        ("image/png", "application/x-anything", "a.png"),
        # Unknown content is none of the known formats.
        ("application/octet-stream", "image/png", "a.png"),
        ("application/octet-stream", "video/mp4", "a.mp4"),
        ("application/octet-stream", "application/pdf", "a.pdf"),
        ("application/octet-stream", "text/plain", "a.txt"),
        ("application/octet-stream", "text/html", "a.html"),
        ("application/octet-stream", EXE, "a.exe"),
    ],
)
def test_a_false_claim_is_refused(content: str, declared: str, name: str) -> None:
    decision = decide(content, declared, name)
    assert decision.reason == "type_mismatch"
    assert decision.media_type == normal(content)
    assert normal(declared) in str(decision.detail)


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (EXE, "photo.png"),
        (EXE, "photo.PNG"),
        (EXE, "cv.docx"),
        (EXE, "photo.webp"),
        (EXE, "song.m4a"),
        (EXE, "setup.exe.jpg"),
        ("image/gif", "cat.exe"),
        ("image/gif", "cat.gif.scr"),
        ("image/gif", "cat.hta"),
        ("image/gif", "cat.js"),
        ("image/gif", "cat.vbs"),
        ("image/gif", "cat.html"),
        # Windows drops dots and spaces at a name's end.
        ("image/gif", "cat.exe."),
        ("image/gif", "cat.exe "),
        ("image/gif", "cat.html. . "),
        # A name is no URL: what follows `?`, `#` or `data:` counts.
        ("image/gif", "cat.gif?x.exe"),
        ("image/gif", "data:image/gif,cat.exe"),
        ("image/gif", "data:,cat.exe"),
        ("image/gif", "../../etc/cat.exe"),
        ("image/gif", "C:\\cat.exe"),
        ("image/gif", "cat\u202egpj.exe"),
        ("text/html", "notes.txt"),
        ("application/zip", "photo.jpg"),
        ("application/octet-stream", "photo.jpg"),
        ("application/octet-stream", "report.pdf"),
    ],
)
def test_a_false_name_is_refused(content: str, name: str) -> None:
    assert decide(content, "", name).reason == "name_mismatch"
    assert decide(content, content, name).reason == "name_mismatch"


@pytest.mark.parametrize(
    "name", ["", ".", "..", "/", "photo", ".png", "a.b.unknown", "photo.png/", "\n", "x" * 999]
)
def test_a_name_that_says_nothing_is_no_reason(name: str) -> None:
    assert decide("image/png", "image/png", name) == Decision("image/png", draw=True)


def test_only_pictures_that_hold_no_programs_are_drawn() -> None:
    drawn = {"image/jpeg", "image/png", "image/gif", "image/webp", "image/avif", "image/bmp", "image/tiff"}
    assert drawn == DRAWABLE
    known = {kind.rstrip("*") for each in FAMILIES for kind in each.types}
    for content in (known | {"image/heic", "image/jxl", "application/octet-stream", ""}) - drawn:
        for claim in ("image/png", "", content):
            assert not decide(content, claim, "a.png").draw, (content, claim)


def test_a_long_claim_is_cut_in_the_reason() -> None:
    detail = decide("image/png", "x/" + "y" * 1000, "a").detail
    assert detail is not None
    assert len(detail) < 150


# -- Real bytes ---------------------------------------------------------------------------------------------


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


def late_office() -> bytes:
    """Return an office document whose main part comes after its properties: libmagic gives up before."""
    early = ("[Content_Types].xml", "_rels/.rels", "docProps/app.xml", "docProps/core.xml")
    return archive(*early, "customXml/item1.xml", "word/document.xml")


def tar(mode: str) -> bytes:
    """Return a tar archive, packed as `mode` says."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as file:  # type: ignore[call-overload]  # any mode
        entry = tarfile.TarInfo("a.txt")
        entry.size = 5
        file.addfile(entry, io.BytesIO(b"hello"))
    return out.getvalue()


def ole() -> bytes:
    """Return an empty OLE file, the container of the old office formats."""
    free, end, fat = 0xFFFFFFFF, 0xFFFFFFFE, 0xFFFFFFFD
    head = (
        bytes.fromhex("d0cf11e0a1b11ae1") + bytes(16) + struct.pack("<5H", 0x3E, 3, 0xFFFE, 9, 6) + bytes(6)
    )
    head += struct.pack("<10I", 0, 1, 1, 0, 4096, end, 0, end, 0, 0) + struct.pack("<I", free) * 108
    table = struct.pack("<2I", fat, end) + struct.pack("<I", free) * 126
    root = "Root Entry\0".encode("utf-16le").ljust(64, b"\0") + struct.pack(
        "<HBB3I", 22, 5, 1, free, free, free
    )
    return head + table + (root + bytes(36) + struct.pack("<3I", end, 0, 0)).ljust(512, b"\0")


def mp4(brand: bytes) -> bytes:
    """Return the beginning of an MP4, QuickTime or HEIF file."""
    return (
        struct.pack(">I", 24)
        + b"ftyp"
        + brand
        + b"\0\0\2\0"
        + brand
        + b"mp42"
        + struct.pack(">I", 8)
        + b"mdat"
    )


def matroska(kind: bytes) -> bytes:
    """Return the beginning of a WebM or Matroska file."""
    fields = b"\x42\x86\x81\x01\x42\xf7\x81\x01\x42\xf2\x81\x04\x42\xf3\x81\x08\x42\x82"
    fields += bytes([0x80 + len(kind)]) + kind + b"\x42\x87\x81\x04"
    return b"\x1a\x45\xdf\xa3" + bytes([0x80 + len(fields)]) + fields


def picture(kind: str) -> bytes:
    """Return a picture."""
    out = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(out, kind)
    return out.getvalue()


def sound() -> bytes:
    """Return a WAV file."""
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(200))
    return out.getvalue()


def mp3(header: str) -> bytes:
    """Return a few MP3 frames, each with this header."""
    return (bytes.fromhex(header) + bytes(413)) * 3


def windows_program() -> bytes:
    """Return the beginning of a Windows program."""
    return (
        b"MZ" + bytes(58) + struct.pack("<I", 64) + b"PE\0\0\x64\x86" + bytes(18) + b"\x0b\x02" + bytes(300)
    )


TABLE = b"name,age\nAda,36\nBob,7\n"
TYPESCRIPT = b'import { a } from "./b";\nexport const x: number = 1;\n'
SCRIPT = b'"use strict";\nconst a = require("b");\nfunction f() { return 1; }\n'
MPEG_FRAMES = (b"\x47\x40\0\x10" + b"\xff" * 184) * 6
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"></svg>'
HTML = b"<!DOCTYPE html><html><body>hello</body></html>"

#: What people upload, as browsers on Windows, macOS, Linux, Android and iOS declare it.
UPLOADS: list[tuple[bytes, str, str]] = [
    (office("word/document.xml"), DOCX, "letter.docx"),
    (late_office(), DOCX, "letter.docx"),
    (archive("_rels/.rels", "word/document.xml"), DOCX, "letter.docx"),
    (office("xl/workbook.xml"), XLSX, "numbers.xlsx"),
    (office("xl/workbook.xml"), "application/vnd.ms-excel.sheet.macroEnabled.12", "numbers.xlsm"),
    (office("ppt/presentation.xml"), PPTX, "talk.pptx"),
    (office("visio/document.xml"), "application/vnd.ms-visio.drawing", "plan.vsdx"),
    (office("word/document.xml"), "application/octet-stream", "letter.docx"),
    (office("word/document.xml"), "", "letter.docx"),
    (office("word/document.xml"), "application/zip", "letter.docx"),
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
    (zipped(b"hi"), "application/zip", "a.zip"),
    (zipped(b"hi"), "application/x-zip-compressed", "a.zip"),
    (zipped(b"hi"), "", "a.zip"),
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
]


@pytest.mark.parametrize(
    ("content", "declared", "name"), UPLOADS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_real_upload_is_not_refused(content: bytes, declared: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / "content"
    path.write_bytes(content)
    decision = decide(content_type(path), declared, name)
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
        (b"#!/bin/sh\nrm -rf /\n", "text/plain", "readme.txt"),
        (b"@echo off\r\ndel *\r\n", "text/plain", "readme.txt"),
        (SVG, "image/png", "a.png"),
        (SVG, "text/plain", "a.txt"),
        (b'<?xml version="1.0"?>\n' + SVG, "image/jpeg", "a.jpg"),
        (HTML, "text/plain", "a.txt"),
        (HTML, "image/gif", "a.gif"),
        (HTML, "application/vnd.ms-excel", "report.xls"),
        (zipped(b"hi"), "image/png", "a.png"),
        (b"%PDF-1.7\n", "image/png", "a.png"),
        (TABLE, "image/png", "a.png"),
        (TABLE, XLSX, "a.xlsx"),
        (NOISE, "image/png", "a.png"),
        (NOISE, "application/pdf", "a.pdf"),
        (NOISE, "text/csv", "a.csv"),
        (b"\0", "text/plain", "a.txt"),
        (picture("GIF"), "image/gif", "a.hta"),
        (picture("PNG"), "image/png", "a.svg"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_disguise_is_seen_through(content: bytes, declared: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / "content"
    path.write_bytes(content)
    assert decide(content_type(path), declared, name).reason in {"type_mismatch", "name_mismatch"}


def test_identifying_does_not_decode(tmp_path: Path) -> None:
    path = tmp_path / "content"
    path.write_bytes(bomb())
    assert content_type(path) == "image/png"
