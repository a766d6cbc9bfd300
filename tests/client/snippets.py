"""The tables of `docs/enqueue.md`, and the URLs in its code."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs/enqueue.md"
#: URLs in the code, which a test replaces by those of its servers.
BROKER, FLOWER = "redis://broker:6379/0", "http://flower:5555"


def section(heading: str) -> str:
    """Return the text below a heading, until the next of any depth."""
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^## |^### |\Z)", _text(), re.MULTILINE | re.DOTALL)
    assert found, f"{PAGE.name} has no heading {heading!r}"
    return found[1]


def rows(heading: str) -> list[list[str]]:
    """Return the rows of the tables below a heading, without their heads."""
    lines = re.findall(r"^\| (.*) \|$", section(heading), re.MULTILINE)
    return [line.split(" | ") for line in lines if not line.startswith("---")]


def _text() -> str:
    return PAGE.read_text()
