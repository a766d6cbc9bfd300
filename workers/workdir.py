"""Directories for untrusted files while they are worked on; a killed worker's are removed by the next.

Each is locked for as long as its process lives. The kernel releases the lock when the process dies,
however it dies, so a process that can lock a directory may remove it.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: With less room than this, work that writes files may have failed for want of it.
FULL_BYTES = 1024 * 1024
_PREFIX = "roomkeeper-work-"


@contextmanager
def workdir(parent: Path | None = None) -> Iterator[Path]:
    """Make an empty directory below `parent` (the system's temporary directory), removed at the end.

    Raises:
        OSError: it cannot be made, on a full disk say.
    """
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        lock = _lock(folder)
        # A sweep may have come between the two calls, and holds it or has removed it.
        if lock is not None and folder.exists():
            break
        if lock is not None:
            os.close(lock)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def sweep(parent: Path | None = None) -> int:
    """Remove what this user's dead processes have left behind below `parent`; return how many directories."""
    removed = 0
    for folder in (parent or Path(tempfile.gettempdir())).glob(f"{_PREFIX}*"):
        lock = _lock(folder)
        if lock is None:
            continue
        try:
            if os.fstat(lock).st_uid == os.geteuid():
                shutil.rmtree(folder, ignore_errors=True)
                removed += not folder.exists()
        finally:
            os.close(lock)
    return removed


def _lock(folder: Path) -> int | None:
    """Lock the directory and return the descriptor that holds the lock, or None if another does."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor
