"""Processes: bound to the one that starts them, and run to their end."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache

from stack.errors import StackError

#: How often a fact is polled that is not announced, in seconds.
POLL_SECONDS = 0.03
_LAST_LINES = 15

#: Sleeps for so many seconds; raises to make the waiting end.
Pause = Callable[[float], None]
#: Runs a command to its end; raises `StackError` if it fails.
RunCommand = Callable[[Sequence[str]], None]


@cache
def _setpriv() -> str | None:
    return shutil.which("setpriv")


def bound(to_end: signal.Signals) -> tuple[str, ...]:
    """Return the prefix of a command that gets the signal `to_end` when the process that started it dies.

    The kernel sends it, so that even SIGKILL of the starter leaves nothing behind, but for the first
    milliseconds of the command. It goes by the starting thread: start such commands from one that lasts.
    """
    setpriv = _setpriv()
    # Without util-linux the stack still runs; then only the next start clears up after a killed one.
    return (setpriv, "--pdeathsig", to_end.name.removeprefix("SIG"), "--") if setpriv else ()


def run(command: Sequence[str], *, pause: Pause = time.sleep) -> None:
    """Run `command` to its end.

    It has a process group of its own, so that Ctrl-C reaches only us; if `pause` raises, the group is killed.

    Raises:
        StackError: it cannot be run or ended with a code other than 0; the message gives its last lines.
    """
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(
                [*bound(signal.SIGKILL), *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise StackError(f"{command[0]} cannot be run: {error.strerror}.") from error
        try:
            while process.poll() is None:
                pause(POLL_SECONDS)
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if process.returncode:
            output.seek(0)
            output_end = last_lines(output.read().decode(errors="replace"))
            raise StackError(f"`{' '.join(command)}` ended with {ending(process.returncode)}:\n{output_end}")


def ending(code: int) -> str:
    """Say how a process ended, from its return code: `code 1`, `SIGKILL`."""
    return f"code {code}" if code >= 0 else signal.Signals(-code).name


def last_lines(text: str) -> str:
    """Return the end of a log, enough to see what went wrong."""
    return "\n".join(text.rstrip().splitlines()[-_LAST_LINES:])
