"""Draws one file's pictures, in a process of its own: `python -I -m`-style, run by `draw.py`.

Bytes of strangers are decoded here and nowhere else. The process limits its own memory, time and output
before it opens the file; whatever happens then costs this file an attempt and nothing else.
It prints one JSON object: what it drew, or `{"refused": reason, "detail": …}`.
"""

import base64
import io
import json
import resource
import struct
import sys
import warnings
from pathlib import Path
from typing import Any

#: The long side of the small and the large picture, in pixels.
SIDES = {"small": 320, "large": 1280}
#: The long side of the placeholder that a client shows, blurred, while the picture loads.
PLACEHOLDER_SIDE = 16
#: EXIF's tag, and its values: what undoes them, by Pillow's names.
ORIENTATION = 0x0112
TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
#: Those that turn a picture on its side.
LYING = (5, 6, 7, 8)
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP", "TIFF")
ANIMATED = ("PNG", "GIF", "WEBP", "AVIF")
OUTPUT_LIMIT_BYTES = 64 * 1024 * 1024
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
    struct.error,
)


def confine(memory_bytes: int, seconds: int) -> None:
    """Limit this process for good: address space, CPU time, size of files, no core dump."""
    for limit, value in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, OUTPUT_LIMIT_BYTES),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (value, value))


def draw(source: Path, folder: Path, max_pixels: int) -> dict[str, Any]:
    """Draw `source` into `folder`/small.webp and large.webp. Return dimensions and placeholder."""
    # Imported under the limits: the codecs are what the limits are for.
    from PIL import AvifImagePlugin, Image, ImageCms, UnidentifiedImageError

    # One thread per core would each want its share of the memory that there is for all.
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    Image.MAX_IMAGE_PIXELS = max_pixels
    # Between the limit and twice the limit Pillow only warns.
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    try:
        with Image.open(source, formats=FORMATS) as image:
            size, frames, kind = image.size, getattr(image, "n_frames", 1), image.format
            # The frames of a photo are its preview and its gain map: nobody plays them.
            played = frames if kind in ANIMATED else 1
            if image.width * image.height * played > max_pixels:
                return {"refused": "too_many_pixels", "detail": f"more than {max_pixels} pixels"}
            # A JPEG decodes at a fraction of its size; the large picture needs no more.
            image.draft("RGB", (SIDES["large"], SIDES["large"]))
            image.load()
            # Not before: TIFF turns itself while it loads, and forgets that it had to.
            orientation = _orientation(image)
            if orientation in LYING:
                size = (size[1], size[0])
            # Not ImageOps.exif_transpose: it writes the EXIF anew, and fails if that is broken.
            turn = TURNS.get(orientation)
            upright = image.transpose(Image.Transpose[turn]) if turn else image
            picture = _srgb(upright, ImageCms)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return {"refused": "too_many_pixels", "detail": f"more than {max_pixels} pixels"}
    except UnidentifiedImageError:
        return {"refused": "undecodable", "detail": "no known picture format"}
    except BROKEN as error:
        return {"refused": "undecodable", "detail": f"{type(error).__name__}: {error}"[:200]}

    # The small picture is made from the large one: one decode, one large reduction.
    picture.thumbnail((SIDES["large"], SIDES["large"]), Image.Resampling.LANCZOS, reducing_gap=2)
    result: dict[str, Any] = {"width": size[0], "height": size[1], "format": kind, "frames": frames}
    result["large"] = _save(picture, folder / "large.webp")
    picture.thumbnail((SIDES["small"], SIDES["small"]), Image.Resampling.LANCZOS)
    result["small"] = _save(picture, folder / "small.webp")
    picture.thumbnail((PLACEHOLDER_SIDE, PLACEHOLDER_SIDE))
    tiny = io.BytesIO()
    picture.save(tiny, "WEBP", quality=40)
    result["placeholder"] = "data:image/webp;base64," + base64.b64encode(tiny.getvalue()).decode()
    return result


def _orientation(image: Any) -> int:
    """Return how the camera was held; a broken EXIF is no reason to show no picture."""
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except BROKEN:
        return 1


def _srgb(picture: Any, cms: Any) -> Any:
    """Return the picture in sRGB, as RGB or RGBA, its profile applied."""
    profile = picture.info.get("icc_profile")
    alpha = picture.mode in {"RGBA", "LA", "PA"} or "transparency" in picture.info
    wanted = "RGBA" if alpha else "RGB"
    if picture.mode in {"P", "PA"} or (alpha and picture.mode == "RGB"):
        # A profile speaks of colours, not of their numbers in a palette.
        picture = picture.convert(wanted)
    if profile and picture.mode in {"RGB", "RGBA", "CMYK", "L"}:
        output = wanted if picture.mode == "RGBA" else "RGB"
        try:
            source = cms.ImageCmsProfile(io.BytesIO(profile))
            return cms.profileToProfile(picture, source, cms.createProfile("sRGB"), outputMode=output)
        except (cms.PyCMSError, OSError):
            # A broken profile is no reason to show no picture.
            picture.info.pop("icc_profile")
    if picture.mode.startswith("I;16"):
        # Pillow would cut 16-bit grey off at 255 instead of scaling it.
        picture = picture.point(lambda value: value / 256).convert("L")
    return picture.convert(wanted)


def _save(picture: Any, path: Path) -> dict[str, int]:
    # Named explicitly: what is not named Pillow copies from the source.
    picture.save(path, "WEBP", quality=80, method=4, exif=b"", icc_profile=b"", xmp=b"")
    return {"width": picture.width, "height": picture.height, "bytes": path.stat().st_size}


def main() -> None:
    source, folder, max_pixels, memory_bytes, seconds = sys.argv[1:]
    confine(int(memory_bytes), int(seconds))
    result = draw(Path(source), Path(folder), int(max_pixels))
    sys.stdout.write(json.dumps(result))


if __name__ == "__main__":
    main()
