"""What is packed in a zip archive by PPMd (method 98), unpacked within bounds."""

from importlib import import_module
from typing import Any

METHOD = 98


def unpack(data: bytes, size: int) -> bytes:
    """Return what a member unpacks to, at most `size` bytes; fewer where the data ends too early.

    Raises:
        ValueError: it is broken, or needs more memory than there is.
    """
    if len(data) < 2 or size <= 0:
        return b""
    # Loaded where it is needed: such files are rare.
    pyppmd: Any = import_module("pyppmd")
    parameters = int.from_bytes(data[:2], "little")
    order, megabytes, restore = (parameters & 15) + 1, (parameters >> 4 & 255) + 1, parameters >> 12
    # Others are not written, and unpacking by them is not defined.
    if order < 2 or restore > 1:
        raise ValueError("unknown parameters")
    out = bytearray()
    try:
        unpacker = pyppmd.Ppmd8Decoder(order, megabytes << 20, restore)
        piece, started = data[2:], False
        while len(out) < size and not unpacker.eof:
            more = unpacker.decode(piece, size - len(out))
            out += more
            if not more and started:
                break
            # At the end of what is packed, a zero may be left out.
            started, piece = True, b"\0" if unpacker.needs_input else b""
    except (MemoryError, SystemError) as error:
        raise ValueError(f"broken: {error}") from None
    return bytes(out)
