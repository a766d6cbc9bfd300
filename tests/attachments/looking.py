"""What the bytes of a file are, as the tests ask."""

import tempfile
from pathlib import Path
from typing import Any

from tasks.attachments import identify
from tasks.attachments.content.finding import Content


def look(content: bytes, **options: Any) -> Content:
    """Return what `inspect` says of these bytes, through `parse`."""
    with tempfile.TemporaryDirectory(prefix="roomkeeper-") as folder:
        path = Path(folder) / "content"
        path.write_bytes(content)
        return identify.parse(identify.inspect(path, Path(folder), **options))


def traits(content: bytes, **options: Any) -> dict[str, str]:
    """Return the traits of these bytes, name and detail."""
    return {trait.name: trait.detail for trait in look(content, **options).traits}
