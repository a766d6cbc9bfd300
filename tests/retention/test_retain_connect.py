"""Retention of `connect`: calls that led to nothing, and messages with their read marks."""

from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import delete, insert

from models.connect import (
    ChatRoom,
    Connection,
    InteractionLog,
    Message,
    MessageReadStatus,
    User,
    VideoRequest,
)
from tasks import holds
from tasks.apps import policies
from tasks.engines.batch import Seen, Taken
from tasks.engines.retire import Retiring
from tests.cleanup.sweeping import INSTANT, NOW, add, rows
from tests.engines.test_sweep import held
from tests.platform import Platform
from tests.retention.proving import add_hold, proven
from tests.retention.retaining import days, everything, retain

LOGS, MESSAGES = "connect.logs", "connect.messages"
#: As documented.
YEAR = timedelta(days=365)
MONTH = timedelta(days=30)
DUE = NOW - YEAR - INSTANT
FALLEN = ("no_action", "both_left", "timeout")

both = pytest.mark.parametrize("by_hand", [True, False], ids=["by hand", "as beat does"])


def person(platform: Platform, role: str = "female") -> UUID:
    key = uuid4()
    names = {"username": key.hex, "email": f"{key}@x.org", "password_hash": "x"}
    return add(platform, User, id=key, role=role, **names)


def call(platform: Platform, **values: Any) -> UUID:
    people = {"user1_id": values.pop("user1_id", None) or person(platform)}
    people["user2_id"] = values.pop("user2_id", None) or person(platform)
    given = {"room_id": "x", "started_at": DUE, "ended_at": DUE + INSTANT, "outcome": "no_action"}
    return add(platform, InteractionLog, **people, **{**given, **values})


def ties(log: UUID, one: UUID, other: UUID) -> dict[str, Any]:
    return {"user1_id": one, "user2_id": other, "interaction_log_id": log, "female_user_id": one}


def tie(platform: Platform, log: UUID, **values: Any) -> UUID:
    return add(platform, Connection, **ties(log, person(platform), person(platform)), **values)


def room(platform: Platform) -> UUID:
    """Return a chat room, of a connection whose call was yesterday."""
    of = tie(platform, call(platform, started_at=NOW - timedelta(days=1)))
    return add(platform, ChatRoom, connection_id=of, room_name="x")


def message(platform: Platform, place: UUID, age: timedelta = MONTH + INSTANT, **values: Any) -> UUID:
    sender = values.pop("sender_user_id", None) or person(platform)
    at = {"created_at": NOW - age, "updated_at": NOW}
    return add(
        platform,
        Message,
        chat_room_id=place,
        sender_user_id=sender,
        **{"content": "see", **at, **values},
    )


def mark(platform: Platform, of: UUID, **values: Any) -> UUID:
    who = values.pop("user_id", None) or person(platform)
    return add(platform, MessageReadStatus, message_id=of, user_id=who, **{"read_at": NOW, **values})


@both
def test_calls_that_led_to_nothing_go_after_a_year(platform: Platform, by_hand: bool) -> None:
    # A year is the documented period: nobody has to set it.
    days(platform)
    gone = {call(platform, outcome=outcome) for outcome in FALLEN} | {
        call(platform, started_at=NOW - timedelta(days=4000), ended_at=None),
        call(platform, interaction_type="video_call", metadata={"a": [1, None]}),
    }
    for outcome in FALLEN:
        call(platform, outcome=outcome, started_at=NOW - YEAR)
        call(platform, outcome=outcome, started_at=NOW)
        # When it began is not known.
        call(platform, outcome=outcome, started_at=None, ended_at=NOW - 2 * YEAR)
    call(platform, outcome="female_connected")
    # Nobody knows what came of it.
    call(platform, outcome=None)
    proven(platform, LOGS, gone={InteractionLog: gone}, by_hand=by_hand)


def test_another_period_may_be_set(platform: Platform) -> None:
    days(platform, **{LOGS: 400})
    gone = call(platform, started_at=NOW - timedelta(days=400) - INSTANT)
    call(platform, started_at=NOW - timedelta(days=400))
    call(platform)
    proven(platform, LOGS, gone={InteractionLog: [gone]})


@both
def test_a_call_that_a_connection_came_of_stays_and_so_does_its_chat(
    platform: Platform, by_hand: bool
) -> None:
    days(platform)
    for outcome in FALLEN:
        of = tie(platform, call(platform, outcome=outcome))
        place = add(platform, ChatRoom, connection_id=of, room_name="x")
        mark(platform, message(platform, place))
        people = {"requester_user_id": person(platform), "approver_user_id": person(platform)}
        add(platform, VideoRequest, connection_id=of, **people)
    tie(platform, call(platform), is_active=False)
    tie(platform, call(platform), is_active=None)
    gone = call(platform)
    proven(platform, LOGS, gone={InteractionLog: [gone]}, by_hand=by_hand)


@pytest.mark.parametrize("side", ["user1_id", "user2_id", "female_user_id"])
def test_calls_of_somebody_on_hold_stay_until_it_is_lifted(platform: Platform, side: str) -> None:
    days(platform)
    somebody = person(platform)
    kept = call(platform, **{side: somebody})
    gone = call(platform)
    hold = holds.place("connect", "user", somebody, reason="a case", actor="ada")
    proven(platform, LOGS, gone={InteractionLog: [gone]}, restored=False)
    holds.lift(hold, actor="ada")
    proven(platform, LOGS, gone={InteractionLog: [kept]})


def test_a_hold_of_another_application_or_kind_keeps_nothing_here(platform: Platform) -> None:
    """Ids are only unique where they are from."""
    days(platform)
    somebody = person(platform)
    gone = call(platform, user1_id=somebody)
    for app, entity in (("pern", "user"), ("connect", "room"), ("connect", "conversation")):
        add_hold(platform, app, entity, somebody)
    proven(platform, LOGS, gone={InteractionLog: [gone]})


@pytest.mark.parametrize("made", [True, False])
def test_a_connection_that_is_being_made_keeps_its_call(platform: Platform, made: bool) -> None:
    """It is in a transaction that nobody else sees yet."""
    days(platform)
    log, one, other = call(platform), person(platform), person(platform)
    before = everything(platform)
    with held(platform, insert(Connection).values(ties(log, one, other))) as connection:
        done = retain(platform, LOGS)
        assert (done.rows, done.remaining, done.error) == (0, 1, None)
        assert everything(platform) == before
        if not made:
            connection.execute(delete(Connection))
    proven(platform, LOGS, gone={InteractionLog: [] if made else [log]})


def test_a_connection_that_comes_between_look_and_lock_keeps_its_call(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    days(platform)
    log, gone = call(platform), call(platform)
    take = Retiring.take

    def late(self: Retiring, seen: Seen) -> Taken:
        assert {row[0] for row in seen} == {log, gone}
        tie(platform, log)
        return take(self, seen)

    monkeypatch.setattr(Retiring, "take", late)
    assert retain(platform, LOGS).rows == 1
    monkeypatch.undo()
    assert set(rows(platform, InteractionLog)) == {log}
    assert len(rows(platform, Connection)) == 1
    assert retain(platform, LOGS).rows == 0


def test_a_connection_that_comes_after_the_lock_fails_or_waits_but_takes_nothing_along(
    platform: Platform,
) -> None:
    """Whoever has the log's lock decides: a connection to a log that goes cannot be made."""
    days(platform)
    kept, gone = call(platform), call(platform)
    tie(platform, kept)
    assert retain(platform, LOGS).rows == 1
    with pytest.raises(Exception, match="violates foreign key"):
        tie(platform, gone)
    assert set(rows(platform, InteractionLog)) == {kept}


@both
def test_messages_go_with_their_read_marks(platform: Platform, by_hand: bool) -> None:
    days(platform, **{MESSAGES: 30})
    place, other = room(platform), room(platform)
    gone = {
        message(platform, place),
        message(platform, place, timedelta(days=4000), is_deleted=True, is_edited=None),
        message(platform, other, message_type="system", metadata={"a": "b"}, updated_at=None),
    }
    marks = {mark(platform, of, read_at=at) for of in gone for at in (NOW, None)}
    for young in (
        message(platform, place, MONTH),
        message(platform, place, timedelta(0), is_deleted=True),
        # When it was written is not known.
        message(platform, place, created_at=None),
    ):
        # Read long ago, by a clock that is wrong: a mark has no age of its own.
        mark(platform, young, read_at=NOW - timedelta(days=4000))
    proven(platform, MESSAGES, gone={Message: gone, MessageReadStatus: marks}, by_hand=by_hand)


def test_messages_have_no_period_until_one_is_set(platform: Platform) -> None:
    assert LOGS in policies(platform.settings)
    assert MESSAGES not in policies(platform.settings)
    days(platform, **{MESSAGES: 30})
    assert MESSAGES in policies(platform.settings)


def test_messages_of_whom_and_what_is_on_hold_stay(platform: Platform) -> None:
    days(platform, **{MESSAGES: 30})
    writer, reader, place, held_place = person(platform), person(platform), room(platform), room(platform)
    kept = {
        "writer": [message(platform, place, sender_user_id=writer)],
        "reader": [message(platform, place)],
        "room": [message(platform, held_place), message(platform, held_place)],
    }
    read = mark(platform, kept["reader"][0], user_id=reader)
    gone = message(platform, place)
    marked = mark(platform, gone)
    placed = {
        name: holds.place("connect", entity, key, reason="a case", actor="ada")
        for name, entity, key in (
            ("writer", "user", writer),
            ("reader", "user", reader),
            ("room", "room", held_place),
        )
    }
    # These are not what they are called.
    add_hold(platform, "connect", "user", place)
    add_hold(platform, "connect", "room", gone)
    add_hold(platform, "pern", "user", rows(platform, Message)[gone]["sender_user_id"])
    proven(platform, MESSAGES, gone={Message: [gone], MessageReadStatus: [marked]}, restored=False)
    for name, number in placed.items():
        holds.lift(number, actor="ada")
        marks = [read] if name == "reader" else []
        proven(platform, MESSAGES, gone={Message: kept[name], MessageReadStatus: marks}, restored=False)
    assert rows(platform, Message) == {}
