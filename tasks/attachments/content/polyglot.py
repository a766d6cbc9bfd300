"""Files that are two things at once.

A rule must know the honest files that look alike: phones put a film or a second picture behind a photo's
end, metadata is XML, a PDF holds whatever was attached to it.
"""

import re
import struct
from collections.abc import Iterator

from tasks.attachments.content import packed, pdf, pictures, script
from tasks.attachments.content.finding import Finding
from tasks.attachments.content.markup import TAG
from tasks.attachments.content.source import Source
from tasks.attachments.content.zips import Archive
from tasks.policies.media_types import ACTIVE, MEDIA, PICTURE, TEXT, fits

_NOUNS = {
    "image/jpeg": "a JPEG",
    "image/png": "a PNG",
    "image/gif": "a GIF",
    "image/webp": "a WebP",
    "application/pdf": "a PDF",
    "text/html": "an HTML page",
}
#: Pictures that are written as C, or begin with assignments, which read like JavaScript.
_SOURCES = ("image/x-xpm*", "image/x-xpixmap", "image/x-xbitmap", "image/fits")
#: Long enough not to turn up in compressed data by chance.
_HIDDEN = {
    b"Rar!\x1a\x07\x00": "a RAR archive",
    b"Rar!\x1a\x07\x01\x00": "a RAR archive",
    b"7z\xbc\xaf\x27\x1c\x00": "a 7z archive",
    b"\x7fELF\x01\x01\x01": "a program",
    b"\x7fELF\x02\x01\x01": "a program",
    b"This program cannot be run in DOS mode": "a program",
    b"This program must be run under Win32": "a program",
}
_DOS_STUB_BYTES = 256
#: What programs write to fill up behind a picture.
_FILLING = b"\0\xff\t\n\r "
_SCRIPT_START = re.compile(rb"#!\s?/|@echo off|<\?php\s|%PDF-\d", re.I)
#: A PDF's first lines are comments; in a page they are text.
_PDF_PAGE = re.compile(rb"<!--|" + TAG.pattern, re.I)
_PDF_TAIL = re.compile(rb"<script[\s/>]|-->", re.I)
#: What web servers' caches write behind what they hand out: whole comments without a tag of their own.
_COMMENT = re.compile(rb"<!--[^<>]{0,2000}-->")
_ANY_TAG = re.compile(rb"<[a-z!?/]", re.I)
_TAIL_BYTES = 16 * 1024
#: Markup that does something, in a picture's description too.
_DOES = re.compile(
    rb"<(?:script|iframe|object|embed|\?php)\b|javascript:|[\s\"'/]on[a-z]{3,20}\s{0,9}=|<\?=", re.I
)
_DESCRIPTIONS = 200
_DESCRIPTION_BYTES = 4 * 1024 * 1024


def examine(source: Source, media_type: str, archive: Archive | None) -> Iterator[Finding]:
    """Yield the two things that the file is, if it is two.

    Args:
        source: the file.
        media_type: what libmagic takes it for.
        archive: the zip archive that it ends with, if it does not begin with one.
    """
    second = _second(source, media_type, archive)
    if second:
        yield Finding("polyglot", f"{_NOUNS.get(media_type, media_type)} that is also {second}")


def _second(source: Source, media_type: str, archive: Archive | None) -> str | None:
    picture = PICTURE.has(media_type) and not ACTIVE.has(media_type)
    if media_type == "application/pdf":
        return _in_pdf(source, archive)
    if picture or MEDIA.has(media_type):
        return (
            ("a ZIP archive" if archive else None)
            or ("a PDF" if pdf.prefixed(source) else None)
            or ("JavaScript" if not fits(media_type, _SOURCES) and script.runs(source) else None)
            or _hidden(source)
            or (_in_picture(source, media_type) if picture else None)
        )
    # A script that unpacks itself is one thing: a program.
    textual = (ACTIVE.has(media_type) or TEXT.has(media_type)) and source.head(2) != b"#!"
    return "a ZIP archive" if archive and textual else None


def _hidden(source: Source) -> str | None:
    """Return what program or archive stands anywhere in a picture, film or sound."""
    for offset, piece in source.pieces():
        for literal, noun in _HIDDEN.items():
            at = piece.find(literal)
            if at >= 0 and _confirmed(source, offset + at, literal):
                return noun
    return None


def _confirmed(source: Source, at: int, literal: bytes) -> bool:
    if literal.startswith(b"\x7fELF"):
        kind = source.at(at + 16, 2)
        return len(kind) == 2 and struct.unpack("<H", kind)[0] in (1, 2, 3, 4)
    if literal.startswith(b"This"):
        begin = max(0, at - _DOS_STUB_BYTES)
        return b"MZ" in source.at(begin, at - begin)
    return True


def _in_picture(source: Source, media_type: str) -> str | None:
    if tag := _tag(source, media_type):
        return "PHP" if b"?" in tag[:2] else "an HTML page"
    if source.at(257, 6) in (b"ustar\0", b"ustar "):
        return "a tar archive"
    end = pictures.end(source, media_type)
    if end is None:
        return None
    rest = source.at(end, 1024 * 1024).lstrip(_FILLING)
    if noun := packed.kind(rest):
        return f"a {noun}"
    if rest[257:263] in (b"ustar\0", b"ustar "):
        return "a tar archive"
    if _program(rest):
        return "a program"
    if match := _SCRIPT_START.match(rest):
        return "a PDF" if match[0].startswith(b"%") else "a script"
    return None


def _comments(tail: bytes) -> bool:
    """Return whether this is nothing but comments that are open and closed here, and text without tags."""
    return len(tail) <= _TAIL_BYTES and not re.search(
        rb"-->|" + _ANY_TAG.pattern, _COMMENT.sub(b"", tail), re.I
    )


def _tag(source: Source, media_type: str) -> bytes | None:
    """Return a tag of a page, wherever it stands but in a description that does nothing."""
    at = 0
    for begin, end in pictures.descriptions(source, media_type)[:_DESCRIPTIONS]:
        if end - begin > _DESCRIPTION_BYTES or source.search(_DOES, begin, end):
            continue
        if tag := source.search(TAG, at, begin):
            return tag[1]
        at = end
    tag = source.search(TAG, at)
    return tag[1] if tag else None


def _program(start: bytes) -> bool:
    """Return whether this is the beginning of a Windows program."""
    if not start.startswith(b"MZ") or len(start) < 64:
        return False
    (header,) = struct.unpack_from("<I", start, 60)
    return start[header : header + 2] in (b"PE", b"NE", b"LE", b"LX")


def _in_pdf(source: Source, archive: Archive | None) -> str | None:
    # What stands before the first object no reader shows.
    start = source.head(pdf.REACH_BYTES).partition(b" obj")[0]
    if _PDF_PAGE.search(start):
        return "an HTML page"
    if not pdf.begins(source) and script.runs(source):
        return "JavaScript"
    last = source.search_last(b"%%EOF")
    if last >= 0 and source.search(_PDF_TAIL, last) and not _comments(source.at(last, _TAIL_BYTES + 1)):
        return "an HTML page"
    # An archive that is attached to the document stands within; it is no archive to who opens the file.
    if archive and (archive.exact or archive.end > last >= 0):
        return "a ZIP archive"
    return None
