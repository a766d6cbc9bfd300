"""Bounded reading: a file of any size is looked at in pieces of a known size."""

import re
from collections.abc import Iterator
from types import TracebackType
from typing import BinaryIO, Self

#: What is read at a time.
CHUNK_BYTES = 1024 * 1024
#: A match may be this long and still lie across two pieces.
OVERLAP_BYTES = 256


class Source:
    """Bytes that are read by offset; nothing is read that does not exist, and nothing raises at the end.

    Attributes:
        size: how many bytes there are.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.size = file.seek(0, 2)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.close()

    def at(self, offset: int, length: int) -> bytes:
        """Return up to `length` bytes from `offset`; fewer at the end, none outside."""
        if not 0 <= offset < self.size or length <= 0:
            return b""
        self.file.seek(offset)
        return self.file.read(min(length, self.size - offset))

    def head(self, length: int) -> bytes:
        """Return the first bytes."""
        return self.at(0, length)

    def tail(self, length: int) -> bytes:
        """Return the last bytes."""
        return self.at(max(0, self.size - length), length)

    def pieces(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, bytes]]:
        """Yield offset and bytes of overlapping pieces."""
        stop = self.size if stop is None else min(stop, self.size)
        while start < stop:
            yield start, self.at(start, min(CHUNK_BYTES + OVERLAP_BYTES, stop - start))
            start += CHUNK_BYTES

    def search(
        self, pattern: re.Pattern[bytes], start: int = 0, stop: int | None = None
    ) -> tuple[int, bytes] | None:
        """Return offset and bytes of the first match; one longer than the overlap may be missed."""
        for offset, piece in self.pieces(start, stop):
            if match := pattern.search(piece):
                return offset + match.start(), match[0]
        return None

    def search_last(self, literal: bytes, start: int = 0) -> int:
        """Return the offset of the last occurrence, or -1."""
        stop = self.size
        while stop > start:
            begin = max(start, stop - CHUNK_BYTES)
            found = self.at(begin, stop - begin + len(literal) - 1).rfind(literal)
            if found >= 0:
                return begin + found
            stop = begin
        return -1
