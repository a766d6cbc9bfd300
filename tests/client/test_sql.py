"""`roomkeeper.sql`: in the caller's transaction, whatever its cursors are like."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.rows import dict_row, namedtuple_row, tuple_row

from roomkeeper import InvalidPayload, Status, sql
from tests.platform import Platform

AT = datetime(2026, 1, 31, tzinfo=UTC)


def status() -> Status:
    return Status(uuid4(), uuid4(), "read", AT)


def outbox(platform: Platform) -> list[tuple[UUID, str, Any]]:
    return [
        tuple(row) for row in platform.sql("SELECT task_id, task, payload FROM roomkeeper.outbox ORDER BY id")
    ]


def inbox(platform: Platform) -> list[tuple[int, str, Any]]:
    return [
        tuple(row) for row in platform.sql("SELECT id, app, events FROM roomkeeper.status_inbox ORDER BY id")
    ]


@pytest.mark.parametrize("rows", [tuple_row, dict_row, namedtuple_row])
@pytest.mark.parametrize(
    "kind",
    [
        psycopg.Cursor,
        # Parameters become part of the text, as psycopg2 does it.
        psycopg.ClientCursor,
    ],
)
def test_both_are_there_once_the_transaction_is_committed(
    platform: Platform, kind: Callable[..., Any], rows: Any
) -> None:
    row_id, statuses = uuid4(), [status() for _ in range(1001)]
    with psycopg.connect(platform.environment["DATABASE_URL"]) as connection:
        cursor = kind(connection, row_factory=rows)
        task_id = sql.process_attachment(cursor, "openchat", row_id)
        numbers = sql.record_status(cursor, "pern", iter(statuses))
        assert sql.record_status(cursor, "pern", []) == []
        assert (outbox(platform), inbox(platform)) == ([], [])
        connection.commit()
        sql.process_attachment(cursor, "pern", str(row_id))
        sql.record_status(cursor, "connect", statuses)
        connection.rollback()
    assert outbox(platform) == [(task_id, "attachments.process", {"app": "openchat", "id": str(row_id)})]
    events = [one.event() for one in statuses]
    assert inbox(platform) == [(numbers[0], "pern", events[:1000]), (numbers[1], "pern", events[1000:])]


def test_a_room_is_handed_over_by_id_or_by_code(platform: Platform) -> None:
    room = uuid4()
    with psycopg.connect(platform.environment["DATABASE_URL"]) as connection, connection.cursor() as cursor:
        ids = [sql.recompute_room(cursor, "audiorooms", one) for one in (room, str(room), "ABC123")]
        with pytest.raises(InvalidPayload, match=r"^room: neither a UUID nor a code, but a string of 6"):
            sql.recompute_room(cursor, "audiorooms", "abc123")
    assert outbox(platform) == [
        (task_id, "analytics.room", {"app": "audiorooms", "room": argument})
        for task_id, argument in zip(ids, (str(room), str(room), "ABC123"), strict=True)
    ]


def test_a_conversation_is_recounted_by_id(platform: Platform) -> None:
    row_id = uuid4()
    with psycopg.connect(platform.environment["DATABASE_URL"]) as connection, connection.cursor() as cursor:
        task_id = sql.recount_conversation(cursor, "openchat", row_id)
        with pytest.raises(InvalidPayload, match=r"^app: not an application with counters"):
            sql.recount_conversation(cursor, "pern", row_id)
    payload = {"app": "openchat", "conversation_id": str(row_id)}
    assert outbox(platform) == [(task_id, "delivery.recount", payload)]


def test_what_is_wrong_does_not_end_the_transaction(platform: Platform) -> None:
    with psycopg.connect(platform.environment["DATABASE_URL"]) as connection, connection.cursor() as cursor:
        first = sql.process_attachment(cursor, "openchat", uuid4())
        with pytest.raises(InvalidPayload, match=r"^attachment_id: not a UUID"):
            sql.process_attachment(cursor, "openchat", "5")
        with pytest.raises(InvalidPayload, match=r"^statuses\[1000\]: not a Status"):
            sql.record_status(cursor, "pern", [*[status()] * 1000, "read"])  # type: ignore[list-item]
    assert [task_id for task_id, _, _ in outbox(platform)] == [first]
    assert inbox(platform) == []


def test_an_error_of_the_database_is_the_drivers_own(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A service whose copy is newer than the database.
    monkeypatch.setattr("roomkeeper.payloads.WITH_ATTACHMENTS", ("sixth",))
    with psycopg.connect(platform.environment["DATABASE_URL"]) as connection, connection.cursor() as cursor:
        with pytest.raises(psycopg.errors.InvalidParameterValue) as caught:
            sql.process_attachment(cursor, "sixth", uuid4())
        connection.rollback()
    assert str(caught.value.diag.message_primary).startswith("payload.app: not an application of")
    assert caught.value.diag.message_hint == "Allowed: openchat, pern."
