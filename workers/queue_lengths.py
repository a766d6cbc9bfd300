"""How many messages wait in the queues, as the broker counts them: those that no worker has."""

import redis

from workers.queues import KINDS
from workers.settings import Settings

QUEUES = tuple(queue for kind in KINDS.values() for queue in kind.queues)


def read(settings: Settings) -> dict[str, int]:
    """Return the length of each queue; that of a key that is no list is 0.

    Raises:
        RedisError: the broker does not answer, or cannot serve.
    """
    with redis.Redis.from_url(
        settings.broker_url.get_secret_value(), socket_timeout=5, socket_connect_timeout=5
    ) as client:
        return of(client)


def of(client: "redis.Redis") -> dict[str, int]:
    """Return the same by a client that is connected."""
    with client.pipeline(transaction=False) as pipe:
        for queue in QUEUES:
            pipe.llen(queue)
        answers = pipe.execute(raise_on_error=False)
    for answer in answers:
        if isinstance(answer, redis.RedisError) and not isinstance(answer, redis.ResponseError):
            raise answer
    return {
        queue: answer if isinstance(answer, int) else 0 for queue, answer in zip(QUEUES, answers, strict=True)
    }
