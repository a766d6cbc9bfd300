"""JPEG: segments before the picture's data, and whatever follows its end."""

import re

from tasks.attachments.stripping.orientation import PREFIX, oriented
from tasks.attachments.stripping.reader import Unstrippable, number, part

#: Segments without which nothing can be decoded: tables, frame, restart interval, heights, scans.
NEEDED = frozenset({0xC4, 0xCC, 0xDB, 0xDC, 0xDD, 0xDE, 0xDF, *range(0xC0, 0xC4), *range(0xC5, 0xC8)})
NEEDED |= {*range(0xC9, 0xCC), *range(0xCD, 0xD0)}
BEGIN, END, SCAN = 0xD8, 0xD9, 0xDA
#: A marker: in a scan, 0xFF before zero is data, and restarts belong to it.
MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])", re.DOTALL)
JFIF_BYTES = 14


def strip(content: bytes) -> bytes:
    """Return the first picture in the file with its colour profile and orientation."""
    if content[:2] != b"\xff\xd8":
        raise Unstrippable("no JPEG")
    kept = [content[:2]]
    at, turned, shown = 2, False, False
    while found := MARKER.search(content, at):
        marker, at = found[1][0], found.end()
        if marker == END:
            if not shown:
                raise Unstrippable("no picture in it")
            # Not what follows: a film, a second picture, each with an EXIF of its own.
            return b"".join([*kept, b"\xff\xd9"])
        if marker == BEGIN or marker < 0xC0:
            raise Unstrippable("a marker where none may be")
        size = number(content, at, 2)
        if size < 2:
            raise Unstrippable("a segment without a length")
        payload = part(content, at + 2, size - 2)
        at += size
        if marker == SCAN:
            shown = True
            end = MARKER.search(content, at)
            if end is None:
                raise Unstrippable("cut off")
            kept.append(_segment(marker, payload) + content[at : end.start()])
            at = end.start()
        elif marker == 0xE1 and payload.startswith(PREFIX):
            # The first counts.
            exif = None if turned else oriented(payload)
            turned = True
            if exif:
                kept.append(_segment(marker, PREFIX + exif))
        elif (wanted := _wanted(marker, payload)) is not None:
            kept.append(_segment(marker, wanted))
    raise Unstrippable("cut off")


def _wanted(marker: int, payload: bytes) -> bytes | None:
    if marker in NEEDED:
        return payload
    if marker == 0xE0 and payload.startswith(b"JFIF\0") and len(payload) >= JFIF_BYTES:
        # Without the thumbnail that may follow.
        return payload[: JFIF_BYTES - 2] + b"\0\0"
    if marker == 0xE2 and payload.startswith(b"ICC_PROFILE\0"):
        return payload
    if marker == 0xEE and payload.startswith(b"Adobe") and len(payload) >= 12:
        # Says how colours are coded.
        return payload[:12]
    return None


def _segment(marker: int, payload: bytes) -> bytes:
    return bytes((0xFF, marker)) + (len(payload) + 2).to_bytes(2, "big") + payload
