"""The broker's clock: the one by which all processes of the platform can agree on a moment.

The clocks of two hosts differ. A message of a host that is ten minutes behind would have expired when it
arrives, and so would every message of its beat; a worker whose clock is ahead would take others' messages for
abandoned. So what a message says of time is said by the broker's clock, and read by it.
"""

import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

import structlog
from celery.utils.time import maybe_iso8601

log = structlog.get_logger(__name__)

#: A clock that differs by less is not worth a warning, in seconds.
NOTICED_SECONDS = 5.0
#: The header of messages whose moments are by the broker's clock. Foreign clients' are by their own.
HEADER: Final = "clock"
BROKER: Final = "broker"
#: The headers that are moments.
MOMENTS = ("eta", "expires")


def steady() -> float:
    """Return seconds by a clock that cannot be set, and that goes on while its host is suspended."""
    # Linux has one. Elsewhere it stands still meanwhile, until the broker is asked again.
    boot = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boot is None else time.clock_gettime(boot)


class BrokerClock:
    """What time it is at the broker, as it said when it was asked last."""

    def __init__(self) -> None:
        # Between two questions a steady clock counts: setting this machine's clock changes nothing.
        self._since: float | None = None
        self._warned = 0.0

    def set(self, seconds: float) -> None:
        """Note the broker's time, as Unix time, as of now. A difference is logged once."""
        self._since = seconds - steady()
        ahead = self.ahead()
        if abs(ahead - self._warned) >= NOTICED_SECONDS:
            log.warning("clock.differs_from_broker", broker_ahead_seconds=round(ahead, 1))
            self._warned = ahead

    def now(self) -> float:
        """Return the broker's time, as Unix time; this machine's own if the broker was never asked."""
        return time.time() if self._since is None else self._since + steady()

    def ahead(self) -> float:
        """Return by how many seconds the broker's clock is ahead of this machine's."""
        return self.now() - time.time()

    def sent(self, headers: Mapping[str, Any]) -> dict[str, Any]:
        """Return a task's headers with its moments, which are by this machine's clock, by the broker's."""
        return dict(headers) | self._moved(headers, self.ahead()) | {HEADER: BROKER}

    def received(self, headers: Mapping[str, Any]) -> dict[str, Any]:
        """Return a task's headers with its moments by this machine's clock, if they are by the broker's."""
        if headers.get(HEADER) != BROKER:
            return dict(headers)
        return dict(headers) | self._moved(headers, -self.ahead())

    def _moved(self, headers: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        moments = {}
        for name in MOMENTS:
            if isinstance(headers.get(name), str):
                try:
                    moment = maybe_iso8601(headers[name])
                    if moment is not None:
                        moments[name] = (moment + timedelta(seconds=seconds)).isoformat()
                except (ValueError, OverflowError):
                    # The worker that reads the message reports it, or takes it as it is.
                    continue
        return moments


#: This process's.
clock = BrokerClock()
