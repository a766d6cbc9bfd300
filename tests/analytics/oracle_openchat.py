"""What the statistics of `openchat` have to be, written down as plainly as their rules are."""

import random
from collections import defaultdict
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

from models.openchat import Conversation, Message, User
from tests.analytics.figuring import (
    LEAPS,
    MEDIAN,
    P95,
    Place,
    Row,
    Rows,
    day_of,
    naive,
    near,
    quantile,
    seconds_between,
)

TYPES = ["text", "image", "system", "poll"]


# -- rows -----------------------------------------------------------------------------------------------


def person(rows: Rows) -> UUID:
    return rows.add(User, name="Ada", email=f"{len(rows.of(User))}@x.org", email_verified=True)


def conversation(rows: Rows) -> UUID:
    return rows.add(Conversation, created_by=person(rows))


def message(
    rows: Rows,
    where: UUID,
    sent: datetime,
    sender: UUID | None = None,
    *,
    delivered: datetime | None = None,
    **values: Any,
) -> UUID:
    """Add a message, of a new user unless a sender is given."""
    given = {"content_type": "text", "is_system_message": False, "is_deleted": False} | values
    return rows.add(
        Message,
        conversation_id=where,
        sender_id=sender or person(rows),
        content="hello",
        created_at=naive(sent),
        delivered_at=naive(delivered),
        **given,
    )


def history(chance: random.Random, zone: str) -> Rows:
    """Make up some days around a leap of the zone's clocks."""
    rows, day = Rows(), LEAPS[zone]
    people = [person(rows) for _ in range(chance.randint(1, 4))]
    places = [conversation(rows) for _ in range(chance.randint(1, 4))]
    for _ in range(chance.randint(0, 36)):
        sent = near(chance, day, zone)
        delivered = None if chance.random() < 0.3 else near(chance, day, zone)
        if delivered is not None and chance.random() < 0.7:
            delivered = sent + timedelta(microseconds=chance.choice([0, 1, 900_000, 61_234_567]))
        message(
            rows,
            chance.choice(places),
            sent,
            chance.choice(people),
            delivered=delivered,
            content_type=chance.choice(TYPES),
            is_system_message=chance.choice([True, False, False, None]),
            is_deleted=chance.choice([True, False, None]),
        )
    return rows


# -- statistics --------------------------------------------------------------------------------------------


def _by_day(rows: Rows, zone: str) -> dict[date, list[Row]]:
    found = defaultdict(list)
    for row in rows.of(Message):
        found[day_of(row["created_at"].replace(tzinfo=UTC), zone)].append(row)
    return found


def messages_daily(rows: Rows, zone: str) -> dict[Place, Row]:
    """Return the rows of `openchat.messages_daily` by day and content type."""
    return {
        (day, kind): {"messages": sum(row["content_type"] == kind for row in those)}
        for day, those in _by_day(rows, zone).items()
        for kind in {row["content_type"] for row in those}
    }


def daily(rows: Rows, zone: str) -> dict[Place, Row]:
    """Return the rows of `openchat.daily` by day."""
    found: dict[Place, Row] = {}
    for day, those in _by_day(rows, zone).items():
        took = [
            seconds_between(row["created_at"], row["delivered_at"])
            for row in those
            if row["delivered_at"] is not None
        ]
        written = [row for row in those if not row["is_system_message"] and row["content_type"] != "system"]
        found[(day,)] = {
            "messages": len(those),
            "active_users": len({row["sender_id"] for row in written}),
            "conversations": len({row["conversation_id"] for row in those}),
            "delivered": len(took),
            "delivery_median_seconds": quantile(took, MEDIAN),
            "delivery_p95_seconds": quantile(took, P95),
        }
    return found
