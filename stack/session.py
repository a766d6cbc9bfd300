"""Sessions, in the kernel's sense: how all that one process has started is found after its death.

A session's number is the process id of its leader and is not given out again while a member lives; so what
carries it belonged to that leader, unless all have died since and the number went to a stranger. That is
why each member must also show the state directory's path.
"""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from stack.processes import POLL_SECONDS, Pause

_PROC = Path("/proc")


def members(session: int, directory: Path) -> list[int]:
    """Return the living processes of `session` that work for the state directory `directory`."""
    marker = os.fsencode(directory.resolve())
    return [
        pid
        for pid in _processes()
        if _session_of(pid) == session and any(marker in trace for trace in _traces(pid))
    ]


def kill(session: int, directory: Path, *, spare: int | None = None) -> None:
    """SIGKILL the members of `session`, but for the process `spare`."""
    for pid in members(session, directory):
        if pid != spare:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def end(session: int, directory: Path, patience_seconds: float, pause: Pause = time.sleep) -> None:
    """End all members of `session`: the leader is asked to end the others; what stays so long is killed."""
    # Without a leader the kernel has told the others already (`processes.bound`).
    if session in members(session, directory):
        with suppress(ProcessLookupError):
            os.kill(session, signal.SIGTERM)
    deadline = time.monotonic() + patience_seconds
    while members(session, directory):
        if time.monotonic() > deadline:
            kill(session, directory)
        pause(POLL_SECONDS)


def working_in(directory: Path) -> list[int]:
    """Return the living processes whose working directory is `directory`."""
    wanted = directory.resolve()
    found = []
    for pid in _processes():
        with suppress(OSError):
            if (_PROC / str(pid) / "cwd").readlink() == wanted:
                found.append(pid)
    return found


def _processes() -> Iterator[int]:
    # Where there is no /proc nothing is found: then a killed starter's leftovers are the user's to end.
    if _PROC.is_dir():
        yield from (int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit())


def _session_of(pid: int) -> int | None:
    try:
        # After the name, which may hold anything: state, parent, process group, session.
        state, _, _, session, *_ = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return None
    # A zombie has ended; only its parent has not looked yet.
    return None if state == "Z" else int(session)


def _traces(pid: int) -> Iterator[bytes]:
    """Yield what tells whose process it is. Programs that retitle themselves overwrite one or the other."""
    process = _PROC / str(pid)
    for name in ("cmdline", "environ"):
        with suppress(OSError):
            yield (process / name).read_bytes()
    with suppress(OSError):
        yield os.fsencode((process / "cwd").readlink())
