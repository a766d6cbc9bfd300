"""Measurements beside a peer or a limit: each module is one, and prints one line."""

from pathlib import Path


def names() -> list[str]:
    """Return the names of all benchmarks: the modules of this folder, but for those that begin with `_`."""
    return sorted(file.stem for file in Path(__file__).parent.glob("[!_]*.py"))
