"""WebP: chunks of a RIFF file."""

from tasks.attachments.stripping.orientation import oriented
from tasks.attachments.stripping.reader import Unstrippable, number, part

NEEDED = frozenset({b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ICCP"})
#: What the extended header says of the other chunks.
HAS_EXIF, HAS_XMP = 0x08, 0x04
#: What precedes the chunks of one frame of an animation.
FRAME_BYTES = 16


def strip(content: bytes) -> bytes:
    """Return the chunks that show something."""
    if content[:4] != b"RIFF" or content[8:12] != b"WEBP":
        raise Unstrippable("no WebP")
    # What follows the RIFF chunk is dropped.
    body = part(content, 12, number(content, 4, 4, little=True) - 4)
    chunks = _chunks(body)
    exif = next((found for name, payload in chunks if name == b"EXIF" and (found := oriented(payload))), None)
    extended = any(name == b"VP8X" for name, _ in chunks)
    kept = []
    for name, payload in chunks:
        if name in NEEDED:
            kept.append(_chunk(name, payload))
        elif name == b"VP8X" and payload:
            flags = payload[0] & ~(HAS_EXIF | HAS_XMP) | (HAS_EXIF if exif else 0)
            kept.append(_chunk(name, bytes((flags,)) + payload[1:]))
        elif name == b"ANMF":
            frame = part(payload, 0, FRAME_BYTES)
            inside = [_chunk(name, data) for name, data in _chunks(payload[FRAME_BYTES:]) if name in NEEDED]
            kept.append(_chunk(name, frame + b"".join(inside)))
    if exif and extended:
        kept.append(_chunk(b"EXIF", exif))
    if not kept:
        raise Unstrippable("no picture in it")
    stripped = b"WEBP" + b"".join(kept)
    return b"RIFF" + len(stripped).to_bytes(4, "little") + stripped


def _chunks(body: bytes) -> list[tuple[bytes, bytes]]:
    found, at = [], 0
    # A last byte may be padding.
    while at + 1 < len(body):
        name, size = part(body, at, 4), number(body, at + 4, 4, little=True)
        found.append((name, part(body, at + 8, size)))
        at += 8 + size + size % 2
    return found


def _chunk(name: bytes, payload: bytes) -> bytes:
    return name + len(payload).to_bytes(4, "little") + payload + bytes(len(payload) % 2)
