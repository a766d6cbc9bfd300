"""The objects of rows that go, on a real S3 server: in batches, in quarantine, and by keys of strangers."""

from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import insert, select

from models.openchat import Attachment, Message
from models.platform import AttachmentJob
from tasks.attachments.objects import picture_key, quarantine_name
from tasks.policies.columns import table_of
from tests.fault_proxy import FaultProxy
from tests.platform import Platform
from tests.retention.retaining import days, retain
from tests.servers import SeaweedFSServer
from tests.sweeps.sweeping import ago, naive, rows

POLICY = "openchat.deleted_messages"
#: What S3 takes in one request.
MOST_KEYS = 1_000


@pytest.fixture
def proxy(platform: Platform, seaweedfs: SeaweedFSServer, bucket: str) -> Iterator[FaultProxy]:
    made = FaultProxy(seaweedfs.server.ports["s3"])
    platform.use_s3(seaweedfs, bucket, made.address)
    days(platform, **{POLICY: 30, "openchat.deleted_attachments": 30})
    yield made
    made.close()


def deleted(platform: Platform, row_id: UUID) -> UUID:
    """Have the message of an attachment deleted long ago; return the message's id."""
    message = platform.row(Attachment, row_id).message_id
    platform.sql(
        "UPDATE openchat.message SET is_deleted = true, deleted_at = :at WHERE id = :id",
        id=message,
        at=naive(ago(days=31)),
    )
    assert isinstance(message, UUID)
    return message


def more(platform: Platform, message: UUID, number: int) -> None:
    """Add attachments to a message, with their objects."""
    with platform.engine.begin() as connection:
        (one,) = connection.execute(
            select(Attachment.__table__).where(Attachment.message_id == message)
        ).mappings()
        keys = [platform.put(b"x", f"uploads/{number}-{uuid4()}", "s3") for number in range(number)]
        each = [{**one, "id": uuid4(), "storage_key": key} for key in keys]
        connection.execute(insert(table_of(Attachment)), each)


def test_eleven_hundred_objects_go_in_two_requests(platform: Platform, proxy: FaultProxy) -> None:
    stays = platform.openchat_attachment(b"stays", storage_provider="s3")
    message = deleted(platform, platform.openchat_attachment(b"goes", storage_provider="s3"))
    more(platform, message, 1_099)
    drawn = next(key for key in rows(platform, Attachment) if key != stays)
    platform.put(b"picture", picture_key("openchat", drawn, "small"), "s3")
    proxy.requests.clear()
    assert retain(platform, POLICY).rows == 1
    asked = [one for one in proxy.requests if one.startswith("POST") and "delete" in one]
    # With two pictures each, whether they were drawn or not.
    assert len(asked) == -(-3 * 1_100 // MOST_KEYS)
    assert list(rows(platform, Attachment)) == [stays]
    assert list(platform.objects("s3")) == [platform.row(Attachment, stays).storage_key]
    (receipt,) = platform.sql("SELECT content FROM roomkeeper.receipts")
    assert receipt.content["objects"] == 1_100
    assert receipt.content["tables"] == {"openchat.message": 1, "openchat.attachment": 1_100}


def test_what_lies_in_quarantine_goes_from_there(
    platform: Platform, seaweedfs: SeaweedFSServer, proxy: FaultProxy
) -> None:
    row_id = platform.openchat_attachment(b"bad", storage_provider="s3")
    name = quarantine_name("openchat", row_id)
    key = platform.row(Attachment, row_id).storage_key
    prefix = platform.settings.s3_quarantine_prefix
    platform.put(b"bad", f"{prefix}{name}", "s3")
    job = {"app": "openchat", "attachment_id": row_id, "state": "finished", "outcome": "quarantined"}
    with platform.engine.begin() as connection:
        connection.execute(insert(table_of(AttachmentJob)).values(**job, quarantine_key=name))
    deleted(platform, row_id)
    assert platform.quarantined("s3") == {name: b"bad"}
    assert retain(platform, POLICY).rows == 1
    assert platform.quarantined("s3") == {}
    assert key not in platform.objects("s3")
    assert platform.sql("SELECT * FROM roomkeeper.attachment_jobs") == []


@pytest.mark.parametrize("which", ["picture", "quarantine", "outside", "other"])
def test_a_key_of_a_stranger_deletes_nothing_of_others(
    platform: Platform, proxy: FaultProxy, which: str
) -> None:
    victim = platform.openchat_attachment(b"theirs", storage_provider="s3")
    other_key = picture_key("openchat", victim, "small")
    hidden = f"{platform.settings.s3_quarantine_prefix}openchat/{victim}"
    for key in (other_key, hidden):
        platform.put(b"theirs", key, "s3")
    keys: dict[str, Any] = {
        "picture": other_key,
        "quarantine": hidden,
        "outside": "../../etc/passwd",
        "other": platform.row(Attachment, victim).storage_key,
    }
    before = platform.objects("s3"), platform.quarantined("s3")
    message = deleted(platform, platform.openchat_attachment(b"own", storage_provider="s3"))
    platform.sql(
        "UPDATE openchat.attachment SET storage_key = :key WHERE message_id = :id",
        key=keys[which],
        id=message,
    )
    own = set(platform.objects("s3")) - set(before[0])
    assert retain(platform, POLICY).rows == 1
    assert {key: found for key, found in platform.objects("s3").items() if key not in own} == before[0]
    assert platform.quarantined("s3") == before[1]
    assert list(rows(platform, Attachment)) == [victim]


def test_a_row_in_a_store_that_is_not_set_up_stays_and_others_go(
    platform: Platform, proxy: FaultProxy
) -> None:
    lost = platform.openchat_attachment(b"x", storage_provider="s3")
    platform.sql("UPDATE openchat.attachment SET storage_provider = 'gcs'")
    kept = deleted(platform, lost)
    for _ in range(3):
        deleted(platform, platform.openchat_attachment(b"goes", storage_provider="s3"))
    done = retain(platform, POLICY)
    assert (done.rows, done.remaining) == (3, 1)
    assert done.error is not None
    assert "'gcs' is not set up" in done.error
    assert kept in rows(platform, Message)
