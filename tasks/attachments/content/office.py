"""Office documents that are zip archives: what they are, and what in them would run or be fetched."""

import re
from collections.abc import Iterator
from contextlib import suppress
from xml.parsers import expat

from tasks.attachments.content.budget import Budget
from tasks.attachments.content.finding import Finding
from tasks.attachments.content.zips import Archive, Entry

#: Parts are read up to here.
_PART_BYTES = 8 * 1024 * 1024
_RELATIONS = 2_000
_OFFICE = "application/vnd.openxmlformats-officedocument"
#: What the main part's type stands for.
_MAIN = {
    f"{_OFFICE}.wordprocessingml.document.main+xml": f"{_OFFICE}.wordprocessingml.document",
    f"{_OFFICE}.wordprocessingml.template.main+xml": f"{_OFFICE}.wordprocessingml.template",
    f"{_OFFICE}.spreadsheetml.sheet.main+xml": f"{_OFFICE}.spreadsheetml.sheet",
    f"{_OFFICE}.spreadsheetml.template.main+xml": f"{_OFFICE}.spreadsheetml.template",
    f"{_OFFICE}.presentationml.presentation.main+xml": f"{_OFFICE}.presentationml.presentation",
    f"{_OFFICE}.presentationml.slideshow.main+xml": f"{_OFFICE}.presentationml.slideshow",
    f"{_OFFICE}.presentationml.template.main+xml": f"{_OFFICE}.presentationml.template",
    "application/vnd.ms-word.document.macroEnabled.main+xml": (
        "application/vnd.ms-word.document.macroenabled.12"
    ),
    "application/vnd.ms-word.template.macroEnabledTemplate.main+xml": (
        "application/vnd.ms-word.template.macroenabled.12"
    ),
    "application/vnd.ms-excel.sheet.macroEnabled.main+xml": "application/vnd.ms-excel.sheet.macroenabled.12",
    "application/vnd.ms-excel.sheet.binary.macroEnabled.main": (
        "application/vnd.ms-excel.sheet.binary.macroenabled.12"
    ),
    "application/vnd.ms-powerpoint.presentation.macroEnabled.main+xml": (
        "application/vnd.ms-powerpoint.presentation.macroenabled.12"
    ),
    "application/vnd.ms-visio.drawing.main+xml": "application/vnd.ms-visio.drawing",
}
_VBA = re.compile(r"vnd\.ms-office\.vbaproject|/relationships/vbaproject$|(^|/)vbaproject\.bin$", re.I)
_SHEET = re.compile(
    r"vnd\.ms-excel\.(intl)?macrosheet|/relationships/xl(intl)?macrosheet$|^xl/macrosheets/.", re.I
)
#: Parts that a program fetches when the document is opened, and that can bring a program with them.
_FETCHED = re.compile(r"/relationships/(attachedtemplate|oleobject|frame|subdocument|aFChunk)$", re.I)
#: Elsewhere: any address with a host. Not a path on the author's disk, as Word writes it for its templates.
_ELSEWHERE = re.compile(r"\s*((https?|ftp|mhtml|webdavs?|ms-\w+):|(file:)?[\\/]{2,}(?!/?[a-z]:)[^\\/])", re.I)
#: A host that every program reads alike: no user before it, nothing encoded.
_HOST = re.compile(
    r"\s*(?:https?://([a-z0-9.-]+)(?::\d+)?(?:/.*)?|(?:file:)?[\\/]{2,}([a-z0-9.-]+)(?:[\\/].*)?)",
    re.I | re.S,
)
_SCRIPT = "urn:oasis:names:tc:opendocument:xmlns:script:1.0"
_LIBREOFFICE_PROGRAM = re.compile(
    r"^Basic/.+/(?!script-lb\.xml$|dialog-lb\.xml$)[^/]+$|^Scripts/.+[^/]$", re.I
)


class _HiddenError(Exception):
    """A part declares entities: what it says cannot be read without unfolding them."""


def media_type(archive: Archive, budget: Budget) -> str | None:
    """Return what the archive says that it is, as an office document or book, or None."""
    first = archive.entries[:1]
    if first and first[0].name == b"mimetype":
        declared = (budget.read(archive, first[0], 100) or b"").decode("latin-1").strip().lower()
        if re.fullmatch(r"application/(epub\+zip|vnd\.(oasis\.opendocument|sun\.xml)\.[a-z.-]+)", declared):
            return declared
    with suppress(_HiddenError):
        for entry in _named(archive.entries, "[content_types].xml"):
            for _, given in _elements(budget.read(archive, entry, _PART_BYTES)):
                if found := _MAIN.get(given.get("ContentType", "")):
                    return found
    return None


def examine(archive: Archive, entries: list[Entry], budget: Budget) -> Iterator[Finding]:
    """Yield what is to be said of the archive as an office document; nothing if it is none."""
    try:
        if any(_named(entries, "[content_types].xml")):
            yield from _microsoft(archive, entries, budget)
        elif any(_named(entries, "meta-inf/manifest.xml")):
            yield from _open(archive, entries, budget)
    except _HiddenError:
        # No program writes them there, and unfolding them is a trap.
        yield Finding("macros", "an office document that hides what is in it behind entities")


def _named(entries: list[Entry], name: str) -> list[Entry]:
    return [entry for entry in entries if entry.text.lower() == name]


def _microsoft(archive: Archive, entries: list[Entry], budget: Budget) -> Iterator[Finding]:
    names = [entry.text for entry in entries]
    relations = 0
    for entry in entries:
        name = entry.text.lower()
        types = name == "[content_types].xml"
        if not types and (not name.endswith(".rels") or (relations := relations + 1) > _RELATIONS):
            continue
        for _, given in _elements(budget.read(archive, entry, _PART_BYTES)):
            names.append(given.get("ContentType" if types else "Type", ""))
            target = given.get("Target", "")
            if (
                given.get("TargetMode", "").lower() == "external"
                and _FETCHED.search(given.get("Type", ""))
                and _ELSEWHERE.match(target)
            ):
                allowed = "*" in budget.template_hosts or _host(target) in budget.template_hosts
                name = "allowed_template" if allowed else "external_template"
                yield Finding(name, f"{entry.text} fetches {target}")
    if any(map(_VBA.search, names)):
        yield Finding("macros", "a Microsoft document with Visual Basic")
    elif any(map(_SHEET.search, names)):
        yield Finding("macros", "a workbook with Excel 4.0 macros")


def _host(target: str) -> str | None:
    """Return the host that a part is fetched from, or None where programs may read it differently."""
    match = _HOST.fullmatch(target)
    return (match[1] or match[2]).lower() if match else None


def _open(archive: Archive, entries: list[Entry], budget: Budget) -> Iterator[Finding]:
    if any(_LIBREOFFICE_PROGRAM.match(entry.text) for entry in entries):
        yield Finding("macros", "an OpenDocument file with a program")
    for entry in entries:
        name = entry.text.lower()
        if name == "meta-inf/manifest.xml":
            for tag, _ in _elements(budget.read(archive, entry, _PART_BYTES)):
                if tag.endswith(" encryption-data"):
                    yield Finding("encrypted_document", "an OpenDocument file that needs a password")
                    break
        elif name in ("content.xml", "styles.xml"):
            for tag, _ in _elements(budget.read(archive, entry, _PART_BYTES)):
                if tag in (f"{_SCRIPT} event-listener", f"{_SCRIPT} script"):
                    yield Finding("macros", "an OpenDocument file that runs a program at an event")
                    break


def _elements(data: bytes | None) -> list[tuple[str, dict[str, str]]]:
    """Return the elements of an XML part, `namespace name` and attributes, up to where it breaks."""
    found: list[tuple[str, dict[str, str]]] = []
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.StartElementHandler = lambda tag, given: found.append((tag, given))
    parser.EntityDeclHandler = _refuse
    with suppress(expat.ExpatError, ValueError, LookupError):
        parser.Parse(data or b"", True)
    return found


def _refuse(*_: object) -> None:
    raise _HiddenError
