"""Which errors mean that the broker is away: waiting mends them, and another message would meet the same.

A broker is away that does not answer, and one that answers that it cannot serve now: its memory is full, it
is a replica, it still reads its data, it wants another password, a script keeps it busy. Programs wait for
it, and say so in their logs. Every place of the platform that waits for the broker catches `BROKER_AWAY`.
"""

from kombu.exceptions import OperationalError
from redis._parsers.base import BaseParser
from redis.exceptions import (
    AuthorizationError,
    ClusterDownError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError


class CannotServeError(ResponseError):
    """The broker's reply says that it cannot serve now, with a code for which redis-py has no class."""

    def __str__(self) -> str:
        # redis-py takes the code off the text.
        return f"{self.status_code} {super().__str__()}"


#: Codes for which redis-py has no class: the disk is full, a script runs, too few replicas follow, the server
#: has become a replica while a client waited, it accepts connections from its own machine only.
CODES = ("MISCONF", "BUSY", "UNKILLABLE", "NOREPLICAS", "UNBLOCKED", "DENIED")
# All clients of this process: Kombu's, RedBeat's, and ours. Without it each would be a `ResponseError`, like
# a command of ours that is wrong. That redis-py still reads this table is tested with a real server.
BaseParser.EXCEPTION_CLASSES.update(dict.fromkeys(CODES, CannotServeError))

#: What redis-py raises for a broker that answers, and cannot serve. Those that it counts as lost connections
#: (LOADING, NOAUTH, WRONGPASS, too many clients) are not listed. A cluster's MASTERDOWN is a CLUSTERDOWN
#: there.
REFUSALS: tuple[type[Exception], ...] = (
    OutOfMemoryError,
    ReadOnlyError,
    NoPermissionError,
    AuthorizationError,
    ClusterDownError,
    TryAgainError,
    CannotServeError,
)
#: All of it, as redis-py, Kombu (when it publishes) and sockets raise it.
BROKER_AWAY: tuple[type[Exception], ...] = (
    RedisConnectionError,
    RedisTimeoutError,
    OperationalError,
    OSError,
    *REFUSALS,
)


def described(error: BaseException) -> str:
    """Return class and words of an error of the broker, without the command, which may hold a message."""
    # A pipeline's errors repeat it: "Command # 1 (LPUSH …) of pipeline caused error: …".
    words = str(error).rpartition(" of pipeline caused error: ")[2]
    return f"{type(error).__name__}: {words}"[:300]
