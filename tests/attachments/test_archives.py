"""Archives: locked, lying, nested, overwhelming; on either side of each limit."""

import base64
import struct
import zipfile
from io import BytesIO

import pytest

from tasks.attachments.content import zips
from tasks.attachments.content.archives import MAX_DEPTH
from tasks.attachments.content.finding import Content
from tasks.attachments.content.source import Source
from tasks.attachments.policy import decide
from tests.attachments import hostile
from tests.attachments.carriers import RAR4, RAR5, SEVEN, ole, picture, relations, tar, zipped
from tests.attachments.carriers import letter as letter_of
from tests.attachments.looking import look, traits

TRAPS = hostile.traps()
LOCKED = hostile.encrypted_archives()
MACROS = hostile.macro_documents()
SEALED = hostile.encrypted_documents()


@pytest.mark.parametrize("name", TRAPS)
def test_a_trap_is_named(name: str) -> None:
    content, trait = TRAPS[name]
    assert trait in traits(content)


@pytest.mark.parametrize("name", LOCKED)
def test_a_locked_archive_is_named(name: str) -> None:
    assert "encrypted_archive" in traits(LOCKED[name])


@pytest.mark.parametrize("name", MACROS)
def test_a_program_in_a_document_is_named(name: str) -> None:
    assert "macros" in traits(MACROS[name])


@pytest.mark.parametrize("name", SEALED)
def test_a_locked_document_is_named(name: str) -> None:
    assert "encrypted_document" in traits(SEALED[name])


@pytest.mark.parametrize("content", [RAR4, RAR5, SEVEN, zipped({"a": b"b"}), tar("w:gz")], ids=lambda _: "")
def test_an_open_archive_is_no_locked_one(content: bytes) -> None:
    assert traits(content) == {}


@pytest.mark.parametrize("make", [hostile.claims, hostile.wide_claims])
def test_a_member_as_large_as_the_scanners_limit(make: object) -> None:
    assert callable(make)
    assert "oversized_member" in traits(make(1000), max_member_bytes=1000)
    assert "oversized_member" not in traits(make(999), max_member_bytes=1000)
    assert "oversized_member" in traits(make(2**31))
    assert "oversized_member" not in traits(make(2**31 - 1))


def test_how_deep_archives_may_nest() -> None:
    assert "nested_archive" not in traits(hostile.nested(1))
    assert traits(hostile.nested(2))["nested_archive"] == "inner.zip"
    assert "nested_too_deep" not in traits(hostile.nested(MAX_DEPTH))
    assert "nested_too_deep" in traits(hostile.nested(MAX_DEPTH + 1))


def test_how_many_files_are_looked_at() -> None:
    assert set(traits(hostile.crowded(2_000))) == {"duplicate_members", "unpacked_copy"}
    assert "too_many_members" not in traits(hostile.crowded(zips.MAX_ENTRIES))
    assert "too_many_members" in traits(hostile.crowded(zips.MAX_ENTRIES + 1))


def test_how_many_files_are_looked_at_in_all() -> None:
    crowd = hostile.crowded(35_000)
    assert "too_many_members" not in traits(zipped({"a.zip": crowd}))
    assert "too_many_members" in traits(zipped({"a.zip": crowd, "b.zip": crowd}))


@pytest.mark.parametrize(
    ("ratio", "total", "bomb"),
    [(900, 300_000_000, True), (900, 250_000_000, False), (150, 300_000_000, False)],
)
def test_how_much_an_archive_may_unpack_to(ratio: int, total: int, bomb: bool) -> None:
    assert ("zip_bomb" in traits(hostile.squashed(ratio, total))) == bomb


@pytest.mark.parametrize(("size", "bomb"), [(300_000_000, True), (200_000_000, False)])
def test_how_much_a_stream_may_unpack_to(size: int, bomb: bool) -> None:
    assert ("zip_bomb" in traits(hostile.squashed_gzip(size))) == bomb


def test_files_that_touch_do_not_overlap() -> None:
    assert traits(zipped({f"{number}.txt": b"x" * number for number in range(200)})) == {}
    assert "zip_bomb" in traits(hostile.overlapping(2))
    assert "zip_bomb" not in traits(hostile.overlapping(1))


@pytest.mark.parametrize(
    ("at", "value", "contradicts"),
    [
        (30, b"x", True),  # the name
        (26, b"\4\0", True),  # its length
        (8, b"\0\0", True),  # the method
        (6, b"\1\0", True),  # the password
        (18, b"\1\0\0\0", True),  # the packed size
        (22, b"\1\0\0\0", True),  # the size
        (0, b"PK\x03\x05", True),
        # What honest programs write: sizes that stand behind the file, or nowhere.
        (6, b"\x08\0", False),
        (18, bytes(8), False),
        (18, b"\xff" * 8, False),
        (14, b"\1\1\1\1", False),  # the checksum
    ],
)
def test_two_lists_that_differ(at: int, value: bytes, contradicts: bool) -> None:
    # An archive in another place of the file: the first bytes tell what the file is.
    archive = bytearray(zipped({"first": b"1", "a.txt": b"hello" * 99}))
    second = archive.index(b"PK\x03\x04", 4)
    archive[second + at : second + at + len(value)] = value
    assert ("contradictory_archive" in traits(bytes(archive))) == contradicts


def test_sizes_that_stand_behind_the_file() -> None:
    archive = bytearray(zipped({"a.txt": b"hello" * 99}))
    archive[18:26] = b"\1\0\0\0" * 2
    assert "contradictory_archive" in traits(bytes(archive))
    archive[6] |= 8
    assert "contradictory_archive" not in traits(bytes(archive))


@pytest.mark.parametrize(
    ("name", "trait"),
    [
        ("a/../b.txt", "unsafe_members"),
        ("..", "unsafe_members"),
        ("..\\a", "unsafe_members"),
        ("a..b/c...txt", None),
        ("photo\u202egpj.exe", "unsafe_members"),
        ("photo\u202egpj.txt", None),
        ("invoice.pdf.exe", None),
        ("/a.txt", "absolute_members"),
        ("C:/a.txt", "absolute_members"),
        ("\u0635\u0648\u0631\u0629.jpg", None),
    ],
)
def test_names_in_archives(name: str, trait: str | None) -> None:
    assert set(traits(zipped({name: b"x"}))) == ({trait} if trait else set())


def test_two_files_of_one_name_are_noted() -> None:
    out = BytesIO()
    with zipfile.ZipFile(out, "w") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("a", "1")
        archive.writestr("a", "2")
    assert traits(out.getvalue()) == {"duplicate_members": "a"}


def test_a_list_that_breaks_off() -> None:
    archive = bytearray(zipped({"a": b"1", "b": b"2"}))
    end = archive.index(b"PK\x05\x06")
    assert "broken_archive" not in traits(bytes(archive))
    archive[end + 10 : end + 12] = struct.pack("<H", 3)
    assert "broken_archive" in traits(bytes(archive))


@pytest.mark.parametrize(
    ("target", "kind", "fetched"),
    [
        ("http://example.org/a.dotm", "attachedTemplate", True),
        ("HTTPS://example.org/a.dotm", "attachedTemplate", True),
        (r"\\host\share\a.dotm", "attachedTemplate", True),
        ("file://host/share/a.dotm", "attachedTemplate", True),
        ("file:///\\\\host\\share\\a.dotm", "attachedTemplate", True),
        ("mhtml:http://example.org/a!x", "oleObject", True),
        ("https://example.org/a.html", "frame", True),
        # A path on the author's own disk, as Word writes it for its own templates.
        ("file:///C:\\Users\\ada\\Templates\\a.dotm", "attachedTemplate", False),
        ("file:///C:/Templates/a.dotm", "attachedTemplate", False),
        ("Normal.dotm", "attachedTemplate", False),
        # Followed by a click only, or a picture.
        ("https://example.org/", "hyperlink", False),
        ("https://example.org/a.png", "image", False),
    ],
)
def test_what_a_document_fetches(target: str, kind: str, fetched: bool) -> None:
    assert ("external_template" in traits(hostile.template_letter(target, kind))) == fetched


@pytest.mark.parametrize(
    ("target", "allowed"),
    [
        ("https://templates.example.com/a.dotm", True),
        ("HTTPS://Templates.Example.COM:8443/a.dotm", True),
        ("https://templates.example.com", True),
        (r"\\fs01\templates\a.dotm", True),
        (r"file:///\\FS01\templates\a.dotm", True),
        ("file://fs01/templates/a.dotm", True),
        ("https://templates.example.com.evil.example/a.dotm", False),
        ("https://evil.example/templates.example.com/a.dotm", False),
        ("https://templates.example.com@evil.example/a.dotm", False),
        (r"https://templates.example.com\@evil.example/a.dotm", False),
        (r"\\fs01@SSL\templates\a.dotm", False),
        (r"\\fs01.evil.example\templates\a.dotm", False),
        ("https://%66s01/a.dotm", False),
        ("mhtml:https://templates.example.com/a!x", False),
        ("ftp://fs01/a.dotm", False),
    ],
)
def test_hosts_from_which_a_document_may_fetch(target: str, allowed: bool) -> None:
    letter = hostile.template_letter(target)
    found = traits(letter, template_hosts=["fs01", "templates.example.com"])
    assert set(found) == {"allowed_template" if allowed else "external_template"}
    assert set(traits(letter, template_hosts=["*"])) == {"allowed_template"}
    assert set(traits(letter)) == {"external_template"}


def test_one_host_that_is_allowed_does_not_vouch_for_another() -> None:
    rows = (
        f'Type="http://x/relationships/attachedTemplate" Target="https://{host}/a" TargetMode="External"'
        for host in ("fs01", "evil.example")
    )
    letter = letter_of({"word/_rels/settings.xml.rels": relations(*rows)})
    assert "external_template" in traits(letter, template_hosts=["fs01"])


def test_entities_are_not_unfolded() -> None:
    assert traits(hostile.hidden_macro_letter())["macros"].endswith("behind entities")


def test_a_part_of_the_document_is_not_fetched() -> None:
    target = "http://example.org/a.dotm"
    assert "external_template" in traits(hostile.template_letter(target, mode="external"))
    assert traits(hostile.template_letter(target, mode="Internal")) == {}


@pytest.mark.parametrize(
    "content",
    [
        ole({"VBAdvice": b"x", "Notes/dir": b"x"}),
        ole({"Workbook": b"\x85\0\x08\0" + bytes(5) + b"\0\0\0"}),
        ole({"WordDocument": bytes(10) + b"\0\2"}),
        zipped({"docs/macros.txt": b"vbaProject.bin"}),
        b"a text on QWN0aXZlTWltZQ and vbaProject.bin",
    ],
    ids=lambda _: "",
)
def test_what_looks_like_a_macro(content: bytes) -> None:
    assert traits(content) == {}


def test_a_broken_old_document_says_nothing() -> None:
    document = ole({"Macros/VBA/dir": b"x"})
    for length in range(8, len(document), 256):
        traits(document[:length])


def test_reading_is_bounded() -> None:
    archive = zips.find(Source(BytesIO(zipped({"zeros": bytes(10_000_000)}))))
    assert archive is not None
    (entry,) = archive.entries
    assert len(archive.read(entry, 1000) or b"") == 1000
    assert len(archive.read(entry, 10_000_000) or b"") == 10_000_000
    assert archive.read(entry, 0) is None


# -- Archives in several files, and wider records -----------------------------------------------------------


def _rar5(flags: int) -> bytes:
    """Return the beginning of a RAR archive whose main header has these flags."""
    body = bytes([1, 0, flags])
    return b"Rar!\x1a\x07\x01\x00" + bytes(4) + bytes([len(body)]) + body + bytes(40)


def _rar4(flags: int) -> bytes:
    header = b"\xcf\x90\x73" + struct.pack("<HH", flags, 13) + bytes(6)
    return b"Rar!\x1a\x07\x00" + header + bytes(40)


def _seven(missing: int) -> bytes:
    """Return a 7z archive of which so many bytes are in the next file."""
    return b"7z\xbc\xaf\x27\x1c\0\4" + bytes(4) + struct.pack("<QQI", 8 + missing, 32, 0) + bytes(40)


def _last_part(disk: int, first: int) -> bytes:
    archive = bytearray(zipped({"a": b"1"}))
    end = archive.index(b"PK\x05\x06")
    struct.pack_into("<HH", archive, end + 4, disk, first)
    return bytes(archive)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"PK\x07\x08" + zipped({"a": b"1" * 99})[:80], True),
        (_last_part(2, 2), True),
        (_last_part(1, 0), True),
        (_last_part(0, 0), False),
        # Not a number of a part.
        (_last_part(0xFFFF, 0xFFFF), False),
        (_last_part(1, 2), False),
        (_rar5(1), True),
        (_rar5(0), False),
        (_rar4(1), True),
        (_rar4(0), False),
        (_seven(1), True),
        (_seven(0), False),
    ],
    ids=range(12),
)
def test_a_part_of_an_archive_is_called_one(content: bytes, part: bool) -> None:
    assert ("archive_part" in traits(content)) == part
    decision = decide(look(content), "application/octet-stream", "a.001")
    assert (decision.reason, decision.verdict) == (None, None)


def test_a_part_behind_a_picture_is_still_an_archive() -> None:
    assert "polyglot" in traits(picture("JPEG") + _last_part(1, 0))


#: `echo hi | zip x.zip -`
STDIN = base64.b64decode(
    "UEsDBC0AAAAAADoNfl16em/t//////////8BABQALQEAEAADAAAAAAAAAAMAAAAAAAAAaGkKUEsBAh4DLQAAAAAAOg1+XXp6b+0DAAAAAwAA"
    "AAEAAAAAAAAAAQAAAIARAAAAAC1QSwYGLAAAAAAAAAAeAy0AAAAAAAAAAAABAAAAAAAAAAEAAAAAAAAALwAAAAAAAAA2AAAAAAAAAFBLBgcA"
    "AAAAZQAAAAAAAAABAAAAUEsFBgAAAAABAAEALwAAADYAAAAAAA=="
)


def test_a_wider_record_that_is_not_needed_is_no_fault() -> None:
    assert look(STDIN) == Content("application/zip")
    # One that says otherwise than the record behind it is not gone by.
    archive = bytearray(STDIN)
    at = archive.index(b"PK\x06\x06")
    struct.pack_into("<QQ", archive, at + 24, 2, 2)
    assert traits(bytes(archive)) != {}


def test_pictures_in_a_letter_in_xml_are_no_program() -> None:
    start = b'<?xml version="1.0"?><w:wordDocument xmlns:w="x"><w:binData w:name="wordml://1.png">'
    assert "macros" not in traits(start + b"iVBORw0KGgo=</w:binData></w:wordDocument>")
    assert "macros" in traits(start + b"</w:binData><w:docSuppData></w:docSuppData></w:wordDocument>")
    assert "macros" in traits(start.replace(b"wordml://1.png", b"editdata.mso") + b"</w:binData>")
