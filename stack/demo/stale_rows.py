"""Plays the API services once more: leaves stale rows behind, at least one for each policy, and others alive.

Then watches what the sweeps make of them. Each row is inserted as a service would have; where a policy has a
period, it is dated back, so that it becomes due a moment later.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Connection, Engine, func, select

from models import analytics, audiorooms, connect, echoroom, openchat, pern
from models.platform import FutureTimestamp, Receipt
from stack.demo.expired_rows import AGED
from stack.demo.rows import (
    Fed,
    Feed,
    Place,
    a_call,
    a_connection,
    a_listener,
    a_room,
    a_studio,
    a_talk,
    ada,
    bea,
    cleo,
    clock,
    dan,
    is_changed,
    is_gone,
    pair,
    utc,
)
from tasks.apps import after, policies
from tasks.policies.retention import Retention
from tasks.policies.sweep import Delete, Sweep
from tasks.retention import receipts
from tasks.retention.receipts import Verified
from workers.settings import Settings


@dataclass(frozen=True, slots=True)
class Case:
    """What was fed for `policy`, and how the rows that must stay were then."""

    policy: Sweep
    fed: Fed
    before: list[dict[str, Any] | None]
    #: The last receipt that there was before.
    receipts: int = 0

    @property
    def rows(self) -> int:
        """How many of the stale rows are the policy's own; others go, or change, along with them."""
        deletes = isinstance(self.policy.action, Delete)
        own = [one for one in self.fed.stale if one.place.model is self.policy.model]
        return sum((one.becomes is None) == deletes for one in own)

    def swept(self, connection: Connection) -> bool:
        """Say whether all stale rows are as they must become."""
        return all(one.swept(connection) for one in self.fed.stale)

    def receipt(self, connection: Connection) -> int | None:
        """Return the number of the receipt that what retention took has; None if it has none."""
        of_policy = (Receipt.policy == self.policy.name) & (Receipt.number > self.receipts)
        return connection.scalar(select(func.min(Receipt.number)).where(of_policy, Receipt.kind == "taken"))

    def harmed(self, connection: Connection) -> bool:
        """Say whether a row that must stay is not as it was."""
        until = self.fed.stays_until
        if until is not None and clock(connection) > until:
            return False
        return [place.row(connection) for place in self.fed.stays] != self.before


@dataclass(frozen=True, slots=True)
class Effect:
    """What became of a policy's rows: swept, so long after they were due; with a receipt if by retention."""

    case: Case
    seconds: float
    receipt: int | None = None

    @property
    def proven(self) -> bool:
        """Whether there is a receipt, if there has to be one."""
        return self.receipt is not None or not isinstance(self.case.policy, Retention)


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
            # The job history has rows enough.
            if name != "roomkeeper.runs":
                with self._engine.begin() as connection:
                    self._waiting.append(self._case(connection, policy))
        return len(self._waiting)

    def look(self) -> list[Effect]:
        """Return the effects that are there since the last look."""
        effects = []
        with self._engine.begin() as connection:
            for case in list(self._waiting):
                if case.swept(connection):
                    late = clock(connection) - case.fed.due_at
                    effects.append(Effect(case, late.total_seconds(), case.receipt(connection)))
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

    def verified(self) -> Verified:
        """Look through all receipts."""
        with self._engine.begin() as connection:
            return receipts.verify(connection)

    def _case(self, connection: Connection, policy: Sweep) -> Case:
        feed = Feed(connection, clock(connection), after(policy, self._settings) or timedelta(0))
        fed = FEEDS[policy.name](feed)
        last = connection.scalar(select(func.coalesce(func.max(Receipt.number), 0))) or 0
        return Case(policy, fed, [place.row(connection) for place in fed.stays], last)


# -- echoroom --------------------------------------------------------------------------------------------


def _typing(feed: Feed) -> Fed:
    def types(until: datetime) -> UUID:
        here = ada(feed, a_room(feed))
        return feed.add(echoroom.TypingIndicator, username="Ada", expires_at=until, **here)

    fed = pair(feed, "a user stops typing without sending", echoroom.TypingIndicator, types)
    # An indicator that expires in a day was written by a wrong clock, and goes after a minute.
    return replace(fed, stays_until=feed.now + timedelta(seconds=30))


def _ghosts(feed: Feed) -> Fed:
    room = a_room(feed)
    absent, there = ada(feed, room), ada(feed, room)
    ghost, quiet = (
        feed.add(echoroom.SessionParticipant, joined_at=feed.once, **one) for one in (absent, there)
    )
    voice = feed.add(echoroom.VoiceStatus, last_updated=feed.once, **absent)
    # Only listens, by what the row says; but has just written.
    feed.add(echoroom.ChatMessage, sender_name="Ada", content="Still here", created_at=feed.now, **there)
    return Fed(
        "a user closed their laptop",
        feed.soon,
        [
            is_changed(echoroom.SessionParticipant, ghost, is_active=False),
            is_gone(echoroom.VoiceStatus, voice),
        ],
        [Place(echoroom.SessionParticipant, quiet)],
    )


def _voice(feed: Feed) -> Fed:
    room = a_room(feed)
    absent, there = ada(feed, room), ada(feed, room)
    feed.add(echoroom.SessionParticipant, joined_at=feed.now, **there)
    stale, stays = (feed.add(echoroom.VoiceStatus, last_updated=feed.once, **one) for one in (absent, there))
    return Fed(
        "the voice of a user who is not in the room",
        feed.soon,
        [is_gone(echoroom.VoiceStatus, stale)],
        [Place(echoroom.VoiceStatus, stays)],
    )


def _speaking(feed: Feed) -> Fed:
    room = a_room(feed)
    stale, stays = (
        feed.add(echoroom.SessionParticipant, joined_at=joined, is_speaking=True, **ada(feed, room))
        for joined in (feed.once, feed.now)
    )
    return Fed(
        "a user was cut off while speaking",
        feed.soon,
        [is_changed(echoroom.SessionParticipant, stale, is_speaking=False)],
        [Place(echoroom.SessionParticipant, stays)],
    )


def _voice_speaking(feed: Feed) -> Fed:
    room = a_room(feed)

    def speaks(since: datetime) -> UUID:
        here = ada(feed, room)
        feed.add(echoroom.SessionParticipant, joined_at=feed.now, **here)
        return feed.add(echoroom.VoiceStatus, last_updated=since, is_speaking=True, **here)

    stale, stays = speaks(feed.once), speaks(feed.now)
    return Fed(
        "a voice that has been speaking for too long",
        feed.soon,
        [is_changed(echoroom.VoiceStatus, stale, is_speaking=False)],
        [Place(echoroom.VoiceStatus, stays)],
    )


def _counts(feed: Feed) -> Fed:
    drifted, right = a_room(feed, current_participants=7), a_room(feed)
    return Fed(
        "a room that counts seven people, and is empty",
        feed.now,
        [is_changed(echoroom.ChatSession, drifted, current_participants=0)],
        [Place(echoroom.ChatSession, right)],
    )


# -- openchat --------------------------------------------------------------------------------------------


def _openchat_sessions(feed: Feed) -> Fed:
    def session(until: datetime) -> UUID:
        return feed.add(openchat.Session, user_id=bea(feed), token=str(uuid4()), expires_at=utc(until))

    return pair(feed, "a session that expires", openchat.Session, session)


def _verifications(feed: Feed) -> Fed:
    def code(until: datetime) -> UUID:
        return feed.add(openchat.Verification, identifier="bea", value="123456", expires_at=utc(until))

    return pair(feed, "a code that was never typed in", openchat.Verification, code)


def _openchat_presence(feed: Feed) -> Fed:
    once = utc(feed.once)
    online = {"is_online": True, "status": "online", "last_seen_at": once, "updated_at": once}
    absent, there = bea(feed, **online), bea(feed, **online)
    talk, _ = a_talk(feed, there)
    feed.add(
        openchat.Message, conversation_id=talk, sender_id=there, content="Hello", created_at=utc(feed.now)
    )
    return Fed(
        "a user online whose server has crashed",
        feed.soon,
        [is_changed(openchat.User, absent, is_online=False, status="offline")],
        [Place(openchat.User, there)],
    )


def _mutes(feed: Feed) -> Fed:
    def muted(until: datetime) -> UUID:
        return a_talk(feed, bea(feed), is_muted=True, muted_until=utc(until))[1]

    return pair(
        feed, "a mute that ends", openchat.ConversationParticipant, muted, is_muted=False, muted_until=None
    )


def _attachments(feed: Feed) -> Fed:
    def file(until: datetime) -> UUID:
        user = bea(feed)
        talk, _ = a_talk(feed, user)
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
            expires_at=utc(until),
        )

    return pair(feed, "an attachment that expires", openchat.Attachment, file, is_deleted=True)


# -- connect ---------------------------------------------------------------------------------------------


def _connect_sessions(feed: Feed) -> Fed:
    def session(until: datetime) -> UUID:
        return feed.add(connect.UserSession, user_id=cleo(feed), expires_at=until)

    return pair(feed, "a session that expires", connect.UserSession, session)


def _connect_presence(feed: Feed) -> Fed:
    def socket(user: UUID, status: str) -> UUID:
        times = {"created_at": feed.once, "updated_at": feed.once, "expires_at": feed.later}
        return feed.add(connect.UserSession, user_id=user, socket_id=str(uuid4()), status=status, **times)

    talking = cleo(feed)
    a_call(feed, user1_id=talking, started_at=feed.now)
    dead, there = socket(cleo(feed), "queuing"), socket(talking, "in-call")
    return Fed(
        "a socket that died in the queue",
        feed.soon,
        [is_changed(connect.UserSession, dead, status="offline")],
        [Place(connect.UserSession, there)],
    )


def _video_requests(feed: Feed) -> Fed:
    def request(until: datetime) -> UUID:
        key, she, he = a_connection(feed)
        people = {"requester_user_id": he, "approver_user_id": she}
        return feed.add(connect.VideoRequest, connection_id=key, expires_at=until, **people)

    return pair(feed, "a request that was never answered", connect.VideoRequest, request, status="expired")


def _calls(feed: Feed) -> Fed:
    stale, stays = (a_call(feed, started_at=started) for started in (feed.once, feed.now))
    return Fed(
        "a call that never ended",
        feed.soon,
        [is_changed(connect.InteractionLog, stale, ended_at=feed.once + feed.period, outcome="timeout")],
        [Place(connect.InteractionLog, stays)],
    )


def _chat_rooms(feed: Feed) -> Fed:
    stale, stays = (
        feed.add(connect.ChatRoom, connection_id=a_connection(feed, is_active=active)[0], room_name="Tea")
        for active in (False, True)
    )
    return Fed(
        "the room of a connection that has ended",
        feed.now,
        [is_changed(connect.ChatRoom, stale, is_active=False)],
        [Place(connect.ChatRoom, stays)],
    )


# -- pern ------------------------------------------------------------------------------------------------


def _token(feed: Feed, user: UUID, until: datetime) -> UUID:
    return feed.add(
        pern.AuthSession,
        user_id=user,
        refresh_token_hash=os.urandom(8).hex(),
        device_info="a phone",
        ip_address="192.0.2.1",
        expires_at=until,
        created_at=feed.counted,
        updated_at=feed.now,
    )


def _pern_sessions(feed: Feed) -> Fed:
    def session(until: datetime) -> UUID:
        return _token(feed, dan(feed), until)

    return pair(feed, "a session that expires", pern.AuthSession, session)


def _keys(feed: Feed) -> Fed:
    def key(until: datetime) -> UUID:
        stamps = {"created_at": feed.now, "updated_at": feed.now}
        return feed.add(
            pern.UserPublicKey, user_id=dan(feed), public_key=os.urandom(8).hex(), expires_at=until, **stamps
        )

    return pair(feed, "a key that expires", pern.UserPublicKey, key, is_active=False)


def _pern_presence(feed: Feed) -> Fed:
    online = {"status": "online", "last_seen_at": feed.once, "updated_at": feed.once}
    absent, there = dan(feed, **online), dan(feed, **online)
    # Has just come back for a new token.
    _token(feed, there, feed.later)
    return Fed(
        "a user online whose phone has no network",
        feed.soon,
        [is_changed(pern.User, absent, status="offline")],
        [Place(pern.User, there)],
    )


# -- audiorooms ------------------------------------------------------------------------------------------


def _suspended(feed: Feed) -> Fed:
    over, paused = (a_studio(feed, suspended_until=until) for until in (feed.soon, feed.later))
    left, waits = (a_listener(feed, room, feed.now) for room in (over, paused))
    return Fed(
        "a suspended room that was never resumed, with a listener",
        feed.soon,
        [
            is_changed(audiorooms.AudioRoom, over, active=False),
            is_changed(audiorooms.RoomParticipant, left, left_at=feed.soon, connection_duration=1),
        ],
        [Place(audiorooms.AudioRoom, paused), Place(audiorooms.RoomParticipant, waits)],
    )


def _stays(feed: Feed) -> Fed:
    joined, closed = feed.now - timedelta(minutes=2), feed.now - timedelta(minutes=1)
    stale = a_listener(feed, a_studio(feed, active=False, updated_at=closed), joined)
    stays = a_listener(feed, a_studio(feed), joined)
    return Fed(
        "a listener in a room that was closed a minute ago",
        feed.now,
        [is_changed(audiorooms.RoomParticipant, stale, left_at=closed, connection_duration=60)],
        [Place(audiorooms.RoomParticipant, stays)],
    )


def _dead(feed: Feed) -> Fed:
    silent, alive = (a_studio(feed, created_at=feed.once, updated_at=feed.once) for _ in range(2))
    stale, stays = (a_listener(feed, room, feed.once) for room in (silent, alive))
    feed.add(audiorooms.AuditLog, event_type="room_joined", room_id=alive, created_at=feed.now)
    return Fed(
        "a listener in a room whose server has died",
        feed.soon,
        # Credited up to the last sign of life, which was their coming.
        [is_changed(audiorooms.RoomParticipant, stale, left_at=feed.once, connection_duration=0)],
        [Place(audiorooms.RoomParticipant, stays)],
    )


def _duplicates(feed: Feed) -> Fed:
    room, again = a_studio(feed), feed.now - timedelta(minutes=1)
    client = uuid4().hex
    stale, stays = (
        a_listener(feed, room, joined, client_id=client) for joined in (again - timedelta(minutes=1), again)
    )
    return Fed(
        "a listener who came back without having left",
        feed.now,
        [is_changed(audiorooms.RoomParticipant, stale, left_at=again, connection_duration=60)],
        [Place(audiorooms.RoomParticipant, stays)],
    )


def _backwards(feed: Feed) -> Fed:
    room, joined = a_studio(feed), feed.now - timedelta(minutes=1)
    stale, stays = (
        a_listener(feed, room, joined, left_at=left, connection_duration=None)
        for left in (joined - timedelta(seconds=10), feed.now)
    )
    return Fed(
        "a stay that ends before it begins",
        feed.now,
        [is_changed(audiorooms.RoomParticipant, stale, left_at=joined, connection_duration=0)],
        [Place(audiorooms.RoomParticipant, stays)],
    )


def _future_timestamps(feed: Feed) -> Fed:
    def note(expires_at: datetime) -> int:
        whose = {"policy": "openchat.presence", "key": uuid4(), "at": feed.later, "seen_at": feed.now}
        key: int = feed.put(FutureTimestamp, expires_at=expires_at, **whose)
        return key

    stale, stays = note(feed.soon), note(feed.later)
    deleted, kept = is_gone(FutureTimestamp, stale), Place(FutureTimestamp, stays)
    return Fed("a note of a sign of life from the future", feed.soon, [deleted], [kept])


def _observed_stays(feed: Feed) -> Fed:
    def stay(left: datetime) -> UUID:
        whose = {"room_id": uuid4(), "user_id": uuid4(), "joined_at": left, "seen_at": left}
        return feed.add(analytics.EchoroomStay, left_at=left, **whose)

    stale, stays = stay(feed.once), stay(feed.once + timedelta(days=1))
    model = analytics.EchoroomStay
    return Fed("an observed stay of long ago", feed.soon, [is_gone(model, stale)], [Place(model, stays)])


def _observed_speakers(feed: Feed) -> Fed:
    def speaker(hour: datetime) -> UUID:
        return feed.add(analytics.EchoroomSpeaker, room_id=uuid4(), user_id=uuid4(), hour=hour)

    stale, stays = speaker(feed.once), speaker(feed.once + timedelta(days=1))
    model = analytics.EchoroomSpeaker
    return Fed("a user who spoke long ago", feed.soon, [is_gone(model, stale)], [Place(model, stays)])


def _pern_facts(feed: Feed) -> Fed:
    def fact(at: datetime) -> UUID:
        return feed.add(analytics.PernFact, at=at, kind="person", key=uuid4(), batch=uuid4())

    return _facts(feed, analytics.PernFact, fact, "a message that was deleted early")


def _attachment_facts(feed: Feed) -> Fed:
    def fact(at: datetime) -> UUID:
        return feed.add(analytics.AttachmentFact, at=at, app="pern")

    return _facts(feed, analytics.AttachmentFact, fact, "a file that was deleted early")


def _facts(feed: Feed, model: Any, fact: Callable[[datetime], UUID], of: str) -> Fed:
    stale, stays = fact(feed.once), fact(feed.once + timedelta(days=1))
    return Fed(f"a fact of {of}", feed.soon, [is_gone(model, stale)], [Place(model, stays)])


#: What is fed for each policy.
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
    "roomkeeper.future_timestamps": _future_timestamps,
    "roomkeeper.echoroom_stays": _observed_stays,
    "roomkeeper.echoroom_speakers": _observed_speakers,
    "roomkeeper.pern_facts": _pern_facts,
    "roomkeeper.attachment_facts": _attachment_facts,
    **AGED,
}
