"""The `roomkeeper` command in this process, where one of its own would only take seconds."""

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass

from commands.main import main
from tests.platform import Platform, environment


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def faults(self) -> list[tuple[str, str]]:
        """What it complains of: each fault's sentence and advice."""
        lines = (self.out + self.err).splitlines()
        return [
            (line.removeprefix("✗ "), advice.strip())
            for line, advice in zip(lines, [*lines[1:], ""], strict=True)
            if line.startswith("✗ ")
        ]


def roomkeeper(*arguments: str) -> Outcome:
    """Run `roomkeeper ARGUMENTS` with this process's environment. An exception that it lets through fails."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with _arguments(arguments), redirect_stdout(out), redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(bool(end.code))
    return Outcome(code, out.getvalue(), err.getvalue())


def on(platform: Platform, *arguments: str) -> Outcome:
    """Run `roomkeeper ARGUMENTS` with the platform's settings as they are now."""
    names = ("DATABASE_URL", "ROOMKEEPER_")
    ours = {name: value for name, value in platform.environment.items() if name.startswith(names)}
    with environment(ours):
        return roomkeeper(*arguments)


@contextmanager
def _arguments(arguments: tuple[str, ...]) -> Iterator[None]:
    before = sys.argv
    sys.argv = ["roomkeeper", *arguments]
    try:
        yield
    finally:
        sys.argv = before
