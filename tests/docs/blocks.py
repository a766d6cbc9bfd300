"""The code blocks of README.md and docs/.

A comment on the line before a block says what it is: `<!-- run: NAME -->` for one that a test runs, which
fetches it as `block("NAME")`; `<!-- sketch -->` for output and for what no test can run. Shell commands
without a comment are parsed by the real command line.
"""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SKETCH = "sketch"
_BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>sketch|run: [\w-]+) -->\n)?^```(?P<language>[a-z]*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced code block.

    Attributes:
        place: file and line, for messages.
        name: by which a test fetches it; 'sketch' for one that is not run; empty for others.
    """

    place: str
    language: str
    name: str
    text: str


@cache
def blocks() -> tuple[Block, ...]:
    """Return all blocks of all documents."""
    return tuple(found for document in DOCUMENTS for found in _blocks(document))


def block(name: str) -> str:
    """Return the text of the block that is marked `<!-- run: NAME -->`."""
    (found,) = [each for each in blocks() if each.name == name]
    return found.text


def statements(name: str, **values: object) -> list[str]:
    """Return the SQL statements of a block, with psql's variables `:'name'` replaced by literals."""

    def literal(match: re.Match[str]) -> str:
        return f"'{values[match[1]]}'"

    text = re.sub(r":'(\w+)'", literal, block(name))
    return [statement.strip() for statement in text.split(";") if statement.strip()]


def _blocks(document: Path) -> list[Block]:
    text = document.read_text()
    return [
        Block(
            f"{document.relative_to(ROOT)}:{text.count(chr(10), 0, match.start('language')) + 1}",
            match["language"],
            (match["mark"] or "").removeprefix("run: "),
            match["text"],
        )
        for match in _BLOCK.finditer(text)
    ]
