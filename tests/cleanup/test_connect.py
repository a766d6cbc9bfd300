"""The sweeps of `connect`."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select

from models import echoroom, openchat
from models.connect import ChatRoom, Connection, InteractionLog, Message, User, UserSession, VideoRequest
from tasks.apps import APPS, POLICIES
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

LONG_AGO = ago(days=400)
NEVER = NOW + timedelta(days=400)

Table = dict[UUID, dict[str, Any]]
#: How long a call may last.
CALL_LIMIT = timedelta(hours=4)

both = pytest.mark.parametrize("by_hand", [True, False], ids=["by hand", "as beat does"])


def person(platform: Platform) -> UUID:
    key = uuid4()
    return add(
        platform, User, id=key, username=key.hex, email=f"{key}@x.org", password_hash="x", role="female"
    )


def session(platform: Platform, **values: Any) -> UUID:
    user = values.pop("user_id", None) or person(platform)
    given = {"status": "offline", "created_at": LONG_AGO, "updated_at": LONG_AGO, "expires_at": NEVER}
    return add(platform, UserSession, user_id=user, **given | values)


def call(platform: Platform, **values: Any) -> UUID:
    given = {"user1_id": person(platform), "user2_id": person(platform), "room_id": str(uuid4())}
    return add(platform, InteractionLog, **given | values)


def tie(platform: Platform, log: UUID | None = None, **values: Any) -> UUID:
    """Return a connection of two people who had a call."""
    one, other = person(platform), person(platform)
    log = log or call(platform, started_at=LONG_AGO, ended_at=LONG_AGO)
    people = {"user1_id": one, "user2_id": other, "female_user_id": one}
    return add(platform, Connection, interaction_log_id=log, **people | values)


def request(platform: Platform, of: UUID, **values: Any) -> UUID:
    people = {"requester_user_id": person(platform), "approver_user_id": person(platform)}
    given = {"requested_at": LONG_AGO, "expires_at": None}
    return add(platform, VideoRequest, connection_id=of, **people | given | values)


@pytest.fixture(autouse=True)
def neighbours(platform: Platform) -> None:
    """Rows of other applications that are due by their own policies: nobody's business here."""
    room = add(platform, echoroom.ChatSession, category="Calm", current_participants=-1)
    user = add(platform, echoroom.User, username="Ada", last_active=None)
    here = {"session_id": room, "user_id": user}
    add(platform, echoroom.TypingIndicator, username="Ada", expires_at=ago(days=1), **here)
    add(platform, echoroom.SessionParticipant, joined_at=ago(days=1), **here)
    day = naive(ago(days=1))
    name = {"name": "Ada", "email": "ada@x.org", "email_verified": True}
    of = add(platform, openchat.User, status="online", last_seen_at=day, updated_at=day, **name)
    add(platform, openchat.Session, user_id=of, token="x", expires_at=day)
    platform.openchat_attachment(b"bytes", expires_at=day)
    platform.pern_attachment(b"opaque")


def found_by_index(platform: Platform, name: str) -> set[UUID]:
    """Return what a run of the policy finds without a walk."""
    policy = POLICIES[name]
    assert policy.quick is not None
    found = select(policy.table.c.id).where(policy.quick, policy.due)
    with platform.engine.begin() as connection:
        return set(connection.execute(found, {"now": NOW, "after": policy.after}).scalars())


@both
def test_sessions_go_when_they_expire(platform: Platform, by_hand: bool) -> None:
    limit = timedelta(days=30)
    expired = {
        session(platform, expires_at=NOW - INSTANT, updated_at=NOW, status="online"),
        session(platform, expires_at=LONG_AGO),
        session(platform, expires_at=LONG_AGO, created_at=None, updated_at=None),
    }
    forgotten = {
        session(platform, expires_at=None, updated_at=NOW - limit - INSTANT, created_at=NEVER),
        session(platform, expires_at=None, updated_at=None, created_at=NOW - limit - INSTANT),
        session(platform, expires_at=None, updated_at=LONG_AGO, created_at=None),
        session(platform, expires_at=None, updated_at=None, created_at=None),
    }
    session(platform, expires_at=NOW)
    session(platform, expires_at=NOW + INSTANT)
    session(platform, expires_at=NEVER, updated_at=None, created_at=None)
    session(platform, expires_at=None, updated_at=NOW - limit)
    session(platform, expires_at=None, updated_at=None, created_at=NOW - limit)
    session(platform, expires_at=None, updated_at=NOW, created_at=None)
    assert found_by_index(platform, "connect.sessions") == expired
    before = rows(platform, UserSession)
    stays = {key: row for key, row in before.items() if key not in expired | forgotten}
    assert len(stays) == 6
    swept(platform, "connect.sessions", stays, by_hand)


@both
def test_dead_sockets_go_offline(platform: Platform, by_hand: bool) -> None:
    limit = timedelta(minutes=10)
    dead = []
    for status in ("online", "in-call", "queuing"):
        dead += [
            session(platform, status=status, updated_at=NOW - limit - INSTANT, created_at=NOW),
            session(platform, status=status, updated_at=None, created_at=NOW - limit - INSTANT),
            session(platform, status=status, updated_at=None, created_at=None),
            # Past its expiry, which is not the affair of this policy.
            session(platform, status=status, expires_at=LONG_AGO),
        ]
        session(platform, status=status, updated_at=NOW - limit)
        session(platform, status=status, updated_at=None, created_at=NOW - limit)
        session(platform, status=status, updated_at=NOW + INSTANT)
    session(platform, status="offline")
    session(platform, status=None)
    expected = rows(platform, UserSession)
    for key in dead:
        expected = changed(expected, key, status="offline")
    swept(platform, "connect.presence", expected, by_hand, triggered=dead)


@both
def test_who_is_in_an_open_call_stays_in_it(platform: Platform, by_hand: bool) -> None:
    def busy(status: str = "in-call", side: str = "user1_id", **of_the_call: Any) -> UUID:
        user = person(platform)
        call(platform, **{side: user} | of_the_call)
        # A call that was closed says nothing.
        call(platform, **{side: user}, started_at=NOW, ended_at=NOW)
        return session(platform, user_id=user, status=status)

    just_inside = NOW - CALL_LIMIT + INSTANT
    stays = [
        busy(side=side, started_at=at)
        for side in ("user1_id", "user2_id")
        for at in (LONG_AGO, just_inside, NOW - INSTANT)
    ]
    dead = [
        busy(side=side, **values)
        for side in ("user1_id", "user2_id")
        for values in (
            {"started_at": None},
            {"started_at": just_inside, "ended_at": NOW - INSTANT},
        )
    ]
    # Who is not in a call by their session is not held by one.
    dead += [busy(status=status, started_at=just_inside) for status in ("online", "queuing")]
    # A call of others.
    dead.append(session(platform, status="in-call"))
    expected = rows(platform, UserSession)
    for key in dead:
        expected = changed(expected, key, status="offline")
    assert all(expected[key]["status"] == "in-call" for key in stays)
    swept(platform, "connect.presence", expected, by_hand, triggered=dead)


def test_a_call_that_never_ended_holds_its_people_until_it_is_closed(platform: Platform) -> None:
    user = person(platform)
    call(platform, user1_id=user, started_at=NOW - CALL_LIMIT - INSTANT)
    session(platform, user_id=user, status="in-call", updated_at=LONG_AGO)
    assert sweep(platform, "connect.presence").rows == 0
    assert sweep(platform, "connect.calls").rows == 1
    assert sweep(platform, "connect.presence").rows == 1


@both
def test_video_requests_expire(platform: Platform, by_hand: bool) -> None:
    of = tie(platform)
    day = timedelta(hours=24)
    overdue = [
        request(platform, of, expires_at=NOW - INSTANT, requested_at=NOW),
        request(platform, of, expires_at=LONG_AGO, requested_at=None),
        request(platform, of, requested_at=NOW - day - INSTANT),
        request(platform, of, requested_at=None),
        # Odd, and kept as it is.
        request(platform, of, expires_at=NOW - INSTANT, responded_at=LONG_AGO),
    ]
    request(platform, of, expires_at=NOW)
    request(platform, of, expires_at=NOW + INSTANT, requested_at=LONG_AGO)
    request(platform, of, expires_at=NEVER, requested_at=None)
    request(platform, of, requested_at=NOW - day)
    for status in ("approved", "rejected", "expired", None):
        request(platform, of, status=status, expires_at=LONG_AGO)
        request(platform, of, status=status, requested_at=None)
    expected = rows(platform, VideoRequest)
    for key in overdue:
        expected = changed(expected, key, status="expired")
    swept(platform, "connect.video_requests", expected, by_hand)


@both
def test_calls_that_never_ended_are_closed(platform: Platform, by_hand: bool) -> None:
    just_over = NOW - CALL_LIMIT - INSTANT
    # A call of each outcome, without a connection and with one that came of it.
    outcomes = {
        None: "timeout",
        "no_action": "timeout",
        "timeout": "timeout",
        "both_left": "both_left",
        "female_connected": "female_connected",
    }
    closed: dict[UUID, tuple[datetime, str | None]] = {}
    for outcome, alone in outcomes.items():
        closed[call(platform, started_at=just_over, outcome=outcome)] = just_over, alone
        with_tie = call(platform, started_at=just_over, outcome=outcome)
        # One that has been given up since is one as well.
        tie(platform, with_tie, is_active=False)
        closed[with_tie] = just_over, outcome
    # The index has the last hour's; the walk finds the others.
    hour_over = just_over - timedelta(hours=1)
    recent = {*closed, call(platform, started_at=hour_over + INSTANT, outcome=None)}
    older = {call(platform, started_at=at, outcome=None) for at in (hour_over, LONG_AGO)}
    assert found_by_index(platform, "connect.calls") == recent

    for at in (NOW - CALL_LIMIT, NOW, NEVER, None):
        call(platform, started_at=at, outcome=None)
    for at in (just_over, LONG_AGO, None):
        call(platform, started_at=at, ended_at=NOW, outcome=None, duration_seconds=None)

    expected = rows(platform, InteractionLog)
    for key in (recent | older) - set(closed):
        closed[key] = expected[key]["started_at"], "timeout"
    for key, (started, outcome) in closed.items():
        ended = {"ended_at": started + CALL_LIMIT, "duration_seconds": 4 * 3600, "outcome": outcome}
        expected = changed(expected, key, **ended)
    swept(platform, "connect.calls", expected, by_hand)


@both
def test_rooms_go_with_their_connection(platform: Platform, by_hand: bool) -> None:
    rooms = {}
    for tied in (True, False, None):
        for active in (True, False, None):
            of = tie(platform, is_active=tied)
            key = add(
                platform,
                ChatRoom,
                connection_id=of,
                room_name=f"{of}",
                is_active=active,
                updated_at=LONG_AGO,
            )
            add(platform, Message, chat_room_id=key, sender_user_id=person(platform), content="hi")
            rooms[tied, active] = key
    closed = [rooms[False, True], rooms[None, True]]
    expected = rows(platform, ChatRoom)
    for key in closed:
        expected = changed(expected, key, is_active=False)
    swept(platform, "connect.chat_rooms", expected, by_hand, triggered=closed)


def test_active_rooms_are_not_all_read_at_once() -> None:
    """Nearly every room is active: by the index on it, a run would read the table."""
    assert POLICIES["connect.chat_rooms"].found is None


def test_the_periods_are_settings(platform: Platform) -> None:
    minute = ago(seconds=60)
    dead = session(platform, status="online", updated_at=minute - INSTANT)
    alive = session(platform, status="online", updated_at=minute)
    long = call(platform, started_at=minute - INSTANT, outcome=None)
    short = call(platform, started_at=minute, outcome=None)
    late = request(platform, tie(platform), requested_at=minute - INSTANT)
    early = request(platform, tie(platform), requested_at=minute)
    gone = session(platform, expires_at=None, updated_at=minute - INSTANT)
    kept = session(platform, expires_at=None, updated_at=minute)
    names = ("presence", "calls", "video_requests", "sessions")
    for name in names:
        assert sweep(platform, f"connect.{name}").rows == 0
    platform.set(sweep_after=",".join(f"connect.{name}=60" for name in names))
    for name in names:
        assert sweep(platform, f"connect.{name}").rows == 1, name
    sessions = rows(platform, UserSession)
    assert [sessions[key]["status"] for key in (dead, alive)] == ["offline", "online"]
    assert kept in sessions
    assert gone not in sessions
    calls = rows(platform, InteractionLog)
    assert calls[long]["ended_at"] == NOW - INSTANT
    assert calls[long]["duration_seconds"] == 60
    assert calls[short]["ended_at"] is None
    requests = rows(platform, VideoRequest)
    assert [requests[key]["status"] for key in (late, early)] == ["expired", "pending"]


def test_what_the_policies_need_is_known() -> None:
    changes = {"SELECT", "UPDATE"}
    needed = {
        name: {need.table.name: (set(need.columns), set(need.privileges)) for need in policy.needs()}
        for name, policy in POLICIES.items()
        if policy in APPS["connect"].cleanup
    }
    assert needed == {
        "connect.sessions": {
            "user_sessions": ({"id", "expires_at", "updated_at", "created_at"}, {*changes, "DELETE"})
        },
        "connect.presence": {
            "user_sessions": ({"id", "user_id", "status", "updated_at", "created_at"}, changes),
            "interaction_logs": ({"user1_id", "user2_id", "started_at", "ended_at"}, {"SELECT"}),
        },
        "connect.video_requests": {
            "video_requests": ({"id", "status", "expires_at", "requested_at"}, changes)
        },
        "connect.calls": {
            "interaction_logs": ({"id", "started_at", "ended_at", "duration_seconds", "outcome"}, changes),
            "connections": ({"interaction_log_id"}, {"SELECT"}),
        },
        "connect.chat_rooms": {
            "chat_rooms": ({"id", "connection_id", "is_active"}, changes),
            "connections": ({"id", "is_active"}, {"SELECT"}),
        },
    }
