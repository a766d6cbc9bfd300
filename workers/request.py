"""A task as its worker's main process sees it: what is shown of it, and when its message is acknowledged."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import structlog
from billiard.einfo import ExceptionWithTraceback  # type: ignore[attr-defined]  # not in the stubs
from celery.exceptions import Ignore, Reject, Retry, Terminated, WorkerLostError
from celery.worker.request import Request
from kombu.utils.json import dumps
from redis.exceptions import RedisError

from workers.broker_errors import described
from workers.dead_letters import reason
from workers.settings import get_settings

log = structlog.get_logger(__name__)

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
#: The fields that may be seen in Flower, events and logs, each if its value is really what its name says:
#: in a field of that name a stranger may send anything.
SHOWN: dict[str, Callable[[str], object]] = {
    "app": lambda value: value in get_settings().apps,
    "id": _UUID.fullmatch,
}


def redact(value: Any) -> str:
    """Return a task's argument as it may be shown: `{app: openchat, id: …, 3 hidden}`."""
    if not isinstance(value, Mapping):
        return type(value).__name__
    shown = [
        f"{name}: {value[name]}"
        for name, genuine in SHOWN.items()
        if isinstance(value.get(name), str) and genuine(value[name])
    ]
    hidden = len(value) - len(shown)
    return "{" + ", ".join([*shown, f"{hidden} hidden"] if hidden else shown) + "}"


#: Ends of a task that are no failures of its own: the message is retried, given back or revoked.
NO_FAILURES = (Ignore, Reject, Retry, Terminated, WorkerLostError)


class PlatformRequest(Request):
    """A request that shows ids only, and whose message is acknowledged once its failure is on record.

    Redacted here and not where messages are published: other clients publish too, and the events that Flower
    shows come from here. Flower's own `format_task` would cover its pages but not its API.
    """

    _args: tuple[Any, ...]
    _kwargs: dict[str, Any]
    _request_dict: dict[str, Any]
    _message: Any
    task: Any
    id: str

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._argsrepr = "(" + ", ".join(map(redact, self._args)) + ")"
        self._kwargsrepr = redact(self._kwargs)
        # The pool's process shows these in its own events and logs.
        self._request_dict.update(argsrepr=self._argsrepr, kwargsrepr=self._kwargsrepr)

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        """Put the message of a task into the quarantine that could not keep a dead letter itself.

        Its process was ended, mostly. Celery acknowledges its message whatever has become of it. Where the
        broker does not take it into the quarantine, it goes back to its list and runs again.
        """
        error = exc_info.exception
        if isinstance(error, ExceptionWithTraceback):
            error = error.exc
        if isinstance(error, MemoryError):
            # Celery raises it again here, and so ends the whole worker, with all that its other processes do.
            error = exc_info.exception = RuntimeError(repr(error))
        # With `return_ok` the task has ended in the ordinary way, and has kept its dead letter.
        unkept = not return_ok and not isinstance(error, NO_FAILURES)
        if unkept and not self._quarantined(error):
            self.reject(requeue=True)
        return super().on_failure(exc_info, send_failed_event=send_failed_event, return_ok=return_ok)

    def _quarantined(self, error: BaseException) -> bool:
        """Return whether the message is in the quarantine, or need not be."""
        if not self.task.carries(self._args, self._kwargs):
            return True
        message = self._message
        try:
            message.channel.quarantine(
                dumps(message._raw).encode(), reason(error), task=self.task.name, task_id=self.id
            )
        except (RedisError, OSError) as away:
            log.warning("broker.not_quarantined", error=described(away))
            return False
        return True
