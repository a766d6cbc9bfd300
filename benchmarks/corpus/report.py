"""The result: a line, aims, and a table of the families."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks._harness import Aim
from benchmarks.corpus.feed import Outcome
from benchmarks.corpus.judgements import Judgement, judge

#: A smaller family is too small for a share.
LEAST = 150


@dataclass(slots=True)
class Count:
    """What became of the files of one family."""

    fed: int = 0
    preview: int = 0
    plain: int = 0
    wrongly_refused: int = 0
    wrongly_served: int = 0
    refused: Counter[str] = field(default_factory=Counter)

    @property
    def share(self) -> float:
        """The wrongly refused, in percent."""
        return 100 * self.wrongly_refused / max(self.fed, 1)

    def add(self, outcome: Outcome, judgements: Iterable[Judgement]) -> None:
        """Count one file."""
        verdict = judge(outcome, judgements)
        self.fed += 1
        self.preview += outcome.served and outcome.preview
        self.plain += outcome.served and not outcome.preview
        self.wrongly_refused += verdict == "wrongly refused"
        self.wrongly_served += verdict == "wrongly served"
        if not outcome.served:
            self.refused[outcome.reason] += 1


def count(outcomes: Iterable[Outcome], judgements: list[Judgement]) -> dict[str, Count]:
    """Return the counts of each family, and of all under `all`."""
    counts: dict[str, Count] = {}
    everything = Count()
    for outcome in outcomes:
        counts.setdefault(outcome.file.family, Count()).add(outcome, judgements)
        everything.add(outcome, judgements)
    return dict(sorted(counts.items())) | {"all": everything}


def line(store: str, counts: dict[str, Count]) -> str:
    """Return the result of one store in a few words."""
    found = counts["all"]
    return (
        f"{store}: {found.wrongly_refused} of {found.fed} files wrongly refused ({found.share:.2f} %),"
        f" {found.wrongly_served} wrongly served, {found.preview} with preview"
    )


def aims(store: str, counts: dict[str, Count]) -> tuple[Aim, ...]:
    """Return what is to be reached."""
    large = [one.share for name, one in counts.items() if name != "all" and one.fed >= LEAST]
    return (
        Aim(f"wrongly refused of all, %, {store}", counts["all"].share, 0.2, at_most=True),
        Aim(f"of the worst family, %, {store}", max(large, default=None), 0.5, at_most=True),
        Aim(f"wrongly served, {store}", counts["all"].wrongly_served, 0, at_most=True),
    )


def show(store: str, counts: dict[str, Count]) -> None:
    """Print the table of the families to standard error: standard output has one line."""
    table = Table(title=f"Corpus, store {store}", title_justify="left")
    columns = (
        "family",
        "fed",
        "preview",
        "no preview",
        "refused",
        "wrongly",
        "%",
        "wrongly served",
        "reasons",
    )
    for column in columns:
        table.add_column(column, justify="left" if column in ("family", "reasons") else "right")
    for name, one in counts.items():
        table.add_row(
            name,
            f"{one.fed:,}",
            f"{one.preview:,}",
            f"{one.plain:,}",
            f"{one.refused.total():,}",
            f"{one.wrongly_refused:,}",
            f"{one.share:.2f}",
            f"{one.wrongly_served:,}",
            ", ".join(f"{reason} {number}" for reason, number in one.refused.most_common()),
        )
    Console(stderr=True, highlight=False, width=150).print(table)


def listed(outcomes: Iterable[Outcome], judgements: list[Judgement], file: Path) -> None:
    """Write one line for each file, columns separated by tabs.

    Whether it is right what became of it, family, `source/path`, declared type, what became of it, reason,
    detail, the row's type afterwards.
    """
    lines = (
        (
            judge(one, judgements),
            one.file.family,
            one.file.key,
            one.file.declared,
            ("served with preview" if one.preview else "served") if one.served else "refused",
            one.reason or "-",
            " ".join(one.detail.split()) or "-",
            one.media_type,
        )
        for one in outcomes
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join("\t".join(line) + "\n" for line in sorted(lines)), encoding="utf-8")
