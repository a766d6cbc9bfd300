"""Steps of the worker's consumer. Each registers its timer in `start`: a reconnect clears all timers."""

import threading
from pathlib import Path
from typing import Any

import structlog
from celery import bootsteps
from redis.exceptions import RedisError

from workers import heartbeat
from workers.broker_errors import described
from workers.settings import get_settings

log = structlog.get_logger(__name__)


class _Timer(bootsteps.StartStopStep):
    """A consumer step that does one thing every few seconds."""

    requires = ("celery.worker.consumer.tasks:Tasks",)
    entry: Any = None

    def start(self, parent: Any) -> None:
        self.entry = parent.timer.call_repeatedly(self.period(), self.tick, (parent,))

    def stop(self, parent: Any) -> None:
        del parent
        if self.entry:
            self.entry.cancel()
            self.entry = None

    def period(self) -> float:
        raise NotImplementedError

    def tick(self, consumer: Any) -> None:
        raise NotImplementedError


class VisibilityRefresh(_Timer):
    """Tells the broker that this worker still holds its messages, and gives it what it could not take before.

    A task longer than the visibility timeout would run again while it still runs, and one with a later
    ETA several times. The time-out can be short, and so recovery from a killed worker quick, only because
    the messages of a live one are refreshed here. `XX` never brings back one that was acknowledged.
    """

    def period(self) -> float:
        return get_settings().visibility_timeout_seconds / 4

    def tick(self, consumer: Any) -> None:
        try:
            consumer.task_consumer.channel.qos.refresh()
        except (RedisError, OSError) as error:
            # The consumer notices a lost broker by itself and reconnects.
            log.warning("visibility.not_refreshed", error=described(error))


class HealthFile(_Timer):
    """Touches a file as long as the worker's loop turns, for a container's health check.

    Asking the worker over the broker instead would call it dead whenever the broker is. The loop does not
    turn then either: as long as the worker is not connected a thread touches the file.
    """

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        self._connected = threading.Event()
        self._wait()

    def start(self, parent: Any) -> None:
        self._connected.set()
        super().start(parent)

    def stop(self, parent: Any) -> None:
        super().stop(parent)
        if self._connected.is_set():
            self._connected = threading.Event()
            self._wait()

    def _wait(self) -> None:
        connected = self._connected

        def touch() -> None:
            while not connected.wait(self.period()):
                touch_health_file()

        threading.Thread(target=touch, name="health", daemon=True).start()

    def period(self) -> float:
        return 5

    def tick(self, consumer: Any) -> None:
        del consumer
        touch_health_file()


def touch_health_file() -> None:
    """Touch the file that says that this process is alive, if one is set; heartbeats go by it, too."""
    heartbeat.alive()
    path: Path | None = get_settings().health_file
    if path:
        path.touch()
