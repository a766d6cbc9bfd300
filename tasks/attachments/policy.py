"""Which content may call itself what: a table, one record per family of types.

Content is what libmagic says of the bytes; a claim is the declared type, or what the file name's extension
stands for. A claim agrees with content of its own type, or of its own family where the family allows it.
"""

import mimetypes
from dataclasses import dataclass
from pathlib import PurePosixPath

#: Claims that claim nothing.
GENERIC = frozenset({"", "application/octet-stream", "binary/octet-stream", "application/unknown"})


@dataclass(frozen=True, slots=True)
class Family:
    """Types that are of one kind.

    Attributes:
        types: media types; one that ends in `/` stands for all that begin with it.
        lenient: whether one of the family may call itself another of it. libmagic can not tell CSV from
            text, and a JPEG that calls itself a PNG harms nobody; a program that calls itself another
            kind of program is still refused.
        correct: whether the row's type is then set to what the content is. Not where libmagic knows less
            than the uploader does (text, containers).
        draw: whether pictures are made.
    """

    name: str
    types: tuple[str, ...]
    lenient: bool = True
    correct: bool = True
    draw: bool = False

    def has(self, media_type: str) -> bool:
        """Return whether the type belongs to the family."""
        return any(media_type.startswith(t) if t.endswith("/") else media_type == t for t in self.types)


#: The first family that has a type is its family: special ones before `image/` and `text/`.
FAMILIES = (
    Family(
        "program",
        (
            "application/x-dosexec",
            "application/vnd.microsoft.portable-executable",
            "application/x-msdownload",
            "application/x-executable",
            "application/x-pie-executable",
            "application/x-sharedlib",
            "application/x-object",
            "application/x-mach-binary",
            "application/x-elf",
            "application/x-msi",
            "application/java-archive",
            "application/x-java-applet",
            "text/x-shellscript",
            "application/x-sh",
            "text/x-msdos-batch",
        ),
        lenient=False,
    ),
    # Runs in a browser: never drawn, and never taken for a picture or plain text.
    Family(
        "active",
        ("text/html", "application/xhtml+xml", "image/svg+xml", "text/javascript", "application/javascript"),
        lenient=False,
    ),
    Family(
        "drawable picture",
        ("image/jpeg", "image/png", "image/gif", "image/webp", "image/avif", "image/bmp", "image/tiff"),
        draw=True,
    ),
    Family("picture", ("image/",)),
    Family("video or audio", ("video/", "audio/", "application/ogg", "application/mp4"), correct=False),
    Family("text", ("text/", "application/json", "application/xml", "message/rfc822"), correct=False),
    # Office documents and the like are zip files, and libmagic says so of some.
    Family(
        "container",
        (
            "application/zip",
            "application/x-zip-compressed",
            "application/epub+zip",
            "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
            "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
            "application/vnd.openxmlformats-officedocument.presentationml.presentation",
            "application/vnd.oasis.opendocument.text",
            "application/vnd.oasis.opendocument.spreadsheet",
            "application/vnd.oasis.opendocument.presentation",
        ),
        correct=False,
    ),
)

#: Names of the same thing.
ALIASES = {
    "image/jpg": "image/jpeg",
    "image/pjpeg": "image/jpeg",
    "image/x-png": "image/png",
    "image/x-ms-bmp": "image/bmp",
    "application/x-gzip": "application/gzip",
    "application/x-pdf": "application/pdf",
    "text/x-markdown": "text/markdown",
    "audio/mp3": "audio/mpeg",
    "audio/x-wav": "audio/wav",
}

# Not the machine's own table of extensions: the answer must be the same everywhere.
_EXTENSIONS = mimetypes.MimeTypes(filenames=())
for _extension in (".exe", ".scr", ".com", ".cpl", ".dll"):
    _EXTENSIONS.add_type("application/x-dosexec", _extension)
for _extension in (".bat", ".cmd"):
    _EXTENSIONS.add_type("text/x-msdos-batch", _extension)
for _type, _extension in (("application/x-msi", ".msi"), ("application/java-archive", ".jar")):
    _EXTENSIONS.add_type(_type, _extension)


@dataclass(frozen=True, slots=True)
class Decision:
    """What the policy says of one file.

    Attributes:
        media_type: what the row's type should be.
        reason: why it is refused, for machines; None when it is accepted.
        detail: the same for people.
        draw: whether pictures are to be made.
    """

    media_type: str
    reason: str | None = None
    detail: str | None = None
    draw: bool = False


def normal(media_type: str) -> str:
    """Return the type in its common spelling: lower case, without parameters."""
    bare = media_type.partition(";")[0].strip().lower()
    return ALIASES.get(bare, bare)


def family(media_type: str) -> Family | None:
    """Return the family of a normal type, or None for a type on its own."""
    return next((kind for kind in FAMILIES if kind.has(media_type)), None)


def decide(content: str, declared: str, name: str) -> Decision:
    """Decide on a file by what its content is, what its uploader declared and what it is called."""
    content, declared = normal(content), normal(declared)
    kind = family(content)
    draw = kind is not None and kind.draw
    if not _agrees(declared, content):
        return Decision(
            content, "type_mismatch", f"declared as {declared[:80]}, but the content is {content}", draw
        )
    implied = normal(_EXTENSIONS.guess_type(PurePosixPath(name.lower()).name)[0] or "")
    if not _agrees(implied, content):
        return Decision(content, "name_mismatch", f"named like {implied}, but the content is {content}", draw)
    if declared in GENERIC or (kind and kind.correct):
        return Decision(content if content not in GENERIC else declared, draw=draw)
    return Decision(declared, draw=draw)


def _agrees(claim: str, content: str) -> bool:
    if claim in GENERIC or claim == content:
        return True
    kind = family(content)
    if kind is not None and kind.lenient and kind.has(claim):
        return family(claim) is kind
    # libmagic knows no better: what is no known format may be the uploader's own, but not a known one's.
    return content in GENERIC and not _well_known(claim)


def _well_known(claim: str) -> bool:
    """Return whether libmagic would have recognised content of that type."""
    kind = family(claim)
    return kind is not None or claim == "application/pdf"
