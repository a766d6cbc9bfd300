"""The `local` store, on a real directory: whole objects or none, and no way out of it."""

import hashlib
import os
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from workers.settings import load
from workers.storage import ObjectMissing, ObjectTooLarge, StoreError, UnknownProvider, store_for
from workers.storage.base import CHUNK_BYTES, Fetched
from workers.storage.local import LocalStore

#: Keys that lead out of a store, or nowhere.
HOSTILE = (
    "",
    ".",
    "..",
    "../outside",
    "a/../../outside",
    "a/..",
    "/etc/passwd",
    "//etc/passwd",
    "a\0b",
    "\0",
)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "root", tmp_path / "quarantine", "https://cdn.example.org/files/")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(b"content")
    return path


@pytest.fixture
def into(tmp_path: Path) -> Path:
    return tmp_path / "into"


def files(folder: Path) -> dict[str, bytes]:
    """Return every file below `folder`, hidden ones too."""
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if not path.is_dir()
    }


@contextmanager
def full_disk(after_bytes: int) -> Iterator[None]:
    """Let no file grow beyond so many bytes: what a full disk does, without filling one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (after_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# -- What it is for -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES])
def test_what_is_put_is_fetched(store: LocalStore, source: Path, into: Path, size: int) -> None:
    content = os.urandom(size)
    source.write_bytes(content)
    store.put("a/b/c.bin", source)
    assert store.fetch("a/b/c.bin", into, limit=size) == Fetched(size, hashlib.sha256(content).hexdigest())
    assert into.read_bytes() == content
    assert files(store.root) == {"a/b/c.bin": content}
    assert source.read_bytes() == content


def test_putting_again_overwrites(store: LocalStore, source: Path) -> None:
    store.put("key", source)
    source.write_bytes(b"other")
    store.put("key", source)
    assert files(store.root) == {"key": b"other"}


def test_everybody_may_read_what_is_put(store: LocalStore, source: Path) -> None:
    source.chmod(0o600)
    store.put("key", source)
    assert (store.root / "key").stat().st_mode & 0o777 == 0o644


def test_readers_never_see_half_an_object(store: LocalStore, source: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    whole = {bytes(CHUNK_BYTES * 4), b"\1" * CHUNK_BYTES * 4}
    for path, content in zip((source, other), whole, strict=True):
        path.write_bytes(content)
    store.put("key", source)
    over = threading.Event()

    def write() -> None:
        for _ in range(10):
            store.put("key", other)
            store.put("key", source)
        over.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = set()
    while not over.is_set():
        seen.add((store.root / "key").read_bytes())
    writer.join()
    assert seen <= whole


@pytest.mark.parametrize("size", [999, 1000])
def test_an_object_up_to_the_limit_is_fetched(store: LocalStore, source: Path, into: Path, size: int) -> None:
    source.write_bytes(bytes(size))
    store.put("key", source)
    assert store.fetch("key", into, limit=1000).size == size


@pytest.mark.parametrize("size", [1001, 10 * CHUNK_BYTES])
def test_an_object_over_the_limit_is_not(store: LocalStore, source: Path, into: Path, size: int) -> None:
    source.write_bytes(bytes(size))
    store.put("key", source)
    with pytest.raises(ObjectTooLarge, match="1000"):
        store.fetch("key", into, limit=1000)
    assert into.stat().st_size <= 1000


def test_a_missing_object_is_said_to_be_missing(store: LocalStore, into: Path) -> None:
    store.root.mkdir()
    with pytest.raises(ObjectMissing):
        store.fetch("nothing", into, limit=1)
    with pytest.raises(ObjectMissing):
        store.fetch_quarantined("nothing", into, limit=1)
    with pytest.raises(ObjectMissing):
        store.quarantine("nothing", "nothing")


def test_what_can_be_no_object_is_missing_and_not_a_fault_of_the_store(
    store: LocalStore, source: Path, into: Path
) -> None:
    store.put("folder/file", source)
    (store.root / "loop").symlink_to("loop")
    for key in ("folder", "folder/file/below", "x" * 300, "x/" * 3000, "loop"):
        with pytest.raises(ObjectMissing):
            store.fetch(key, into, limit=100)


def test_a_missing_store_is_not_a_missing_object(store: LocalStore, source: Path, into: Path) -> None:
    store.put("key", source)
    store.root.rename(store.root.with_name("unmounted"))
    for _ in range(2):
        with pytest.raises(StoreError) as caught:
            store.fetch("key", into, limit=100)
        assert not isinstance(caught.value, ObjectMissing)
        store.root.write_bytes(b"no directory")


def test_deleting_twice_is_the_same(store: LocalStore, source: Path) -> None:
    store.put("a/key", source)
    store.put("a/other", source)
    store.delete("a/key")
    store.delete("a/key")
    store.delete("never/was")
    assert files(store.root) == {"a/other": b"content"}


@pytest.mark.parametrize(
    ("key", "url"),
    [
        ("uploads/a.png", "https://cdn.example.org/files/uploads/a.png"),
        ("a b/ü&?#%.png", "https://cdn.example.org/files/a%20b/%C3%BC%26%3F%23%25.png"),
        ("a//b/./c", "https://cdn.example.org/files/a/b/c"),
        ('"><script>', "https://cdn.example.org/files/%22%3E%3Cscript%3E"),
        ("https://evil.org/x", "https://cdn.example.org/files/https%3A/evil.org/x"),
    ],
)
def test_a_key_has_an_address(store: LocalStore, key: str, url: str) -> None:
    assert store.url(key) == url


# -- Quarantine ---------------------------------------------------------------------------------------------


def test_what_is_quarantined_is_out_of_the_store(store: LocalStore, source: Path, into: Path) -> None:
    store.put("uploads/evil", source)
    store.put("uploads/good", source)
    assert store.quarantine("uploads/evil", "openchat/1") == "openchat/1"
    assert files(store.root) == {"uploads/good": b"content"}
    assert files(store.quarantine_root) == {"openchat/1": b"content"}
    fetched = store.fetch_quarantined("openchat/1", into, limit=7)
    assert fetched == Fetched(7, hashlib.sha256(b"content").hexdigest())
    with pytest.raises(ObjectTooLarge):
        store.fetch_quarantined("openchat/1", into, limit=6)


def test_quarantining_again_ends_the_same(store: LocalStore, source: Path) -> None:
    store.put("evil", source)
    store.quarantine("evil", "1")
    store.quarantine("evil", "1")
    assert (files(store.root), files(store.quarantine_root)) == ({}, {"1": b"content"})


def test_a_crash_between_copy_and_removal_is_ended_by_the_next_attempt(
    store: LocalStore, source: Path
) -> None:
    store.put("evil", source)
    store.quarantine_root.mkdir()
    (store.quarantine_root / "1").write_bytes(b"cont")
    store.quarantine("evil", "1")
    assert (files(store.root), files(store.quarantine_root)) == ({}, {"1": b"content"})


def test_an_object_that_can_not_be_quarantined_stays_where_it_is(store: LocalStore, source: Path) -> None:
    source.write_bytes(bytes(100_000))
    store.put("evil", source)
    with full_disk(10_000), pytest.raises(StoreError):
        store.quarantine("evil", "1")
    assert files(store.root) == {"evil": bytes(100_000)}
    assert files(store.quarantine_root) == {}


# -- Hostile keys -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", HOSTILE)
def test_a_hostile_key_leads_nowhere(store: LocalStore, source: Path, into: Path, key: str) -> None:
    outside = store.root.parent / "outside"
    outside.write_bytes(b"secret")
    store.put("a/file", source)
    before = files(store.root.parent)
    for attempt in (
        lambda: store.fetch(key, into, limit=100),
        lambda: store.fetch_quarantined(key, into, limit=100),
        lambda: store.put(key, source),
        lambda: store.quarantine(key, "1"),
        lambda: store.quarantine("a/file", key),
        lambda: store.delete(key),
        lambda: store.url(key),
    ):
        with pytest.raises(StoreError):
            attempt()
    assert files(store.root.parent) == before


def test_a_link_does_not_lead_out_of_the_store(store: LocalStore, source: Path, into: Path) -> None:
    outside = store.root.parent / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    store.put("a/file", source)
    (store.root / "link").symlink_to(outside / "secret")
    (store.root / "folder").symlink_to(outside)
    (store.root / "a" / "up").symlink_to("../../outside")
    for key in ("link", "folder/secret", "a/up/secret"):
        for attempt in (
            lambda key=key: store.fetch(key, into, limit=100),
            lambda key=key: store.put(key, source),
            lambda key=key: store.quarantine(key, "1"),
            lambda key=key: store.delete(key),
        ):
            with pytest.raises(StoreError):
                attempt()
    assert files(outside) == {"secret": b"secret"}
    assert not into.exists()


def test_a_store_may_itself_be_a_link(tmp_path: Path, source: Path, into: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "root").symlink_to("disk")
    store = LocalStore(tmp_path / "root", tmp_path / "quarantine", "/files")
    store.put("a/key", source)
    assert store.fetch("a/key", into, limit=7).size == 7


# -- Disks that fail ----------------------------------------------------------------------------------------


def test_a_full_disk_is_the_stores_fault_and_leaves_what_was_there(store: LocalStore, source: Path) -> None:
    store.put("key", source)
    source.write_bytes(bytes(100_000))
    with full_disk(10_000), pytest.raises(StoreError) as caught:
        store.put("key", source)
    assert not isinstance(caught.value, ObjectMissing | ObjectTooLarge)
    assert files(store.root) == {"key": b"content"}


def test_a_full_disk_for_temporary_files_is_said(store: LocalStore, source: Path) -> None:
    store.put("key", source)
    with pytest.raises(StoreError, match="No space left"):
        store.fetch("key", Path("/dev/full"), limit=100)


def test_faults_do_not_name_the_path(store: LocalStore, source: Path, into: Path) -> None:
    store.put("ada-lovelace", source)
    with pytest.raises(StoreError) as caught:
        store.put("ada-lovelace/below", source)
    assert "ada" not in str(caught.value)
    with pytest.raises(StoreError) as caught:
        store.fetch("grace-hopper", into, limit=1)
    assert "grace" not in str(caught.value)


def test_a_probe_leaves_nothing(store: LocalStore) -> None:
    store.root.mkdir()
    store.probe()
    assert files(store.root) == {}


def test_a_probe_says_what_does_not_work(store: LocalStore) -> None:
    store.root.write_bytes(b"no directory")
    with pytest.raises(StoreError, match=str(store.root)):
        store.probe()


def test_the_store_is_found_by_its_name(tmp_path: Path) -> None:
    settings = load(
        {
            "DATABASE_URL": "postgresql://x",
            "ROOMKEEPER_STORAGE_ROOT": str(tmp_path / "root"),
            "ROOMKEEPER_QUARANTINE_ROOT": str(tmp_path / "quarantine"),
            "ROOMKEEPER_STORAGE_URL": "/f/",
        }
    )
    store = store_for("local", settings)
    assert isinstance(store, LocalStore)
    assert (store.root, store.quarantine_root) == (tmp_path / "root", tmp_path / "quarantine")
    assert store.url("a") == "/f/a"
    for provider in ("", "LOCAL", "gcs", "cloudinary"):
        with pytest.raises(UnknownProvider, match=repr(provider)):
            store_for(provider, settings)
