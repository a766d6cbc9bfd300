"""Both stores as the tests see them: from the side of the platform, and from that of everybody else."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tests.servers import SeaweedFSServer
from workers.settings import Settings, load
from workers.storage import ObjectStore
from workers.storage.local import LocalStore
from workers.storage.s3 import Place, S3Store
from workers.storage.s3_client import client_for


class Subject(Protocol):
    """A store under test, empty at first."""

    @property
    def store(self) -> ObjectStore:
        """It."""

    def upload(self, key: str, content: bytes, media_type: str = "application/octet-stream") -> None:
        """Store an object as an API service would, by means of its own."""

    def objects(self) -> dict[str, bytes]:
        """Return all that can be served, by key."""

    def quarantined(self) -> dict[str, bytes]:
        """Return all that is in quarantine, by name."""


@dataclass
class LocalSubject:
    """The `local` store."""

    folder: Path

    def __post_init__(self) -> None:
        (self.folder / "root").mkdir()
        self.store = LocalStore(self.folder / "root", self.folder / "quarantine", "https://cdn.example/f/")

    def upload(self, key: str, content: bytes, media_type: str = "application/octet-stream") -> None:
        path = self.store.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        # As careful services do. One that writes in place is in `test_local.py`.
        fresh = path.with_name(f"{path.name}.new")
        fresh.write_bytes(content)
        fresh.replace(path)

    def objects(self) -> dict[str, bytes]:
        return files(self.store.root)

    def quarantined(self) -> dict[str, bytes]:
        return files(self.store.quarantine_root)


@dataclass
class S3Subject:
    """The `s3` store, in the way `make` makes it."""

    server: SeaweedFSServer
    bucket: str
    make: Callable[[], S3Store]
    quarantine: Place

    def __post_init__(self) -> None:
        self.store = self.make()
        self.client = self.server.client

    def upload(
        self, key: str, content: bytes, media_type: str = "application/octet-stream", **extra: Any
    ) -> None:
        self.client.put_object(Bucket=self.bucket, Key=key, Body=content, ContentType=media_type, **extra)

    def objects(self) -> dict[str, bytes]:
        found = self._all(self.bucket)
        return {
            key: content
            for key, content in found.items()
            if self.quarantine.bucket != self.bucket or not self.quarantine.holds(key)
        }

    def quarantined(self) -> dict[str, bytes]:
        found = self._all(self.quarantine.bucket)
        return {
            key.removeprefix(self.quarantine.prefix): content
            for key, content in found.items()
            if self.quarantine.holds(key)
        }

    def _all(self, bucket: str) -> dict[str, bytes]:
        listed = self.client.list_objects_v2(Bucket=bucket).get("Contents", [])
        return {
            one["Key"]: self.client.get_object(Bucket=bucket, Key=one["Key"])["Body"].read() for one in listed
        }


def files(folder: Path) -> dict[str, bytes]:
    """Return every file below `folder`, hidden ones too."""
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if not path.is_dir()
    }


def s3_settings(
    server: SeaweedFSServer, bucket: str, endpoint: str | None = None, **more: object
) -> Settings:
    """Return settings for the bucket; `more` by field."""
    values = {
        "DATABASE_URL": "postgresql://x",
        **server.settings(endpoint),
        "ROOMKEEPER_S3_BUCKET": bucket,
        # A new bucket takes the server its seconds on a busy machine.
        "ROOMKEEPER_S3_TIMEOUT_SECONDS": "15",
    }
    return load(values | {f"ROOMKEEPER_{name.upper()}": str(value) for name, value in more.items()})


def s3_subject(
    server: SeaweedFSServer,
    bucket: str,
    endpoint: str | None = None,
    quarantine: str | None = None,
    **more: Any,
) -> S3Subject:
    """Return the store of a bucket, through a proxy at `endpoint` if there is one; `more` for `S3Store`."""
    settings = s3_settings(server, bucket, endpoint)
    place = Place(quarantine or bucket, "quarantine/")
    return S3Subject(server, bucket, lambda: S3Store(client_for(settings), bucket, place, **more), place)


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def noise(size: int) -> bytes:
    return os.urandom(size)
