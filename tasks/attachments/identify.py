"""What a file's content is: its media type by libmagic, and its traits. Nothing here believes the uploader.

Untrusted input is looked at by `inspect` in a confined process; `parse` takes nothing from there that is
not as it must be.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

from tasks.attachments.content import (
    archives,
    markup,
    office,
    ole,
    opened,
    packed,
    pdf,
    plain,
    polyglot,
    zips,
)
from tasks.attachments.content.budget import MAX_MEMBER_BYTES, Budget
from tasks.attachments.content.finding import DETAIL_CHARS, Content, Finding, phrase
from tasks.attachments.content.source import Source
from tasks.policies.media_types import ACTIVE, PROGRAM, TEXT, normal
from tasks.policies.traits import TRAIT

UNKNOWN = "application/octet-stream"
#: Streams that the scanner does not open.
_UNPACKED = ("application/x-lzma", "application/zstd")
#: Enough for libmagic, of what stands before an archive.
_BEFORE_BYTES = 64 * 1024
_TYPE = re.compile(r"[a-z0-9][a-z0-9.+_-]{0,62}/[a-z0-9][a-z0-9.+_-]{0,126}")


@lru_cache(maxsize=1)
def libmagic() -> Any:
    """Return libmagic, loaded once. Not in a confined process: to be found it starts others."""
    # In this order: `pylibmagic` carries the library and makes `magic` find it and not the machine's own,
    # which may be absent, or another version that does not understand the database beside this one.
    database = import_module("pylibmagic").data / "magic.mgc"
    return import_module("magic").Magic(mime=True, magic_file=str(database))


def content_type(path: Path) -> str:
    """Return the media type of the file's content, `application/octet-stream` for an unknown one."""
    found = str(libmagic().from_file(str(path)))
    if found == UNKNOWN:
        with path.open("rb") as file:
            head = file.read(4)
        if head == b"PK\x03\x04":
            # libmagic gives up on office documents whose main part comes late in the archive.
            return "application/zip"
        if len(head) == 1 and (head.isspace() or head.decode("latin-1").isprintable()):
            # And on a single letter.
            return "text/plain"
    return found


def inspect(
    source: Path,
    folder: Path,
    *,
    max_member_bytes: int = MAX_MEMBER_BYTES,
    template_hosts: Sequence[str] = (),
) -> dict[str, Any]:
    """Return what a file's bytes are: `media_type`, and `traits`, each with `name` and `detail`.

    Called in the confined process. Its time and memory are bounded for any bytes, and what cannot be parsed
    is a trait or nothing.

    Args:
        source: the file.
        folder: where the open copy of a document is written that every program opens by itself.
        max_member_bytes: a member of an archive that says it is as large as this is not scanned.
        template_hosts: from where office documents may fetch parts; `*` for anywhere.
    """
    budget = Budget(max_member_bytes, frozenset(template_hosts))
    media_type, findings = _look(source, budget)
    with Source(source.open("rb")) as file:
        copied = _copy(file, media_type, findings, folder)
    if copied:
        name, copy = copied
        inner_type, inner = _look(copy, budget)
        if name == "known_password":
            # Judged by what is in it.
            media_type = inner_type
            findings.pop("encrypted_document", None)
        else:
            findings.pop("unread_packing", None)
        if inner_type in _UNPACKED:
            # It is unpacked once.
            inner["unread_packing"] = Finding("unread_packing", f"{inner_type} in {media_type}")
        findings = {name: Finding(name, f"its open copy is {inner_type}")} | findings | inner
    traits = [{"name": trait.name, "detail": phrase(trait.detail)} for trait in findings.values()]
    return {"media_type": media_type, "traits": traits}


def _copy(
    file: Source, media_type: str, findings: dict[str, Finding], folder: Path
) -> tuple[str, Path] | None:
    """Write a copy of a file that the scanner does not open; return the trait of such a file, and where."""
    if "encrypted_document" in findings:
        name, copy = "known_password", opened.workbook(file, folder)
    elif media_type == "application/pdf":
        name, copy = "known_password", opened.document(file, folder)
    elif media_type in _UNPACKED:
        name, copy = "unpacked_copy", opened.unpacked(file, media_type, folder)
        if copy is None:
            findings["unread_packing"] = Finding("unread_packing", media_type)
    elif file.head(len(packed.SEVEN)) == packed.SEVEN and "unread_packing" in findings:
        name, copy = "unpacked_copy", opened.seven_zip(file, folder)
    elif packed.kind(file.head(8)) == "compress archive":
        name, copy = "unpacked_copy", opened.compressed(file, folder)
    elif (archive := _unread(file, findings)) is not None:
        name, copy = "unpacked_copy", opened.archive(archive, folder)
        if copy is None:
            findings.setdefault("unread_packing", Finding("unread_packing", "an archive of wide numbers"))
    else:
        return None
    return (name, copy) if copy else None


def _unread(file: Source, findings: dict[str, Finding]) -> zips.Archive | None:
    """Return the zip archive if it needs a copy to be looked into, and nothing else keeps it from that."""
    overwhelming = findings.keys() & {"zip_bomb", "too_many_members", "encrypted_archive"}
    if file.head(4) != zips.LOCAL or overwhelming:
        return None
    archive = zips.find(file)
    return archive if archive and (archives.wide(archive) or archives.by_ppmd(archive)) else None


def _look(path: Path, budget: Budget) -> tuple[str, dict[str, Finding]]:
    """Return what one file's bytes are, and its traits by name."""
    media_type = normal(content_type(path))
    with Source(path.open("rb")) as file:
        media_type, archive = _refined(file, media_type if _TYPE.fullmatch(media_type) else UNKNOWN)
        if archive and media_type == "application/zip":
            media_type = office.media_type(archive, budget) or media_type
        return media_type, _once(_findings(file, media_type, archive, budget))


def parse(answer: dict[str, Any]) -> Content:
    """Return what `inspect` said.

    Raises:
        ValueError: it is not what `inspect` returns: an attacker has taken over the sandboxed process.
    """
    match answer:
        case {"media_type": str(media_type), "traits": list(traits), **others} if not others:
            findings = tuple(map(_finding, traits))
        case _:
            raise ValueError("not an inspection")
    if not _TYPE.fullmatch(media_type):
        raise ValueError("not a media type")
    if len({finding.name for finding in findings}) != len(findings):
        raise ValueError("a trait twice")
    return Content(media_type, findings)


def _finding(trait: object) -> Finding:
    match trait:
        case {"name": str(name), "detail": str(detail), **others} if (
            not others and name in TRAIT and len(detail) <= DETAIL_CHARS and detail.isprintable()
        ):
            return Finding(name, detail)
    raise ValueError("not a trait")


def _refined(file: Source, media_type: str) -> tuple[str, zips.Archive | None]:
    """Return the media type, put right where libmagic only looks at the first byte, and the zip archive."""
    archive = zips.find(file)
    if archive and archive.exact and media_type in ("application/zip", UNKNOWN):
        if zips.part(file):
            return "application/zip", archive
        # libmagic sees the end, or a muddle. What stands before the archive is what others go by; unpackers
        # do not mind.
        head = file.head(min(archive.start, _BEFORE_BYTES))
        before = normal(libmagic().from_buffer(head)) if head else UNKNOWN
        known = _TYPE.fullmatch(before) and before != UNKNOWN
        return before if known else "application/zip", archive
    if (media_type == UNKNOWN or _textual(media_type)) and pdf.prefixed(file):
        # Mail and printers put lines before a PDF, and readers do not mind.
        return "application/pdf", archive
    if media_type == "application/pdf" and not (pdf.begins(file) or pdf.prefixed(file)):
        # libmagic takes a text that speaks of PDF for one.
        return "text/plain" if file.head(_BEFORE_BYTES).isascii() else UNKNOWN, archive
    if media_type == UNKNOWN and plain.reads(file):
        return "text/plain", archive
    return media_type, archive


def _textual(media_type: str) -> bool:
    return TEXT.has(media_type) or ACTIVE.has(media_type)


def _findings(
    file: Source, media_type: str, archive: zips.Archive | None, budget: Budget
) -> Iterator[Finding]:
    start = file.head(8)
    zipped = start.startswith((zips.LOCAL, zips.SPANNED)) or media_type == "application/zip"
    yield from polyglot.examine(file, media_type, None if zipped else archive)
    # Programs and scripts may carry an archive and unpack themselves.
    if zipped and zips.part(file):
        yield Finding("archive_part", "a part of a ZIP archive in several")
    elif archive and (zipped or PROGRAM.has(media_type) or start.startswith(b"#!")):
        yield from archives.examine(archive, budget)
    elif zipped:
        yield Finding("broken_archive", "no list of contents")
    yield from packed.examine(file, budget)
    yield from ole.examine(file)
    yield from markup.examine(file, media_type)
    if media_type == "application/pdf":
        yield from pdf.examine(file)


def _once(found: Iterable[Finding]) -> dict[str, Finding]:
    first: dict[str, Finding] = {}
    for finding in found:
        first.setdefault(finding.name, finding)
    return first
