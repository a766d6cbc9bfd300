"""Tasks that are tried again later, also while the broker takes no message."""

import time
from typing import Any

import structlog
from celery.exceptions import Reject, Retry

from workers.broker_errors import BROKER_AWAY, described
from workers.task import PlatformTask

log = structlog.get_logger(__name__)

#: How long a task waits whose message goes back into its list, where it may be the only one, in seconds.
PAUSE_SECONDS = 1.0


class RetriedTask(PlatformTask):
    """A task whose message goes back into its list if the broker does not take the one of its next try.

    Celery would acknowledge it then, and it would be gone: a broker that is full refuses the new message, and
    has no objection to an acknowledgement.
    """

    abstract = True

    def retry(self, *args: Any, **options: Any) -> Retry:
        """See `celery.Task.retry`.

        Raises:
            Reject: the broker does not take the message of the next try.
        """
        try:
            return super().retry(*args, **options)
        except Reject as rejected:
            reason: Any = rejected.args[0]
            if not isinstance(reason, BROKER_AWAY):
                raise
            log.warning("task.put_back", error=described(reason))
            time.sleep(PAUSE_SECONDS)
            raise Reject(reason, requeue=True) from rejected
