"""The sweeps of `echoroom`."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from models.echoroom import ChatMessage, ChatSession, SessionParticipant, TypingIndicator, User, VoiceStatus
from tests.cleanup.sweeping import INSTANT, NOW, add, ago, changed, others, rows, sweep
from tests.platform import Platform


def room(platform: Platform, **values: Any) -> UUID:
    return add(platform, ChatSession, category="Calm", **values)


def person(platform: Platform, **values: Any) -> UUID:
    return add(platform, User, username="Ada", **{"last_active": None} | values)


def test_typing_stops(platform: Platform) -> None:
    place = room(platform)

    def typing(**values: Any) -> UUID:
        return add(
            platform,
            TypingIndicator,
            session_id=place,
            user_id=person(platform),
            username="Ada",
            **values,
        )

    gone = [
        typing(expires_at=NOW - INSTANT),
        typing(expires_at=None, started_at=ago(seconds=10, than=INSTANT)),
        typing(expires_at=None, started_at=None),
    ]
    stays = [
        typing(expires_at=NOW),
        typing(expires_at=NOW + INSTANT, started_at=None),
        typing(expires_at=None, started_at=ago(seconds=10)),
    ]
    before = rows(platform, TypingIndicator)
    assert sweep(platform, "echoroom.typing", by_hand=False).rows == len(gone)
    assert rows(platform, TypingIndicator) == {key: before[key] for key in stays}
    after = others(platform)
    assert sweep(platform, "echoroom.typing").rows == 0
    assert others(platform) == after


@pytest.mark.parametrize("sign", ["last_active", "message", "voice", "typing", "joined_at"])
def test_who_gave_a_sign_of_life_stays(platform: Platform, sign: str) -> None:
    place = room(platform)
    elsewhere = room(platform)

    def participant(at: Any) -> UUID:
        user = person(platform, last_active=at if sign == "last_active" else ago(days=1))
        both = {"session_id": place, "user_id": user}
        if sign == "message":
            add(platform, ChatMessage, sender_name="Ada", content="hi", created_at=at, **both)
        if sign == "voice":
            add(platform, VoiceStatus, last_updated=at, **both)
        if sign == "typing":
            add(platform, TypingIndicator, username="Ada", started_at=at, **both)
        # What somebody does elsewhere says nothing of here.
        there = {"session_id": elsewhere, "user_id": user}
        add(platform, ChatMessage, sender_name="Ada", content="hi", created_at=NOW, **there)
        joined = at if sign == "joined_at" else ago(days=1)
        return add(platform, SessionParticipant, joined_at=joined, is_speaking=True, is_muted=True, **both)

    stays = participant(ago(minutes=30))
    leaves = participant(ago(minutes=30, than=INSTANT))
    unknown = participant(None)
    before = rows(platform, SessionParticipant)
    assert rows(platform, ChatSession)[place]["current_participants"] == 3
    assert sweep(platform, "echoroom.ghosts", by_hand=False).rows == 2
    left = {"is_active": False, "left_at": NOW, "is_speaking": False, "is_muted": False}
    expected = changed(changed(before, leaves, **left), unknown, **left)
    assert rows(platform, SessionParticipant) == expected
    assert rows(platform, ChatSession)[place]["current_participants"] == 1
    assert {row["user_id"] for row in rows(platform, VoiceStatus).values()} <= {before[stays]["user_id"]}
    after = others(platform)
    assert sweep(platform, "echoroom.ghosts").rows == 0
    assert others(platform) == after


def test_the_period_is_a_setting(platform: Platform) -> None:
    place, user = room(platform), person(platform)
    add(platform, SessionParticipant, session_id=place, user_id=user, joined_at=ago(minutes=10))
    assert sweep(platform, "echoroom.ghosts").rows == 0
    platform.set(sweep_after=f"echoroom.ghosts={timedelta(minutes=9).total_seconds()}")
    assert sweep(platform, "echoroom.ghosts").rows == 1
