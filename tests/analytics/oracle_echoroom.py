"""What is to be known of `echoroom`, said once more in plain Python: what is seen, and its statistics."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Connection, delete, insert, select
from sqlalchemy.dialects.postgresql import insert as upsert

from models.analytics import EchoroomSpeaker, EchoroomStay, RollupState
from models.echoroom import ChatMessage, ChatSession, MessageReaction, SessionParticipant, User, VoiceStatus
from tasks.analytics.calendar import Bucket, bucket_at
from tasks.analytics.calendar import buckets as calendar
from tasks.analytics.statements import statements
from tasks.policies.columns import Model, table_of
from tasks.policies.rollup import Rollup

Person = tuple[UUID, UUID]
Metrics = dict[str, int]
Table = dict[tuple[UUID, Any], Metrics]

INSTANT = timedelta(microseconds=1)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
NOTHING: Metrics = dict.fromkeys(
    (
        "participants",
        "peak_participants",
        "messages",
        "messages_text",
        "messages_system",
        "messages_ai_prompt",
        "messages_mood_check",
        "reactions",
        "speakers",
    ),
    0,
)


# -- what the application writes ------------------------------------------------------------------------


@dataclass
class Echoroom:
    """The application, and the runs that observe it, in one transaction."""

    connection: Connection

    def add(self, model: Model, **values: Any) -> UUID:
        """Insert a row with an id of its own; return the id."""
        key: UUID = values.pop("id", None) or uuid4()
        self.connection.execute(insert(table_of(model)).values(id=key, **values))
        return key

    def room(self) -> UUID:
        return self.add(ChatSession, category="Calm")

    def user(self) -> UUID:
        return self.add(User, username="Ada")

    def put(self, room: UUID, user: UUID, **values: Any) -> None:
        """Write these columns of a person in a room, whether there is a row or not."""
        self._upsert(SessionParticipant, room, user, values)

    def speak(self, room: UUID, user: UUID, **values: Any) -> None:
        """Write these columns of a person's voice status."""
        self._upsert(VoiceStatus, room, user, values)

    def _upsert(self, model: Model, room: UUID, user: UUID, values: dict[str, Any]) -> None:
        statement = upsert(table_of(model)).values(session_id=room, user_id=user, **values)
        self.connection.execute(
            statement.on_conflict_do_update(index_elements=["session_id", "user_id"], set_=values)
        )

    def join(self, room: UUID, user: UUID, at: datetime | None, **values: Any) -> None:
        """Join as a service does that forgets nothing."""
        self.put(room, user, **{"joined_at": at, "left_at": None, "is_active": True} | values)

    def leave(self, room: UUID, user: UUID, at: datetime | None, **values: Any) -> None:
        """Leave as documented."""
        self.put(room, user, **{"left_at": at, "is_active": False} | values)

    def say(self, room: UUID | None, at: datetime | None, kind: str | None = "text") -> UUID:
        """Send a message."""
        return self.add(
            ChatMessage, session_id=room, sender_name="Ada", content="hi", message_type=kind, created_at=at
        )

    def react(self, message: UUID | None, user: UUID | None, at: datetime | None) -> UUID:
        """React to a message, with an unused emoji."""
        return self.add(MessageReaction, message_id=message, user_id=user, emoji=str(uuid4()), created_at=at)

    def remove(self, model: Any, key: UUID) -> None:
        """Delete a row, and what goes with it."""
        self.connection.execute(delete(model).where(model.id == key))

    def vanish(self, room: UUID, user: UUID) -> None:
        """Delete the row of a person in a room."""
        row = SessionParticipant
        self.connection.execute(delete(row).where(row.session_id == room, row.user_id == user))

    # -- runs -------------------------------------------------------------------------------------------

    def observe(self, rollup: Rollup, now: datetime) -> int:
        """Observe as a run of the rollup does; return how many rows of ours were written."""
        since = self.ticked_at(rollup)
        written = 0
        for statement in rollup.snapshot:
            result = self.connection.execute(
                statement, {"now": now, "since": since}, execution_options={"preserve_rowcount": True}
            )
            written += 0 if result.returns_rows else result.rowcount
        ticked = {"watermark": now, "covered_from": now, "ticked_at": now}
        row = upsert(table_of(RollupState)).values(name=rollup.name, zone=rollup.zone, **ticked)
        self.connection.execute(row.on_conflict_do_update(index_elements=["name"], set_={"ticked_at": now}))
        return written

    def ticked_at(self, rollup: Rollup) -> datetime | None:
        """Return the moment of its last run."""
        return self.connection.scalar(select(RollupState.ticked_at).where(RollupState.name == rollup.name))

    def compute(
        self, rollup: Rollup, buckets: Iterable[Bucket], now: datetime, keys: Sequence[UUID] | None = None
    ) -> int:
        """Replace what the target has of these buckets; return how many rows were written or deleted."""
        made = statements(rollup)
        written = 0
        for bucket in buckets:
            given = {"bucket_from": bucket.start, "bucket_to": bucket.end, "bucket": bucket.label, "now": now}
            if keys is None:
                written += sum(self.connection.execute(made.replace, given).one())
            else:
                assert made.replace_keys is not None
                written += sum(
                    self.connection.execute(made.replace_keys, {**given, "keys": list(keys)}).one()
                )
        return written

    # -- what one looks at ------------------------------------------------------------------------------

    def rows(self, model: Any) -> list[dict[str, Any]]:
        """Return a whole table."""
        return [dict(row) for row in self.connection.execute(select(table_of(model))).mappings()]

    def metrics(self, rollup: Rollup) -> Table:
        """Return the whole target."""
        bucket = rollup.bucket.key
        return {
            (row["room_id"], row[bucket]): {name: row[name] for name in NOTHING}
            for row in self.rows(rollup.model)
        }

    def stays(self) -> dict[tuple[UUID, UUID, datetime], datetime | None]:
        """Return the observed stays."""
        return {
            (row["room_id"], row["user_id"], row["joined_at"]): row["left_at"]
            for row in self.rows(EchoroomStay)
        }

    def speakers(self) -> set[tuple[UUID, UUID, datetime]]:
        """Return who was seen speaking, and in which quarter of an hour."""
        return {(row["room_id"], row["user_id"], row["hour"]) for row in self.rows(EchoroomSpeaker)}


# -- what an observer knows -----------------------------------------------------------------------------


@dataclass
class Stay:
    """What is known of a stay; `known` is when it was first seen."""

    joined: datetime
    left: datetime | None
    known: datetime


@dataclass
class Observer:
    """What a periodic look at the application's tables has shown so far."""

    stays: dict[Person, list[Stay]] = field(default_factory=dict)
    speakers: set[tuple[UUID, UUID, datetime]] = field(default_factory=set)
    last: datetime | None = None

    def look(self, echoroom: Echoroom, now: datetime) -> None:
        """Look at the application's tables."""
        rows = {
            (row["session_id"], row["user_id"]): row
            for row in echoroom.rows(SessionParticipant)
            if row["session_id"] and row["user_id"]
        }
        for person in rows.keys() | self.stays.keys():
            self._person(self.stays.setdefault(person, []), rows.get(person), now)
        for (room, user), row in rows.items():
            if row["is_active"] and row["is_speaking"]:
                self.speakers.add((room, user, quarter(now)))
        for voice in echoroom.rows(VoiceStatus):
            at, room, user = voice["last_updated"], voice["session_id"], voice["user_id"]
            if not voice["is_speaking"] or at is None or room is None or user is None:
                continue
            if now - at <= timedelta(minutes=10):
                self.speakers.add((room, user, quarter(now)))
            if timedelta(0) <= now - at < HOUR:
                self.speakers.add((room, user, quarter(at)))
        self.last = now

    def _person(self, stays: list[Stay], row: dict[str, Any] | None, now: datetime) -> None:
        """Conclude from a person's row what has become of their stays."""
        here = [stay for stay in stays if stay.left is None]
        if row is None:
            for stay in here:
                stay.left = max(stay.joined, stay.known, self.last or stay.known)
            return
        joined, left, active = row["joined_at"], row["left_at"], row["is_active"]
        known = joined is not None and joined <= now
        for stay in here:
            if known and joined > stay.joined:
                stay.left = left if left is not None and stay.joined <= left < joined else joined
            elif not active:
                stay.left = now if left is None else max(stay.joined, min(left, now))
            elif left is not None and stay.joined < left <= now:
                stay.left = left
        if known and joined not in [stay.joined for stay in stays]:
            if not active:
                end = joined if left is None else max(joined, min(left, now))
            else:
                end = left if left is not None and joined < left <= now else None
            if end is None or end >= (self.last or now) - 3 * DAY:
                stays.append(Stay(joined, end, now))
        # Of two that begin at the same moment there is one.
        begun = now in [stay.joined for stay in stays]
        if active and all(stay.left is not None for stay in stays) and not begun:
            stays.append(Stay(now, None, now))

    def table(self) -> dict[tuple[UUID, UUID, datetime], datetime | None]:
        """Return all stays as the table has them."""
        return {(*person, stay.joined): stay.left for person, stays in self.stays.items() for stay in stays}


# -- what the statistics are -------------------------------------------------------------------------------


def metrics(
    echoroom: Echoroom,
    observer: Observer,
    buckets: Sequence[Bucket],
    now: datetime,
    kept: Table | None = None,
) -> Table:
    """Return the statistics of these buckets as of `now`; `kept` are those that were there before."""
    rooms = {row["id"] for row in echoroom.rows(ChatSession)}
    messages = {row["id"]: row for row in echoroom.rows(ChatMessage)}
    reactions = echoroom.rows(MessageReaction)
    table: Table = {}

    def at(room: UUID, bucket: Bucket) -> Metrics:
        return table.setdefault((room, bucket.label), dict(NOTHING))

    for bucket in buckets:
        for row in messages.values():
            if row["session_id"] and row["created_at"] and bucket.start <= row["created_at"] < bucket.end:
                place = at(row["session_id"], bucket)
                place["messages"] += 1
                kind = row["message_type"]
                if kind is not None:
                    place["messages_" + kind.replace("-", "_")] += 1
        for row in reactions:
            made, of = row["created_at"], messages.get(row["message_id"])
            if of is None or made is None or of["created_at"] is None or of["session_id"] is None:
                continue
            if bucket.start <= made < bucket.end and timedelta(0) <= made - of["created_at"] < DAY:
                at(of["session_id"], bucket)["reactions"] += 1
        for room, _ in {
            (room, user) for room, user, hour in observer.speakers if bucket.start <= hour < bucket.end
        }:
            at(room, bucket)["speakers"] += 1
        for room in {room for room, _ in observer.stays}:
            presence(observer, room, bucket, now, at)
    for (room, label), before in (kept or {}).items():
        if room not in rooms and label in [bucket.label for bucket in buckets]:
            place = table.setdefault((room, label), dict(NOTHING))
            table[room, label] = {name: max(place[name], before[name]) for name in NOTHING}
    return table


def presence(observer: Observer, room: UUID, bucket: Bucket, now: datetime, at: Any) -> None:
    """Count who was in a room."""
    there: dict[UUID, list[tuple[datetime, datetime]]] = {}
    for (of, user), stays in observer.stays.items():
        for stay in stays:
            end = stay.left if stay.left is not None else max(stay.joined, now)
            if (
                of == room
                and stay.joined < bucket.end
                and (stay.joined >= bucket.start or end > bucket.start)
            ):
                there.setdefault(user, []).append((stay.joined, end))
    if there:
        place = at(room, bucket)
        place["participants"] = len(there)
        moments = {max(start, bucket.start) for times in there.values() for start, _ in times}
        place["peak_participants"] = max(
            sum(any(start <= moment < end for start, end in times) for times in there.values())
            for moment in moments
        )


def quarter(moment: datetime) -> datetime:
    """Return when the quarter of an hour began."""
    utc = moment.astimezone(UTC)
    return utc.replace(minute=utc.minute // 15 * 15, second=0, microsecond=0)


def spanning(rollup: Rollup, start: datetime, end: datetime) -> list[Bucket]:
    """Return the rollup's buckets from the one of `start` to the one of `end`."""
    first = bucket_at(start, rollup.grain, rollup.zone).start
    return calendar(first, end + INSTANT, rollup.grain, rollup.zone)
