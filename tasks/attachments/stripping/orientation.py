"""How the camera was held: the one thing in EXIF that a picture needs to be shown."""

import struct

TAG = 0x0112
SHORT = 3
PREFIX = b"Exif\0\0"


def oriented(exif: bytes) -> bytes | None:
    """Return an EXIF that says the same of the orientation and nothing else; None if it says nothing.

    Args:
        exif: a TIFF header and what follows, with or without JPEG's prefix.
    """
    value = _orientation(exif.removeprefix(PREFIX))
    if value not in range(2, 9):
        return None
    # Big-endian, one directory at 8, one entry, no further directory.
    return struct.pack(">2sHIHHHIHHI", b"MM", 42, 8, 1, TAG, SHORT, 1, value, 0, 0)


def _orientation(tiff: bytes) -> int:
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None or len(tiff) < 10:
        return 1
    (at,) = struct.unpack_from(order + "I", tiff, 4)
    if at + 2 > len(tiff):
        return 1
    (count,) = struct.unpack_from(order + "H", tiff, at)
    for entry in range(at + 2, min(at + 2 + 12 * count, len(tiff) - 11), 12):
        tag, kind, _ = struct.unpack_from(order + "HHI", tiff, entry)
        if tag == TAG and kind == SHORT:
            (value,) = struct.unpack_from(order + "H", tiff, entry + 8)
            return int(value)
    return 1
