"""The base of all tasks."""

import inspect
import time
from math import isfinite
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import psycopg
import structlog
from celery import Task
from celery.exceptions import Reject, Retry
from celery.utils.time import get_exponential_backoff_interval
from sqlalchemy.exc import SQLAlchemyError

from workers import dead_letters
from workers.broker_errors import described
from workers.database_errors import is_transient, is_unavailable
from workers.db import clock
from workers.settings import get_settings

if TYPE_CHECKING:
    _Task = Task[Any, Any]  # generic in the stubs only
else:
    _Task = Task

log = structlog.get_logger(__name__)

#: Pauses before a row that is not there yet is looked for again, in seconds: an API service may announce it
#: before its own transaction has committed.
NOT_THERE_YET = (0.5, 2, 8)
#: So many pauses follow that are as long as each other.
LATER_PAUSES = 6
#: The most looks, if the database's clock goes back.
MOST_LOOKS = 50
#: The header that says since when a message has waited for its row, in seconds of the database's clock.
MISSING_SINCE = "missing_since"
#: The longest that a process holds a message while the database is away. Nothing else can be done meanwhile;
#: and workers take messages that are published for later into their memory, however many there are.
HOLD_SECONDS = 10.0
#: The header that says how often a message has waited for the database. Celery's `retries` counts what has a
#: limit: an outage must not use it up.
WAITS = "database_waits"
#: After so many waits the pause is the longest in any case.
MOST_DOUBLINGS = 16
#: Before a message goes back to the broker, from where it may be taken at once: its worker would spin.
REQUEUE_PAUSE_SECONDS = 2.0


class PlatformTask(_Task):
    """A task that waits out a database that is away, and leaves a dead letter when it fails for good.

    Its message is acknowledged only when its work or its dead letter is stored. Until then it stays with the
    broker, or a copy of it does that runs later.
    """

    abstract = True
    Request = "workers.request:PlatformRequest"

    # Which of them is worth a retry is decided in `retry`: the classes of exceptions do not tell.
    autoretry_for: ClassVar[tuple[type[Exception], ...]] = (SQLAlchemyError, psycopg.Error)
    retry_backoff = 2
    retry_backoff_max = 60
    retry_jitter = True
    #: For what is in the way of another transaction. A database that is away is waited for without end.
    max_retries = 8

    def retry(  # type: ignore[override]  # the stubs name each of the options
        self, args: Any = None, kwargs: Any = None, exc: Any = None, **options: Any
    ) -> Any:
        """Publish the message again, for later; see Celery's own. If the database is away, wait first.

        Raises:
            Retry: it was published.
            Reject: the broker did not take it; it keeps the one that is being worked on.
            Exception: `exc` itself, if a retry would not mend it, or after `max_retries`.
        """
        if isinstance(exc, self.autoretry_for) and not is_transient(exc):
            raise exc
        if exc is not None and is_unavailable(exc) and not self.request.called_directly:
            raise self._waited(exc, args, kwargs)
        try:
            return super().retry(args, kwargs, exc, **options)
        except Reject as error:
            # Celery gives up a message whose successor the broker does not take.
            raise self._requeued(described(error.args[0])) from error

    def _waited(self, exc: Exception, args: Any, kwargs: Any) -> Retry:
        """Hold the message a while for a database that is away, publish it again, and return what says so.

        Raises:
            Reject: the broker did not take it; it keeps the one that is being worked on.
        """
        time.sleep(self._backoff(HOLD_SECONDS))
        again = self._again(args, kwargs)
        try:
            again.apply_async()
        except Exception as error:  # each broker has its own
            raise self._requeued(described(error)) from error
        # No moment: it may be taken at once.
        return Retry(exc=exc, sig=again)

    def _again(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """Return the message that is being worked on as it is published once more, after one more wait."""
        request = self.request
        headers = {**(request.headers or {}), WAITS: self._waits() + 1}
        options |= {"headers": headers, "retries": request.retries}
        return self.signature_from_request(request, args, kwargs, **options)

    def _waits(self) -> int:
        """Return how often this message has waited for the database."""
        waits = (self.request.headers or {}).get(WAITS)
        # Of a stranger's message the header may be anything.
        return waits if isinstance(waits, int) and waits >= 0 else 0

    def _backoff(self, at_most: float) -> float:
        # Not the number itself: a stranger's is a power of two with as many digits.
        waits = min(self._waits(), MOST_DOUBLINGS)
        pause = get_exponential_backoff_interval(self.retry_backoff, waits, self.retry_backoff_max, True)
        return float(min(pause, at_most))

    def not_there_yet(self, error: Exception) -> NoReturn:
        """Try again in a moment, for a row that may be about to be committed.

        Raises:
            Retry: it is tried again.
            Exception: as `error`, if the row was not there for `row_wait_seconds`, by the database's clock.
        """
        wait, now = get_settings().row_wait_seconds, clock().timestamp()
        since = self._missing_since(now)
        looks, left = self.request.retries, wait - (now - since)
        if left <= 0 or looks >= MOST_LOOKS:
            why = "a wrong id, a transaction that was rolled back, or a row that was deleted at once"
            raise type(error)(f"{error}; none appeared within {wait:g} s: {why}") from error
        pauses = (*NOT_THERE_YET, wait / LATER_PAUSES)
        pause = min(pauses[min(looks, len(NOT_THERE_YET))], max(left, NOT_THERE_YET[0]))
        headers = {**(self.request.headers or {}), MISSING_SINCE: since}
        raise self.retry(countdown=pause, exc=error, headers=headers, max_retries=MOST_LOOKS) from error

    def _missing_since(self, now: float) -> float:
        """Return since when this message has waited for its row."""
        since = (self.request.headers or {}).get(MISSING_SINCE)
        # Of a stranger's message the header may be anything.
        return min(float(since), now) if isinstance(since, int | float) and isfinite(since) else now

    def on_failure(
        self, exc: BaseException, task_id: str, args: tuple[Any, ...], kwargs: dict[str, Any], einfo: Any
    ) -> None:
        """Keep what was asked for, with the reason. Where that cannot be stored, it is done again later.

        Raises:
            Reject: neither the database nor the broker takes anything; the message stays where it is.
        """
        del einfo
        if not self.keep(exc, task_id, args, kwargs):
            self._publish_again(task_id)

    def keep(self, exc: BaseException, task_id: str, args: Any, kwargs: Any) -> bool:
        """Store a dead letter if there is anything to keep; return False if it could not be stored."""
        if not self.carries(args, kwargs):
            return True
        return dead_letters.keep(
            task=self.name,
            task_id=task_id,
            payload={"args": list(args), "kwargs": dict(kwargs)},
            reason=dead_letters.reason(exc),
        )

    def carries(self, args: Any, kwargs: Any) -> bool:
        """Return whether a message has anything to keep.

        A periodic job's has not. Nor does a call without arguments, unless they were forgotten.
        """
        return bool(args or kwargs or inspect.signature(self.run).parameters)

    def _publish_again(self, task_id: str) -> None:
        request = self.request
        if request.id != task_id:
            # The failure is not the task's own, and Celery has put the request away.
            raise self._requeued("its dead letter could not be stored")
        pause = max(1.0, self._backoff(self.retry_backoff_max))
        again = self._again(countdown=pause)
        try:
            # By name: the task itself would refuse arguments that it does not take.
            self.app.send_task(self.name, again.args, again.kwargs, **again.options)
        except Exception as error:  # each broker has its own
            raise self._requeued(described(error)) from error
        log.warning("task.postponed", task=self.name, task_id=task_id, seconds=pause)

    def _requeued(self, reason: str) -> Reject:
        """Wait a moment; return what has the worker give the message back to the broker."""
        log.error("task.requeued", task=self.name, reason=reason)
        time.sleep(REQUEUE_PAUSE_SECONDS)
        # A text: it is sent from one process to another, and not every exception can be.
        return Reject(reason, requeue=True)
