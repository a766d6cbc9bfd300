"""Retention of `echoroom`: messages, and anonymous users with what names them."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from models.echoroom import (
    ChatMessage,
    ChatSession,
    MessageReaction,
    SessionParticipant,
    TypingIndicator,
    User,
    VoiceStatus,
)
from tasks.apps import APPS, POLICIES
from tasks.restore import restore
from tests.cleanup.sweeping import INSTANT, NOW, add, ago, rows
from tests.platform import Platform
from tests.retention.proving import add_hold, proven, receipts
from tests.retention.retaining import days, retain

PERIOD = timedelta(days=30)
#: Just due, and just not yet.
OVER, NOT_YET = NOW - PERIOD - INSTANT, NOW - PERIOD
LONG_AGO = ago(days=400)
NOBODY = {"user_id": None, "sender_name": "Deleted user"}
both = pytest.mark.parametrize("by_hand", [True, False], ids=["by hand", "as beat does"])


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
    said = {"session_id": of, "user_id": who, "sender_name": "Panda", "content": "hi"}
    return add(platform, ChatMessage, **{**said, "created_at": at, "updated_at": LONG_AGO, **values})


def reaction(platform: Platform, to: UUID, who: UUID | None, at: datetime | None = LONG_AGO) -> UUID:
    return add(platform, MessageReaction, message_id=to, user_id=who, emoji=uuid4().hex, created_at=at)


def participant(platform: Platform, of: UUID, who: UUID, **values: Any) -> UUID:
    given = {"joined_at": LONG_AGO, "left_at": LONG_AGO, "is_active": False}
    return add(platform, SessionParticipant, session_id=of, user_id=who, **{**given, **values})


def typing(platform: Platform, of: UUID, who: UUID, at: datetime | None = LONG_AGO) -> UUID:
    return add(platform, TypingIndicator, session_id=of, user_id=who, username="Panda", started_at=at)


def voice(platform: Platform, of: UUID, who: UUID, at: datetime | None = LONG_AGO) -> UUID:
    return add(platform, VoiceStatus, session_id=of, user_id=who, last_updated=at)


@pytest.fixture
def no_stamps(platform: Platform) -> None:
    """Messages that are changed keep their `updated_at`: the trigger goes by a clock of its own."""
    platform.sql("ALTER TABLE echoroom.chat_messages DISABLE TRIGGER update_chat_messages_updated_at")


# -- messages ---------------------------------------------------------------------------------------------


@both
@pytest.mark.usefixtures("no_stamps")
def test_messages_go_with_reactions_and_replies_stay(platform: Platform, by_hand: bool) -> None:
    place, who = room(platform), person(platform)
    gone = [message(platform, place, who, OVER), message(platform, None, None, LONG_AGO)]
    # Goes with what it replies to.
    gone.append(message(platform, place, who, OVER, reply_to=gone[0]))
    reactions = [reaction(platform, one, who, NOW) for one in gone] + [reaction(platform, gone[0], None)]
    reply = message(platform, place, who, NOT_YET, reply_to=gone[0])
    to_reply = message(platform, place, who, NOW, reply_to=gone[2])
    without_time = message(platform, place, who, None, reply_to=gone[1])
    reaction(platform, reply, who)
    message(platform, place, who, NOW, reply_to=reply)
    proven(
        platform,
        "echoroom.messages",
        gone={ChatMessage: gone, MessageReaction: reactions},
        changed={ChatMessage: {key: {"reply_to": None} for key in (reply, to_reply, without_time)}},
        by_hand=by_hand,
    )


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


@pytest.mark.parametrize("whose", ["sender", "room", "reaction"])
def test_a_message_on_hold_or_with_a_reaction_on_hold_stays(platform: Platform, whose: str) -> None:
    place, sender, other = room(platform), person(platform), person(platform)
    held = message(platform, place, sender, OVER)
    if whose == "reaction":
        reaction(platform, held, other)
    gone = message(platform, room(platform), person(platform), OVER)
    key = {"sender": sender, "room": place, "reaction": other}[whose]
    add_hold(platform, "echoroom", "room" if whose == "room" else "user", key)
    add_hold(platform, "openchat", "user", rows(platform, ChatMessage)[gone]["user_id"])
    proven(platform, "echoroom.messages", gone={ChatMessage: [gone]})


# -- anonymous users --------------------------------------------------------------------------------------

#: What somebody does, at a moment, in a room: each leaves a row.
SIGNS: dict[str, Any] = {
    "message": lambda platform, place, who, at: message(platform, place, who, at),
    "edit": lambda platform, place, who, at: message(platform, place, who, LONG_AGO, edited_at=at),
    "reaction": lambda platform, place, who, at: reaction(
        platform, message(platform, place, None, LONG_AGO), who, at
    ),
    "join": lambda platform, place, who, at: participant(platform, place, who, joined_at=at),
    "leave": lambda platform, place, who, at: participant(platform, place, who, left_at=at),
    "voice": voice,
    "typing": typing,
}
#: Where each leaves it, if the row goes with the person.
GOES = {
    "reaction": MessageReaction,
    "join": SessionParticipant,
    "leave": SessionParticipant,
    "voice": VoiceStatus,
    "typing": TypingIndicator,
}


@both
@pytest.mark.parametrize("sign", list(SIGNS))
@pytest.mark.usefixtures("no_stamps")
def test_who_gave_a_sign_of_life_stays(platform: Platform, sign: str, by_hand: bool) -> None:
    place, elsewhere = room(platform), room(platform)
    gone: dict[Any, list[UUID]] = {User: []}
    changed: dict[UUID, dict[str, Any]] = {}
    for at in (NOT_YET, NOW, NOW + INSTANT):
        who = person(platform)
        # One is enough, and it need not be the latest.
        SIGNS[sign](platform, place, who, at)
        SIGNS[sign](platform, elsewhere, who, LONG_AGO)
    for late in (OVER, LONG_AGO, None):
        who = person(platform)
        row = SIGNS[sign](platform, place, who, late)
        gone[User].append(who)
        if sign in GOES:
            gone.setdefault(GOES[sign], []).append(row)
        else:
            changed[row] = NOBODY
    proven(
        platform,
        "echoroom.anonymous_users",
        gone=gone,
        changed={ChatMessage: changed} if changed else None,
        by_hand=by_hand,
    )


@both
@pytest.mark.parametrize("column", ["last_active", "created_at", "updated_at"])
def test_what_the_row_says_is_a_sign_too(platform: Platform, column: str, by_hand: bool) -> None:
    gone = []
    for at, due in ((OVER, True), (NOT_YET, False), (NOW, False), (None, True)):
        who = person(platform, **{column: at})
        gone += [who] if due else []
    # NULL alone says nothing; of whom nothing says how long they have been there, nobody can tell.
    others = [name for name in ("last_active", "created_at", "updated_at") if name != column]
    gone.append(person(platform, None, **{column: OVER}))
    person(platform, None)
    person(platform, None, **{others[0]: NOT_YET})
    proven(platform, "echoroom.anonymous_users", gone={User: gone}, by_hand=by_hand)


@pytest.mark.parametrize(("anonymous", "due"), [(True, True), (False, False), (None, False)])
def test_only_the_anonymous_go(platform: Platform, anonymous: bool | None, due: bool) -> None:
    who = person(platform, is_anonymous=anonymous)
    proven(platform, "echoroom.anonymous_users", gone={User: [who] if due else []})


@pytest.mark.usefixtures("no_stamps")
def test_what_names_them_goes_and_what_they_said_stays(platform: Platform) -> None:
    place, friend = room(platform), person(platform, NOW)
    who = person(platform)
    said = [message(platform, place, who, LONG_AGO, message_type=kind) for kind in ("text", "mood-check")]
    theirs = message(platform, place, friend, LONG_AGO, reply_to=said[0])
    reaction(platform, said[0], friend)
    gone = {
        User: [who],
        SessionParticipant: [participant(platform, place, who)],
        MessageReaction: [reaction(platform, theirs, who), reaction(platform, said[0], who)],
        TypingIndicator: [typing(platform, place, who)],
        VoiceStatus: [voice(platform, place, who)],
    }
    participant(platform, place, friend)
    typing(platform, place, friend)
    voice(platform, place, friend)
    proven(
        platform,
        "echoroom.anonymous_users",
        gone=gone,
        changed={ChatMessage: dict.fromkeys(said, NOBODY)},
    )


def test_who_sits_in_a_room_is_alive_and_rooms_count_right(platform: Platform) -> None:
    place = room(platform)
    there = person(platform)
    participant(platform, place, there, is_active=True)
    left = [person(platform), person(platform)]
    gone = [
        participant(platform, place, left[0]),
        # Neither there nor gone: the trigger has not counted it, and does not count it off.
        participant(platform, place, left[1], is_active=None),
    ]
    participant(platform, place, person(platform, is_anonymous=False))
    assert rows(platform, ChatSession)[place]["current_participants"] == 1
    proven(platform, "echoroom.anonymous_users", gone={User: left, SessionParticipant: gone})
    with platform.engine.begin() as connection:
        counts = POLICIES["echoroom.counts"]
        found = connection.execute(counts.table.select().where(counts.due).params(now=NOW)).all()
    assert found == []


HELD = ["user", "participant", "reaction", "typing", "voice", "message"]


@pytest.mark.parametrize("what", HELD)
@pytest.mark.usefixtures("no_stamps")
def test_who_is_on_hold_or_named_in_a_room_on_hold_stays(platform: Platform, what: str) -> None:
    place, elsewhere, who = room(platform), room(platform), person(platform)
    gone = person(platform)
    # Over, and so no reason.
    add_hold(platform, "echoroom", "room", elsewhere)
    platform.sql("UPDATE roomkeeper.holds SET lifted_at = now(), lifted_by = 'ada'")
    if what == "user":
        add_hold(platform, "echoroom", "user", who)
    else:
        add_hold(platform, "echoroom", "room", place)
        if what == "participant":
            participant(platform, place, who)
        elif what == "message":
            message(platform, place, who, LONG_AGO)
        else:
            SIGNS[what](platform, place, who, LONG_AGO)
    message(platform, place, None, LONG_AGO)
    message_gone = message(platform, elsewhere, gone, LONG_AGO)
    changed = {ChatMessage: {message_gone: NOBODY}}
    proven(platform, "echoroom.anonymous_users", gone={User: [gone]}, changed=changed)
