"""What only the `local` store promises, on a real directory: whole files or none, and no way out of it."""

import fcntl
import os
import resource
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import pytest

from tests.platform import eventually
from tests.storage.stores import files
from workers.settings import load
from workers.storage import (
    ObjectChanged,
    ObjectMissing,
    ObjectTooLarge,
    ObjectUrl,
    StoreError,
    UnknownProvider,
    store_for,
)
from workers.storage.base import CHUNK_BYTES
from workers.storage.local import LocalStore


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "root", tmp_path / "quarantine", "https://cdn.example.org/files/")


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


def test_everybody_may_read_what_is_put(store: LocalStore, source: Path) -> None:
    source.chmod(0o600)
    store.put("key", source, "text/plain")
    assert (store.root / "key").stat().st_mode & 0o777 == 0o644


def test_readers_never_see_half_an_object(store: LocalStore, source: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    whole = {bytes(CHUNK_BYTES * 4), b"\1" * CHUNK_BYTES * 4}
    for path, content in zip((source, other), whole, strict=True):
        path.write_bytes(content)
    store.put("key", source, "text/plain")
    over = threading.Event()

    def write() -> None:
        for _ in range(10):
            store.put("key", other, "text/plain")
            store.put("key", source, "text/plain")
        over.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = set()
    while not over.is_set():
        seen.add((store.root / "key").read_bytes())
    writer.join()
    assert seen <= whole


def test_what_can_be_no_object_is_missing_and_not_a_fault_of_the_store(
    store: LocalStore, source: Path, into: Path
) -> None:
    store.put("folder/file", source, "text/plain")
    (store.root / "loop").symlink_to("loop")
    for key in ("folder", "folder/file/below", "x" * 300, "x/" * 3000, "loop"):
        with pytest.raises(ObjectMissing):
            store.fetch(key, into, limit=100)


def test_a_missing_store_is_not_a_missing_object(store: LocalStore, source: Path, into: Path) -> None:
    store.put("key", source, "text/plain")
    store.root.rename(store.root.with_name("unmounted"))
    for _ in range(2):
        with pytest.raises(StoreError) as caught:
            store.fetch("key", into, limit=100)
        assert not isinstance(caught.value, ObjectMissing)
        store.root.write_bytes(b"no directory")


@pytest.mark.parametrize(
    ("key", "url"),
    [
        ("uploads/a.png", "https://cdn.example.org/files/uploads/a.png"),
        ("a b/ü&?#%.png", "https://cdn.example.org/files/a%20b/%C3%BC%26%3F%23%25.png"),
        ("a//b/c", "https://cdn.example.org/files/a/b/c"),
        ('"><script>', "https://cdn.example.org/files/%22%3E%3Cscript%3E"),
        ("https://evil.org/x", "https://cdn.example.org/files/https%3A/evil.org/x"),
    ],
)
def test_a_key_has_an_address(store: LocalStore, key: str, url: str) -> None:
    assert store.url(key, "image/png", "a.png") == ObjectUrl(url, None)


# -- Somebody else writes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"CONTENT", b"content and more", b"cont"])
def test_a_file_that_is_written_in_place_is_noticed(
    store: LocalStore, source: Path, into: Path, content: bytes
) -> None:
    store.put("key", source, "text/plain")
    version = store.fetch("key", into, limit=7).version
    path = store.root / "key"
    before = path.stat().st_mtime_ns
    # As soon as the file system's clock has ticked.
    while path.stat().st_mtime_ns == before:
        path.write_bytes(content)
    with pytest.raises(ObjectChanged):
        store.publish("key", version, "text/plain", "")


@pytest.mark.parametrize("replaced", [True, False], ids=["replaced", "appended to"])
def test_a_file_that_is_written_while_it_is_read_is_not_accepted(
    store: LocalStore, tmp_path: Path, replaced: bool
) -> None:
    source = tmp_path / "source"
    source.write_bytes(bytes(3 * CHUNK_BYTES))
    store.put("key", source, "text/plain")
    # Reading stops at a pipe that nobody empties, and meanwhile the file is written.
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as pool:
        fetching = pool.submit(store.fetch, "key", pipe, limit=100 * CHUNK_BYTES)
        with pipe.open("rb") as end:
            end.read(1)
            if replaced:
                store.put("key", source, "text/plain")
            else:
                with (store.root / "key").open("ab") as file:
                    file.write(b"1")
            end.read()
        with pytest.raises(ObjectChanged):
            fetching.result()


def test_what_a_killed_process_leaves_is_taken_up_by_the_next(store: LocalStore, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    source = tmp_path / "source"
    source.write_bytes(b"whole")

    def half_written(key: str) -> None:
        if (child := os.fork()) == 0:
            store.put(key, pipe, "text/plain")
            os._exit(0)
        with pipe.open("wb", buffering=0) as end:
            # More than what comes after it, and than what is kept in memory.
            end.write(b"half" * CHUNK_BYTES)
            (incoming,) = eventually(
                lambda: [path for path in store.root.glob(".incoming-*") if path.stat().st_size]
            )
            # No other process may write it meanwhile.
            with pytest.raises(StoreError, match="another process"):
                store.put(key, source, "text/plain")
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        assert incoming.exists()

    half_written("key")
    assert (store.root / "key").exists() is False
    store.put("key", source, "text/plain")
    assert files(store.root) == {"key": b"whole"}
    half_written("other")
    store.delete("other")
    assert files(store.root) == {"key": b"whole"}


def test_who_comes_too_late_does_not_write_into_what_another_has_finished(
    store: LocalStore, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock = fcntl.flock

    def finished_meanwhile(file: BinaryIO, operation: int) -> None:
        (incoming,) = store.root.glob(".incoming-*")
        incoming.write_bytes(b"theirs")
        incoming.replace(store.root / "key")
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", finished_meanwhile)
    with pytest.raises(StoreError, match="another process"):
        store.put("key", source, "text/plain")
    assert files(store.root) == {"key": b"theirs"}


def test_two_who_write_the_same_object_leave_one_of_them_whole(store: LocalStore, tmp_path: Path) -> None:
    contents = [bytes([number]) * CHUNK_BYTES * 8 for number in range(4)]
    sources = []
    for number, content in enumerate(contents):
        sources.append(tmp_path / f"source-{number}")
        sources[-1].write_bytes(content)

    def write(source: Path) -> None:
        for _ in range(20):
            with suppress(StoreError):
                store.put("key", source, "text/plain")
            assert (store.root / "key").read_bytes() in contents

    store.put("key", sources[0], "text/plain")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, sources))
    assert files(store.root).keys() == {"key"}


# -- Quarantine ---------------------------------------------------------------------------------------------


def test_a_crash_between_copy_and_removal_is_ended_by_the_next_attempt(
    store: LocalStore, source: Path
) -> None:
    store.put("evil", source, "text/plain")
    store.quarantine_root.mkdir()
    (store.quarantine_root / "1").write_bytes(b"cont")
    store.quarantine("evil", "1")
    assert (files(store.root), files(store.quarantine_root)) == ({}, {"1": b"content"})


def test_an_object_that_cannot_be_quarantined_stays_where_it_is(store: LocalStore, source: Path) -> None:
    source.write_bytes(bytes(100_000))
    store.put("evil", source, "text/plain")
    with full_disk(10_000), pytest.raises(StoreError):
        store.quarantine("evil", "1")
    assert files(store.root) == {"evil": bytes(100_000)}
    assert files(store.quarantine_root) == {}


# -- Hostile keys -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["/etc/passwd", "//etc/passwd"])
def test_a_key_is_relative(store: LocalStore, source: Path, into: Path, key: str) -> None:
    for attempt in (
        lambda: store.fetch(key, into, limit=10_000),
        lambda: store.put(key, source, "text/plain"),
        lambda: store.delete(key),
        lambda: store.url(key, "text/plain", ""),
    ):
        store.root.mkdir(exist_ok=True)
        with pytest.raises(ObjectMissing):
            attempt()


def test_a_link_does_not_lead_out_of_the_store(store: LocalStore, source: Path, into: Path) -> None:
    outside = store.root.parent / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    store.put("a/file", source, "text/plain")
    (store.root / "link").symlink_to(outside / "secret")
    (store.root / "folder").symlink_to(outside)
    (store.root / "a" / "up").symlink_to("../../outside")
    for key in ("link", "folder/secret", "a/up/secret"):
        for attempt in (
            lambda key=key: store.fetch(key, into, limit=100),
            lambda key=key: store.put(key, source, "text/plain"),
            lambda key=key: store.publish(key, "", "text/plain", ""),
            lambda key=key: store.quarantine(key, "1"),
            lambda key=key: store.restore("1", key),
            lambda key=key: store.delete(key),
        ):
            with pytest.raises(StoreError):
                attempt()
    assert files(outside) == {"secret": b"secret"}
    assert not into.exists()


def test_a_link_does_not_lead_to_pictures(store: LocalStore, source: Path, into: Path) -> None:
    store.put("derived/openchat/1/small.webp", source, "image/webp")
    (store.root / "alias").symlink_to("derived")
    with pytest.raises(ObjectMissing):
        store.fetch("alias/openchat/1/small.webp", into, limit=100)


def test_a_store_may_itself_be_a_link(tmp_path: Path, source: Path, into: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "root").symlink_to("disk")
    store = LocalStore(tmp_path / "root", tmp_path / "quarantine", "/files")
    store.put("a/key", source, "text/plain")
    assert store.fetch("a/key", into, limit=7).size == 7


# -- Disks that fail ----------------------------------------------------------------------------------------


def test_a_full_disk_is_the_stores_fault_and_leaves_what_was_there(store: LocalStore, source: Path) -> None:
    store.put("key", source, "text/plain")
    source.write_bytes(bytes(100_000))
    with full_disk(10_000), pytest.raises(StoreError) as caught:
        store.put("key", source, "text/plain")
    assert not isinstance(caught.value, ObjectMissing | ObjectTooLarge)
    assert files(store.root) == {"key": b"content"}


def test_a_full_disk_for_temporary_files_is_said(store: LocalStore, source: Path) -> None:
    store.put("key", source, "text/plain")
    with pytest.raises(StoreError, match="No space left"):
        store.fetch("key", Path("/dev/full"), limit=100)


def test_faults_do_not_name_the_path(store: LocalStore, source: Path, into: Path) -> None:
    store.put("ada-lovelace", source, "text/plain")
    with pytest.raises(StoreError) as caught:
        store.put("ada-lovelace/below", source, "text/plain")
    assert "ada" not in str(caught.value)
    with pytest.raises(StoreError) as caught:
        store.fetch("grace-hopper", into, limit=1)
    assert "grace" not in str(caught.value)


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
    assert store.url("a", "", "").url == "/f/a"
    for provider in ("", "LOCAL", "gcs", "cloudinary"):
        with pytest.raises(UnknownProvider, match=repr(provider)):
            store_for(provider, settings)
