"""The scheduler that beat runs: RedBeat, one holding the lock and others standing by."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import structlog
from redbeat import RedBeatScheduler
from redbeat.schedulers import acquire_distributed_beat_lock
from redis.exceptions import ConnectionError as BrokerGone
from redis.exceptions import LockError
from redis.exceptions import TimeoutError as BrokerSilent

from workers.steps import touch_health_file

log = structlog.get_logger(__name__)


class Scheduler(RedBeatScheduler):  # type: ignore[misc]  # RedBeat has no types
    """RedBeat that outlives its broker's outages, and touches the health file at each turn.

    RedBeat's own `retry_period` does not cover its lock, which it needs at each turn.

    Each message carries in its header `slot` when it was due, in ISO 8601: the ledger keeps it.
    """

    def tick(self, *args: Any, **kwargs: Any) -> float:
        """Send what is due; return the seconds until the next turn."""
        try:
            if self.lock is None or not self.lock.owned():
                # It ran out while the broker was away. Another may hold it by now.
                acquire_distributed_beat_lock(SimpleNamespace(scheduler=self))
            pause: float = super().tick(*args, **kwargs)
        except (BrokerGone, BrokerSilent, LockError) as error:
            log.warning("beat.turn_failed", error=type(error).__name__)
            pause = self.max_interval
        touch_health_file()
        return pause

    def apply_async(self, entry: Any, producer: Any = None, advance: bool = True, **kwargs: Any) -> Any:
        """Send an entry's message, with its slot."""
        slot = _due(entry)
        entry = self.reserve(entry) if advance else entry
        # One of its own, made when the other has been saved: the slot must not get into Redis with it.
        headers = {**entry.options.get("headers", {}), "slot": slot.isoformat()}
        sent = self.Entry(**{**dict(entry), "options": {**entry.options, "headers": headers}})
        return super().apply_async(sent, producer=producer, advance=False, **kwargs)

    def close(self) -> None:
        """Give the lock back; if that can not be done it runs out by itself."""
        try:
            super().close()
        except (BrokerGone, BrokerSilent, LockError) as error:
            log.warning("beat.lock_not_released", error=type(error).__name__)


def _due(entry: Any) -> datetime:
    """Return when the entry was due: after an outage that is some time ago."""
    now: datetime = entry.default_now()
    if entry.last_run_at is not None:
        now += min(entry.schedule.remaining_estimate(entry.last_run_at), timedelta(0))
    return now.astimezone(UTC)
