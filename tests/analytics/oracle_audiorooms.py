"""The statistics of `audiorooms`, said once more in plain Python, by brute force."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, select

from models.audiorooms import AudioRoom, AuditLog, RoomAnalytics, RoomParticipant
from tasks.analytics.calendar import Bucket
from tasks.policies.columns import table_of

SKEW = timedelta(days=1)
DEAD = timedelta(hours=12)
#: A clock that says it is earlier was never set.
FIRST = datetime(2000, 1, 1, tzinfo=UTC)
#: (room, day) → peak, minutes, people.
Statistics = dict[tuple[UUID, date], tuple[int, int, int]]
Row = Mapping[str, Any]
#: When each person was there.
People = dict[str, list[tuple[datetime, datetime]]]


def table(connection: Connection, model: Any) -> list[Row]:
    return [dict(row) for row in connection.execute(select(table_of(model))).mappings()]


def statistics(connection: Connection) -> Statistics:
    """Return what is in the application's table."""
    return {
        (row["room_id"], row["date"]): (
            row["peak_listeners"],
            row["total_listen_minutes"],
            row["total_listeners"],
        )
        for row in table(connection, RoomAnalytics)
    }


def expected(connection: Connection, days: Iterable[Bucket], now: datetime) -> Statistics:
    """Return what should be there; rooms and days with nothing have nothing."""
    rooms = {row["id"]: row for row in table(connection, AudioRoom)}
    stays = table(connection, RoomParticipant)
    log = table(connection, AuditLog)
    there = [
        (room, person(stay), stay["joined_at"], ended(stay, rooms[room], stays, log, now))
        for stay in stays
        for room in [stay["room_id"]]
        if room is not None and stay["role"] != "broadcaster"
        if stay["joined_at"] is not None and stay["joined_at"] >= FIRST
    ]
    found: Statistics = {}
    for day in days:
        present: dict[UUID, People] = defaultdict(lambda: defaultdict(list))
        for room, who, joined, over in there:
            if joined < day.end and (over > day.start or joined >= day.start):
                began = max(joined, day.start)
                present[room][who].append((began, max(began, min(over, day.end))))
        for room, people in present.items():
            found[room, day.label] = (peak(people), minutes(people), len(people))
    return found


def person(stay: Row) -> str:
    if stay["user_id"] is not None:
        return f"user {stay['user_id']}"
    return f"client {stay['client_id']}" if stay["client_id"] is not None else f"row {stay['id']}"


def ended(stay: Row, room: Row, stays: list[Row], log: list[Row], now: datetime) -> datetime:
    """Return when the listener's stay ended."""

    def plausible(at: datetime | None) -> datetime | None:
        return at if at is not None and at <= now + SKEW else None

    joined: datetime = stay["joined_at"]
    left = plausible(stay["left_at"])
    if left is None:
        closed = [at for at in (room["updated_at"], room["suspended_until"]) if at is not None]
        until = room["suspended_until"] or now
        signs = [plausible(room["updated_at"])]
        signs += [plausible(entry["created_at"]) for entry in log if entry["room_id"] == room["id"]]
        for other in stays:
            if other["room_id"] == room["id"]:
                times = [other["joined_at"], other["left_at"]]
                signs += [
                    plausible(other["joined_at"]),
                    plausible(max((at for at in times if at), default=None)),
                ]
        last = max((at for at in signs if at is not None), default=None)
        if room["active"] is not True:
            left = min(closed, default=now)
        elif joined >= now - DEAD or (last is not None and last >= now - DEAD):
            left = until
        else:
            left = min(last or now, until)
    return max(joined, min(now, left))


def peak(people: People) -> int:
    moments = [began for spans in people.values() for began, _ in spans]
    return max(
        sum(any(began <= at < over for began, over in spans) for spans in people.values()) for at in moments
    )


def minutes(people: People) -> int:
    total = timedelta(0)
    for spans in people.values():
        edges = sorted({edge for span in spans for edge in span})
        for first, second in pairwise(edges):
            if any(began <= first and second <= over for began, over in spans):
                total += second - first
    microseconds = total // timedelta(microseconds=1)
    return (microseconds + 30_000_000) // 60_000_000
