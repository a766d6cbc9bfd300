"""What it takes to run a server, for the supervised local stack or for a test."""

import signal
from pathlib import Path
from typing import Protocol

from stack.processes import RunCommand, run


class Server(Protocol):
    """A server that runs in the foreground. Holds no process: it says how to start one and how to ask it."""

    @property
    def name(self) -> str:
        """What people and log files call it."""

    @property
    def directory(self) -> Path:
        """Where everything that it writes is."""

    @property
    def address(self) -> str:
        """Where clients find it, as the settings want it."""

    @property
    def command(self) -> tuple[str, ...]:
        """The command line; the process that it starts is the server itself, not a wrapper."""

    @property
    def stop_signal(self) -> signal.Signals:
        """The signal that ends it in good order, without waiting for its clients."""

    def prepare(self, run: RunCommand = run) -> None:
        """Make everything that it needs before it starts; again is harmless.

        Raises:
            StackError: it cannot run here; the message says what to type.
        """

    def ready(self) -> bool:
        """Ask it, for about a second at most, whether it serves."""
