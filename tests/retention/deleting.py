"""Deleted rows with objects, the stores that these are in, and what became of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import insert, select

from models.openchat import Attachment
from tasks.policies.columns import table_of
from tasks.retention.restore import Restored, restore
from tests.fault_proxy import FaultProxy
from tests.platform import Platform, environment
from tests.retention.retaining import days
from tests.servers import SeaweedFSServer
from tests.sweeps.sweeping import ago, naive, rows

POLICY = "openchat.deleted_messages"
#: A port on which no server listens.
UNREACHABLE = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def _period(platform: Platform) -> None:
    days(platform, **{POLICY: 30})


@pytest.fixture(params=["local", "s3"])
def provider(request: pytest.FixtureRequest, platform: Platform) -> str:
    """Each of the stores, set up."""
    name = str(request.param)
    if name == "s3":
        server: SeaweedFSServer = request.getfixturevalue("seaweedfs")
        platform.use_s3(server, request.getfixturevalue("bucket"))
    return name


@pytest.fixture
def proxy(platform: Platform, seaweedfs: SeaweedFSServer, bucket: str) -> Iterator[FaultProxy]:
    made = FaultProxy(seaweedfs.server.ports["s3"])
    platform.use_s3(seaweedfs, bucket, made.address)
    yield made
    made.close()


@contextmanager
def away(platform: Platform, provider: str) -> Iterator[None]:
    """Have the store be away: no server listens, or the disk is not mounted."""
    if provider == "s3":
        before = platform.environment["ROOMKEEPER_S3_ENDPOINT"]
        platform.set(s3_endpoint=UNREACHABLE)
        yield
        platform.set(s3_endpoint=before)
    else:
        elsewhere = platform.store.with_name("unmounted")
        platform.store.rename(elsewhere)
        yield
        elsewhere.rename(platform.store)


def deleted(platform: Platform, provider: str, number: int = 1) -> list[UUID]:
    """Add a message with attachments and their objects, deleted long ago; return the attachments' ids."""
    first = platform.openchat_attachment(b"x", storage_provider=provider)
    message = platform.row(Attachment, first).message_id
    with platform.engine.begin() as connection:
        one = connection.execute(select(table_of(Attachment)).where(Attachment.id == first)).mappings().one()
        each = [
            {**one, "id": uuid4(), "storage_key": platform.put(b"x", f"uploads/{uuid4()}", provider)}
            for _ in range(number - 1)
        ]
        if each:
            connection.execute(insert(table_of(Attachment)), each)
    platform.sql(
        "UPDATE openchat.message SET is_deleted = true, deleted_at = :at WHERE id = :id",
        at=naive(ago(days=31)),
        id=message,
    )
    return [first, *(one["id"] for one in each)]


def recover(platform: Platform, *, due: bool = True) -> None:
    """Run the recovery job, when what waits is due or now."""
    from tasks.retention import object_deletions

    if due:
        platform.sql("UPDATE roomkeeper.pending_deletions SET not_before = now()")
    with environment(platform.environment):
        object_deletions.delete_objects.run()


def pending(platform: Platform) -> list[Any]:
    found: list[Any] = platform.sql("SELECT * FROM roomkeeper.pending_deletions ORDER BY id")
    return found


def events(platform: Platform) -> list[tuple[Any, ...]]:
    """Return what became of objects: receipt, outcome, number."""
    query = "SELECT receipt, outcome, objects FROM roomkeeper.deletion_events ORDER BY id"
    return [tuple(row) for row in platform.sql(query)]


def complete(platform: Platform, *providers: str) -> None:
    """See that every row has its object."""
    there = {provider: platform.objects(provider) for provider in providers}
    for row in rows(platform, Attachment).values():
        assert row["storage_key"] in there[row["storage_provider"]]


def put_back(platform: Platform, receipt: int = 1) -> Restored:
    return restore(receipt, platform.settings, operator="ada", reason="a mistake")
