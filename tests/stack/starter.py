"""Starts a local stack for `test_group.py`, as a process of its own, in one of several ways.

    python starter.py STATE WAY

It prints what the stack says and then `up`; StackError becomes a sentence and exit code 1.
"""

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from unittest import mock

from stack import programs
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


WAYS: dict[str, tuple[dict[str, tuple[str, ...]], Callable[[Settings], None]]] = {
    # What runs beside the servers, and what is done before it.
    "servers": ({}, none),
    "endless-setup": ({}, endless),
    "failing-setup": ({}, failing),
    "stubborn": ({"stubborn": STUBBORN}, none),
}


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(state: str, way: str) -> int:
    beside, before = WAYS[way]
    with mock.patch.multiple(programs, PROGRAMS=beside, set_up=before, roomkeeper=lambda it: it):
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
