"""Animations: kept as such, within a budget of frames and pixels."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from PIL import Image

from tasks.attachments.drawing.colours import plain, srgb

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


def count(image: Any, most: int) -> int:
    """Return how many frames the picture has, at most `most` + 1: counting more takes its time."""
    if image.format not in FORMATS:
        return 1
    if image.format != "GIF":
        return int(getattr(image, "n_frames", 1))
    # `n_frames` goes through the whole file: a minute for a large one of empty frames.
    found = 1
    try:
        while found <= most:
            image._seek(found, False)
            found += 1
    except EOFError:
        pass
    image.seek(0)
    return found


def reduced(
    image: Any, frames: int, *, side: int, least_side: int, most_frames: int, pixels: int
) -> Animation:
    """Return the animation with fewer frames and smaller, so far as that is needed.

    If there are more than `most_frames`, every second, third… is kept and shown for as long as those that are
    left out, so that all is as fast as before.

    Args:
        image: opened, at its first frame.
        frames: how many it has.
        side, least_side: the long side, in pixels: at most `side` and, to stay within `pixels`, less, but not
            less than `least_side`. Never enlarged.
        most_frames: how many are kept.
        pixels: of all kept frames together.
    """
    # A PNG may bring a picture for those who cannot play it.
    first = 1 if image.info.get("default_image") and frames > 1 else 0
    step = -(-(frames - first) // most_frames)
    kept = -(-(frames - first) // step)
    long, short = max(image.size), min(image.size)
    side = min(side, max(least_side, int((pixels / kept * long / short) ** 0.5)))
    made = Animation([], [], _loop(image))
    for number, frame in enumerate(_played(image, first, frames)):
        duration = min(max(round(frame.info.get("duration") or 0), 0), LONGEST_MS)
        if number % step:
            made.durations[-1] += duration
            continue
        made.durations.append(duration)
        small = plain(frame)
        small = small.copy() if small is frame else small
        small.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=2)
        made.frames.append(srgb(small, frame.info.get("icc_profile")))
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
