"""The old office documents: OLE files, and Excel's bare sheets."""

import re
import struct
from collections.abc import Iterator
from typing import Any

import olefile

from tasks.attachments.content.finding import Finding
from tasks.attachments.content.source import Source

MAGIC = bytes.fromhex("d0cf11e0a1b11ae1")
#: Excel before OLE: a sheet's first record, and the kind of sheet in it.
_BARE = (b"\x09\x00\x04\x00", b"\x09\x02\x06\x00", b"\x09\x04\x06\x00")
_MACRO_SHEET = 0x0040
#: A presentation's Visual Basic: a container that holds nothing but the fact, the last word being 1.
_SLIDES = re.compile(rb"\x1f\0\xff\x03\x14\0\0\0\x02\0\0\x04\x0c\0\0\0....\x01\0\0\0", re.S)
_RECORDS = 50_000
_STREAM_BYTES = 64 * 1024 * 1024
#: What olefile raises on broken data.
_BROKEN = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    struct.error,
)


def examine(source: Source) -> Iterator[Finding]:
    """Yield what is to be said of an old office document; nothing if it is none."""
    start = source.head(8)
    if start[:4] in _BARE and len(start) == 8 and struct.unpack_from("<H", start, 6)[0] == _MACRO_SHEET:
        yield Finding("macros", "a sheet of Excel 4.0 macros")
    if start != MAGIC or not plausible(source):
        return
    try:
        with olefile.OleFileIO(source.file) as file:
            yield from _document(file)
    except _BROKEN:
        return


def plausible(source: Source) -> bool:
    """Return whether the header promises no more than the file holds."""
    header = source.head(76)
    if len(header) < 76:
        return False
    (shift,) = struct.unpack_from("<H", header, 30)
    # Sectors of the table, of the small table, and of the table's table.
    counts = (struct.unpack_from("<I", header, at)[0] for at in (44, 64, 72))
    return shift in (9, 12) and all(count << shift <= source.size for count in counts)


def _document(file: "olefile.OleFileIO[str]") -> Iterator[Finding]:
    paths = [[part.lower() for part in path] for path in file.listdir(streams=True, storages=True)]
    names = {path[-1] for path in paths}
    if "encryptedpackage" in names:
        yield Finding("encrypted_document", "an office document that needs a password")
    if any(path[-2:] == ["vba", "dir"] or path[-1] == "_vba_project" for path in paths):
        yield Finding("macros", "an office document with Visual Basic")
    for path in file.listdir():
        name = path[-1].lower()
        if name in ("workbook", "book"):
            yield from _workbook(_read(file, path))
        elif name == "worddocument" and _word_locked(_read(file, path, 12)):
            yield Finding("encrypted_document", "a letter that needs a password")
        elif name == "powerpoint document" and _SLIDES.search(_read(file, path)):
            yield Finding("macros", "a presentation with Visual Basic")
        elif name == "current user" and _read(file, path, 16)[12:] == b"\xdf\xc4\xd1\xf3":
            yield Finding("encrypted_document", "a presentation that needs a password")


def _read(file: "olefile.OleFileIO[str]", path: list[str], limit: int = _STREAM_BYTES) -> bytes:
    if file.get_size(path) > _STREAM_BYTES:
        return b""
    stream: Any = file.openstream(path)
    return bytes(stream.read(limit))


def _word_locked(start: bytes) -> bool:
    return len(start) == 12 and bool(struct.unpack_from("<H", start, 10)[0] & 0x0100)


def _workbook(stream: bytes) -> Iterator[Finding]:
    """Read the records before the first sheet: which sheets there are, and whether they are locked."""
    at = 0
    for _ in range(_RECORDS):
        if at + 4 > len(stream):
            return
        kind, size = struct.unpack_from("<HH", stream, at)
        if kind == 0x002F:
            yield Finding("encrypted_document", "a workbook that needs a password")
        elif kind == 0x0085 and stream[at + 9 : at + 10] == b"\x01":
            yield Finding("macros", "a workbook with Excel 4.0 macros")
        elif kind == 0x000A:
            return
        at += 4 + size
