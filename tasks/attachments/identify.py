"""The real type of a file's content, by libmagic."""

from functools import lru_cache
from pathlib import Path

import magic

# First: it puts the libmagic that it carries where `magic` looks.
import pylibmagic  # noqa: F401  # isort: split


@lru_cache(maxsize=1)
def _libmagic() -> "magic.Magic":
    return magic.Magic(mime=True)


def content_type(path: Path) -> str:
    """Return the media type of the file's content, `application/octet-stream` for an unknown one."""
    return str(_libmagic().from_file(str(path)))
