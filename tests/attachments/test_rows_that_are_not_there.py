"""Messages whose row is not there: deleted before its turn, not committed yet, or never written."""

import json
from typing import Any
from uuid import UUID, uuid4

import pytest
from celery.exceptions import Retry
from redis import Redis

from tasks import outbox
from tasks.attachments import recover
from tasks.attachments.attachment_work import UnknownAttachmentError
from tasks.attachments.process import process
from tests.attachments.context import BOTH, MODELS, AppContext, at_scan
from tests.attachments.test_recover import Configure, configure
from tests.platform import Platform
from workers import task as tasks

__all__ = ["configure"]


@pytest.fixture
def context(platform: Platform, app: str) -> AppContext:
    return AppContext(platform, app)


@pytest.fixture
def take(configure: Configure) -> Any:
    """Take a message as a worker does; return how that ended."""

    def taken(app: str, row_id: UUID, **request: Any) -> Any:
        process.push_request(
            id=str(uuid4()),
            args=[{"app": app, "id": str(row_id)}],
            kwargs={},
            called_directly=False,
            hostname="worker",
            delivery_info={"exchange": "", "routing_key": "attachments"},
            **{"retries": 0, "headers": {}} | request,
        )
        try:
            return process.run({"app": app, "id": str(row_id)})
        finally:
            process.pop_request()

    return taken


def delete_row(context: AppContext, row_id: UUID) -> None:
    table = MODELS[context.app].__table__.fullname
    context.platform.sql(f"DELETE FROM {table} WHERE id = :id", id=row_id)


def enqueue(context: AppContext, row_id: UUID) -> None:
    payload = json.dumps({"app": context.app, "id": str(row_id)})
    context.platform.sql("SELECT roomkeeper.enqueue('attachments.process', CAST(:p AS jsonb))", p=payload)


def published(platform: Platform) -> dict[str, Any]:
    """Return the message that was published for later, and take it away."""
    with Redis.from_url(platform.environment["ROOMKEEPER_BROKER_URL"]) as client:
        raw = client.rpop("attachments")
    assert isinstance(raw, bytes)
    found = json.loads(raw)
    assert isinstance(found, dict)
    return found


# -- Rows that were there ---------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("seen_by", ["outbox", "recovery job", "worker"])
def test_a_row_that_is_deleted_before_its_turn_is_nothing(
    context: AppContext, take: Any, seen_by: str, configure: Configure
) -> None:
    """Nor for the second and third message of it, which the job of the file is not there any more for."""
    row_id = context.upload(b"Milk\n" if seen_by != "worker" else None)
    if seen_by == "outbox":
        enqueue(context, row_id)
        outbox.relay.run()
    elif seen_by == "recovery job":
        configure(attachment_grace_seconds=0)
        recover.recover.run()
    else:
        assert context.work(row_id) == "waiting (object_missing)"
    delete_row(context, row_id)
    for _ in range(3):
        assert take(context.app, row_id) == "nothing to do"
        assert context.platform.job(row_id) is None
    assert context.platform.dead_letters() == []
    (last, *_) = context.platform.sql(
        "SELECT event FROM roomkeeper.attachment_events WHERE attachment_id = :id ORDER BY id DESC", id=row_id
    )
    assert last.event == "row_deleted"


def test_one_that_is_deleted_while_it_is_worked_on_is_nothing_later(
    platform: Platform, take: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = AppContext(platform, "openchat")
    row_id = context.upload(b"Milk\n")
    at_scan(monkeypatch, lambda: delete_row(context, row_id))
    assert context.work(row_id) == "vanished"
    assert take("openchat", row_id) == "nothing to do"


# -- Rows that were never there ---------------------------------------------------------------------------


def test_one_that_was_never_seen_waits_for_a_minute(platform: Platform, take: Any) -> None:
    row_id, retries = uuid4(), 0
    headers: dict[str, float] = {}
    pauses: list[float] = []
    while True:
        try:
            take("openchat", row_id, headers=headers, retries=retries)
        except Retry as later:
            message = published(platform)
            headers = {"missing_since": message["headers"]["missing_since"]}
            retries = message["headers"]["retries"]
            pause = float(str(later.when))
            pauses.append(pause)
            # Instead of waiting.
            headers["missing_since"] -= pause
        except UnknownAttachmentError as error:
            reason = str(error)
            break
    # Less what the looks themselves took.
    assert 50 < sum(pauses) < 61
    assert max(pauses) <= 10
    assert pauses[:3] == [0.5, 2, 8]
    assert reason == (
        f"openchat has no attachment {row_id}; none appeared within 60 s: a wrong id, a transaction that was "
        "rolled back, or a row that was deleted at once"
    )
    assert platform.job(row_id) is None


def test_the_database_s_clock_counts(platform: Platform, take: Any) -> None:
    """A worker whose clock is ahead looks too early, and waits on."""
    row_id = uuid4()
    ((now,),) = platform.sql("SELECT extract(epoch FROM clock_timestamp())::float8")
    with pytest.raises(Retry):
        take("openchat", row_id, headers={"missing_since": now - 50}, retries=20)
    with pytest.raises(UnknownAttachmentError):
        take("openchat", row_id, headers={"missing_since": now - 60}, retries=1)
    # If it goes back, there is an end all the same.
    with pytest.raises(UnknownAttachmentError):
        take("openchat", row_id, headers={"missing_since": now + 9e9}, retries=tasks.MOST_LOOKS)


@pytest.mark.parametrize("stranger", ["x", None, [1], {}, 1e400, float("nan"), 10**30])
def test_a_stranger_s_header_does_no_harm(platform: Platform, take: Any, stranger: object) -> None:
    with pytest.raises(Retry):
        take("openchat", uuid4(), headers={"missing_since": stranger})
    ((now,),) = platform.sql("SELECT extract(epoch FROM clock_timestamp())::float8")
    assert now - 60 < published(platform)["headers"]["missing_since"] <= now


def test_a_row_that_is_committed_later_is_taken(platform: Platform, take: Any) -> None:
    context, row_id = AppContext(platform, "openchat"), uuid4()
    with pytest.raises(Retry):
        take("openchat", row_id)
    message = published(platform)
    context.upload(b"Milk\n", id=row_id)
    headers = {"missing_since": message["headers"]["missing_since"]}
    assert take("openchat", row_id, headers=headers, retries=1) == "accepted"
