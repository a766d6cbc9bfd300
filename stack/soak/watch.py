"""Observes the stack while it is disturbed: what `roomkeeper check` prints, progress, and memory."""

import re
import subprocess
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from stack.group import LocalStack
from stack.programs import PROGRAMS, roomkeeper
from stack.soak.disturbances import SERVERS, Disturbance

#: After this long without progress `check` must name the cause.
SILENT_SECONDS = 60.0
#: How often `check` runs.
EVERY_SECONDS = 10.0
#: By kind of work, what a fault must name to be the cause of its silence, where no disturbance says it.
CAUSES = {
    "files": r"attachments|scanner|[Ss]tore|broker|database|work files|decoded",
    "calls with statuses": r"delivery|broker|database",
    "periodic jobs": r"maintenance|beat|broker|database|not run",
}
#: The most seconds that count from one look to the next.
COUNTED_SECONDS = 1.5 * EVERY_SECONDS
#: Memory at the end may be so many times the memory after the start.
GROWTH = 1.3


@dataclass(slots=True)
class Check:
    """One run of `roomkeeper check`.

    Attributes:
        at: when it began, in seconds from the beginning of the soak.
        faults: the sentences of its faults; warnings are left out.
        in_force: the disturbances that were in force when it began.
    """

    at: float
    faults: list[str]
    in_force: list[Disturbance] = field(default_factory=list)


class Checks:
    """Runs `roomkeeper check` again and again, beside the traffic."""

    def __init__(self, stack: LocalStack) -> None:
        self._stack = stack
        self._due = 0.0
        self._process: subprocess.Popen[str] | None = None
        self._begun = Check(0, [])

    def poll(self, now: float, in_force: list[Disturbance]) -> Check | None:
        """Return what the run that has ended has found, if one has; start the next when it is due."""
        found = None
        if self._process is not None and self._process.poll() is not None:
            found, self._process = self._read(self._process), None
        if self._process is None and now >= self._due:
            self._begun, self._due = Check(now, [], in_force), now + EVERY_SECONDS
            self._process = subprocess.Popen(
                roomkeeper(("check",)),
                env=self._stack.environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        return found

    def _read(self, process: "subprocess.Popen[str]") -> Check:
        # Some kilobytes at most: the pipes hold them.
        out, error = process.communicate()
        self._begun.faults = re.findall(r"^✗ (.*)$", out, re.MULTILINE)
        if process.returncode and not self._begun.faults:
            self._begun.faults = (error or out).strip().splitlines()[-1:]
        return self._begun


@dataclass(slots=True)
class Work:
    """What is done of one kind of work: `done` counts up, by whatever; `waiting` is left to do."""

    done: int
    waiting: int


@dataclass(slots=True)
class _Still:
    done: int = -1
    seconds: float = 0.0


@dataclass(slots=True)
class Silence:
    """Work that stands still, and whether its cause was named in time.

    Attributes:
        problems: what was silent without the right cause.
        longest: by kind of work, the most seconds that nothing of it was done though some waited.
        during: by disturbance, how many checks ran while it was in force, and how many of them named it.
        faults: how often `check` has printed each, numbers left out.
    """

    problems: list[str] = field(default_factory=list)
    longest: dict[str, float] = field(default_factory=dict)
    during: dict[str, tuple[int, int]] = field(default_factory=dict)
    faults: Counter[str] = field(default_factory=Counter)
    _still: dict[str, _Still] = field(default_factory=dict)
    _looked: float = 0.0

    def look(self, found: Check, works: Mapping[str, Work], in_force: Collection[Disturbance]) -> None:
        """With work waiting and none done for a minute, `check` must have a fault, and the right one.

        A look counts for no more than its usual time: on a machine that is so slow that it takes longer,
        work is slow as well.

        Args:
            works: by kind of work.
            in_force: the disturbances that are in force now.
        """
        passed = min(found.at - self._looked, COUNTED_SECONDS)
        self._looked = found.at
        self.faults.update({re.sub(r"\d[\d,.:-]*", "#", fault) for fault in found.faults})
        expected = [one for one in in_force if one.check is not None and one in found.in_force]
        named = [one for one in expected if any(re.search(one.check or "", fault) for fault in found.faults)]
        for one in expected:
            checks, names = self.during.get(one.name, (0, 0))
            self.during[one.name] = (checks + 1, names + (one in named))
        for kind, work in works.items():
            still = self._still.setdefault(kind, _Still())
            if work.done > still.done or not work.waiting:
                still.done, still.seconds = max(work.done, still.done), 0.0
                continue
            still.seconds += passed
            self.longest[kind] = max(self.longest.get(kind, 0.0), still.seconds)
            if still.seconds < SILENT_SECONDS:
                continue
            cause = CAUSES.get(kind, "")
            if named or (not expected and any(re.search(cause, fault) for fault in found.faults)):
                # When the cause is over, it has a minute to go on.
                still.seconds = 0.0
                continue
            causes = ", ".join(one.name for one in in_force) or "nothing in force"
            self.problems.append(
                f"at {found.at:.0f} s: {work.waiting} {kind} wait, none done for {still.seconds:.0f} s "
                f"({causes}); check: {'; '.join(found.faults) or 'no fault'}"
            )

    def never_named(self) -> list[str]:
        """Return the disturbances that no check has named, though one had the time."""
        return [
            f"check never named: {name} (in {checks} runs)"
            for name, (checks, names) in self.during.items()
            if not names and checks
        ]


class Memory:
    """The memory of each program with its children, in MiB of proportional set size."""

    def __init__(self) -> None:
        self._samples: dict[str, list[float]] = {name: [] for name in (*PROGRAMS, *SERVERS)}

    def sample(self, stack: LocalStack) -> None:
        """Take one sample of every program that runs."""
        for name, samples in self._samples.items():
            try:
                samples.append(sum(_pss_kib(pid) for pid in _tree(stack.pid(name))) / 1024)
            except OSError:
                # It is being restarted.
                continue

    def report(self) -> dict[str, tuple[float, float]]:
        """Return the median of the second quarter and of the last quarter of the samples, by program."""
        found = {}
        for name, samples in self._samples.items():
            if len(samples) >= 8:
                quarter = len(samples) // 4
                found[name] = (median(samples[quarter : 2 * quarter]), median(samples[-quarter:]))
        return found


def _tree(pid: int) -> list[int]:
    """Return a process and all its descendants."""
    children = [
        int(child)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text(encoding="ascii").split()
    ]
    return [pid, *(one for child in children for one in _tree(child))]


def _pss_kib(pid: int) -> int:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    return sum(int(size) for size in re.findall(r"^Pss: +(\d+) kB$", rollup, re.MULTILINE))
