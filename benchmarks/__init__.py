"""Measurements beside a peer or a limit: each module or package is one, and prints one line."""

from pathlib import Path


def names() -> list[str]:
    """Return the names of all benchmarks: modules and packages here, but for those that begin with `_`."""
    here = Path(__file__).parent
    return sorted(
        [file.stem for file in here.glob("[!_]*.py")]
        + [file.parent.name for file in here.glob("[!_]*/__main__.py")]
    )
