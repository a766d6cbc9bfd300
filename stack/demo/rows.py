"""What the local stack feeds beside files: rows of the applications, as their services would insert them."""

import os
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import choices
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Connection, func, insert, select

from models import audiorooms, connect, echoroom, openchat, pern
from models.analytics import RollupState
from tasks.policies.columns import Model, table_of
from tasks.sweeps.statements import key_of

#: How long after it was fed a row becomes due.
SOON = timedelta(seconds=1)
LONG = timedelta(days=1)
#: So many days were not closed when the stack was started for the first time. What is older has been counted.
DAYS = 7


@dataclass(frozen=True, slots=True)
class Place:
    """One row of a table, by its key."""

    model: Model
    id: Any

    def row(self, connection: Connection) -> dict[str, Any] | None:
        """Return its values by column; None if it is not there."""
        table = table_of(self.model)
        found = connection.execute(select(table).where(key_of(table) == self.id)).mappings().one_or_none()
        return None if found is None else dict(found)


@dataclass(frozen=True, slots=True)
class Stale:
    """A row that is to be swept: gone, or with these values by column."""

    place: Place
    becomes: Mapping[str, Any] | None

    def swept(self, connection: Connection) -> bool:
        """Say whether it is."""
        row = self.place.row(connection)
        if row is None or self.becomes is None:
            return row is None and self.becomes is None
        return all(row[name] == value for name, value in self.becomes.items())


@dataclass(frozen=True, slots=True)
class Fed:
    """What is fed for one policy.

    Attributes:
        says: what the stale rows are, for people.
        due_at: when they are due.
        stale: rows that must be swept.
        stays: rows that must stay as they are.
        stays_until: they may go from then on; None if not before the end.
    """

    says: str
    due_at: datetime
    stale: list[Stale]
    stays: list[Place]
    stays_until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Feed:
    """Inserts rows in the transaction that is theirs.

    Attributes:
        now: the database's time.
        period: the policy's, as it is set; zero if it has none.
    """

    connection: Connection
    now: datetime
    period: timedelta

    @property
    def counted(self) -> datetime:
        """A moment that all rollups have counted: what was made then may go."""
        return self.now - timedelta(days=DAYS + 2)

    @property
    def uncounted(self) -> datetime:
        """A moment before all that has been counted: what was made then stays."""
        first = self.connection.scalar(select(func.min(RollupState.covered_from)))
        return (first or self.now) - LONG

    @property
    def soon(self) -> datetime:
        """When what is stale becomes due."""
        return self.now + SOON

    @property
    def later(self) -> datetime:
        """After the demonstration has ended."""
        return self.now + LONG

    @property
    def once(self) -> datetime:
        """A period before `soon`: the last sign of life of what becomes due then."""
        return self.soon - self.period

    def add(self, model: Model, **values: Any) -> UUID:
        """Insert a row with an id of its own; return the id."""
        key = uuid4()
        self.put(model, id=key, **values)
        return key

    def put(self, model: Model, **values: Any) -> Any:
        """Insert a row whose key the database makes, or is among the values; return the key."""
        table = table_of(model)
        return self.connection.execute(insert(table).values(values).returning(key_of(table))).scalar_one()


@dataclass(frozen=True, slots=True)
class Batch(Feed):
    """Inserts many rows at once, at the end: one by one they would take seconds."""

    rows: dict[tuple[Model, frozenset[str]], list[dict[str, Any]]] = field(default_factory=dict)

    def add(self, model: Model, **values: Any) -> UUID:
        """Keep a row with an id of its own; return the id."""
        key = uuid4()
        self.rows.setdefault((model, frozenset(values)), []).append({"id": key, **values})
        return key

    def flush(self) -> None:
        """Insert them, table by table, in the order in which these were first met: that is how they refer."""
        for (model, _), rows in self.rows.items():
            self.connection.execute(insert(table_of(model)), rows)
        self.rows.clear()


def clock(connection: Connection) -> datetime:
    """Return the database's time."""
    moment: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
    return moment


def is_gone(model: Model, key: Any) -> Stale:
    """Return that a row is to be deleted."""
    return Stale(Place(model, key), None)


def is_changed(model: Model, key: Any, **values: Any) -> Stale:
    """Return that a row is to get these values."""
    return Stale(Place(model, key), values)


def pair(feed: Feed, says: str, model: Model, make: Callable[[datetime], Any], **becomes: Any) -> Fed:
    """Feed a row that ends soon, and one that ends later; without `becomes` the first will be gone."""
    stale, stays = make(feed.soon), make(feed.later)
    return Fed(says, feed.soon, [Stale(Place(model, stale), becomes or None)], [Place(model, stays)])


# -- people and places -----------------------------------------------------------------------------------


def a_room(feed: Feed, **values: Any) -> UUID:
    """Insert a room of `echoroom`."""
    return feed.add(echoroom.ChatSession, category="Calm", description="Rain on a tent", **values)


def ada(feed: Feed, room: UUID) -> dict[str, UUID]:
    """Insert a user of `echoroom`; return the columns that say that they are in the room."""
    # `last_active` as the application leaves it: the default of its table would be a sign of life.
    return {"session_id": room, "user_id": feed.add(echoroom.User, username="Ada", last_active=None)}


def utc(moment: datetime) -> datetime:
    """Return the moment as `openchat` keeps it."""
    return moment.astimezone(UTC).replace(tzinfo=None)


def bea(feed: Feed, **values: Any) -> UUID:
    """Insert a user of `openchat`."""
    account = {"name": "Bea", "email": f"{uuid4()}@example.org", "email_verified": True}
    return feed.add(openchat.User, **account | values)


def a_talk(feed: Feed, user: UUID, **values: Any) -> tuple[UUID, UUID]:
    """Insert a conversation with the user in it; return it, and their participation."""
    talk = feed.add(openchat.Conversation, created_by=user, participant_count=1)
    member = feed.add(openchat.ConversationParticipant, conversation_id=talk, user_id=user, **values)
    return talk, member


def cleo(feed: Feed, role: str = "female") -> UUID:
    """Insert a user of `connect`."""
    name = f"cleo-{uuid4().hex[:12]}"
    values = {"username": name, "email": f"{name}@example.org", "password_hash": os.urandom(8).hex()}
    return feed.add(connect.User, role=role, **values)


def a_call(feed: Feed, **values: Any) -> UUID:
    """Insert a call of two."""
    users = {"user1_id": cleo(feed), "user2_id": cleo(feed, "male")} | values
    return feed.add(connect.InteractionLog, room_id=str(uuid4()), **users)


def a_connection(feed: Feed, **values: Any) -> tuple[UUID, UUID, UUID]:
    """Insert a connection; return it, and its two users."""
    she, he = cleo(feed), cleo(feed, "male")
    both = {"user1_id": she, "user2_id": he}
    log = a_call(feed, ended_at=feed.now, outcome="female_connected", **both)
    key = feed.add(connect.Connection, interaction_log_id=log, female_user_id=she, **both, **values)
    return key, she, he


def dan(feed: Feed, **values: Any) -> UUID:
    """Insert a user of `pern`."""
    name = f"dan-{uuid4().hex[:12]}"
    account = {"username": name, "email": f"{name}@example.org", "display_name": "Dan"}
    stamps = {"created_at": feed.now, "updated_at": feed.now}
    return feed.add(pern.User, password_hash=os.urandom(8).hex(), **account, **stamps | values)


def a_studio(feed: Feed, **values: Any) -> UUID:
    """Insert a room of `audiorooms`."""
    code = "".join(choices(string.ascii_uppercase + string.digits, k=6))  # noqa: S311 - no secret
    return feed.add(audiorooms.AudioRoom, code=code, password_hash=os.urandom(8).hex(), **values)


def a_listener(feed: Feed, room: UUID, joined_at: datetime, **values: Any) -> UUID:
    """Insert a stay in a room."""
    client = {"client_id": uuid4().hex} | values
    return feed.add(audiorooms.RoomParticipant, room_id=room, nickname="Eve", joined_at=joined_at, **client)
