"""The `s3` store in front of a server that is killed, frozen, slow, or lies; and what only S3 has."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from multiprocessing import get_context
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from botocore.credentials import RefreshableCredentials

from stack.ports import free_port
from tests.fault_proxy import Fault, FaultProxy
from tests.platform import eventually
from tests.servers import SeaweedFSServer
from tests.storage.stores import S3Subject, digest, noise, s3_settings, s3_subject
from workers.settings import Settings, SettingsError, load
from workers.storage import (
    BucketMissing,
    ObjectChanged,
    ObjectMissing,
    StoreError,
    UnknownProvider,
    store_for,
)
from workers.storage.s3 import Place, S3Store
from workers.storage.s3_client import client_for
from workers.storage.serving import headers

MIB = 2**20
#: The least that S3 takes for a part.
PART = 5 * MIB
#: More than the buffers between server, proxy and client hold together.
LARGE = 40 * MIB


@pytest.fixture
def subject(seaweedfs: SeaweedFSServer, bucket: str) -> S3Subject:
    return s3_subject(seaweedfs, bucket)


@pytest.fixture
def proxy(seaweedfs: SeaweedFSServer) -> Iterator[FaultProxy]:
    made = FaultProxy(seaweedfs.server.ports["s3"])
    yield made
    made.close()


@pytest.fixture
def behind(seaweedfs: SeaweedFSServer, bucket: str, proxy: FaultProxy) -> S3Subject:
    """The store behind the proxy, with parts as small as can be, and without much patience."""
    return patient(seaweedfs, bucket, proxy, 3)


def patient(seaweedfs: SeaweedFSServer, bucket: str, proxy: FaultProxy, seconds: int) -> S3Subject:
    """Return that store, with so much patience."""
    settings = s3_settings(seaweedfs, bucket, proxy.address, s3_timeout_seconds=seconds)
    place = Place(bucket, "quarantine/")
    return S3Subject(
        seaweedfs,
        bucket,
        lambda: S3Store(client_for(settings), bucket, place, part_bytes=PART, copy_bytes=4 * PART),
        place,
    )


def head(subject: S3Subject, key: str) -> dict[str, Any]:
    return dict(subject.client.head_object(Bucket=subject.bucket, Key=key, ChecksumMode="ENABLED"))


def served(subject: S3Subject, key: str) -> tuple[str, str | None]:
    """Return the object's own type and disposition."""
    found = head(subject, key)
    return found["ContentType"], found.get("ContentDisposition")


def uploads(subject: S3Subject) -> list[str]:
    """Return the keys of unfinished multipart uploads."""
    found = subject.client.list_multipart_uploads(Bucket=subject.bucket).get("Uploads", [])
    return [upload["Key"] for upload in found]


def fails(attempt: Callable[[], object], says: str | None, fault: type[StoreError] = StoreError) -> None:
    """See that it is the store's fault, of exactly that kind: not that of the object."""
    with pytest.raises(StoreError, match=says) as caught:
        attempt()
    assert type(caught.value) is fault, repr(caught.value)


def settled(subject: S3Subject, key: str) -> None:
    """Wait until the object is old enough for its time to tell whether it is overwritten."""

    def old() -> bool:
        found = head(subject, key)
        now = parsedate_to_datetime(found["ResponseMetadata"]["HTTPHeaders"]["date"])
        return bool(now - found["LastModified"] > timedelta(seconds=2))

    eventually(old)


# -- a server that fails ------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_an_object_that_breaks_off_is_not_accepted(
    behind: S3Subject, proxy: FaultProxy, into: Path, share: float
) -> None:
    behind.upload("key", noise(3 * MIB))
    with proxy.doing(Fault(cut=share)):
        fails(lambda: behind.store.fetch("key", into, limit=LARGE), "broke off")
    assert behind.store.fetch("key", into, limit=LARGE).size == 3 * MIB


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("longer", [-1, -MIB, 1, 100])
def test_a_length_that_is_a_lie_is_noticed(
    behind: S3Subject, proxy: FaultProxy, source: Path, into: Path, longer: int, parts: int
) -> None:
    size = parts * PART - MIB
    source.write_bytes(noise(size))
    behind.store.put("key", source, "video/mp4")
    assert ("-" in head(behind, "key")["ETag"]) == (parts > 1)
    with proxy.doing(Fault(longer=longer)), pytest.raises(StoreError) as caught:
        behind.store.fetch("key", into, limit=LARGE)
    assert type(caught.value) in {StoreError, ObjectChanged}
    assert behind.store.fetch("key", into, limit=LARGE).size == size


def test_a_damaged_object_is_not_accepted(behind: S3Subject, proxy: FaultProxy, into: Path) -> None:
    # Without a checksum beside its ETag, and with one.
    behind.upload("plain", noise(MIB))
    behind.upload("summed", noise(MIB), ChecksumAlgorithm="SHA256")
    assert "x-amz-checksum-crc32" not in head(behind, "plain")["ResponseMetadata"]["HTTPHeaders"]
    with proxy.doing(Fault(corrupt=True)):
        for key in ("plain", "summed"):
            fails(lambda key=key: behind.store.fetch(key, into, limit=MIB), "did not arrive")  # type: ignore[misc]


@pytest.mark.parametrize("size", [MIB, PART + MIB], ids=["whole", "in parts"])
def test_what_is_damaged_on_its_way_is_not_stored(
    behind: S3Subject, proxy: FaultProxy, source: Path, size: int
) -> None:
    source.write_bytes(noise(size))
    with proxy.doing(Fault(("PUT",), corrupt_sent=True)):
        fails(lambda: behind.store.put("key", source, "video/mp4"), "answers BadDigest")
    assert behind.objects() == {}
    assert uploads(behind) == []


@pytest.mark.parametrize("status", [500, 503])
@pytest.mark.parametrize("times", [2, 3])
def test_a_server_error_is_waited_out_for_three_tries(
    behind: S3Subject, proxy: FaultProxy, source: Path, into: Path, status: int, times: int
) -> None:
    store = behind.store
    behind.upload("key", b"content")
    attempts: dict[str, Callable[[], object]] = {
        "GET": lambda: store.fetch("key", into, limit=7),
        "PUT": lambda: store.put("other", source, "text/plain"),
        "DELETE": lambda: store.delete("other"),
    }
    for methods, attempt in attempts.items():
        with proxy.doing(Fault((methods,), times=times, status=status)):
            if times < 3:
                attempt()
            else:
                fails(attempt, "answers (SlowDown|500|503)")


def test_a_frozen_server_is_not_waited_for_for_ever(
    bucket: str, proxy: FaultProxy, seaweedfs: SeaweedFSServer, source: Path, into: Path
) -> None:
    behind = patient(seaweedfs, bucket, proxy, 1)
    behind.upload("key", b"content")
    version = behind.store.fetch("key", into, limit=7).version
    seaweedfs.freeze()
    for attempt in (
        lambda: behind.store.fetch("key", into, limit=7),
        lambda: behind.store.put("other", source, "text/plain"),
        lambda: behind.store.publish("key", version, "text/plain", ""),
        lambda: behind.store.quarantine("key", "1"),
    ):
        began = time.monotonic()
        fails(attempt, "does not answer")
        assert time.monotonic() - began < 20
    seaweedfs.thaw()
    # What it was asked meanwhile it may still do.
    eventually(lambda: b"content" in (behind.objects() | behind.quarantined()).values())


def test_a_server_that_is_not_there_is_said_so(seaweedfs: SeaweedFSServer, bucket: str, into: Path) -> None:
    subject = s3_subject(seaweedfs, bucket, f"http://127.0.0.1:{free_port()}")
    fails(lambda: subject.store.fetch("secret-name", into, limit=1), "^the object store does not answer$")


def test_a_slow_server_is_waited_for(behind: S3Subject, proxy: FaultProxy, into: Path) -> None:
    content = noise(MIB)
    behind.upload("key", content)
    # In all longer than the server may be silent.
    with proxy.doing(Fault(pause_seconds=0.1)):
        assert behind.store.fetch("key", into, limit=MIB).sha256 == digest(content)


def test_an_interruption_in_the_middle_of_a_request_is_one(
    behind: S3Subject, proxy: FaultProxy, into: Path
) -> None:
    """A task's time limit strikes anywhere; the client would take it for a fault of the network."""

    class TimeIsUp(Exception):
        pass

    def strike(number: int, frame: FrameType | None) -> None:
        raise TimeIsUp

    behind.upload("key", b"content")
    previous = signal.signal(signal.SIGALRM, strike)
    try:
        with proxy.doing(Fault(hang=True)):
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            with pytest.raises(TimeIsUp):
                behind.store.fetch("key", into, limit=7)
        assert len(proxy.requests) == 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


# -- a server that is killed --------------------------------------------------------------------------------


def test_a_server_killed_during_a_fetch(
    behind: S3Subject, proxy: FaultProxy, seaweedfs: SeaweedFSServer, into: Path
) -> None:
    content = noise(LARGE)
    behind.upload("key", content)
    with proxy.doing(Fault(half_got=seaweedfs.kill)):
        fails(lambda: behind.store.fetch("key", into, limit=LARGE), "broke off")
    fails(lambda: behind.store.fetch("key", into, limit=LARGE), "does not answer")
    seaweedfs.start()
    eventually(lambda: fetched(behind, "key", into) == digest(content))


def test_a_server_killed_during_a_put(
    behind: S3Subject, proxy: FaultProxy, seaweedfs: SeaweedFSServer, source: Path, into: Path
) -> None:
    content = noise(3 * PART + MIB)
    source.write_bytes(content)
    with proxy.doing(Fault(("PUT",), containing="partNumber=2", half_sent=seaweedfs.kill)):
        fails(lambda: behind.store.put("big", source, "video/mp4"), None)
    seaweedfs.start()
    eventually(lambda: behind.objects() == {})
    # The dead server could not be told to throw it away; the next attempt does that.
    eventually(lambda: uploads(behind) == ["big"])
    eventually(lambda: done(lambda: behind.store.put("big", source, "video/mp4")))
    assert uploads(behind) == []
    assert fetched(behind, "big", into) == digest(content)


@pytest.mark.parametrize(
    ("method", "containing"), [("PUT", "quarantine"), ("DELETE", ""), ("HEAD", "quarantine")]
)
@pytest.mark.parametrize("unanswered", [True, False])
def test_a_server_killed_during_a_quarantine(
    behind: S3Subject,
    proxy: FaultProxy,
    seaweedfs: SeaweedFSServer,
    method: str,
    containing: str,
    unanswered: bool,
) -> None:
    behind.upload("evil", b"content")
    # Before the server has done it, or after, when only its answer is lost; for good, or tried again.
    fault = (
        Fault((method,), containing=containing, unanswered=True)
        if unanswered
        else Fault((method,), containing=containing, before=seaweedfs.kill)
    )
    with proxy.doing(fault):
        fails(lambda: behind.store.quarantine("evil", "1"), None)
    seaweedfs.start()
    eventually(lambda: behind.objects() | behind.quarantined())
    eventually(lambda: done(lambda: behind.store.quarantine("evil", "1")))
    assert (behind.objects(), behind.quarantined()) == ({}, {"1": b"content"})


def done(action: Callable[[], object]) -> bool:
    """Do it; say whether it was done. A server that is getting up reads before it writes."""
    try:
        action()
    except StoreError:
        return False
    return True


def fetched(subject: S3Subject, key: str, into: Path) -> str | None:
    """Return the object's digest; None as long as the server is getting up."""
    try:
        return subject.store.fetch(key, into, limit=LARGE).sha256
    except StoreError:
        return None


# -- large objects ------------------------------------------------------------------------------------------


def test_a_failed_upload_in_parts_is_thrown_away(behind: S3Subject, proxy: FaultProxy, source: Path) -> None:
    source.write_bytes(noise(3 * PART))
    with proxy.doing(Fault(("PUT",), containing="partNumber=2", status=500)):
        fails(lambda: behind.store.put("big", source, "video/mp4"), "answers")
    assert (uploads(behind), behind.objects()) == ([], {})


def test_what_a_killed_worker_has_sent_is_thrown_away_and_others_parts_are_not(
    behind: S3Subject, source: Path
) -> None:
    source.write_bytes(noise(PART + 1))
    for key in ("big", "big", "bigger", "other"):
        behind.client.create_multipart_upload(Bucket=behind.bucket, Key=key)
    behind.store.put("big", source, "video/mp4")
    assert sorted(uploads(behind)) == ["bigger", "other"]


@pytest.mark.parametrize("size", [PART - 1, PART, PART + 1, 2 * PART, 4 * PART, 5 * PART + 1])
def test_every_size_is_stored_moved_and_published_whole(
    behind: S3Subject, source: Path, into: Path, size: int
) -> None:
    content = noise(size)
    source.write_bytes(content)
    version = behind.store.put("key", source, "video/mp4", "a.mp4")
    behind.store.publish("key", version, "video/webm", "a.webm")
    assert served(behind, "key")[0] == "video/webm"
    behind.store.quarantine("key", "1")
    assert behind.store.fetch_quarantined("1", into, limit=size).sha256 == digest(content)
    behind.store.restore("1", "key")
    read = behind.store.fetch("key", into, limit=size)
    assert read.sha256 == digest(content)
    behind.store.publish("key", read.version, "video/mp4", "a.mp4")
    assert behind.store.fetch("key", into, limit=size).sha256 == digest(content)


def test_a_large_object_takes_little_memory(seaweedfs: SeaweedFSServer, bucket: str, tmp_path: Path) -> None:
    code = """
import os, re, sys
from pathlib import Path
from workers.settings import get_settings
from workers.storage import store_for
folder = Path(sys.argv[1])
# Not `getrusage`, which counts what the process was before it became this program.
peak = lambda: int(re.search("VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
small = folder / "small"
small.write_bytes(b"1")
store = store_for("s3", get_settings())
store.put("small", small, "video/mp4")
store.fetch("small", folder / "into", limit=1)
before = peak()
with (folder / "large").open("wb") as file:
    for _ in range(100):
        file.write(os.urandom(2**20))
version = store.put("large", folder / "large", "video/mp4")
store.publish("large", version, "video/webm", "a")
print(store.fetch("large", folder / "into", limit=2**30).size, (peak() - before) // 1024)
"""
    values = {"DATABASE_URL": "postgresql://x", **seaweedfs.settings(), "ROOMKEEPER_S3_BUCKET": bucket}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env={"PYTHONPATH": str(Path(__file__).parents[2]), **values},
        capture_output=True,
        text=True,
        check=True,
    )
    size, mebibytes = map(int, done.stdout.split())
    assert size == 100 * MIB
    assert mebibytes < 32


# -- what was scanned is what is served ---------------------------------------------------------------------


def test_what_a_stranger_calls_a_page_is_none_afterwards(subject: S3Subject, into: Path) -> None:
    evil = {
        "ContentDisposition": "inline",
        "ContentEncoding": "gzip",
        "CacheControl": "max-age=60",
        "Metadata": {"theirs": "kept"},
    }
    subject.upload("key", b"<script>", "text/html", **evil)
    version = subject.store.fetch("key", into, limit=100).version
    subject.store.publish("key", version, "text/html", "page.html")
    found = head(subject, "key")
    assert found["ContentType"] == "application/octet-stream"
    assert found["ContentDisposition"].startswith("attachment;")
    assert not found.get("ContentEncoding")
    assert (found["CacheControl"], found["Metadata"]) == ("max-age=60", {"theirs": "kept"})
    assert subject.objects() == {"key": b"<script>"}


def test_an_encoding_is_taken_away_even_if_all_else_is_right(subject: S3Subject, into: Path) -> None:
    content_type, disposition = headers("image/png", "a.png")
    subject.upload("key", b"1", content_type, ContentDisposition=disposition, ContentEncoding="gzip")
    version = subject.store.fetch("key", into, limit=1).version
    subject.store.publish("key", version, "image/png", "a.png")
    assert not head(subject, "key").get("ContentEncoding")
    assert served(subject, "key") == (content_type, disposition)


def test_what_is_right_already_is_not_copied(behind: S3Subject, proxy: FaultProxy, into: Path) -> None:
    behind.upload("key", b"content", "text/html")
    settled(behind, "key")
    for copies in (1, 0):
        version = behind.store.fetch("key", into, limit=7).version
        proxy.requests.clear()
        behind.store.publish("key", version, "image/png", "a.png")
        assert sum(request.startswith("PUT") for request in proxy.requests) == copies
        settled(behind, "key")
    # Nor read again: a write since then would have been noticed.
    assert [request.split()[0] for request in proxy.requests] == ["HEAD"]


@pytest.mark.parametrize(
    ("media_type", "old", "method"),
    # An old one that is right already is only looked at: what is written then is written after publishing.
    [("text/html", True, "PUT"), ("text/html", False, "PUT"), ("image/png", False, "GET")],
)
def test_what_is_overwritten_in_the_middle_of_publishing_is_not_published(
    behind: S3Subject, proxy: FaultProxy, into: Path, media_type: str, old: bool, method: str
) -> None:
    """Between the look at the object and what is done to it."""
    behind.upload(
        "key", b"content", media_type, ContentDisposition="inline; filename=\"a.png\"; filename*=UTF-8''a.png"
    )
    if old:
        settled(behind, "key")
    version = behind.store.fetch("key", into, limit=7).version
    with proxy.doing(Fault((method,), times=1, before=lambda: behind.upload("key", b"CONTENT", "text/html"))):
        fails(lambda: behind.store.publish("key", version, "image/png", "a.png"), None, ObjectChanged)
    assert behind.objects() == {"key": b"CONTENT"}


def test_an_etag_alone_proves_nothing(subject: S3Subject, into: Path) -> None:
    """An MD5 is easily had twice; here the version is given the ETag of other bytes."""
    for wait in (False, True):
        subject.upload("key", b"content", "image/png")
        if wait:
            settled(subject, "key")
        sha256, size, _, modified, was_settled = json.loads(subject.store.fetch("key", into, limit=7).version)
        assert was_settled == wait
        subject.upload("key", b"CONTENT", "text/html")
        collided = json.dumps([sha256, size, head(subject, "key")["ETag"], modified, was_settled])
        fails(lambda: subject.store.publish("key", collided, "image/png", ""), None, ObjectChanged)  # noqa: B023


def test_the_servers_own_sha256_spares_reading_again(
    behind: S3Subject, proxy: FaultProxy, into: Path
) -> None:
    behind.upload("key", b"content", "text/html", ChecksumAlgorithm="SHA256")
    version = behind.store.fetch("key", into, limit=7).version
    proxy.requests.clear()
    behind.store.publish("key", version, "image/png", "a.png")
    assert not any(request.startswith("GET") for request in proxy.requests)
    behind.upload("key", b"CONTENT", "text/html", ChecksumAlgorithm="SHA256")
    fails(lambda: behind.store.publish("key", version, "image/png", ""), None, ObjectChanged)


def test_an_object_that_is_overwritten_while_it_is_read(
    behind: S3Subject, proxy: FaultProxy, into: Path
) -> None:
    behind.upload("key", b"content")
    fault = Fault(("HEAD",), times=1, before=lambda: behind.upload("key", b"CONTENT"))
    with proxy.doing(fault):
        fails(lambda: behind.store.fetch("key", into, limit=7), "while it was read", ObjectChanged)


def test_in_quarantine_nothing_is_a_page(subject: S3Subject) -> None:
    subject.upload("key", b"<script>", "text/html")
    subject.store.quarantine("key", "1")
    assert served(subject, "quarantine/1") == ("application/octet-stream", "attachment")


# -- keys ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key", ["quarantine/1", "/quarantine/1", "quarantine//1", "//quarantine///1", "quarantine/", "quarantine"]
)
def test_no_attachments_key_leads_into_the_quarantine(
    subject: S3Subject, source: Path, into: Path, key: str
) -> None:
    subject.upload("evil", b"evil")
    subject.store.quarantine("evil", "1")
    for attempt in (
        lambda: subject.store.fetch(key, into, limit=100),
        lambda: subject.store.put(key, source, "text/plain"),
        lambda: subject.store.quarantine(key, "2"),
        lambda: subject.store.restore("1", key),
        lambda: subject.store.delete(key),
        lambda: subject.store.url(key, "text/plain", ""),
    ):
        fails(attempt, "quarantine", ObjectMissing)
    assert (subject.objects(), subject.quarantined()) == ({}, {"1": b"evil"})


def test_in_another_bucket_the_quarantines_prefix_means_nothing(
    seaweedfs: SeaweedFSServer, bucket: str, into: Path
) -> None:
    subject = s3_subject(seaweedfs, bucket, quarantine="elsewhere")
    subject.upload("quarantine/key", b"1")
    assert subject.store.fetch("quarantine/key", into, limit=1).size == 1


# -- addresses ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("media_type", "name", "expected"),
    [
        ("text/html", "page.html", ("application/octet-stream", 'attachment; filename="page.html"; ')),
        (
            "image/png",
            'ä"\r\nb.png',
            ("image/png", "inline; filename=\"__b.png\"; filename*=UTF-8''%C3%A4_b.png"),
        ),
    ],
)
def test_a_signed_address_is_served_with_safe_headers(
    subject: S3Subject, media_type: str, name: str, expected: tuple[str, str]
) -> None:
    key = "up/ä b+c&d=e?f#%.png"
    # Whatever the stranger said of it; also before it is published.
    subject.upload(key, b"<script>", "text/html", ContentDisposition="inline")
    address = subject.store.url(key, media_type, name)
    with urlopen(address.url) as answer:
        assert answer.headers["Content-Type"] == expected[0]
        assert answer.headers["Content-Disposition"].startswith(expected[1])
        assert answer.read() == b"<script>"
    for other in (address.url.split("?")[0], address.url.replace("attachment", "inline", 1) + "x"):
        with pytest.raises(HTTPError, match="403"):
            urlopen(other)


@pytest.mark.parametrize("seconds", [60, 7 * 24 * 3600])
def test_a_signed_address_holds_as_long_as_it_says(
    seaweedfs: SeaweedFSServer, bucket: str, seconds: int
) -> None:
    settings = s3_settings(seaweedfs, bucket, s3_url_seconds=seconds)
    address = store_for("s3", settings).url("key", "image/png", "")
    assert f"X-Amz-Expires={seconds}&" in address.url
    signed = re.search(r"X-Amz-Date=(\w+)", address.url)
    assert signed
    end = datetime.strptime(signed[1], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC) + timedelta(seconds=seconds)
    assert address.expires_at is not None
    assert timedelta(0) <= end - address.expires_at <= timedelta(seconds=2)


def test_an_address_does_not_outlive_the_credentials_that_signed_it(
    seaweedfs: SeaweedFSServer, bucket: str
) -> None:
    end = datetime.now(UTC) + timedelta(hours=6)
    client = client_for(s3_settings(seaweedfs, bucket, s3_timeout_seconds=4))
    client._request_signer._credentials = RefreshableCredentials(  # type: ignore[attr-defined]
        "role", "secret", "token", end, lambda: {}, "sts"
    )
    store = S3Store(client, bucket, Place(bucket, "quarantine/"))
    assert store.url("key", "image/png", "").expires_at == end


def test_a_public_address_is_plain_and_holds_for_ever(seaweedfs: SeaweedFSServer, bucket: str) -> None:
    settings = s3_settings(seaweedfs, bucket, s3_public_url="https://cdn.example.org/chat/")
    address = store_for("s3", settings).url("a b/ü&?#%.png", "image/png", "a.png")
    assert address.url == "https://cdn.example.org/chat/a%20b/%C3%BC%26%3F%23%25.png"
    assert address.expires_at is None


# -- set up wrongly -----------------------------------------------------------------------------------------


def wrong(seaweedfs: SeaweedFSServer, bucket: str, **values: object) -> S3Store:
    store = store_for("s3", s3_settings(seaweedfs, bucket, **values))  # type: ignore[arg-type]
    assert isinstance(store, S3Store)
    return store


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"s3_secret_key": "wrong-secret"}, "^the object store refuses: "),
        ({"s3_access_key": "wrong-access-key"}, "^the object store refuses: "),
    ],
)
def test_wrong_credentials_are_the_stores_fault(
    seaweedfs: SeaweedFSServer, bucket: str, source: Path, into: Path, values: dict[str, str], says: str
) -> None:
    store = wrong(seaweedfs, bucket, **values)
    for attempt in (
        lambda: store.fetch("key", into, limit=1),
        lambda: store.put("key", source, "text/plain"),
        lambda: store.quarantine("key", "1"),
        lambda: store.delete("key"),
        lambda: store.probe(),
    ):
        with pytest.raises(StoreError, match=says) as caught:
            attempt()
        assert type(caught.value) is StoreError
        for secret in ("wrong-secret", "wrong-access-key", seaweedfs.server.secret_key):
            assert secret not in str(caught.value)


def test_a_missing_bucket_is_not_a_missing_object(
    seaweedfs: SeaweedFSServer, source: Path, into: Path
) -> None:
    store = wrong(seaweedfs, "nowhere")
    says = "^the bucket nowhere does not exist$"
    fails(lambda: store.fetch("key", into, limit=1), says, BucketMissing)
    fails(lambda: store.put("key", source, "text/plain"), says, BucketMissing)
    fails(lambda: store.quarantine("key", "1"), says, BucketMissing)
    fails(lambda: store.delete("key"), says, BucketMissing)
    fails(lambda: store.probe(), says, BucketMissing)


def test_without_its_bucket_the_quarantine_takes_nothing(seaweedfs: SeaweedFSServer, bucket: str) -> None:
    store = wrong(seaweedfs, bucket, s3_quarantine_bucket="no-quarantine")
    fails(store.probe, "^the bucket no-quarantine does not exist$", BucketMissing)
    # Nor is it there by the time that something is to be moved: then the object stays where it is.
    subject = s3_subject(seaweedfs, bucket, quarantine="no-quarantine")
    subject.upload("evil", b"evil")
    fails(lambda: store.quarantine("evil", "1"), None)
    assert subject.objects() == {"evil": b"evil"}


def test_a_server_that_refuses_instead_of_saying_what_is_missing_is_found_by_the_probe(
    behind: S3Subject, proxy: FaultProxy
) -> None:
    """So Amazon answers who may not list the bucket: then a lost object would be waited for for ever."""
    with proxy.doing(Fault(after=1, status=403)):
        fails(behind.store.probe, "asked for what is not there it does not say so: the object store refuses")
    assert behind.objects() == {}


def test_a_provider_that_is_not_set_up_is_named(tmp_path: Path) -> None:
    settings = load({"DATABASE_URL": "postgresql://x"})
    with pytest.raises(UnknownProvider, match="ROOMKEEPER_S3_BUCKET"):
        store_for("s3", settings)


def test_the_client_is_made_once_for_each_process(seaweedfs: SeaweedFSServer, bucket: str) -> None:
    settings = s3_settings(seaweedfs, bucket)
    assert client_for(settings) is client_for(s3_settings(seaweedfs, bucket))
    assert client_for(settings) is not client_for(s3_settings(seaweedfs, bucket, s3_timeout_seconds=7))
    # Its connections must not be shared by two processes.
    with ProcessPoolExecutor(1, get_context("fork")) as child:
        assert child.submit(client_number, settings).result() != id(client_for(settings))


def client_number(settings: Settings) -> int:
    return id(client_for(settings))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"ENDPOINT": "localhost:8333"}, "S3_ENDPOINT is wrong: must be https://host:port"),
        ({"ENDPOINT": "https://ada:pw@host"}, "S3_ENDPOINT is wrong: must be https://host:port"),
        ({"ENDPOINT": "https://host/bucket"}, "S3_ENDPOINT is wrong: must be https://host:port"),
        ({"BUCKET": "My_Bucket"}, "S3_BUCKET is wrong"),
        ({"BUCKET": ""}, "S3_BUCKET is wrong"),
        ({"ACCESS_KEY": "a"}, "S3_ACCESS_KEY and ROOMKEEPER_S3_SECRET_KEY must be set both or neither"),
        ({"SECRET_KEY": "a"}, "S3_ACCESS_KEY and ROOMKEEPER_S3_SECRET_KEY must be set both or neither"),
        ({"QUARANTINE_PREFIX": ""}, "S3_QUARANTINE_PREFIX is wrong"),
        ({"QUARANTINE_PREFIX": "quarantine"}, "S3_QUARANTINE_PREFIX is wrong"),
        ({"QUARANTINE_PREFIX": "/q/"}, "S3_QUARANTINE_PREFIX is wrong"),
        ({"QUARANTINE_PREFIX": "derived/"}, "must not begin with derived/"),
        ({"URL_SECONDS": "604801"}, "S3_URL_SECONDS is wrong"),
        ({"URL_SECONDS": "59"}, "S3_URL_SECONDS is wrong"),
        ({"PUBLIC_URL": "cdn.example.org"}, "S3_PUBLIC_URL is wrong"),
        ({"TIMEOUT_SECONDS": "0"}, "S3_TIMEOUT_SECONDS is wrong"),
    ],
)
def test_a_wrong_setting_is_said(values: dict[str, str], says: str) -> None:
    with pytest.raises(SettingsError, match=says) as caught:
        load({"DATABASE_URL": "postgresql://x"} | {f"ROOMKEEPER_S3_{k}": v for k, v in values.items()})
    assert "pw@" not in str(caught.value)


def test_right_settings_are_taken() -> None:
    settings: Settings = load(
        {
            "DATABASE_URL": "postgresql://x",
            "ROOMKEEPER_S3_BUCKET": "chat",
            "ROOMKEEPER_S3_ENDPOINT": "https://s3.example.org/",
            "ROOMKEEPER_S3_URL_SECONDS": "604800",
            "ROOMKEEPER_S3_QUARANTINE_PREFIX": "platform/quarantine/",
        }
    )
    assert store_for("s3", settings)
