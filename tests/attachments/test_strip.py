"""Originals without what is personal: each kind of block in each format, by its bytes and by its readers."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import pillow_heif
import pytest
from PIL import Image, ImageCms, PngImagePlugin, TiffImagePlugin

from tasks.attachments.strip import MODULES, strip
from tests.attachments import media
from tests.attachments.media import box, flag, png_chunk, saved

#: What is planted: a place, a name, a number. None of them may be found in any bytes of the result.
SECRETS = (b"48.8584", b"Ada Lovelace", b"SN-0815")
SECRET = b" ".join(SECRETS)
TEXT = SECRET.decode()
XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description xmlns:dc="http://purl.org/dc/elements/1.1/" '
    f'dc:source="{TEXT}"/></rdf:RDF></x:xmpmeta>'
).encode()
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
ORIENTATION = 0x0112
#: What does not compress well, so that a wrong byte is seen.
PICTURE = Image.blend(flag(96, 64), Image.effect_noise((96, 64), 80).convert("RGB"), 0.3)
FRAMES = [flag(32, 24), flag(32, 24).rotate(180), Image.new("RGB", (32, 24), "red")]


def exif(orientation: int | None = 6) -> bytes:
    """Return what a phone writes: place, maker's note, serial number, owner, a thumbnail."""
    made = Image.Exif()
    if orientation is not None:
        made[ORIENTATION] = orientation
    made[0x010F] = TEXT
    made[0x8825] = {1: "N", 2: (48.0, 51.0, 30.24), 3: "E", 29: TEXT}
    made[0x8769] = {0x927C: SECRET, 0xA431: TEXT, 0xA430: TEXT, 0x9286: SECRET}
    return made.tobytes() + SECRET


def apply(content: bytes, media_type: str, folder: Path) -> tuple[bytes | None, dict[str, Any]]:
    source = folder / "source"
    source.write_bytes(content)
    out = folder / "out"
    out.mkdir(exist_ok=True)
    answer = strip(source, out, media_type)
    assert source.read_bytes() == content
    written = [path.name for path in out.iterdir()]
    if "unavailable" in answer:
        assert answer.keys() == {"unavailable"}
        assert written == []
        return None, answer
    assert answer.keys() == {"file", "changed"}
    assert written == [answer["file"]] == ["stripped"]
    result = (out / "stripped").read_bytes()
    (out / "stripped").unlink()
    assert answer["changed"] is (result != content)
    return result, answer


@pytest.fixture
def stripped(tmp_path: Path) -> Callable[[bytes, str], bytes]:
    """Strip; check that nothing planted is left and that a second time changes nothing."""

    def run(content: bytes, media_type: str) -> bytes:
        result, answer = apply(content, media_type, tmp_path)
        assert result is not None, answer
        for secret in SECRETS:
            assert secret not in result
        assert apply(result, media_type, tmp_path) == (result, {"file": "stripped", "changed": False})
        return result

    return run


@pytest.fixture
def refused(tmp_path: Path) -> Callable[[bytes, str], str]:
    """Strip what cannot be; return why."""

    def run(content: bytes, media_type: str) -> str:
        result, answer = apply(content, media_type, tmp_path)
        assert result is None
        return str(answer["unavailable"])

    return run


def look(content: bytes) -> list[tuple[Any, ...]]:
    """Return of each frame how it looks: size, mode, every pixel, colour profile, how long, how turned."""
    with Image.open(io.BytesIO(content)) as picture:
        turned = picture.getexif().get(ORIENTATION, 1)
        looks = []
        for number in range(getattr(picture, "n_frames", 1) if picture.format != "MPO" else 1):
            picture.seek(number)
            picture.load()
            about = [picture.info.get(name) for name in ("icc_profile", "duration", "loop", "gamma", "adobe")]
            about += [picture.info.get(name) for name in ("transparency", "background", "disposal")]
            looks.append((picture.size, picture.mode, picture.tobytes(), turned, *about))
        return looks


# -- JPEG ---------------------------------------------------------------------------------------------------


def segment(marker: int, payload: bytes) -> bytes:
    return bytes((0xFF, marker)) + (len(payload) + 2).to_bytes(2, "big") + payload


def jpeg(**options: Any) -> bytes:
    return saved(PICTURE, "JPEG", quality=90, **options)


def with_segments(*segments: bytes) -> bytes:
    content = jpeg()
    return content[:2] + b"".join(segments) + content[2:]


IPTC = (
    b"Photoshop 3.0\x008BIM\x04\x04\0\0" + struct.pack(">I", len(SECRET) + 5) + b"\x1c\x02\x78\0\x20" + SECRET
)
SECOND = saved(flag(), "JPEG", exif=exif())
MOTION = box(b"ftyp", b"mp42\0\0\0\0mp42") + box(b"moov", SECRET)

JPEGS = {
    "exif": jpeg(exif=exif()),
    "exif without orientation": jpeg(exif=exif(None)),
    "exif and profile": jpeg(exif=exif(8), icc_profile=PROFILE * 30),
    "comment": jpeg(comment=SECRET),
    "xmp": jpeg(xmp=XMP),
    "more xmp": with_segments(segment(0xE1, b"http://ns.adobe.com/xmp/extension/\0" + bytes(40) + SECRET)),
    "iptc": with_segments(segment(0xED, IPTC)),
    "vendor": with_segments(
        segment(0xE5, b"Vendor\0" + SECRET), segment(0xEF, SECRET), segment(0xEB, SECRET)
    ),
    "thumbnail": with_segments(segment(0xE0, b"JFXX\0\x10" + SECOND)),
    "jfif thumbnail": jpeg()[:18] + b"\x03\x04" + (SECRET + bytes(99))[:36] + jpeg()[20:],
    "broken exif": with_segments(segment(0xE1, b"Exif\0\0MM\0*\xff\xff\xff\xff" + SECRET)),
    "two exifs": with_segments(segment(0xE1, exif(3)), segment(0xE1, exif(8))),
    "little-endian exif": with_segments(
        segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", 0x0112, 3, 1, 5) + SECRET)
    ),
    "second picture": saved(PICTURE, "MPO", save_all=True, append_images=[flag()], exif=exif()),
    "second picture behind": jpeg(exif=exif()) + SECOND,
    "film behind": jpeg(exif=exif()) + MOTION,
    "text behind": jpeg() + SECRET,
    "progressive": jpeg(progressive=True, exif=exif(), comment=SECRET),
    "restarts": saved(PICTURE, "JPEG", restart_marker_blocks=2, exif=exif()),
    "cmyk": saved(PICTURE.convert("CMYK"), "JPEG", exif=exif(), comment=SECRET),
    "rgb": saved(PICTURE, "JPEG", keep_rgb=True, exif=exif()),
    "grey": saved(PICTURE.convert("L"), "JPEG", exif=exif(), icc_profile=PROFILE),
    "rubbish between": with_segments(SECRET, segment(0xFE, SECRET)),
}
# The sizes of the thumbnail are in a segment that must say how long it is.
JPEGS["jfif thumbnail"] = (
    JPEGS["jfif thumbnail"][:4] + (16 + 36).to_bytes(2, "big") + JPEGS["jfif thumbnail"][6:]
)


@pytest.mark.parametrize("name", JPEGS)
def test_a_jpeg_is_stripped(stripped: Callable[[bytes, str], bytes], name: str) -> None:
    content = JPEGS[name]
    result = stripped(content, "image/jpeg")
    # Pillow trips over some, and not over what is left of them.
    assert look(result) == look(jpeg() if name in {"broken exif", "rubbish between"} else content)
    assert len(result) < len(content)
    with Image.open(io.BytesIO(result)) as picture:
        assert set(picture.getexif()) <= {ORIENTATION}
        assert {"comment", "xmp", "photoshop", "mp"}.isdisjoint(picture.info)
    assert result.count(b"\xff\xd8") == 1
    assert result.count(b"Exif") <= 1
    assert result.endswith(b"\xff\xd9")


def test_which_way_up_stays(stripped: Callable[[bytes, str], bytes]) -> None:
    for value in range(1, 9):
        result = stripped(jpeg(exif=exif(value)), "image/jpeg")
        with Image.open(io.BytesIO(result)) as picture:
            assert picture.getexif().get(ORIENTATION, 1) == value
            assert (b"Exif" in result) is (value > 1)
    assert b"Exif" not in stripped(jpeg(exif=exif(9)), "image/jpeg")


# -- PNG ----------------------------------------------------------------------------------------------------


def png(*chunks: bytes, **options: Any) -> bytes:
    """Return a PNG with further chunks behind the first."""
    content = saved(PICTURE, "PNG", **options)
    return content[:33] + b"".join(chunks) + content[33:]


def texts() -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_text("Author", TEXT)
    info.add_text("Comment", TEXT * 9, zip=True)
    info.add_itxt("XML:com.adobe.xmp", XMP.decode())
    info.add_itxt("Place", TEXT, zip=True)
    return info


PNGS = {
    "texts": png(pnginfo=texts()),
    "exif": png(exif=exif()),
    "time": png(png_chunk(b"tIME", struct.pack(">HBBBBB", 2024, 1, 2, 3, 4, 5))),
    "vendor": png(png_chunk(b"prVt", SECRET), png_chunk(b"caBX", SECRET), png_chunk(b"sPLT", SECRET)),
    "profile's name": png(png_chunk(b"iCCP", SECRET + b"\0\0" + zlib.compress(PROFILE))),
    "behind": png() + SECRET,
    "colour": png(
        png_chunk(b"gAMA", struct.pack(">I", 45455)),
        png_chunk(b"cHRM", struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)),
        png_chunk(b"cICP", bytes((1, 13, 0, 1))),
        png_chunk(b"tEXt", b"Author\0" + SECRET),
    ),
    "palette": saved(PICTURE.quantize(16), "PNG", exif=exif(), transparency=3, dpi=(72, 72)),
    "alpha": saved(PICTURE.convert("RGBA"), "PNG", pnginfo=texts()),
    "animation": saved(
        FRAMES[0],
        "PNG",
        save_all=True,
        append_images=FRAMES[1:],
        duration=[70, 80, 90],
        loop=3,
        exif=exif(),
        pnginfo=texts(),
    ),
}


@pytest.mark.parametrize("name", PNGS)
def test_a_png_is_stripped(stripped: Callable[[bytes, str], bytes], name: str) -> None:
    content = PNGS[name]
    result = stripped(content, "image/png")
    assert look(result) == look(content)
    assert len(result) < len(content)
    names = {name for name, _ in png_chunks(result)}
    assert names.isdisjoint({b"tEXt", b"zTXt", b"iTXt", b"tIME"})
    assert names >= {name for name, _ in png_chunks(content)} & {b"gAMA", b"cHRM", b"cICP", b"iCCP", b"acTL"}
    with Image.open(io.BytesIO(result)) as picture:
        assert set(picture.getexif()) <= {ORIENTATION}


def png_chunks(content: bytes) -> list[tuple[bytes, bytes]]:
    found, at = [], 8
    while at < len(content):
        size = int.from_bytes(content[at : at + 4], "big")
        found.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + size]))
        at += size + 12
        if found[-1][0] == b"IEND":
            break
    return found


def test_a_png_that_only_its_maker_can_read_is_not_stripped(refused: Callable[[bytes, str], str]) -> None:
    assert "CgBI" in refused(png(png_chunk(b"CgBI", b"\x50\0\x20\x06")), "image/png")


# -- WebP ---------------------------------------------------------------------------------------------------


def riff(content: bytes, *chunks: bytes) -> bytes:
    """Return a WebP with further chunks at its end."""
    body = content[8:] + b"".join(chunks)
    return b"RIFF" + len(body).to_bytes(4, "little") + body


def webp_chunk(name: bytes, payload: bytes) -> bytes:
    return name + len(payload).to_bytes(4, "little") + payload + bytes(len(payload) % 2)


WEBPS = {
    "exif": saved(PICTURE, "WEBP", exif=exif()),
    "xmp": saved(PICTURE, "WEBP", xmp=XMP),
    "profile": saved(PICTURE, "WEBP", exif=exif(3), xmp=XMP, icc_profile=PROFILE),
    "alpha": saved(PICTURE.convert("RGBA"), "WEBP", xmp=XMP),
    "lossless": saved(PICTURE, "WEBP", lossless=True, exif=exif()),
    "plain": riff(saved(PICTURE, "WEBP"), webp_chunk(b"EXIF", exif()), webp_chunk(b"XMP ", XMP)),
    "vendor": riff(saved(PICTURE, "WEBP", exif=exif()), webp_chunk(b"VEND", SECRET)),
    "behind": saved(PICTURE, "WEBP") + SECRET,
    "animation": saved(
        FRAMES[0], "WEBP", save_all=True, append_images=FRAMES[1:], duration=[70, 80, 90], loop=3, exif=exif()
    ),
}


@pytest.mark.parametrize("name", WEBPS)
def test_a_webp_is_stripped(stripped: Callable[[bytes, str], bytes], name: str) -> None:
    content = WEBPS[name]
    result = stripped(content, "image/webp")
    wanted = look(content)
    if name == "plain":
        # Without an extended header only Pillow looks for an orientation.
        wanted = [(*frame[:3], 1, *frame[4:]) for frame in wanted]
        assert b"EXIF" not in result
    assert look(result) == wanted
    assert len(result) < len(content)
    with Image.open(io.BytesIO(result)) as picture:
        assert set(picture.getexif()) <= {ORIENTATION}
        assert "xmp" not in picture.info
    if result[12:16] == b"VP8X":
        assert not result[20] & 0x04
        assert bool(result[20] & 0x08) is (b"EXIF" in result)


def test_frames_of_a_webp_are_stripped_too(stripped: Callable[[bytes, str], bytes]) -> None:
    content = WEBPS["animation"]
    at = content.index(b"ANMF")
    size = int.from_bytes(content[at + 4 : at + 8], "little")
    frame = content[at + 8 : at + 8 + size] + webp_chunk(b"VEND", SECRET)
    body = content[8:at] + webp_chunk(b"ANMF", frame) + content[at + 8 + size + size % 2 :]
    changed = b"RIFF" + len(body).to_bytes(4, "little") + body
    assert look(stripped(changed, "image/webp")) == look(content)


# -- GIF ----------------------------------------------------------------------------------------------------


def gif_extension(label: int, *blocks: bytes) -> bytes:
    return bytes((0x21, label)) + b"".join(bytes((len(block),)) + block for block in blocks) + b"\0"


def gif(*extensions: bytes, **options: Any) -> bytes:
    """Return an animated GIF with further extensions before its first image."""
    content = saved(
        FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:], duration=[70, 80, 90], loop=3, **options
    )
    at = 13 + 3 * 2 ** ((content[10] & 7) + 1)
    return content[:at] + b"".join(extensions) + content[at:]


GIFS = {
    "comment": gif(comment=SECRET),
    "another": gif(gif_extension(0xFE, SECRET, SECRET)),
    "xmp": gif(gif_extension(0xFF, b"XMP DataXMP", XMP[:200], XMP[200:])),
    "vendor": gif(gif_extension(0xFF, b"VENDOR  1.0", SECRET)),
    "vendor's name": gif(gif_extension(0xFF, b"SN-0815 1.0", b"\x01\x03\0")),
    "in the loop": gif(gif_extension(0xFF, b"NETSCAPE2.0", b"\x01\x03\0", SECRET)),
    "text": gif(gif_extension(0x01, bytes(12), SECRET)),
    "behind": gif() + SECRET,
    "one": saved(PICTURE.quantize(16), "GIF", comment=SECRET, transparency=3),
}


@pytest.mark.parametrize("name", GIFS)
def test_a_gif_is_stripped(stripped: Callable[[bytes, str], bytes], name: str) -> None:
    content = GIFS[name]
    result = stripped(content, "image/gif")
    assert look(result) == look(content)
    assert len(result) < len(content)
    with Image.open(io.BytesIO(result)) as picture:
        assert "comment" not in picture.info


# -- TIFF ---------------------------------------------------------------------------------------------------

TAGS: dict[int, Any] = {270: TEXT, 271: TEXT, 305: TEXT, 306: "2024:01:02 03:04:05", 315: TEXT, 316: TEXT}
TAGS |= {33432: TEXT, 700: XMP, 33723: SECRET, 34377: SECRET, 37724: SECRET, 65000: SECRET}


def tiff(picture: Image.Image = PICTURE, *, orientation: int = 6, **options: Any) -> bytes:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in {ORIENTATION: orientation, **TAGS}.items():
        tags[tag] = value
    if "compression" not in options:
        # The library that compresses cannot write directories within others.
        tags[0x8825] = {1: "N", 2: (48.0, 51.0, 30.24), 29: TEXT}
        tags[0x8769] = {0x927C: SECRET, 0xA431: TEXT, 0x9286: SECRET}
    return saved(picture, "TIFF", tiffinfo=tags, **options)


TIFFS = {
    "plain": tiff(),
    "profile": tiff(icc_profile=PROFILE),
    "lzw": tiff(compression="tiff_lzw"),
    "deflate": tiff(compression="tiff_adobe_deflate"),
    "jpeg": tiff(compression="jpeg"),
    "fax": tiff(PICTURE.convert("1"), compression="group4"),
    "cmyk": tiff(PICTURE.convert("CMYK")),
    "palette": tiff(PICTURE.quantize(16)),
    "resolution": tiff(dpi=(300, 300)),
    "pages": tiff(save_all=True, append_images=FRAMES),
    "upright": tiff(orientation=1),
    "behind": tiff() + SECRET,
}


@pytest.mark.parametrize("name", TIFFS)
def test_a_tiff_is_stripped(stripped: Callable[[bytes, str], bytes], name: str) -> None:
    content = TIFFS[name]
    assert TEXT.encode() in content
    result = stripped(content, "image/tiff")
    assert look(result) == look(content)
    assert len(result) == len(content)
    with Image.open(io.BytesIO(result)) as picture:
        assert set(picture.getexif()).isdisjoint({*TAGS, 0x8825, 0x8769})
        assert picture.getexif().get_ifd(0x8825) == {}


def test_a_tiff_in_a_circle_is_not_stripped(refused: Callable[[bytes, str], str]) -> None:
    content = saved(PICTURE, "TIFF")
    at = int.from_bytes(content[4:8], "little")
    end = at + 2 + 12 * int.from_bytes(content[at : at + 2], "little")
    assert content[end : end + 4] == bytes(4)
    assert "circle" in refused(content[:end] + content[4:8] + content[end + 4 :], "image/tiff")


def test_a_tiff_that_contradicts_itself_is_not_stripped(refused: Callable[[bytes, str], str]) -> None:
    # Its pixels are its tags: with fewer of these they would be others.
    entries = [(256, 4, 1, 96), (257, 4, 1, 64), (270, 4, 1, 7), (273, 4, 1, 8), (279, 4, 1, 54)]
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    content = b"II*\0\x08\0\0\0" + directory + bytes(100)
    assert "same place" in refused(content, "image/tiff")


def test_a_tiff_with_tables_anywhere_is_not_stripped(refused: Callable[[bytes, str], str]) -> None:
    compression = struct.pack("<HHIH", 259, 3, 1, 1)
    content = saved(PICTURE, "TIFF")
    assert compression in content
    old = content.replace(compression, struct.pack("<HHIH", 259, 3, 1, 6))
    assert "old kind" in refused(old, "image/tiff")


def test_a_tiff_whose_pixels_have_metadata_is_not_stripped(refused: Callable[[bytes, str], str]) -> None:
    inside = jpeg(comment=SECRET)
    entries = [(256, 4, 96), (257, 4, 64), (259, 3, 7), (273, 4, 200), (277, 3, 3), (279, 4, len(inside))]
    directory = struct.pack("<H", len(entries)) + b"".join(
        struct.pack("<HHII", *e[:2], 1, e[2]) for e in entries
    )
    content = (b"II*\0\x08\0\0\0" + directory).ljust(200, b"\0") + inside
    assert "within" in refused(content, "image/tiff")


def test_a_place_on_a_map_is_a_place(stripped: Callable[[bytes, str], bytes]) -> None:
    """GeoTIFF has tags of its own."""
    content = saved(PICTURE, "TIFF", tiffinfo={34737: TEXT, 42112: TEXT})
    assert look(stripped(content, "image/tiff")) == look(content)


# -- HEIC and AVIF ------------------------------------------------------------------------------------------

pillow_heif.register_heif_opener()


def heic(**options: Any) -> bytes:
    return saved(PICTURE, "HEIF", quality=80, **options)


HEICS = {
    "exif": heic(exif=exif()),
    "xmp": heic(xmp=XMP),
    "both": heic(exif=exif(), xmp=XMP, icc_profile=PROFILE),
    "thumbnail": heic(exif=exif(), thumbnails=[32]),
    "several": heic(exif=exif(), save_all=True, append_images=FRAMES),
    "orphan": heic() + box(b"mdat", SECRET),
    "vendor": heic() + box(b"mpvd", SECRET) + box(b"free", SECRET) + box(b"uuid", bytes(16) + SECRET),
}
AVIFS = {
    "exif": saved(PICTURE, "AVIF", exif=exif()),
    "both": saved(PICTURE, "AVIF", exif=exif(), xmp=XMP, icc_profile=PROFILE),
    # Without an orientation: Pillow does not write every animation that has one.
    "animation": saved(
        FRAMES[0],
        "AVIF",
        save_all=True,
        append_images=FRAMES[1:],
        duration=[70, 80, 90],
        exif=exif(None),
        xmp=XMP,
    ),
}


def items_look(content: bytes) -> list[tuple[Any, ...]]:
    """Return of each picture how it looks, by a library that shows it as it is to be shown."""
    with Image.open(io.BytesIO(content)) as picture:
        looks = []
        for number in range(getattr(picture, "n_frames", 1)):
            picture.seek(number)
            picture.load()
            looks.append(
                (
                    picture.size,
                    picture.tobytes(),
                    picture.info.get("icc_profile"),
                    picture.info.get("duration"),
                )
            )
        return looks


@pytest.mark.parametrize("name", HEICS)
def test_a_heic_is_stripped(stripped: Callable[[bytes, str], bytes], name: str) -> None:
    content = HEICS[name]
    result = stripped(content, "image/heic")
    assert items_look(result) == items_look(content)
    assert len(result) == len(content)
    with Image.open(io.BytesIO(result)) as picture:
        assert set(picture.getexif()) == set()
        assert not (picture.info.get("xmp") or b"").strip(b"\0 ")


def test_what_is_said_as_a_property_is_taken_out(stripped: Callable[[bytes, str], bytes]) -> None:
    content = heic().replace(b"pixi", b"udes")
    assert b"udes" in content
    result = stripped(content, "image/heic")
    assert b"udes" not in result
    assert items_look(result) == items_look(heic())


@pytest.mark.parametrize("name", AVIFS)
def test_an_avif_is_stripped(stripped: Callable[[bytes, str], bytes], name: str) -> None:
    content = AVIFS[name]
    result = stripped(content, "image/avif")
    assert items_look(result) == items_look(content)
    assert len(result) == len(content)
    with Image.open(io.BytesIO(content)) as before, Image.open(io.BytesIO(result)) as picture:
        assert set(picture.getexif()) <= {ORIENTATION}
        # Said by the file itself, and not by EXIF.
        assert picture.getexif().get(ORIENTATION, 1) == before.getexif().get(ORIENTATION, 1)
        assert name == "animation" or picture.getexif()[ORIENTATION] == 6
        assert not (picture.info.get("xmp") or b"").strip(b"\0 ")


def test_pictures_without_an_index_are_not_stripped(refused: Callable[[bytes, str], str]) -> None:
    """What says that it is no index of pictures would go, and they with it."""
    content = heic(exif=exif()).replace(b"pict", b"tcip")
    assert refused(content, "image/heic")


# -- MP4 and QuickTime --------------------------------------------------------------------------------------

WRITTEN_TAGS = {
    "location": "+48.8584+002.2945/",
    "comment": TEXT,
    "artist": TEXT,
    "creation_time": "2024-01-02T03:04:05Z",
    "com.apple.quicktime.location.ISO6709": "+48.8584+002.2945/",
    "com.apple.quicktime.make": TEXT,
}


def film(kind: str = "mp4", flags: str = "", **options: Any) -> bytes:
    return media.video(
        [*FRAMES, *FRAMES],
        kind=kind,
        options={"movflags": flags} if flags else {},
        tags=WRITTEN_TAGS,
        stream_tags={"handler_name": TEXT},
        turn={"degrees": 90},
        sound="aac",
        **options,
    )


FILMS = {
    "mp4": (film(), "video/mp4"),
    "tags": (film(flags="use_metadata_tags"), "video/mp4"),
    "mov": (film("mov"), "video/quicktime"),
    "mov tags": (film("mov", "use_metadata_tags"), "video/quicktime"),
    "3gp": (film("3gp"), "video/3gpp"),
    "fragments": (film(flags="frag_keyframe+empty_moov"), "video/mp4"),
    "rest": (
        film()
        + box(b"free", SECRET)
        + box(b"skip", SECRET)
        + box(b"uuid", bytes(16) + SECRET)
        + box(b"VEND", SECRET)
        + box(b"meta", bytes(4) + box(b"hdlr", bytes(8) + b"mdir" + bytes(12) + SECRET)),
        "video/mp4",
    ),
}


def played(content: bytes) -> tuple[Any, ...]:
    """Return every packet and every picture, and which way up."""
    with av.open(io.BytesIO(content), "r") as opened:
        packets = [
            (packet.stream_index, packet.pts, packet.dts, packet.duration, packet.is_keyframe, bytes(packet))
            for packet in opened.demux()
        ]
    with av.open(io.BytesIO(content), "r") as opened:
        frames: list[Any] = list(opened.decode(video=0))
        pictures = [(frame.rotation, frame.pts, bytes(frame.planes[0])) for frame in frames]
    return packets, pictures


def what_is_said(content: bytes) -> dict[str, str]:
    with av.open(io.BytesIO(content), "r") as opened:
        metadata = dict(opened.metadata)
        for stream in opened.streams:
            metadata |= stream.metadata
        return metadata


@pytest.mark.parametrize("name", FILMS)
def test_a_film_is_stripped(stripped: Callable[[bytes, str], bytes], name: str) -> None:
    content, media_type = FILMS[name]
    result = stripped(content, media_type)
    assert played(result) == played(content)
    assert played(result)[1][0][0] == 90
    assert len(result) == len(content)
    assert what_is_said(result).keys() <= {
        "major_brand",
        "minor_version",
        "compatible_brands",
        "language",
        "vendor_id",
    }


def index_of(content: bytes) -> slice:
    """Return where the `moov` box is."""
    at = content.index(b"moov") - 4
    return slice(at, at + int.from_bytes(content[at : at + 4], "big"))


def test_a_reference_to_a_track_that_is_gone_goes_too(stripped: Callable[[bytes, str], bytes]) -> None:
    content = film("mov")
    index = index_of(content)
    track = content.index(b"trak", index.start) - 4
    end = track + int.from_bytes(content[track : track + 4], "big")
    names = [box(b"tmcd", b"\0\0\0\x09"), box(b"chap", b"\0\0\0\x08")]
    longer = box(b"trak", content[track + 8 : end] + box(b"tref", b"".join(names)))
    moov = box(b"moov", content[index.start + 8 : track] + longer + content[end:])
    result = stripped(content[: index.start] + moov, "video/quicktime")
    assert names[0] not in result
    assert names[1] in result
    assert played(result) == played(content)


def test_the_name_of_the_encoder_is_taken_out(stripped: Callable[[bytes, str], bytes]) -> None:
    content = film("mov")
    # A name of up to 31 letters, behind its length, in the first description.
    at = content.index(b"stsd") + 12 + 50
    named = content[:at] + (b"\x1f" + SECRET)[:32].ljust(32, b"!") + content[at + 32 :]
    result = stripped(named, "video/quicktime")
    assert played(result) == played(content)
    assert result[at : at + 32] == bytes(32)


def test_what_is_said_of_the_whole_film_is_taken_out(stripped: Callable[[bytes, str], bytes]) -> None:
    content = film("mov")
    index = index_of(content)
    assert index.stop == len(content)
    keys = box(b"meta", box(b"hdlr", bytes(8) + b"mdta" + bytes(13)) + box(b"keys", SECRET))
    longer = content[: index.start] + box(b"moov", content[index.start + 8 :] + keys)
    assert played(stripped(longer, "video/quicktime")) == played(content)


@pytest.mark.parametrize("kind", [b"meta", b"camm", b"data", b"tmcd"])
@pytest.mark.parametrize("codec", ["pcm_s16be", "aac"])
def test_a_track_of_positions_is_taken_out(
    stripped: Callable[[bytes, str], bytes], codec: str, kind: bytes
) -> None:
    """Its samples too, wherever they are, whether they are all of one size or not."""
    original = media.video([*FRAMES] * 20, sound=codec, kind="mov")
    at = original.rindex(b"mhlrsoun")
    content = original[: at + 4] + kind + original[at + 8 :]
    with av.open(io.BytesIO(original), "r") as opened:
        samples = {bytes(packet)[:200] for packet in opened.demux(audio=0) if packet.size > 100}
    assert samples
    assert all(sample in content for sample in samples)
    result = stripped(content, "video/quicktime")
    assert not any(sample in result for sample in samples)
    assert len(result) == len(content)
    with av.open(io.BytesIO(result), "r") as opened:
        assert [stream.type for stream in opened.streams] == ["video"]
    assert played(result)[1] == played(original)[1]


def test_positions_in_fragments_are_not_stripped_by_half(refused: Callable[[bytes, str], str]) -> None:
    content = media.video(FRAMES, sound="aac", options={"movflags": "frag_keyframe+empty_moov"})
    at = content.rindex(b"soun")
    assert "fragments" in refused(content[:at] + b"meta" + content[at + 4 :], "video/mp4")


def test_a_film_that_is_elsewhere_is_not_stripped(refused: Callable[[bytes, str], str]) -> None:
    content = film().replace(b"url \0\0\0\x01", b"url \0\0\0\0")
    assert "another file" in refused(content, "video/mp4")


def test_a_compressed_index_is_not_stripped(refused: Callable[[bytes, str], str]) -> None:
    content = box(b"ftyp", b"qt  \0\0\0\0qt  ") + box(b"moov", box(b"cmov", SECRET))
    assert "compressed" in refused(content, "video/quicktime")


# -- All ----------------------------------------------------------------------------------------------------

BARE = {
    "image/jpeg": saved(PICTURE, "JPEG"),
    "image/png": saved(PICTURE, "PNG"),
    "image/webp": saved(PICTURE, "WEBP"),
    "image/gif": saved(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:]),
}


@pytest.mark.parametrize("media_type", BARE)
def test_what_has_nothing_personal_stays(tmp_path: Path, media_type: str) -> None:
    assert apply(BARE[media_type], media_type, tmp_path) == (
        BARE[media_type],
        {"file": "stripped", "changed": False},
    )


WHOLE = {
    **BARE,
    "image/tiff": TIFFS["plain"],
    "image/heic": HEICS["both"],
    "image/avif": AVIFS["both"],
    "video/mp4": FILMS["mp4"][0],
    "video/quicktime": FILMS["mov"][0],
}


@pytest.mark.parametrize("part", [0.0, 0.001, 0.01, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("media_type", WHOLE)
def test_what_is_cut_off_is_not_stripped_by_half(tmp_path: Path, media_type: str, part: float) -> None:
    """Either it cannot be stripped, or what is left has nothing planted in it."""
    content = WHOLE[media_type]
    result, _ = apply(content[: int(len(content) * part)], media_type, tmp_path)
    assert result is None or not any(secret in result for secret in SECRETS)
    if media_type in BARE:
        assert result is None


@pytest.mark.parametrize("media_type", MODULES)
@pytest.mark.parametrize("content", [b"", b"nothing of the kind", bytes(1000), b"\xff" * 1000])
def test_what_it_is_not_is_not_stripped(
    refused: Callable[[bytes, str], str], media_type: str, content: bytes
) -> None:
    assert refused(content, media_type)


@pytest.mark.parametrize("media_type", ["application/pdf", "video/webm", "text/plain", ""])
def test_what_is_not_known_is_not_stripped(refused: Callable[[bytes, str], str], media_type: str) -> None:
    assert media_type in refused(b"x", media_type)
