"""Raster pictures: one decode, two WebP files, and what is shown until they are there."""

import base64
import warnings
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import thumbhash
from PIL import (
    AvifImagePlugin,
    Image,
    ImageChops,
    ImageFile,
    MpoImagePlugin,  # noqa: F401
    TiffImagePlugin,  # noqa: F401
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401
)

from tasks.attachments.drawing import animation, chunks
from tasks.attachments.drawing.budget import CANVASES, OverBudgetError, check, frames_within
from tasks.attachments.drawing.colours import BROKEN, shrunk, srgb
from tasks.attachments.drawing.unavailable import unavailable

# With the plugins above: what Pillow would otherwise look for when it opens a file, for each file again.
Image.preinit()

#: The long side of the small and the large picture, in pixels.
SIDES = {"small": 320, "large": 1280}
#: What a thumbhash is made from: it keeps seven waves a side, so that more pixels would change nothing.
HASH_SIDE = 32
#: Among how many colours the dominant one is chosen.
HUES = 8
#: Nothing was decoded if this share of so many by so many pixels is as it is without data.
MOSTLY = 0.98
SAMPLES = 64
#: Quality and effort of the WebP encoder, both as `cwebp` counts them.
QUALITY = 80
METHOD = 4
#: What is opened; Pillow itself would try forty formats.
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP", "TIFF")
#: EXIF's tag, and its values: what undoes them.
ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
#: Those that turn a picture on its side.
LYING = (5, 6, 7, 8)


class _Limits(NamedTuple):
    decoded_bytes: int
    animation_frames: int
    animation_pixels: int


class _Decoded(NamedTuple):
    """A picture at the large one's size, in sRGB, upright, of one frame or more; and its metadata."""

    moving: animation.Animation
    metadata: dict[str, Any]


def draw(
    source: Path, folder: Path, decoded_bytes: int, animation_frames: int, animation_pixels: int
) -> dict[str, Any]:
    """Draw `source` upright, in sRGB, with nothing but the picture in the files.

    What is broken is drawn as far as it goes. An animation that is too large to be composed as a whole loses
    its last frames, or becomes a still picture.

    Args:
        source, folder: the picture; where `small.webp` and `large.webp` are written.
        decoded_bytes: the most that a decoded picture may take in memory (`budget.py`).
        animation_frames, animation_pixels: the most that an animation keeps: frames, and pixels of all frames
            together in the large picture. Beyond them it has fewer frames, for longer, and is smaller.

    Returns:
        As the package says. `metadata`: `width`, `height` as shown, `frames` that the file has, `format`,
        `color`, `thumbhash`.
    """
    # One thread for each core would each want its share of the memory that there is for all.
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    # Checked exactly below; this is for what Pillow allocates when it opens a file. No pixel takes less, but
    # those of a JPEG, which is not decoded at its full size.
    with source.open("rb") as file:
        Image.MAX_IMAGE_PIXELS = None if file.read(2) == b"\xff\xd8" else decoded_bytes
    limits = _Limits(decoded_bytes, animation_frames, animation_pixels)
    formats = (*FORMATS, *_heif(source))
    why = ""
    for truncated, content in _readings(source):
        ImageFile.LOAD_TRUNCATED_IMAGES = truncated
        try:
            # Between the limit and twice the limit Pillow only warns.
            with (
                warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning),
                Image.open(content, formats=formats) as image,
            ):
                decoded = _decoded(image, limits)
        except (OverBudgetError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            return unavailable("over_budget", str(error))
        except UnidentifiedImageError:
            # Its own text has the path in it.
            why = why or "no known picture format"
            continue
        except BROKEN as error:
            why = why or f"{type(error).__name__}: {error}"
            continue
        if truncated and _is_blank(decoded.moving.frames[0]):
            continue
        drawn = _render_moving(decoded.moving, folder)
        return {"pictures": drawn["pictures"], "metadata": decoded.metadata | drawn["metadata"]}
    return unavailable("undecodable", why)


def _readings(source: Path) -> Iterator[tuple[bool, Path | BytesIO]]:
    """Yield what is opened, one after the other until it can be decoded; and whether it may be cut short."""
    yield False, source
    # Also ignores checksums and sizes of what is beside the picture.
    yield True, source
    with source.open("rb") as file:
        if file.read(len(chunks.SIGNATURE)) == chunks.SIGNATURE:
            yield True, BytesIO(chunks.still(source.read_bytes()))


def _decoded(image: Any, limits: _Limits) -> _Decoded:
    size, kind = image.size, image.format
    frames = animation.count(image)
    played = min(frames, animation.MOST_FRAMES, frames_within(size, limits.decoded_bytes))
    if played > 1:
        # A frame may enlarge the canvas.
        Image.MAX_IMAGE_PIXELS = limits.decoded_bytes // (4 * CANVASES)
        moving = animation.reduced(
            image,
            played,
            side=SIDES["large"],
            least_side=SIDES["small"],
            most_frames=limits.animation_frames,
            pixels=limits.animation_pixels,
        )
    else:
        still, turned = _still(image, limits.decoded_bytes)
        moving = animation.Animation([still], [0], 1)
        size = size[::-1] if turned else size
    # A photo with a second one inside is a photo.
    kind = "JPEG" if kind == "MPO" else kind
    return _Decoded(moving, {"width": size[0], "height": size[1], "frames": frames, "format": kind})


def _is_blank(image: Image.Image) -> bool:
    """Return whether nothing was decoded: all is transparent, black, or the grey of a JPEG without data."""
    # Of the data that is missing, the first few blocks may be noise.
    sampled = image.convert("RGBA").resize((SAMPLES, SAMPLES), Image.Resampling.NEAREST)
    colours: Any = sampled.getcolors(SAMPLES * SAMPLES)
    count, (*channels, alpha) = max(colours)
    empty = alpha == 0 or max(channels) == 0 or (min(channels) >= 126 and max(channels) <= 130)
    return bool(empty and count >= MOSTLY * SAMPLES * SAMPLES)


def render(image: Image.Image, folder: Path) -> dict[str, Any]:
    """Write a decoded still picture as `folder`/small.webp and large.webp.

    Args:
        image: RGB or RGBA in sRGB, upright. It is made smaller in place.
        folder: where the pictures are written.

    Returns:
        `pictures`, by name: file, width and height in pixels, bytes; `metadata`: `color`, the dominant one
        as #rrggbb, and `thumbhash`, in base64.
    """
    pictures = {}
    # The small picture is made from the large one: one decode, one large reduction.
    for name in ("large", "small"):
        image.thumbnail((SIDES[name], SIDES[name]), Image.Resampling.LANCZOS, reducing_gap=2)
        pictures[name] = _save(image, folder / f"{name}.webp")
    return {"pictures": pictures, "metadata": _placeholder(image)}


def _render_moving(moving: animation.Animation, folder: Path) -> dict[str, Any]:
    if len(moving.frames) == 1:
        return render(moving.frames[0], folder)
    pictures = {}
    for name in ("large", "small"):
        for frame in moving.frames:
            frame.thumbnail((SIDES[name], SIDES[name]), Image.Resampling.LANCZOS)
        first, *others = moving.frames
        pictures[name] = _save(
            first,
            folder / f"{name}.webp",
            save_all=True,
            append_images=others,
            duration=moving.durations,
            loop=moving.loop,
            background=(0, 0, 0, 0),
        )
    return {"pictures": pictures, "metadata": _placeholder(moving.frames[0])}


def _still(image: Any, decoded_bytes: int, turned: int = 1) -> tuple[Image.Image, bool]:
    """Decode the picture; return it at the large picture's size, and whether it lay on its side."""
    size = image.size
    # A JPEG decodes at a fraction of its size; the large picture needs no more.
    image.draft("RGB", (SIDES["large"], SIDES["large"]))
    check(image, size, decoded_bytes)
    image.load()
    # Not before: TIFF turns itself while it loads, and forgets that it had to.
    orientation = _orientation(image)
    orientation = turned if orientation == 1 else orientation
    profile, inverted = image.info.get("icc_profile"), image.format == "JPEG" and "adobe" not in image.info
    small = shrunk(image, SIDES["large"])
    if small.mode == "CMYK" and inverted:
        # Pillow takes all to be inverted, as Adobe writes them.
        small = ImageChops.invert(small)
    # Not ImageOps.exif_transpose: it writes the EXIF anew, and fails if that is broken.
    turn = TURNS.get(orientation)
    if turn is not None:
        small = small.transpose(turn)
    return srgb(small, profile), orientation in LYING


def preview(content: BytesIO, turned: int, decoded_bytes: int) -> Image.Image:
    """Decode a JPEG from another file, at the large picture's size, in sRGB, upright.

    Args:
        content: the JPEG; what follows its end is ignored.
        turned: how the camera was held, as EXIF has it, if the JPEG itself does not say.
        decoded_bytes: the most that it may take in memory.

    Raises:
        OverBudgetError, and what Pillow raises.
    """
    with Image.open(content, formats=("JPEG",)) as image:
        return _still(image, decoded_bytes, turned)[0]


def _orientation(image: Any) -> int:
    """Return how the camera was held; a broken EXIF is no reason to show no picture."""
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except BROKEN:
        return 1


def _heif(source: Path) -> tuple[str, ...]:
    """Teach Pillow HEIF, if it may be needed: the library is larger than all that the others take."""
    with source.open("rb") as file:
        box = file.read(12)
    if box[4:8] != b"ftyp" or box[8:12] in (b"avif", b"avis"):
        return ()
    import pillow_heif

    # Of the pictures in the file only the first is wanted, in one thread, and none that is too small.
    pillow_heif.register_heif_opener(
        thumbnails=False,
        depth_images=False,
        aux_images=False,
        decode_threads=1,
    )
    return ("HEIF",)


def _save(image: Image.Image, path: Path, **options: Any) -> dict[str, Any]:
    # Named explicitly: what is not named Pillow may copy from the source.
    image.save(path, "WEBP", quality=QUALITY, method=METHOD, exif=b"", icc_profile=b"", xmp=b"", **options)
    return {"file": path.name, "width": image.width, "height": image.height, "bytes": path.stat().st_size}


def _placeholder(image: Image.Image) -> dict[str, str]:
    tiny = image.convert("RGBA")
    tiny.thumbnail((HASH_SIDE, HASH_SIDE))
    hashed = thumbhash.rgba_to_thumb_hash(tiny.width, tiny.height, tiny.tobytes())
    return {"color": _dominant(tiny), "thumbhash": base64.b64encode(hashed).decode()}


def _dominant(tiny: Image.Image) -> str:
    """Return the colour that most of what can be seen has."""
    pixels = tiny.tobytes()
    seen = [pixels[at : at + 3] for at in range(0, len(pixels), 4) if pixels[at + 3] >= 128]
    # Of what is invisible nothing can be said.
    seen = seen or [bytes(3)]
    few = Image.frombytes("RGB", (len(seen), 1), b"".join(seen)).quantize(HUES)
    most = max(range(HUES), key=few.histogram().__getitem__)
    return "#" + bytes((few.getpalette() or [])[most * 3 : most * 3 + 3]).hex()
