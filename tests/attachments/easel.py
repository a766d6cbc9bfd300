"""Where a test has one file drawn, outside the sandbox, and opens what came of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

#: Pixels.
LIMIT = 64_000_000


class Easel:
    """Has `draw(source, folder, max_pixels)` draw files, and opens what was drawn."""

    def __init__(self, folder: Path, draw: Callable[[Path, Path, int], dict[str, Any]]) -> None:
        self.source, self.folder = folder / "source", folder / "out"
        self.folder.mkdir()
        self._draw = draw

    def draw(self, content: bytes, max_pixels: int = LIMIT) -> dict[str, Any]:
        self.source.write_bytes(content)
        answer = self._draw(self.source, self.folder, max_pixels)
        drawn = {picture["file"] for picture in answer.get("pictures", {}).values()}
        assert {path.name for path in self.folder.iterdir()} == drawn
        return answer

    def large(self) -> Image.Image:
        with Image.open(self.folder / "large.webp") as picture:
            picture.load()
            return picture
