"""Animations: kept as such, within a budget of frames and pixels."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple

from PIL import Image

from tasks.attachments.drawing.colours import BROKEN, shrunk, srgb

#: Formats whose further frames are played. Those of a JPEG are its preview and its gain map; those of a TIFF
#: are pages.
FORMATS = ("GIF", "PNG", "WEBP", "AVIF")
#: No one watches more frames than this: it would only take long to count them.
MOST_FRAMES = 10_000
#: The longest that one frame is shown, in milliseconds.
LONGEST_MS = 600_000


class Animation(NamedTuple):
    """Frames in sRGB, all of one size; how long each is shown, in milliseconds; how often, 0 for ever."""

    frames: list[Image.Image]
    durations: list[int]
    loop: int


def count(image: Any) -> int:
    """Return how many frames the picture has; of a GIF at most `MOST_FRAMES` are counted."""
    if image.format not in FORMATS:
        return 1
    if image.format != "GIF":
        return int(getattr(image, "n_frames", 1))
    # `n_frames` goes through the whole file: a minute for a large one of empty frames.
    found = 1
    # A broken frame ends what can be played.
    with suppress(*BROKEN):
        while found < MOST_FRAMES:
            image._seek(found, False)
            found += 1
    image.seek(0)
    return found


def reduced(
    image: Any, frames: int, *, side: int, least_side: int, most_frames: int, pixels: int
) -> Animation:
    """Return the animation with fewer frames and smaller, so far as that is needed.

    If there are more than `most_frames`, every second, third… is kept and shown for as long as those that are
    left out, so that all is as fast as before. A broken frame ends the animation.

    Args:
        image: opened, at its first frame.
        frames: how many of them are played.
        side, least_side: the long side, in pixels: at most `side` and, to stay within `pixels`, less, but not
            less than `least_side`. Never enlarged.
        most_frames: how many are kept.
        pixels: of all kept frames together.

    Raises:
        what Pillow raises, if not even one frame can be decoded.
    """
    # A PNG may bring a picture for those who cannot play it.
    first = 1 if image.info.get("default_image") and frames > 1 else 0
    step = -(-(frames - first) // most_frames)
    kept = -(-(frames - first) // step)
    canvas = image.size
    long, short = max(canvas), min(canvas)
    side = min(side, max(least_side, int((pixels / kept * long / short) ** 0.5)))
    made = Animation([], [], _loop(image))
    try:
        for number, frame in enumerate(_played(image, first, frames)):
            duration = min(max(round(frame.info.get("duration") or 0), 0), LONGEST_MS)
            if number % step:
                made.durations[-1] += duration
                continue
            # Pillow lets a frame that lies beyond the canvas enlarge it; browsers clip the frame.
            shown = frame if frame.size == canvas else frame.crop((0, 0, *canvas))
            small = shrunk(shown, side)
            made.frames.append(srgb(small, frame.info.get("icc_profile")))
            made.durations.append(duration)
    except (*BROKEN, Image.DecompressionBombError, Image.DecompressionBombWarning):
        if not made.frames:
            raise
    return made


def _played(image: Any, first: int, frames: int) -> Iterator[Any]:
    for number in range(first, frames):
        image.seek(number)
        image.load()
        yield image


def _loop(image: Any) -> int:
    """Return how often the animation is played, as WebP counts: 0 for ever."""
    loop = image.info.get("loop")
    if image.format == "GIF":
        # A GIF says how often it is repeated; one that says nothing is played once.
        loop = 1 if loop is None else loop and loop + 1
    return min(max(int(loop or 0), 0), 65535)
