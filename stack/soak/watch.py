"""Observes the stack while it is disturbed: what `roomkeeper check` prints, progress, and memory."""

import re
import subprocess
from collections.abc import Iterable
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
#: Memory at the end may be so many times the memory after the start.
GROWTH = 1.3


@dataclass(slots=True)
class Check:
    """One run of `roomkeeper check`.

    Attributes:
        faults: the sentences of its faults; warnings are left out.
    """

    at: float
    faults: list[str]


class Checks:
    """Runs `roomkeeper check` again and again, beside the traffic."""

    def __init__(self, stack: LocalStack) -> None:
        self._stack = stack
        self._began = self._due = 0.0
        self._process: subprocess.Popen[str] | None = None

    def poll(self, now: float) -> Check | None:
        """Return what the run that has ended has found, if one has; start the next when it is due."""
        found = None
        if self._process is not None and self._process.poll() is not None:
            found, self._process = self._read(self._process), None
        if self._process is None and now >= self._due:
            self._began, self._due = now, now + EVERY_SECONDS
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
        faults = re.findall(r"^✗ (.*)$", out, re.MULTILINE)
        if process.returncode and not faults:
            faults = (error or out).strip().splitlines()[-1:]
        return Check(self._began, faults)


@dataclass(slots=True)
class Silence:
    """Work that stands still, and whether its cause was named in time."""

    problems: list[str] = field(default_factory=list)
    _done: int = 0
    _progressed: float = 0.0

    def look(self, found: Check, done: int, waiting: int, in_force: Iterable[Disturbance]) -> None:
        """With files waiting and none finished for a minute, `check` must have a fault, and the right one."""
        if done > self._done or not waiting:
            self._done, self._progressed = max(done, self._done), found.at
        if found.at - self._progressed < SILENT_SECONDS:
            return
        expected = [one for one in in_force if one.check is not None]
        named = [one for one in expected if any(re.search(one.check or "", fault) for fault in found.faults)]
        if not found.faults or (expected and not named):
            causes = ", ".join(one.name for one in in_force) or "nothing in force"
            self.problems.append(
                f"at {found.at:.0f} s: {waiting} files wait, none finished for "
                f"{found.at - self._progressed:.0f} s "
                f"({causes}); check: {'; '.join(found.faults) or 'no fault'}"
            )


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
