"""Whether programs make progress, by what the machine shows: their logs, CPU time, and disk traffic."""

import os
import re
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

#: Less than this is what a program that waits for something uses: a twentieth of one processor, or this much
#: disk traffic a second.
_CPU_SHARE = 0.05
_DISK_BYTES = 64 * 1024
_LONGEST_LINE = 200
_TICKS = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")


class ProgramProgress:
    """Compares what programs have done with what they had done before.

    Args:
        logs: their logs, from their present ends on; a log may still be missing.
    """

    def __init__(self, logs: Sequence[Path]) -> None:
        self._ends = {log: _size(log) for log in logs}
        self._seen: set[bytes] = set()
        self._since = time.monotonic()
        self._cpu: float | None = None
        self._disk = 0
        #: The last line that was written, for people.
        self.last_line = ""

    def made(self, programs: Iterable[int]) -> bool:
        """Return whether there was progress since it was last made.

        A line counts only if there was none like it before, its numbers aside: who tries in vain says so each
        time.

        Args:
            programs: process ids of the programs; their descendants count as theirs.
        """
        now, fresh = time.monotonic(), self._new_lines()
        family = _family(programs)
        cpu, disk = sum(map(_cpu_seconds, family)), sum(map(_disk_bytes, family))
        # A program that was started again begins at nothing.
        if self._cpu is None or cpu < self._cpu or disk < self._disk:
            self._cpu, self._disk, self._since = cpu, disk, now
            return fresh
        elapsed = now - self._since
        used = cpu - self._cpu > max(_CPU_SHARE * elapsed, 1 / _TICKS)
        if fresh or used or disk - self._disk > _DISK_BYTES * max(elapsed, 1):
            self._cpu, self._disk, self._since = cpu, disk, now
            return True
        return False

    def _new_lines(self) -> bool:
        fresh = False
        for log, end in self._ends.items():
            # Rotated, perhaps.
            start = end if end <= _size(log) else 0
            with suppress(OSError), log.open("rb") as file:
                file.seek(start)
                whole, newline, _ = file.read().rpartition(b"\n")
                self._ends[log] = start + len(whole + newline)
                for line in filter(None, map(bytes.strip, whole.splitlines())):
                    self.last_line = line.decode(errors="replace")[:_LONGEST_LINE]
                    kind = re.sub(rb"[0-9a-f]*\d[0-9a-f]*", b"0", line)
                    fresh |= kind not in self._seen
                    self._seen.add(kind)
        return fresh


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _family(programs: Iterable[int]) -> set[int]:
    """Return the programs that live, and their descendants."""
    children: dict[int, list[int]] = {}
    for entry in _PROC.iterdir() if _PROC.is_dir() else ():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found: set[int] = set()
    todo = list(programs)
    while todo:
        found.add(pid := todo.pop())
        todo += children.get(pid, [])
    return found


def _stat(pid: int) -> list[str] | None:
    """Return what follows the name, which may hold anything: state, parent, …"""
    try:
        return (_PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None


def _cpu_seconds(pid: int) -> float:
    fields = _stat(pid)
    # Its own, and that of children that have ended.
    return sum(map(int, fields[11:15])) / _TICKS if fields else 0.0


def _disk_bytes(pid: int) -> int:
    try:
        lines = (_PROC / str(pid) / "io").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith(("read_bytes", "write_bytes")))
