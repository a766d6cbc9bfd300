"""Which content may call itself what, and what is done with content of which trait: the tables themselves."""

from typing import Any

import pytest

from tasks.attachments import names, policy
from tasks.attachments.content.finding import Content, Finding, phrase
from tasks.attachments.policy import DRAWN, Decision
from tasks.policies.attachment import Rules
from tasks.policies.media_types import FAMILIES, MEDIA, normal
from tasks.policies.traits import TRAIT, TRAITS
from tests.attachments.carriers import DOCX, OFFICE, XLSX

PPTX = f"{OFFICE}.presentationml.presentation"
EXE = "application/x-dosexec"


def decide(content: str, declared: str, name: str, *traits: str, rules: Rules | None = None) -> Decision:
    """Decide on content of this type and these traits."""
    found = tuple(Finding(trait, "seen") for trait in traits)
    return policy.decide(Content(content, found), declared, name, rules)


# -- The table ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "declared", "name"),
    [
        ("image/jpeg", "image/jpeg", "photo.jpg"),
        ("image/jpeg", "IMAGE/JPEG", "PHOTO.JPG"),
        ("image/jpeg", " image/jpeg ; q=1", "photo"),
        ("image/jpeg", "image/jpg", "photo.jpeg"),
        ("image/jpeg", "image/pjpeg", "photo.JPE"),
        ("image/png", "image/x-png", "a.png"),
        ("image/bmp", "image/x-ms-bmp", "a.bmp"),
        ("application/pdf", "application/pdf", "a.pdf"),
        ("application/pdf", "application/x-pdf", "a.b.c.pdf"),
        ("audio/mpeg", "audio/mp3", "a.mp3"),
        ("audio/x-wav", "audio/wav", "a.wav"),
        ("text/plain", "text/x-markdown", "a.md"),
        ("text/html", "text/html; charset=utf-8", "a.html"),
        ("image/svg+xml", "image/svg+xml", "a.svg"),
        (EXE, "application/x-dosexec", "setup.exe"),
        (EXE, "application/x-msdownload", "setup.exe"),
        ("application/x-pie-executable", "application/x-executable", "tool"),
        ("text/x-shellscript", "application/x-sh", "run.sh"),
        ("text/x-msdos-batch", "application/x-bat", "run.bat"),
        ("application/javascript", "text/javascript", "a.js"),
        ("video/webm", "audio/webm;codecs=opus", "voice.webm"),
        ("application/zip", "application/x-zip-compressed", "a.zip"),
        ("application/x-rar", "application/vnd.rar", "a.rar"),
        ("application/vnd.sqlite3", "application/x-sqlite3", "a.db"),
    ],
)
def test_an_honest_claim_is_accepted(content: str, declared: str, name: str) -> None:
    assert decide(content, declared, name).reason is None


@pytest.mark.parametrize("generic", ["", "application/octet-stream", "binary/octet-stream", "  "])
@pytest.mark.parametrize("content", ["image/png", "text/plain", "application/pdf", "text/html", EXE])
def test_a_claim_that_claims_nothing_becomes_what_the_content_is(content: str, generic: str) -> None:
    assert decide(content, generic, "file").media_type == content
    assert decide(content, generic, "file").reason is None


@pytest.mark.parametrize(
    ("content", "declared", "name", "kept"),
    [
        # A picture is what it is, whatever it is called.
        ("image/webp", "image/jpeg", "a.jpg", "image/webp"),
        ("image/heic", "image/jpeg", "IMG_1.JPG", "image/heic"),
        ("image/jpeg", "image/heic", "IMG_1.HEIC", "image/jpeg"),
        ("application/pdf", "application/postscript", "drawing.ai", "application/pdf"),
        # Where libmagic knows less than the uploader, the uploader's word stays.
        ("text/plain", "text/csv", "a.csv", "text/csv"),
        ("text/plain", "application/json", "a.json", "application/json"),
        ("text/csv", "text/plain", "a.txt", "text/plain"),
        ("application/zip", DOCX, "a.docx", DOCX),
        ("application/zip", "application/vnd.apple.pages", "a.pages", "application/vnd.apple.pages"),
        ("application/zip", "application/java-archive", "a.jar", "application/java-archive"),
        ("video/mp4", "audio/mp4", "a.m4a", "audio/mp4"),
        ("application/cdfv2", "application/msword", "a.doc", "application/msword"),
        (XLSX, "application/vnd.ms-excel.sheet.macroenabled.12", "a.xlsm", None),
        # What names by extension alone say wrongly, the extension or the content puts right.
        ("text/plain", "application/vnd.ms-excel", "a.csv", "text/csv"),
        ("text/x-java", "video/mp2t", "a.ts", "text/plain"),
        ("text/rtf", "application/msword", "a.doc", "text/rtf"),
        # Nothing declared: the extension knows what a container holds and a text is about.
        ("application/zip", "", "a.docx", DOCX),
        ("text/plain", "", "a.md", "text/markdown"),
        # A module's types, and no film of a camera.
        ("text/plain", "", "index.d.mts", "text/plain"),
        ("text/plain", "video/mp2t", "index.d.mts", "text/plain"),
        ("text/plain", "", "a.html", "text/plain"),
        ("text/x-script.python", "", "a", "text/plain"),
        ("application/octet-stream", "application/x-mine", "a.mine", "application/x-mine"),
        ("application/octet-stream", "", "a.mine", ""),
        # Unknown content is its uploader's own format, or of one that libmagic does not know.
        ("application/octet-stream", "image/emf", "a.emf", "image/emf"),
        ("application/octet-stream", "image/fits", "a.fits", "image/fits"),
        ("application/octet-stream", "video/mp4", "C0001.MP4", "video/mp4"),
        ("application/octet-stream", "audio/x-caf", "a.caf", "audio/x-caf"),
        ("application/octet-stream", "font/ttf", "a.ttf", "font/ttf"),
        ("application/octet-stream", "text/plain", "boot.log", "text/plain"),
        # Not of a format that libmagic knows whenever it sees it.
        ("application/octet-stream", "image/png", "a.png", "application/octet-stream"),
        ("application/octet-stream", "application/pdf", "a.pdf", "application/octet-stream"),
        ("application/octet-stream", DOCX, "a.docx", "application/octet-stream"),
        ("application/octet-stream", "", "photo.jpg", ""),
        # Nor one that a browser would run as XML, which is text: of no family of types.
        ("application/octet-stream", "audio/x+xml", "a.mp3", "application/octet-stream"),
        ("application/octet-stream", "text/xml", "a.xml", "application/octet-stream"),
        ("audio/mpeg", "audio/x+xml", "a.mp3", "audio/mpeg"),
        # Pictures and fonts that are written as text, and what only calls itself so.
        ("text/plain", "image/x-xpixmap", "a.xpm", "image/x-xpixmap"),
        ("text/plain", "image/x-portable-pixmap", "a.ppm", "image/x-portable-pixmap"),
        ("text/plain", "application/x-font-bdf", "a.bdf", "application/x-font-bdf"),
        ("text/plain", "application/postscript", "a.ps", "application/postscript"),
        ("text/plain", "image/png", "a.png", "text/plain"),
        ("text/plain", "application/pdf", "a.pdf", "text/plain"),
        ("text/plain", "application/zip", "a.zip", "text/plain"),
        ("text/plain", DOCX, "a.docx", "text/plain"),
        ("text/plain", "video/mp4", "a.mp4", "text/plain"),
        # A text with a few tags in it is what it is called.
        ("text/html", "text/markdown", "README.md", "text/markdown"),
        ("text/html", "text/javascript", "app.js", "text/javascript"),
        ("text/html", "text/x-python", "report.py", "text/x-python"),
        ("text/html", "text/plain", "mail.txt", "text/plain"),
        ("text/html", "application/sql", "a.sql", "application/sql"),
        ("text/html", "application/x-sh", "a.sh", "text/x-shellscript"),
        ("text/html", "", "README.md", "text/markdown"),
        ("text/html", "", "app.js", "text/javascript"),
        ("text/html", "", "notes.txt", "text/plain"),
        ("text/html", "video/mp2t", "a.ts", "text/plain"),
        ("text/html", "image/svg+xml", "a.svg", "image/svg+xml"),
        ("image/svg+xml", "text/plain", "a.txt", "text/plain"),
        ("image/svg+xml", "text/html", "a.html", "text/html"),
        ("application/javascript", "text/plain", "a.txt", "text/plain"),
        # Programs export tables and letters as pages.
        ("text/html", "application/vnd.ms-excel", "a.xls", "application/vnd.ms-excel"),
        ("text/html", "", "a.xls", "application/vnd.ms-excel"),
        ("text/html", "application/msword", "a.doc", "application/msword"),
        # A script is text, and is still called a script.
        ("text/x-shellscript", "text/plain", "configure", "text/x-shellscript"),
        ("text/x-msdos-batch", "text/plain", "a.txt", "text/x-msdos-batch"),
        # Renamed, or of names of their own: kept as what they are.
        ("image/png", "application/pdf", "a.pdf", "image/png"),
        ("image/png", "video/mp4", "a.mp4", "image/png"),
        ("image/png", "application/x-anything", "a.png", "image/png"),
        ("image/vnd.dwg", "application/acad", "a.dwg", "image/vnd.dwg"),
        ("application/pdf", DOCX, "a.docx", "application/pdf"),
        ("application/pdf", "image/jpeg", "a.jpg", "application/pdf"),
        ("application/zip", "image/png", "a.png", "application/zip"),
        ("application/x-subrip", "text/plain", "a.srt", "application/x-subrip"),
        ("application/gzip", "image/svg+xml", "a.svgz", "application/gzip"),
        ("application/java-archive", "application/x-xpinstall", "a.xpi", "application/java-archive"),
        ("application/x-sharedlib", "application/x-executable", "a", "application/x-sharedlib"),
    ],
)
def test_the_type_that_is_kept(content: str, declared: str, name: str, kept: str | None) -> None:
    decision = decide(content, declared, name)
    assert (decision.reason, decision.media_type) == (None, kept or declared)


@pytest.mark.parametrize(
    ("content", "declared", "name"),
    [
        # Programs disguised.
        (EXE, "image/png", "a.png"),
        (EXE, "application/pdf", "invoice.pdf"),
        (EXE, "application/zip", "a.zip"),
        (EXE, "text/plain", "a.txt"),
        (EXE, "application/java-archive", "a.jar"),
        ("application/x-pie-executable", "image/jpeg", "a.jpg"),
        ("text/x-shellscript", "image/png", "a.png"),
        ("text/x-shellscript", "application/pdf", "a.pdf"),
        ("text/x-msdos-batch", DOCX, "a.docx"),
        ("application/java-archive", "application/zip", "a.zip"),
        ("application/x-iso9660-image", "image/png", "a.png"),
        ("application/vnd.debian.binary-package", "text/plain", "a.txt"),
        ("application/x-shockwave-flash", "video/mp4", "a.mp4"),
        # What runs in a browser.
        ("text/html", "image/png", "a.png"),
        ("text/html", "application/pdf", "invoice.pdf"),
        ("text/html", DOCX, "a.docx"),
        ("text/html", "video/mp4", "a.mp4"),
        ("text/html", "font/ttf", "a.ttf"),
        ("text/html", EXE, "a.exe"),
        ("image/svg+xml", "image/png", "a.png"),
        ("application/javascript", "image/gif", "a.gif"),
        # What a system would run by its name.
        ("text/plain", EXE, "a.exe"),
        ("text/plain", "application/java-archive", "a.jar"),
        ("image/png", EXE, "a.exe"),
        ("image/png", "text/x-shellscript", "a.sh"),
        ("image/png", "text/html", "a.html"),
        ("image/png", "image/svg+xml", "a.svg"),
        ("image/gif", "text/javascript", "a.js"),
        ("application/pdf", "text/html", "a.html"),
        ("application/zip", EXE, "a.exe"),
        ("application/gzip", "text/html", "a.html"),
        ("application/zip", "image/svg+xml", "a.svg"),
        ("application/octet-stream", "text/html", "a.html"),
        ("application/octet-stream", "image/svg+xml", "a.svg"),
        ("application/octet-stream", "text/vbscript", "a.vbs"),
        ("application/octet-stream", EXE, "a.exe"),
    ],
)
def test_a_false_claim_is_refused(content: str, declared: str, name: str) -> None:
    decision = decide(content, declared, name)
    assert decision.reason == "type_mismatch"
    assert decision.media_type == normal(content)
    assert normal(declared) in str(decision.detail)


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (EXE, "photo.png"),
        (EXE, "photo.PNG"),
        (EXE, "cv.docx"),
        (EXE, "photo.webp"),
        (EXE, "song.m4a"),
        (EXE, "setup.exe.jpg"),
        ("image/gif", "cat.exe"),
        ("image/gif", "cat.gif.scr"),
        ("image/gif", "cat.hta"),
        ("image/gif", "cat.js"),
        ("image/gif", "cat.vbs"),
        ("image/gif", "cat.html"),
        # Windows drops dots and spaces at a name's end.
        ("image/gif", "cat.exe."),
        ("image/gif", "cat.exe "),
        ("image/gif", "cat.html. . "),
        # A name is no URL: what follows `?`, `#` or `data:` counts.
        ("image/gif", "cat.gif?x.exe"),
        ("image/gif", "data:image/gif,cat.exe"),
        ("image/gif", "data:,cat.exe"),
        ("image/gif", "../../etc/cat.exe"),
        ("image/gif", "C:\\cat.exe"),
        ("image/gif", "cat\u202egpj.exe"),
        ("text/html", "photo.jpg"),
        ("text/html", "report.pdf"),
        ("application/zip", "photo.exe"),
        ("application/octet-stream", "example.com"),
        ("application/octet-stream", "page.html"),
        # A text can be a program of old.
        ("text/plain", "example.com"),
    ],
)
def test_a_false_name_is_refused(content: str, name: str) -> None:
    assert decide(content, "", name).reason == "name_mismatch"
    assert decide(content, content, name).reason == "name_mismatch"


@pytest.mark.parametrize(
    "name", ["", ".", "..", "/", "photo", ".png", "a.b.unknown", "photo.png/", "\n", "x" * 999]
)
def test_a_name_that_says_nothing_is_no_reason(name: str) -> None:
    assert decide("image/png", "image/png", name) == Decision("image/png", draw="picture")


@pytest.mark.parametrize(
    ("content", "declared", "kind"),
    [
        ("image/jpeg", "image/jpeg", "picture"),
        ("image/heic", "image/jpeg", "picture"),
        ("image/heif", "", "picture"),
        ("application/pdf", "application/pdf", "document"),
        ("video/mp4", "video/mp4", "video"),
        ("video/x-matroska", "", "video"),
        ("video/3gpp", "audio/3gpp", "audio"),
        ("video/webm", "audio/webm;codecs=opus", "audio"),
        ("audio/mpeg", "", "audio"),
        ("audio/ogg", "audio/ogg", "audio"),
        # A browser would run it.
        ("image/svg+xml", "image/svg+xml", None),
        ("text/html", "text/html", None),
        # No decoder here can read it.
        ("image/vnd.adobe.photoshop", "image/vnd.adobe.photoshop", None),
        ("text/plain", "text/plain", None),
        ("application/octet-stream", "", None),
        (DOCX, DOCX, None),
        # Refused.
        ("image/jpeg", "text/html", None),
        (EXE, "image/png", None),
        # Renamed.
        ("application/pdf", "image/png", "document"),
    ],
)
def test_what_is_drawn(content: str, declared: str, kind: str | None) -> None:
    assert decide(content, declared, "file").draw == kind


def test_nothing_that_may_hold_a_program_is_drawn() -> None:
    known = {kind.rstrip("*") for each in FAMILIES for kind in each.types}
    for content in (known | {"image/jxl", "application/octet-stream", ""}) - set(DRAWN):
        if MEDIA.has(content):
            continue
        for claim in ("image/png", "", content):
            assert not decide(content, claim, "a.png").draw, (content, claim)


@pytest.mark.parametrize(
    ("content", "traits", "risk"),
    [
        (EXE, (), 3),
        ("text/x-shellscript", (), 3),
        ("application/zip", (), 3),
        ("application/x-rar", (), 3),
        (DOCX, (), 2),
        (DOCX, ("macros",), 3),
        (DOCX, ("external_template",), 3),
        ("application/msword", (), 2),
        ("application/pdf", (), 2),
        ("application/octet-stream", (), 2),
        ("application/vnd.sqlite3", (), 2),
        ("text/plain", (), 1),
        ("text/html", ("active_content",), 1),
        ("image/svg+xml", (), 1),
        ("image/png", (), 0),
        ("video/mp4", (), 0),
        ("audio/mpeg", (), 0),
    ],
)
def test_what_is_scanned_again_first(content: str, traits: tuple[str, ...], risk: int) -> None:
    assert decide(content, "", "", *traits).risk == risk


def test_a_long_claim_is_cut_in_the_reason() -> None:
    detail = decide(EXE, "x/" + "y" * 1000, "a").detail
    assert detail is not None
    assert len(detail) < 150


# -- Traits -------------------------------------------------------------------------------------------------


def test_the_table_of_traits() -> None:
    """The names are kept in rows, and the actions are what operators are told."""
    assert {trait.name: trait.action for trait in TRAITS} == {
        "zip_bomb": "suspicious",
        "polyglot": "refuse",
        "encrypted_archive": "suspicious",
        "encrypted_document": "suspicious",
        "archive_part": "accept",
        "oversized_member": "suspicious",
        "nested_too_deep": "suspicious",
        "too_many_members": "suspicious",
        "contradictory_archive": "suspicious",
        "broken_archive": "suspicious",
        "macros": "suspicious",
        "external_template": "refuse",
        "allowed_template": "accept",
        "known_password": "accept",
        "unpacked_copy": "accept",
        "unread_packing": "suspicious",
        "unsafe_members": "suspicious",
        "absolute_members": "accept",
        "duplicate_members": "accept",
        "nested_archive": "accept",
        "active_content": "accept",
    }


@pytest.mark.parametrize("name", TRAIT)
def test_a_trait_is_treated_as_its_record_says(name: str) -> None:
    decision = decide("application/zip", "application/zip", "a.zip", name)
    action = TRAIT[name].action
    assert decision.findings == (name,)
    assert decision.reason == (None if action == "accept" else name)
    assert decision.verdict == ("suspicious" if action == "suspicious" else None)
    if decision.reason:
        assert decision.detail == f"{TRAIT[name].says}: seen"


@pytest.mark.parametrize(
    ("declared", "traits", "reason", "verdict"),
    [
        # What is suspicious counts first, whatever the file is called.
        (EXE, ("macros",), "macros", "suspicious"),
        (EXE, ("polyglot", "macros"), "macros", "suspicious"),
        (EXE, ("polyglot",), "type_mismatch", None),
        ("application/zip", ("nested_archive", "polyglot"), "polyglot", None),
        ("application/zip", ("macros", "zip_bomb"), "zip_bomb", "suspicious"),
    ],
)
def test_which_reason_counts(
    declared: str, traits: tuple[str, ...], reason: str, verdict: str | None
) -> None:
    decision = decide("application/zip", declared, "", *traits)
    assert (decision.reason, decision.verdict) == (reason, verdict)
    assert decision.findings == traits


def test_a_strangers_words_stay_one_line_that_shows_itself() -> None:
    assert phrase("a\nb\u202egpj.exe\0") == "a\ufffdb\ufffdgpj.exe\ufffd"
    assert phrase("x" * 200) == "x" * 200
    assert phrase("x" * 201) == "x" * 199 + "…"


# -- An application's own rules -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "content", "declared", "reason"),
    [
        (Rules(), "image/png", "image/png", None),
        (Rules(allow=("image/*", "text/plain")), "image/png", "image/png", None),
        (Rules(allow=("image/*", "text/plain")), "text/plain", "text/plain", None),
        (Rules(allow=("image/*", "text/plain")), "text/plain", "text/csv", "not_allowed"),
        (Rules(allow=("image/*",)), "application/octet-stream", "", "not_allowed"),
        (Rules(allow=("image/*",)), EXE, "image/png", "type_mismatch"),
        # What only its uploader knows is to be named in full, and what is renamed is what it is.
        (Rules(allow=("image/*",)), "application/octet-stream", "image/emf", "not_allowed"),
        (Rules(allow=("image/*", "image/emf")), "application/octet-stream", "image/emf", None),
        (Rules(allow=("image/*",)), "application/octet-stream", "image/png", "not_allowed"),
        (Rules(allow=("image/*",)), "text/plain", "image/x-xpixmap", "not_allowed"),
        (Rules(allow=("image/*",)), "application/zip", "image/png", "not_allowed"),
        (Rules(allow=()), "image/png", "image/png", "not_allowed"),
        (Rules(refuse=(EXE,)), EXE, "application/x-msdownload", "not_allowed"),
        (Rules(refuse=("application/zip",)), "application/zip", DOCX, "not_allowed"),
        (Rules(refuse=(DOCX,)), "application/zip", DOCX, "not_allowed"),
        (Rules(refuse=("image/gif",), allow=("image/*",)), "image/gif", "image/gif", "not_allowed"),
        (Rules(refuse=("image/gif",), allow=("image/*",)), "image/png", "image/gif", None),
    ],
)
def test_an_application_says_which_types_it_takes(
    rules: Rules, content: str, declared: str, reason: str | None
) -> None:
    assert decide(content, declared, "", rules=rules).reason == reason


def test_an_application_says_otherwise_of_a_trait() -> None:
    rules = Rules(actions={"macros": "accept", "active_content": "suspicious", "polyglot": "suspicious"})
    accepted = decide("application/msword", "", "", "macros", rules=rules)
    assert (accepted.reason, accepted.verdict, accepted.findings) == (None, None, ("macros",))
    for trait in ("active_content", "polyglot"):
        refused = decide("text/html", "", "", trait, rules=rules)
        assert (refused.reason, refused.verdict) == (trait, "suspicious")


@pytest.mark.parametrize(
    "rules",
    [
        {"actions": {"macro": "accept"}},
        {"actions": {"macros": "allow"}},
        {"allow": ("image",)},
        {"allow": ("image/jpg",)},
        {"refuse": ("Image/PNG",)},
    ],
)
def test_a_rule_that_nothing_fits_is_an_error(rules: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="is not a"):
        Rules(**rules)


# -- Names --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "photo\u202egpj.exe",
        "photo\u2067gpj.scr",
        "photo\u202egpj.lnk",
        "photo\u202egpj.html",
        "invoice.pdf.exe",
        "Invoice.PDF.EXE",
        "invoice.pdf.exe. ",
        "photo.jpg .scr",
        "clip.mp4.lnk",
        "notes.txt.js",
        "invoice.pdf" + " " * 8 + ".exe",
        "invoice" + "\u3164" * 20 + ".bat",
        "photo.png\0.exe",
        "photo.exe\0.png",
    ],
)
def test_a_name_that_hides_a_program_is_refused(name: str) -> None:
    assert decide("application/octet-stream", "", name).reason in {"unsafe_name", "name_mismatch"}
    assert decide(EXE, "", name).reason in {"unsafe_name", "name_mismatch"}
    assert names.deceives(name)


@pytest.mark.parametrize(
    "name",
    [
        # Arabic and Hebrew, with the marks that their keyboards write.
        "\u0635\u0648\u0631\u0629.jpg",
        "\u200f\u0635\u0648\u0631\u0629 (1)\u200e.jpg",
        "\u05ea\u05de\u05d5\u05e0\u05d4.exe",
        # Turned round, as some systems write names in a sentence, and no program.
        "\u2068\u0635\u0648\u0631\u0629\u2069.jpg",
        "photo\u202efdp.jpg",
        "setup.exe",
        "setup-1.2.exe",
        "jquery.min.js",
        "index.html.js",
        "report.2024.pdf",
        "archive.tar.gz",
        "clip.mp4.sh",
        "a" + " " * 30 + "b.pdf",
        "setup" + " " * 7 + ".exe",
        "../../a.exe",
        "con.txt",
        "\t\n.png",
        "x" * 999 + ".png",
    ],
)
def test_any_other_name_is_the_applications_affair(name: str) -> None:
    assert names.deceives(name) is None


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ("image/png", "Screenshot of example.com"),
        ("image/png", "example.com"),
        ("image/png", "Screenshot of allegro.pl"),
        ("image/jpeg", "about.me"),
        ("image/webp", "Drawing by open.ai"),
        ("image/png", "Notes.md"),
        ("application/pdf", "Invoice from www.example.com"),
        ("video/mp4", "Talk at example.com"),
        ("application/zip", "Backup of example.com"),
    ],
)
def test_a_name_that_ends_in_a_sites_claims_nothing(content: str, name: str) -> None:
    assert decide(content, content, name).reason is None


@pytest.mark.parametrize(
    ("content", "declared", "name", "reason"),
    [
        (EXE, "image/png", "Screenshot of example.com", "type_mismatch"),
        (EXE, "", "Screenshot of example.com", "unsafe_name"),
        (EXE, EXE, "www.example.com", "unsafe_name"),
        (EXE, EXE, "more.com", None),
        # Only the name says what it is, and says it of a program.
        ("image/png", "", "Screenshot of example.com", "name_mismatch"),
        ("image/png", EXE, "Screenshot of example.com", "type_mismatch"),
        ("image/png", "image/png", "Screenshot.exe", "name_mismatch"),
        ("image/png", "image/png", "Screenshot of example.com.exe", "name_mismatch"),
        ("image/png", "image/png", "photo.jpg.com", "unsafe_name"),
        ("text/html", "text/html", "Login at example.com", "name_mismatch"),
        ("text/plain", "text/plain", "Notes on example.com", "name_mismatch"),
    ],
)
def test_what_is_run_by_such_a_name_is_refused(
    content: str, declared: str, name: str, reason: str | None
) -> None:
    assert decide(content, declared, name).reason == reason


def test_an_unsafe_name_is_said() -> None:
    decision = decide(EXE, "application/x-msdownload", "photo\u202egpj.exe")
    assert decision.reason == "unsafe_name"
    assert decision.detail == "a program whose name turns its writing round before the ending .exe"


# -- What libmagic does not know ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "declared", "name", "claim"),
    [
        ("application/octet-stream", "video/mp4", "C0001.MP4", "video/mp4"),
        ("application/octet-stream", "", "00001.MTS", "video/mp2t"),
        ("application/octet-stream", "application/octet-stream", "a.mov", "video/quicktime"),
        ("application/octet-stream", "AUDIO/X-CAF; q=1", "a", "audio/x-caf"),
        ("application/x-nonsense", "video/mp4", "a.mp4", "video/mp4"),
        ("application/octet-stream", "text/plain", "a.txt", None),
        ("application/octet-stream", "image/png", "a.png", None),
        ("video/mp4", "video/mp4", "a.mp4", None),
        # Known kinds: no film.
        (EXE, "video/mp4", "a.mp4", None),
        ("text/html", "video/mp4", "a.mp4", None),
        ("text/x-shellscript", "video/mp2t", "a.ts", None),
        ("application/zip", "video/mp4", "a.mp4", None),
        ("text/plain", "video/mp2t", "a.ts", None),
        ("image/png", "video/mp4", "a.mp4", None),
    ],
)
def test_the_decoder_is_asked_only_about_unknown_content_that_calls_itself_a_film(
    content: str, declared: str, name: str, claim: str | None
) -> None:
    assert policy.media_claim(content, declared, name) == claim


@pytest.mark.parametrize(
    ("content", "declared", "name", "kept", "drawn"),
    [
        ("image/tiff", "image/x-adobe-dng", "a.dng", "image/x-adobe-dng", "raw"),
        ("image/tiff", "image/x-nikon-nef", "a.nef", "image/x-nikon-nef", "raw"),
        ("image/tiff", "", "a.ARW", "image/x-sony-arw", "raw"),
        ("image/tiff", "image/tiff", "a.dng", "image/x-adobe-dng", "raw"),
        ("application/octet-stream", "image/x-fuji-raf", "a.raf", "image/x-fuji-raf", "raw"),
        ("application/octet-stream", "", "a.orf", "image/x-olympus-orf", "raw"),
        ("image/x-canon-cr2", "image/x-canon-cr2", "a.cr2", "image/x-canon-cr2", "raw"),
        ("image/x-canon-cr2", "", "a.cr2", "image/x-canon-cr2", "raw"),
        ("image/tiff", "image/tiff", "a.tif", "image/tiff", "picture"),
        ("image/jpeg", "image/x-adobe-dng", "a.dng", "image/jpeg", "picture"),
        ("image/png", "image/x-canon-cr3", "a.cr3", "image/png", "picture"),
    ],
)
def test_a_raw_photo_keeps_its_type(content: str, declared: str, name: str, kept: str, drawn: str) -> None:
    decision = decide(content, declared, name)
    assert (decision.reason, decision.media_type, decision.draw) == (None, kept, drawn)
