"""The `local` store: a directory that the API services share with the workers."""

import errno
import fcntl
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import BinaryIO
from urllib.parse import quote
from uuid import uuid4

from workers.storage import keys
from workers.storage.base import (
    CHUNK_BYTES,
    Fetched,
    ObjectChanged,
    ObjectMissing,
    ObjectsKept,
    ObjectTooLarge,
    ObjectUrl,
    Stored,
    StoreError,
)

#: What the operating system says of a key under which there can be no object, now or later.
_NO_OBJECT = {errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP}
#: What the name of a file begins with that is being written.
_INCOMING = ".incoming-"


class LocalStore:
    """Objects are files below `root`; a key is a relative path.

    Infected files go to another directory, `quarantine_root`: a web server that serves `root` cannot be
    talked into serving them. Which headers it serves with is its own configuration's matter. What is put is
    there after a crash of the machine if it is `lasting`: that is a wait for the disk for each object.
    """

    def __init__(self, root: Path, quarantine_root: Path, base_url: str, *, lasting: bool = False) -> None:
        self.root = root.absolute()
        self.quarantine_root = quarantine_root.absolute()
        self.base_url = base_url.rstrip("/")
        self._lasting = lasting

    def fetch(self, key: str, into: Path, *, limit: int) -> Fetched:
        _need(self.root)
        return _fetch(self._original(key), into, limit)

    def fetch_quarantined(self, name: str, into: Path, *, limit: int) -> Fetched:
        return _fetch(self.quarantine_root / _clean(name), into, limit)

    def fingerprint(self, key: str) -> str | None:
        _need(self.root)
        try:
            found = self._original(key).stat()
        except ObjectMissing:
            return None
        except OSError as error:
            if error.errno in _NO_OBJECT:
                return None
            raise StoreError(error.strerror or str(error)) from error
        return _fingerprint(found) if stat.S_ISREG(found.st_mode) else None

    def put(self, key: str, source: Path, media_type: str, name: str = "") -> str:  # noqa: ARG002 - no headers
        with _faults():
            path = self._path(key)
            version = _copy(source, path)
            if self._lasting:
                _settle(path.parent, self.root)
            return version

    def put_quarantined(self, name: str, source: Path) -> None:
        with _faults():
            _copy(source, self.quarantine_root / _clean(name))

    def publish(self, key: str, version: str, media_type: str, name: str) -> None:  # noqa: ARG002 - no headers
        with _faults():
            if _version(self._original(key).stat()) != version:
                raise ObjectChanged("the object is not the one that was scanned")

    def quarantine(self, key: str, name: str) -> str:
        with _faults():
            _move(self._original(key), self.quarantine_root / _clean(name))
        return name

    def restore(self, name: str, key: str) -> None:
        with _faults():
            _move(self.quarantine_root / _clean(name), self._original(key))

    def delete(self, key: str) -> None:
        with _faults():
            path = self._path(key)
            _need(self.root)
            path.unlink(missing_ok=True)
            _incoming(path).unlink(missing_ok=True)

    def delete_many(self, keys: Sequence[str]) -> None:
        paths = [self._path(key) for key in keys]
        _need(self.root)
        _remove(paths)

    def discard(self, names: Sequence[str]) -> None:
        if names:
            _need(self.quarantine_root)
        _remove([self.quarantine_root / _clean(name) for name in names])

    def list(self, prefix: str) -> Iterator[Stored]:
        _need(self.root)
        folder, _, begin = str(_clean(prefix)).rpartition("/")
        if prefix.endswith("/"):
            folder, begin = str(_clean(prefix)), ""
        path = self._path(folder) if folder else self.root
        quarantine = os.path.realpath(self.quarantine_root)
        if Path(os.path.realpath(path / begin)).is_relative_to(quarantine):
            raise ObjectMissing("the prefix leads into the quarantine")
        return _below(os.path.realpath(path), f"{folder}/" if folder else "", begin, quarantine)

    def url(self, key: str, media_type: str, name: str) -> ObjectUrl:  # noqa: ARG002 - no headers
        return ObjectUrl(f"{self.base_url}/{quote(str(_clean(key)))}", None)

    def probe(self) -> None:
        path = self.root / f".roomkeeper-probe-{uuid4()}"
        try:
            with tempfile.NamedTemporaryFile() as empty, _faults():
                _copy(Path(empty.name), path)
                _fetch(path, Path(empty.name), limit=0)
                path.unlink()
        except StoreError as error:
            raise StoreError(f"{self.root} cannot be written to: {error}") from error

    def _path(self, key: str) -> Path:
        path = self.root / _clean(key)
        # A symbolic link inside the store must not lead out of it. Not `Path.resolve`: links that lead in a
        # circle are a RuntimeError to it.
        if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(self.root)):
            raise ObjectMissing("the key leads out of the store")
        return path

    def _original(self, key: str) -> Path:
        keys.check_original(key)
        path = self._path(key)
        if Path(os.path.realpath(path)).is_relative_to(os.path.realpath(self.root / keys.DERIVED)):
            raise ObjectMissing("the key leads to a picture")
        return path


def _need(root: Path) -> None:
    """Let pass if the directory of a store is there.

    Raises:
        StoreError: a disk that is not mounted; its objects are neither missing nor deleted.
    """
    if not root.is_dir():
        raise StoreError("the store's directory is not there")


def _fetch(path: Path, into: Path, limit: int) -> Fetched:
    digest = hashlib.sha256()
    size = 0
    with _faults(), _open(path) as source, into.open("wb") as target:
        found = os.fstat(source.fileno())
        version, fingerprint = _version(found), _fingerprint(found)
        while chunk := source.read(CHUNK_BYTES):
            size += len(chunk)
            if size > limit:
                raise ObjectTooLarge(limit, fingerprint)
            digest.update(chunk)
            target.write(chunk)
        # By its path: another file may have taken its place.
        if _version(path.stat()) != version:
            raise ObjectChanged("the object was written while it was read")
    return Fetched(size, digest.hexdigest(), version, fingerprint)


def _version(found: os.stat_result) -> str:
    return f"{found.st_dev}-{found.st_ino}-{found.st_size}-{found.st_mtime_ns}"


def _fingerprint(found: os.stat_result) -> str:
    # Not its device, which is another after a mount.
    return f"{found.st_size}-{found.st_mtime_ns}-{found.st_ino}"


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        if error.errno in _NO_OBJECT:
            raise ObjectMissing("there is no such object") from error
        raise


def _clean(key: str) -> PurePosixPath:
    """Return `key` as a path that cannot leave the store."""
    keys.check(key)
    path = PurePosixPath(key)
    if path.is_absolute():
        raise ObjectMissing("the key is no relative path")
    return path


def _move(source: Path, target: Path) -> None:
    if source.exists():
        # Copied whole before the original goes: a crash in between leaves both, and the next attempt ends it.
        # A rename would fail across file systems.
        _copy(source, target)
        source.unlink()
    elif not target.exists():
        raise ObjectMissing("the object is gone")


def _remove(paths: Sequence[Path]) -> None:
    kept: list[OSError] = []
    for path in (each for object_ in paths for each in (object_, _incoming(object_))):
        try:
            path.unlink()
        except OSError as error:
            if error.errno not in _NO_OBJECT:
                kept.append(error)
    if kept:
        raise ObjectsKept(len(kept), len(paths), kept[0].strerror or str(kept[0])) from kept[0]


def _below(folder: str, start: str, begin: str, quarantine: str) -> Iterator[Stored]:
    """Yield the objects below a directory whose keys begin with `start`, those here with `begin` after that.

    Links are not followed: what they lead to has a key of its own, or is none of the store's.
    """
    with _faults():
        try:
            entries = os.scandir(folder)
        except (FileNotFoundError, NotADirectoryError):
            # Nothing was stored there yet, or it was removed just now.
            return
        # Directories are entered one by one as they are met, for there may be a million beside each other.
        with entries:
            for entry in entries:
                if not entry.name.startswith(begin) or not _possible(key := start + entry.name):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    if entry.path != quarantine:
                        yield from _below(entry.path, f"{key}/", "", quarantine)
                elif entry.is_file(follow_symlinks=False) and not entry.name.startswith(_INCOMING):
                    try:
                        found = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                    # A copy may keep the time of what it was made of, but not when it was made.
                    written = max(found.st_mtime, found.st_ctime)
                    yield Stored(key, found.st_size, datetime.fromtimestamp(written, UTC))


def _possible(key: str) -> bool:
    try:
        keys.check(key)
    except ObjectMissing:
        return False
    return True


def _incoming(target: Path) -> Path:
    # The same each time, so that what a killed process leaves is taken up by the next attempt. Not the name
    # itself, which may be as long as names can be.
    digest = hashlib.sha256(os.fsencode(target.name)).hexdigest()
    return target.with_name(f"{_INCOMING}{digest[:32]}")


def _copy(source: Path, target: Path) -> str:
    """Copy so that `target` is either the whole file or as it was; return its version."""
    target.parent.mkdir(parents=True, exist_ok=True)
    path = _incoming(target)
    with _alone(path) as out:
        try:
            with source.open("rb") as data:
                while chunk := data.read(CHUNK_BYTES):
                    out.write(chunk)
            out.flush()
            os.fsync(out.fileno())
            # It was only its owner's until it was whole; the web server is another user.
            os.fchmod(out.fileno(), 0o644)
            path.replace(target)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return _version(os.fstat(out.fileno()))


def _settle(folder: Path, root: Path) -> None:
    """Wait until the disk knows the names below `root` that lead to a file; what is in it, it knows."""
    for path in (folder, *folder.parents):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if path == root:
            return


@contextmanager
def _alone(path: Path) -> Iterator[BinaryIO]:
    """Open `path`, empty, for us alone: two who wrote the same object at once would mix their halves."""
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600), "wb") as file:
        try:
            # Ends with its holder, however that ends.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            same = os.path.samestat(path.stat(), os.fstat(file.fileno()))
        except (BlockingIOError, FileNotFoundError):
            same = False
        if not same:
            raise StoreError("another process is writing the object")
        file.truncate()
        yield file


@contextmanager
def _faults() -> Iterator[None]:
    """Turn the operating system's errors into the store's, without the path: it may name a person."""
    try:
        yield
    except FileNotFoundError as error:
        raise ObjectMissing("there is no such object") from error
    except OSError as error:
        raise StoreError(error.strerror or str(error)) from error
