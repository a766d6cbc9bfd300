"""What tests of drawing share: pictures to draw, and a look at what was drawn."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image, ImageCms

from tasks.attachments.draw import Drawing, draw
from workers.settings import Settings, load

RED, LIME, BLUE, GOLD = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 215, 0)
SECRET = b"taken at home by Ada"
#: What a WebP file may consist of, if nothing but a picture is in it.
PICTURE_ONLY = {"VP8 ", "VP8L", "VP8X", "ALPH"}

Draw = Callable[..., Drawing]


def settings(**values: object) -> Settings:
    environment = {f"ROOMKEEPER_{name.upper()}": str(value) for name, value in values.items()}
    return load({"DATABASE_URL": "postgresql://unused"} | environment)


def draw_bytes(directory: Path, content: bytes, kind: str = "picture", **values: object) -> Drawing:
    """Draw content, in the sandbox, with settings as given, made sure that nothing is left behind."""
    source, folder = directory / "source", directory / "out"
    source.write_bytes(content)
    folder.mkdir(exist_ok=True)
    drawing = draw(source, folder, settings(**values), kind)
    assert source.read_bytes() == content
    assert {path.name for path in directory.iterdir()} == {"source", "out"}
    assert set(folder.iterdir()) == set(drawing.pictures.values())
    return drawing


def saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def opened(path: Path) -> Image.Image:
    """Return the picture, made sure that it is a WebP and nothing else is in the file."""
    assert chunks(path.read_bytes()) <= PICTURE_ONLY
    picture = Image.open(path)
    assert picture.format == "WEBP"
    picture.load()
    return picture


def chunks(webp: bytes) -> set[str]:
    """Return the names of what a WebP file consists of."""
    assert webp[:4] + webp[8:12] == b"RIFFWEBP"
    names, at = set(), 12
    while at < len(webp):
        names.add(webp[at : at + 4].decode())
        size = int.from_bytes(webp[at + 4 : at + 8], "little")
        at += 8 + size + size % 2
    return names


def flag(width: int = 60, height: int = 40) -> Image.Image:
    """Return a picture with a colour of its own in each quarter."""
    picture = Image.new("RGB", (width, height))
    half = (width // 2, height // 2)
    for colour, at in (
        (RED, (0, 0)),
        (LIME, (half[0], 0)),
        (BLUE, (0, half[1])),
        (GOLD, half),
    ):
        picture.paste(Image.new("RGB", half, colour), at)
    return picture


def quarters(picture: Image.Image) -> list[Any]:
    """Return the colours in the middle of each quarter: above left, right, below left, right."""
    near, far = (1, 3)
    width, height = picture.size
    return [
        picture.convert("RGB").getpixel((width * x // 4, height * y // 4))
        for y in (near, far)
        for x in (near, far)
    ]


def alike(found: Any, wanted: Any, tolerance: int = 40) -> bool:
    return all(abs(a - b) <= tolerance for a, b in zip(found, wanted, strict=True))


def is_flag(picture: Image.Image) -> bool:
    return all(map(alike, quarters(picture), (RED, LIME, BLUE, GOLD)))


def exif(orientation: int = 1) -> Image.Exif:
    """Return what a phone writes beside a picture."""
    made = Image.Exif()
    made[0x0112] = orientation
    made[0x010F] = SECRET.decode()
    made[0x8825] = {1: "N", 2: (48.0, 51.0, 29.0), 3: "E", 4: (2.0, 17.0, 40.0)}
    return made


def profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def swapped_profile() -> bytes:
    """Return a colour profile in which red means green and green means red."""
    content = bytearray(profile())
    entries = {
        bytes(content[at : at + 4]): at for at in range(132, 132 + 12 * int.from_bytes(content[128:132]), 12)
    }
    red, green = entries[b"rXYZ"], entries[b"gXYZ"]
    content[red : red + 4], content[green : green + 4] = b"gXYZ", b"rXYZ"
    return bytes(content)
