"""The sweeps of `openchat`."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.sql import SQL, Identifier, Literal
from sqlalchemy import func, select, text

from models import connect, echoroom
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
from tasks.apps.sweeps import NOW_UTC
from tests.cleanup.sweeping import (
    INSTANT,
    NOW,
    add,
    ago,
    changed,
    naive,
    rows,
    sweep,
    swept,
)
from tests.platform import Platform

LONG_AGO = naive(ago(days=400))
NEVER = naive(NOW + timedelta(days=400))
#: Ends that are just over, are now, and are still to come.
JUST_OVER, EXACTLY, NOT_YET = naive(NOW - INSTANT), naive(NOW), naive(NOW + INSTANT)

Table = dict[UUID, dict[str, Any]]
both = pytest.mark.parametrize("by_hand", [True, False], ids=["by hand", "as beat does"])


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
    said = {"conversation_id": place, "sender_id": sender, "content": "hi"}
    return add(platform, Message, created_at=at, **said)


@pytest.fixture(autouse=True)
def neighbours(platform: Platform) -> None:
    """Rows of other applications that are due by their own policies: nobody's business here."""
    room = add(platform, echoroom.ChatSession, category="Calm", current_participants=-1)
    user = add(platform, echoroom.User, username="Ada", last_active=None)
    here = {"session_id": room, "user_id": user}
    add(platform, echoroom.TypingIndicator, username="Ada", expires_at=ago(days=1), **here)
    add(platform, echoroom.SessionParticipant, joined_at=ago(days=1), **here)
    name = {"username": "ada", "email": "ada@x.org", "password_hash": "x", "role": "female"}
    of = add(platform, connect.User, **name)
    add(platform, connect.UserSession, user_id=of, status="online", expires_at=ago(days=1))
    platform.pern_attachment(b"opaque")


@both
@pytest.mark.parametrize(
    ("name", "make"), [("openchat.sessions", session), ("openchat.verifications", verification)]
)
def test_sessions_and_verifications_go_when_they_expire(
    platform: Platform, name: str, make: Any, by_hand: bool
) -> None:
    for past in (JUST_OVER, LONG_AGO):
        make(platform, expires_at=past)
    stays = [make(platform, expires_at=later) for later in (EXACTLY, NOT_YET, NEVER)]
    before = rows(platform, POLICIES[name].model)
    swept(platform, name, {key: before[key] for key in stays}, by_hand)


@pytest.mark.parametrize("sign", ["last_seen_at", "updated_at", "message", "reading"])
@both
def test_who_gave_a_sign_of_life_stays_online(platform: Platform, sign: str, by_hand: bool) -> None:
    place, elsewhere = conversation(platform), conversation(platform)
    someone = person(platform)
    member(platform, elsewhere, user_id=someone, last_read_at=naive(NOW))

    def somebody(at: datetime | None) -> UUID:
        seen = {sign: at} if sign in {"last_seen_at", "updated_at"} else {}
        user = stale(platform, **seen)
        # Two conversations: a sign in one is enough.
        member(platform, elsewhere, user_id=user, last_read_at=LONG_AGO)
        member(platform, place, user_id=user, last_read_at=at if sign == "reading" else None)
        if sign == "message" and at is not None:
            message(platform, place, user, LONG_AGO)
            message(platform, place, user, at)
        return user

    limit = timedelta(minutes=5)
    stays = [somebody(naive(NOW - limit)), somebody(naive(NOW - INSTANT)), somebody(naive(NOW + INSTANT))]
    gone = [somebody(naive(NOW - limit - INSTANT)), somebody(LONG_AGO)]
    if sign != "updated_at":
        gone.append(somebody(None))
    # What others say and read is no sign of theirs, nor is what is said where they never were.
    member(platform, place, user_id=someone, last_read_at=naive(NOW))
    message(platform, elsewhere, someone, naive(NOW))
    message(platform, conversation(platform), gone[0], naive(NOW))

    expected = rows(platform, User)
    for key in gone:
        left = {"is_online": False, "status": "offline", "updated_at": naive(NOW)}
        expected = changed(expected, key, **left)
    assert all(expected[key]["status"] == "online" for key in stays)
    swept(platform, "openchat.presence", expected, by_hand)


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
    # All that somebody has ever written, and all that anybody has read since.
    assert "message_sender_idx" not in plan
    assert "participant_last_read_idx" not in plan
    assert "Join" not in plan


@both
def test_all_who_seem_to_be_there_go_offline_and_the_invisible_stay_so(
    platform: Platform, by_hand: bool
) -> None:
    statuses = ["online", "away", "busy", "invisible", "offline", None]
    people = {
        (online, status): stale(platform, is_online=online, status=status)
        for online in (True, False, None)
        for status in statuses
    }
    there = [key for key in people if key[0] or key[1] in {"online", "away", "busy"}]
    assert len(there) == 6 + 3 + 3
    expected = rows(platform, User)
    for online, status in there:
        left = {
            "is_online": False,
            "status": "invisible" if status == "invisible" else "offline",
            "updated_at": naive(NOW),
        }
        expected = changed(expected, people[online, status], **left)

    # Beat's run finds the two that the index does not know by walking.
    policy = POLICIES["openchat.presence"]
    assert policy.quick is not None
    found = select(func.count()).select_from(policy.table).where(policy.quick, policy.due)
    with platform.engine.begin() as connection:
        by_index = connection.execute(found, {"now": NOW, "after": policy.after}).scalar_one()
    assert by_index == len(there) - 2

    swept(platform, "openchat.presence", expected, by_hand)


def test_the_period_is_a_setting(platform: Platform) -> None:
    stale(platform, last_seen_at=naive(ago(seconds=61)))
    stays = stale(platform, last_seen_at=naive(ago(seconds=60)))
    platform.set(sweep_after="openchat.presence=60")
    assert sweep(platform, "openchat.presence").rows == 1
    assert rows(platform, User)[stays]["status"] == "online"


@both
def test_mutes_end(platform: Platform, by_hand: bool) -> None:
    place = conversation(platform)

    def muted(until: datetime | None, is_muted: bool | None) -> UUID:
        return member(platform, place, muted_until=until, is_muted=is_muted)

    every = (True, False, None)
    ends = [muted(until, muted_now) for until in (JUST_OVER, LONG_AGO) for muted_now in every]
    for until in (EXACTLY, NOT_YET, NEVER, None):
        for muted_now in every:
            muted(until, muted_now)
    expected = rows(platform, ConversationParticipant)
    for key in ends:
        expected = changed(expected, key, is_muted=False, muted_until=None)
    swept(platform, "openchat.mutes", expected, by_hand)


def test_a_mute_that_is_over_does_not_end_the_next_one(platform: Platform) -> None:
    # Unmuted by hand before its time, which the application left in the row.
    key = member(platform, conversation(platform), muted_until=JUST_OVER, is_muted=False)
    assert sweep(platform, "openchat.mutes").rows == 1
    platform.sql("UPDATE openchat.conversation_participant SET is_muted = true WHERE id = :key", key=key)
    assert sweep(platform, "openchat.mutes", now=NOW + timedelta(days=400)).rows == 0
    assert rows(platform, ConversationParticipant)[key]["is_muted"] is True


@both
def test_attachments_expire(platform: Platform, by_hand: bool) -> None:
    def attachment(until: datetime | None, is_deleted: bool | None, **values: Any) -> UUID:
        return platform.openchat_attachment(b"bytes", expires_at=until, is_deleted=is_deleted, **values)

    ends = [attachment(until, gone) for until in (JUST_OVER, LONG_AGO) for gone in (False, None)]
    # Deleted already, without or with a time: that was then.
    attachment(LONG_AGO, True)
    attachment(LONG_AGO, True, deleted_at=LONG_AGO)
    for until in (EXACTLY, NOT_YET, NEVER, None):
        for gone in (False, None):
            attachment(until, gone)
    objects = platform.objects()
    expected = rows(platform, Attachment)
    for key in ends:
        at = naive(NOW)
        expected = changed(expected, key, is_deleted=True, deleted_at=at, updated_at=at)
    swept(platform, "openchat.attachments", expected, by_hand)
    assert platform.objects() == objects


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
            "user": ({"id", "is_online", "status", "last_seen_at", "updated_at"}, changes),
            "conversation_participant": ({"user_id", "conversation_id", "last_read_at"}, {"SELECT"}),
            "message": ({"conversation_id", "sender_id", "created_at"}, {"SELECT"}),
        },
        "openchat.mutes": {"conversation_participant": ({"id", "is_muted", "muted_until"}, changes)},
        "openchat.attachments": {
            "attachment": ({"id", "expires_at", "is_deleted", "deleted_at", "updated_at"}, changes)
        },
    }
