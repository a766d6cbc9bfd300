"""The pieces of code in `docs/ways-in.md`, to be run."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs/ways-in.md"
#: Addresses in the pieces, which a test puts others in the place of.
BROKER, FLOWER = "redis://broker:6379/0", "http://flower:5555"


def section(heading: str) -> str:
    """Return the text below a heading, until the next of any depth."""
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^## |^### |\Z)", _text(), re.MULTILINE | re.DOTALL)
    assert found, f"{PAGE.name} has no heading {heading!r}"
    return found[1]


def snippets(heading: str, language: str) -> list[str]:
    """Return the pieces below a heading in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", section(heading), re.MULTILINE | re.DOTALL)


def rows(heading: str) -> list[list[str]]:
    """Return the rows of the tables below a heading, without their heads."""
    lines = re.findall(r"^\| (.*) \|$", section(heading), re.MULTILINE)
    return [line.split(" | ") for line in lines if not line.startswith("---")]


def _text() -> str:
    return PAGE.read_text()
