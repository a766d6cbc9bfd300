"""Messages that cannot be read, taken while the database was away: they wait in a list of the broker.

`collect` makes dead letters of them once the database is back.
"""

from typing import TYPE_CHECKING, Any

from kombu import Connection

from workers.app import app
from workers.queues import QUARANTINE
from workers.settings import get_settings
from workers.transport import Transport

if TYPE_CHECKING:
    from redis import Redis

#: How many are read at once.
BATCH = 100


def collect() -> tuple[int, int]:
    """Make dead letters of what is in the quarantine, the oldest first; return how many, and what is left.

    A message is taken out when its dead letter is there. A crash in between makes two of it, and never none.

    Raises:
        RedisError: the broker does not answer, or cannot serve.
    """
    collected = 0
    url = get_settings().broker_url.get_secret_value()
    options = app.conf.broker_transport_options
    with Connection(url, transport=Transport, transport_options=options) as connection:
        channel: Any = connection.default_channel
        with channel.conn_or_acquire() as client:
            while items := client.lrange(QUARANTINE, -BATCH, -1):
                for item in reversed(items):
                    if not channel.bury(item, "it could not be read when it was taken"):
                        return collected, length(client)
                    client.lrem(QUARANTINE, -1, item)
                    collected += 1
    return collected, 0


def length(client: "Redis") -> int:
    """Return how many messages wait there."""
    return int(client.llen(QUARANTINE))
