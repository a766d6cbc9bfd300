"""What the local stack feeds for rollups: what has gone on in the last days, and what goes on right now.

Each thing is made of the rows that an application's service would have left behind; one of it adds one to a
column of its rollups, in the bucket of its moment.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from itertools import count, cycle
from uuid import UUID

from models import audiorooms, connect, echoroom, openchat, pern
from models.analytics import (
    AttachmentsDaily,
    ConnectCallsDaily,
    ConnectDaily,
    EchoroomDaily,
    EchoroomHourly,
    OpenchatDaily,
    OpenchatMessagesDaily,
    PernDaily,
    PernSecurityDaily,
    PernSessionsDaily,
)
from stack.demo.rows import (
    DAYS,
    Feed,
    a_call,
    a_connection,
    a_listener,
    a_room,
    a_studio,
    a_talk,
    ada,
    bea,
    cleo,
    dan,
    utc,
)
from tasks.policies.columns import Column

#: How many things go on right now.
LIVE = 3
_MINUTE = timedelta(minutes=1)


@dataclass(frozen=True)
class Cast:
    """People and places, made when they are needed, that take turns."""

    feed: Feed
    _numbers: Iterator[int]

    @property
    def number(self) -> int:
        """Another number at each look, so that no two things are quite alike."""
        return next(self._numbers)

    @cached_property
    def rooms(self) -> Iterator[UUID]:
        """Rooms of `echoroom`."""
        return cycle([a_room(self.feed) for _ in range(3)])

    @cached_property
    def talks(self) -> Iterator[tuple[UUID, UUID]]:
        """Conversations of `openchat`, each with a member."""
        people = [bea(self.feed) for _ in range(7)]
        return cycle([(a_talk(self.feed, user)[0], user) for user in people])

    @cached_property
    def callers(self) -> Iterator[tuple[UUID, UUID]]:
        """Pairs of `connect`."""
        return cycle([(cleo(self.feed), cleo(self.feed, "male")) for _ in range(6)])

    @cached_property
    def ties(self) -> Iterator[tuple[UUID, UUID, UUID, UUID]]:
        """Connections of `connect`, each with its chat room and its two users."""
        made = [a_connection(self.feed) for _ in range(3)]
        return cycle(
            [
                (key, self.feed.add(connect.ChatRoom, connection_id=key, room_name="Tea"), she, he)
                for key, she, he in made
            ]
        )

    @cached_property
    def people(self) -> Iterator[UUID]:
        """People of `pern`."""
        return cycle([dan(self.feed) for _ in range(9)])

    @cached_property
    def secrets(self) -> Iterator[UUID]:
        """Conversations of `pern`."""
        stamps = {"created_at": self.feed.now, "updated_at": self.feed.now}
        made = [
            self.feed.add(pern.Conversation, created_by=next(self.people), settings={}, **stamps)
            for _ in range(4)
        ]
        return cycle(made)

    @cached_property
    def studios(self) -> Iterator[UUID]:
        """Rooms of `audiorooms`."""
        return cycle([a_studio(self.feed) for _ in range(3)])


def cast(feed: Feed) -> Cast:
    """Return people and places that this feed makes."""
    return Cast(feed, count())


#: Feeds one thing that went on at a moment; if `live`, people are there still.
Thing = Callable[[Cast, datetime, bool], None]


@dataclass(frozen=True, slots=True)
class History:
    """What is fed for a rollup.

    Attributes:
        column: the column of its target to which each thing adds one.
        thing: None where the files that are fed are what it counts.
        many: what they are called.
    """

    column: Column
    thing: Thing | None
    many: str


def _says(cast: Cast, at: datetime, live: bool) -> None:
    feed, number = cast.feed, cast.number
    here = ada(feed, next(cast.rooms))
    left = None if live else at + (5 + number % 20) * _MINUTE
    joined = at - (2 + number % 9) * _MINUTE
    feed.add(echoroom.SessionParticipant, joined_at=joined, left_at=left, is_active=live, **here)
    if live:
        feed.add(echoroom.VoiceStatus, is_speaking=True, last_updated=feed.now, **here)
    kind = ("text", "text", "text", "ai-prompt", "mood-check", "text", "system")[number % 7]
    columns = {"sender_name": "Ada", "content": "Listen to the rain", "message_type": kind, "created_at": at}
    message = feed.add(echoroom.ChatMessage, **columns, **here)
    if number % 3 == 0:
        values = {"message_id": message, "user_id": here["user_id"], "emoji": "🌧"}
        feed.add(echoroom.MessageReaction, created_at=at, **values)


def _writes(cast: Cast, at: datetime, _live: bool) -> None:
    talk, user = next(cast.talks)
    number = cast.number
    kind = ("text", "text", "image", "text", "file", "text", "audio", "code")[number % 8]
    delivered = at + timedelta(milliseconds=200 + number % 13 * 150)
    cast.feed.add(
        openchat.Message,
        conversation_id=talk,
        sender_id=user,
        content="See you there",
        content_type=kind,
        created_at=utc(at),
        updated_at=utc(at),
        delivered_at=utc(delivered),
    )


def _calls(cast: Cast, at: datetime, live: bool) -> None:
    she, he = next(cast.callers)
    number = cast.number
    outcome = ("female_connected", "both_left", "no_action", "female_connected", "timeout")[number % 5]
    a_call(
        cast.feed,
        user1_id=she,
        user2_id=he,
        female_user_id=she,
        interaction_type="video_call" if number % 3 == 0 else "voice_call",
        started_at=at,
        ended_at=None if live else at + (1 + number % 12) * _MINUTE,
        outcome=None if live else outcome,
    )


def _chats(cast: Cast, at: datetime, live: bool) -> None:
    key, room, she, he = next(cast.ties)
    number = cast.number
    sender = she if number % 2 else he
    cast.feed.add(
        connect.Message, chat_room_id=room, sender_user_id=sender, content="Hello again", created_at=at
    )
    if number % 4 == 0:
        answer = ("approved", "rejected", "approved", "expired")[number // 4 % 4]
        cast.feed.add(
            connect.VideoRequest,
            connection_id=key,
            requester_user_id=he,
            approver_user_id=she,
            status="pending" if live else answer,
            requested_at=at,
            expires_at=at + timedelta(days=1),
        )


def _sends(cast: Cast, at: datetime, live: bool) -> None:
    feed, number = cast.feed, cast.number
    stamps = {"created_at": at, "updated_at": at}
    message = feed.add(
        pern.Message,
        conversation_id=next(cast.secrets),
        sender_id=next(cast.people),
        content_encrypted=os.urandom(8).hex(),
        **stamps,
    )
    delivered = at + timedelta(milliseconds=150 + number % 17 * 90)
    read = None if live or number % 3 == 0 else delivered + (1 + number % 7) * _MINUTE
    feed.add(
        pern.MessageStatus,
        message_id=message,
        user_id=next(cast.people),
        status="delivered" if read is None else "read",
        delivered_at=delivered,
        read_at=read,
        **stamps,
    )


def _signs_in(cast: Cast, at: datetime, _live: bool) -> None:
    cast.feed.add(
        pern.AuthSession,
        user_id=next(cast.people),
        refresh_token_hash=os.urandom(8).hex(),
        device_info="a phone",
        ip_address="192.0.2.1",
        expires_at=cast.feed.later + timedelta(days=30),
        created_at=at,
        updated_at=at,
    )


def _is_noted(cast: Cast, at: datetime, _live: bool) -> None:
    severity = ("info", "info", "warning", "info", "security", "info", "error")[cast.number % 7]
    cast.feed.add(
        pern.AuditLog,
        user_id=next(cast.people),
        action="login",
        resource_type="user",
        severity=severity,
        ip_address="192.0.2.1",
        user_agent="a phone",
        created_at=at,
    )


def _listens(cast: Cast, at: datetime, live: bool) -> None:
    left = None if live else at + (10 + cast.number % 50) * _MINUTE
    a_listener(cast.feed, next(cast.studios), at, left_at=left)


#: What is fed for each rollup.
HISTORIES: dict[str, History] = {
    "echoroom.hourly": History(EchoroomHourly.messages, _says, "messages"),
    "echoroom.daily": History(EchoroomDaily.messages, _says, "messages"),
    "openchat.messages_daily": History(OpenchatMessagesDaily.messages, _writes, "messages"),
    "openchat.daily": History(OpenchatDaily.messages, _writes, "messages"),
    "connect.calls_daily": History(ConnectCallsDaily.calls, _calls, "calls"),
    "connect.daily": History(ConnectDaily.messages, _chats, "messages"),
    "pern.daily": History(PernDaily.messages, _sends, "messages"),
    "pern.sessions_daily": History(PernSessionsDaily.sessions, _signs_in, "sessions"),
    "pern.security_daily": History(PernSecurityDaily.events, _is_noted, "entries of the audit log"),
    "audiorooms.room_analytics": History(audiorooms.RoomAnalytics.total_listeners, _listens, "listeners"),
    "roomkeeper.attachments_daily": History(AttachmentsDaily.attachments, None, "files"),
}


def past(today: datetime) -> list[datetime]:
    """Return moments of the days before the one that begins at `today`: more on some than on others."""
    moments = []
    for back in range(DAYS, 0, -1):
        day = today - timedelta(days=back)
        number = 4 + back * 7 % 5 + (4 if day.weekday() >= 4 else 0)
        # From nine to ten, when people are up.
        moments += [day + timedelta(minutes=540 + (one * 780 + back * 37) // number) for one in range(number)]
    return moments
