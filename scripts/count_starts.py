"""Counts how often the local stack starts, and how long it takes: on nothing, on kept data, and beside load.

    .venv/bin/python scripts/count_starts.py --fresh 20 --kept 10 --busy 5

Each start prints a line, and each kind a summary; the exit code is 0 only if all came up. The state is in a
temporary folder, so a stack that runs meanwhile is left alone. Starts on kept data find all tables analysed.
"""

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import psycopg

from stack.demo.rollups import RollupDemo
from stack.demo.settings import IMPATIENT
from stack.group import LocalStack
from stack.interrupts import Interrupted

#: Processes that compute beside a busy start.
BUSY = 4


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fresh", type=int, default=20, help="starts on nothing")
    parser.add_argument("--kept", type=int, default=10, help="starts on the data of the one before, analysed")
    parser.add_argument("--busy", type=int, default=5, help=f"starts on nothing beside {BUSY} busy processes")
    numbers = parser.parse_args()
    came_up = []
    with tempfile.TemporaryDirectory(prefix="roomkeeper-starts-") as folder:
        state = Path(folder)
        for kind, number in (("fresh", numbers.fresh), ("kept", numbers.kept), ("busy", numbers.busy)):
            seconds = []
            if kind == "kept" and number:
                # What is kept must be made once; it does not count.
                came_up.append(start(state / "kept", "made") is not None)
            for turn in range(1, number + 1):
                where = state / "kept" if kind == "kept" else state / f"{kind}-{turn}"
                with busy(BUSY if kind == "busy" else 0):
                    took = start(where, f"{kind} {turn}")
                came_up.append(took is not None)
                seconds += [took] if took is not None else []
            if number:
                spread = (
                    f", {min(seconds):.1f} / {median(seconds):.1f} / {max(seconds):.1f} s" if seconds else ""
                )
                say(f"{kind}: {len(seconds)} of {number} came up{spread} (least, median, most)")
    return 0 if all(came_up) else 1


def start(state: Path, name: str) -> float | None:
    """Start the stack in `state` and end it; return the seconds that the start took, None if it failed."""
    waits: list[str] = []
    began = time.monotonic()
    try:
        with LocalStack(
            state, overrides=IMPATIENT, own_signatures=True, furnish=RollupDemo().furnish, say=waits.append
        ) as group:
            took = time.monotonic() - began
            with psycopg.connect(group.environment["DATABASE_URL"], autocommit=True) as connection:
                connection.execute("ANALYZE")
    except Interrupted:
        raise
    except Exception as error:  # noqa: BLE001 - whatever it was, it did not start
        say(f"{name}: FAILED after {time.monotonic() - began:.1f} s: {error}\n  " + "\n  ".join(waits))
        return None
    ready = "; ".join(one.replace(" … ready in", "") for one in waits if " … ready in " in one)
    odd = [one for one in waits if " has ended " in one or one.startswith(("waiting for", "port "))]
    say("\n  ".join([f"{name}: {took:.1f} s ({ready})", *odd]))
    return took


@contextmanager
def busy(number: int) -> Iterator[None]:
    """Have so many processes compute in the `with` block."""
    processes = [multiprocessing.Process(target=compute, daemon=True) for _ in range(number)]
    for one in processes:
        one.start()
    try:
        yield
    finally:
        for one in processes:
            one.kill()
            one.join()


def compute() -> None:
    """Compute for as long as a start may take at most."""
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        sum(range(100_000))


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
