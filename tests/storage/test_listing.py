"""What stores can list and remove many of: the same tests for all of them, each on the real thing."""

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.fault_proxy import Fault, FaultProxy
from tests.servers import SeaweedFSServer
from tests.storage import test_contract
from tests.storage.stores import LocalSubject, S3Subject, Subject, s3_subject
from tests.storage.test_contract import HOSTILE, STRANGE, refused
from workers.storage import ObjectMissing, StoreError
from workers.storage.base import ObjectsKept, Stored
from workers.storage.local import LocalStore

subject = test_contract.subject


def listed(subject: Subject, prefix: str) -> set[str]:
    found = [one.key for one in subject.store.list(prefix)]
    assert len(found) == len(set(found))
    return set(found)


def _upload(subject: Subject, keys: Iterable[str]) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: subject.upload(key, b""), keys))


@contextmanager
def deletions(subject: S3Subject) -> Iterator[list[dict[str, Any]]]:
    """Note the requests that delete many objects."""
    seen: list[dict[str, Any]] = []

    def note(params: dict[str, Any], **_: object) -> None:
        seen.append(params["Delete"])

    events = subject.store._client.meta.events
    events.register("provide-client-params.s3.DeleteObjects", note)
    try:
        yield seen
    finally:
        events.unregister("provide-client-params.s3.DeleteObjects", note)


# -- list ---------------------------------------------------------------------------------------------------


def test_everything_below_a_prefix_is_listed(subject: Subject) -> None:
    for key in ("uploads/1", "uploads/a/b/c", "uploads2/1", "up", "derived/openchat/1/small.webp"):
        subject.upload(key, key.encode())
    assert listed(subject, "uploads/") == {"uploads/1", "uploads/a/b/c"}
    assert listed(subject, "uploads/a") == {"uploads/a/b/c"}
    assert listed(subject, "uploads") == {"uploads/1", "uploads/a/b/c", "uploads2/1"}
    assert listed(subject, "u") == {"uploads/1", "uploads/a/b/c", "uploads2/1", "up"}
    assert listed(subject, "derived/openchat/1/small.webp") == {"derived/openchat/1/small.webp"}
    assert listed(subject, "nothing/") == listed(subject, "uploads/1/") == set()


def test_an_object_is_listed_with_its_size_and_time(subject: Subject) -> None:
    before = datetime.now(UTC) - timedelta(seconds=2)
    subject.upload("uploads/1", b"content")
    subject.upload("uploads/2", b"")
    found = {one.key: one for one in subject.store.list("uploads/")}
    assert {key: one.size for key, one in found.items()} == {"uploads/1": 7, "uploads/2": 0}
    for one in found.values():
        assert before <= one.modified <= datetime.now(UTC) + timedelta(seconds=2)


@pytest.mark.parametrize("key", STRANGE)
def test_a_strange_key_is_listed_and_removed_as_it_is(subject: Subject, key: str) -> None:
    subject.upload(f"uploads/{key}", b"1")
    subject.upload("uploads/other", b"1")
    assert listed(subject, "uploads/") == {f"uploads/{key}", "uploads/other"}
    subject.store.delete_many([f"uploads/{key}"])
    assert set(subject.objects()) == {"uploads/other"}


def test_more_than_a_page_is_listed(subject: Subject) -> None:
    keys = {f"uploads/{number % 7}/{number}" for number in range(1, 1102)}
    _upload(subject, keys)
    assert listed(subject, "uploads/") == keys


def test_neither_what_is_in_quarantine_nor_what_is_half_written_is_listed(
    subject: Subject, source: Path
) -> None:
    for key in ("q", "quarantine-not/1", "uploads/1", "uploads/2"):
        subject.upload(key, b"1")
    subject.store.quarantine("uploads/1", "openchat/1")
    if isinstance(subject, LocalSubject):
        (subject.store.root / "uploads" / f".incoming-{'0' * 32}").write_bytes(b"half")
    assert listed(subject, "uploads/") == {"uploads/2"}
    assert listed(subject, "q") == {"q", "quarantine-not/1"}


def test_a_listing_is_streamed(subject: Subject) -> None:
    for number in range(3):
        subject.upload(f"uploads/{number}/1", b"1")
    stream = subject.store.list("uploads/")
    assert isinstance(next(stream), Stored)
    stream.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("prefix", HOSTILE, ids=lambda prefix: repr(prefix)[:12])
def test_a_prefix_that_leads_nowhere_is_refused_at_once(subject: Subject, prefix: str) -> None:
    refused(lambda: subject.store.list(prefix))


@pytest.mark.parametrize("prefix", ["quarantine/", "quarantine", "quarantine/openchat", "//quarantine/"])
def test_a_prefix_does_not_lead_into_the_quarantine(
    seaweedfs: SeaweedFSServer, bucket: str, tmp_path: Path, prefix: str
) -> None:
    subject = s3_subject(seaweedfs, bucket)
    refused(lambda: subject.store.list(prefix))
    local = LocalStore(tmp_path, tmp_path / "quarantine", "")
    (tmp_path / "quarantine").mkdir()
    refused(lambda: local.list(prefix))


def test_a_quarantine_inside_the_store_is_not_listed(tmp_path: Path) -> None:
    store = LocalStore(tmp_path, tmp_path / "a" / "quarantine", "")
    for path in ("a/1", "a/quarantine/2"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(b"1")
    assert [one.key for one in store.list("a/")] == ["a/1"]


# -- list, a directory ----------------------------------------------------------------------------------


@pytest.fixture
def local(tmp_path: Path) -> LocalSubject:
    return LocalSubject(tmp_path)


def test_a_store_that_is_not_there_is_not_an_empty_one(local: LocalSubject) -> None:
    local.store.root.rmdir()
    refused(lambda: local.store.list("uploads/"), StoreError)


def test_links_are_not_followed(local: LocalSubject, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_bytes(b"1")
    local.upload("uploads/1", b"1")
    for name, target in (
        ("out", tmp_path / "outside"),
        ("file", tmp_path / "outside" / "secret"),
        ("up", ".."),
    ):
        (local.store.root / "uploads" / name).symlink_to(target)
    assert listed(local, "uploads/") == {"uploads/1"}
    refused(lambda: local.store.list("uploads/out/"))


def test_names_that_are_no_keys_are_passed_over(local: LocalSubject) -> None:
    local.upload("uploads/1", b"1")
    folder = os.fsencode(local.store.root / "uploads")
    for name in (b"\xff", b"a\nb"):
        Path(os.fsdecode(folder + b"/" + name)).write_bytes(b"1")
    Path(os.fsdecode(folder + b"/\xfe")).mkdir()
    Path(os.fsdecode(folder + b"/\xfe/2")).write_bytes(b"1")
    assert listed(local, "uploads/") == {"uploads/1"}


def test_a_copy_is_as_young_as_itself(local: LocalSubject) -> None:
    """Whatever time it keeps of what it was copied from."""
    local.upload("uploads/1", b"1")
    os.utime(local.store.root / "uploads" / "1", (0, 0))
    (one,) = local.store.list("uploads/")
    assert datetime.now(UTC) - one.modified < timedelta(minutes=1)


def test_what_vanishes_meanwhile_does_not_matter(local: LocalSubject) -> None:
    for number in range(200):
        local.upload(f"uploads/{number}/1", b"1")
    stream = local.store.list("uploads/")
    next(stream)
    for folder in (local.store.root / "uploads").iterdir():
        (folder / "1").unlink()
        folder.rmdir()
    assert len(list(stream)) < 200


def test_a_directory_that_cannot_be_read_is_a_fault(
    local: LocalSubject, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str) -> Any:
        raise PermissionError(13, "Permission denied", path)

    local.upload("uploads/1", b"1")
    monkeypatch.setattr(os, "scandir", refuse)
    refused(lambda: list(local.store.list("uploads/")), StoreError)


# -- delete_many and discard ----------------------------------------------------------------------------


def test_many_are_removed_missing_ones_too(subject: Subject) -> None:
    for key in ("uploads/1", "uploads/2", "uploads/3"):
        subject.upload(key, b"1")
    for _ in range(2):
        subject.store.delete_many(["uploads/1", "uploads/3", "never/was", "uploads/2/below"])
        assert set(subject.objects()) == {"uploads/2"}
    subject.store.delete_many([])


def test_what_was_quarantined_is_discarded_by_its_name(subject: Subject) -> None:
    for number in range(3):
        subject.upload(f"openchat/{number}", b"evil")
        subject.store.quarantine(f"openchat/{number}", f"openchat/{number}")
    subject.upload("openchat/1", b"here")
    for _ in range(2):
        subject.store.discard(["openchat/1", "openchat/2", "never/was"])
        assert set(subject.quarantined()) == {"openchat/0"}
    assert set(subject.objects()) == {"openchat/1"}


@pytest.mark.parametrize("key", HOSTILE, ids=lambda key: repr(key)[:12])
def test_a_hostile_key_among_many_leads_nowhere(subject: Subject, key: str) -> None:
    subject.upload("a/file", b"here")
    subject.upload("evil", b"evil")
    subject.store.quarantine("evil", "1")
    refused(lambda: subject.store.delete_many(["a/file", key]))
    refused(lambda: subject.store.discard(["1", key]))
    assert (set(subject.objects()), set(subject.quarantined())) == ({"a/file"}, {"1"})


@pytest.fixture
def s3(seaweedfs: SeaweedFSServer, bucket: str) -> S3Subject:
    return s3_subject(seaweedfs, bucket)


def test_what_is_in_quarantine_is_not_removed_by_its_key(s3: S3Subject, into: Path) -> None:
    s3.upload("evil", b"evil")
    s3.store.quarantine("evil", "1")
    # The server takes each of them for the same.
    for key in ("quarantine/1", "quarantine//1", "quarantine\\1", "\\quarantine/1"):
        with pytest.raises(ObjectMissing, match="into the quarantine"):
            s3.store.delete_many([key])
        with pytest.raises(ObjectMissing, match="into the quarantine"):
            s3.store.fetch(key, into, limit=4)
        with pytest.raises(ObjectMissing, match="into the quarantine"):
            s3.store.list(key)
    assert set(s3.quarantined()) == {"1"}


@pytest.mark.parametrize(
    ("count", "sizes"), [(1, [1]), (1000, [1000]), (1001, [1000, 1]), (1100, [1000, 100])]
)
def test_a_request_removes_a_thousand_at_most(s3: S3Subject, count: int, sizes: list[int]) -> None:
    keys = [f"uploads/ü & <{number}>+ .png" for number in range(count)]
    # The others are missing.
    _upload(s3, keys[-200:])
    s3.upload("uploads/other", b"")
    with deletions(s3) as seen:
        s3.store.delete_many(keys)
    assert [len(one["Objects"]) for one in seen] == sizes
    assert all(one["Quiet"] for one in seen)
    assert listed(s3, "uploads/") == {"uploads/other"}


@pytest.fixture
def refusing(s3: S3Subject) -> Iterator[Callable[[dict[str, str]], None]]:
    """Let the store's answers say that it has refused these keys, with these codes."""
    codes: dict[str, str] = {}

    def answer(parsed: dict[str, Any], **_: object) -> None:
        parsed["Errors"] = [{"Key": key, "Code": code, "Message": f"{key}!"} for key, code in codes.items()]

    events = s3.store._client.meta.events
    events.register("after-call.s3.DeleteObjects", answer)
    yield codes.update
    events.unregister("after-call.s3.DeleteObjects", answer)


def test_what_the_store_refuses_is_told_without_keys(
    s3: S3Subject, refusing: Callable[[dict[str, str]], None]
) -> None:
    refusing({"a": "NoSuchKey", "b": "AccessDenied", "c": "InternalError"})
    with pytest.raises(ObjectsKept) as caught:
        s3.store.delete_many([str(number) for number in range(1001)])
    # Of both requests.
    assert (caught.value.count, str(caught.value)) == (
        4,
        "the store refused to remove 4 of 1,001 objects: AccessDenied",
    )


def test_what_is_only_missing_is_no_refusal(
    s3: S3Subject, refusing: Callable[[dict[str, str]], None]
) -> None:
    refusing({"a": "NoSuchKey"})
    s3.store.delete_many(["a"])


def test_what_a_directory_refuses_is_told_and_the_others_are_removed(
    local: LocalSubject, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in ("a/1", "b/2", "c/3"):
        local.upload(key, b"1")
    unlink = Path.unlink

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if path.name == "2":
            raise PermissionError(1, "Operation not permitted", str(path))
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(ObjectsKept) as caught:
        local.store.delete_many(["a/1", "b/2", "c/3"])
    assert str(caught.value) == "the store refused to remove 1 of 3 objects: Operation not permitted"
    assert set(local.objects()) == {"b/2"}


# -- a store that is away ---------------------------------------------------------------------------------


@pytest.fixture
def proxy(seaweedfs: SeaweedFSServer) -> Iterator[FaultProxy]:
    proxy = FaultProxy(seaweedfs.server.ports["s3"])
    yield proxy
    proxy.close()


def test_a_listing_that_breaks_off_is_no_short_one(
    seaweedfs: SeaweedFSServer, bucket: str, proxy: FaultProxy
) -> None:
    subject = s3_subject(seaweedfs, bucket, proxy.address)
    _upload(subject, [f"uploads/{number}" for number in range(1001)])
    for fault in (Fault(status=503, after=1), Fault(cut=0.5, after=1)):
        seen = 0
        with proxy.doing(fault), pytest.raises(StoreError):
            for _ in subject.store.list("uploads/"):
                seen += 1
        assert seen == 1000


def test_a_store_that_is_away_says_so(seaweedfs: SeaweedFSServer, bucket: str, proxy: FaultProxy) -> None:
    store = s3_subject(seaweedfs, bucket, proxy.address).store
    with proxy.doing(Fault(methods=("POST",), status=503)):
        for remove in (store.delete_many, store.discard):
            with pytest.raises(StoreError, match="SlowDown"):
                remove(["a"])


def test_memory_does_not_grow_with_a_directory(local: LocalSubject) -> None:
    """Directories are entered as they are met, not collected."""
    for number in range(300):
        local.upload(f"uploads/{number}/1", b"1")
    opened: list[str] = []
    scandir = os.scandir
    lock = threading.Lock()

    def note(path: str) -> Any:
        with lock:
            opened.append(path)
        return scandir(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "scandir", note)
        stream = local.store.list("uploads/")
        next(stream)
        assert len(opened) == 2
        assert sum(1 for _ in stream) == 299
