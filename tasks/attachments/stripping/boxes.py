"""Boxes of ISO base media files."""

from collections.abc import Iterator
from typing import NamedTuple

from tasks.attachments.stripping.reader import Unstrippable, number, part


class Box(NamedTuple):
    """A box: its name, where it begins, where what is in it begins, where both end."""

    name: bytes
    begin: int
    inside: int
    end: int


def boxes(film: bytes | bytearray, at: int, end: int) -> Iterator[Box]:
    """Yield the boxes between two places.

    Raises:
        Unstrippable: one is larger than what it is in.
    """
    while end - at >= 8:
        size, name, inside = number(film, at, 4), part(film, at + 4, 4), at + 8
        if size == 1:
            size, inside = number(film, at + 8, 8), at + 16
        elif size == 0:
            # QuickTime ends some lists with a zero; as a size it means: to the end of the file.
            size = end - at
        if inside > at + size or at + size > end:
            raise Unstrippable("a box that is cut off")
        yield Box(name, at, inside, at + size)
        at += size
    if any(film[at:end]):
        raise Unstrippable("something between boxes")


def handler(film: bytes | bytearray, children: list[Box]) -> bytes:
    """Return what a track or a collection of items is for, by its `hdlr`."""
    for box in children:
        if box.name == b"hdlr":
            return part(film, box.inside + 8, 4)
    return b""


def free(film: bytearray, box: Box) -> None:
    """Make a box one that says nothing, as large as before."""
    film[box.begin + 4 : box.begin + 8] = b"free"
    zero(film, box.inside, box.end, box.end)


def zero(film: bytearray, begin: int, end: int, limit: int) -> None:
    """Fill with zeros from `begin` to `end`, or to `limit` if that is before."""
    end = min(end, limit)
    if begin < end:
        film[begin:end] = bytes(end - begin)
