"""The scheduler that beat runs: RedBeat, one holding the lock and others standing by."""

from typing import Any

from redbeat import RedBeatScheduler

from workers.steps import touch_health_file


class Scheduler(RedBeatScheduler):  # type: ignore[misc]  # RedBeat has no types
    """RedBeat that touches the health file at each turn."""

    def tick(self, *args: Any, **kwargs: Any) -> float:
        """Send what is due; return the seconds until the next turn."""
        pause: float = super().tick(*args, **kwargs)
        touch_health_file()
        return pause
