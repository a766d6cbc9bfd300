"""Raw photos: the preview that the camera has put into the file. The sensor's data is not developed."""

from collections.abc import Iterator
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from tasks.attachments.drawing import picture
from tasks.attachments.drawing.budget import OverBudgetError
from tasks.attachments.drawing.colours import BROKEN
from tasks.attachments.drawing.unavailable import unavailable

#: How JPEGs begin; how many are looked at, and how much of each to learn its size.
START = b"\xff\xd8\xff"
CANDIDATES = 64
HEAD_BYTES = 64 * 1024
#: What is smaller is an icon, in pixels.
LEAST_SIDE = 160


def draw(source: Path, folder: Path, decoded_bytes: int) -> dict[str, Any]:
    """Draw the largest JPEG in a raw photo. Every maker stores one, each in a place of its own.

    Args:
        source, folder: the photo; where the pictures are written.
        decoded_bytes: as for other pictures.

    Returns:
        As the package says. `metadata`: `color` and `thumbhash`; the photo's own size is not known.
    """
    content = source.read_bytes()
    Image.MAX_IMAGE_PIXELS = None
    turned = _turned(source)
    for at in _largest_first(content):
        with suppress(*BROKEN, OverBudgetError):
            image = picture.preview(BytesIO(content[at:]), turned, decoded_bytes)
            drawn = picture.render(image, folder)
            return {"pictures": drawn["pictures"], "metadata": drawn["metadata"]}
    return unavailable("unsupported", "a raw photo without a preview that can be decoded")


def _largest_first(content: bytes) -> list[int]:
    found = {at: pixels for at in _starts(content) if (pixels := _pixels(content[at : at + HEAD_BYTES]))}
    return sorted(found, key=found.__getitem__, reverse=True)


def _starts(content: bytes) -> Iterator[int]:
    at = -1
    for _ in range(CANDIDATES):
        at = content.find(START, at + 1)
        if at < 0:
            return
        yield at


def _pixels(head: bytes) -> int:
    """Return how many pixels the JPEG has that begins here; 0 for none that is worth showing."""
    # The sensor's data may be a JPEG too, without loss: Pillow does not open those.
    with suppress(*BROKEN), Image.open(BytesIO(head), formats=("JPEG",)) as image:
        if max(image.size) >= LEAST_SIDE:
            return image.width * image.height
    return 0


def _turned(source: Path) -> int:
    """Return how the camera was held, where the photo is a TIFF that says so."""
    exif = Image.Exif()
    with suppress(*BROKEN), source.open("rb") as file:
        exif.load_from_fp(file)
        return int(exif.get(picture.ORIENTATION, 1))
    return 1
