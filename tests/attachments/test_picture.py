"""Still pictures, drawn in the sandbox from real files: what is shown, what is gone, what is not drawn."""

import base64
import io
import json
import struct
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pillow_heif
import pytest
import thumbhash
from PIL import Image, ImageChops, PngImagePlugin

from stack.demo.samples import bomb, photo
from tasks.attachments.draw import Drawing
from tasks.attachments.drawing import picture as drawing
from tests.attachments.picturing import (
    BLUE,
    GOLD,
    LIME,
    PICTURE_ONLY,
    RED,
    SECRET,
    Draw,
    alike,
    chunks,
    draw_bytes,
    exif,
    flag,
    is_flag,
    opened,
    profile,
    quarters,
    saved,
    swapped_profile,
)

pillow_heif.register_heif_opener()


@pytest.fixture
def drawn(tmp_path: Path) -> Draw:
    """Draw content with settings as given."""
    return partial(draw_bytes, tmp_path)


# -- Sizes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "large", "small"),
    [
        ((4000, 3000), (1280, 960), (320, 240)),
        ((1500, 3000), (640, 1280), (160, 320)),
        ((2000, 2000), (1280, 1280), (320, 320)),
        ((1281, 700), (1280, 699), (320, 175)),
        ((1280, 700), (1280, 700), (320, 175)),
        ((321, 100), (321, 100), (320, 100)),
        ((320, 100), (320, 100), (320, 100)),
        ((100, 50), (100, 50), (100, 50)),
        ((1, 1), (1, 1), (1, 1)),
        ((5000, 1), (1280, 1), (320, 1)),
        ((1, 5000), (1, 1280), (1, 320)),
    ],
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_pictures_have_the_right_size_and_are_never_enlarged(
    drawn: Draw, kind: str, size: tuple[int, int], large: tuple[int, int], small: tuple[int, int]
) -> None:
    drawing = drawn(saved(Image.new("RGB", size, "teal"), kind))
    assert drawing.reason is None
    for name, wanted in (("large", large), ("small", small)):
        picture = opened(drawing.pictures[name])
        assert picture.size == wanted
        assert drawing.metadata[name] == {
            "width": wanted[0],
            "height": wanted[1],
            "bytes": drawing.pictures[name].stat().st_size,
        }
    # The size of what was uploaded, although a JPEG is decoded at a fraction of it.
    assert (drawing.metadata["width"], drawing.metadata["height"]) == size


def test_a_photo_is_drawn_upright_and_small(drawn: Draw) -> None:
    drawing = drawn(photo())
    assert opened(drawing.pictures["large"]).size == (960, 1280)
    assert (drawing.metadata["width"], drawing.metadata["height"]) == (3024, 4032)
    assert (drawing.metadata["format"], drawing.metadata["frames"]) == ("JPEG", 1)
    assert len(json.dumps(drawing.metadata)) < 2000


# -- Orientation --------------------------------------------------------------------------------------------

TURNED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_however_the_camera_was_held_the_picture_is_upright(drawn: Draw, kind: str, orientation: int) -> None:
    turn = TURNED[orientation]
    stored = flag() if turn is None else flag().transpose(turn)
    options = {"tiffinfo": {0x0112: orientation}} if kind == "TIFF" else {"exif": exif(orientation)}
    drawing = drawn(saved(stored, kind, **options))
    for path in drawing.pictures.values():
        assert opened(path).size == (60, 40)
        assert is_flag(opened(path)), quarters(opened(path))
    assert (drawing.metadata["width"], drawing.metadata["height"]) == (60, 40)


@pytest.mark.parametrize("kind", ["WEBP", "AVIF", "HEIF"])
def test_other_formats_say_how_they_were_held_too(drawn: Draw, kind: str) -> None:
    stored = flag().transpose(Image.Transpose.ROTATE_90)
    drawing = drawn(saved(stored, kind, exif=exif(6).tobytes(), quality=90))
    assert is_flag(opened(drawing.pictures["large"]))
    assert (drawing.metadata["width"], drawing.metadata["height"]) == (60, 40)


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_orientation_that_means_nothing_is_ignored(drawn: Draw, value: int) -> None:
    assert is_flag(opened(drawn(saved(flag(), "JPEG", exif=exif(value))).pictures["small"]))


@pytest.mark.parametrize(
    "broken",
    [
        b"Exif\0\0nonsense",
        b"Exif\0\0MM\0\x2a\xff\xff\xff\xff",
        # The maker's name counts three floats, where four bytes are given.
        b"Exif\0\0MM\0\x2a\0\0\0\x08\0\1\x01\x12\0\x0c\0\0\0\3\0\0\0\0\0\0\0\0",
        # A number where a text should be, which cannot be written again.
        b"Exif\0\0MM\0\x2a\0\0\0\x08\0\2\x01\x0f\0\x03\0\0\0\1\0\x05\0\0\x01\x12\0\x03\0\0\0\1\0\1\0\0\0\0\0\0",
        b"Exif\0\0MM\0\x2a\0\0\0\x08\0\1\x01\x12\0\x02\0\0\0\3up\0\0\0\0\0\0",
    ],
)
def test_a_broken_exif_is_no_reason_to_show_no_picture(drawn: Draw, broken: bytes) -> None:
    assert is_flag(opened(drawn(saved(flag(), "JPEG", exif=broken)).pictures["small"]))


# -- What is gone -------------------------------------------------------------------------------------------


def png_with_everything() -> bytes:
    text = PngImagePlugin.PngInfo()
    text.add_text("Author", SECRET.decode())
    text.add_itxt("Comment", SECRET.decode(), zip=True)
    text.add_itxt("XML:com.adobe.xmp", f"<x:xmpmeta>{SECRET.decode()}</x:xmpmeta>")
    return saved(flag(), "PNG", pnginfo=text, exif=exif(), icc_profile=profile())


def gif_with_everything() -> bytes:
    return saved(flag().quantize(), "GIF", comment=SECRET)


WITH_EVERYTHING: dict[str, Callable[[], bytes]] = {
    "JPEG": lambda: saved(
        flag(), "JPEG", exif=exif(), icc_profile=profile(), comment=SECRET, xmp=b"<x>" + SECRET + b"</x>"
    ),
    "PNG": png_with_everything,
    "GIF": gif_with_everything,
    "WEBP": lambda: saved(flag(), "WEBP", exif=exif(), icc_profile=profile(), xmp=b"<x>" + SECRET + b"</x>"),
    "AVIF": lambda: saved(flag(), "AVIF", exif=exif(), icc_profile=profile(), xmp=b"<x>" + SECRET + b"</x>"),
    "HEIF": lambda: saved(flag(), "HEIF", exif=exif(), icc_profile=profile(), xmp=b"<x>" + SECRET + b"</x>"),
    "TIFF": lambda: saved(
        flag(),
        "TIFF",
        # The camera, a comment, XMP, IPTC.
        tiffinfo={0x010F: SECRET.decode(), 0x010E: SECRET.decode(), 0x02BC: SECRET, 0x83BB: SECRET},
        icc_profile=profile(),
    ),
    "BMP": lambda: saved(flag(), "BMP") + SECRET,
    # What other programs write: Photoshop's block, a maker's own, a comment, and something behind the end.
    "JPEG of many": lambda: with_segments(saved(flag(), "JPEG"), (0xED, 0xE4, 0xFE, 0xEF)) + SECRET,
    # Text behind the picture's data, where it is read last.
    "PNG with text at its end": lambda: with_late_text(saved(flag(), "PNG")),
}


def with_segments(jpeg: bytes, markers: tuple[int, ...]) -> bytes:
    segments = (bytes((0xFF, marker)) + struct.pack(">H", len(SECRET) + 2) + SECRET for marker in markers)
    return jpeg[:2] + b"".join(segments) + jpeg[2:]


def png_chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def with_late_text(png: bytes) -> bytes:
    end = png.rindex(b"IEND") - 4
    text = png_chunk(b"tEXt", b"Comment\0" + SECRET) + png_chunk(b"eXIf", exif().tobytes())
    return png[:end] + text + png[end:] + SECRET


@pytest.mark.parametrize("kind", WITH_EVERYTHING)
def test_nothing_but_the_picture_is_kept(drawn: Draw, kind: str) -> None:
    content = WITH_EVERYTHING[kind]()
    assert SECRET in content or kind == "PNG"
    drawing = drawn(content)
    for content in (path.read_bytes() for path in drawing.pictures.values()):
        assert chunks(content) <= PICTURE_ONLY
        assert SECRET not in content
        with Image.open(io.BytesIO(content)) as picture:
            assert not picture.getexif()
            assert not {"exif", "icc_profile", "xmp", "comment"} & set(picture.info)
    assert SECRET.decode() not in json.dumps(drawing.metadata)
    assert is_flag(opened(drawing.pictures["large"]))


# -- Colours ------------------------------------------------------------------------------------------------


def colour(drawing: Drawing, name: str = "large") -> Any:
    return opened(drawing.pictures[name]).getpixel((5, 5))


def test_what_is_transparent_stays_transparent(drawn: Draw) -> None:
    see_through = Image.new("RGBA", (400, 300), (255, 0, 0, 0))
    see_through.paste((0, 0, 255, 255), (200, 0, 400, 300))
    palette = see_through.convert("RGB").quantize()
    for content in (
        saved(see_through, "PNG"),
        saved(see_through, "WEBP", lossless=True, exact=True),
        saved(see_through, "TIFF"),
        saved(see_through.convert("LA"), "PNG"),
        saved(palette, "PNG", transparency=palette.getpixel((0, 0))),
        saved(palette, "GIF", transparency=palette.getpixel((0, 0))),
        saved(see_through.convert("RGB"), "PNG", transparency=RED),
    ):
        drawing = drawn(content)
        for path in drawing.pictures.values():
            picture = opened(path)
            assert picture.mode == "RGBA"
            left, right = picture.getpixel((5, 5)), picture.getpixel((picture.width - 5, 5))
            assert isinstance(left, tuple)
            assert isinstance(right, tuple)
            assert (left[3], right[3]) == (0, 255)


def test_what_is_opaque_needs_no_alpha(drawn: Draw) -> None:
    assert opened(drawn(saved(flag(), "PNG")).pictures["large"]).mode == "RGB"


def without_adobe(jpeg: bytes) -> bytes:
    """Return a JPEG of four inks that are written as they are, and not inverted as Adobe does."""
    at = jpeg.index(b"\xff\xee")
    end = at + 2 + int.from_bytes(jpeg[at + 2 : at + 4])
    stored = saved(ImageChops.invert(Image.open(io.BytesIO(jpeg))), "JPEG")
    return stored[:at] + stored[end:]


def lab() -> Image.Image:
    """Return red, as CIE L*a*b* has it."""
    return Image.merge("LAB", [Image.new("L", (50, 50), part) for part in (138, 128 + 81, 128 + 70)])


def deep_png(colour: tuple[int, int, int]) -> bytes:
    """Return a PNG with 16 bits for each of red, green and blue."""
    row = b"\0" + b"".join(bytes((part, part)) for part in colour) * 50
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", struct.pack(">IIBBBBB", 50, 50, 16, 2, 0, 0, 0))
        + png_chunk(b"IDAT", zlib.compress(row * 50))
        + png_chunk(b"IEND", b"")
    )


def deep_tiff(colour: tuple[int, int, int]) -> bytes:
    """Return a TIFF with 16 bits for each of red, green and blue."""
    pixels = struct.pack("<3H", *(part * 257 for part in colour)) * 2500
    entries = [
        *((256, 3, 1, 50), (257, 3, 1, 50), (258, 3, 3, 8), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, 14)),
        *((277, 3, 1, 3), (278, 3, 1, 50), (279, 4, 1, len(pixels))),
    ]
    directory = struct.pack("<H", len(entries))
    for tag, kind, count, value in entries:
        directory += struct.pack("<HHII", tag, kind, count, value)
    return (
        b"II*\0"
        + struct.pack("<I", 14 + len(pixels))
        + struct.pack("<3H", 16, 16, 16)
        + pixels
        + directory
        + bytes(4)
    )


@pytest.mark.parametrize(
    "content",
    [
        saved(Image.new("RGB", (50, 50), RED).convert("CMYK"), "JPEG"),
        saved(Image.new("RGB", (50, 50), RED).convert("CMYK"), "TIFF"),
        saved(Image.new("RGB", (50, 50), RED).convert("YCbCr"), "TIFF"),
        saved(Image.new("RGB", (50, 50), RED).quantize(), "PNG"),
        saved(Image.new("RGB", (50, 50), RED), "BMP"),
        saved(Image.new("RGB", (50, 50), RED), "JPEG", progressive=True),
        saved(Image.new("RGB", (50, 50), RED), "AVIF"),
        saved(Image.new("RGB", (50, 50), RED), "HEIF"),
        without_adobe(saved(Image.new("RGB", (50, 50), RED).convert("CMYK"), "JPEG")),
        saved(lab(), "TIFF"),
        deep_png(RED),
        deep_tiff(RED),
        # Profiles that are broken, or of another kind of colour.
        saved(Image.new("RGB", (50, 50), RED), "PNG", icc_profile=b"nonsense"),
        saved(Image.new("RGB", (50, 50), RED).convert("CMYK"), "JPEG", icc_profile=profile()),
    ],
)
def test_red_is_red(drawn: Draw, content: bytes) -> None:
    assert alike(colour(drawn(content)), RED)


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("RGB", "JPEG"), ("RGB", "PNG"), ("RGBA", "PNG"), ("P", "PNG"), ("RGB", "WEBP"), ("RGBA", "WEBP")],
)
def test_a_colour_profile_is_applied(drawn: Draw, mode: str, kind: str) -> None:
    picture = Image.new("RGB", (50, 50), RED).convert(mode)
    drawing = drawn(saved(picture, kind, icc_profile=swapped_profile()))
    assert alike(colour(drawing)[:3], LIME)
    if mode == "RGBA":
        half = Image.new("RGBA", (50, 50), (255, 0, 0, 128))
        assert alike(colour(drawn(saved(half, kind, icc_profile=swapped_profile()))), (0, 255, 0, 128))


@pytest.mark.parametrize(("kind", "mode"), [("PNG", "I;16"), ("TIFF", "I;16"), ("TIFF", "I;16B")])
def test_deep_grey_is_scaled_and_not_cut_off(drawn: Draw, kind: str, mode: str) -> None:
    ramp = Image.new(mode, (256, 20))
    for x in range(256):
        for y in range(20):
            ramp.putpixel((x, y), x * 257)
    picture = opened(drawn(saved(ramp, kind)).pictures["large"]).convert("L")
    for x in (8, 64, 128, 192, 248):
        assert abs(picture.getpixel((x, 10)) - x) < 8  # type: ignore[operator]


@pytest.mark.parametrize(
    ("mode", "darkest", "lightest"),
    [
        ("F", 0.0, 1.0),
        ("F", 0.0, 255.0),
        ("F", -3.5, 90_000.0),
        ("F", 7.0, 7.0),
        ("I", 0, 65535),
        ("I", 9, 10**8),
    ],
)
def test_grey_without_a_white_is_stretched(drawn: Draw, mode: str, darkest: float, lightest: float) -> None:
    ramp = Image.new(mode, (256, 20))
    for x in range(256):
        for y in range(20):
            ramp.putpixel((x, y), type(darkest)(darkest + (lightest - darkest) * x / 255))
    picture = opened(drawn(saved(ramp, "TIFF")).pictures["large"]).convert("L")
    for x in (8, 64, 128, 192, 248):
        expected = x if lightest > darkest else 0
        assert abs(picture.getpixel((x, 10)) - expected) < 8  # type: ignore[operator]


def test_black_and_white_stays_so(drawn: Draw) -> None:
    assert alike(colour(drawn(saved(Image.new("1", (50, 50), 1), "PNG"))), (255, 255, 255))
    assert alike(colour(drawn(saved(Image.new("L", (50, 50), 100), "JPEG"))), (100, 100, 100))


# -- Frames -------------------------------------------------------------------------------------------------


def test_of_a_tiff_with_several_pages_the_first_is_drawn(drawn: Draw) -> None:
    pages = [Image.new("RGB", (50, 50), colour) for colour in (RED, LIME, BLUE)]
    drawing = drawn(saved(pages[0], "TIFF", save_all=True, append_images=pages[1:]))
    assert alike(colour(drawing), RED)
    assert drawing.metadata["frames"] == 1


def test_a_photo_with_a_second_one_inside_is_a_photo(drawn: Draw) -> None:
    second = Image.new("RGB", (50, 50), BLUE)
    drawing = drawn(saved(Image.new("RGB", (50, 50), RED), "MPO", save_all=True, append_images=[second]))
    assert drawing.reason is None
    assert alike(colour(drawing), RED)


# -- What is broken -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("kind", ["WEBP", "AVIF", "HEIF"])
def test_of_some_formats_a_truncated_picture_is_not_drawn(drawn: Draw, kind: str, part: float) -> None:
    content = saved(Image.effect_noise((200, 200), 90).convert("RGB"), kind)
    drawing = drawn(content[: int(len(content) * part)])
    assert (drawing.reason, drawing.pictures, drawing.metadata) == ("undecodable", {}, {})
    assert drawing.detail


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "TIFF"])
def test_a_truncated_picture_is_drawn_as_far_as_it_goes(drawn: Draw, kind: str) -> None:
    flag_on_noise = Image.effect_noise((200, 200), 90).convert("RGB")
    flag_on_noise.paste(RED, (0, 0, 200, 60))
    # A BMP begins with its last row.
    flag_on_noise.paste(LIME, (0, 140, 200, 200))
    content = saved(flag_on_noise, kind)
    for part in (0.6, 0.95):
        drawing = drawn(content[: int(len(content) * part)])
        assert drawing.reason is None
        assert (drawing.metadata["width"], drawing.metadata["height"]) == (200, 200)
        row = 180 if kind == "BMP" else 20
        shown = opened(drawing.pictures["large"]).convert("RGB").getpixel((100, row))
        assert alike(shown, LIME if kind == "BMP" else RED)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_picture_of_which_nothing_is_left_is_not_drawn(drawn: Draw, kind: str) -> None:
    """Libraries fill what is missing: with the grey of no data, or with black."""
    content = saved(Image.effect_noise((200, 200), 90).convert("RGB"), kind)
    scan = b"\xff\xda" if kind == "JPEG" else b"IDAT"
    assert drawn(content[: content.index(scan) + 14]).reason == "undecodable"


def test_a_jpeg_without_its_end_is_drawn(drawn: Draw) -> None:
    for colour in (GOLD, (200, 200, 200)):
        content = saved(Image.new("RGB", (64, 64), colour), "JPEG")
        drawing = drawn(content[:-2])
        assert drawing.reason is None
        assert alike(opened(drawing.pictures["large"]).getpixel((32, 32)), colour)


def broken_pngs() -> dict[str, bytes]:
    """Return PNGs of the flag that browsers show, each with one fault beside the picture."""
    png = saved(flag(), "PNG")

    def with_chunk(chunk: bytes) -> bytes:
        return png[:33] + chunk + png[33:]

    long_text = zlib.compress(b"A" * 1_200_000)
    return {
        "text that unpacks to much": with_chunk(png_chunk(b"zTXt", b"mxfile\0\0" + long_text)),
        "profile that unpacks to much": with_chunk(png_chunk(b"iCCP", b"icc\0\0" + long_text)),
        "wrong checksum of a text": with_chunk(png_chunk(b"tEXt", b"Title\0a")[:-1] + b"\0"),
        "broken physical size": with_chunk(png_chunk(b"pHYs", b"\0")),
        "broken profile": with_chunk(png_chunk(b"iCCP", b"icc")),
        "broken animation": with_chunk(png_chunk(b"acTL", b"\0\0")),
        "text cut short": png[:-12] + png_chunk(b"tEXt", b"Title\0a")[:-6],
        "without an end": png[:-12],
    }


@pytest.mark.parametrize("fault", broken_pngs())
def test_what_is_broken_beside_the_picture_is_ignored(drawn: Draw, fault: str) -> None:
    assert is_flag(opened(drawn(broken_pngs()[fault]).pictures["large"]))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"nothing like a picture",
        b"\x89PNG\r\n\x1a\n" + bytes(100),
        b"\xff\xd8\xff\xe0" + bytes(100),
        b'<svg xmlns="http://www.w3.org/2000/svg"></svg>',
        # Formats that Pillow could open, but that are not enabled.
        saved(Image.new("RGB", (9, 9)), "TGA"),
        saved(Image.new("RGB", (9, 9)), "ICO"),
        saved(Image.new("RGB", (9, 9)), "PPM"),
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n",
    ],
    ids=lambda content: repr(content[:12]),
)
def test_what_is_no_picture_is_not_drawn(drawn: Draw, content: bytes) -> None:
    drawing = drawn(content)
    assert drawing.reason == "undecodable"
    # No path of ours.
    assert "/" not in str(drawing.detail)


# -- How large ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "over"), [((27, 37), False), ((40, 25), False), ((91, 11), True)])
@pytest.mark.parametrize(
    ("kind", "mode", "each"),
    [
        *((kind, "RGB", 4) for kind in ("JPEG", "PNG", "WEBP", "AVIF", "HEIF", "TIFF", "BMP")),
        *(("PNG", mode, each) for mode, each in {"1": 1, "L": 1, "P": 1, "I;16": 2, "RGBA": 4}.items()),
        ("TIFF", "1", 1),
        ("GIF", "P", 1),
    ],
)
def test_the_limit_of_decoded_bytes_is_exact(
    drawn: Draw, kind: str, mode: str, each: int, size: tuple[int, int], over: bool
) -> None:
    """999 and 1000 pixels are drawn, 1001 are not."""
    reason = drawn(saved(Image.new(mode, size), kind), draw_decoded_bytes=1000 * each).reason
    assert reason == ("over_budget" if over else None)


def test_a_jpeg_counts_by_the_size_that_it_is_decoded_at(drawn: Draw) -> None:
    """A picture of 20,000 × 10,000 pixels is decoded at a quarter of its width and height."""
    picture = Image.new("RGB", (20_000, 10_000), "teal")
    drawing = drawn(saved(picture, "JPEG", quality=20), draw_decoded_bytes=5000 * 2500 * 4)
    assert drawing.reason is None
    assert (drawing.metadata["width"], drawing.metadata["height"]) == (20_000, 10_000)
    assert opened(drawing.pictures["large"]).size == (1280, 640)


@pytest.mark.parametrize(("mode", "samples"), [("RGB", 1.5), ("L", 1)])
def test_a_progressive_jpeg_counts_with_its_coefficients(drawn: Draw, mode: str, samples: float) -> None:
    """They are kept until the last scan is read, whatever the scale: two bytes for each sample."""
    content = saved(Image.new(mode, (4000, 2000)), "JPEG", progressive=True)
    coefficients = int(4000 * 2000 * samples * 2)
    # Half the width and height is decoded.
    picture = 4000 * 2000 * (4 if mode == "RGB" else 1)
    scaled = picture if 2000 // 1280 < 2 else picture // 4
    assert drawn(content, draw_decoded_bytes=coefficients + scaled).reason is None
    assert drawn(content, draw_decoded_bytes=coefficients + scaled - 1).reason == "over_budget"


@pytest.mark.parametrize("factor", [1.5, 3])
def test_a_bomb_is_not_decoded(drawn: Draw, factor: float) -> None:
    """Both where Pillow itself only warns and where it refuses."""
    # Decoding it would take more memory than it may use here.
    drawing = drawn(bomb(), draw_decoded_bytes=int(900_000_000 / factor), draw_memory_bytes=200 * 2**20)
    assert drawing.reason == "over_budget"


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "I;16", "L"])
def test_a_large_picture_looks_as_a_small_one_does(drawn: Draw, mode: str) -> None:
    """It is converted in parts."""
    small, large = flag(120, 80), flag(9000, 6000)
    looks = []
    for picture in (small, large):
        stored = picture.convert(mode) if mode != "I;16" else picture.convert("L").convert("I;16")
        if mode == "I;16":
            stored = stored.point(lambda value: value * 257)
        drawing = drawn(saved(stored, "PNG", compress_level=1))
        looks.append(quarters(opened(drawing.pictures["large"])))
    assert all(map(alike, *looks))
    assert opened(drawing.pictures["large"]).size == (1280, 853)


def test_a_picture_of_a_phone_fits_into_the_stock_memory(drawn: Draw) -> None:
    content = saved(Image.new("RGBA", (8160, 6144)), "PNG", exif=exif(6), icc_profile=profile())
    assert drawn(content).reason is None


# -- Bombs --------------------------------------------------------------------------------------------------


def huge_profile() -> bytes:
    """Return a PNG whose profile unpacks to 400 MB."""
    packed = zlib.compressobj(9)
    content = b"".join(packed.compress(bytes(1 << 20)) for _ in range(400)) + packed.flush()
    png = saved(flag(), "PNG")
    return png[:33] + png_chunk(b"iCCP", b"icc\0\0" + content) + png[33:]


def huge_text() -> bytes:
    """Return a PNG whose texts unpack to 400 MB."""
    packed = zlib.compress(bytes(1_000_000), 9)
    png = saved(flag(), "PNG")
    return png[:33] + png_chunk(b"zTXt", b"Comment\0\0" + packed) * 400 + png[33:]


def many_pages() -> bytes:
    """Return a TIFF of 100,000 pages, the first of them a picture."""
    first = bytearray(saved(flag(), "TIFF"))
    pages = 100_000
    begin = int.from_bytes(first[4:8], "little")
    count = int.from_bytes(first[begin : begin + 2], "little")
    end = begin + 2 + 12 * count
    entry = struct.pack("<HHII", 256, 3, 1, 9)
    at = len(first) + len(first) % 2
    first[end : end + 4] = at.to_bytes(4, "little")
    first += bytes(at - len(first))
    for number in range(pages):
        following = at + 18 * (number + 1) if number < pages - 1 else 0
        first += struct.pack("<H", 1) + entry + struct.pack("<I", following)
    return bytes(first)


def endless_pages() -> bytes:
    """Return a TIFF whose second page is its first."""
    content = bytearray(saved(flag(), "TIFF"))
    begin = int.from_bytes(content[4:8], "little")
    end = begin + 2 + 12 * int.from_bytes(content[begin : begin + 2], "little")
    content[end : end + 4] = begin.to_bytes(4, "little")
    return bytes(content)


def claims(content: bytes, kind: str) -> bytes:
    """Return a small picture that says that it is of 60,000 × 60,000 pixels."""
    sizes = {"PNG": (16, ">II"), "GIF": (6, "<HH"), "BMP": (18, "<II")}
    at, form = sizes[kind]
    return content[:at] + struct.pack(form, 60_000, 60_000) + content[at + struct.calcsize(form) :]


@pytest.mark.parametrize("make", [huge_profile, huge_text, many_pages, endless_pages])
def test_what_is_huge_beside_the_picture_is_not_unpacked(drawn: Draw, make: Callable[[], bytes]) -> None:
    drawing = drawn(make(), draw_timeout_seconds=10, draw_memory_bytes=256 * 2**20)
    assert drawing.reason in (None, "undecodable")
    if not drawing.reason:
        assert is_flag(opened(drawing.pictures["large"]))


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP"])
def test_who_claims_to_be_huge_is_believed(drawn: Draw, kind: str) -> None:
    content = claims(saved(flag(), kind), kind)
    drawing = drawn(content, draw_timeout_seconds=10, draw_memory_bytes=256 * 2**20)
    # The checksum of a PNG gives it away; the others are only too large.
    assert drawing.reason == ("undecodable" if kind == "PNG" else "over_budget")


# -- What is shown until the picture is there ---------------------------------------------------------------


def shown(drawing: Drawing) -> Image.Image:
    """Return the blurred picture that a client makes of the thumbhash."""
    width, height, pixels = thumbhash.thumb_hash_to_rgba(base64.b64decode(drawing.metadata["thumbhash"]))
    return Image.frombytes("RGBA", (width, height), pixels)


def test_the_thumbhash_is_the_picture_blurred(drawn: Draw) -> None:
    drawing = drawn(saved(flag(), "PNG"))
    assert len(drawing.metadata["thumbhash"]) <= 36
    blurred = shown(drawing)
    assert abs(blurred.width / blurred.height - 1.5) < 0.2
    assert all(
        alike(found, wanted, 90)
        for found, wanted in zip(quarters(blurred), (RED, LIME, BLUE, GOLD), strict=True)
    )


def test_the_thumbhash_knows_what_is_transparent(drawn: Draw) -> None:
    picture = Image.new("RGBA", (60, 40), (0, 0, 0, 0))
    picture.paste((255, 0, 0, 255), (40, 0, 60, 40))
    drawing = drawn(saved(picture, "PNG"))
    left, right = shown(drawing).getpixel((2, 10)), shown(drawing).getpixel((29, 10))
    assert isinstance(left, tuple)
    assert isinstance(right, tuple)
    assert left[3] < 60 < 200 < right[3]
    # What cannot be seen is not the colour of the picture.
    assert drawing.metadata["color"] == "#ff0000"


@pytest.mark.parametrize(
    ("most", "wanted"), [(BLUE, "#0000ff"), (GOLD, "#ffd700"), ((128, 128, 128), "#808080")]
)
def test_the_colour_is_the_dominant_one_and_no_mixture(drawn: Draw, most: Any, wanted: str) -> None:
    picture = Image.new("RGB", (100, 100), RED)
    picture.paste(most, (0, 0, 100, 60))
    found = bytes.fromhex(drawn(saved(picture, "PNG")).metadata["color"][1:])
    assert alike(found, bytes.fromhex(wanted[1:]), 12)


def test_nothing_to_be_seen_has_a_colour_too(drawn: Draw) -> None:
    assert drawn(saved(Image.new("RGBA", (5, 5)), "PNG")).metadata["color"] == "#000000"


def test_pictures_in_heic_are_found_by_their_content_whatever_their_brand(drawn: Draw) -> None:
    content = saved(flag(), "HEIF", quality=90)
    drawing = drawn(content)
    assert (drawing.metadata["format"], drawing.metadata["frames"]) == ("HEIF", 1)
    assert is_flag(opened(drawing.pictures["large"]))
    assert is_flag(opened(drawn(content.replace(b"ftypheic", b"ftypmif1")).pictures["large"]))


def test_what_is_opaque_although_it_could_be_transparent_needs_no_alpha(drawn: Draw) -> None:
    assert opened(drawn(saved(flag().convert("RGBA"), "PNG")).pictures["large"]).mode == "RGB"


def test_what_the_library_asserts_of_a_broken_file_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by fuzzing: a GIF without the palette that Pillow takes for granted."""

    def asserts(*_: object) -> None:
        raise AssertionError

    source = tmp_path / "a.gif"
    Image.new("P", (8, 8)).save(source)
    monkeypatch.setattr(Image.Image, "load", asserts)
    answer = drawing.draw(source, tmp_path, 64_000_000, 120, 24_000_000)
    assert answer["unavailable"] == "undecodable"
