"""A zip archive's directory, read within bounds.

Not by `zipfile`: it reads a whole directory into memory and makes an object of each entry, a gigabyte for
a hostile archive, and it believes what it reads, where here the point is to see who lies.
"""

import struct
import zlib
from dataclasses import dataclass
from functools import cached_property

from tasks.attachments.content.source import Source

#: Entries that are looked at; an archive of more is suspicious. clamd's own limit is 10,000 by default.
MAX_ENTRIES = 50_000
#: An archive's comment is at most 65,535 bytes long, behind a record of 22.
END_BYTES = 65_535 + 22
END, CENTRAL, LOCAL = b"PK\x05\x06", b"PK\x01\x02", b"PK\x03\x04"
STORED, DEFLATED = 0, 8
#: What the first part of an archive in several begins with, and the only part of one that was not cut.
SPANNED = b"PK\x07\x08"
_LOCATOR = b"PK\x06\x07"
_WIDE = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Entry:
    """One file in an archive, as the directory describes it; `offset` counts from the source's beginning.

    `wide` says whether its numbers stand where those do that are too large for 32 bits, `checksum` is its
    content's CRC-32.
    """

    name: bytes
    flags: int
    method: int
    packed: int
    size: int
    offset: int
    wide: bool = False
    checksum: int = 0

    @property
    def encrypted(self) -> bool:
        """Whether a password is needed: the old scheme, AES (method 99), or a strong one."""
        return bool(self.flags & 0x41) or self.method == 99

    @property
    def text(self) -> str:
        """The name, for people and comparisons."""
        try:
            # Whatever the flag says: most programs write UTF-8, and many forget to say so.
            name = self.name.decode()
        except UnicodeDecodeError:
            name = self.name.decode("cp437")
        return name.replace("\\", "/")


@dataclass(frozen=True)
class Archive:
    """A zip archive.

    Attributes:
        start: where it begins: 0, or behind what stands before it.
        directory, end: where its directory begins, and the record behind that.
        count: how many entries the record promises.
        exact: whether the archive's comment ends where the file ends.
        wide: whether its numbers stand where those do that are too large for 32 bits.
    """

    source: Source
    start: int
    directory: int
    end: int
    count: int
    exact: bool
    wide: bool = False

    @cached_property
    def entries(self) -> list[Entry]:
        """The directory, as far as it can be read, up to `MAX_ENTRIES` and one."""
        found: list[Entry] = []
        position, buffer, base = self.directory, b"", self.directory
        while position + 46 <= self.end and len(found) <= MAX_ENTRIES:
            if position + 46 + 3 * 65_535 > base + len(buffer) and base + len(buffer) < self.end:
                base, buffer = position, self.source.at(position, min(1 << 20, self.end - position))
            at = position - base
            if buffer[at : at + 4] != CENTRAL or len(buffer) < at + 46:
                break
            flags, method = struct.unpack_from("<HH", buffer, at + 8)
            checksum, packed, size, name_length, extra_length, comment_length = struct.unpack_from(
                "<IIIHHH", buffer, at + 16
            )
            (offset,) = struct.unpack_from("<I", buffer, at + 42)
            name = buffer[at + 46 : at + 46 + name_length]
            extra = buffer[at + 46 + name_length : at + 46 + name_length + extra_length]
            wide = _WIDE in (packed, size, offset)
            if wide:
                size, packed, offset = _wide(extra, size, packed, offset)
            found.append(Entry(name, flags, method, packed, size, offset + self.start, wide, checksum))
            position += 46 + name_length + extra_length + comment_length
        return found

    def contradiction(self, entry: Entry) -> str | None:
        """Return how the header before the file contradicts the directory, in a phrase, or None."""
        header = self.source.at(entry.offset, 30 + len(entry.name))
        if header[:4] != LOCAL or len(header) < 30:
            return "is not where the list of contents says"
        flags, method = struct.unpack_from("<HH", header, 6)
        packed, size, name_length = struct.unpack_from("<IIH", header, 18)
        # Some programs turn slashes round in one of the two places.
        name = header[30:].replace(b"\\", b"/")
        if name_length != len(entry.name) or name != entry.name.replace(b"\\", b"/"):
            return "has two names"
        if method != entry.method or (flags ^ entry.flags) & 1:
            return "is packed in two ways"
        # Bit 3: the sizes stand behind the file. Zero: the writer could not go back.
        for here, there in ((packed, entry.packed), (size, entry.size)):
            if here not in (0, _WIDE, there) and not flags & 8:
                return "has two sizes"
        return None

    def packed(self, entry: Entry, limit: int) -> bytes | None:
        """Return up to `limit` of the entry's bytes as they are packed, None where they cannot be had."""
        start = self._content_at(entry)
        return None if start is None else self.source.at(start, min(limit, entry.packed))

    def _content_at(self, entry: Entry) -> int | None:
        header = self.source.at(entry.offset, 30)
        if len(header) < 30 or header[:4] != LOCAL or entry.encrypted:
            return None
        name_length, extra_length = struct.unpack_from("<HH", header, 26)
        return int(entry.offset + 30 + name_length + extra_length)

    def read(self, entry: Entry, limit: int) -> bytes | None:
        """Return up to `limit` of the entry's unpacked bytes, None where they cannot be had."""
        start = self._content_at(entry)
        if start is None or limit <= 0:
            return None
        if entry.method == STORED:
            return self.source.at(start, min(limit, entry.packed))
        if entry.method != DEFLATED:
            return None
        unpacker, out, left = zlib.decompressobj(-15), bytearray(), entry.packed
        while left > 0 and len(out) < limit and not unpacker.eof:
            # In small steps: what comes of 16 kilobytes is at most 16 megabytes.
            piece = self.source.at(start, min(left, 16_384))
            if not piece:
                break
            start, left = start + len(piece), left - len(piece)
            try:
                out += unpacker.decompress(piece, limit - len(out))
            except zlib.error:
                break
        return bytes(out)


def _wide(extra: bytes, size: int, packed: int, offset: int) -> tuple[int, int, int]:
    """Return the three numbers, those that are too large for 32 bits from the extra field."""
    values, at = [size, packed, offset], 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            at += 4
            for index, value in enumerate(values):
                if value == _WIDE and at + 8 <= len(extra):
                    (values[index],) = struct.unpack_from("<Q", extra, at)
                    at += 8
            break
        at += 4 + length
    return values[0], values[1], values[2]


def find(source: Source) -> Archive | None:
    """Return the zip archive that the file ends with, as lenient unpackers find it, or None.

    An archive counts whose record at the end leads to a directory, whatever stands before it and after it.
    """
    base = max(0, source.size - END_BYTES)
    tail = source.at(base, END_BYTES)
    at = len(tail)
    while (at := tail.rfind(END, 0, at)) >= 0:
        if archive := _archive(source, base + at, tail[at : at + 22]):
            return archive
    return None


def part(source: Source) -> bool:
    """Return whether the file is the first or the last part of an archive in several."""
    if source.head(8) == SPANNED + LOCAL:
        return True
    tail = source.tail(END_BYTES)
    at = tail.rfind(END)
    if at < 0 or len(tail) < at + 22:
        return False
    disk, first = struct.unpack_from("<HH", tail, at + 4)
    (comment,) = struct.unpack_from("<H", tail, at + 20)
    # Beyond a thousand parts it is chance.
    return bool(0 < disk < 1000 and first <= disk and at + 22 + comment == len(tail))


def _archive(source: Source, position: int, record: bytes) -> Archive | None:
    if len(record) < 22:
        return None
    count, size, offset, comment = struct.unpack_from("<HIIH", record, 10)
    end, needed = position, False
    wide = source.at(position - 76, 56)
    if wide[:4] == b"PK\x06\x06" and len(wide) == 56 and source.at(position - 20, 4) == _LOCATOR:
        needed = count == 0xFFFF or _WIDE in (size, offset)
        # Programs that do not know the size beforehand write the wider record, whether it is needed or not.
        if needed or struct.unpack_from("<QQQ", wide, 32) == (count, size, offset):
            count, size, offset = struct.unpack_from("<QQQ", wide, 32)
            end = position - 76
    directory = end - size
    start = directory - offset
    exact = position + 22 + comment == source.size
    if size == 0 and count == 0:
        # An empty archive is one only where there is nothing else.
        return Archive(source, 0, end, end, 0, exact) if position == 0 else None
    if directory < 0 or source.at(directory, 4) != CENTRAL:
        return None
    if start < 0:
        # Who writes wrong offsets is still understood by some.
        start = 0
    return Archive(source, start, directory, end, count, exact, needed)
