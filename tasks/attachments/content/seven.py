"""The files in a 7z archive that is packed by bzip2 or Deflate, unpacked within bounds.

Not by a library: `py7zr` does not work in the sandbox, lets Deflate unpack without a limit, and brings nine
more packages.
"""

import bz2
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from tasks.attachments.content.source import Source

_START = 32
_END, _HEADER, _STREAMS, _PACKS, _UNPACKS, _SUBSTREAMS, _SIZES, _CHECKSUMS = 0, 1, 4, 6, 7, 8, 9, 10
_FOLDERS, _UNPACKED_SIZES, _COUNTS = 11, 12, 13
_STORED, _DEFLATE, _BZIP2 = b"\x00", b"\x04\x01\x08", b"\x04\x02\x02"


@dataclass(frozen=True, slots=True)
class _Folder:
    """Files that are packed together: where, how, and each file's size and CRC-32."""

    offset: int
    packed: int
    method: bytes
    files: tuple[tuple[int, int], ...]

    @property
    def size(self) -> int:
        return sum(size for size, _ in self.files)


def members(source: Source, contents: bytes, *, max_bytes: int, max_entries: int) -> list[bytes]:
    """Return what the files in an archive unpack to, without files that are empty.

    Args:
        source: the archive.
        contents: the list of contents, unpacked.
        max_bytes: of all files together, and of what a folder is packed to.
        max_entries: how many files there may be.

    Raises:
        ValueError: too much, broken, without checksums, or packed by another method.
    """
    folders = _Contents(contents, max_entries).folders()
    if sum(folder.size for folder in folders) > max_bytes:
        raise ValueError("unpacks to too much")
    return [member for folder in folders for member in _members(source, folder, max_bytes)]


def _members(source: Source, folder: _Folder, max_bytes: int) -> Iterator[bytes]:
    if folder.packed > max_bytes:
        raise ValueError("too large")
    content = _unpacked(source.at(_START + folder.offset, folder.packed), folder)
    if len(content) != folder.size:
        raise ValueError("unpacks to another size")
    at = 0
    for size, checksum in folder.files:
        member = content[at : at + size]
        if zlib.crc32(member) != checksum:
            raise ValueError("wrong checksum")
        at += size
        yield member


def _unpacked(data: bytes, folder: _Folder) -> bytes:
    if not folder.size:
        # To zlib, a limit of 0 is none.
        return b""
    try:
        if folder.method == _BZIP2:
            return bz2.BZ2Decompressor().decompress(data, folder.size)
        if folder.method == _DEFLATE:
            return zlib.decompressobj(-15).decompress(data, folder.size)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"broken: {error}") from None
    if folder.method == _STORED:
        return data
    raise ValueError("packed by another method")


class _Contents:
    """Reads a list of contents. Every number that is read is checked before anything is made of it."""

    def __init__(self, data: bytes, max_entries: int) -> None:
        self._data, self._at, self._max_entries = data, 0, max_entries

    def folders(self) -> list[_Folder]:
        """Return where and how the files are packed."""
        self._expect(_HEADER, _STREAMS, _PACKS)
        offset, packs = self._number(), self._count()
        self._expect(_SIZES)
        packed = [self._number() for _ in range(packs)]
        kind = self._byte()
        if kind == _CHECKSUMS:
            self._checksums(packs)
            kind = self._byte()
        self._must(kind == _END)
        methods, sizes, checksums = self._methods()
        if len(methods) != packs:
            raise ValueError("folders and packed streams differ in number")
        files = self._files(sizes, checksums)
        offsets = [offset]
        for size in packed:
            offsets.append(offsets[-1] + size)
        return [
            _Folder(place, size, method, inside)
            for place, size, method, inside in zip(offsets[:-1], packed, methods, files, strict=True)
        ]

    def _methods(self) -> tuple[list[bytes], list[int], list[int | None]]:
        """Return each folder's method, size and checksum."""
        self._expect(_UNPACKS, _FOLDERS)
        count = self._count()
        self._expect(0)
        methods = [self._method() for _ in range(count)]
        self._expect(_UNPACKED_SIZES)
        sizes = [self._number() for _ in range(count)]
        checksums: list[int | None] = [None] * count
        kind = self._byte()
        if kind == _CHECKSUMS:
            checksums = self._checksums(count)
            kind = self._byte()
        self._must(kind == _END)
        return methods, sizes, checksums

    def _method(self) -> bytes:
        count, flags = self._byte(), self._byte()
        if count != 1 or flags & 0xD0:
            raise ValueError("packed by several methods")
        method = self._bytes(flags & 0x0F)
        if flags & 0x20:
            self._bytes(self._number())
        return method

    def _files(self, sizes: list[int], checksums: list[int | None]) -> list[tuple[tuple[int, int], ...]]:
        """Return the size and the checksum of each file in each folder."""
        counts, kind = [1] * len(sizes), self._byte()
        found = [[size] for size in sizes]
        more: Iterator[int | None] = iter(())
        if kind == _SUBSTREAMS:
            kind = self._byte()
            if kind == _COUNTS:
                counts = [self._number() for _ in sizes]
                kind = self._byte()
            if sum(counts) > self._max_entries:
                raise ValueError("too many files")
            # The last file's size in a folder is what the others leave.
            several = [max(count - 1, 0) for count in counts]
            if kind == _SIZES:
                found = [[self._number() for _ in range(count)] for count in several]
                kind = self._byte()
            elif any(several):
                raise ValueError("no sizes")
            else:
                found = [[] for _ in sizes]
            for size, count, inside in zip(sizes, counts, found, strict=True):
                if sum(inside) > size or (size and not count):
                    raise ValueError("files larger than their folder")
                inside.extend([size - sum(inside)] * min(count, 1))
            unknown = sum(
                count for count, known in zip(counts, checksums, strict=True) if count != 1 or known is None
            )
            if kind == _CHECKSUMS:
                more = iter(self._checksums(unknown))
                kind = self._byte()
            self._must(kind == _END)
            kind = self._byte()
        self._must(kind == _END)
        files = []
        for count, known, inside in zip(counts, checksums, found, strict=True):
            own = [known] if count == 1 and known is not None else [next(more, None) for _ in inside]
            files.append(tuple((size, _known(checksum)) for size, checksum in zip(inside, own, strict=True)))
        return files

    def _checksums(self, count: int) -> list[int | None]:
        if self._byte():
            defined = [True] * count
        else:
            bits = self._bytes((count + 7) // 8)
            defined = [bool(bits[index // 8] & 0x80 >> index % 8) for index in range(count)]
        return [int.from_bytes(self._bytes(4), "little") if known else None for known in defined]

    def _expect(self, *kinds: int) -> None:
        for kind in kinds:
            self._must(self._byte() == kind)

    def _must(self, expected: bool) -> None:
        if not expected:
            raise ValueError("an unknown list")

    def _count(self) -> int:
        count = self._number()
        if count > self._max_entries:
            raise ValueError("too many")
        return count

    def _number(self) -> int:
        """Return a number of variable length: the first byte's leading ones say how many bytes follow."""
        first, value = self._byte(), 0
        for index in range(8):
            if not first & (0x80 >> index):
                return value | (first & ((0x80 >> index) - 1)) << (8 * index)
            value |= self._byte() << (8 * index)
        return value

    def _byte(self) -> int:
        return self._bytes(1)[0]

    def _bytes(self, count: int) -> bytes:
        data = self._data[self._at : self._at + count]
        if len(data) != count:
            raise ValueError("ends too early")
        self._at += count
        return data


def _known(checksum: int | None) -> int:
    if checksum is None:
        raise ValueError("no checksum")
    return checksum
