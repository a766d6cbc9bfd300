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

from tasks.attachments.content import archives, markup, office, ole, packed, pdf, plain, polyglot, zips
from tasks.attachments.content.budget import MAX_MEMBER_BYTES, Budget
from tasks.attachments.content.finding import DETAIL_CHARS, Content, Finding, phrase
from tasks.attachments.content.source import Source
from tasks.policies.media_types import ACTIVE, PROGRAM, TEXT, normal
from tasks.policies.traits import TRAIT

UNKNOWN = "application/octet-stream"
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
    folder: Path,  # noqa: ARG001  # as everything is called there
    *,
    max_member_bytes: int = MAX_MEMBER_BYTES,
    template_hosts: Sequence[str] = (),
) -> dict[str, Any]:
    """Return what a file's bytes are: `media_type`, and `traits`, each with `name` and `detail`.

    Called in the confined process. Its time and memory are bounded for any bytes, and what cannot be parsed
    is a trait or nothing.

    Args:
        source: the file.
        folder: where a function that is called there may write; this one does not.
        max_member_bytes: a member of an archive that says it is as large as this is not scanned.
        template_hosts: from where office documents may fetch parts; `*` for anywhere.
    """
    media_type = normal(content_type(source))
    with Source(source.open("rb")) as file:
        media_type, archive = _refined(file, media_type if _TYPE.fullmatch(media_type) else UNKNOWN)
        budget = Budget(max_member_bytes, frozenset(template_hosts))
        if archive and media_type == "application/zip":
            media_type = office.media_type(archive, budget) or media_type
        found = _findings(file, media_type, archive, budget)
        traits = [{"name": trait.name, "detail": trait.detail} for trait in _once(found)]
    return {"media_type": media_type, "traits": traits}


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


def _once(found: Iterable[Finding]) -> list[Finding]:
    first: dict[str, Finding] = {}
    for finding in found:
        first.setdefault(finding.name, Finding(finding.name, phrase(finding.detail)))
    return list(first.values())
