"""Messages that a worker's main process has refused or given up: they wait in a list of the broker.

`collect` makes dead letters of them; a job does so each minute.
"""

import time
from typing import TYPE_CHECKING, Any

import structlog
from kombu import Connection
from sqlalchemy.exc import DBAPIError, SQLAlchemyError, StatementError

from workers import unknown_tasks
from workers.app import app
from workers.broker_scripts import MOVE_LAST
from workers.database_errors import ErrorKind, kind_of
from workers.quarantined import unpacked
from workers.queues import QUARANTINE, REFUSED
from workers.settings import get_settings
from workers.transport import Transport

if TYPE_CHECKING:
    from redis import Redis

log = structlog.get_logger(__name__)

#: The longest that a run goes on, in seconds; the next one takes up the rest.
BUDGET_SECONDS = 60.0


def collect() -> tuple[int, int]:
    """Make dead letters of what is in the quarantine, the oldest first; return how many, and what is left.

    Then messages of unknown tasks are offered again.

    A message is taken out when its dead letter is there. A crash in between makes two of it, and never none.
    One whose dead letter the database refuses, and would refuse again, is moved to the list REFUSED, so that
    those behind it have their turn.

    Raises:
        RedisError: the broker does not answer, or cannot serve.
    """
    collected = 0
    deadline = time.monotonic() + BUDGET_SECONDS
    url = get_settings().broker_url.get_secret_value()
    options = app.conf.broker_transport_options
    with Connection(url, transport=Transport, transport_options=options) as connection:
        channel: Any = connection.default_channel
        with channel.conn_or_acquire() as client:
            # One at a time: each may be as large as the broker takes.
            while time.monotonic() < deadline and (packet := client.lindex(QUARANTINE, -1)) is not None:
                try:
                    channel.bury(*unpacked(packet))
                except (SQLAlchemyError, ValueError, TypeError, RecursionError) as error:
                    if not _is_its_own(error):
                        log.error("dead_letter.not_stored", error=type(error).__name__)
                        break
                    MOVE_LAST(client, [QUARANTINE, REFUSED], [packet])
                    log.error("dead_letter.refused", error=type(error).__name__, moved_to=REFUSED)
                else:
                    client.lrem(QUARANTINE, -1, packet)
                    collected += 1
            try:
                collected += unknown_tasks.offer(client, channel, deadline)
            except SQLAlchemyError as error:
                log.error("dead_letter.not_stored", error=type(error).__name__)
            return collected, length(client)


def length(client: "Redis") -> int:
    """Return how many messages wait there."""
    return int(client.llen(QUARANTINE))


def _is_its_own(error: Exception) -> bool:
    """Return whether this dead letter is at fault, and the next one may pass."""
    if isinstance(error, DBAPIError):
        return kind_of(error) is ErrorKind.DATA
    # Of SQLAlchemy's own, one that was raised while it prepared the values.
    return not isinstance(error, SQLAlchemyError) or isinstance(error, StatementError)
