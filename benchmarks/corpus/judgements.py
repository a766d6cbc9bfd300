"""Which files may be refused, and for which reasons: `judgements.toml`. All others must be served."""

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from benchmarks.corpus.feed import Outcome

FILE = Path(__file__).with_name("judgements.toml")
Verdict = Literal["right", "wrongly refused", "wrongly served"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What is right for files of one class.

    Attributes:
        name: of the class.
        outcome: `refused`: must not be served; `either`: may be refused.
        reasons: the only ones for which a refusal is right.
        why: why that is right.
        files: patterns of `source/path`, in which `*` stands for slashes, too.
    """

    name: str
    outcome: Literal["refused", "either"]
    reasons: tuple[str, ...]
    why: str
    files: tuple[str, ...] = field(default=())

    def covers(self, key: str) -> bool:
        """Return whether a file is of this class."""
        return any(fnmatchcase(key, pattern) for pattern in self.files)


def load() -> list[Judgement]:
    """Return the classes of files that may be refused."""
    with FILE.open("rb") as file:
        records = tomllib.load(file)["class"]
    return [Judgement(**record) for record in records]


def judge(outcome: Outcome, judgements: Iterable[Judgement]) -> Verdict:
    """Return whether it is right what became of a file."""
    of_file = [one for one in judgements if one.covers(outcome.file.key)]
    if outcome.served:
        return "wrongly served" if any(one.outcome == "refused" for one in of_file) else "right"
    return "right" if any(outcome.reason in one.reasons for one in of_file) else "wrongly refused"


def unused(judgements: Iterable[Judgement], keys: Iterable[str]) -> list[str]:
    """Return the patterns that no file of the corpus fits."""
    every = list(keys)
    return [
        pattern
        for one in judgements
        for pattern in one.files
        if not any(fnmatchcase(key, pattern) for key in every)
    ]
