"""ISO base media files: MP4, QuickTime, 3GP, HEIC, AVIF. Boxes within boxes.

Tables of offsets point at every sample, so nothing may move: a box that is not needed becomes a `free` one of
zeros, as large as before, and numbers and names within needed ones become zeros.
"""

from tasks.attachments.stripping import items, samples
from tasks.attachments.stripping.boxes import Box, boxes, free, handler, zero
from tasks.attachments.stripping.reader import Unstrippable, number

#: What is needed in each box that consists of boxes. What is not named here goes, wherever it is.
NEEDED: dict[bytes, frozenset[bytes]] = {
    parent: frozenset(children.split())
    for parent, children in {
        b"": b"ftyp styp moov moof mdat meta sidx ssix mfra pdin",
        b"moov": b"mvhd trak mvex iods",
        b"trak": b"tkhd edts mdia tref load tapt clip matt",
        b"mdia": b"mdhd hdlr minf elng",
        b"minf": b"vmhd smhd gmhd nmhd sthd hmhd hdlr dinf stbl",
        b"stbl": b"stsd stts stss stps ctts cslg stsc stsz stz2 stco co64 sdtp stdp padb"
        b" sbgp sgpd subs saiz saio",
        b"dinf": b"dref",
        b"moof": b"mfhd traf",
        b"tref": b"chap subt auxl vdep fall dpnd sync font hind forc",
        b"traf": b"tfhd tfdt trun sbgp sgpd subs saiz saio senc",
        b"mvex": b"mehd trex leva trep",
        b"meta": b"hdlr pitm iinf iloc iref iprp idat grpl dinf",
        b"iprp": b"ipco ipma",
    }.items()
}
#: Properties of pictures that are not about how they look: texts, dates, and what only its maker knows.
PERSONAL_PROPERTIES = frozenset({b"udes", b"altt", b"crtt", b"mdft", b"uuid"})
#: Boxes that are older or newer than what is known here, and change what is shown.
FATAL = {b"cmov": "a compressed index", b"rmra": "references to other files"}
#: Tracks that are seen, heard or read. Others (`meta`, `camm`, `tmcd`, …) know places and times.
SEEN = frozenset({b"vide", b"auxv", b"pict"})
SHOWN = SEEN | {b"soun", b"text", b"sbtl", b"subt", b"subp", b"clcp"}
#: Where dates begin in a box's payload behind version and flags, and how many bytes there are for both.
DATED = frozenset({b"mvhd", b"tkhd", b"mdhd"})
#: In an entry that describes a visual track: the name of the program that encoded it.
ENCODER_AT, ENCODER_BYTES = 50, 32


def strip(content: bytes) -> bytes:
    """Return a file of the same size with zeros for what neither shows nor sounds."""
    film = bytearray(content)
    top = list(boxes(film, 0, len(film)))
    if not top or top[0].name not in {b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"}:
        raise Unstrippable("no ISO base media file")
    if not any(box.name in {b"moov", b"meta"} for box in top):
        raise Unstrippable("nothing in it can be found without an index")
    fragmented = any(box.name == b"moof" for box in top)
    for box in top:
        if box.name == b"meta" and not _of_pictures(film, box):
            free(film, box)
        else:
            _clean(film, b"", box, fragmented)
    return bytes(film)


def _of_pictures(film: bytearray, meta: Box) -> bool:
    """Return whether a `meta` box holds pictures; that of a film only describes it."""
    # QuickTime's has no version before its boxes.
    versioned = number(film, meta.inside, 4) == 0
    return versioned and handler(film, list(boxes(film, meta.inside + 4, meta.end))) == b"pict"


def _clean(film: bytearray, parent: bytes, box: Box, fragmented: bool) -> None:
    name = box.name
    if name in FATAL:
        raise Unstrippable(FATAL[name])
    if name not in NEEDED[parent]:
        free(film, box)
    elif name == b"trak":
        _track(film, box, fragmented)
    elif name == b"meta":
        items.blank(film, box)
        _children(film, name, box.inside + 4, box.end, fragmented)
    elif name in NEEDED:
        _children(film, name, box.inside, box.end, fragmented)
    elif name in DATED:
        # Created, modified: 32 bits each, or 64.
        zero(film, box.inside + 4, box.inside + (20 if number(film, box.inside, 1) else 12), box.end)
    elif name == b"hdlr":
        # Behind the fixed part is a name: of a camera's maker, of a program.
        zero(film, box.inside + 24, box.end, box.end)
    elif name == b"dref":
        _references(film, box)
    elif name == b"ipco":
        for inner in boxes(film, box.inside, box.end):
            if inner.name in PERSONAL_PROPERTIES:
                free(film, inner)


def _children(film: bytearray, parent: bytes, begin: int, end: int, fragmented: bool) -> None:
    for child in boxes(film, begin, end):
        _clean(film, parent, child, fragmented)


def _track(film: bytearray, track: Box, fragmented: bool) -> None:
    children = list(boxes(film, track.inside, track.end))
    media = next((box for box in children if box.name == b"mdia"), None)
    if media is None:
        raise Unstrippable("a track without media")
    kind = handler(film, list(boxes(film, media.inside, media.end)))
    if kind not in SHOWN:
        if fragmented:
            raise Unstrippable(f"a track of {kind!r} in fragments")
        for begin, end in samples.places(film, media):
            zero(film, begin, end, len(film))
        free(film, track)
        return
    _children(film, b"trak", track.inside, track.end, fragmented)
    description = samples.table(film, media).get(b"stsd")
    if description and kind in SEEN:
        for entry in boxes(film, description.inside + 8, description.end):
            begin = entry.begin + ENCODER_AT
            zero(film, begin, begin + ENCODER_BYTES, entry.end)


def _references(film: bytearray, box: Box) -> None:
    for entry in boxes(film, box.inside + 8, box.end):
        if not number(film, entry.inside, 4) & 1:
            raise Unstrippable("its data is in another file")
        # The data is in this file: a path is of no use.
        zero(film, entry.inside + 4, entry.end, entry.end)
