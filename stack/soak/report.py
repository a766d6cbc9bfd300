"""What came of a soak: a table to be kept, and what is wrong."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from stack.programs import PROGRAMS
from stack.soak.disturbances import Disturbance
from stack.soak.watch import GROWTH, Silence

#: Less growth than this is none, in MiB.
NOTICED_MIB = 50
#: How many of a list have room in a row.
_SHOWN = 12


@dataclass(frozen=True, slots=True)
class Outcome:
    """All that a soak has found.

    Attributes:
        begun: the disturbances, with the second at which each began.
        sent: by kind, how many things were committed.
        refused: by error, how often a server refused a service, which then sent nothing.
        lost: what was not as it must be at the end.
        never_begun: the disturbances that were never possible.
        memory: by program, its median in MiB in the second quarter of the time, and in the last.
        audits: by rollup, what its audit has found; empty where all agrees.
        faults_at_the_end: of `check`, when all was calm again.
    """

    seconds: float
    seed: int
    begun: Sequence[tuple[float, Disturbance]]
    sent: Mapping[str, int]
    refused: Mapping[str, int]
    lost: Sequence[str]
    silence: Silence
    never_begun: Sequence[str]
    memory: Mapping[str, tuple[float, float]]
    audits: Mapping[str, str]
    faults_at_the_end: Sequence[str]

    def problems(self) -> list[str]:
        """Return what is wrong, a sentence each."""
        return [
            *self.lost,
            *self.silence.problems,
            *self.silence.never_named(),
            *(f"never possible: {name}" for name in self.never_begun),
            *(
                f"{name} grew from {first:.0f} to {last:.0f} MiB"
                for name, (first, last) in self.memory.items()
                # The servers' memory grows with their data, and begins anew when they are killed.
                if name in PROGRAMS and last > GROWTH * first and last - first > NOTICED_MIB
            ),
            *(f"rollup audit {name}: {found}" for name, found in self.audits.items() if found),
            *(f"check at the end: {fault}" for fault in self.faults_at_the_end),
        ]

    def table(self) -> str:
        """Return it as a table in Markdown."""
        return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in self._rows())])

    def _rows(self) -> Iterable[tuple[str, str]]:
        yield "duration", f"{self.seconds / 60:g} minutes"
        yield "seed", str(self.seed)
        moments: dict[str, list[str]] = {}
        for at, one in self.begun:
            lasts = f" for {one.seconds:.0f} s" if one.seconds else ""
            moments.setdefault(f"{one.name}{lasts}", []).append(f"{at:.0f}")
        for name, times in moments.items():
            yield name, f"at {', '.join(times)} s"
        yield "sent", ", ".join(f"{number:,} {name}" for name, number in self.sent.items())
        yield (
            "refused to services",
            ", ".join(f"{number} × {name}" for name, number in self.refused.items()) or "nothing",
        )
        yield "lost", _list(self.lost)
        yield "silent without the right cause", _list(self.silence.problems)
        for kind, seconds in self.silence.longest.items():
            yield f"longest without progress: {kind}", f"{seconds:.0f} s"
        for name, (checks, names) in self.silence.during.items():
            yield f"check during: {name}", f"named in {names} of {checks} runs"
        for fault, number in Counter(self.silence.faults).most_common(_SHOWN):
            yield "check printed", f"{fault} ({number} times)"
        for name, (first, last) in self.memory.items():
            yield f"memory of {name}", f"{first:.0f} MiB, at the end {last:.0f} MiB"
        wrong = [name for name, found in self.audits.items() if found]
        agree = f"{len(self.audits) - len(wrong)} of {len(self.audits)} rollups agree"
        yield "audits", f"{agree}; not: {', '.join(wrong)}" if wrong else agree
        yield "check at the end", _list(self.faults_at_the_end)


def _list(found: Sequence[str]) -> str:
    if not found:
        return "nothing"
    rest = len(found) - _SHOWN
    return "; ".join(found[:_SHOWN]) + (f"; and {rest} more" if rest > 0 else "")
