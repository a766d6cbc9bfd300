"""Retention of `echoroom`: messages, and anonymous users with what names them."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from models.echoroom import (
    ChatMessage,
    ChatSession,
    SessionParticipant,
    User,
)
from tasks.apps import APPS, POLICIES
from tasks.retention.restore import restore
from tests.platform import Platform
from tests.retention.proving import proven, receipts
from tests.retention.retaining import days, retain
from tests.sweeps.sweeping import INSTANT, NOW, add, ago, rows

PERIOD = timedelta(days=30)
#: Just due, and just not yet.
OVER, NOT_YET = NOW - PERIOD - INSTANT, NOW - PERIOD
LONG_AGO = ago(days=400)


@pytest.fixture(autouse=True)
def periods(platform: Platform) -> None:
    days(platform, **{policy.name: PERIOD.days for policy in APPS["echoroom"].retention})


def room(platform: Platform, **values: Any) -> UUID:
    return add(platform, ChatSession, category="Calm", **values)


def person(platform: Platform, at: datetime | None = LONG_AGO, **values: Any) -> UUID:
    stamps = {"last_active": at, "created_at": at, "updated_at": at}
    return add(platform, User, username="Panda", **{**stamps, **values})


def message(
    platform: Platform, of: UUID | None, who: UUID | None, at: datetime | None, **values: Any
) -> UUID:
    columns = {"session_id": of, "user_id": who, "sender_name": "Panda", "content": "hi"}
    return add(platform, ChatMessage, **{**columns, "created_at": at, "updated_at": LONG_AGO, **values})


def participant(platform: Platform, of: UUID, who: UUID, **values: Any) -> UUID:
    given = {"joined_at": LONG_AGO, "left_at": LONG_AGO, "is_active": False}
    return add(platform, SessionParticipant, session_id=of, user_id=who, **{**given, **values})


# -- messages ---------------------------------------------------------------------------------------------


def test_a_reply_gets_a_new_stamp_and_nothing_else(platform: Platform) -> None:
    place = room(platform)
    old = message(platform, place, None, OVER)
    reply = message(platform, place, None, NOW, reply_to=old)
    before = rows(platform, ChatMessage)[reply]
    retain(platform, "echoroom.messages")
    after = rows(platform, ChatMessage)[reply]
    assert after["updated_at"] > before["updated_at"]
    assert after == {**before, "reply_to": None, "updated_at": after["updated_at"]}
    (number,) = receipts(platform)
    restore(number, platform.settings, operator="ada", reason="a test")
    assert rows(platform, ChatMessage)[reply]["reply_to"] == old


# -- anonymous users --------------------------------------------------------------------------------------


def test_who_sits_in_a_room_is_alive_and_rooms_count_right(platform: Platform) -> None:
    place = room(platform)
    there = person(platform)
    participant(platform, place, there, is_active=True)
    left = [person(platform), person(platform)]
    expired = [
        participant(platform, place, left[0]),
        # Neither there nor gone: the trigger has not counted it, and does not count it off.
        participant(platform, place, left[1], is_active=None),
    ]
    participant(platform, place, person(platform, is_anonymous=False))
    assert rows(platform, ChatSession)[place]["current_participants"] == 1
    proven(platform, "echoroom.anonymous_users", deleted={User: left, SessionParticipant: expired})
    with platform.engine.begin() as connection:
        counts = POLICIES["echoroom.counts"]
        found = connection.execute(counts.table.select().where(counts.due).params(now=NOW)).all()
    assert found == []
