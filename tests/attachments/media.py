"""Makers of real documents, videos and sounds, as bytes."""

import array
import io
import itertools
import math
import operator
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

import av
from PIL import Image

RED, LIME, BLUE, GOLD = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 215, 0)
BLACK = (0, 0, 0)
FLAG = [RED, LIME, BLUE, GOLD]


def flag(width: int = 64, height: int = 48) -> Image.Image:
    """Return a picture with a colour of its own in each quarter."""
    picture = Image.new("RGB", (2, 2))
    for index, colour in enumerate(FLAG):
        picture.putpixel((index % 2, index // 2), colour)
    return picture.resize((width, height), Image.Resampling.NEAREST)


def quarters(picture: Image.Image) -> list[Any]:
    """Return the colours in the middle of each quarter: above left, right, below left, right."""
    width, height = picture.size
    shown = picture.convert("RGB")
    return [shown.getpixel((width * x // 4, height * y // 4)) for y in (1, 3) for x in (1, 3)]


def alike(found: Any, wanted: Any, tolerance: int = 50) -> bool:
    """Return whether two colours, or two lists of them, look the same."""
    if isinstance(found, Iterable):
        return all(alike(a, b, tolerance) for a, b in zip(found, wanted, strict=True))
    return bool(abs(found - wanted) <= tolerance)


# -- Video --------------------------------------------------------------------------------------------------


def video(
    frames: Iterable[Image.Image],
    *,
    kind: str = "mp4",
    codec: str = "libx264",
    fps: int = 10,
    pixels: str = "yuv420p",
    ratio: Fraction | None = None,
    turn: dict[str, Any] | None = None,
    sound: str | None = None,
    options: Mapping[str, str] | None = None,
    codec_options: Mapping[str, str] | None = None,
    tags: Mapping[str, str] | None = None,
    stream_tags: Mapping[str, str] | None = None,
) -> bytes:
    """Return a film of the frames, in the container `kind`.

    Args:
        ratio: of a pixel's width to its height.
        turn: how the camera was held, for `set_display_rotation`.
        sound: the codec of a sound track beside it.
        tags, stream_tags: what the file says of itself and of its first track.
    """
    out = io.BytesIO()
    pictures = list(frames)
    opened = av.open(out, "w", format=kind, options=dict(options or {}))
    with _ordinary_scheduling(), opened as container:
        stream: Any = container.add_stream(codec, rate=fps, options=dict(codec_options or {}))
        stream.width, stream.height = pictures[0].size
        stream.pix_fmt = pixels
        if ratio is not None:
            stream.codec_context.sample_aspect_ratio = ratio
        if turn is not None:
            stream.set_display_rotation(**turn)
        stream.metadata.update(stream_tags or {})
        container.metadata.update(tags or {})
        track: Any = container.add_stream(sound, rate=48000, layout="mono") if sound else None
        for number, picture in enumerate(pictures):
            shown = frame(picture)
            shown.pts = number
            container.mux(stream.encode(shown))
        container.mux(stream.encode())
        if track is not None:
            _sing(container, track, [0.5] * 48000, 48000)
    return out.getvalue()


@contextmanager
def _ordinary_scheduling() -> Iterator[None]:
    """Be scheduled afterwards as before: SVT-AV1, as root, makes its caller a real-time process.

    All that the test run starts from then on would be one too, and leave nothing for the rest.
    """
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, *before)


def frame(picture: Image.Image) -> Any:
    """Return a picture as a frame."""
    make: Any = av.VideoFrame.from_image
    return make(picture)


# -- Sound --------------------------------------------------------------------------------------------------


def audio(
    loudness: Callable[[float], float],
    seconds: float,
    *,
    kind: str = "wav",
    codec: str = "pcm_s16le",
    rate: int = 48000,
    cover: bytes | None = None,
    options: Mapping[str, str] | None = None,
    tags: Mapping[str, str] | None = None,
) -> bytes:
    """Return a tone, as loud at each second as `loudness` says, from 0 to 1; with a picture on its cover."""
    out = io.BytesIO()
    with av.open(out, "w", format=kind, options=dict(options or {})) as container:
        track: Any = container.add_stream(codec, rate=rate, layout="mono")
        container.metadata.update(tags or {})
        picture: Any = None
        if cover is not None:
            picture = container.add_stream("mjpeg" if cover[:2] == b"\xff\xd8" else "png")
            picture.width, picture.height = Image.open(io.BytesIO(cover)).size
            picture.pix_fmt = "yuvj420p" if cover[:2] == b"\xff\xd8" else "rgb24"
            picture.disposition = av.stream.Disposition.attached_pic
            container.start_encoding()
            packet = av.Packet(cover)
            packet.stream, packet.pts, packet.dts = picture, 0, 0
            container.mux(packet)
        _sing(container, track, [loudness(at / rate) for at in range(int(seconds * rate))], rate)
    return out.getvalue()


def _sing(container: Any, track: Any, loudness: list[float], rate: int) -> None:
    # It repeats itself, so it is computed once.
    wave = [32767 * math.sin(at * 1000 * math.tau / rate) for at in range(rate // math.gcd(rate, 1000))]
    waves = itertools.cycle(wave)
    for begin in range(0, len(loudness), 4800):
        part = loudness[begin : begin + 4800]
        samples = array.array("h", map(int, map(operator.mul, part, waves)))
        heard = av.AudioFrame("s16", "mono", len(part))
        heard.planes[0].update(samples.tobytes())
        heard.sample_rate, heard.pts, heard.time_base = rate, begin, Fraction(1, rate)
        container.mux(track.encode(heard))
    container.mux(track.encode())


# -- Documents ----------------------------------------------------------------------------------------------


def pdf(
    *pages: str,
    contents: str = "",
    catalog: str = "",
    trailer: str = "",
    objects: Mapping[int, str] | None = None,
) -> bytes:
    """Return a document.

    Args:
        pages: of each page what its dictionary says beside its content.
        contents: what is drawn on each of them, in the language of pages.
        catalog, trailer: more for these dictionaries.
        objects: further ones, by numbers from 100 on.
    """
    kids = " ".join(f"{10 + index} 0 R" for index in range(len(pages)))
    parts = {
        1: f"<< /Type /Catalog /Pages 2 0 R {catalog} >>",
        2: f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        3: f"<< /Length {len(contents)} >>\nstream\n{contents}\nendstream",
        **{
            10 + index: f"<< /Type /Page /Parent 2 0 R /Contents 3 0 R {page} >>"
            for index, page in enumerate(pages)
        },
        **(objects or {}),
    }
    out = b"%PDF-1.7\n"
    table = {}
    for name, body in parts.items():
        table[name] = len(out)
        out += f"{name} 0 obj\n{body}\nendobj\n".encode("latin-1")
    start = len(out)
    out += b"xref\n0 1\n0000000000 65535 f \n"
    for name, at in table.items():
        out += f"{name} 1\n{at:010} 00000 n \n".encode()
    return out + f"trailer << /Root 1 0 R /Size 1000 {trailer} >>\nstartxref\n{start}\n%%EOF".encode()


def painted(width: float, height: float) -> str:
    """Return what draws a flag of this size from the origin, for `pdf`."""
    half = (width / 2, height / 2)
    # The origin is below left.
    places = [(0, half[1]), half, (0, 0), (half[0], 0)]
    return "\n".join(
        f"{red / 255} {green / 255} {blue / 255} rg {x} {y} {half[0]} {half[1]} re f"
        for (red, green, blue), (x, y) in zip(FLAG, places, strict=True)
    )


# -- Pieces -------------------------------------------------------------------------------------------------


def saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    """Return a picture as a file."""
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def png_chunk(name: bytes, payload: bytes) -> bytes:
    return len(payload).to_bytes(4, "big") + name + payload + zlib.crc32(name + payload).to_bytes(4, "big")


def box(name: bytes, payload: bytes) -> bytes:
    return (len(payload) + 8).to_bytes(4, "big") + name + payload
