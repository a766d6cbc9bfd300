"""What is wrong with a zip archive, and with the archives in it.

Everything is bounded by one budget for a file and all that is packed in it. What the budget leaves out the
virus scanner still sees, or says that it could not.
"""

import io
from collections.abc import Iterator

from tasks.attachments import names
from tasks.attachments.content import office, ole, packed, ppmd, zips
from tasks.attachments.content.budget import BOMB_BYTES, BOMB_RATIO, Budget
from tasks.attachments.content.finding import Finding
from tasks.attachments.content.source import Source
from tasks.attachments.content.zips import Archive, Entry

#: An archive in an archive in … this many; the outermost counts. A workbook in a letter in a zip is three.
MAX_DEPTH = 5
#: Methods of packing that the scanner opens, of those that programs write.
_OPENED = frozenset({zips.STORED, 6, zips.DEFLATED, 9, 12, 14})
#: Smaller members are no archives.
_SMALLEST = 22
#: Beginnings of members that are looked at, whatever they are called.
_PEEKED = 4_000


def examine(archive: Archive, budget: Budget, depth: int = 1) -> Iterator[Finding]:
    """Yield what is to be said of the archive and of those in it."""
    entries = archive.entries
    budget.entries -= len(entries)
    if len(entries) > zips.MAX_ENTRIES or budget.entries < 0:
        yield Finding("too_many_members", f"more than {zips.MAX_ENTRIES} files")
        return
    # The record has room for 65,535, and not everybody who writes more uses the wider one.
    if len(entries) % 65_536 != archive.count % 65_536:
        yield Finding("broken_archive", f"lists {len(entries)} files and promises {archive.count}")
    yield from _locked(entries)
    yield from _methods(entries)
    yield from _sizes(archive, entries, budget)
    yield from _names(entries)
    yield from _headers(archive, entries)
    yield from _lies(archive, entries, budget)
    yield from office.examine(archive, entries, budget)
    yield from _nested(archive, entries, budget, depth)


def wide(archive: Archive) -> bool:
    """Return whether an archive has wide numbers although it is small: scanners may not read it then."""
    return archive.wide or any(entry.wide for entry in archive.entries[: zips.MAX_ENTRIES])


def by_ppmd(archive: Archive) -> bool:
    """Return whether a file in an archive is packed by PPMd."""
    return any(entry.method == ppmd.METHOD for entry in archive.entries[: zips.MAX_ENTRIES])


def _locked(entries: list[Entry]) -> Iterator[Finding]:
    locked = [entry for entry in entries if entry.encrypted]
    if locked:
        yield Finding("encrypted_archive", f"{len(locked)} of {len(entries)} files need a password")


def _methods(entries: list[Entry]) -> Iterator[Finding]:
    for entry in entries:
        if entry.method not in _OPENED and not entry.encrypted:
            yield Finding("unread_packing", f"{entry.text} is packed by method {entry.method}")
            return


def _sizes(archive: Archive, entries: list[Entry], budget: Budget) -> Iterator[Finding]:
    largest = max((entry.size for entry in entries), default=0)
    if largest >= budget.max_member_bytes:
        yield Finding("oversized_member", f"holds a file of {largest} bytes")
    total = sum(entry.size for entry in entries)
    if total > BOMB_BYTES and total > BOMB_RATIO * archive.source.size:
        yield Finding("zip_bomb", f"unpacks from {archive.source.size} to {total} bytes")
    end = 0
    for entry in sorted(entries, key=lambda entry: entry.offset):
        if entry.offset < end:
            yield Finding("zip_bomb", "its files share their bytes")
            break
        end = entry.offset + 30 + len(entry.name) + entry.packed


def _names(entries: list[Entry]) -> Iterator[Finding]:
    seen: set[str] = set()
    for entry in entries:
        name = entry.text
        if ".." in name.split("/"):
            yield Finding("unsafe_members", f"leaves its folder: {name}")
        elif "\0" in name or (names.turns(name) and names.deceives(name)):
            yield Finding("unsafe_members", f"hides its ending: {name}")
        elif name.startswith("/") or name[1:2] == ":":
            yield Finding("absolute_members", name)
        if name in seen:
            yield Finding("duplicate_members", name)
        seen.add(name)


def _headers(archive: Archive, entries: list[Entry]) -> Iterator[Finding]:
    """Compare the directory with what stands before each file: programs go by the one or by the other."""
    for entry in entries:
        if difference := archive.contradiction(entry):
            yield Finding("contradictory_archive", f"{entry.text}: {difference}")
            return


def _lies(archive: Archive, entries: list[Entry], budget: Budget) -> Iterator[Finding]:
    """Unpack what says that it is small, to see whether it is."""
    spent, allowed = 0, budget.unpacked // 3
    for entry in sorted(entries, key=lambda entry: entry.size):
        if entry.method != zips.DEFLATED or entry.encrypted:
            continue
        spent += entry.size + 1
        if spent > allowed:
            return
        data = budget.read(archive, entry, entry.size + 1)
        if data is not None and len(data) > entry.size:
            yield Finding("zip_bomb", f"{entry.text} is larger than the {entry.size} bytes that it says")
            return


def _nested(archive: Archive, entries: list[Entry], budget: Budget, depth: int) -> Iterator[Finding]:
    for number, entry in enumerate(entries):
        if number >= _PEEKED or budget.unpacked <= 0 or budget.entries < 0:
            return
        if entry.packed < _SMALLEST or entry.encrypted:
            continue
        start = archive.read(entry, 16)
        if start and (stream := packed.unread(start)):
            yield Finding("unread_packing", f"{entry.text}: a {stream}")
        if not start or not (start.startswith(ole.MAGIC) or packed.kind(start)):
            continue
        if not start.startswith(ole.MAGIC):
            yield Finding("nested_archive", entry.text)
            if depth >= MAX_DEPTH:
                yield Finding("nested_too_deep", f"more than {MAX_DEPTH} archives in each other")
                return
        data = budget.read(archive, entry, entry.size + 1)
        if data is None or len(data) < entry.size:
            continue
        for finding in _inside(Source(io.BytesIO(data)), budget, depth):
            yield Finding(finding.name, f"{entry.text}: {finding.detail}")


def _inside(source: Source, budget: Budget, depth: int) -> Iterator[Finding]:
    if inner := zips.find(source):
        if wide(inner):
            yield Finding("unread_packing", "an archive of wide numbers in an archive")
        yield from examine(inner, budget, depth + 1)
    elif source.head(4) == zips.LOCAL:
        yield Finding("broken_archive", "no list of contents")
    else:
        yield from ole.examine(source)
        yield from packed.examine(source, budget)
