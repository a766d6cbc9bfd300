"""What every store promises: the same tests for all of them, each on the real thing."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.servers import SeaweedFSServer
from tests.storage.stores import LocalSubject, Subject, digest, noise, s3_subject
from workers.storage import ObjectChanged, ObjectMissing, ObjectTooLarge, StoreError
from workers.storage.base import CHUNK_BYTES

#: Keys under which there can be nothing, in no store.
HOSTILE = (
    "",
    ".",
    "..",
    "../outside",
    "a/../../outside",
    "a/..",
    "a/./b",
    "a\0b",
    "\0",
    "a\nb",
    "a\x7fb",
    "a\ud800b",
    "x" * 1025,
    "é" * 513,
)
#: Keys that are fine.
STRANGE = ("ü/ñ 日本 🙂.png", "a+b&c=d%20?#;,.txt", "Bild\u202fvon heute.png", "..a/b..c/...", "é" * 100)


@pytest.fixture(params=["local", "s3", "s3-two-buckets"])
def subject(request: pytest.FixtureRequest, tmp_path: Path) -> Subject:
    if request.param == "local":
        return LocalSubject(tmp_path)
    server: SeaweedFSServer = request.getfixturevalue("seaweedfs")
    bucket: str = request.getfixturevalue("bucket")
    if request.param == "s3":
        return s3_subject(server, bucket)
    other = f"{bucket}-quarantine"
    server.client.create_bucket(Bucket=other)
    request.addfinalizer(lambda: server.client.delete_bucket(Bucket=other))
    return s3_subject(server, bucket, quarantine=other)


def refused(attempt: Callable[[], object], fault: type[StoreError] = ObjectMissing) -> None:
    with pytest.raises(StoreError) as caught:
        attempt()
    assert type(caught.value) is fault, repr(caught.value)


# -- fetch and put ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES])
def test_what_is_put_is_fetched(subject: Subject, source: Path, into: Path, size: int) -> None:
    content = noise(size)
    source.write_bytes(content)
    subject.store.put("a/b/c.bin", source, "image/png", "c.png")
    fetched = subject.store.fetch("a/b/c.bin", into, limit=size)
    assert (fetched.size, fetched.sha256) == (size, digest(content))
    assert into.read_bytes() == content
    assert subject.objects() == {"a/b/c.bin": content}
    assert source.read_bytes() == content


def test_what_services_store_is_fetched(subject: Subject, into: Path) -> None:
    subject.upload("uploads/1.png", b"png")
    fetched = subject.store.fetch("uploads/1.png", into, limit=3)
    assert (fetched.size, fetched.sha256) == (3, digest(b"png"))


def test_putting_again_overwrites(subject: Subject, source: Path) -> None:
    subject.store.put("key", source, "text/plain")
    source.write_bytes(b"other")
    subject.store.put("key", source, "text/plain")
    subject.store.put("key", source, "text/plain")
    assert subject.objects() == {"key": b"other"}


@pytest.mark.parametrize("size", [999, 1000])
def test_an_object_up_to_the_limit_is_fetched(subject: Subject, into: Path, size: int) -> None:
    subject.upload("key", bytes(size))
    assert subject.store.fetch("key", into, limit=1000).size == size


@pytest.mark.parametrize("size", [1001, 10 * CHUNK_BYTES])
def test_an_object_over_the_limit_is_not(subject: Subject, into: Path, size: int) -> None:
    subject.upload("key", bytes(size))
    with pytest.raises(ObjectTooLarge, match="1000"):
        subject.store.fetch("key", into, limit=1000)
    assert into.stat().st_size <= 1000


def test_a_missing_object_is_said_to_be_missing(subject: Subject, into: Path) -> None:
    store = subject.store
    refused(lambda: store.fetch("nothing", into, limit=1))
    refused(lambda: store.fetch_quarantined("nothing", into, limit=1))
    refused(lambda: store.quarantine("nothing", "nothing"))
    refused(lambda: store.restore("nothing", "nothing"))
    subject.upload("key", b"1")
    version = store.fetch("key", into, limit=1).version
    store.delete("key")
    refused(lambda: store.publish("key", version, "text/plain", ""))


def test_deleting_twice_is_the_same(subject: Subject) -> None:
    subject.upload("a/key", b"1")
    subject.upload("a/other", b"2")
    subject.store.delete("a/key")
    subject.store.delete("a/key")
    subject.store.delete("never/was")
    assert subject.objects() == {"a/other": b"2"}


@pytest.mark.parametrize("key", STRANGE)
def test_a_strange_key_is_a_key(subject: Subject, source: Path, into: Path, key: str) -> None:
    store = subject.store
    store.put(key, source, "text/plain")
    fetched = store.fetch(key, into, limit=7)
    store.publish(key, fetched.version, "text/plain", "a.txt")
    store.quarantine(key, "1")
    assert (subject.objects(), subject.quarantined()) == ({}, {"1": b"content"})
    store.restore("1", key)
    assert subject.objects() == {key: b"content"}
    store.delete(key)
    assert subject.objects() == {}


# -- what was scanned is what is served ---------------------------------------------------------------------


def test_what_was_fetched_is_published_also_twice(subject: Subject, into: Path) -> None:
    subject.upload("key", b"content", "text/html")
    version = subject.store.fetch("key", into, limit=7).version
    for _ in range(2):
        subject.store.publish("key", version, "image/png", "a.png")
    assert subject.objects() == {"key": b"content"}


def test_what_was_put_is_published(subject: Subject, source: Path) -> None:
    version = subject.store.put("key", source, "image/png", "a.png")
    subject.store.publish("key", version, "image/png", "a.png")


@pytest.mark.parametrize("other", [b"CONTENT", b"longer content", b""], ids=["same size", "longer", "empty"])
def test_what_was_overwritten_is_not_published(subject: Subject, into: Path, other: bytes) -> None:
    subject.upload("key", b"content")
    fetched = subject.store.fetch("key", into, limit=7)
    # At once: within the resolution of any clock.
    subject.upload("key", other)
    refused(lambda: subject.store.publish("key", fetched.version, "text/plain", ""), ObjectChanged)
    assert subject.objects() == {"key": other}
    again = subject.store.fetch("key", into, limit=100)
    assert again.version != fetched.version
    subject.store.publish("key", again.version, "text/plain", "")


def test_what_was_put_anew_is_not_published(subject: Subject, source: Path) -> None:
    version = subject.store.put("key", source, "text/plain")
    source.write_bytes(b"CONTENT")
    subject.store.put("key", source, "text/plain")
    refused(lambda: subject.store.publish("key", version, "text/plain", ""), ObjectChanged)


# -- quarantine ---------------------------------------------------------------------------------------------


def test_what_is_quarantined_is_out_of_the_store(subject: Subject, into: Path) -> None:
    store = subject.store
    subject.upload("uploads/evil", b"content")
    subject.upload("uploads/good", b"good")
    assert store.quarantine("uploads/evil", "openchat/1") == "openchat/1"
    assert subject.objects() == {"uploads/good": b"good"}
    assert subject.quarantined() == {"openchat/1": b"content"}
    refused(lambda: store.fetch("uploads/evil", into, limit=7))
    fetched = store.fetch_quarantined("openchat/1", into, limit=7)
    assert (fetched.size, fetched.sha256) == (7, digest(b"content"))
    refused(lambda: store.fetch_quarantined("openchat/1", into, limit=6), ObjectTooLarge)


def test_quarantining_again_ends_the_same(subject: Subject) -> None:
    subject.upload("evil", b"content")
    for _ in range(2):
        subject.store.quarantine("evil", "1")
        assert (subject.objects(), subject.quarantined()) == ({}, {"1": b"content"})


def test_what_is_released_is_back(subject: Subject, into: Path) -> None:
    subject.upload("a/key", b"content")
    subject.store.quarantine("a/key", "openchat/1")
    for _ in range(2):
        subject.store.restore("openchat/1", "a/key")
        assert (subject.objects(), subject.quarantined()) == ({"a/key": b"content"}, {})
    subject.store.publish("a/key", subject.store.fetch("a/key", into, limit=7).version, "text/plain", "")


def test_a_crash_between_copy_and_removal_is_ended_by_the_next_attempt(subject: Subject) -> None:
    subject.upload("evil", b"first")
    subject.store.quarantine("evil", "1")
    # What is there now was, as it were, not yet removed.
    subject.upload("evil", b"whole")
    subject.store.quarantine("evil", "1")
    assert (subject.objects(), subject.quarantined()) == ({}, {"1": b"whole"})
    subject.upload("evil", b"half")
    subject.store.restore("1", "evil")
    assert (subject.objects(), subject.quarantined()) == ({"evil": b"whole"}, {})


# -- keys of strangers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", HOSTILE, ids=lambda key: repr(key)[:12])
def test_a_hostile_key_leads_nowhere(subject: Subject, source: Path, into: Path, key: str) -> None:
    store = subject.store
    subject.upload("a/file", b"here")
    version = store.fetch("a/file", into, limit=4).version
    for attempt in (
        lambda: store.fetch(key, into, limit=100),
        lambda: store.fetch_quarantined(key, into, limit=100),
        lambda: store.put(key, source, "text/plain"),
        lambda: store.publish(key, version, "text/plain", ""),
        lambda: store.quarantine(key, "1"),
        lambda: store.quarantine("a/file", key),
        lambda: store.restore(key, "1"),
        lambda: store.restore("1", key),
        lambda: store.delete(key),
        lambda: store.url(key, "text/plain", ""),
    ):
        refused(attempt)
    assert (subject.objects(), subject.quarantined()) == ({"a/file": b"here"}, {})


@pytest.mark.parametrize(
    "key",
    ["derived/openchat/1/small.webp", "derived//openchat/1/small.webp", "/derived/openchat/1/small.webp"],
)
def test_the_row_of_an_original_does_not_reach_pictures(
    subject: Subject, source: Path, into: Path, key: str
) -> None:
    store, picture = subject.store, "derived/openchat/1/small.webp"
    version = store.put(picture, source, "image/webp")
    for attempt in (
        lambda: store.fetch(key, into, limit=100),
        lambda: store.publish(key, version, "text/html", ""),
        lambda: store.quarantine(key, "1"),
        lambda: store.restore("1", key),
    ):
        refused(attempt)
    assert subject.objects() == {picture: b"content"}
    assert "small" in store.url(picture, "image/webp", "small.webp").url
    store.delete(picture)
    assert subject.objects() == {}


# -- addresses, probe ---------------------------------------------------------------------------------------


def test_an_address_says_how_long_it_holds(subject: Subject) -> None:
    address = subject.store.url("uploads/a b.png", "image/png", "a.png")
    assert "uploads/a%20b.png" in address.url
    if address.expires_at is not None:
        left = address.expires_at - datetime.now(UTC)
        assert timedelta(days=7) - timedelta(minutes=1) < left <= timedelta(days=7)


def test_a_probe_leaves_nothing(subject: Subject) -> None:
    subject.upload("key", b"1")
    subject.store.probe()
    assert (subject.objects(), subject.quarantined()) == ({"key": b"1"}, {})


def test_what_is_put_into_quarantine_is_as_if_it_was_moved_there(
    subject: Subject, source: Path, into: Path
) -> None:
    source.write_bytes(b"content")
    for _ in range(2):
        subject.store.put_quarantined("openchat/1", source)
        assert (subject.objects(), subject.quarantined()) == ({}, {"openchat/1": b"content"})
    assert subject.store.fetch_quarantined("openchat/1", into, limit=7).sha256 == digest(b"content")
    subject.store.restore("openchat/1", "a/key")
    assert (subject.objects(), subject.quarantined()) == ({"a/key": b"content"}, {})
    refused(lambda: subject.store.put_quarantined("../1", source))


# -- fingerprints -------------------------------------------------------------------------------------------


def test_a_fingerprint_tells_an_object_from_another(subject: Subject, source: Path, into: Path) -> None:
    store = subject.store
    assert store.fingerprint("key") is None
    subject.upload("key", b"first")
    seen = store.fingerprint("key")
    assert seen is not None
    assert store.fetch("key", into, limit=5).fingerprint == seen == store.fingerprint("key")
    with pytest.raises(ObjectTooLarge) as caught:
        store.fetch("key", into, limit=4)
    assert caught.value.fingerprint == seen
    # Of the same size.
    subject.upload("key", b"other")
    assert store.fingerprint("key") not in (None, seen)
    store.quarantine("key", "1")
    assert store.fingerprint("key") is None


@pytest.mark.parametrize("key", HOSTILE)
def test_a_hostile_key_has_no_fingerprint(subject: Subject, key: str) -> None:
    assert subject.store.fingerprint(key) is None
