"""Every way of writing colours down, made sRGB."""

import io
import struct
from itertools import chain, product
from typing import Any

from PIL import Image, ImageChops, ImageCms

#: What Pillow raises on broken data. Not MemoryError: that may be the machine's doing.
BROKEN = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    # Pillow asserts what a broken GIF need not keep.
    AssertionError,
    struct.error,
)
#: Colours all over the cube, and what no eye sees as a change in one, of 255.
_PALETTE = Image.frombytes("RGB", (64, 64), bytes(chain(*product(range(0, 256, 17), repeat=3))))
SAME = 2
#: Modes with which a colour profile can be applied.
_WITH_PROFILE = ("RGB", "RGBA", "CMYK", "L", "LAB")


#: A larger picture is converted in parts of so many pixels: there is no room for a second copy of all of it.
_PART_PIXELS = 4_000_000


def shrunk(image: Image.Image, side: int) -> Image.Image:
    """Return the picture as `plain` makes it, at most `side` pixels wide and high; never enlarged.

    Args:
        image: decoded; it stays as it is.
        side: of the result, in pixels.
    """
    width, height = image.size
    # In two steps, as `thumbnail` does it: the second takes the exact size from twice as many pixels.
    factor = max(width, height) // (2 * side)
    if factor < 2 or width * height <= _PART_PIXELS:
        small = plain(image)
        small = small.copy() if small is image else small
        small.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=2)
        return small
    extrema = _extrema(image)
    rows = max(_PART_PIXELS // width // factor, 1) * factor
    reduced: Image.Image | None = None
    for top in range(0, height, rows):
        part = image.crop((0, top, width, min(top + rows, height)))
        part = plain(part, extrema).reduce(factor)
        if reduced is None:
            reduced = Image.new(part.mode, (part.width, -(-height // factor)))
        reduced.paste(part, (0, top // factor))
    assert reduced is not None
    scale = side / max(width, height)
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    # Reducing rounds up; the last pixels stand for less than a whole one.
    return reduced.resize(size, Image.Resampling.LANCZOS, box=(0, 0, width / factor, height / factor))


def _extrema(image: Image.Image) -> tuple[float, float] | None:
    """Return the darkest and the lightest value, where they decide what white is."""
    if image.mode not in ("F", "I"):
        return None
    lowest, highest = image.getextrema()
    assert isinstance(lowest, (int, float))
    assert isinstance(highest, (int, float))
    return lowest, highest


def plain(image: Image.Image, extrema: tuple[float, float] | None = None) -> Image.Image:
    """Return the picture in a mode that can be made smaller and that a profile can be applied to.

    That is RGB, RGBa (its colours multiplied by alpha, so that what cannot be seen is not mixed in), L, CMYK
    or LAB, with 8 bits for each.

    Args:
        image: the picture, or a part of it.
        extrema: of the whole picture, if this is a part.
    """
    mode = image.mode
    if mode in ("F", "I") or mode.startswith("I;16"):
        return _narrowed(image, extrema or _extrema(image))
    if mode in ("RGBA", "LA", "PA", "La") or image.has_transparency_data:
        # A profile speaks of colours, not of their numbers in a palette.
        return image.convert("LA").convert("RGBa") if mode == "La" else image.convert("RGBA").convert("RGBa")
    if mode == "1":
        # Anything smaller of it is grey.
        return image.convert("L")
    return image if mode in ("RGB", "RGBa", "L", "CMYK", "LAB") else image.convert("RGB")


def srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Return what `plain` returned in sRGB, RGB or RGBA; RGBA only if something is transparent.

    Args:
        image: best after it was made smaller: there is less to convert.
        profile: the colour profile that came with it, if any. A broken one is ignored.
    """
    if image.mode == "RGBa":
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() == (255, 255):
            # What follows is faster without alpha.
            image = image.convert("RGB")
    if (profile or image.mode == "LAB") and image.mode in _WITH_PROFILE:
        try:
            own: Any = io.BytesIO(profile) if profile else ImageCms.createProfile("LAB")
            wanted = "RGBA" if image.mode == "RGBA" else "RGB"
            transform = ImageCms.buildTransform(
                ImageCms.ImageCmsProfile(own), ImageCms.createProfile("sRGB"), image.mode, wanted
            )
            if image.mode == "RGB" and _changes_nothing(transform):
                return image
            return transform.apply(image)
        except (ImageCms.PyCMSError, *BROKEN):
            pass
    return image if image.mode in ("RGB", "RGBA") else image.convert("RGB")


def _changes_nothing(transform: ImageCms.ImageCmsTransform) -> bool:
    """Return whether the profile is sRGB by another name, as most are: applying it to all costs far more."""
    changes = ImageChops.difference(transform.apply(_PALETTE), _PALETTE).getextrema()
    return all(isinstance(most, tuple) and most[1] <= SAME for most in changes)


def _narrowed(image: Image.Image, extrema: tuple[float, float] | None) -> Image.Image:
    """Return a picture with more than 8 bits of grey as one with 8, where Pillow would cut off at 255."""
    if extrema is None:
        if image.mode != "I;16":
            # Of the other orders of bytes Pillow maps no values.
            return image.convert("F").point(lambda value: value / 256).convert("L")
        return image.point(lambda value: value / 256).convert("L")
    lowest, highest = extrema
    # No format says what white is: the least of the usual answers that fits, or else what there is.
    for white in (1, 255, 65535) if image.mode == "F" else (255, 65535):
        if lowest >= 0 and highest <= white:
            lowest, highest = 0, white
            break
    scale = 255 / (highest - lowest) if highest > lowest else 0
    return image.convert("F").point(lambda value: value * scale - lowest * scale).convert("L")
