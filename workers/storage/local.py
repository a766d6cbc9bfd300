"""The `local` store: a directory that the API services share with the workers."""

import errno
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO
from urllib.parse import quote

from workers.storage.base import CHUNK_BYTES, Fetched, ObjectMissing, ObjectTooLarge, StoreError

#: What the operating system says of a key under which there can be no object, now or later.
_NO_OBJECT = {errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP}


class LocalStore:
    """Objects are files below `root`; a key is a relative path.

    Infected files go to another directory, `quarantine_root`: a web server that serves `root` can not be
    talked into serving them.
    """

    def __init__(self, root: Path, quarantine_root: Path, base_url: str) -> None:
        self.root = root.absolute()
        self.quarantine_root = quarantine_root.absolute()
        self.base_url = base_url.rstrip("/")

    def fetch(self, key: str, into: Path, *, limit: int) -> Fetched:
        if not self.root.is_dir():
            # A disk that is not mounted, not an object that is missing.
            raise StoreError("the store's directory is not there")
        return _fetch(self._path(key), into, limit)

    def fetch_quarantined(self, name: str, into: Path, *, limit: int) -> Fetched:
        return _fetch(self.quarantine_root / _clean(name), into, limit)

    def put(self, key: str, source: Path) -> None:
        with _faults():
            _copy(source, self._path(key))

    def quarantine(self, key: str, name: str) -> str:
        target = self.quarantine_root / _clean(name)
        with _faults():
            source = self._path(key)
            if source.exists():
                # Copied whole before the original goes: a crash in between leaves both, and the next
                # attempt ends it. A rename would fail across file systems.
                _copy(source, target)
                source.unlink()
            elif not target.exists():
                raise ObjectMissing("the object is gone")
        return name

    def delete(self, key: str) -> None:
        with _faults():
            self._path(key).unlink(missing_ok=True)

    def url(self, key: str) -> str:
        return f"{self.base_url}/{quote(str(_clean(key)))}"

    def probe(self) -> None:
        with tempfile.NamedTemporaryFile() as empty:
            key = f".roomkeeper-probe-{os.getpid()}"
            try:
                self.put(key, Path(empty.name))
                self.fetch(key, Path(empty.name), limit=0)
                self.delete(key)
            except StoreError as error:
                raise StoreError(f"{self.root} can not be written to: {error}") from error

    def _path(self, key: str) -> Path:
        path = self.root / _clean(key)
        # A symbolic link inside the store must not lead out of it. Not `Path.resolve`: links that lead in a
        # circle are a RuntimeError to it.
        if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(self.root)):
            raise ObjectMissing("the key leads out of the store")
        return path


def _fetch(path: Path, into: Path, limit: int) -> Fetched:
    digest = hashlib.sha256()
    size = 0
    with _faults(), _open(path) as source, into.open("wb") as target:
        while chunk := source.read(CHUNK_BYTES):
            size += len(chunk)
            if size > limit:
                raise ObjectTooLarge(f"the object is larger than {limit} bytes")
            digest.update(chunk)
            target.write(chunk)
    return Fetched(size, digest.hexdigest())


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        if error.errno in _NO_OBJECT:
            raise ObjectMissing("there is no such object") from error
        raise


def _clean(key: str) -> PurePosixPath:
    """Return `key` as a path that cannot leave the store."""
    path = PurePosixPath(key)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in key:
        raise ObjectMissing("the key is no relative path")
    return path


def _copy(source: Path, target: Path) -> None:
    """Copy so that `target` is either the whole file or as it was."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".incoming-", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as out, source.open("rb") as data:
            while chunk := data.read(CHUNK_BYTES):
                out.write(chunk)
            out.flush()
            os.fsync(out.fileno())
        # mkstemp keeps it to the owner; the web server is another user.
        Path(name).chmod(0o644)
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@contextmanager
def _faults() -> Iterator[None]:
    """Turn the operating system's errors into the store's, without the path: it may name a person."""
    try:
        yield
    except FileNotFoundError as error:
        raise ObjectMissing("there is no such object") from error
    except OSError as error:
        raise StoreError(error.strerror or str(error)) from error
