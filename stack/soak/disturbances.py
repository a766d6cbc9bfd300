"""What is done to the servers and programs while traffic runs, each with its end and what `check` must say.

A disturbance that has an end is in force for `seconds`. The order and the moments come from the seed.
"""

import os
import re
import signal
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import psycopg
from redis import Redis
from redis.exceptions import RedisError

from stack.group import LocalStack
from stack.programs import PROGRAMS
from workers.scanner import Scanner, ScannerUnavailable

#: What a server or program that is away at the moment answers.
AWAY = (psycopg.Error, RedisError, ScannerUnavailable, OSError)


@dataclass(frozen=True, slots=True)
class Disturbance:
    """One thing that goes wrong.

    Attributes:
        name: what it is, for people.
        begin: does it; what it returns is given to `end`.
        end: undoes it; None where nothing has to be undone. Both may be called again after one of `AWAY`.
        seconds: how long it is in force.
        check: what `roomkeeper check` must print while it is in force, as a regular expression; None where it
            has nothing to report.
        of: the server whose end is its end, too; nothing ends that one meanwhile.
    """

    name: str
    begin: Callable[[LocalStack], Any]
    end: Callable[[LocalStack, Any], None] | None = None
    seconds: float = 0
    check: str | None = None
    of: str | None = None


def _database(stack: LocalStack) -> psycopg.Connection[Any]:
    url = stack.direct_settings.database_url.get_secret_value()
    return psycopg.connect(url, autocommit=True, connect_timeout=5)


def _sql(*statements: str) -> Callable[..., None]:
    def run(stack: LocalStack, _begun: object = None) -> None:
        with _database(stack) as connection:
            # The end of a read-only period must be written, too.
            connection.execute("SET default_transaction_read_only = off")
            # As those who alter tables do: what waits for a lock holds up all who come later. And the one who
            # holds it may be another disturbance, which cannot end while this one waits.
            connection.execute("SET lock_timeout = '1s'")
            for statement in statements:
                connection.execute(statement)

    return run


def _broker(*command: str) -> Callable[..., None]:
    def run(stack: LocalStack, _begun: object = None) -> None:
        url = stack.settings.broker_url.get_secret_value()
        with closing(Redis.from_url(url, socket_timeout=5)) as client:
            client.execute_command(*command)  # type: ignore[no-untyped-call]

    return run


def _reload_scanner(stack: LocalStack) -> None:
    os.kill(stack.pid("clamd"), signal.SIGUSR2)
    Scanner(stack.settings.clamd, 60).versions()


def _hold_rows(stack: LocalStack) -> psycopg.Connection[Any]:
    connection = _database(stack)
    connection.autocommit = False
    for table in ("openchat.attachment", "openchat.message", "pern.messages", "echoroom.chat_sessions"):
        connection.execute(f"SELECT FROM {table} ORDER BY random() LIMIT 200 FOR UPDATE")
    return connection


def _ballast(stack: LocalStack) -> Path:
    root = stack.settings.work_root
    assert root is not None
    return root / "ballast"


def _fill_disk(stack: LocalStack) -> None:
    ballast = _ballast(stack)
    free = os.statvfs(ballast.parent)
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize)


def _kill(program: str, number: signal.Signals) -> Callable[[LocalStack], None]:
    return lambda stack: os.kill(stack.pid(program), number)


def _clock(program: str, seconds: int, name: str) -> Disturbance:
    def step(to: int) -> Callable[..., None]:
        def run(stack: LocalStack, _begun: object = None) -> None:
            assert stack.clocks is not None
            stack.clocks.set(program, to)

        return run

    return Disturbance(f"the clock of {program} is {name}", step(seconds), step(0), 60)


HOUR = 3600
#: Of one program at a time, and there and back while it runs. The jobs go by the database's clock.
CLOCKS = tuple(
    _clock(program, seconds, name)
    for program in ("attachments", "delivery", "maintenance", "beat")
    for seconds, name in ((HOUR, "an hour ahead"), (-HOUR, "an hour behind"))
)
FULL_DISK = Disturbance(
    "the disk of work files is full",
    _fill_disk,
    lambda stack, _: _ballast(stack).unlink(missing_ok=True),
    60,
    "work files",
)
#: Those that are in force for a while. For the five minutes of the held rows work on other rows goes on.
LASTING = (
    Disturbance(
        "the database takes no writes",
        _sql("ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()"),
        _sql("ALTER SYSTEM RESET default_transaction_read_only", "SELECT pg_reload_conf()"),
        60,
        "takes no writes",
    ),
    Disturbance(
        "the broker is full",
        _broker("CONFIG", "SET", "maxmemory", "1mb"),
        _broker("CONFIG", "SET", "maxmemory", "0"),
        60,
        "The broker's memory is full",
        of="valkey",
    ),
    # Of a server that does not exist: it keeps its data, and takes no writes.
    Disturbance(
        "the broker is a replica",
        _broker("REPLICAOF", "127.0.0.1", "1"),
        _broker("REPLICAOF", "NO", "ONE"),
        60,
        "The broker refuses",
        of="valkey",
    ),
    Disturbance(
        "an application's transaction holds rows",
        _hold_rows,
        lambda _, connection: connection.close(),
        300,
        of="postgres",
    ),
    FULL_DISK,
    *CLOCKS,
)
#: Those that are over at once.
MOMENTARY = (
    Disturbance("clamd reloads its signatures", _reload_scanner),
    Disturbance(
        "a column is added to a table and dropped",
        _sql(
            "ALTER TABLE openchat.attachment ADD COLUMN IF NOT EXISTS soak integer",
            "ALTER TABLE openchat.attachment DROP COLUMN soak",
        ),
    ),
)
#: A server that must live for a lasting disturbance is not ended for so many seconds before and after either;
#: another moment is looked for so many times.
SPARED, TRIES = 15.0, 100
#: So many seconds lie between two ends of the same program or server, if there is room.
APART = 60.0
SERVERS = ("postgres", "pgbouncer", "valkey", "seaweedfs", "clamd")


def plan(
    seed: int, seconds: float, *, disk: bool, only: str = "", longest: float = float("inf")
) -> list[tuple[float, Disturbance]]:
    """Return what is done and when, in seconds from the beginning: the same for the same arguments.

    Every program is restarted twice, once by SIGTERM and once by SIGKILL, as is PgBouncer; every other
    server is killed once.

    Args:
        disk: whether the work files have a disk of their own, which can be filled.
        only: a regular expression that is in the names of those that are wanted.
        longest: the most seconds that one is in force.
    """
    random = Random(seed)  # noqa: S311 - a plan, not a secret
    short: list[tuple[str | None, Disturbance]] = [(None, one) for one in MOMENTARY * 2]
    for program in (*PROGRAMS, "pgbouncer"):
        short += [
            (program, Disturbance(f"{program} is ended by {number.name}", _kill(program, number)))
            for number in (signal.SIGTERM, signal.SIGKILL)
        ]
    short += [
        (server, Disturbance(f"{server} is ended by SIGKILL", _kill(server, signal.SIGKILL)))
        for server in SERVERS
        if server != "pgbouncer"
    ]
    short = [(name, one) for name, one in short if re.search(only, one.name)]
    lasting = [
        replace(one, seconds=min(one.seconds, longest))
        for one in LASTING
        if (disk or one is not FULL_DISK) and re.search(only, one.name)
    ]
    random.shuffle(lasting)
    # The lasting ones come one after another with a calm between: a fault then names one cause. The last
    # fifth is calm.
    busy = seconds * 0.8
    pause = max(10.0, (busy - sum(one.seconds for one in lasting)) / (len(lasting) + 1))
    planned, at = [], pause
    for one in lasting:
        # In a short run not all of them have room.
        if at + one.seconds <= busy:
            planned.append((at, one))
            at += one.seconds + pause
    windows = [(at - SPARED, at + one.seconds + SPARED, one.of) for at, one in planned]
    for name, one in short:
        at = random.uniform(5, busy)
        for _ in range(TRIES):
            if not any(begin <= at <= end and server == name for begin, end, server in windows if server):
                break
            at = random.uniform(5, busy)
        planned.append((at, one))
        # What is ended is up again before it is ended the next time.
        windows.append((at - APART, at + APART, name))
    return sorted(planned, key=lambda item: item[0])


class InForce:
    """The disturbances that are in force."""

    def __init__(self, stack: LocalStack) -> None:
        self._stack = stack
        self._begun: list[tuple[float, Disturbance, Any]] = []

    def begin(self, one: Disturbance, now: float) -> None:
        """Begin it; it is in force until `end` finds its time over.

        Raises:
            AWAY: its server or program is away at the moment; nothing is in force.
        """
        self._begun.append((now + one.seconds, one, one.begin(self._stack)))

    def end(self, now: float) -> list[Disturbance]:
        """End those whose time is over, and return them; one whose server is away stays for the next call."""
        ended = []
        for entry in [entry for entry in self._begun if entry[0] <= now]:
            _, one, begun = entry
            try:
                if one.end is not None:
                    one.end(self._stack, begun)
            except AWAY:
                continue
            self._begun.remove(entry)
            ended.append(one)
        return ended

    def names(self) -> list[Disturbance]:
        """Return those in force."""
        return [one for _, one, _ in self._begun]
