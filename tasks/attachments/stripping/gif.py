"""GIF: blocks."""

from tasks.attachments.stripping.reader import Unstrippable, number, part

EXTENSION, IMAGE, TRAILER = 0x21, 0x2C, 0x3B
PLAIN_TEXT, CONTROL, APPLICATION = 0x01, 0xF9, 0xFF
#: Who may say how often an animation repeats; what they say it with.
LOOPS = (b"NETSCAPE2.0", b"ANIMEXTS1.0")
LOOP = b"\x03\x01"


def strip(content: bytes) -> bytes:
    """Return the images, their timing and how often they repeat."""
    if content[:6] not in {b"GIF87a", b"GIF89a"}:
        raise Unstrippable("no GIF")
    at = 13 + _table(number(content, 10, 1))
    kept = [part(content, 0, at)]
    # Timing of the block to come; it goes with it.
    control = b""
    while True:
        kind = number(content, at, 1)
        if kind == TRAILER:
            # Not what follows.
            return b"".join([*kept, b";"])
        if kind == IMAGE:
            begin = at
            # The descriptor, its colours, the size of its codes.
            at += 10 + _table(number(content, at + 9, 1)) + 1
            at, _ = _blocks(content, at)
            kept += [control, content[begin:at]]
            control = b""
        elif kind == EXTENSION:
            begin, label = at, number(content, at + 1, 1)
            at, blocks = _blocks(content, at + 2)
            if label == CONTROL:
                control = content[begin:at]
            elif label == PLAIN_TEXT:
                control = b""
            elif label == APPLICATION and blocks and blocks[0] in LOOPS:
                kept += _loop(blocks)
        else:
            raise Unstrippable("an unknown block")


def _table(flags: int) -> int:
    """Return the bytes of a table of colours."""
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0


def _blocks(content: bytes, at: int) -> tuple[int, list[bytes]]:
    """Return where a chain of sub-blocks ends, and the blocks."""
    blocks = []
    while size := number(content, at, 1):
        blocks.append(part(content, at + 1, size))
        at += 1 + size
    return at + 1, blocks


def _loop(blocks: list[bytes]) -> list[bytes]:
    times = next((block[1:3] for block in blocks[1:] if len(block) == 3 and block[0] == 1), None)
    if times is None:
        return []
    return [bytes((EXTENSION, APPLICATION, len(blocks[0]))) + blocks[0] + LOOP + times + b"\0"]
