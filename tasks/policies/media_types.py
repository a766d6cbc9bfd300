"""The table of media types: families of types, other names of the same, and what file names stand for."""

import mimetypes
from dataclasses import dataclass
from pathlib import PurePosixPath

#: Claims that claim nothing.
GENERIC = frozenset({"", "application/octet-stream", "binary/octet-stream", "application/unknown"})


@dataclass(frozen=True, slots=True)
class Family:
    """Types that are of one kind.

    Attributes:
        types: media types; one that ends in `*` stands for all that begin like it.
        risk: how soon its files are scanned again when there are new signatures, 3 first, 0 last.
        lenient: whether one of the family may call itself another of it. libmagic cannot tell CSV from
            text, and a JPEG that calls itself a PNG does no harm; a program that calls itself another
            kind of program is still refused.
        correct: whether the row's type is then set to what the content is. Not where libmagic knows less
            than the uploader does (text, containers).
    """

    name: str
    types: tuple[str, ...]
    risk: int
    lenient: bool = True
    correct: bool = True

    def has(self, media_type: str) -> bool:
        """Return whether the type belongs to the family."""
        return fits(media_type, self.types)


def fits(media_type: str, patterns: tuple[str, ...]) -> bool:
    """Return whether the type is one of these; a pattern that ends in `*` stands for all that begin so."""
    return any(media_type.startswith(p[:-1]) if p.endswith("*") else media_type == p for p in patterns)


PROGRAM = Family(
    "program",
    (
        "application/x-dosexec",
        "application/x-executable",
        "application/x-sharedlib",
        "application/x-object",
        "application/x-mach-binary",
        "application/x-msi",
        "application/java-archive",
        "application/x-java-applet",
        "text/x-shellscript",
        "text/x-msdos-batch",
        "text/x-powershell",
        "text/vbscript",
    ),
    risk=3,
    lenient=False,
)
#: The programs that are text: run by their names, and harmless as the text that they call themselves.
SCRIPTS = frozenset({"text/x-shellscript", "text/x-msdos-batch", "text/x-powershell", "text/vbscript"})
#: Shared libraries, objects and programs of one system: programs that build and send them mix them up.
ELF = frozenset({"application/x-executable", "application/x-sharedlib", "application/x-object"})
#: What systems install, mount or run, beside programs.
PACKAGE = Family(
    "package",
    (
        "application/vnd.android.package-archive",
        "application/vnd.debian.binary-package",
        "application/vnd.ms-cab-compressed",
        "application/vnd.symbian.install",
        "application/wasm",
        "application/winhelp",
        "application/x-apple-diskimage",
        "application/x-bytecode.python",
        "application/x-c32-comboot-syslinux-exec",
        "application/x-chrome-extension",
        "application/x-coff",
        "application/x-dosdriver",
        "application/x-innosetup*",
        "application/x-ios-app",
        "application/x-iso9660-image",
        "application/x-java-image",
        "application/x-java-jmod",
        "application/x-java-pack200",
        "application/x-kdelnk",
        "application/x-lx-executable",
        "application/x-ms-sdb",
        "application/x-ms-wim",
        "application/x-nekovm-bytecode",
        "application/x-rpm",
        "application/x-shockwave-flash",
        "application/x-silverlight-app",
        "application/x-svr4-package",
        "application/x-virtualbox-vhd",
        "application/x-windows-gadget",
        "application/x-windows-themepack",
        "application/x-wine-extension-msp",
        "application/x-winhelp*",
        "application/x-xar",
        "x-epoc/*",
    ),
    risk=3,
    correct=False,
)
#: Runs in a browser: never drawn, never shown, and never taken for a picture.
ACTIVE = Family(
    "active",
    ("text/html", "application/xhtml+xml", "image/svg+xml", "text/javascript"),
    risk=1,
    correct=False,
)
PICTURE = Family("picture", ("image/*",), risk=0)
MEDIA = Family(
    "video or audio",
    (
        "video/*",
        "audio/*",
        "application/ogg",
        "application/mp4",
        "application/mxf",
        "application/vnd.rn-realmedia*",
        "application/x-matroska",
    ),
    risk=0,
    correct=False,
)
TEXT = Family(
    "text",
    (
        "text/*",
        "message/*",
        "application/json",
        "application/xml",
        "application/rdf+xml",
        "application/pgp-*",
        "application/x-dxf",
        "application/x-setupscript",
        "application/x-wine-extension-ini",
    ),
    risk=1,
    correct=False,
)
# Office documents and the like are zip or OLE files, and libmagic says so of some. What is packed how,
# programs go by the content.
CONTAINER = Family(
    "container",
    (
        "application/zip",
        "application/epub+zip",
        "application/vnd.openxmlformats-officedocument.*",
        "application/vnd.oasis.opendocument.*",
        "application/vnd.sun.xml.*",
        "application/vnd.ms-word.*",
        "application/vnd.ms-excel*",
        "application/vnd.ms-powerpoint*",
        "application/vnd.ms-visio.*",
        "application/vnd.visio",
        "application/vnd.ms-outlook",
        "application/vnd.ms-office",
        "application/vnd.ms-project",
        "application/vnd.ms-publisher",
        "application/msword",
        "application/cdfv2*",
        "application/encrypted",
        "application/x-ole-storage",
        "application/x-ms-msg",
        "application/gzip",
        "application/x-tar",
        "application/x-gtar",
        "application/x-ustar",
        "application/x-compressed",
        "application/x-compressed-tar",
        "application/x-bzip*",
        "application/x-xz*",
        "application/zstd",
        "application/x-7z-compressed",
        "application/x-rar",
    ),
    risk=3,
    correct=False,
)

# A drawing of Adobe Illustrator calls itself PostScript and is a PDF.
PAGE = Family(
    "page description", ("application/pdf", "application/postscript", "application/illustrator"), risk=2
)
FONT = Family(
    "font",
    ("font/*", "application/x-font-*", "application/font-*", "application/vnd.ms-opentype"),
    risk=2,
    correct=False,
)

#: The first family that has a type is its family: special ones before `image/*` and `text/*`.
FAMILIES = (
    PROGRAM,
    PACKAGE,
    ACTIVE,
    PICTURE,
    MEDIA,
    TEXT,
    PAGE,
    CONTAINER,
    FONT,
)
#: Content that does no harm whatever it is called, as long as that is no program and nothing active.
HARMLESS = (PICTURE, MEDIA, PAGE, CONTAINER, FONT)
#: Formats that libmagic knows whenever it sees them: other content is none of them, and is not kept as one.
UNMISTAKABLE = (
    *(f"image/{kind}" for kind in ("jpeg", "png", "apng", "gif", "webp", "avif", "bmp", "tiff")),
    *(f"image/{kind}" for kind in ("heic", "heif", "heic-sequence", "heif-sequence")),
    "application/pdf",
    *CONTAINER.types,
)
#: Of the container family, those that are documents: less at risk than archives, unless a trait says more.
DOCUMENTS = (
    "application/epub+zip",
    "application/vnd.*",
    "application/msword",
    "application/cdfv2*",
    "application/x-ole-storage",
    "application/x-ms-msg",
)
UNKNOWN_RISK = 2

#: Names of the same thing.
ALIASES = {
    "image/jpg": "image/jpeg",
    "image/pjpeg": "image/jpeg",
    "image/x-png": "image/png",
    "image/x-ms-bmp": "image/bmp",
    "image/x-eps": "application/postscript",
    "application/x-gzip": "application/gzip",
    "application/x-tgz": "application/gzip",
    "application/x-pdf": "application/pdf",
    "application/x-zip": "application/zip",
    "application/x-zip-compressed": "application/zip",
    "application/vnd.rar": "application/x-rar",
    "application/x-rar-compressed": "application/x-rar",
    "text/x-markdown": "text/markdown",
    "audio/mp3": "audio/mpeg",
    "audio/x-wav": "audio/wav",
    "application/javascript": "text/javascript",
    "application/x-javascript": "text/javascript",
    # What Windows and Linux browsers, and libmagic in its versions, call programs.
    "application/x-msdownload": "application/x-dosexec",
    "application/x-msdos-program": "application/x-dosexec",
    "application/vnd.microsoft.portable-executable": "application/x-dosexec",
    "application/x-ms-dos-executable": "application/x-dosexec",
    "application/x-pie-executable": "application/x-executable",
    "application/x-elf": "application/x-executable",
    "application/x-java-archive": "application/java-archive",
    "application/java-vm": "application/x-java-applet",
    "application/java": "application/x-java-applet",
    "application/x-java": "application/x-java-applet",
    "application/x-sh": "text/x-shellscript",
    "application/x-csh": "text/x-shellscript",
    "application/x-shellscript": "text/x-shellscript",
    "text/x-sh": "text/x-shellscript",
    "application/x-bat": "text/x-msdos-batch",
    "application/bat": "text/x-msdos-batch",
}

#: Claims that systems make by the extension alone, and that may stand for text: CSV where Excel is
#: installed, RTF called .doc, TypeScript, playlists.
ALSO_TEXT = frozenset(
    {
        "application/vnd.ms-excel",
        "application/msword",
        "video/mp2t",
        "video/vnd.dlna.mpeg-tts",
        "audio/mpegurl",
        "audio/x-mpegurl",
        "audio/x-scpls",
    }
)
# Not the machine's own table of extensions: the answer must be the same everywhere.
_EXTENSIONS = dict(mimetypes.MimeTypes(filenames=()).types_map[True])
_EXTENSIONS |= {
    extension: media_type
    for media_type, extensions in {
        "application/x-dosexec": ".exe .scr .com .cpl .dll .pif",
        "application/x-msi": ".msi",
        "application/java-archive": ".jar",
        "text/x-msdos-batch": ".bat .cmd",
        "text/x-powershell": ".ps1 .psm1",
        "text/vbscript": ".vbs .vbe .wsf",
        "text/javascript": ".js .mjs .jse",
        "text/html": ".html .htm .hta",
        "image/jpeg": ".jpg .jpeg .jpe .jfif",
        "image/webp": ".webp",
        "image/avif": ".avif",
        "image/heic": ".heic .heif",
        "audio/mp4": ".m4a .m4b",
        "audio/ogg": ".ogg .oga .opus",
        "audio/flac": ".flac",
        "video/mp4": ".mp4 .m4v",
        "video/mp2t": ".mts .m2ts .m2t",
        "video/dv": ".dv",
        "audio/x-caf": ".caf",
        "audio/x-wavpack": ".wv",
        "audio/x-ape": ".ape",
        "audio/x-tta": ".tta",
        "image/x-adobe-dng": ".dng",
        "image/x-canon-cr2": ".cr2",
        "image/x-canon-cr3": ".cr3",
        "image/x-canon-crw": ".crw",
        "image/x-nikon-nef": ".nef",
        "image/x-sony-arw": ".arw",
        "image/x-fuji-raf": ".raf",
        "image/x-olympus-orf": ".orf",
        "image/x-panasonic-rw2": ".rw2",
        "image/x-pentax-pef": ".pef",
        "image/x-samsung-srw": ".srw",
        "video/ogg": ".ogv",
        "video/x-matroska": ".mkv",
        "video/x-ms-wmv": ".wmv",
        "text/markdown": ".md .markdown",
        "text/plain": ".txt .log .yaml .yml .toml .ini .c .h .pl",
        "text/rtf": ".rtf",
        "text/calendar": ".ics",
        "application/zip": ".zip",
        "application/gzip": ".gz .tgz .svgz",
        "application/x-7z-compressed": ".7z",
        "application/x-rar": ".rar",
        "application/epub+zip": ".epub",
        "application/vnd.oasis.opendocument.text": ".odt",
        "application/vnd.oasis.opendocument.spreadsheet": ".ods",
        "application/vnd.oasis.opendocument.presentation": ".odp",
        "application/vnd.openxmlformats-officedocument.wordprocessingml.document": ".docx",
        "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": ".xlsx",
        "application/vnd.openxmlformats-officedocument.presentationml.presentation": ".pptx",
    }.items()
    for extension in extensions.split()
}


def normal(media_type: str) -> str:
    """Return the type in its common spelling: lower case, without parameters."""
    bare = media_type.partition(";")[0].strip().lower()
    return ALIASES.get(bare, bare)


def family(media_type: str) -> Family | None:
    """Return the family of a normal type, or None for a type on its own."""
    return next((kind for kind in FAMILIES if kind.has(media_type)), None)


def risk(media_type: str) -> int:
    """Return how soon files of a normal type are scanned again, 3 first, 0 last."""
    kind = family(media_type)
    if kind is None or (kind is CONTAINER and fits(media_type, DOCUMENTS)):
        return UNKNOWN_RISK
    return kind.risk


def implied(name: str) -> str:
    """Return the normal type that a file name's extension stands for, or nothing."""
    # Windows drops dots and spaces at the end, and so `picture.exe. ` is run as a program.
    return normal(_EXTENSIONS.get(PurePosixPath(name.rstrip(". ").lower()).suffix, ""))
