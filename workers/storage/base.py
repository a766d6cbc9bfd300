"""What every object store can do."""

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
    """The object is larger than the cap; no more than the cap was read."""


class ObjectChanged(StoreError):
    """The object is not the one that was fetched: somebody has written the key meanwhile."""


class BucketMissing(StoreError):
    """There is no such bucket: a wrong setting, or a store that is not set up yet."""


class UnknownProvider(StoreError):
    """A row names a store that is not set up."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """An object as it was read.

    Attributes:
        size: in bytes.
        sha256: in hexadecimal.
        version: for `publish`; means nothing to anybody else. Another once other bytes were stored.
    """

    size: int
    sha256: str
    version: str


@dataclass(frozen=True, slots=True)
class Address:
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

    def put(self, key: str, source: Path, media_type: str, name: str = "") -> str:
        """Store the file `source` under `key`, to be served as `serving.headers` says; return its version."""

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
        """Move the original out of reach of whoever serves the store; return where it went.

        Doing it again, or after a crash half way, ends the same.
        """

    def restore(self, name: str, key: str) -> None:
        """Move an original back out of the quarantine. Doing it again ends the same, as with `quarantine`."""

    def delete(self, key: str) -> None:
        """Remove the object; it may be gone already."""

    def url(self, key: str, media_type: str, name: str) -> Address:
        """Return the address under which clients get the object, to be served as `serving.headers` says."""

    def probe(self) -> None:
        """Write, read and remove an object; quarantine it meanwhile where that is part of the same store.

        Raises:
            StoreError: that did not work; the message says what.
        """
