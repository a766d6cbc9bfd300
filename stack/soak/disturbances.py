"""What is done to the servers and programs while traffic runs, each with its end and what `check` must say.

A disturbance that has an end is in force for `seconds`. The order and the moments come from the seed.
"""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

import psycopg
from redis import Redis

from stack.group import LocalStack
from stack.programs import PROGRAMS
from workers.scanner import Scanner


@dataclass(frozen=True, slots=True)
class Disturbance:
    """One thing that goes wrong.

    Attributes:
        name: what it is, for people.
        held: a context manager; the disturbance is in force within it.
        seconds: for how long; 0 where nothing has to be ended.
        check: what `roomkeeper check` must print while it is in force, as a regular expression; None where it
            has nothing to report.
        stalls: whether work may stand still meanwhile.
    """

    name: str
    held: Callable[[LocalStack], AbstractContextManager[None]]
    seconds: float = 0
    check: str | None = None
    stalls: bool = False


def _sql(stack: LocalStack, *statements: str) -> None:
    url = stack.settings.database_url.get_secret_value()
    with psycopg.connect(url, autocommit=True, connect_timeout=5) as connection:
        # The end of a read-only period must be written, too.
        connection.execute("SET default_transaction_read_only = off")
        for statement in statements:
            connection.execute(statement)


def _broker(stack: LocalStack) -> closing[Redis]:
    return closing(Redis.from_url(stack.settings.broker_url.get_secret_value(), socket_timeout=5))


@contextmanager
def _read_only(stack: LocalStack) -> Iterator[None]:
    _sql(stack, "ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()")
    try:
        yield
    finally:
        _sql(stack, "ALTER SYSTEM RESET default_transaction_read_only", "SELECT pg_reload_conf()")


@contextmanager
def _full_broker(stack: LocalStack) -> Iterator[None]:
    with _broker(stack) as client:
        client.config_set("maxmemory", "1mb")
    try:
        yield
    finally:
        with _broker(stack) as client:
            client.config_set("maxmemory", "0")


@contextmanager
def _replica_broker(stack: LocalStack) -> Iterator[None]:
    with _broker(stack) as client:
        # Of a server that does not exist: it keeps its data, and takes no writes.
        client.replicaof("127.0.0.1", "1")
    try:
        yield
    finally:
        with _broker(stack) as client:
            client.replicaof("NO", "ONE")


@contextmanager
def _reload_scanner(stack: LocalStack) -> Iterator[None]:
    os.kill(stack.pid("clamd"), signal.SIGUSR2)
    yield
    Scanner(stack.settings.clamd, 60).versions()


@contextmanager
def _held_rows(stack: LocalStack) -> Iterator[None]:
    url = stack.settings.database_url.get_secret_value()
    with psycopg.connect(url) as connection:
        for table in ("openchat.attachment", "openchat.message", "pern.messages", "echoroom.chat_sessions"):
            connection.execute(f"SELECT FROM {table} ORDER BY random() LIMIT 200 FOR UPDATE")
        yield


@contextmanager
def _alter_table(stack: LocalStack) -> Iterator[None]:
    _sql(
        stack,
        "ALTER TABLE openchat.attachment ADD COLUMN IF NOT EXISTS soak integer",
        "ALTER TABLE openchat.attachment DROP COLUMN soak",
    )
    yield


@contextmanager
def _full_disk(stack: LocalStack) -> Iterator[None]:
    root = stack.settings.work_root
    assert root is not None
    ballast = Path(root) / "ballast"
    free = os.statvfs(root)
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize)
    try:
        yield
    finally:
        ballast.unlink()


def _ended(program: str, number: signal.Signals) -> Callable[[LocalStack], AbstractContextManager[None]]:
    @contextmanager
    def held(stack: LocalStack) -> Iterator[None]:
        os.kill(stack.pid(program), number)
        yield

    return held


#: Those that are in force for a while. For the five minutes of the held rows work on other rows goes on.
LASTING = (
    Disturbance("the database takes no writes", _read_only, 60, "takes no writes", stalls=True),
    Disturbance("the broker is full", _full_broker, 60, "broker", stalls=True),
    Disturbance("the broker is a replica", _replica_broker, 60, "broker", stalls=True),
    Disturbance("an application's transaction holds rows", _held_rows, 300),
    Disturbance("the disk of work files is full", _full_disk, 60, None, stalls=True),
)
#: Those that are over at once.
MOMENTARY = (
    Disturbance("clamd reloads its signatures", _reload_scanner),
    Disturbance("a column is added to a table and dropped", _alter_table),
)
SERVERS = ("postgres", "valkey", "seaweedfs", "clamd")


def plan(seed: int, seconds: float, *, disk: bool) -> list[tuple[float, Disturbance]]:
    """Return what is done and when, in seconds from the beginning: the same for a seed and a duration.

    Every program is restarted twice, once by SIGTERM and once by SIGKILL, and every server is killed once.

    Args:
        disk: whether the work files have a disk of their own, which can be filled.
    """
    random = Random(seed)  # noqa: S311 - a plan, not a secret
    short = list(MOMENTARY) * 2
    for program in PROGRAMS:
        short += [
            Disturbance(f"{program} is ended by {number.name}", _ended(program, number))
            for number in (signal.SIGTERM, signal.SIGKILL)
        ]
    short += [
        Disturbance(f"{server} is ended by SIGKILL", _ended(server, signal.SIGKILL)) for server in SERVERS
    ]
    random.shuffle(short)
    lasting = [one for one in LASTING if disk or one.held is not _full_disk]
    random.shuffle(lasting)
    # The lasting ones come one after another with a calm between: a fault then names one cause. The last
    # fifth is calm.
    busy = seconds * 0.8
    pause = max(10.0, (busy - sum(one.seconds for one in lasting)) / (len(lasting) + 1))
    planned, at = [], pause
    for one in lasting:
        planned.append((at, one))
        at += one.seconds + pause
    planned += [(random.uniform(5, busy), one) for one in short]
    return sorted(planned, key=lambda item: item[0])


class InForce:
    """The disturbances that are in force."""

    def __init__(self, stack: LocalStack) -> None:
        self._stack = stack
        self._held: dict[str, tuple[float, Disturbance, ExitStack]] = {}

    def begin(self, one: Disturbance, now: float) -> None:
        """Begin it; it is in force until `end` finds its time over."""
        held = ExitStack()
        held.enter_context(one.held(self._stack))
        self._held[one.name] = (now + one.seconds, one, held)

    def end(self, now: float) -> list[Disturbance]:
        """End those whose time is over, and return them."""
        over = [name for name, (until, _, _) in self._held.items() if until <= now]
        ended = []
        for name in over:
            _, one, held = self._held.pop(name)
            held.close()
            ended.append(one)
        return ended

    def names(self) -> list[Disturbance]:
        """Return those in force."""
        return [one for _, one, _ in self._held.values()]
