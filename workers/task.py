"""The base of all tasks."""

import inspect
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from celery import Task
from sqlalchemy.exc import OperationalError

from workers import dead_letters

if TYPE_CHECKING:
    _Task = Task[Any, Any]  # generic in the stubs only
else:
    _Task = Task


#: Pauses before a row that is not there yet is looked for again, in seconds: an API service may announce it
#: before its own transaction has committed.
NOT_THERE_YET = (0.5, 2, 8)


class PlatformTask(_Task):
    """A task that waits out a database that is away, and leaves a dead letter when it fails for good."""

    abstract = True
    Request = "workers.request:RedactedRequest"

    # The database is restarting or failing over. The row that a message hints at is safe meanwhile.
    autoretry_for: ClassVar[tuple[type[Exception], ...]] = (OperationalError,)
    retry_backoff = 2
    retry_backoff_max = 60
    retry_jitter = True
    max_retries = 8

    def not_there_yet(self, error: Exception) -> NoReturn:
        """Try again in a moment, for a row that may be about to be committed; after some times, fail."""
        if self.request.retries < len(NOT_THERE_YET):
            raise self.retry(countdown=NOT_THERE_YET[self.request.retries], exc=error) from error
        raise error

    def on_failure(
        self, exc: BaseException, task_id: str, args: tuple[Any, ...], kwargs: dict[str, Any], einfo: Any
    ) -> None:
        """Keep what was asked for, with the reason; a periodic job carries nothing to keep."""
        del einfo
        # Nor is there anything to keep of a call without arguments, unless they were forgotten.
        if args or kwargs or inspect.signature(self.run).parameters:
            dead_letters.keep(
                task=self.name,
                task_id=task_id,
                payload={"args": list(args), "kwargs": dict(kwargs)},
                reason=dead_letters.reason(exc),
            )
