"""The files that `roomkeeper stack run` and `demo` feed in, each with the fate that it must meet."""

import hashlib
import io
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from workers.known_bad import EICAR, encrypted_zip, zipped


@dataclass(frozen=True, slots=True)
class Sample:
    """One upload.

    Attributes:
        app: whose attachment it is.
        name, media_type: as the uploader says, which need not be true.
        content: makes the bytes.
        says: what it is, for people.
        outcome, verdict, reason: its fate, as in `attachment_jobs`.
        pictures: whether pictures of it must be in the store afterwards.
        encrypted: end-to-end encrypted (`pern`).
        announced: whether its service enqueues it, or forgets to.
        provider: which store its service keeps it in; `pern` has `local` only.
    """

    app: str
    name: str
    media_type: str
    content: Callable[[], bytes]
    says: str
    outcome: str
    verdict: str
    reason: str | None = None
    pictures: bool = False
    encrypted: bool = False
    announced: bool = True
    provider: str = "local"


def photo(width: int = 4032, height: int = 3024) -> bytes:
    """Return a photo as a phone makes it: 12 megapixels, lying on its side, with a place in its EXIF."""
    grain = Image.effect_noise((width // 8, height // 8), 60).resize(
        (width, height), Image.Resampling.BILINEAR
    )
    sky = Image.linear_gradient("L").resize((width, height))
    picture = Image.merge("RGB", (grain, sky, Image.blend(grain, sky, 0.5)))
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x8825] = {1: "N", 2: (48.0, 51.0, 29.0), 3: "E", 4: (2.0, 17.0, 40.0)}
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=85, exif=exif, comment=b"taken at home")
    return out.getvalue()


def animation() -> bytes:
    """Return a GIF of a few frames."""
    frames = []
    for step in range(8):
        frame = Image.new("RGB", (400, 300), "navy")
        ImageDraw.Draw(frame).ellipse((step * 40, 100, step * 40 + 80, 180), fill="gold")
        frames.append(frame)
    out = io.BytesIO()
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:], duration=80, loop=0)
    return out.getvalue()


def drawing(kind: str) -> bytes:
    """Return a small picture in the format `kind`."""
    picture = Image.new("RGB", (640, 480), "white")
    ImageDraw.Draw(picture).polygon([(320, 60), (560, 420), (80, 420)], fill="teal", outline="black")
    out = io.BytesIO()
    picture.save(out, kind)
    return out.getvalue()


def bomb() -> bytes:
    """Return a PNG of a hundred kilobytes that would take 900 MB of memory to decode."""
    side = 30_000
    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(1 + side // 8)) for _ in range(side)) + packer.flush()
    parts = {b"IHDR": struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0), b"IDAT": rows, b"IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in parts.items()
    )


def program() -> bytes:
    """Return a program: this machine's `true`."""
    return Path("/bin/true").resolve().read_bytes()


def sealed() -> bytes:
    """Return what an encrypted file looks like from outside: noise, another each time."""
    return os.urandom(50_000)


def unique(content: bytes) -> bytes:
    """Return a PNG that is like no other: `pern` keeps the same file only once."""
    picture = Image.open(io.BytesIO(content))
    picture.putpixel((0, 0), tuple(os.urandom(3)))
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


def sha256(content: bytes) -> str:
    """Return the hash as `pern` keeps it."""
    return hashlib.sha256(content).hexdigest()


SAMPLES = (
    Sample("openchat", "photo.jpg", "image/jpeg", photo, "a photo", "accepted", "clean", pictures=True),
    Sample(
        "openchat", "dance.gif", "image/gif", animation, "an animation", "accepted", "clean", pictures=True
    ),
    Sample("openchat", "notes.txt", "text/plain", lambda: b"Milk, bread\n", "notes", "accepted", "clean"),
    Sample(
        "openchat",
        "sunset.jpg",
        "image/jpeg",
        lambda: drawing("WEBP"),
        "a WebP that calls itself a JPEG",
        "accepted",
        "clean",
        pictures=True,
    ),
    Sample(
        "openchat",
        "invoice.txt",
        "text/plain",
        lambda: EICAR,
        "a virus",
        "quarantined",
        "infected",
        "malware",
    ),
    Sample(
        "openchat",
        "invoice.zip",
        "application/zip",
        lambda: zipped(zipped(EICAR)),
        "a virus in a zip in a zip",
        "quarantined",
        "infected",
        "malware",
    ),
    Sample(
        "openchat",
        "holiday.png",
        "image/png",
        program,
        "a program that calls itself a PNG",
        "refused",
        "clean",
        "type_mismatch",
    ),
    Sample(
        "openchat",
        "accounts.zip",
        "application/zip",
        encrypted_zip,
        "an encrypted archive",
        "refused",
        "suspicious",
        "encrypted_archive",
    ),
    Sample(
        "openchat",
        "tiny.png",
        "image/png",
        bomb,
        "a picture that unpacks to 900 MB: no preview",
        "accepted",
        "clean",
    ),
    Sample(
        "openchat",
        "forgotten.png",
        "image/png",
        lambda: drawing("PNG"),
        "a file that its service forgot to enqueue",
        "accepted",
        "clean",
        pictures=True,
        announced=False,
    ),
    Sample(
        "openchat",
        "beach.jpg",
        "image/jpeg",
        lambda: photo(2048, 1536),
        "a photo in S3",
        "accepted",
        "clean",
        pictures=True,
        provider="s3",
    ),
    Sample(
        "openchat",
        "receipt.txt",
        "text/plain",
        lambda: EICAR,
        "a virus in S3",
        "quarantined",
        "infected",
        "malware",
        provider="s3",
    ),
    Sample(
        "pern",
        "letter.bin",
        "application/octet-stream",
        sealed,
        "a sealed letter",
        "accepted",
        "opaque",
        encrypted=True,
    ),
    Sample(
        "pern",
        "sketch.png",
        "image/png",
        lambda: unique(drawing("PNG")),
        "a sketch that is not encrypted",
        "accepted",
        "clean",
        pictures=True,
    ),
)
