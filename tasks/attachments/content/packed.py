"""RAR and 7z archives, and streams that are packed alone. Nothing here unpacks an archive's members."""

import bz2
import lzma
import re
import struct
import zlib
from collections.abc import Iterator

from tasks.attachments.content.budget import BOMB_BYTES, BOMB_RATIO, Budget
from tasks.attachments.content.finding import Finding
from tasks.attachments.content.source import Source

RAR4, RAR5 = b"Rar!\x1a\x07\x00", b"Rar!\x1a\x07\x01\x00"
SEVEN = b"7z\xbc\xaf\x27\x1c"
ZSTD = b"\x28\xb5\x2f\xfd"
#: What archives and packed streams begin with.
_KINDS = (
    (b"PK\x03\x04", "ZIP archive"),
    (RAR4, "RAR archive"),
    (RAR5, "RAR archive"),
    (SEVEN, "7z archive"),
    (b"\x1f\x8b\x08", "gzip archive"),
    (b"\xfd7zXZ\x00", "xz archive"),
    (b"MSCF\0\0\0\0", "CAB archive"),
    (ZSTD, "zstd archive"),
)
#: An LZMA stream of old has no magic, but properties, the size of its dictionary, and its size unpacked.
_LZMA = re.compile(
    rb"\x5d\0\0(?:[\x01-\xff]\0|[\0\x80\xc0][\x01-\x08\x0c\x10\x18\x20])(?:\xff{8}|(?!\0{8})[\0-\xff]{5}\0{3})"
)
#: Coders of a 7z archive that are not looked into.
_CODERS = re.compile(rb"[\x03\x23]\x04(?:\x02\x02|\x01[\x08\x09])|[\x04\x24]\x04\xf7\x11", re.S)
#: Blocks of a RAR archive that are looked at.
_BLOCKS = 20_000
#: Longer lists of contents of a 7z archive are not looked at.
_HEADER_BYTES = 4 * 1024 * 1024
_STEP_BYTES = 256 * 1024
_MEMORY_BYTES = 64 * 1024 * 1024


def kind(start: bytes) -> str | None:
    """Return what kind of archive begins with these bytes, or None."""
    if start[:2] == b"\x1f\x9d" and len(start) > 2 and not start[2] & 0x60 and 9 <= start[2] & 0x1F <= 16:
        return "compress archive"
    if start.startswith(b"BZh") and start[4:8] == b"1AY&":
        return "bzip2 archive"
    return next((name for magic, name in _KINDS if start.startswith(magic)), None)


def unread(start: bytes) -> str | None:
    """Return what kind of packed stream begins with these bytes that the scanner does not open, or None."""
    found = kind(start)
    if found in ("zstd archive", "compress archive"):
        return found
    return "lzma archive" if _LZMA.match(start) else None


def examine(source: Source, budget: Budget) -> Iterator[Finding]:
    """Yield what is to be said of the archive, if it is one of these."""
    start = source.head(8)
    if _part(source, start):
        yield Finding("archive_part", f"a part of a {kind(start)} in several")
    if start.startswith(RAR4):
        locked = _rar4(source)
    elif start.startswith(RAR5):
        locked = _rar5(source)
    elif start.startswith(SEVEN):
        header = _seven_header(source)
        # A coder's record: its name is four bytes long and it has properties.
        locked = b"\x24\x06\xf1\x07\x01" in header
        if not locked and _CODERS.search(header):
            yield Finding("unread_packing", "a 7z archive packed by a method that is not looked into")
    elif kind(start) in ("zstd archive", "compress archive"):
        yield Finding("unread_packing", f"a {kind(start)}")
        return
    else:
        yield from _stream(source, start, budget)
        return
    if locked:
        yield Finding("encrypted_archive", f"a {kind(start)} that needs a password")


def _part(source: Source, start: bytes) -> bool:
    """Return whether the archive goes on in another file, or is of one that began in another."""
    if start.startswith(RAR4):
        # Of the archive's header; a file's header says whether the file goes on.
        number, flags = struct.unpack("<BH", source.at(len(RAR4) + 2, 3).ljust(3, b"\0"))
        return number == 0x73 and bool(flags & 0x0001)
    if start.startswith(RAR5):
        block = source.at(len(RAR5), 64)
        if len(block) < 7:
            return False
        _, at = _number(block, 4)
        number, at = _number(block, at)
        flags, at = _number(block, at)
        if number != 1:
            return False
        if flags & 1:
            _, at = _number(block, at)
        return bool(_number(block, at)[0] & 1)
    if start.startswith(SEVEN):
        # Its list of contents stands at its end.
        header = source.head(32)
        return len(header) == 32 and 32 + sum(struct.unpack_from("<QQ", header, 12)) > source.size
    return False


def _rar4(source: Source) -> bool:
    """Return whether the archive, or one of its files, needs a password."""
    at = len(RAR4)
    for _ in range(_BLOCKS):
        block = source.at(at, 11)
        if len(block) < 7:
            return False
        number, flags, size = struct.unpack_from("<BHH", block, 2)
        if (number == 0x73 and flags & 0x80) or (number == 0x74 and flags & 0x04):
            return True
        if number not in range(0x72, 0x7C) or size < 7:
            return False
        if flags & 0x8000 and len(block) == 11:
            size += struct.unpack_from("<I", block, 7)[0]
        at += size
    return False


def _rar5(source: Source) -> bool:
    """Return whether the archive, or one of its files, needs a password."""
    at = len(RAR5)
    for _ in range(_BLOCKS):
        block = source.at(at, 4096)
        if len(block) < 7:
            return False
        size, first = _number(block, 4)
        number, begin = _number(block, first)
        flags, begin = _number(block, begin)
        if number == 4:
            return True
        if number not in (1, 2, 3, 5):
            return False
        extra, data = 0, 0
        if flags & 1:
            extra, begin = _number(block, begin)
        if flags & 2:
            data, begin = _number(block, begin)
        if number in (2, 3) and _rar5_locked(source.at(at + first + size - extra, min(extra, 4096))):
            return True
        at += first + size + data
    return False


def _rar5_locked(extra: bytes) -> bool:
    """Return whether a header's extra records name an encryption."""
    at = 0
    while at < len(extra):
        size, at = _number(extra, at)
        if size and _number(extra, at)[0] == 1:
            return True
        at += max(size, 1)
    return False


def _number(data: bytes, at: int) -> tuple[int, int]:
    """Return a number of variable length, and where it ends."""
    value = 0
    for shift in range(0, 63, 7):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
    return value, at


def seven_contents(source: Source) -> bytes:
    """Return a 7z archive's list of contents, unpacked, or nothing where it cannot be read."""
    header = _seven_raw(source)
    return _seven_unpacked(source, header) if header[:1] == b"\x17" else header


def _seven_header(source: Source) -> bytes:
    """Return the list of contents as it stands, and unpacked behind that: it names the methods of packing."""
    header = _seven_raw(source)
    return header + _seven_unpacked(source, header)


def _seven_raw(source: Source) -> bytes:
    start = source.head(32)
    if len(start) < 32:
        return b""
    offset, size = struct.unpack_from("<QQ", start, 12)
    if offset > source.size or size > _HEADER_BYTES:
        return b""
    return source.at(32 + offset, size)


def _seven_unpacked(source: Source, header: bytes) -> bytes:
    """Return a list of contents that is packed by LZMA, as 7-Zip packs it, or nothing."""
    # Packed streams: position, one of them, its size; one folder, one coder: LZMA with five bytes of
    # properties; its size unpacked. Whatever looks otherwise was not written by 7-Zip.
    if header[:2] != b"\x17\x06":
        return b""
    position, at = _seven_number(header, 2)
    count, at = _seven_number(header, at)
    if count != 1 or header[at : at + 1] != b"\x09":
        return b""
    packed, at = _seven_number(header, at + 1)
    coder = header.find(b"\x07\x0b\x01\x00\x01\x23\x03\x01\x01\x05", at)
    if coder < 0 or len(header) < coder + 16 or header[coder + 15] != 0x0C:
        return b""
    properties = header[coder + 10 : coder + 15]
    size, _ = _seven_number(header, coder + 16)
    data = source.at(32 + position, min(packed, _HEADER_BYTES))
    # The form of LZMA files of old: properties, size, data.
    alone = properties + struct.pack("<Q", min(size, _HEADER_BYTES)) + data
    try:
        unpacker = lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=_MEMORY_BYTES)
        return unpacker.decompress(alone, min(size, _HEADER_BYTES))
    except (lzma.LZMAError, EOFError):
        return b""


def _seven_number(data: bytes, at: int) -> tuple[int, int]:
    """Return a number as 7z writes it, and where it ends: the first byte's ones say how many follow."""
    if at >= len(data):
        return 0, at
    first, value = data[at], 0
    for index in range(8):
        if not first & (0x80 >> index):
            return value | (first & ((0x80 >> index) - 1)) << (8 * index), at + 1 + index
        value |= (data[at + 1 + index] if at + 1 + index < len(data) else 0) << (8 * index)
    return value, at + 9


def _stream(source: Source, start: bytes, budget: Budget) -> Iterator[Finding]:
    unpacker: bz2.BZ2Decompressor | lzma.LZMADecompressor | _Inflater
    if start.startswith(b"\x1f\x8b\x08"):
        unpacker = _Inflater()
    elif kind(start) == "bzip2 archive":
        unpacker = bz2.BZ2Decompressor()
    elif kind(start) == "xz archive":
        unpacker = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MEMORY_BYTES)
    else:
        return
    # What does not become as much as a bomb of so little is none.
    at, last = 0, BOMB_BYTES // BOMB_RATIO
    unpacked = 0
    try:
        while not unpacker.eof and unpacked < BOMB_BYTES and budget.streamed > 0:
            piece = b""
            if unpacker.needs_input:
                piece = source.at(at, min(_STEP_BYTES, last - at))
                at += len(piece)
                if not piece:
                    return
            data = unpacker.decompress(piece, _STEP_BYTES)
            if not unpacked and (inner := unread(data)):
                yield Finding("unread_packing", f"a {inner} in a {kind(start)}")
            step = len(data)
            unpacked, budget.streamed = unpacked + step, budget.streamed - step
    except (zlib.error, lzma.LZMAError, EOFError, OSError, ValueError):
        return
    if unpacked >= BOMB_BYTES:
        yield Finding("zip_bomb", f"its first {at} bytes unpack to {unpacked}")


class _Inflater:
    """gzip, used like its sisters: they keep what they could not unpack yet."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(31)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail

    def decompress(self, data: bytes, limit: int) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, limit)
