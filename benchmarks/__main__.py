"""Runs benchmarks one after the other, each in a process of its own; prints a table of their aims at the end.

    python -m benchmarks [NAME...]

All of them if none is named. The exit code is 1 if one did not run; an aim that does not hold is only shown:
on a busy machine that says little.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import names
from benchmarks._harness import AIMS_FILE, Aim, read_aims


def _run(name: str) -> list[Aim] | None:
    """Run one; return its aims, or None if it ended badly."""
    with tempfile.TemporaryDirectory(prefix="roomkeeper-benchmark-") as folder:
        file = Path(folder) / "aims"
        environment = os.environ | {AIMS_FILE: str(file)}
        done = subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], env=environment, check=False)
        return read_aims(file) if done.returncode == 0 else None


def show(found: dict[str, list[Aim] | None]) -> None:
    """Print the aims of each benchmark; None stands for one that did not run."""
    table = Table(title="Aims", title_justify="left")
    for column in ("benchmark", "measured", "aim", "holds"):
        table.add_column(column, justify="left" if column == "benchmark" else "right")
    for name, aims in found.items():
        if aims is None:
            table.add_row(name, "did not run", "", "", style="red")
        for aim in aims or ():
            table.add_row(
                f"{name}: {aim.name}",
                "–" if aim.measured is None else f"{aim.measured:,.4g}",
                f"{'≤' if aim.at_most else '≥'} {aim.aim:,.4g}",
                {True: "yes", False: "no", None: "–"}[aim.holds],
                style="red" if aim.holds is False else "",
            )
    Console(highlight=False, width=110).print(table)


def main(arguments: list[str]) -> int:
    known = names()
    if unknown := [name for name in arguments if name not in known]:
        sys.stderr.write(f"{', '.join(unknown)}: no such benchmark; there are {', '.join(known)}.\n")
        return 2
    found = {name: _run(name) for name in arguments or known}
    show(found)
    return 1 if None in found.values() else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
