"""The sweeps of `openchat`."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.sql import SQL, Identifier, Literal
from sqlalchemy import select, text

from models.openchat import (
    Attachment,
    Conversation,
    ConversationParticipant,
    Message,
    Session,
    User,
    Verification,
)
from tasks.apps import APPS, POLICIES
from tasks.policies.sweep import NOW_UTC
from tests.platform import Platform
from tests.sweeps.sweeping import INSTANT, NOW, add, ago, naive, rows, sweep

LONG_AGO = naive(ago(days=400))
#: Ends that are just over, are now, and are still to come.
JUST_OVER, EXACTLY, NOT_YET = naive(NOW - INSTANT), naive(NOW), naive(NOW + INSTANT)


def person(platform: Platform, **values: Any) -> UUID:
    return add(platform, User, name="Ada", email=f"{uuid4()}@x.org", email_verified=True, **values)


def stale(platform: Platform, **values: Any) -> UUID:
    """Return a user who is online, and has not given a sign of life for long."""
    given = {"is_online": True, "status": "online", "last_seen_at": LONG_AGO, "updated_at": LONG_AGO}
    return person(platform, **given | values)


def session(platform: Platform, **values: Any) -> UUID:
    return add(platform, Session, user_id=person(platform), token=str(uuid4()), **values)


def verification(platform: Platform, **values: Any) -> UUID:
    return add(platform, Verification, identifier="ada@x.org", value="123456", **values)


def conversation(platform: Platform) -> UUID:
    return add(platform, Conversation, created_by=person(platform, updated_at=LONG_AGO))


def member(platform: Platform, place: UUID, **values: Any) -> UUID:
    user = values.pop("user_id", None) or person(platform)
    return add(platform, ConversationParticipant, conversation_id=place, user_id=user, **values)


def message(platform: Platform, place: UUID, sender: UUID, at: datetime) -> UUID:
    columns = {"conversation_id": place, "sender_id": sender, "content": "hi"}
    return add(platform, Message, created_at=at, **columns)


def test_signs_of_life_are_looked_up_person_by_person(platform: Platform) -> None:
    """A busy server has millions of messages, and few of them are of the last minutes."""
    policy = POLICIES["openchat.presence"]
    found = select(policy.table.c.id).where(policy.due).params(now=NOW, after=policy.after)
    with platform.engine.begin() as connection:
        # Empty tables would be read as a whole.
        connection.execute(text("SELECT set_config('enable_seqscan', 'off', true)"))
        query = found.compile(connection, compile_kwargs={"literal_binds": True})
        plan = "\n".join(connection.exec_driver_sql(f"EXPLAIN {query}").scalars())
    assert "participant_user_idx" in plan
    assert "message_conversation_created_idx" in plan
    # All that a user has ever written, and all that any user has read since.
    assert "message_sender_idx" not in plan
    assert "participant_last_read_idx" not in plan
    assert "Join" not in plan


def test_the_period_is_a_setting(platform: Platform) -> None:
    stale(platform, last_seen_at=naive(ago(seconds=61)))
    stays = stale(platform, last_seen_at=naive(ago(seconds=60)))
    platform.set(sweep_after="openchat.presence=60")
    assert sweep(platform, "openchat.presence").rows == 1
    assert rows(platform, User)[stays]["status"] == "online"


def test_a_mute_that_is_over_does_not_end_the_next_one(platform: Platform) -> None:
    # Unmuted by hand before its time, which the application left in the row.
    key = member(platform, conversation(platform), muted_until=JUST_OVER, is_muted=False)
    assert sweep(platform, "openchat.mutes").rows == 1
    platform.sql("UPDATE openchat.conversation_participant SET is_muted = true WHERE id = :key", key=key)
    assert sweep(platform, "openchat.mutes", now=NOW + timedelta(days=400)).rows == 0
    assert rows(platform, ConversationParticipant)[key]["is_muted"] is True


def test_an_attachment_that_expires_keeps_its_object(platform: Platform) -> None:
    """Until retention deletes the row: an operator may take the mark back."""
    key = platform.openchat_attachment(b"bytes", expires_at=JUST_OVER)
    objects = platform.objects()
    assert sweep(platform, "openchat.attachments").rows == 1
    assert rows(platform, Attachment)[key]["is_deleted"] is True
    assert platform.objects() == objects != {}


#: On either side of UTC, and one that changes its clocks.
zones = pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata", "America/Los_Angeles"])


def rows_on_either_side(platform: Platform) -> dict[str, UUID]:
    """Make, for each policy, a row just past its limit and one just before; return the former."""
    place = conversation(platform)
    limit = NOW - timedelta(minutes=5)
    past = {
        "openchat.sessions": session(platform, expires_at=JUST_OVER),
        "openchat.verifications": verification(platform, expires_at=JUST_OVER),
        "openchat.presence": stale(platform, last_seen_at=naive(limit - INSTANT)),
        "openchat.mutes": member(platform, place, muted_until=JUST_OVER, is_muted=True),
        "openchat.attachments": platform.openchat_attachment(b"bytes", expires_at=JUST_OVER),
    }
    session(platform, expires_at=NOT_YET)
    verification(platform, expires_at=NOT_YET)
    stale(platform, last_seen_at=naive(limit))
    # By each sign of life, since each is a comparison of its own.
    stale(platform, updated_at=naive(limit))
    member(platform, place, user_id=stale(platform), last_read_at=naive(limit))
    writes = stale(platform)
    member(platform, place, user_id=writes)
    message(platform, place, writes, naive(limit))
    member(platform, place, muted_until=NOT_YET, is_muted=True)
    platform.openchat_attachment(b"bytes", expires_at=NOT_YET)
    return past


@zones
def test_the_zone_of_the_database_makes_no_difference(platform: Platform, zone: str) -> None:
    url = platform.environment["DATABASE_URL"]
    name = platform.engine.url.database
    assert name is not None
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(SQL("ALTER DATABASE {} SET timezone = {}").format(Identifier(name), Literal(zone)))
    platform.engine.dispose()
    with psycopg.connect(url) as connection:
        assert connection.execute("SHOW timezone").fetchone() == (zone,)
    past = rows_on_either_side(platform)
    for policy, key in past.items():
        before = rows(platform, POLICIES[policy].model)
        assert sweep(platform, policy).rows == 1, policy
        after = rows(platform, POLICIES[policy].model)
        assert {other for other in before if before[other] != after.get(other)} == {key}, policy
    assert rows(platform, User)[past["openchat.presence"]]["updated_at"] == naive(NOW)
    assert rows(platform, Attachment)[past["openchat.attachments"]]["deleted_at"] == naive(NOW)


@zones
def test_the_zone_of_the_session_makes_no_difference(platform: Platform, zone: str) -> None:
    """The policies do not lean on the time zone that `workers.db` pins."""
    past = rows_on_either_side(platform)
    with platform.engine.begin() as connection:
        connection.execute(text("SELECT set_config('TimeZone', :zone, true)"), {"zone": zone})
        for name, key in past.items():
            policy = POLICIES[name]
            found = select(policy.table.c.id).where(policy.due)
            values = {"now": NOW, "after": policy.after}
            assert connection.execute(found, values).scalars().all() == [key], name
        assert connection.execute(select(NOW_UTC), {"now": NOW}).scalar_one() == naive(NOW)


def test_what_the_policies_need_is_known() -> None:
    changes = {"SELECT", "UPDATE"}
    removes = {"SELECT", "UPDATE", "DELETE"}
    needed = {
        name: {need.table.name: (set(need.columns), set(need.privileges)) for need in policy.needs()}
        for name, policy in POLICIES.items()
        if policy in APPS["openchat"].cleanup
    }
    assert needed == {
        "openchat.sessions": {"session": ({"id", "expires_at"}, removes)},
        "openchat.verifications": {"verification": ({"id", "expires_at"}, removes)},
        "openchat.presence": {
            "user": ({"id", "is_online", "status", "last_seen_at", "created_at", "updated_at"}, changes),
            "conversation_participant": ({"user_id", "conversation_id", "last_read_at"}, {"SELECT"}),
            "message": ({"conversation_id", "sender_id", "created_at"}, {"SELECT"}),
        },
        "openchat.mutes": {"conversation_participant": ({"id", "is_muted", "muted_until"}, changes)},
        "openchat.attachments": {
            "attachment": ({"id", "expires_at", "is_deleted", "deleted_at", "updated_at"}, changes)
        },
    }
