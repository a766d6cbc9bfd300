"""Starts a local stack for `test_group.py`, as a process of its own, in one of several ways.

    python starter.py STATE WAY

It prints what the stack says and then `up`; StackError becomes a sentence and exit code 1.
"""

import os
import sys
from pathlib import Path
from unittest import mock

from stack import programs
from stack.errors import StackError
from stack.group import LocalStack

#: A program that answers SIGTERM with nothing.
STUBBORN = ("sh", "-c", "trap '' TERM; while :; do sleep 0.1; done")
ENDLESS = ("sleep", "600")

WAYS: dict[str, tuple[dict[str, tuple[str, ...]], tuple[tuple[str, ...], ...]]] = {
    # What runs beside the servers, and what runs before it.
    "servers": ({}, ()),
    "endless-setup": ({}, (ENDLESS,)),
    "failing-setup": ({}, (("sh", "-c", "echo no such table; exit 3"),)),
    "stubborn": ({"stubborn": STUBBORN}, ()),
}


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(state: str, way: str) -> int:
    beside, before = WAYS[way]
    with mock.patch.multiple(programs, PROGRAMS=beside, SETUP=before, roomkeeper=lambda arguments: arguments):
        try:
            with LocalStack(Path(state), own_signatures=True, say=say) as stack:
                say(f"up {stack.environment['DATABASE_URL']}")
                stack.wait()
        except StackError as error:
            say(str(error))
            return 1
    return 0


if __name__ == "__main__":
    os.environ.setdefault("LC_ALL", "C.UTF-8")
    sys.exit(main(*sys.argv[1:]))
