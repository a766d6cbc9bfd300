"""The S3 client: one for each process, with limits, and with errors that the rest of us understands."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from http.client import HTTPException
from typing import TYPE_CHECKING

from boto3.session import Session
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    ReadTimeoutError,
    ResponseStreamingError,
)
from urllib3.exceptions import HTTPError

from workers.settings import Settings
from workers.storage.base import BucketMissing, ObjectChanged, ObjectMissing, StoreError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

#: Tries of one request in all, with growing, random pauses. The pipeline's own are longer ones.
_TRIES = 3
_CONNECT_SECONDS = 5.0

_SENTENCES: dict[type[BotoCoreError], str] = {
    ConnectTimeoutError: "the object store cannot be reached in time",
    ReadTimeoutError: "the object store does not answer in time",
    IncompleteReadError: "the object store broke off in the middle of an object",
    ResponseStreamingError: "the object store broke off in the middle of an object",
    FlexibleChecksumError: "the object did not arrive as it is stored",
    NoCredentialsError: "there are no credentials for the object store",
}


def client_for(settings: Settings) -> "S3Client":
    """Return this process's client: dear to make, and not to be carried over a fork."""
    return _client(
        os.getpid(),
        settings.s3_endpoint,
        settings.s3_region,
        settings.s3_access_key.get_secret_value() if settings.s3_access_key else None,
        settings.s3_secret_key.get_secret_value() if settings.s3_secret_key else None,
        settings.s3_timeout_seconds,
    )


@lru_cache(maxsize=4)
def _client(
    process: int,  # noqa: ARG001 - part of the cache's key
    endpoint: str | None,
    region: str | None,
    access_key: str | None,
    secret_key: str | None,
    timeout_seconds: float,
) -> "S3Client":
    session = Session(aws_access_key_id=access_key, aws_secret_access_key=secret_key, region_name=region)
    client: S3Client = session.client(
        "s3",
        endpoint_url=endpoint,
        config=Config(
            # Named, for what boto3 signs URLs with otherwise is too old for most servers.
            signature_version="s3v4",
            connect_timeout=min(_CONNECT_SECONDS, timeout_seconds),
            read_timeout=timeout_seconds,
            retries={"mode": "standard", "total_max_attempts": _TRIES},
        ),
    )
    client.meta.events.register_first("needs-retry.s3", _let_pass)
    return client


def _let_pass(caught_exception: Exception | None = None, **_: object) -> None:
    """Raise what is no fault of the network: a task's time limit, say, strikes in the middle of a request.

    The client would take it for one, and try again.
    """
    if type(caught_exception) is HTTPClientError:
        cause = caught_exception.kwargs.get("error")
        if isinstance(cause, Exception) and not isinstance(cause, OSError | HTTPError | HTTPException):
            raise cause


@contextmanager
def faults(client: "S3Client", bucket: str) -> Iterator[None]:
    """Turn the client's errors into the store's: without keys, which may name people, or secrets.

    Raises:
        ObjectMissing, ObjectChanged, BucketMissing, StoreError.
    """
    try:
        yield
    except ClientError as error:
        raise _fault(error, client, bucket) from error
    except BotoCoreError as error:
        raise StoreError(_SENTENCES.get(type(error), "the object store does not answer")) from error
    except HTTPError as error:
        raise StoreError("the object store broke off in the middle of an object") from error
    except OSError as error:
        raise StoreError(error.strerror or str(error)) from error


def _fault(error: ClientError, client: "S3Client", bucket: str) -> StoreError:
    code = error.response["Error"]["Code"]
    status = error.response["ResponseMetadata"].get("HTTPStatusCode")
    if code == "404" and _is_there(client, bucket):
        # The answer to HEAD has no body that would say what is missing.
        code = "NoSuchKey"
    if code == "NoSuchKey":
        return ObjectMissing("there is no such object")
    if code in {"NoSuchBucket", "404"}:
        return BucketMissing(f"the bucket {bucket} does not exist")
    if status == 412:
        return ObjectChanged("the object was written meanwhile")
    if status in {401, 403}:
        return StoreError(f"the object store refuses: {code}")
    return StoreError(f"the object store answers {code}")


def _is_there(client: "S3Client", bucket: str) -> bool:
    try:
        client.head_bucket(Bucket=bucket)
    except ClientError as error:
        # Who may not ask may still use it.
        return error.response["Error"]["Code"] != "404"
    return True
