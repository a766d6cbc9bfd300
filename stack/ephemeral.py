"""Plays the API services once more: leaves stale rows behind, at least one for each policy, and others alive.

Then watches what the sweeps make of them. Each row is inserted as a service would have; where a policy has a
period, it is dated back, so that it becomes due a moment later.
"""

import os
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import choices
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Connection, Engine, func, insert, select

from models import audiorooms, connect, echoroom, openchat, pern
from tasks.apps import APPS, after, policies
from tasks.apps.columns import Model, table_of
from tasks.apps.sweeps import Sweep
from workers.settings import Settings

#: How long after it was fed a row becomes due.
SOON = timedelta(seconds=1)
LONG = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Place:
    """One row of a table."""

    model: Model
    id: UUID

    def row(self, connection: Connection) -> dict[str, Any] | None:
        """Return its values by column; None if it is not there."""
        table = table_of(self.model)
        found = connection.execute(select(table).where(table.c.id == self.id)).mappings().one_or_none()
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
    """

    says: str
    due_at: datetime
    stale: list[Stale]
    stays: list[Place]


@dataclass(frozen=True, slots=True)
class Case:
    """What was fed for `policy`, and how the rows that must stay were then."""

    policy: Sweep
    fed: Fed
    before: list[dict[str, Any] | None]

    @property
    def rows(self) -> int:
        """How many of the stale rows are the policy's own; others go along with them."""
        return sum(one.place.model is self.policy.model for one in self.fed.stale)

    def swept(self, connection: Connection) -> bool:
        """Say whether all stale rows are as they must become."""
        return all(one.swept(connection) for one in self.fed.stale)

    def harmed(self, connection: Connection) -> bool:
        """Say whether a row that must stay is not as it was."""
        return [place.row(connection) for place in self.fed.stays] != self.before


@dataclass(frozen=True, slots=True)
class Effect:
    """What became of a policy's rows: swept, so long after they were due."""

    case: Case
    seconds: float


class Ephemera:
    """The rows of all policies that run."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine = engine
        self._settings = settings
        self._waiting: list[Case] = []
        self._swept: list[Case] = []

    def feed(self) -> int:
        """Insert the rows, those of each policy in a transaction; return how many policies have any."""
        for name, policy in policies(self._settings).items():
            if name.partition(".")[0] in APPS:
                with self._engine.begin() as connection:
                    self._waiting.append(self._case(connection, policy))
        return len(self._waiting)

    def look(self) -> list[Effect]:
        """Return the effects that are there since the last look."""
        effects = []
        with self._engine.begin() as connection:
            for case in list(self._waiting):
                if case.swept(connection):
                    late = _clock(connection) - case.fed.due_at
                    effects.append(Effect(case, late.total_seconds()))
                    self._waiting.remove(case)
                    self._swept.append(case)
        return effects

    @property
    def waiting(self) -> list[Case]:
        """Those whose rows have not been swept."""
        return list(self._waiting)

    def harmed(self) -> list[Case]:
        """Return those that had to stay, and were changed or are gone."""
        with self._engine.begin() as connection:
            return [case for case in [*self._swept, *self._waiting] if case.harmed(connection)]

    def _case(self, connection: Connection, policy: Sweep) -> Case:
        feed = Feed(connection, _clock(connection), after(policy, self._settings) or timedelta(0))
        fed = FEEDS[policy.name](feed)
        return Case(policy, fed, [place.row(connection) for place in fed.stays])


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
    def soon(self) -> datetime:
        """When what is stale becomes due."""
        return self.now + SOON

    @property
    def later(self) -> datetime:
        """When nobody looks any more."""
        return self.now + LONG

    @property
    def once(self) -> datetime:
        """A period before `soon`: the last sign of life of what becomes due then."""
        return self.soon - self.period

    def add(self, model: Model, **values: Any) -> UUID:
        """Insert a row with an id of its own; return the id."""
        key = uuid4()
        self.connection.execute(insert(table_of(model)).values(id=key, **values))
        return key


def _clock(connection: Connection) -> datetime:
    moment: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
    return moment


def _gone(model: Model, key: UUID) -> Stale:
    return Stale(Place(model, key), None)


def _becomes(model: Model, key: UUID, **values: Any) -> Stale:
    return Stale(Place(model, key), values)


def _pair(feed: Feed, says: str, model: Model, make: Callable[[datetime], UUID], **becomes: Any) -> Fed:
    """Feed a row that ends soon, and one that ends later; without `becomes` the first will be gone."""
    stale, stays = make(feed.soon), make(feed.later)
    return Fed(says, feed.soon, [Stale(Place(model, stale), becomes or None)], [Place(model, stays)])


# -- echoroom --------------------------------------------------------------------------------------------


def _room(feed: Feed, **values: Any) -> UUID:
    return feed.add(echoroom.ChatSession, category="Calm", description="Rain on a tent", **values)


def _ada(feed: Feed, room: UUID) -> dict[str, UUID]:
    # `last_active` as the application leaves it: the default of its table would be a sign of life.
    return {"session_id": room, "user_id": feed.add(echoroom.User, username="Ada", last_active=None)}


def _typing(feed: Feed) -> Fed:
    def types(until: datetime) -> UUID:
        here = _ada(feed, _room(feed))
        return feed.add(echoroom.TypingIndicator, username="Ada", expires_at=until, **here)

    return _pair(feed, "somebody stops typing without a word", echoroom.TypingIndicator, types)


def _ghosts(feed: Feed) -> Fed:
    room = _room(feed)
    gone, there = _ada(feed, room), _ada(feed, room)
    ghost, quiet = (
        feed.add(echoroom.SessionParticipant, joined_at=feed.once, **one) for one in (gone, there)
    )
    voice = feed.add(echoroom.VoiceStatus, last_updated=feed.once, **gone)
    # Only listens, by what the row says; but has just written.
    feed.add(echoroom.ChatMessage, sender_name="Ada", content="Still here", created_at=feed.now, **there)
    return Fed(
        "somebody closed their laptop",
        feed.soon,
        [
            _becomes(echoroom.SessionParticipant, ghost, is_active=False),
            _gone(echoroom.VoiceStatus, voice),
        ],
        [Place(echoroom.SessionParticipant, quiet)],
    )


def _voice(feed: Feed) -> Fed:
    room = _room(feed)
    gone, there = _ada(feed, room), _ada(feed, room)
    feed.add(echoroom.SessionParticipant, joined_at=feed.now, **there)
    stale, stays = (feed.add(echoroom.VoiceStatus, last_updated=feed.once, **one) for one in (gone, there))
    return Fed(
        "the voice of somebody who is not in the room",
        feed.soon,
        [_gone(echoroom.VoiceStatus, stale)],
        [Place(echoroom.VoiceStatus, stays)],
    )


def _speaking(feed: Feed) -> Fed:
    room = _room(feed)
    stale, stays = (
        feed.add(echoroom.SessionParticipant, joined_at=joined, is_speaking=True, **_ada(feed, room))
        for joined in (feed.once, feed.now)
    )
    return Fed(
        "somebody was cut off while speaking",
        feed.soon,
        [_becomes(echoroom.SessionParticipant, stale, is_speaking=False)],
        [Place(echoroom.SessionParticipant, stays)],
    )


def _voice_speaking(feed: Feed) -> Fed:
    room = _room(feed)

    def speaks(since: datetime) -> UUID:
        here = _ada(feed, room)
        feed.add(echoroom.SessionParticipant, joined_at=feed.now, **here)
        return feed.add(echoroom.VoiceStatus, last_updated=since, is_speaking=True, **here)

    stale, stays = speaks(feed.once), speaks(feed.now)
    return Fed(
        "a voice that has been speaking for too long",
        feed.soon,
        [_becomes(echoroom.VoiceStatus, stale, is_speaking=False)],
        [Place(echoroom.VoiceStatus, stays)],
    )


def _counts(feed: Feed) -> Fed:
    drifted, right = _room(feed, current_participants=7), _room(feed)
    return Fed(
        "a room that counts seven people, and is empty",
        feed.now,
        [_becomes(echoroom.ChatSession, drifted, current_participants=0)],
        [Place(echoroom.ChatSession, right)],
    )


# -- openchat --------------------------------------------------------------------------------------------


def _utc(moment: datetime) -> datetime:
    """Return the moment as `openchat` keeps it."""
    return moment.astimezone(UTC).replace(tzinfo=None)


def _bea(feed: Feed, **values: Any) -> UUID:
    return feed.add(openchat.User, name="Bea", email=f"{uuid4()}@example.org", email_verified=True, **values)


def _talk(feed: Feed, user: UUID, **values: Any) -> tuple[UUID, UUID]:
    """Insert a conversation with the user in it; return it, and their participation."""
    talk = feed.add(openchat.Conversation, created_by=user, participant_count=1)
    member = feed.add(openchat.ConversationParticipant, conversation_id=talk, user_id=user, **values)
    return talk, member


def _openchat_sessions(feed: Feed) -> Fed:
    def session(until: datetime) -> UUID:
        return feed.add(openchat.Session, user_id=_bea(feed), token=str(uuid4()), expires_at=_utc(until))

    return _pair(feed, "a session that expires", openchat.Session, session)


def _verifications(feed: Feed) -> Fed:
    def code(until: datetime) -> UUID:
        return feed.add(openchat.Verification, identifier="bea", value="123456", expires_at=_utc(until))

    return _pair(feed, "a code that nobody typed in", openchat.Verification, code)


def _openchat_presence(feed: Feed) -> Fed:
    once = _utc(feed.once)
    online = {"is_online": True, "status": "online", "last_seen_at": once, "updated_at": once}
    gone, there = _bea(feed, **online), _bea(feed, **online)
    talk, _ = _talk(feed, there)
    feed.add(
        openchat.Message, conversation_id=talk, sender_id=there, content="Hello", created_at=_utc(feed.now)
    )
    return Fed(
        "somebody online whose server has crashed",
        feed.soon,
        [_becomes(openchat.User, gone, is_online=False, status="offline")],
        [Place(openchat.User, there)],
    )


def _mutes(feed: Feed) -> Fed:
    def muted(until: datetime) -> UUID:
        return _talk(feed, _bea(feed), is_muted=True, muted_until=_utc(until))[1]

    return _pair(
        feed, "a mute that ends", openchat.ConversationParticipant, muted, is_muted=False, muted_until=None
    )


def _attachments(feed: Feed) -> Fed:
    def file(until: datetime) -> UUID:
        user = _bea(feed)
        talk, _ = _talk(feed, user)
        message = feed.add(openchat.Message, conversation_id=talk, sender_id=user, content="A ticket")
        return feed.add(
            openchat.Attachment,
            message_id=message,
            uploaded_by=user,
            filename="ticket.pdf",
            original_filename="ticket.pdf",
            mime_type="application/pdf",
            file_size=1,
            storage_key=f"uploads/{uuid4()}.pdf",
            # Long since looked at: there is no file to this one.
            processing_status="completed",
            is_scanned=True,
            scan_result="clean",
            expires_at=_utc(until),
        )

    return _pair(feed, "an attachment that expires", openchat.Attachment, file, is_deleted=True)


# -- connect ---------------------------------------------------------------------------------------------


def _cleo(feed: Feed, role: str = "female") -> UUID:
    name = f"cleo-{uuid4().hex[:12]}"
    values = {"username": name, "email": f"{name}@example.org", "password_hash": os.urandom(8).hex()}
    return feed.add(connect.User, role=role, **values)


def _call(feed: Feed, **values: Any) -> UUID:
    users = {"user1_id": _cleo(feed), "user2_id": _cleo(feed, "male")} | values
    return feed.add(connect.InteractionLog, room_id=str(uuid4()), **users)


def _connection(feed: Feed, **values: Any) -> tuple[UUID, UUID, UUID]:
    """Insert a connection; return it, and its two users."""
    she, he = _cleo(feed), _cleo(feed, "male")
    both = {"user1_id": she, "user2_id": he}
    log = _call(feed, ended_at=feed.now, outcome="female_connected", **both)
    key = feed.add(connect.Connection, interaction_log_id=log, female_user_id=she, **both, **values)
    return key, she, he


def _connect_sessions(feed: Feed) -> Fed:
    def session(until: datetime) -> UUID:
        return feed.add(connect.UserSession, user_id=_cleo(feed), expires_at=until)

    return _pair(feed, "a session that expires", connect.UserSession, session)


def _connect_presence(feed: Feed) -> Fed:
    def socket(user: UUID, status: str) -> UUID:
        times = {"created_at": feed.once, "updated_at": feed.once, "expires_at": feed.later}
        return feed.add(connect.UserSession, user_id=user, socket_id=str(uuid4()), status=status, **times)

    talking = _cleo(feed)
    _call(feed, user1_id=talking, started_at=feed.now)
    gone, there = socket(_cleo(feed), "queuing"), socket(talking, "in-call")
    return Fed(
        "a socket that died in the queue",
        feed.soon,
        [_becomes(connect.UserSession, gone, status="offline")],
        [Place(connect.UserSession, there)],
    )


def _video_requests(feed: Feed) -> Fed:
    def request(until: datetime) -> UUID:
        key, she, he = _connection(feed)
        people = {"requester_user_id": he, "approver_user_id": she}
        return feed.add(connect.VideoRequest, connection_id=key, expires_at=until, **people)

    return _pair(feed, "a request that nobody answered", connect.VideoRequest, request, status="expired")


def _calls(feed: Feed) -> Fed:
    stale, stays = (_call(feed, started_at=started) for started in (feed.once, feed.now))
    return Fed(
        "a call that never ended",
        feed.soon,
        [_becomes(connect.InteractionLog, stale, ended_at=feed.once + feed.period, outcome="timeout")],
        [Place(connect.InteractionLog, stays)],
    )


def _chat_rooms(feed: Feed) -> Fed:
    stale, stays = (
        feed.add(connect.ChatRoom, connection_id=_connection(feed, is_active=active)[0], room_name="Tea")
        for active in (False, True)
    )
    return Fed(
        "the room of a connection that has ended",
        feed.now,
        [_becomes(connect.ChatRoom, stale, is_active=False)],
        [Place(connect.ChatRoom, stays)],
    )


# -- pern ------------------------------------------------------------------------------------------------


def _dan(feed: Feed, **values: Any) -> UUID:
    name = f"dan-{uuid4().hex[:12]}"
    account = {"username": name, "email": f"{name}@example.org", "display_name": "Dan"}
    stamps = {"created_at": feed.now, "updated_at": feed.now}
    return feed.add(pern.User, password_hash=os.urandom(8).hex(), **account, **stamps | values)


def _token(feed: Feed, user: UUID, until: datetime) -> UUID:
    return feed.add(
        pern.AuthSession,
        user_id=user,
        refresh_token_hash=os.urandom(8).hex(),
        device_info="a phone",
        ip_address="192.0.2.1",
        expires_at=until,
        created_at=feed.now,
        updated_at=feed.now,
    )


def _pern_sessions(feed: Feed) -> Fed:
    def session(until: datetime) -> UUID:
        return _token(feed, _dan(feed), until)

    return _pair(feed, "a session that expires", pern.AuthSession, session)


def _keys(feed: Feed) -> Fed:
    def key(until: datetime) -> UUID:
        stamps = {"created_at": feed.now, "updated_at": feed.now}
        return feed.add(
            pern.UserPublicKey, user_id=_dan(feed), public_key=os.urandom(8).hex(), expires_at=until, **stamps
        )

    return _pair(feed, "a key that expires", pern.UserPublicKey, key, is_active=False)


def _pern_presence(feed: Feed) -> Fed:
    online = {"status": "online", "last_seen_at": feed.once, "updated_at": feed.once}
    gone, there = _dan(feed, **online), _dan(feed, **online)
    # Has just come back for a new token.
    _token(feed, there, feed.later)
    return Fed(
        "somebody online whose phone has no network",
        feed.soon,
        [_becomes(pern.User, gone, status="offline")],
        [Place(pern.User, there)],
    )


# -- audiorooms ------------------------------------------------------------------------------------------


def _studio(feed: Feed, **values: Any) -> UUID:
    code = "".join(choices(string.ascii_uppercase + string.digits, k=6))  # noqa: S311 - no secret
    return feed.add(audiorooms.AudioRoom, code=code, password_hash=os.urandom(8).hex(), **values)


def _listener(feed: Feed, room: UUID, joined_at: datetime, **values: Any) -> UUID:
    client = {"client_id": uuid4().hex} | values
    return feed.add(audiorooms.RoomParticipant, room_id=room, nickname="Eve", joined_at=joined_at, **client)


def _suspended(feed: Feed) -> Fed:
    over, paused = (_studio(feed, suspended_until=until) for until in (feed.soon, feed.later))
    left, waits = (_listener(feed, room, feed.now) for room in (over, paused))
    return Fed(
        "a suspended room that nobody resumed, with a listener",
        feed.soon,
        [
            _becomes(audiorooms.AudioRoom, over, active=False),
            _becomes(audiorooms.RoomParticipant, left, left_at=feed.soon, connection_duration=1),
        ],
        [Place(audiorooms.AudioRoom, paused), Place(audiorooms.RoomParticipant, waits)],
    )


def _stays(feed: Feed) -> Fed:
    joined, closed = feed.now - timedelta(minutes=2), feed.now - timedelta(minutes=1)
    stale = _listener(feed, _studio(feed, active=False, updated_at=closed), joined)
    stays = _listener(feed, _studio(feed), joined)
    return Fed(
        "a listener in a room that was closed a minute ago",
        feed.now,
        [_becomes(audiorooms.RoomParticipant, stale, left_at=closed, connection_duration=60)],
        [Place(audiorooms.RoomParticipant, stays)],
    )


def _dead(feed: Feed) -> Fed:
    silent, alive = (_studio(feed, created_at=feed.once, updated_at=feed.once) for _ in range(2))
    stale, stays = (_listener(feed, room, feed.once) for room in (silent, alive))
    feed.add(audiorooms.AuditLog, event_type="room_joined", room_id=alive, created_at=feed.now)
    return Fed(
        "a listener in a room whose server has died",
        feed.soon,
        # Credited up to the last sign of life, which was their coming.
        [_becomes(audiorooms.RoomParticipant, stale, left_at=feed.once, connection_duration=0)],
        [Place(audiorooms.RoomParticipant, stays)],
    )


def _duplicates(feed: Feed) -> Fed:
    room, again = _studio(feed), feed.now - timedelta(minutes=1)
    client = uuid4().hex
    stale, stays = (
        _listener(feed, room, joined, client_id=client) for joined in (again - timedelta(minutes=1), again)
    )
    return Fed(
        "a listener who came back without having left",
        feed.now,
        [_becomes(audiorooms.RoomParticipant, stale, left_at=again, connection_duration=60)],
        [Place(audiorooms.RoomParticipant, stays)],
    )


def _backwards(feed: Feed) -> Fed:
    room, joined = _studio(feed), feed.now - timedelta(minutes=1)
    stale, stays = (
        _listener(feed, room, joined, left_at=left, connection_duration=None)
        for left in (joined - timedelta(seconds=10), feed.now)
    )
    return Fed(
        "a stay that ends before it begins",
        feed.now,
        [_becomes(audiorooms.RoomParticipant, stale, left_at=joined, connection_duration=0)],
        [Place(audiorooms.RoomParticipant, stays)],
    )


#: What is fed for each policy of the applications.
FEEDS: dict[str, Callable[[Feed], Fed]] = {
    "echoroom.typing": _typing,
    "echoroom.ghosts": _ghosts,
    "echoroom.voice": _voice,
    "echoroom.speaking": _speaking,
    "echoroom.voice_speaking": _voice_speaking,
    "echoroom.counts": _counts,
    "openchat.sessions": _openchat_sessions,
    "openchat.verifications": _verifications,
    "openchat.presence": _openchat_presence,
    "openchat.mutes": _mutes,
    "openchat.attachments": _attachments,
    "connect.sessions": _connect_sessions,
    "connect.presence": _connect_presence,
    "connect.video_requests": _video_requests,
    "connect.calls": _calls,
    "connect.chat_rooms": _chat_rooms,
    "pern.sessions": _pern_sessions,
    "pern.keys": _keys,
    "pern.presence": _pern_presence,
    "audiorooms.suspended": _suspended,
    "audiorooms.stays": _stays,
    "audiorooms.dead": _dead,
    "audiorooms.duplicates": _duplicates,
    "audiorooms.backwards": _backwards,
}
