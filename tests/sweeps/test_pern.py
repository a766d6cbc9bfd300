"""The sweeps of `pern`."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from models.pern import AuthSession, Conversation, ConversationParticipant, Message, User, UserPublicKey
from tasks.apps import POLICIES
from tasks.sweeps.batch import Batches
from tests.platform import Platform
from tests.sweeps.sweeping import INSTANT, NOW, add, ago, changed, rows, sweep, swept

LONG_AGO = ago(days=1)
STAMPS = {"created_at": LONG_AGO, "updated_at": LONG_AGO}
both = pytest.mark.parametrize("by_hand", [True, False], ids=["by hand", "as beat does"])


def person(platform: Platform, **values: Any) -> UUID:
    key = uuid4()
    named = {"username": key.hex, "email": f"{key}@x.org", "display_name": "Ada", "password_hash": "x"}
    return add(platform, User, id=key, **named | STAMPS | values)


def session(platform: Platform, user: UUID, **values: Any) -> UUID:
    device = {"refresh_token_hash": "x", "device_info": "phone", "ip_address": "10.0.0.1"}
    expires = {"expires_at": NOW + timedelta(days=1)}
    return add(platform, AuthSession, user_id=user, **device | expires | STAMPS | values)


def public_key(platform: Platform, user: UUID, **values: Any) -> UUID:
    return add(platform, UserPublicKey, user_id=user, public_key="x", **STAMPS | values)


def conversation(platform: Platform, *users: UUID, **values: Any) -> UUID:
    room = add(platform, Conversation, created_by=users[0], **STAMPS)
    for user in users:
        member = {"conversation_id": room, "user_id": user, "joined_at": LONG_AGO}
        add(platform, ConversationParticipant, **member | STAMPS | values)
    return room


def message(platform: Platform, room: UUID, sender: UUID, at: datetime, **values: Any) -> UUID:
    stamps = {"created_at": at, "updated_at": at}
    columns = {"conversation_id": room, "sender_id": sender, "content_encrypted": "…"}
    return add(platform, Message, **columns | stamps | values)


def test_how_long_revoked_sessions_stay_is_a_setting(platform: Platform) -> None:
    session(platform, person(platform), revoked_at=ago(days=2))
    assert sweep(platform, "pern.sessions").rows == 0
    platform.set(sweep_after=f"pern.sessions={timedelta(days=1).total_seconds()}")
    assert sweep(platform, "pern.sessions").rows == 1


def test_keys_that_have_just_expired_are_found_by_index(platform: Platform) -> None:
    user = person(platform)
    for expires_at in (NOW - INSTANT, ago(days=1), ago(days=1, than=INSTANT), NOW, None):
        public_key(platform, user, expires_at=expires_at)
    public_key(platform, user, expires_at=NOW - INSTANT, is_active=False)
    assert Batches(POLICIES["pern.keys"], NOW, None).by_index(10).rows == 2


@both
def test_what_was_written_after_leaving_is_no_sign_of_life(platform: Platform, by_hand: bool) -> None:
    user = person(platform, status="online")
    left = conversation(platform, user, is_active=False, left_at=LONG_AGO)
    message(platform, left, user, NOW)
    # Of a conversation that they were never in.
    message(platform, conversation(platform, person(platform)), user, NOW)
    expected = changed(rows(platform, User), user, status="offline", updated_at=NOW)
    swept(platform, "pern.presence", expected, by_hand)


@both
def test_one_of_several_conversations_and_sessions_is_enough(platform: Platform, by_hand: bool) -> None:
    user = person(platform, status="online")
    left = conversation(platform, user, is_active=False, left_at=LONG_AGO)
    member = {"conversation_id": left, "user_id": user, "joined_at": LONG_AGO}
    # Left, and came back.
    add(platform, ConversationParticipant, **member, **STAMPS)
    message(platform, conversation(platform, user), user, LONG_AGO)
    message(platform, left, user, ago(minutes=1))
    other = person(platform, status="online")
    session(platform, other)
    # A session that is over says that the user was there as well.
    session(platform, other, updated_at=ago(minutes=1), expires_at=ago(minutes=1), revoked_at=NOW)
    swept(platform, "pern.presence", rows(platform, User), by_hand)


def test_the_period_of_presence_is_a_setting(platform: Platform) -> None:
    person(platform, status="online", updated_at=ago(minutes=3))
    assert sweep(platform, "pern.presence").rows == 0
    platform.set(sweep_after=f"pern.presence={timedelta(minutes=2).total_seconds()}")
    assert sweep(platform, "pern.presence").rows == 1


def test_they_need_what_they_name() -> None:
    def needs(name: str) -> dict[str, tuple[set[str], set[str]]]:
        return {need.table.name: (set(need.columns), set(need.privileges)) for need in POLICIES[name].needs()}

    assert needs("pern.sessions") == {
        "auth_sessions": ({"id", "expires_at", "revoked_at"}, {"SELECT", "UPDATE", "DELETE"})
    }
    assert needs("pern.keys") == {
        "user_public_keys": ({"id", "is_active", "expires_at", "updated_at"}, {"SELECT", "UPDATE"})
    }
    assert needs("pern.presence") == {
        "users": ({"id", "status", "last_seen_at", "updated_at"}, {"SELECT", "UPDATE"}),
        "auth_sessions": ({"user_id", "updated_at"}, {"SELECT"}),
        "conversation_participants": ({"conversation_id", "user_id", "is_active"}, {"SELECT"}),
        "messages": ({"conversation_id", "sender_id", "created_at"}, {"SELECT"}),
    }
