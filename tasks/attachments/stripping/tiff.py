"""TIFF: tags. Offsets are everywhere, so what stays stays where it is, and the rest becomes zeros."""

from typing import NamedTuple

from tasks.attachments.stripping import jpeg
from tasks.attachments.stripping.reader import Unstrippable, number, part

#: Tags that say how pixels are stored and what colours they mean. Not resolution's unit's software's artist.
NEEDED = frozenset(
    {254, 255, 256, 257, 258, 259, 262, 263, 266, 273, 274, 277, 278, 279, 280, 281, 282, 283, 284, 286, 287}
    | {
        290,
        291,
        292,
        293,
        296,
        297,
        301,
        317,
        318,
        319,
        320,
        321,
        322,
        323,
        324,
        325,
        332,
        334,
        336,
        338,
        339,
    }
    | {340, 341, 342, 347, 529, 530, 531, 532, 34675}
)
SUB_DIRECTORIES = 330
COMPRESSION = 259
#: Tags with the places of pixels, and those with their sizes.
PIXELS = ((273, 279), (324, 325))
OLD_JPEG, JPEG = 6, 7
#: Bytes of one value, by type.
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
ENTRY_BYTES = 12
MOST_DIRECTORIES = 10_000


class Entry(NamedTuple):
    """One tag: where it is, its type, how many values it has, where they begin."""

    at: int
    kind: int
    values: int
    place: int

    @property
    def size(self) -> int:
        """How many bytes they take."""
        return self.values * SIZES[self.kind]


def strip(content: bytes) -> bytes:
    """Return a file of the same size with all pictures in it, and zeros for what does not show."""
    little = content[:2] == b"II"
    if content[:4] not in {b"II*\0", b"MM\0*"}:
        raise Unstrippable("no TIFF, or a big one")
    directories: dict[int, bytes] = {}
    data: list[tuple[int, int]] = []
    left = [number(content, 4, 4, little=little)]
    while left:
        at = left.pop()
        if at in directories or len(directories) >= MOST_DIRECTORIES:
            raise Unstrippable("directories in a circle")
        count = number(content, at, 2, little=little)
        entries = _entries(content, at, count, little)
        following = part(content, at + 2 + count * ENTRY_BYTES, 4)
        raw = b"".join(part(content, entry.at, ENTRY_BYTES) for entry in entries.values())
        directories[at] = len(entries).to_bytes(2, "little" if little else "big") + raw + following
        data += [(entry.place, entry.size) for entry in entries.values() if entry.size > 4]
        data += _pixels(content, entries, little)
        if SUB_DIRECTORIES in entries:
            left += _numbers(content, entries[SUB_DIRECTORIES], little)
        if any(following):
            left.append(int.from_bytes(following, "little" if little else "big"))

    kept = bytearray(len(content))
    kept[:8] = content[:8]
    for at, size in data:
        kept[at : at + size] = part(content, at, size)
    for at, directory in directories.items():
        kept[at : at + len(directory)] = directory
    if any(kept[at : at + size] != content[at : at + size] for at, size in data):
        raise Unstrippable("tags and pixels in the same place")
    return bytes(kept)


def _entries(content: bytes, at: int, count: int, little: bool) -> dict[int, Entry]:
    """Return the needed entries of a directory by tag."""
    found: dict[int, Entry] = {}
    for entry in range(at + 2, at + 2 + count * ENTRY_BYTES, ENTRY_BYTES):
        tag, kind = (number(content, entry + offset, 2, little=little) for offset in (0, 2))
        if tag not in NEEDED and tag != SUB_DIRECTORIES:
            continue
        if kind not in SIZES:
            raise Unstrippable("a tag of an unknown type")
        values = number(content, entry + 4, 4, little=little)
        # Values of up to four bytes are in the entry itself.
        inside = Entry(entry, kind, values, entry + 8)
        place = entry + 8 if inside.size <= 4 else number(content, entry + 8, 4, little=little)
        found.setdefault(tag, inside._replace(place=place))
    return found


def _pixels(content: bytes, entries: dict[int, Entry], little: bool) -> list[tuple[int, int]]:
    """Return where the pixels of a directory's picture are, and how many bytes."""
    found: list[tuple[int, int]] = []
    compression = _numbers(content, entries[COMPRESSION], little) if COMPRESSION in entries else [1]
    if OLD_JPEG in compression:
        raise Unstrippable("JPEG of the old kind, whose tables are anywhere")
    for places, sizes in PIXELS:
        if places not in entries:
            continue
        if sizes not in entries:
            raise Unstrippable("pixels without a size")
        where, how_much = (_numbers(content, entries[tag], little) for tag in (places, sizes))
        if len(where) != len(how_much):
            raise Unstrippable("more places than sizes")
        for place, size in zip(where, how_much, strict=True):
            pixels = part(content, place, size)
            if JPEG in compression and jpeg.strip(pixels) != pixels:
                raise Unstrippable("metadata within compressed pixels")
            found.append((place, size))
    return found


def _numbers(content: bytes, entry: Entry, little: bool) -> list[int]:
    size = SIZES[entry.kind]
    whole = part(content, entry.place, entry.size)
    order = "little" if little else "big"
    return [int.from_bytes(whole[at : at + size], order) for at in range(0, len(whole), size)]  # type: ignore[arg-type]
