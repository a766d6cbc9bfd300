"""Ctrl-C and SIGTERM: taken note of always, acted upon only where nothing is half done."""

import os
import select
import signal
from types import FrameType, TracebackType
from typing import Any, Self


class Interrupted(SystemExit):
    """SIGINT or SIGTERM asked us to end. Uncaught, it ends the process with 130 or 143, as a shell has it."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(128 + number)
        self.signal = number


class Interrupts:
    """Takes over SIGINT and SIGTERM in a `with` block, in the main thread."""

    def __init__(self) -> None:
        #: How many have arrived.
        self.count = 0
        #: Whether the first one is raised wherever the program is, as Python does it with Ctrl-C.
        self.at_once = False
        self._first: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}
        self._pipe: tuple[int, int] | None = None

    def __enter__(self) -> Self:
        self._pipe = os.pipe()
        os.set_blocking(self._pipe[1], False)
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._take)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        for end in self._pipe or ():
            os.close(end)
        self._pipe = None

    def check(self) -> None:
        """Go on if none has arrived.

        Raises:
            Interrupted: one has.
        """
        if self._first is not None:
            raise Interrupted(self._first)

    def pause(self, seconds: float) -> None:
        """Sleep, but wake at once when one arrives.

        Raises:
            Interrupted: one has arrived, now or before.
        """
        self.check()
        if self._pipe:
            select.select([self._pipe[0]], [], [], seconds)
        self.check()

    def _take(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - a handler's signature
        self.count += 1
        if self._first is not None:
            return
        self._first = signal.Signals(number)
        if self._pipe:
            os.write(self._pipe[1], b"!")
        if self.at_once:
            raise Interrupted(self._first)
