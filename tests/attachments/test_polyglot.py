"""Files that are two things at once, and honest ones that look alike."""

import struct

import pytest
from PIL import PngImagePlugin

from tests.attachments import hostile
from tests.attachments.carriers import (
    NOISE,
    XMP,
    animation,
    motion_photo,
    mp4,
    pdf,
    picture,
    windows_program,
    zipped,
)
from tests.attachments.looking import look, traits
from workers.known_bad import encrypted_zip

POLYGLOTS = hostile.polyglots()
PICTURES = ("JPEG", "PNG", "GIF", "WEBP")


@pytest.mark.parametrize("name", POLYGLOTS)
def test_two_things_at_once(name: str) -> None:
    content, expected = POLYGLOTS[name]
    detail = traits(content).get("polyglot", "")
    assert expected in detail
    assert " that is also " in detail


@pytest.mark.parametrize("kind", PICTURES)
@pytest.mark.parametrize(
    "rest",
    [
        bytes(100_000),
        b"\xff" * 100,
        NOISE,
        picture("JPEG"),
        mp4(b"mp42") + NOISE,
        b"MZ is no program",
        # An archive that has no end is none.
        b"x" + zipped({"a": b"b"})[:-22],
        # Magic numbers that are too short to be told from noise, not at the beginning.
        b"private\x1f\x8b\x08 MZ PK\x03\x04 #!/bin/sh",
        b"<3 <htmlish and text <svgs <SCRIPTED",
    ],
    ids=lambda _: "",
)
def test_what_cameras_and_programs_put_behind_a_picture(kind: str, rest: bytes) -> None:
    assert traits(picture(kind) + rest) == {}


@pytest.mark.parametrize("kind", PICTURES)
@pytest.mark.parametrize("filling", [b"", bytes(4096), b"\r\n"])
def test_the_end_of_a_picture_is_found(kind: str, filling: bytes) -> None:
    """What begins right behind a picture is told by fewer bytes than what stands anywhere."""
    assert "polyglot" in traits(picture(kind) + filling + b"\x1f\x8b\x08" + NOISE)
    assert "polyglot" not in traits(picture(kind) + filling + b"x\x1f\x8b\x08" + NOISE)


def test_the_end_of_a_picture_of_several_parts_is_found() -> None:
    script = b"#!/bin/sh\n"
    for content in (
        picture("JPEG", (300, 200), progressive=True, restart_marker_blocks=1),
        picture("JPEG", (300, 200), comment=b"\xff\xd9" + script),
        animation(),
        animation(b"\x3b" + script),
        picture("PNG", (300, 200), compress_level=0),
    ):
        assert traits(content) == {}
        assert traits(content + script)["polyglot"].endswith("a script")


@pytest.mark.parametrize("size", [100, 65_535, 65_536])
def test_an_archive_counts_wherever_unpackers_find_it(size: int) -> None:
    photo, archive = picture("JPEG"), zipped({"a": b"b"})
    assert "polyglot" in traits(photo + bytes(size) + archive)
    # An archive's comment is at most 65,535 bytes long: no reader looks for its end further back.
    found = "polyglot" in traits(motion_photo() + b"x" + archive + bytes(size))
    assert found == (size < 65_536)


def test_an_archives_end_without_its_list_is_no_archive() -> None:
    archive = zipped({"a": b"b"})
    assert traits(picture("JPEG") + b"x" + archive[archive.index(b"PK\x05\x06") :]) == {}
    assert traits(picture("JPEG") + b"x" + archive.replace(b"PK\x01\x02", b"PK\x01\x03")) == {}


def test_a_program_counts_if_its_header_does() -> None:
    photo = picture("BMP")
    elf = b"\x7fELF\x02\x01\x01" + bytes(9)
    assert "polyglot" in traits(photo + b"x" + elf + b"\x02\0")
    assert traits(photo + b"x" + elf + b"\x07\x01") == {}
    stub = b"This program cannot be run in DOS mode"
    assert traits(photo + b"the words alone: " + stub) == {}
    assert traits(photo + b"MZ" + bytes(257) + stub) == {}
    assert "polyglot" in traits(photo + b"MZ" + bytes(100) + stub)


def test_a_program_may_carry_an_archive() -> None:
    installer = windows_program() + zipped({"a.txt": b"x"})
    assert traits(installer) == {}
    assert "encrypted_archive" in traits(windows_program() + encrypted_zip())


@pytest.mark.parametrize(
    "after",
    [
        # The comment is not closed, or what follows is no code.
        b"",
        b"=1;document.write('hello')//",
        b"*/",
        b"*/\x80=1;document.write(1)",
        b"*/=1;\0\0\0\0",
        b"*/'never closed",
    ],
)
def test_a_header_that_reads_like_code_is_no_script(after: bytes) -> None:
    gif = bytearray(picture("GIF"))
    gif[6:8] = b"/*"
    assert b"*/" not in gif
    assert traits(bytes(gif) + after) == {}
    assert "polyglot" in traits(bytes(gif) + b"*/" + hostile.CODE)


def test_code_that_breaks_off_does_not_run() -> None:
    assert "polyglot" in traits(hostile.gif_code_script())
    assert traits(hostile.gif_code_script() + b"\0") == {}


def test_a_tag_in_compressed_data_is_no_page() -> None:
    # Short ones come up by chance; then no text follows.
    for tag in (b"<svg ", b"<html>", b"<body>", b"<?php "):
        assert traits(picture("BMP") + tag + b"\x80text") == {}
        assert "polyglot" in traits(picture("BMP") + tag + b"and text")
    assert traits(picture("BMP") + b"<scripture and text") == {}


def test_a_page_in_a_sound_is_its_description() -> None:
    tag = b"<html><body>show notes</body></html>"
    frame = b"COMM" + struct.pack(">I", len(tag) + 5) + b"\0\0\0eng\0" + tag
    song = b"ID3\3\0\0" + bytes([0, 0, len(frame) >> 7, len(frame) & 127]) + frame
    content = look(song + (b"\xff\xfb\x90\0" + bytes(413)) * 3)
    assert content.media_type == "audio/mpeg"
    assert content.traits == ()


def test_what_a_pdf_may_hold() -> None:
    attack = hostile.ATTACK
    assert traits(pdf(streams=(attack, zipped({"a": b"b" * 99}), b"end"))) == {}
    assert "polyglot" in traits(pdf(tail=attack))
    assert traits(pdf(tail=b"\0" * 5000)) == {}
    # The header, as far as readers look for it.
    assert "polyglot" in traits(picture("JPEG", comment=b"x" * 900 + b"%PDF-1.7") + b"x" + pdf())
    far = picture("JPEG", comment=b"x" * 1024 + b"%PDF-1.7") + b"x" + pdf()
    assert "polyglot" not in traits(far)


# -- Markup that does nothing -------------------------------------------------------------------------------

DRAWING = b'<svg xmlns="http://www.w3.org/2000/svg" width="9"><path d="M0 0h9"/></svg>'
PAGE = b"<!doctype html><html><body><p>what the drawing is made from</p></body></html>"


def described(kind: str, text: bytes) -> bytes:
    """Return a picture with this text where programs and cameras write one."""
    if kind == "PNG":
        info = PngImagePlugin.PngInfo()
        info.add_itxt("scene", text.decode())
        return picture("PNG", pnginfo=info)
    if kind == "XMP":
        return picture("JPEG", xmp=XMP + text)
    return picture("JPEG", comment=text)


@pytest.mark.parametrize("kind", ["PNG", "XMP", "comment"])
@pytest.mark.parametrize("text", [DRAWING, PAGE, b"<html lang='en'>a page"], ids=["drawing", "page", "tag"])
def test_a_picture_may_describe_what_it_is_made_from(kind: str, text: bytes) -> None:
    assert traits(described(kind, text)) == {}
    # But not anywhere else.
    assert "polyglot" in traits(described(kind, text) + text)


@pytest.mark.parametrize("kind", ["PNG", "XMP", "comment"])
@pytest.mark.parametrize(
    "text",
    [
        hostile.ATTACK,
        b"<svg onload=alert(1)>and so on",
        b"<svg xmlns='x'><script>alert(1)</script></svg>",
        b"<html><iframe src='https://example.org/'>",
        b"<html><a href='javascript:alert(1)'>a</a>",
        b"<html><?php system('id'); ?>",
    ],
    ids=range(6),
)
def test_a_description_that_does_something_is_a_page(kind: str, text: bytes) -> None:
    assert "polyglot" in traits(described(kind, text))


@pytest.mark.parametrize(
    ("tail", "page"),
    [
        (b"\n<!-- Performance optimized by a cache. Served from: shop.example -->\n", False),
        (b"\n<!-- one -->\n<!-- two -->\n", False),
        (b"\nSaved by a program\n", False),
        (b"\n<!-- open", False),
        (b"\n-->\n", True),
        (b"\n<!-- a -->\n-->\n", True),
        (b"\n<!-- a --><img src=x>\n", True),
        (b"\n<!-- a --><script>x()</script>\n", True),
        (b"\n<!-- <script>x()</script> -->\n", True),
        (b"\n<!-- " + b"a" * 20_000 + b" -->\n", True),
    ],
    ids=range(10),
)
def test_a_cache_may_write_a_comment_behind_a_pdf(tail: bytes, page: bool) -> None:
    assert ("polyglot" in traits(pdf(tail=tail))) == page


def test_a_header_of_assignments_is_a_pictures_own() -> None:
    cards = (
        b"SIMPLE  =                    T / a picture".ljust(80) + b"BITPIX  =  8".ljust(80) + b"END".ljust(80)
    )
    assert traits(cards.ljust(2880) + bytes(2880)) == {}
