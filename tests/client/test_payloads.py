"""What `roomkeeper` sends is what the tasks take; what they would refuse it refuses first, and says why."""

import json
from collections import UserList
from datetime import UTC, datetime, timedelta, timezone
from enum import Enum
from typing import Any, cast, get_args
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from roomkeeper import InvalidPayload, Status, payloads
from tasks.analytics.payload import CODE, RecomputeRoom
from tasks.attachments.payload import WITH_ATTACHMENTS, ProcessAttachment
from tasks.delivery import events
from tasks.delivery.events import RecordStatus
from tasks.delivery.payload import WITH_COUNTERS, RecountConversation
from tests.platform import Platform

ID = UUID("0b0f7a1e-2f0c-4c6e-9f0a-8d9a1b2c3d4e")
AT = datetime(2026, 1, 31, 23, 59, 59, 123000, UTC)
UUIDS = "A UUID looks like 123e4567-e89b-42d3-a456-426614174000."
IDS = st.uuids() | st.uuids().map(str) | st.uuids().map(lambda one: str(one).upper())
STATUSES = st.builds(
    Status,
    IDS,
    IDS,
    st.sampled_from(get_args(events.Status)),
    st.datetimes(
        datetime(1, 1, 2),  # noqa: DTZ001 - hypothesis adds it
        datetime(9999, 12, 30),  # noqa: DTZ001
        timezones=st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes))),
    ),
)


def test_it_allows_what_the_tasks_allow() -> None:
    assert payloads.WITH_ATTACHMENTS == WITH_ATTACHMENTS
    assert payloads.WITH_STATUSES == events.WITH_STATUSES
    assert get_args(RecomputeRoom.model_fields["app"].annotation) == payloads.WITH_ROOMS
    assert payloads.WITH_COUNTERS == WITH_COUNTERS
    assert payloads._CODE.pattern == CODE.pattern
    assert get_args(payloads.StatusName) == get_args(events.Status)
    assert payloads.MAX_EVENTS == events.MAX_EVENTS


def test_it_names_the_tasks_and_their_own_queues(platform: Platform) -> None:
    from tasks.analytics.task import recompute_room
    from tasks.attachments.process import process
    from tasks.delivery.record import record
    from tasks.delivery.recount import recount

    tasks: tuple[Any, ...] = (process, record, recount, recompute_room)
    assert {task.name: task.queue for task in tasks} == payloads.QUEUES


@given(st.sampled_from(payloads.WITH_ATTACHMENTS), IDS)
def test_the_task_reads_an_attachment_as_it_was_meant(app: str, row_id: UUID | str) -> None:
    read = ProcessAttachment.model_validate_json(json.dumps(payloads.attachment(app, row_id)))
    assert (read.app, read.id) == (app, UUID(str(row_id)))


@given(st.sampled_from(payloads.WITH_COUNTERS), IDS)
def test_the_task_reads_a_conversation_as_it_was_meant(app: str, row_id: UUID | str) -> None:
    read = RecountConversation.model_validate_json(json.dumps(payloads.conversation(app, row_id)))
    assert (read.app, read.conversation_id) == (app, UUID(str(row_id)))


@given(st.sampled_from(payloads.WITH_ROOMS), IDS | st.from_regex(CODE, fullmatch=True))
def test_the_task_reads_a_room_as_it_was_meant(app: str, room: UUID | str) -> None:
    read = RecomputeRoom.model_validate_json(json.dumps(payloads.room(app, room)))
    assert read.app == app
    # An id is never taken for a code.
    assert read.room == (room if len(str(room)) == 6 else UUID(str(room)))


@given(st.sampled_from(payloads.WITH_STATUSES), st.lists(STATUSES, min_size=1, max_size=5))
def test_the_task_reads_statuses_as_they_were_meant(app: str, statuses: list[Status]) -> None:
    (part,) = payloads.events(app, statuses)
    read = RecordStatus.model_validate_json(json.dumps({"app": app, "events": part}))
    assert read.app == app
    assert [(one.message_id, one.user_id, one.status, one.at) for one in read.events] == [
        (UUID(str(one.message_id)), UUID(str(one.user_id)), one.status, one.at) for one in statuses
    ]


@pytest.mark.parametrize(
    ("count", "lengths"),
    [(0, []), (1, [1]), (999, [999]), (1000, [1000]), (1001, [1000, 1]), (2000, [1000, 1000])],
)
def test_statuses_go_in_thousands_and_in_order(count: int, lengths: list[int]) -> None:
    statuses = [Status(UUID(int=number), ID, "read", AT) for number in range(count)]
    # Whatever can be gone through once.
    parts = payloads.events("pern", iter(statuses))
    assert [len(part) for part in parts] == lengths
    assert [event for part in parts for event in part] == [status.event() for status in statuses]


@pytest.mark.parametrize(
    "at",
    [
        datetime.min.replace(tzinfo=UTC),
        datetime(1970, 1, 1, tzinfo=UTC),
        datetime.max.replace(tzinfo=UTC),
        # Of Amsterdam, before it had hours in common with others.
        datetime(2026, 1, 1, tzinfo=timezone(timedelta(minutes=19, seconds=32))),
    ],
)
def test_the_task_takes_every_moment_that_is_let_through(at: datetime) -> None:
    event = Status(ID, ID, "read", at).event()
    assert events.Event.model_validate(event).at == at


def test_a_moment_that_has_no_time_in_utc_is_the_nearest_that_has() -> None:
    ends = {1: datetime.min.replace(tzinfo=UTC), -1: datetime.max.replace(tzinfo=UTC)}
    for hours, end in ends.items():
        zone = timezone(timedelta(hours=hours))
        event = Status(ID, ID, "read", end.replace(tzinfo=zone)).event()
        assert events.Event.model_validate(event).at == end


WRONG_IDS: list[tuple[Any, str]] = [
    (None, "None"),
    (5, "a value of type int"),
    (b"\0" * 16, "a value of type bytes"),
    ("", "a string of 0 characters"),
    (ID.hex, "a string of 32 characters"),
    (f"{{{ID}}}", "a string of 38 characters"),
    (f"{ID}\n", "a string of 37 characters"),
    ("secret", "a string of 6 characters"),
]
WRONG_STATUSES: list[tuple[dict[str, Any], str]] = [
    *(
        ({field: value}, f"{field}: not a UUID, but {shape}. {UUIDS}")
        for field in ("message_id", "user_id")
        for value, shape in WRONG_IDS
    ),
    *(
        ({"status": value}, f"status: not a status, but {shape}. Allowed: sent, delivered, read, failed.")
        for value, shape in (
            ("Read", "a string of 4 characters"),
            (None, "None"),
            (["read"], "a value of type list"),
        )
    ),
    ({"at": "2026-01-31T23:59:59Z"}, "at: not a datetime, but a string of 20 characters."),
    ({"at": 1770000000}, "at: not a datetime, but a value of type int."),
    ({"at": AT.date()}, "at: not a datetime, but a value of type date."),
    ({"at": AT.replace(tzinfo=None)}, "at: without an offset from UTC. datetime.now(UTC) has one."),
]


@pytest.mark.parametrize(("field", "message"), WRONG_STATUSES)
def test_what_is_wrong_with_a_status_is_said_where_it_is_made(field: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {"message_id": ID, "user_id": ID, "status": "read", "at": AT}
    with pytest.raises(InvalidPayload) as caught:
        Status(**good | field)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("app", "shape"),
    [
        ("connect", "a string of 7 characters"),
        ("Pern", "a string of 4 characters"),
        (None, "None"),
        (["pern"], "a value of type list"),
    ],
)
def test_an_application_without_attachments(app: Any, shape: str) -> None:
    with pytest.raises(InvalidPayload) as caught:
        payloads.attachment(app, ID)
    message = f"app: not an application with attachments, but {shape}. Allowed: openchat, pern."
    assert str(caught.value) == message


@pytest.mark.parametrize(("value", "shape"), WRONG_IDS)
def test_an_id_of_an_attachment_that_is_none(value: Any, shape: str) -> None:
    with pytest.raises(InvalidPayload) as caught:
        payloads.attachment("pern", value)
    assert str(caught.value) == f"attachment_id: not a UUID, but {shape}. {UUIDS}"
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("app", ["echoroom", "Audiorooms", "", None])
def test_an_application_without_figures_of_rooms(app: Any) -> None:
    shape = "None" if app is None else f"a string of {len(app)} characters"
    with pytest.raises(InvalidPayload) as caught:
        payloads.room(app, "ABC123")
    message = f"app: not an application with statistics of rooms, but {shape}. Allowed: audiorooms."
    assert str(caught.value) == message
    with pytest.raises(ValidationError):
        RecomputeRoom.model_validate({"app": app, "room": "ABC123"})


@pytest.mark.parametrize(
    ("value", "shape"),
    [
        *WRONG_IDS,
        (123456, "a value of type int"),
        ("abc123", "a string of 6 characters"),
        ("ABC12", "a string of 5 characters"),
        ("ABC1234", "a string of 7 characters"),
        ("ABC12\n", "a string of 6 characters"),
        ("ABC123\n", "a string of 7 characters"),
        ("ABC12٣", "a string of 6 characters"),
    ],
)
def test_a_room_that_is_neither_id_nor_code(value: Any, shape: str) -> None:
    with pytest.raises(InvalidPayload) as caught:
        payloads.room("audiorooms", value)
    assert str(caught.value) == (
        f"room: neither a UUID nor a code, but {shape}. "
        "A code is six capital letters and digits, like ABC123."
    )
    if value not in (ID.hex, f"{{{ID}}}", f"{ID}\n"):
        with pytest.raises(ValidationError):
            RecomputeRoom.model_validate({"app": "audiorooms", "room": value})


@pytest.mark.parametrize("app", ["echoroom", "audiorooms", "", None])
def test_an_application_without_statuses(app: Any) -> None:
    shape = "None" if app is None else f"a string of {len(app)} characters"
    with pytest.raises(InvalidPayload) as caught:
        payloads.events(app, [])
    message = f"app: not an application with message statuses, but {shape}. Allowed: openchat, connect, pern."
    assert str(caught.value) == message


GOOD = Status(ID, ID, "read", AT)


@pytest.mark.parametrize(
    ("statuses", "message"),
    [
        (None, "statuses: not a list, but None. A list of Status is wanted."),
        (GOOD, "statuses: not a list, but a value of type Status. A list of Status is wanted."),
        ([GOOD.event()], "statuses[0]: not a Status, but a value of type dict."),
        ("read", "statuses[0]: not a Status, but a string of 1 characters."),
        (UserList([GOOD] * 1500 + [None]), "statuses[1500]: not a Status, but None."),
    ],
)
def test_something_else_than_statuses(statuses: Any, message: str) -> None:
    with pytest.raises(InvalidPayload) as caught:
        payloads.events("pern", statuses)
    assert str(caught.value) == message


def test_what_is_refused_the_task_would_refuse_too() -> None:
    # But for what JSON cannot say, and for ids that are written otherwise, which SQL refuses as well.
    for field, _ in WRONG_STATUSES:
        ((name, value),) = field.items()
        if name.endswith("_id") and value in (ID.hex, f"{{{ID}}}", f"{ID}\n", b"\0" * 16):
            continue
        if name == "at" and not isinstance(value, datetime):
            continue
        with pytest.raises(ValidationError):
            events.Event.model_validate({"message_id": ID, "user_id": ID, "status": "read", "at": AT} | field)


def test_a_status_does_not_change() -> None:
    with pytest.raises(AttributeError):
        GOOD.status = "sent"  # type: ignore[misc]
    assert Status(ID, ID, "read", AT) == GOOD
    assert Status(uuid4(), ID, "read", AT) != GOOD


def test_a_status_may_be_a_member_of_an_enumeration_of_strings() -> None:
    class ServiceStatus(str, Enum):  # noqa: UP042 - as many services have it
        READ = "read"

    status = Status(uuid4(), uuid4(), cast("Any", ServiceStatus.READ), datetime(2026, 3, 1, tzinfo=UTC))
    assert status.event()["status"] == "read"
    assert json.loads(json.dumps(status.event()))["status"] == "read"
