"""Takes personal metadata out of an original, without touching a pixel. Runs in the sandbox only."""

import importlib
from pathlib import Path
from typing import Any

from tasks.attachments.stripping.reader import Unstrippable

#: Which module of `stripping` knows which content.
MODULES = {
    "image/jpeg": "jpeg",
    "image/png": "png",
    "image/apng": "png",
    "image/webp": "webp",
    "image/gif": "gif",
    "image/tiff": "tiff",
    "image/heic": "bmff",
    "image/heif": "bmff",
    "image/heic-sequence": "bmff",
    "image/heif-sequence": "bmff",
    "image/avif": "bmff",
    "video/mp4": "bmff",
    "video/quicktime": "bmff",
    "video/x-m4v": "bmff",
    "video/3gpp": "bmff",
    "video/3gpp2": "bmff",
}
STRIPPED = "stripped"


def strip(source: Path, folder: Path, media_type: str) -> dict[str, Any]:
    """Write `source` as `folder`/stripped without what tells of who made it, where, when, and with what.

    What is not known to be needed to show the file goes: EXIF, GPS, XMP, IPTC, comments, maker notes,
    thumbnails, text, dates, tracks of positions, whatever follows the end. Pixels and sound stay as they are,
    bit by bit; so do orientation, colour and animation. Doing it again changes nothing.

    Args:
        source, folder: the file; where the result is written.
        media_type: what the file really is.

    Returns:
        `file`, the name in `folder`, and `changed`, whether there was anything to take out; or `unavailable`:
        why this file cannot be stripped without loss, and nothing was written.
    """
    name = MODULES.get(media_type)
    if name is None:
        return {"unavailable": f"nothing is known about metadata in {media_type}"}
    module = importlib.import_module(f"tasks.attachments.stripping.{name}")
    content = source.read_bytes()
    try:
        stripped = module.strip(content)
        # A file that contradicts itself may come out unreadable.
        if stripped != content and module.strip(stripped) != stripped:
            return {"unavailable": "the file contradicts itself"}
    except Unstrippable as error:
        return {"unavailable": str(error)}
    (folder / STRIPPED).write_bytes(stripped)
    return {"file": STRIPPED, "changed": stripped != content}
