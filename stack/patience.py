"""Waiting without a fixed limit: as long as there is progress, and never in silence."""

import time
from collections.abc import Callable

#: How often a wait is reported.
REPORT_SECONDS = 10.0
#: How long nothing at all may happen. The slowest step that shows nothing is a start on a machine that swaps.
STILL_SECONDS = 180.0


class Patience:
    """The clock of one wait.

    Args:
        still_seconds: how long there may be no progress.
        report_seconds: how often the wait is to be reported.
        clock: returns seconds that only grow.
    """

    def __init__(
        self,
        still_seconds: float = STILL_SECONDS,
        report_seconds: float = REPORT_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._still_seconds = still_seconds
        self._report_seconds = report_seconds
        self._clock = clock
        self._began = self._progressed = self._reported = clock()

    def progress(self) -> None:
        """Note that something has happened."""
        self._progressed = self._clock()

    def exhausted(self) -> bool:
        """Return whether nothing has happened for too long."""
        return self._clock() - self._progressed > self._still_seconds

    def report_due(self) -> bool:
        """Return whether it is time to report the wait again; true once each time."""
        if self._clock() - self._reported < self._report_seconds:
            return False
        self._reported = self._clock()
        return True

    @property
    def still_seconds(self) -> float:
        """How long there may be no progress."""
        return self._still_seconds

    @property
    def seconds(self) -> float:
        """How long the wait has lasted."""
        return self._clock() - self._began
