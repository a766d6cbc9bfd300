"""One stack per state directory: a lock that its holder's death releases, and who holds it."""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from stack.errors import StackError


class Lock:
    """The lock as held; a process that does not get it reads its text."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def tell(self, addresses: Mapping[str, str]) -> None:
        """Write down where the holder can be reached."""
        self._file.seek(0)
        self._file.truncate()
        json.dump({"pid": os.getpid(), "addresses": dict(addresses)}, self._file)
        self._file.flush()


@contextmanager
def held(path: Path) -> Iterator[Lock]:
    """Hold the lock `path` in the `with` block.

    Raises:
        StackError: another process holds it; the message says which, and where it serves.
    """
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise StackError(_sentence(path.parent, file.read())) from None
        lock = Lock(file)
        lock.tell({})
        yield lock
        file.seek(0)
        file.truncate()


def _sentence(state: Path, content: str) -> str:
    try:
        holder = json.loads(content)
        pid = holder["pid"]
        addresses = ", ".join(f"{name} {address}" for name, address in holder["addresses"].items())
    except (ValueError, KeyError, TypeError, AttributeError):
        # Caught in the moment between locking and telling.
        return f"It is already running, in {state}."
    where = f": {addresses}" if addresses else ", and still starting"
    return f"It is already running, pid {pid}, in {state}{where}."
