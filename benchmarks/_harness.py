"""What all benchmarks share: two sizes, one line of output, and aims as data."""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

#: With BENCHMARK_SIZE=tiny a benchmark only shows that it works; its numbers mean nothing.
TINY = os.environ.get("BENCHMARK_SIZE") == "tiny"
#: The file that a benchmark writes its aims to, as JSON, if the variable names one.
AIMS_FILE = "BENCHMARK_AIMS"


def sized(full: T, tiny: T) -> T:
    """Return the one of two sizes that is asked for."""
    return tiny if TINY else full


@dataclass(frozen=True, slots=True)
class Aim:
    """What a benchmark should reach.

    Attributes:
        name: what is measured, with its unit.
        measured: None where it could not be: what it is compared with is missing.
        aim: the limit.
        at_most: whether less is better.
    """

    name: str
    measured: float | None
    aim: float
    at_most: bool = False

    @property
    def holds(self) -> bool | None:
        """Whether it is reached; None if it was not measured."""
        if self.measured is None:
            return None
        return self.measured <= self.aim if self.at_most else self.measured >= self.aim


@dataclass(frozen=True, slots=True)
class Result:
    """What a benchmark prints, and its aims."""

    line: str
    aims: tuple[Aim, ...]


def run(measure: Callable[[], Result]) -> None:
    """Measure, print the line, and write the aims where they are wanted."""
    result = measure()
    sys.stdout.write(f"{result.line}\n")
    if file := os.environ.get(AIMS_FILE):
        Path(file).write_text(json.dumps([asdict(aim) for aim in result.aims]), encoding="utf-8")


def read_aims(file: Path) -> list[Aim]:
    """Return the aims that a benchmark has written."""
    return [Aim(**fields) for fields in json.loads(file.read_text(encoding="utf-8"))]
