"""What every object store can do."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

#: Large enough that hashing and system calls cost little, small enough that memory does not matter.
CHUNK_BYTES = 256 * 1024


class StoreError(Exception):
    """The store did not do what was asked; it may later."""


class ObjectMissing(StoreError):
    """There is no object under the key, or there can be none."""


class ObjectTooLarge(StoreError):
    """The object is larger than the cap; no more than the cap was read. `fingerprint` is as of `Fetched`."""

    def __init__(self, limit: int, fingerprint: str) -> None:
        super().__init__(f"the object is larger than {limit} bytes")
        self.fingerprint = fingerprint


class ObjectChanged(StoreError):
    """The object is not the one that was fetched: the key was written meanwhile."""


class BucketMissing(StoreError):
    """There is no such bucket: a wrong setting, or a store that is not set up yet."""


class UnknownProvider(StoreError):
    """A row names a store that is not set up."""


class ObjectsKept(StoreError):
    """The store works and did not remove some of the objects; `count` says how many."""

    def __init__(self, count: int, of: int, why: str) -> None:
        super().__init__(f"the store refused to remove {count:,} of {of:,} objects: {why}")
        self.count = count


@dataclass(frozen=True, slots=True)
class Fetched:
    """An object as it was read.

    Attributes:
        size: in bytes.
        sha256: in hexadecimal.
        version: for `publish`; means nothing to anybody else. Another once other bytes were stored.
        fingerprint: as `ObjectStore.fingerprint` returns it.
    """

    size: int
    sha256: str
    version: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Stored:
    """An object as it is listed: its size in bytes, and when it was written, by the store's clock."""

    key: str
    size: int
    modified: datetime


@dataclass(frozen=True, slots=True)
class ObjectUrl:
    """Where clients get an object: what goes into a row. `expires_at` is None if it does for ever."""

    url: str
    expires_at: datetime | None


class ObjectStore(Protocol):
    """Objects under keys. Writing a key again overwrites it; nothing half-written is ever seen.

    A key comes from a row and so, perhaps, from a stranger: one that leads out of the store, into the
    quarantine or, where originals are meant, to pictures under `derived/` is `ObjectMissing`.
    """

    def fetch(self, key: str, into: Path, *, limit: int) -> Fetched:
        """Stream an original to the file `into`, at most `limit` bytes, hashing it on the way.

        Raises:
            ObjectMissing, ObjectTooLarge, StoreError.
            ObjectChanged: it was written while it was read.
        """

    def fetch_quarantined(self, name: str, into: Path, *, limit: int) -> Fetched:
        """Like `fetch`, of an object that `quarantine` moved."""

    def fingerprint(self, key: str) -> str | None:
        """Return what tells an original from any other under its key, without reading it: size, time, tag.

        None if there is no object, or can be none. The same bytes written again may have another.

        Raises:
            StoreError.
        """

    def put(self, key: str, source: Path, media_type: str, name: str = "") -> str:
        """Store the file `source` under `key`, to be served as `serving.headers` says; return its version."""

    def put_quarantined(self, name: str, source: Path) -> None:
        """Store the file `source` in the quarantine under `name`, as if `quarantine` had moved it there."""

    def publish(self, key: str, version: str, media_type: str, name: str) -> None:
        """Make ready an original that is about to be served: what was scanned must be what is served.

        The store's own headers are set to what `serving.headers` says, where it has headers.

        Args:
            key: where it is.
            version: of `fetch` or `put`.
            media_type: what it is.
            name: what it is called when it is saved; a stranger's words.

        Raises:
            ObjectChanged: the bytes are others by now.
            ObjectMissing, StoreError.
        """

    def quarantine(self, key: str, name: str) -> str:
        """Move the original to where it is not served; return where it went.

        Doing it again, or after a crash half way, ends the same.
        """

    def restore(self, name: str, key: str) -> None:
        """Move an original back out of the quarantine. Doing it again ends the same, as with `quarantine`."""

    def delete(self, key: str) -> None:
        """Remove the object; it may be gone already."""

    def delete_many(self, keys: Sequence[str]) -> None:
        """Remove the objects; any of them may be gone already.

        Raises:
            ObjectMissing: there can be no object under one of the keys; nothing was removed.
            ObjectsKept: the others were removed.
            StoreError.
        """

    def discard(self, names: Sequence[str]) -> None:
        """Like `delete_many`, of objects that `quarantine` moved, by their names there."""

    def list(self, prefix: str) -> Iterator[Stored]:
        """Yield every object whose key begins with `prefix`, in no order, without holding them all.

        Not what is in quarantine or half written, nor what can be no key: a folder's mark, or a name that is
        no text. Of what is written or removed meanwhile some may be missing.

        Raises:
            ObjectMissing: at once, if the prefix leads out of the store or into the quarantine, or is empty.
            StoreError.
        """

    def url(self, key: str, media_type: str, name: str) -> ObjectUrl:
        """Return the URL under which clients get the object, to be served as `serving.headers` says."""

    def probe(self) -> None:
        """Write, read and remove an object; quarantine it meanwhile where that is part of the same store.

        Raises:
            StoreError: that did not work; the message says what.
        """
