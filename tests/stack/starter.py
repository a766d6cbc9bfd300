"""Starts a local stack for `test_group.py`, as a process of its own, in one of several ways.

    python starter.py STATE WAY

It prints what the stack says and then `up`; StackError becomes a sentence and exit code 1.
"""

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from unittest import mock

import psycopg

from stack import ports, programs
from stack.errors import StackError
from stack.group import LocalStack
from stack.interrupts import Interrupted
from workers.settings import Settings

#: A program that answers SIGTERM with nothing.
STUBBORN = ("sh", "-c", "trap '' TERM; while :; do sleep 0.1; done")


def none(settings: Settings) -> None: ...


def endless(settings: Settings) -> None:
    say("setting up")
    time.sleep(600)


def failing(settings: Settings) -> None:
    raise StackError("no such table")


def crashing(settings: Settings) -> None:
    """Find the database killed the first time, as by the kernel when memory is short."""
    say("setting up")
    url = settings.database_url.get_secret_value()
    with psycopg.connect(url) as connection:
        if not _seen:
            _seen.append(url)
            (row,) = connection.execute("SELECT current_setting('data_directory')").fetchall()
            os.kill(int(Path(row[0], "postmaster.pid").read_text().split()[0]), signal.SIGKILL)
            psycopg.connect(url).close()
        connection.execute("SELECT 1")


_seen: list[str] = []
_taken: list[socket.socket] = []


def unlucky(file: Path, preferred: Mapping[str, int | None]) -> ports.Ports:
    """Choose ports, of which another program takes one right after, the first time."""
    chosen = choose(file, preferred)
    if not _taken:
        _taken.append(socket.create_server(("127.0.0.1", chosen.numbers["valkey"])))
        say(f"taken {chosen.numbers['valkey']}")
    return chosen


choose = ports.choose

WAYS: dict[str, tuple[dict[str, tuple[str, ...]], Callable[[Settings], None]]] = {
    # What runs beside the servers, and what is done before it.
    "servers": ({}, none),
    "endless-setup": ({}, endless),
    "failing-setup": ({}, failing),
    "stubborn": ({"stubborn": STUBBORN}, none),
    "crashing-database": ({}, crashing),
    "taken-port": ({}, none),
}


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(state: str, way: str) -> int:
    beside, before = WAYS[way]
    with (
        mock.patch.multiple(programs, PROGRAMS=beside, set_up=before, roomkeeper=lambda it: it),
        mock.patch.object(ports, "choose", unlucky if way == "taken-port" else choose),
    ):
        try:
            # Once it is up an interrupt is the ordinary end.
            with LocalStack(Path(state), own_signatures=True, say=say) as stack, suppress(Interrupted):
                say(f"up {stack.environment['DATABASE_URL']}")
                stack.wait()
        except StackError as error:
            say(str(error))
            return 1
    return 0


if __name__ == "__main__":
    os.environ.setdefault("LC_ALL", "C.UTF-8")
    sys.exit(main(*sys.argv[1:]))
