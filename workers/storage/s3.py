"""The `s3` store: a bucket, of Amazon's or of any server that speaks its language."""

import base64
import json
import os
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing, suppress
from dataclasses import astuple, dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from uuid import uuid4

from boto3.s3.transfer import TransferConfig

from workers.settings import Settings
from workers.storage import keys
from workers.storage.base import (
    CHUNK_BYTES,
    Fetched,
    ObjectChanged,
    ObjectMissing,
    ObjectsKept,
    ObjectTooLarge,
    ObjectUrl,
    Stored,
    StoreError,
)
from workers.storage.digests import Digests
from workers.storage.s3_client import client_for, faults
from workers.storage.serving import headers

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import HeadObjectOutputTypeDef

MIB = 1024 * 1024
#: One part is in memory at a time, and parts must be 5 MiB at least.
PART_BYTES = 8 * MIB
#: The most that S3 copies in one request.
COPY_BYTES = 5 * 1024 * MIB
#: The most that S3 deletes in one request.
DELETED_AT_ONCE = 1000
_COPY_PART_BYTES = 512 * MIB
#: The time of an object's writing is told in whole seconds, by a clock that need not be that of the answers:
#: one that is no older when it has been read may be overwritten without a trace in its time.
_SETTLED_SECONDS = 2
#: What is in quarantine is nothing that anybody should look at in a browser.
_QUARANTINED = headers("", "")


@dataclass(frozen=True, slots=True)
class Place:
    """Where objects are: in `bucket`, below `prefix`, which is empty or ends with a slash."""

    bucket: str
    prefix: str = ""

    def holds(self, key: str) -> bool:
        """Say whether the key is below the prefix, for a server that takes `//` for `/` too."""
        return keys.parts(key)[: len(keys.parts(self.prefix))] == keys.parts(self.prefix)


@dataclass(frozen=True, slots=True)
class _Version:
    """What tells whether an object is still the one that was read.

    Neither its ETag nor its time does so for certain: the ETag is an MD5, of which anybody makes two files
    that share one, and the time is in seconds.
    """

    sha256: str
    size: int
    etag: str
    modified: str
    settled: bool


class S3Store:
    """Objects of one bucket; what is infected goes to the quarantine, another bucket or a prefix in this one.

    Args:
        client: from `client_for`, or one like it.
        bucket: where the originals and the pictures are.
        quarantine: a bucket or a prefix that only operators must be able to read.
        public_url: what a key is prefixed with to make a URL; if it is None, URLs are signed ones.
        url_seconds: how long signed ones hold, a week at most.
        part_bytes, copy_bytes: what is larger is stored, copied in parts of that size.
    """

    def __init__(
        self,
        client: "S3Client",
        bucket: str,
        quarantine: Place,
        *,
        public_url: str | None = None,
        url_seconds: int = 7 * 24 * 3600,
        part_bytes: int = PART_BYTES,
        copy_bytes: int = COPY_BYTES,
    ) -> None:
        self._client = client
        self._bucket = bucket
        self._quarantine = quarantine
        self._public_url = public_url
        self._url_seconds = url_seconds
        self._part_bytes = part_bytes
        # Without threads: each would hold a part of its own, and signals reach only the main one.
        self._upload = TransferConfig(
            multipart_threshold=part_bytes, multipart_chunksize=part_bytes, use_threads=False
        )
        self._copying = TransferConfig(
            multipart_threshold=copy_bytes,
            multipart_chunksize=min(copy_bytes, _COPY_PART_BYTES),
            use_threads=False,
        )

    def fetch(self, key: str, into: Path, *, limit: int) -> Fetched:
        self._check_original(key)
        return self._fetch(self._bucket, key, into, limit)

    def fetch_quarantined(self, name: str, into: Path, *, limit: int) -> Fetched:
        return self._fetch(self._quarantine.bucket, self._quarantined(name), into, limit)

    def fingerprint(self, key: str) -> str | None:
        try:
            self._check_original(key)
            return _fingerprint(self._head(self._bucket, key))
        except ObjectMissing:
            return None

    def put(self, key: str, source: Path, media_type: str, name: str = "") -> str:
        self._check(key)
        content_type, disposition = headers(media_type, name)
        with self._faults(self._bucket), source.open("rb") as file:
            if source.stat().st_size >= self._part_bytes:
                self._abort_uploads(key)
            # Sent with a checksum, so that what arrives damaged is refused.
            self._client.upload_fileobj(
                file,
                self._bucket,
                key,
                ExtraArgs={"ContentType": content_type, "ContentDisposition": disposition},
                Config=self._upload,
            )
        read = Digests(self._part_bytes)
        with source.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                read.update(chunk)
        stored = self._head(self._bucket, key)
        if stored["ContentLength"] != read.size or not read.agrees(stored):
            raise StoreError("the object did not arrive as it was sent")
        return _encoded(read, stored)

    def put_quarantined(self, name: str, source: Path) -> None:
        bucket, key = self._quarantine.bucket, self._quarantined(name)
        content_type, disposition = _QUARANTINED
        with self._faults(bucket):
            self._client.upload_file(
                str(source),
                bucket,
                key,
                ExtraArgs={"ContentType": content_type, "ContentDisposition": disposition},
                Config=self._upload,
            )
        if self._head(bucket, key)["ContentLength"] != source.stat().st_size:
            raise StoreError("the object did not arrive as it was sent")

    def publish(self, key: str, version: str, media_type: str, name: str) -> None:
        self._check_original(key)
        wanted = headers(media_type, name)
        seen = _Version(*json.loads(version))
        now = self._head(self._bucket, key)
        if now["ContentLength"] != seen.size:
            raise ObjectChanged("the object is not the one that was scanned")
        same = seen.settled and (now["ETag"], now["LastModified"].isoformat()) == (seen.etag, seen.modified)
        as_wanted = (now.get("ContentType"), now.get("ContentDisposition")) == wanted
        # An encoding would have the browser see other bytes than the scanner.
        if not as_wanted or now.get("ContentEncoding") or now.get("WebsiteRedirectLocation"):
            # Beside a condition on the ETag one on the time has no effect, and is the stronger one.
            unchanged: dict[str, Any] = (
                {"CopySourceIfUnmodifiedSince": now["LastModified"]}
                if same
                else {"CopySourceIfMatch": now["ETag"], "ChecksumAlgorithm": "SHA256"}
            )
            self._copy((self._bucket, key), (self._bucket, key), wanted, unchanged | _kept(now))
            now = self._head(self._bucket, key)
        if not same and not self._proves(now, seen):
            try:
                again = self._fetch(self._bucket, key, Path(os.devnull), seen.size)
            except ObjectTooLarge as error:
                raise ObjectChanged("the object is not the one that was scanned") from error
            if again.sha256 != seen.sha256:
                raise ObjectChanged("the object is not the one that was scanned")

    def quarantine(self, key: str, name: str) -> str:
        self._check_original(key)
        self._move((self._bucket, key), (self._quarantine.bucket, self._quarantined(name)))
        return name

    def restore(self, name: str, key: str) -> None:
        self._check_original(key)
        self._move((self._quarantine.bucket, self._quarantined(name)), (self._bucket, key))

    def delete(self, key: str) -> None:
        self._check(key)
        with self._faults(self._bucket):
            self._client.delete_object(Bucket=self._bucket, Key=key)

    def delete_many(self, keys: Sequence[str]) -> None:
        for key in keys:
            self._check(key)
        self._delete(self._bucket, keys)

    def discard(self, names: Sequence[str]) -> None:
        self._delete(self._quarantine.bucket, [self._quarantined(name) for name in names])

    def list(self, prefix: str) -> Iterator[Stored]:
        self._check(prefix)
        return self._below(prefix)

    def url(self, key: str, media_type: str, name: str) -> ObjectUrl:
        self._check(key)
        if self._public_url is not None:
            return ObjectUrl(f"{self._public_url}/{quote(key)}", None)
        content_type, disposition = headers(media_type, name)
        # Rounded down: it must not hold shorter than is said.
        now = datetime.now(UTC).replace(microsecond=0)
        with self._faults(self._bucket):
            url = self._client.generate_presigned_url(
                "get_object",
                Params={
                    "Bucket": self._bucket,
                    "Key": key,
                    "ResponseContentType": content_type,
                    "ResponseContentDisposition": disposition,
                },
                ExpiresIn=self._url_seconds,
            )
        return ObjectUrl(url, min(now + timedelta(seconds=self._url_seconds), self._credentials_end()))

    def probe(self) -> None:
        if self._quarantine.bucket != self._bucket:
            # Not every server says so when something is moved to where nothing is.
            with self._faults(self._quarantine.bucket):
                self._client.head_bucket(Bucket=self._quarantine.bucket)
        key = name = f".roomkeeper-probe-{socket.gethostname()}-{uuid4()}"
        with tempfile.NamedTemporaryFile() as file:
            path = Path(file.name)
            path.write_bytes(key.encode())
            try:
                self.put(key, path, "text/plain")
                self.quarantine(key, name)
                self.restore(name, key)
                self.fetch(key, path, limit=len(key))
                self.delete(key)
            except StoreError:
                for place in ((self._bucket, key), (self._quarantine.bucket, self._quarantined(name))):
                    with suppress(StoreError), self._faults(place[0]):
                        self._client.delete_object(Bucket=place[0], Key=place[1])
                raise
            try:
                self.fetch(key, path, limit=0)
            except ObjectMissing:
                return
            except StoreError as error:
                raise StoreError(f"asked for what is not there it does not say so: {error}") from error
            raise StoreError("what is deleted is still there")

    # -- keys -----------------------------------------------------------------------------------------------

    def _check(self, key: str) -> None:
        keys.check(key)
        if self._quarantine.bucket == self._bucket and self._quarantine.holds(key):
            raise ObjectMissing("the key leads into the quarantine")

    def _check_original(self, key: str) -> None:
        self._check(key)
        keys.check_original(key)

    def _quarantined(self, name: str) -> str:
        key = self._quarantine.prefix + name
        keys.check(name)
        keys.check(key)
        return key

    # -- requests -------------------------------------------------------------------------------------------

    def _fetch(self, bucket: str, key: str, into: Path, limit: int) -> Fetched:
        read = Digests(0)
        with self._faults(bucket), into.open("wb") as target:
            answer = self._client.get_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED")
            with closing(answer["Body"]) as body:
                if answer["ContentLength"] > limit:
                    raise ObjectTooLarge(limit, _fingerprint(answer))
                while chunk := body.read(CHUNK_BYTES):
                    read.update(chunk)
                    if read.size > limit:
                        raise ObjectTooLarge(limit, _fingerprint(answer))
                    target.write(chunk)
        if not read.agrees(answer):
            raise StoreError("the object did not arrive as it is stored")
        # Also tells a length that was none: an answer that lies about it is cut there without a sound.
        after = self._head(bucket, key)
        if any(after[field] != answer[field] for field in ("ETag", "LastModified", "ContentLength")):
            raise ObjectChanged("the object was written while it was read")
        return Fetched(read.size, read.sha256, _encoded(read, after), _fingerprint(after))

    def _faults(self, bucket: str) -> AbstractContextManager[None]:
        return faults(self._client, bucket)

    def _head(self, bucket: str, key: str) -> "HeadObjectOutputTypeDef":
        with self._faults(bucket):
            return self._client.head_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED")

    def _copy(
        self,
        source: tuple[str, str],
        target: tuple[str, str],
        serving: tuple[str, str],
        extra: dict[str, Any],
    ) -> None:
        with self._faults(target[0]):
            self._client.copy(
                {"Bucket": source[0], "Key": source[1]},
                *target,
                ExtraArgs={
                    "MetadataDirective": "REPLACE",
                    "ContentType": serving[0],
                    "ContentDisposition": serving[1],
                    **extra,
                },
                Config=self._copying,
            )

    def _move(self, source: tuple[str, str], target: tuple[str, str]) -> None:
        try:
            found = self._head(*source)
        except ObjectMissing:
            # Moved by an attempt that died before it could say so, or never there.
            self._head(*target)
            return
        # Copied whole before the original goes: a crash in between leaves both, and the next attempt ends it.
        self._copy(source, target, _QUARANTINED, {"CopySourceIfMatch": found["ETag"]} | _kept(found))
        if self._head(*target)["ContentLength"] != found["ContentLength"]:
            raise StoreError("the object did not arrive where it was moved")
        with self._faults(source[0]):
            self._client.delete_object(Bucket=source[0], Key=source[1])

    def _delete(self, bucket: str, names: Sequence[str]) -> None:
        kept, why = 0, ""
        for start in range(0, len(names), DELETED_AT_ONCE):
            batch = names[start : start + DELETED_AT_ONCE]
            with self._faults(bucket):
                answer = self._client.delete_objects(
                    Bucket=bucket, Delete={"Objects": [{"Key": key} for key in batch], "Quiet": True}
                )
            errors = [error.get("Code", "") for error in answer.get("Errors", [])]
            refused = [code for code in errors if code != "NoSuchKey"]
            kept += len(refused)
            # Without the store's own sentence, which may hold the key.
            why = why or next(iter(refused), "")
        if kept:
            raise ObjectsKept(kept, len(names), why)

    def _below(self, prefix: str) -> Iterator[Stored]:
        pages = iter(
            self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix)
        )
        while True:
            with self._faults(self._bucket):
                page = next(pages, None)
            if page is None:
                return
            for found in page.get("Contents", []):
                key = found["Key"]
                # Some servers, and Amazon's console, keep marks of folders.
                if not key.endswith("/") and self._possible(key):
                    yield Stored(key, found["Size"], found["LastModified"])

    def _possible(self, key: str) -> bool:
        try:
            self._check(key)
        except ObjectMissing:
            return False
        return True

    def _abort_uploads(self, key: str) -> None:
        """Abort the uploads that killed workers left: they cost space, and listings do not show them."""
        found = self._client.list_multipart_uploads(Bucket=self._bucket, Prefix=key).get("Uploads", [])
        for upload in found:
            if upload["Key"] == key:
                self._client.abort_multipart_upload(Bucket=self._bucket, Key=key, UploadId=upload["UploadId"])

    def _credentials_end(self) -> datetime:
        """Return when the credentials end, and with them what they have signed."""
        credentials = self._client._request_signer._credentials  # type: ignore[attr-defined]
        end = getattr(credentials, "_expiry_time", None)
        return end if isinstance(end, datetime) else datetime.max.replace(tzinfo=UTC)

    @staticmethod
    def _proves(stored: "HeadObjectOutputTypeDef", seen: _Version) -> bool:
        """Say whether the server itself has computed the SHA-256 that was seen, of the whole object."""
        digest = stored.get("ChecksumSHA256", "")
        # One with a dash is a digest of the parts' digests.
        return "-" not in digest and base64.b64decode(digest).hex() == seen.sha256


def _encoded(read: Digests, stored: Any) -> str:
    modified: datetime = stored["LastModified"]
    answered = parsedate_to_datetime(stored["ResponseMetadata"]["HTTPHeaders"]["date"])
    settled = answered - modified > timedelta(seconds=_SETTLED_SECONDS)
    version = _Version(read.sha256, read.size, stored["ETag"], modified.isoformat(), settled)
    return json.dumps(astuple(version))


def _fingerprint(stored: Any) -> str:
    modified: datetime = stored["LastModified"]
    return f"{stored['ContentLength']}-{modified.isoformat()}-{stored['ETag']}"


def _kept(stored: Any) -> dict[str, Any]:
    """Return what a copy with headers of its own would lose of an object, and should not."""
    names = ("CacheControl", "Metadata", "StorageClass")
    return {name: stored[name] for name in names if stored.get(name)}


def store_for(settings: Settings) -> S3Store:
    """Return the store that the settings describe; `s3_bucket` must be set."""
    assert settings.s3_bucket
    return S3Store(
        client_for(settings),
        settings.s3_bucket,
        Place(settings.s3_quarantine_bucket or settings.s3_bucket, settings.s3_quarantine_prefix),
        public_url=settings.s3_public_url.rstrip("/") if settings.s3_public_url else None,
        url_seconds=settings.s3_url_seconds,
    )
