"""The real type of a file's content, by libmagic."""

from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any


@lru_cache(maxsize=1)
def _libmagic() -> Any:
    # In this order: `pylibmagic` carries the library and makes `magic` find it and not the machine's own,
    # which may be absent, or another version that does not understand the database beside this one.
    database = import_module("pylibmagic").data / "magic.mgc"
    return import_module("magic").Magic(mime=True, magic_file=str(database))


def content_type(path: Path) -> str:
    """Return the media type of the file's content, `application/octet-stream` for an unknown one."""
    found = str(_libmagic().from_file(str(path)))
    if found == "application/octet-stream":
        with path.open("rb") as file:
            head = file.read(4)
        if head == b"PK\x03\x04":
            # libmagic gives up on office documents whose main part comes late in the archive.
            return "application/zip"
        if len(head) == 1 and (head.isspace() or head.decode("latin-1").isprintable()):
            # And on a single letter.
            return "text/plain"
    return found
