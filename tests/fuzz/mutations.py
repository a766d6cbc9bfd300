"""Files that were honest or hostile once, changed at random."""

from collections.abc import Sequence
from random import Random

#: Numbers at which programs err.
NUMBERS = (
    0,
    1,
    2,
    7,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFE,
    0xFFFFFFFF,
)
#: What formats are told by.
TOKENS = (
    *(b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07", b"Rar!\x1a\x07\x01\x00"),
    *(
        b"7z\xbc\xaf\x27\x1c",
        b"\x1f\x8b\x08",
        b"BZh91AY&",
        b"\xfd7zXZ\x00",
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
    ),
    *(b"%PDF-1.7\n", b"%%EOF", b"startxref\n0\n", b" 0 obj\n<<", b"/Encrypt ", b"stream\r\n", b"xref\n"),
    *(b"\xff\xd8", b"\xff\xda", b"\xff\xd9", b"IEND", b"GIF89a", b"RIFF", b"MZ", b"\x7fELF\x02\x01\x01"),
    *(b"/*", b"*/", b"//", b"'", b'"', b"`", b"=1;", b"<script>", b"<!--", b"<?php ", b"#!/", b"<?xml "),
    *(b"[Content_Types].xml", b"mimetype", b".rels", b"<!ENTITY x SYSTEM 'y'>", b"Workbook", b"\x85\0"),
)


def mutated(random: Random, content: bytes, others: Sequence[bytes]) -> bytes:
    """Return `content`, changed in a few places; `others` lend their parts."""
    out = bytearray(content)
    for _ in range(random.choice((1, 1, 2, 3, 5, 9, 20))):
        at = random.choice((random.randrange(len(out) + 1), random.randrange(min(len(out), 64) + 1)))
        if random.random() < 0.3:
            # The list of contents of an archive or a PDF stands at its end.
            at = max(0, len(out) - random.randrange(200))
        length = random.choice((1, 2, 4, 8, 64, random.randrange(1, len(out) + 2)))
        match random.randrange(9):
            case 0 if out:
                out[min(at, len(out) - 1)] ^= 1 << random.randrange(8)
            case 1:
                size = random.choice((1, 2, 4, 8))
                number = random.choice(NUMBERS) & (256**size - 1)
                out[at : at + size] = number.to_bytes(size, random.choice(("little", "big")))
            case 2:
                del out[at : at + length]
            case 3:
                out[at:at] = out[at : at + length] * random.choice((1, 1, 2, 50))
            case 4:
                out[at:at] = random.choice(TOKENS)
            case 5:
                out[at:at] = random.randbytes(min(length, 64))
            case 6:
                other = random.choice(others)
                begin = random.randrange(len(other) + 1)
                out[at:at] = other[begin : begin + length]
            case 7:
                out += random.choice(others)
            case _:
                del out[at:]
        if len(out) > 4_000_000:
            del out[4_000_000:]
    return bytes(out)
