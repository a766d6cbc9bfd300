"""The sweeps of `connect`."""

from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from models.connect import Connection, InteractionLog, User, UserSession, VideoRequest
from tasks.apps import APPS, POLICIES
from tests.platform import Platform
from tests.sweeps.sweeping import INSTANT, NOW, add, ago, rows, sweep

LONG_AGO = ago(days=400)
NEVER = NOW + timedelta(days=400)

#: How long a call may last.
CALL_LIMIT = timedelta(hours=4)


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


def test_a_call_that_never_ended_holds_its_people_until_it_is_closed(platform: Platform) -> None:
    user = person(platform)
    call(platform, user1_id=user, started_at=NOW - CALL_LIMIT - INSTANT)
    session(platform, user_id=user, status="in-call", updated_at=LONG_AGO)
    assert sweep(platform, "connect.presence").rows == 0
    assert sweep(platform, "connect.calls").rows == 1
    assert sweep(platform, "connect.presence").rows == 1


def test_active_rooms_are_not_all_read_at_once() -> None:
    """Nearly every room is active: by the index on it, a run would read the table."""
    assert POLICIES["connect.chat_rooms"].index_condition is None


def test_the_periods_are_settings(platform: Platform) -> None:
    minute = ago(seconds=60)
    dead = session(platform, status="online", updated_at=minute - INSTANT)
    alive = session(platform, status="online", updated_at=minute)
    long = call(platform, started_at=minute - INSTANT, outcome=None)
    short = call(platform, started_at=minute, outcome=None)
    late = request(platform, tie(platform), requested_at=minute - INSTANT)
    early = request(platform, tie(platform), requested_at=minute)
    expired = session(platform, expires_at=None, updated_at=minute - INSTANT)
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
    assert expired not in sessions
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
