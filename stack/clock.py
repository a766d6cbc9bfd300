"""Programs whose wall clock is wrong: by a small library that a C compiler makes (`clock.c`).

libfaketime would be the known way; see docs/decisions.md. Programs in Go do not go by the C library.
"""

import os
import subprocess
from pathlib import Path

from stack.errors import StackError

_SOURCE = Path(__file__).with_name("clock.c")


def build(library: Path) -> None:
    """Compile the library that moves the clock.

    Raises:
        StackError: there is no C compiler, or it fails; the message says what to type.
    """
    options = ["-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    command = [os.environ.get("CC", "cc"), *options, "-o", str(library), str(_SOURCE), "-ldl"]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    except OSError as error:
        raise StackError("A C compiler is missing; type: sudo apt-get install gcc libc6-dev") from error
    if done.returncode:
        raise StackError(f"The library that moves the clock cannot be compiled:\n{done.stderr}")


class Clocks:
    """Wall clocks that can be stepped while their programs run; the monotonic clock is left alone.

    Args:
        directory: where the library is built, and the clock of each program is kept; made if it is missing.

    Raises:
        StackError: see `build`.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory.resolve()
        self._directory.mkdir(parents=True, exist_ok=True)
        self._library = self._directory / "clock.so"
        build(self._library)

    def environment(self, program: str) -> dict[str, str]:
        """Return the variables by which a program has a clock of its own, right at first."""
        self.set(program, 0)
        return {"LD_PRELOAD": str(self._library), "CLOCK_FILE": str(self._file(program))}

    def set(self, program: str, seconds: int) -> None:
        """Set the clock of a program, and of all its children, so many seconds ahead of the right time."""
        # Written in place: the programs have it mapped.
        file = os.open(self._file(program), os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.pwrite(file, seconds.to_bytes(8, "little", signed=True), 0)
        finally:
            os.close(file)

    def _file(self, program: str) -> Path:
        return self._directory / program
