"""PNG and APNG: chunks."""

import zlib

from tasks.attachments.stripping.orientation import oriented
from tasks.attachments.stripping.reader import Unstrippable, number, part

SIGNATURE = b"\x89PNG\r\n\x1a\n"
#: Picture, animation, transparency, colour, size of a pixel.
NEEDED = frozenset(
    b"IHDR PLTE IDAT IEND acTL fcTL fdAT tRNS bKGD hIST pHYs sBIT cHRM gAMA sRGB cICP mDCV cLLI".split()
)
#: Set in the first letter of a chunk that a decoder may leave out.
ANCILLARY = 0x20


def strip(content: bytes) -> bytes:
    """Return the chunks that show something."""
    if not content.startswith(SIGNATURE):
        raise Unstrippable("no PNG")
    kept = [SIGNATURE]
    at, turned = len(SIGNATURE), False
    while True:
        size, name = number(content, at, 4), part(content, at + 4, 4)
        chunk = part(content, at, size + 12)
        payload = chunk[8:-4]
        at += len(chunk)
        if name in NEEDED:
            kept.append(chunk)
        elif name == b"iCCP":
            # Behind a name of up to 79 letters, which could be anybody's.
            _, zero, profile = payload.partition(b"\0")
            kept.append(_chunk(name, b"ICC" + zero + profile))
        elif name == b"eXIf":
            exif = None if turned else oriented(payload)
            turned = True
            if exif:
                kept.append(_chunk(name, exif))
        elif not name[0] & ANCILLARY:
            raise Unstrippable(f"an unknown critical chunk {name!r}")
        if name == b"IEND":
            return b"".join(kept)


def _chunk(name: bytes, payload: bytes) -> bytes:
    crc = zlib.crc32(name + payload)
    return len(payload).to_bytes(4, "big") + name + payload + crc.to_bytes(4, "big")
