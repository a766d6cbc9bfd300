"""Do all messages in the broker have a worker that reads them?"""

import base64
import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import DBAPIError

from workers import liveness, queue_lengths
from workers.db import engine_for
from workers.inspection import Fault
from workers.liveness import Process, duration
from workers.queues import QUARANTINE, REFUSED, UNKNOWN, UNNAMED, kind_of_queue
from workers.settings import Settings

if TYPE_CHECKING:
    from redis import Redis

#: What separates a queue's name from a priority, in the key of a list.
SEPARATOR = "\x06\x16"
OWN_LISTS = frozenset({QUARANTINE, REFUSED, UNKNOWN})
#: The most keys of the broker that are looked at: a broker of ours has dozens.
KEYS = 10_000


def faults(settings: Settings) -> list[Fault]:
    """Return a fault for each queue with messages that no worker reads.

    A broker or a database that does not answer is reported by its own check.
    """
    # As the broker's check does: workers, which check the database only, need it later.
    import redis

    processes: Sequence[Process] = ()
    with suppress(DBAPIError), engine_for(settings) as engine, engine.begin() as connection:
        processes = liveness.read(connection)
    with suppress(redis.RedisError):
        url = settings.broker_url.get_secret_value()
        with redis.Redis.from_url(url, socket_timeout=5, socket_connect_timeout=5) as client:
            return [*_without_worker(client, processes), *_foreign(client), *_unknown_tasks(client)]
    return []


def _without_worker(client: "Redis", processes: Sequence[Process]) -> Iterator[Fault]:
    missing = liveness.missing(processes)
    for queue, number in queue_lengths.of(client).items():
        kind = kind_of_queue(queue)
        if not number or kind is None:
            continue
        age = _age(client, queue)
        # Without any heartbeat there may be workers of a version before heartbeats: they empty their queues.
        unseen = not processes and age is not None and age > liveness.GRACE
        if kind in missing or unseen:
            yield Fault(
                f"The queue {queue} holds {_messages(number, age)}, and no worker of kind {kind} reads it.",
                f"Start one: roomkeeper worker {kind}",
            )


def _foreign(client: "Redis") -> Iterator[Fault]:
    """Look for lists with tasks in them that are no queues of ours: their name is misspelt, say."""
    seen: set[str] = set()
    for number, key in enumerate(client.scan_iter(count=1000, _type="list")):
        if number >= KEYS:
            return
        name = key.decode(errors="replace")
        queue = name.partition(SEPARATOR)[0]
        if queue in seen or name in OWN_LISTS or kind_of_queue(queue) is not None:
            continue
        task = _task(client.lindex(key, -1))
        if task is None:
            continue
        seen.add(queue)
        right = _queue_of(task)
        kind = kind_of_queue(right)
        messages = _messages(client.llen(key), _age(client, key))
        yield Fault(
            f"The queue {_plain(queue)} holds {messages}, and no kind of worker reads it.",
            f"Correct the name in the program that sends {_plain(task)}: it belongs to the queue {right}, "
            f"which workers of kind {kind} read. To move a message: redis-cli LMOVE {_plain(name)} {right} "
            "RIGHT LEFT",
        )


def _unknown_tasks(client: "Redis") -> list[Fault]:
    from workers import unknown_tasks

    number = client.llen(UNKNOWN)
    oldest = unknown_tasks.oldest(client)
    if not number or oldest is None:
        return []
    kind = kind_of_queue(oldest.queue.partition(SEPARATOR)[0])
    return [
        Fault(
            f"Tasks that no worker knows, such as {_plain(oldest.task)}: {_messages(number, oldest.age)}.",
            f"Deploy workers of kind {kind} of the sender's version, or correct the name in the sender. "
            "After a day these messages become dead letters.",
            warning=True,
        )
    ]


def _plain(name: str) -> str:
    """Return a name from outside as it can be printed."""
    return ascii(name)[1:-1]


def _messages(number: Any, age: timedelta | None) -> str:
    messages = f"{number:,} message{'s' if number != 1 else ''}"
    return f"{messages} (the oldest has waited for {duration(age)})" if age is not None else messages


def _message(raw: Any) -> dict[str, Any] | None:
    """Return a message of a list, if it is one of Celery's."""
    try:
        found = json.loads(raw)
    except (TypeError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and {"body", "properties"} <= found.keys() else None


def _task(raw: Any) -> str | None:
    """Return the name of a message's task; None where it is no task, as for events and answers."""
    message = _message(raw)
    if message is None:
        return None
    headers = message.get("headers")
    if isinstance(headers, dict) and isinstance(headers.get("task"), str):
        return str(headers["task"])
    with suppress(ValueError, TypeError, RecursionError):
        body = json.loads(base64.b64decode(message["body"]))
        if isinstance(body, dict) and isinstance(body.get("task"), str) and "args" in body:
            return str(body["task"])
    return None


def _queue_of(task: str) -> str:
    from workers.app import app

    app.loader.import_default_modules()
    return getattr(app.tasks.get(task), "queue", None) or UNNAMED


def _age(client: "Redis", key: str | bytes) -> timedelta | None:
    """Return for how long the message has waited that is taken next, if its sender has noted when it was."""
    from workers.transport import SENT_AT

    # What is there may be no list.
    message = None
    if client.type(key) == b"list":
        message = _message(client.lindex(key, -1))
    headers = message.get("headers") if message else None
    sent_at = headers.get(SENT_AT) if isinstance(headers, dict) else None
    if not isinstance(sent_at, int | float):
        return None
    seconds, microseconds = client.time()
    return timedelta(seconds=max(0.0, min(seconds + microseconds / 1e6 - sent_at, 1e9)))
