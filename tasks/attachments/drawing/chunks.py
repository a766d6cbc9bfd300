"""PNG reduced to what makes its still picture, for a file whose other chunks are broken or too large."""

from collections.abc import Iterator

SIGNATURE = b"\x89PNG\r\n\x1a\n"
#: Size and mode, palette, transparency, the picture.
_STILL = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")


def still(content: bytes) -> bytes:
    """Return the PNG without its animation, texts, profile, and whatever else a decoder may leave out."""
    return SIGNATURE + b"".join(chunk for chunk in _chunks(content) if chunk[4:8] in _STILL)


def _chunks(content: bytes) -> Iterator[bytes]:
    """Yield each chunk with its length, name and checksum; the last one may be cut short."""
    at = len(SIGNATURE)
    while at < len(content):
        end = at + int.from_bytes(content[at : at + 4]) + 12
        yield content[at:end]
        at = end
