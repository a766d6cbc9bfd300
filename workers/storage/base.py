"""What every object store can do."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

#: Large enough that hashing and system calls cost little, small enough that memory does not matter.
CHUNK_BYTES = 256 * 1024


class StoreError(Exception):
    """The store did not do what was asked; it may later."""


class ObjectMissing(StoreError):
    """There is no object under the key."""


class ObjectTooLarge(StoreError):
    """The object is larger than the cap; no more than the cap was read."""


class UnknownProvider(StoreError):
    """A row names a store that is not set up."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """An object as it was read: `size` in bytes, `sha256` in hexadecimal."""

    size: int
    sha256: str


class ObjectStore(Protocol):
    """Objects under keys. Writing a key again overwrites it; nothing half-written is ever seen."""

    def fetch(self, key: str, into: Path, *, limit: int) -> Fetched:
        """Stream the object to the file `into`, at most `limit` bytes, hashing it on the way.

        Raises:
            ObjectMissing, ObjectTooLarge, StoreError.
        """

    def put(self, key: str, source: Path) -> None:
        """Store the file `source` under `key`."""

    def quarantine(self, key: str, name: str) -> str:
        """Move the object out of reach of whoever serves the store; return where it went.

        Doing it again, or after a crash half way, ends the same.
        """

    def fetch_quarantined(self, name: str, into: Path, *, limit: int) -> Fetched:
        """Like `fetch`, of an object that `quarantine` moved."""

    def delete(self, key: str) -> None:
        """Remove the object; it may be gone already."""

    def url(self, key: str) -> str:
        """Return the address under which clients get the object."""

    def probe(self) -> None:
        """Write, read and remove an object.

        Raises:
            StoreError: that did not work; the message says what.
        """
