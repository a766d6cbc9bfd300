"""Where the samples of a track are, by its tables."""

from collections.abc import Iterator

from tasks.attachments.stripping.boxes import Box, boxes
from tasks.attachments.stripping.reader import Unstrippable, number


def table(film: bytes | bytearray, media: Box) -> dict[bytes, Box]:
    """Return the tables of a track's `mdia` box, by name."""
    found: dict[bytes, Box] = {}
    for inner in boxes(film, media.inside, media.end):
        if inner.name == b"minf":
            for within in boxes(film, inner.inside, inner.end):
                if within.name == b"stbl":
                    found |= {box.name: box for box in boxes(film, within.inside, within.end)}
    return found


def places(film: bytes | bytearray, media: Box) -> Iterator[tuple[int, int]]:
    """Yield where each chunk of samples begins and ends in the file.

    Raises:
        Unstrippable: the tables do not say.
    """
    tables = table(film, media)
    offsets = tables.get(b"stco") or tables.get(b"co64")
    sizes, runs = tables.get(b"stsz"), tables.get(b"stsc")
    if offsets is None or sizes is None or runs is None:
        raise Unstrippable("a track without tables of what is where")
    wide = 8 if offsets.name == b"co64" else 4
    chunks = number(film, offsets.inside + 4, 4)
    same, left = number(film, sizes.inside + 4, 4), number(film, sizes.inside + 8, 4)
    first_of_runs = [
        number(film, runs.inside + 8 + 12 * run, 4) for run in range(number(film, runs.inside + 4, 4))
    ]
    sample, run = 0, 0
    for chunk in range(chunks):
        while run + 1 < len(first_of_runs) and first_of_runs[run + 1] <= chunk + 1:
            run += 1
        held = min(number(film, runs.inside + 12 + 12 * run, 4), left - sample)
        if same:
            length = same * held
        else:
            at = sizes.inside + 12 + 4 * sample
            length = sum(number(film, at + 4 * index, 4) for index in range(held))
        sample += held
        begin = number(film, offsets.inside + 8 + wide * chunk, wide)
        yield begin, begin + length
    if sample < left:
        raise Unstrippable("samples whose place is not known")
