"""What the statistics of `pern` have to be, written down as plainly as their rules are."""

import random
from collections import defaultdict
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID

from models.analytics import PernFact
from models.pern import AuditLog, AuthSession, Conversation, Message, MessageStatus, User
from tasks.policies.columns import Model
from tests.analytics.figuring import (
    LEAPS,
    MEDIAN,
    P95,
    Place,
    Row,
    Rows,
    day_of,
    midnight,
    near,
    quantile,
    seconds_between,
)

SEVERITIES = ["info", "warning", "error", "critical", "security"]
#: When rows were made whose beginning is not counted.
LONG_AGO = midnight(date(2025, 1, 1))


# -- rows -----------------------------------------------------------------------------------------------


def _stamps(at: datetime = LONG_AGO) -> Row:
    return {"created_at": at, "updated_at": at}


def person(rows: Rows) -> UUID:
    number = len(rows.of(User))
    names = {"username": f"user {number}", "email": f"{number}@x.org", "display_name": "Bob"}
    return rows.add(User, password_hash="x", **names, **_stamps())


def conversation(rows: Rows) -> UUID:
    return rows.add(Conversation, created_by=person(rows), **_stamps())


def message(rows: Rows, where: UUID, sent: datetime, sender: UUID | None = None, **values: Any) -> UUID:
    """Add a message, of a new user unless a sender is given."""
    given = {"message_type": "text", "is_deleted": False, **_stamps(sent)} | values
    sender = sender or person(rows)
    return rows.add(Message, conversation_id=where, sender_id=sender, content_encrypted="…", **given)


def status(
    rows: Rows,
    of: UUID,
    user: UUID | None = None,
    *,
    delivered: datetime | None = None,
    read: datetime | None = None,
    **values: Any,
) -> UUID:
    """Add a user's status of a message, a new user's unless one is given."""
    return rows.add(
        MessageStatus,
        message_id=of,
        user_id=user or person(rows),
        delivered_at=delivered,
        read_at=read,
        **{"status": "sent", **_stamps()} | values,
    )


def fact(rows: Rows, at: datetime, kind: str, **values: Any) -> UUID:
    """Add a fact of a row that was deleted early, of a conversation or user of its own."""
    key = UUID(int=rows.chance.getrandbits(128), version=4)
    given = {"key": key, "seconds": None, "batch": key} | values
    return rows.add(PernFact, at=at, kind=kind, **given)


def session(rows: Rows, began: datetime, user: UUID | None = None, **values: Any) -> UUID:
    given = {"expires_at": began + timedelta(days=7), "revoked_at": None} | values
    device = {"refresh_token_hash": "x", "device_info": "a phone", "ip_address": "192.0.2.1"}
    return rows.add(AuthSession, user_id=user or person(rows), **device, **_stamps(began), **given)


def entry(rows: Rows, made: datetime, severity: str = "info", user: UUID | None = None) -> UUID:
    what = {"action": "login", "resource_type": "user", "ip_address": "192.0.2.1", "user_agent": "x"}
    return rows.add(AuditLog, created_at=made, severity=severity, user_id=user, **what)


def history(chance: random.Random, zone: str) -> Rows:
    """Make up some days around a leap of the zone's clocks."""
    rows, day = Rows(), LEAPS[zone]

    def moment() -> datetime:
        return near(chance, day, zone)

    def later(than: datetime) -> datetime | None:
        short = timedelta(microseconds=chance.choice([0, 1, 900_000, 61_234_567]))
        return chance.choice([None, moment(), than + short])

    people = [person(rows) for _ in range(chance.randint(1, 4))]
    places = [conversation(rows) for _ in range(chance.randint(1, 3))]
    for _ in range(chance.randint(0, 24)):
        sent = chance.choice([LONG_AGO, moment(), moment(), moment()])
        of = message(
            rows,
            chance.choice(places),
            sent,
            chance.choice(people),
            message_type=chance.choice(["text", "image", "system"]),
            is_deleted=chance.random() < 0.3,
        )
        for user in chance.sample(people, chance.randint(0, len(people))):
            word = chance.choice(["sent", "failed", "delivered", "read", "reacted"])
            status(rows, of, user, delivered=later(sent), read=later(sent), status=word)
    for _ in range(chance.randint(0, 12)):
        revoked = chance.choice([None, moment()])
        session(rows, moment(), chance.choice(people), revoked_at=revoked)
    for _ in range(chance.randint(0, 20)):
        entry(rows, moment(), chance.choice(SEVERITIES), chance.choice([None, *people]))
    return rows


# -- statistics --------------------------------------------------------------------------------------------


def _by_day(rows: Rows, model: Model, at: str, zone: str) -> dict[date, list[Row]]:
    found = defaultdict(list)
    for row in rows.of(model):
        if row[at] is not None:
            found[day_of(row[at], zone)].append(row)
    return found


def daily(rows: Rows, zone: str) -> dict[Place, Row]:
    """Return the rows of `pern.daily` by day."""
    sent_at = {row["id"]: row["created_at"] for row in rows.of(Message)}
    messages = _by_day(rows, Message, "created_at", zone)
    delivered = _by_day(rows, MessageStatus, "delivered_at", zone)
    read = _by_day(rows, MessageStatus, "read_at", zone)
    found: dict[Place, Row] = {}
    for day in {*messages, *delivered, *read}:
        those = messages.get(day, [])
        took = {
            at: [seconds_between(sent_at[row["message_id"]], row[at]) for row in came.get(day, [])]
            for at, came in (("delivered_at", delivered), ("read_at", read))
        }
        writers = {row["sender_id"] for row in those if row["message_type"] != "system"}
        readers = {row["user_id"] for row in read.get(day, [])}
        found[(day,)] = {
            "messages": len(those),
            "conversations": len({row["conversation_id"] for row in those}),
            "active_users": len(writers | readers),
            "deliveries": len(took["delivered_at"]),
            "delivery_median_seconds": quantile(took["delivered_at"], MEDIAN),
            "delivery_p95_seconds": quantile(took["delivered_at"], P95),
            "reads": len(took["read_at"]),
            "read_median_seconds": quantile(took["read_at"], MEDIAN),
            "read_p95_seconds": quantile(took["read_at"], P95),
        }
    return found


def sessions_daily(rows: Rows, zone: str) -> dict[Place, Row]:
    """Return the rows of `pern.sessions_daily` by day."""
    return {
        (day,): {"sessions": len(those), "users": len({row["user_id"] for row in those})}
        for day, those in _by_day(rows, AuthSession, "created_at", zone).items()
    }


def security_daily(rows: Rows, zone: str) -> dict[Place, Row]:
    """Return the rows of `pern.security_daily` by day and severity."""
    found: dict[Place, Row] = {}
    for day, those in _by_day(rows, AuditLog, "created_at", zone).items():
        for severity in {row["severity"] for row in those}:
            group = [row for row in those if row["severity"] == severity]
            named = {row["user_id"] for row in group} - {None}
            found[day, severity] = {"events": len(group), "users": len(named)}
    return found
