"""The one Celery application: `celery -A workers.app …`, `from workers.app import app`."""

import difflib
import signal
import threading
from collections.abc import Callable
from threading import Timer
from typing import Any

from celery import Celery, signals

from workers import telemetry
from workers.settings import get_settings
from workers.steps import HealthFile, VisibilityRefresh
from workers.task import PlatformTask

#: Options that are no attributes of `Task`: the decorator's own, and those of publishing.
_DECORATOR_OPTIONS = {
    "queue",
    "priority",
    "expires",
    "base",
    "bind",
    "name",
    "pydantic",
    "pydantic_strict",
    "dont_autoretry_for",
    "retry_backoff",
    "retry_backoff_max",
    "retry_jitter",
    "retry_kwargs",
}


app = Celery("roomkeeper", task_cls=PlatformTask, set_as_current=True)
app.config_from_object("workers.celery_config")
app.steps["consumer"].update({VisibilityRefresh, HealthFile})


def task(**options: Any) -> Callable[[Callable[..., Any]], PlatformTask]:
    """Make a function a task of `app`. A misspelt option fails at import: Celery itself ignores it.

    Raises:
        TypeError: an option is not known; the message names the likely right one.
    """
    known = _DECORATOR_OPTIONS | {name for name in dir(PlatformTask) if not name.startswith("_")}
    for option in options:
        if option not in known:
            likely = difflib.get_close_matches(option, known, n=1)
            hint = f"; did you mean {likely[0]!r}?" if likely else ""
            raise TypeError(f"{option!r} is not an option of a task{hint}")
    made: Callable[[Callable[..., Any]], PlatformTask] = app.task(**options)
    return made


@signals.setup_logging.connect
def _setup_logging(**_: Any) -> None:
    telemetry.setup(get_settings().log_format)


@signals.worker_shutting_down.connect
def _limit_shutdown(how: str, **_: Any) -> None:
    # After SIGTERM tasks may finish. SIGQUIT then hands those that take too long back to the queue.
    if how == "Warm":
        main = threading.main_thread().ident
        limit = Timer(get_settings().shutdown_seconds, signal.pthread_kill, [main, signal.SIGQUIT])
        limit.daemon = True
        limit.start()


@signals.task_prerun.connect
def _bind(task_id: str, task: Any, **_: Any) -> None:
    telemetry.bind(task=task.name, task_id=task_id)


@signals.task_postrun.connect
def _unbind(**_: Any) -> None:
    telemetry.clear()
