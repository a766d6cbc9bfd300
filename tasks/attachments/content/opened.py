"""Copies that the scanner gets beside a file: archives unpacked, documents unlocked that open without asking.

Excel locks workbooks whose structure is protected by a password of its own, and tries that one first. A PDF
that only forbids printing has an empty password. What is in them is judged, and scanned, as in other files.
"""

import io
import lzma
import zipfile
import zlib
from importlib import import_module
from pathlib import Path
from typing import Any

from tasks.attachments.content import lzw, ole, packed, pdf, ppmd, seven
from tasks.attachments.content.source import Source
from tasks.attachments.content.zips import Archive, Entry

#: The file in the work's folder that the scanner gets, too.
NAME = "opened"
_PASSWORD = "VelvetSweatshop"  # noqa: S105  # Excel's, known to all
#: Excel hashes a password 100,000 times; a file may ask for billions.
_SPINS = 1_000_000
_COPY_BYTES = 48 * 1024 * 1024
_COPY_ENTRIES = 10_000
_STEP_BYTES = 256 * 1024
_MEMORY_BYTES = 64 * 1024 * 1024
#: Two to four seconds' work: this is unpacked in Python.
_LZW_BYTES = 8 * 1024 * 1024
#: Seven seconds' work, where the content is random.
_PPMD_BYTES = 8 * 1024 * 1024


def workbook(source: Source, folder: Path) -> Path | None:
    """Write what is in a document that Excel opens by itself; return where, or None for any other."""
    if source.head(8) != ole.MAGIC or not ole.plausible(source):
        return None
    # Loaded where it is needed: with a cryptographic library it is large, and such files are rare.
    msoffcrypto = import_module("msoffcrypto")
    out = io.BytesIO()
    try:
        document: Any = msoffcrypto.OfficeFile(source.file)
        if getattr(document, "info", {}).get("spinValue", 0) > _SPINS:
            return None
        document.load_key(password=_PASSWORD, verify_password=True)
        document.decrypt(out)
    except Exception:  # noqa: BLE001  # a library for keys and formats: it raises whatever it meets
        return None
    return _written(out.getvalue(), folder)


def document(source: Source, folder: Path) -> Path | None:
    """Write a PDF without its encryption where it has no identity, without which the scanner cannot open it.

    Return where, or None if that is not the case.
    """
    copy = pdf.without_encryption(source)
    return _written(copy, folder) if copy else None


def unpacked(source: Source, media_type: str, folder: Path) -> Path | None:
    """Write what a stream unpacks to; return where, or None if it cannot be unpacked, or is too much."""
    try:
        if media_type == "application/x-lzma":
            content = _lzma(source)
        else:
            arrow = import_module("pyarrow")
            source.file.seek(0)
            with arrow.CompressedInputStream(arrow.PythonFile(source.file, mode="r"), "zstd") as stream:
                content = stream.read(_COPY_BYTES + 1)
    except (lzma.LZMAError, EOFError, OSError, ValueError):
        return None
    return _written(content, folder) if 0 < len(content) <= _COPY_BYTES else None


def compressed(source: Source, folder: Path) -> Path | None:
    """Write what a file of the program `compress` unpacks to; return where, or None if that cannot be."""
    if source.size > _LZW_BYTES:
        return None
    try:
        content = lzw.unpack(source.head(source.size), _COPY_BYTES)
    except ValueError:
        return None
    return _written(content, folder) if content else None


def _lzma(source: Source) -> bytes:
    unpacker, out, at = lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=_MEMORY_BYTES), bytearray(), 0
    while not unpacker.eof and len(out) <= _COPY_BYTES:
        piece = source.at(at, _STEP_BYTES) if unpacker.needs_input else b""
        if unpacker.needs_input and not piece:
            raise EOFError
        at += len(piece)
        out += unpacker.decompress(piece, _STEP_BYTES)
    return bytes(out)


def archive(found: Archive, folder: Path) -> Path | None:
    """Write a zip archive plainly: with narrow numbers, and nothing packed by PPMd.

    Return where, or None if it cannot be unpacked, or is too much.
    """
    if sum(entry.size for entry in found.entries) > _COPY_BYTES or len(found.entries) > _COPY_ENTRIES:
        return None
    if sum(entry.packed for entry in found.entries if entry.method == ppmd.METHOD) > _PPMD_BYTES:
        return None
    contents = []
    for entry in found.entries:
        content = _content(found, entry)
        if content is None or len(content) != entry.size:
            return None
        contents.append(content)
    return _zipped(contents, folder)


def _content(found: Archive, entry: Entry) -> bytes | None:
    if entry.method != ppmd.METHOD:
        return found.read(entry, entry.size + 1)
    data = found.packed(entry, _PPMD_BYTES)
    try:
        content = ppmd.unpack(data or b"", entry.size)
    except ValueError:
        return None
    return content if zlib.crc32(content) == entry.checksum else None


def seven_zip(source: Source, folder: Path) -> Path | None:
    """Write a 7z archive as a plain zip archive; return where, or None if it cannot be unpacked."""
    try:
        contents = seven.members(
            source, packed.seven_contents(source), max_bytes=_COPY_BYTES, max_entries=_COPY_ENTRIES
        )
    except ValueError:
        return None
    return _zipped(contents, folder) if contents else None


def _zipped(contents: list[bytes], folder: Path) -> Path:
    path = folder / NAME
    with zipfile.ZipFile(path, "w") as file:
        for number, content in enumerate(contents):
            file.writestr(str(number), content)
    return path


def _written(content: bytes, folder: Path) -> Path:
    path = folder / NAME
    path.write_bytes(content)
    return path
