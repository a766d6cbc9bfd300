"""Where a picture ends. What stands behind that no viewer shows."""

import re
from collections.abc import Iterator

from tasks.attachments.content.source import Source

#: A picture of more parts is not followed to its end.
_PARTS = 200_000
_SCANS = 1_000
_TEXTS = (b"tEXt", b"iTXt", b"zTXt", b"eXIf")
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


def end(source: Source, media_type: str) -> int | None:
    """Return the offset behind the picture's last byte, None where it cannot be told."""
    match media_type:
        case "image/jpeg":
            return _jpeg(source)
        case "image/png" | "image/apng":
            return _png(source)
        case "image/gif":
            return _gif(source)
        case "image/webp":
            return min(int.from_bytes(source.at(4, 4), "little") + 8, source.size)
    return None


def descriptions(source: Source, media_type: str) -> list[tuple[int, int]]:
    """Return where a picture's texts stand, in order: begin and end of a PNG's texts, of a JPEG's metadata.

    Programs that draw keep the drawing there, as SVG or XML, and cameras and editors write XMP.
    """
    if media_type == "image/jpeg":
        return [(at, end) for kind, at, end in _segments(source) if kind == 0xFE or 0xE0 <= kind <= 0xEF]
    if media_type in ("image/png", "image/apng"):
        return [(at, end) for kind, at, end in _chunks(source) if kind in _TEXTS]
    return []


def _segments(source: Source) -> Iterator[tuple[int, int, int]]:
    """Yield what stands before a JPEG's first scan: the marker, and where its content begins and ends."""
    at = 2
    for _ in range(_SCANS):
        mark = source.at(at, 4)
        if len(mark) < 4 or mark[0] != 0xFF or mark[1] in (0xD9, 0xDA):
            return
        if mark[1] == 0xFF:
            at += 1
            continue
        end = at + 2 + max(2, int.from_bytes(mark[2:], "big"))
        if end > source.size:
            return
        yield mark[1], at + 4, end
        at = end


def _chunks(source: Source) -> Iterator[tuple[bytes, int, int]]:
    """Yield a PNG's chunks: the name, and where its content begins and ends."""
    at = 8
    for _ in range(_PARTS):
        head = source.at(at, 8)
        if len(head) < 8:
            return
        end = at + 8 + int.from_bytes(head[:4], "big")
        if end > source.size or head[4:] == b"IEND":
            return
        yield head[4:], at + 8, end
        at = end + 4


def _jpeg(source: Source) -> int | None:
    at, scans = 2, 0
    for _ in range(_PARTS):
        mark = source.at(at, 4)
        if len(mark) < 2 or mark[0] != 0xFF:
            return None
        kind = mark[1]
        if kind == 0xFF:
            at += 1
        elif kind == 0xD9:
            return at + 2
        elif kind == 0x01 or 0xD0 <= kind <= 0xD8:
            at += 2
        elif len(mark) < 4:
            return None
        else:
            at += 2 + max(2, int.from_bytes(mark[2:], "big"))
            if kind == 0xDA:
                found = source.search(_MARKER, at)
                scans += 1
                if found is None or scans > _SCANS:
                    return None
                at = found[0]
    return None


def _png(source: Source) -> int | None:
    at = 8
    for _ in range(_PARTS):
        head = source.at(at, 8)
        if len(head) < 8:
            return None
        at += 12 + int.from_bytes(head[:4], "big")
        if head[4:] == b"IEND":
            return min(at, source.size)
    return None


def _gif(source: Source) -> int | None:
    screen = source.head(13)
    if len(screen) < 13:
        return None
    at, parts = 13 + _colours(screen[10]), 0
    while parts < _PARTS:
        block = source.at(at, 10)
        if block[:1] == b"\x3b":
            return at + 1
        if block[:1] == b"\x21":
            at += 2
        elif block[:1] == b"\x2c" and len(block) == 10:
            at += 11 + _colours(block[9])
        else:
            return None
        # Each block is a chain of short ones, the last of them empty.
        while length := source.at(at, 1):
            at, parts = at + 1 + length[0], parts + 1
            if length[0] == 0 or parts >= _PARTS * 2:
                break
    return None


def _colours(flags: int) -> int:
    """Return how many bytes a table of colours takes."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0
