"""How an object is served: so that no browser ever runs what a stranger uploaded."""

import re
import unicodedata
from urllib.parse import quote

#: Shown in the page. None of them can hold a script.
_SHOWN = frozenset(
    f"image/{kind}" for kind in ("jpeg", "png", "gif", "webp", "avif", "heic", "heif", "bmp", "tiff")
)
_SHOWN_FAMILIES = ("audio/", "video/")

#: Saved under their own type. All that is neither shown nor here is saved as mere bytes: a list of what is
#: harmless is never behind the times, one of what is not always is.
_SAVED = frozenset(
    {
        "application/epub+zip",
        "application/gzip",
        "application/json",
        "application/msword",
        "application/rtf",
        "application/x-7z-compressed",
        "application/x-bzip2",
        "application/x-tar",
        "application/x-xz",
        "application/zip",
        "application/zstd",
        "text/csv",
        "text/markdown",
    }
)
_SAVED_FAMILIES = (
    "application/vnd.ms-excel",
    "application/vnd.ms-powerpoint",
    "application/vnd.oasis.opendocument.",
    "application/vnd.openxmlformats-officedocument.",
    "font/",
)

_BYTES = "application/octet-stream"
_TYPE = re.compile(r"[a-z0-9][a-z0-9.+-]*/[a-z0-9][a-z0-9.+-]*")
_CHARSET = re.compile(r"charset=\"?([a-z0-9_-]{1,40})\"?", re.IGNORECASE)

#: Long enough for any real name, short enough that a signed URL that holds it three times over is no
#: longer than servers and browsers take.
_LONGEST_NAME = 120
_LONGEST_EXTENSION = 16
#: What some operating system or other reads a meaning into.
_NO_NAME = set('<>:"|?*')


def headers(media_type: str, name: str) -> tuple[str, str]:
    """Return the `Content-Type` and `Content-Disposition` of an object, both ASCII.

    Raster pictures, sound, films and plain text are shown; everything else is saved, and what a browser
    could run, and any unknown type, is called mere bytes as well.

    Args:
        media_type: what it is, perhaps with parameters; of them only a text's charset counts.
        name: what its uploader called it, nonsense and malice included; may be empty.
    """
    kind, _, parameters = media_type.partition(";")
    kind = kind.strip().lower()
    if not _TYPE.fullmatch(kind):
        kind = _BYTES
    # A browser takes any type that ends so for a page in XML, whatever family it is of.
    if kind in _SHOWN or (kind.startswith(_SHOWN_FAMILIES) and not kind.endswith("+xml")):
        return kind, _disposition("inline", name)
    if kind == "text/plain":
        charset = _CHARSET.fullmatch(parameters.strip())
        return kind + (f"; charset={charset[1].lower()}" if charset else ""), _disposition("inline", name)
    if kind not in _SAVED and not kind.startswith(_SAVED_FAMILIES):
        kind = _BYTES
    return kind, _disposition("attachment", name)


def _disposition(kind: str, name: str) -> str:
    name = safe_name(name)
    if not name:
        return kind
    # For clients that do not know RFC 5987. In some, a percent sign would be decoded.
    plain = "".join(c if c.isascii() and c not in '"\\%' else "_" for c in name)
    return f"{kind}; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


def safe_name(name: str) -> str:
    """Return `name` as a file may be called everywhere: no path, nothing invisible, not too long."""
    name = re.split(r"[/\\]", name)[-1]
    # Invisible ones change the order in which a name is read ("exe.gpj" for "jpg.exe"), or break a header.
    visible = (c for c in unicodedata.normalize("NFC", name) if unicodedata.category(c)[0] != "C")
    cleaned = "".join("_" if c in _NO_NAME else " " if c.isspace() else c for c in visible)
    # Dots in front hide a file; those at its end Windows drops, and so makes another extension the last.
    cleaned = " ".join(cleaned.split()).strip(". ")
    if len(cleaned) <= _LONGEST_NAME:
        return cleaned
    stem, dot, extension = cleaned.rpartition(".")
    if not dot or len(extension) > _LONGEST_EXTENSION:
        return cleaned[:_LONGEST_NAME].rstrip(". ")
    return stem[: _LONGEST_NAME - len(extension) - 1].rstrip(". ") + "." + extension
