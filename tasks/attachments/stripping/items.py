"""Items of HEIC and AVIF files: pictures, and their metadata."""

from tasks.attachments.stripping.boxes import Box, boxes, zero
from tasks.attachments.stripping.reader import Unstrippable, number, part

#: Types of items that are pictures, and how pictures are put together.
PICTURES = frozenset(b"hvc1 hev1 lhv1 av01 vvc1 avc1 j2k1 jpeg unci grid iden iovl tmap mask mski".split())
#: An EXIF that says nothing: where in it the TIFF begins, a header, a directory of no entries.
NO_EXIF = bytes(4) + b"MM\0*\0\0\0\x08" + bytes(6)
IN_FILE, IN_BOX = 0, 1


def blank(film: bytearray, meta: Box) -> None:
    """Fill the metadata of the pictures with zeros, names too, and what belongs to no item at all."""
    by_name = {box.name: box for box in boxes(film, meta.inside + 4, meta.end)}
    if b"iinf" not in by_name or b"iloc" not in by_name:
        raise Unstrippable("pictures without an index")
    kinds = _kinds(film, by_name[b"iinf"])
    places = _places(film, by_name[b"iloc"], by_name.get(b"idat"))
    pictures: list[tuple[int, int]] = []
    metadata: list[tuple[bytes, list[tuple[int, int]]]] = []
    for item, kind in kinds.items():
        extents = places.get(item, [])
        if kind in PICTURES:
            pictures += extents or []
        elif extents is None:
            raise Unstrippable(f"an item of {kind!r} that is within others")
        else:
            metadata.append((kind, extents))
    _orphans(film, pictures)
    for kind, extents in metadata:
        for begin, end in extents:
            part(film, begin, end - begin)
            zero(film, begin, end, len(film))
        if kind == b"Exif" and len(extents) == 1 and extents[0][1] - extents[0][0] >= len(NO_EXIF):
            # Not nothing: some readers take zeros for a fault of the whole file.
            film[extents[0][0] : extents[0][0] + len(NO_EXIF)] = NO_EXIF


def _orphans(film: bytearray, pictures: list[tuple[int, int]]) -> None:
    """Fill with zeros what is in the data but of no picture: what an editor left behind."""
    top = list(boxes(film, 0, len(film)))
    if any(box.name == b"moov" for box in top):
        # Then some of it is a film's.
        return
    for box in top:
        if box.name == b"mdat":
            at = box.inside
            for begin, end in sorted(pictures):
                zero(film, at, begin, box.end)
                at = max(at, end)
            zero(film, at, box.end, box.end)


def _kinds(film: bytearray, box: Box) -> dict[int, bytes]:
    """Return the type of each item by its number, and take their names away."""
    skipped = 6 if number(film, box.inside, 1) == 0 else 8
    found = {}
    for entry in boxes(film, box.inside + skipped, box.end):
        version = number(film, entry.inside, 1)
        if entry.name != b"infe" or version not in {2, 3}:
            raise Unstrippable("an index of a kind that is not known")
        wide = 2 if version == 2 else 4
        at = entry.inside + 4 + wide + 2
        kind = part(film, at, 4)
        found[number(film, entry.inside + 4, wide)] = kind
        names = bytes(film[at + 4 : entry.end])
        zero(film, at + 4, entry.end, entry.end)
        if kind == b"mime":
            # Behind the name is what readers want to see here.
            content_type = names.split(b"\0")[1:2]
            film[at + 5 : at + 5 + len(b"".join(content_type))] = b"".join(content_type)
    return found


def _places(film: bytearray, box: Box, idat: Box | None) -> dict[int, list[tuple[int, int]] | None]:
    """Return where each item is, by its number; None for what is made of others."""
    version = number(film, box.inside, 1)
    if version > 2:
        raise Unstrippable("an index of a kind that is not known")
    sizes = number(film, box.inside + 4, 2)
    offset_bytes, length_bytes, base_bytes, index_bytes = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
    wide = 4 if version == 2 else 2
    at = box.inside + 6
    count, at = number(film, at, wide), at + wide
    found: dict[int, list[tuple[int, int]] | None] = {}
    for _ in range(count):
        item, at = number(film, at, wide), at + wide
        method = IN_FILE
        if version:
            method, at = number(film, at, 2) & 15, at + 2
        elsewhere, at = number(film, at, 2), at + 2
        base, at = number(film, at, base_bytes), at + base_bytes
        parts, at = number(film, at, 2), at + 2
        extents: list[tuple[int, int]] = []
        for _ in range(parts):
            at += index_bytes if version else 0
            offset, at = number(film, at, offset_bytes), at + offset_bytes
            length, at = number(film, at, length_bytes), at + length_bytes
            begin = base + offset + (idat.inside if method == IN_BOX and idat else 0)
            # No length means: to the end of the file, whatever that is.
            extents.append((begin, begin + length if length else len(film)))
        found[item] = extents if method in {IN_FILE, IN_BOX} and not elsewhere else None
    return found
