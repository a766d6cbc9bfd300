"""Where retention keeps what it deletes."""

import os
import stat
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.servers import SeaweedFSServer
from tests.storage.stores import noise
from workers.settings import Settings, SettingsError, load
from workers.storage import ObjectMissing, ObjectStore
from workers.storage.archives import archive_for

KEY = "pern.audit_info/2026/03/01/6f1c2c7e-0f0b-4b5e-9a55-0d6a3c1f1e11-0001-audit_logs.parquet"
TYPE = "application/vnd.apache.parquet"


def settings(folder: Path, **values: object) -> Settings:
    given = {"storage_root": folder / "storage"} | values
    return load(
        {"DATABASE_URL": "postgresql://x"}
        | {f"ROOMKEEPER_{name.upper()}": str(value) for name, value in given.items()}
    )


@pytest.fixture(params=["directory", "bucket"])
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "directory":
        found = archive_for(settings(tmp_path, archive_root=tmp_path / "archive"))
    else:
        server: SeaweedFSServer = request.getfixturevalue("seaweedfs")
        bucket: str = request.getfixturevalue("bucket")
        # Without an `s3` store.
        given = settings(tmp_path, archive_bucket=bucket)
        connection = load({"DATABASE_URL": "postgresql://x"} | server.settings())
        fields = ("s3_endpoint", "s3_region", "s3_access_key", "s3_secret_key")
        found = archive_for(given.model_copy(update={name: getattr(connection, name) for name in fields}))
    assert found is not None
    return found


@pytest.mark.parametrize("size", [0, 1, 9_000_000])
def test_what_is_archived_is_fetched(archive: ObjectStore, source: Path, into: Path, size: int) -> None:
    source.write_bytes(noise(size))
    for _ in range(2):
        archive.put(KEY, source, TYPE)
    fetched = archive.fetch(KEY, into, limit=size)
    assert fetched.size == size
    assert into.read_bytes() == source.read_bytes()
    assert [one.key for one in archive.list("pern.audit_info/2026/")] == [KEY]
    archive.delete_many([KEY])
    with pytest.raises(ObjectMissing):
        archive.fetch(KEY, into, limit=size)


def test_without_a_place_there_is_no_archive(tmp_path: Path) -> None:
    assert archive_for(settings(tmp_path)) is None


def test_nobody_else_may_look_into_the_directory(tmp_path: Path, source: Path) -> None:
    root = tmp_path / "a" / "archive"
    before = os.umask(0)
    try:
        archive = archive_for(settings(tmp_path, archive_root=root))
        again = archive_for(settings(tmp_path, archive_root=root))
    finally:
        os.umask(before)
    assert archive is not None
    assert again is not None
    archive.put(KEY, source, TYPE)
    assert stat.S_IMODE(root.stat().st_mode) == 0o700


def test_what_was_archived_outlives_the_machine(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its bytes, its name, and the names of all new directories above it are on the disk."""
    root = tmp_path / "archive"
    archive = archive_for(settings(tmp_path, archive_root=root))
    assert archive is not None
    synced: list[Path] = []
    fsync = os.fsync

    def note(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    archive.put("a/b/c", source, TYPE)
    assert synced[0].name.startswith(".incoming-")
    assert synced[1:] == [root / "a" / "b", root / "a", root]


@pytest.mark.parametrize("inside", ["", "archive", "a/b", "../storage/archive", "link"])
def test_the_archive_must_not_lie_in_the_store(tmp_path: Path, inside: str) -> None:
    store = tmp_path / "storage"
    store.mkdir()
    (tmp_path / "link").symlink_to(store)
    root = tmp_path / "link" / "a" if inside == "link" else store / inside
    with pytest.raises(SettingsError) as caught:
        archive_for(settings(tmp_path, archive_root=root))
    assert "ROOMKEEPER_ARCHIVE_ROOT" in str(caught.value)
    assert "ROOMKEEPER_STORAGE_ROOT" in str(caught.value)
    assert not list(store.iterdir())


def test_the_archive_may_lie_beside_the_store(tmp_path: Path) -> None:
    assert archive_for(settings(tmp_path, archive_root=tmp_path / "storage2")) is not None


def test_a_directory_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SettingsError, match=r"^ROOMKEEPER_ARCHIVE_ROOT: .*/archive cannot be made: .+\.$"):
        archive_for(settings(tmp_path, archive_root=tmp_path / "file" / "archive"))


def test_an_archive_in_a_bucket_is_private(
    seaweedfs: SeaweedFSServer, bucket: str, tmp_path: Path, source: Path
) -> None:
    values = seaweedfs.settings() | {"ROOMKEEPER_S3_PUBLIC_URL": "https://cdn.example.org"}
    given = load({"DATABASE_URL": "postgresql://x", "ROOMKEEPER_ARCHIVE_BUCKET": bucket} | values)
    archive = archive_for(given)
    assert archive is not None
    archive.put(KEY, source, TYPE)
    with pytest.raises(OSError, match="403"):
        urlopen(f"{seaweedfs.server.address}/{bucket}/{KEY}")
    assert "cdn.example.org" not in archive.url(KEY, TYPE, "").url
