"""What the statistics of `connect` have to be, written down as plainly as their rules are."""

import random
from collections import defaultdict
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Any
from uuid import UUID

from models.connect import ChatRoom, Connection, InteractionLog, Message, User, VideoRequest
from tests.analytics.figuring import (
    LEAPS,
    MEDIAN,
    P95,
    Place,
    Row,
    Rows,
    day_of,
    near,
    quantile,
    seconds_between,
    whole,
)

TYPES = ["voice_call", "video_call", None]
OUTCOMES = ["female_connected", "both_left", "timeout", "no_action", None]
STATUSES = ["pending", "approved", "rejected", "expired", None]
KINDS = ["text", "image", "system", None]


# -- rows -----------------------------------------------------------------------------------------------


def person(rows: Rows) -> UUID:
    names = {"username": f"user {len(rows.of(User))}", "email": f"{len(rows.of(User))}@x.org"}
    return rows.add(User, password_hash="x", role="female", **names)


def call(
    rows: Rows,
    began: datetime | None,
    ended: datetime | None = None,
    *,
    people: tuple[UUID, UUID] | None = None,
    kind: str | None = "voice_call",
    outcome: str | None = "no_action",
    **values: Any,
) -> UUID:
    """Add a call, of two new people unless they are given."""
    one, other = people or (person(rows), person(rows))
    return rows.add(
        InteractionLog,
        user1_id=one,
        user2_id=other,
        room_id="a room",
        interaction_type=kind,
        outcome=outcome,
        started_at=began,
        ended_at=ended,
        **values,
    )


def tie(rows: Rows, log: UUID, active: bool | None = True) -> UUID:
    """Add a connection that came of a call; of two new people: the same two have one at most."""
    one, other = person(rows), person(rows)
    people = {"user1_id": one, "user2_id": other, "female_user_id": one}
    return rows.add(Connection, interaction_log_id=log, is_active=active, **people)


def request(rows: Rows, of: UUID, made: datetime | None, status: str | None = "pending") -> UUID:
    people = {"requester_user_id": person(rows), "approver_user_id": person(rows)}
    return rows.add(VideoRequest, connection_id=of, requested_at=made, status=status, **people)


def room(rows: Rows, of: UUID) -> UUID:
    return rows.add(ChatRoom, connection_id=of, room_name="a room")


def message(
    rows: Rows, where: UUID, sent: datetime | None, sender: UUID | None = None, **values: Any
) -> UUID:
    given = {"message_type": "text", "is_deleted": False} | values
    sender = sender or person(rows)
    return rows.add(
        Message, chat_room_id=where, sender_user_id=sender, content="hello", created_at=sent, **given
    )


def history(chance: random.Random, zone: str) -> Rows:
    """Make up some days around a leap of the zone's clocks."""
    rows, day = Rows(), LEAPS[zone]

    def moment() -> datetime | None:
        return None if chance.random() < 0.1 else near(chance, day, zone)

    people = [person(rows) for _ in range(chance.randint(2, 5))]
    for _ in range(chance.randint(0, 28)):
        began = moment()
        ended = moment()
        if began is not None and ended is not None and chance.random() < 0.7:
            ended = began + timedelta(microseconds=chance.choice([0, 1, 499_999, 500_000, 61_234_567]))
        log = call(
            rows,
            began,
            ended,
            # The same person on both sides: nothing forbids it.
            people=(chance.choice(people), chance.choice(people)),
            kind=chance.choice(TYPES),
            outcome=chance.choice(OUTCOMES),
            duration_seconds=chance.choice([0, 7, None]),
        )
        if chance.random() < 0.3:
            tie(rows, log, chance.choice([True, False, None]))
    of = tie(rows, call(rows, None))
    for _ in range(chance.randint(0, 16)):
        request(rows, of, moment(), chance.choice(STATUSES))
    where = room(rows, of)
    for _ in range(chance.randint(0, 16)):
        message(
            rows,
            where,
            moment(),
            chance.choice(people),
            message_type=chance.choice(KINDS),
            is_deleted=chance.choice([True, False, None]),
        )
    return rows


# -- statistics --------------------------------------------------------------------------------------------


def calls_daily(rows: Rows, zone: str) -> dict[Place, Row]:
    """Return the rows of `connect.calls_daily` by day and type."""
    tied = {row["interaction_log_id"] for row in rows.of(Connection)}
    calls = defaultdict(list)
    for row in rows.of(InteractionLog):
        if row["started_at"] is not None:
            calls[day_of(row["started_at"], zone), row["interaction_type"] or "unknown"].append(row)
    found: dict[Place, Row] = {}
    for key, those in calls.items():
        outcomes = [row["outcome"] for row in those]
        connected = sum(row["outcome"] == "female_connected" or row["id"] in tied for row in those)
        lasted = [
            seconds_between(row["started_at"], row["ended_at"])
            for row in those
            if row["ended_at"] is not None
        ]
        found[key] = {
            "calls": len(those),
            **{name: outcomes.count(name) for name in OUTCOMES if name is not None},
            "no_outcome": outcomes.count(None),
            "open_calls": len(those) - len(lasted),
            "connected": connected,
            "connect_rate": Fraction(connected, len(those)),
            "total_seconds": whole(sum(lasted, start=Fraction())),
            "median_seconds": quantile(lasted, MEDIAN),
            "p95_seconds": quantile(lasted, P95),
            "users": len({row[side] for row in those for side in ("user1_id", "user2_id")}),
        }
    return found


def daily(rows: Rows, zone: str) -> dict[Place, Row]:
    """Return the rows of `connect.daily` by day."""

    def by_day(model: Any, at: str) -> dict[Any, list[Row]]:
        found = defaultdict(list)
        for row in rows.of(model):
            if row[at] is not None:
                found[day_of(row[at], zone)].append(row)
        return found

    calls, requests = by_day(InteractionLog, "started_at"), by_day(VideoRequest, "requested_at")
    messages = by_day(Message, "created_at")
    found: dict[Place, Row] = {}
    for day in {*calls, *requests, *messages}:
        made, sent = requests.get(day, []), messages.get(day, [])
        found[(day,)] = {
            "users_in_calls": len(
                {row[side] for row in calls.get(day, []) for side in ("user1_id", "user2_id")}
            ),
            "requests": len(made),
            **{
                f"requests_{status}": sum(row["status"] == status for row in made)
                for status in STATUSES
                if status is not None
            },
            "messages": len(sent),
            "senders": len({row["sender_user_id"] for row in sent if row["message_type"] != "system"}),
        }
    return found
