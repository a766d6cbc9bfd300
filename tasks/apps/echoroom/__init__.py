"""`echoroom`: mood-based voice rooms."""

from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, DateTime, and_, case, exists, func, or_, select, tuple_
from sqlalchemy.orm import aliased

from models import echoroom
from models.echoroom import (
    ChatMessage,
    ChatSession,
    MessageReaction,
    SessionParticipant,
    TypingIndicator,
    User,
    VoiceStatus,
)
from tasks.apps.echoroom.rollups import ROLLUPS
from tasks.policies.app import App
from tasks.policies.retention import Cascade, Owners, Retention, SetValues
from tasks.policies.sweep import AFTER, NOW, Delete, Event, Related, Sweep, Update, ahead, recent

#: Where a participant gives signs of life in their room, and when.
_SIGNS: tuple[tuple[Any, Any], ...] = (
    (VoiceStatus, VoiceStatus.last_updated),
    (TypingIndicator, TypingIndicator.started_at),
    (ChatMessage, ChatMessage.created_at),
)


def _in_the_room(model: Any) -> ColumnElement[bool]:
    return and_(
        model.session_id == SessionParticipant.session_id, model.user_id == SessionParticipant.user_id
    )


def _alive() -> ColumnElement[bool]:
    """Return whether a participant has given a sign of life since NOW - AFTER.

    `last_active` is hardly ever written by the application: who talks is there, whatever it says.
    """
    return or_(
        func.coalesce(recent(SessionParticipant.joined_at), False),
        exists().where(User.id == SessionParticipant.user_id, recent(User.last_active)),
        *(exists().where(_in_the_room(model), recent(at)) for model, at in _SIGNS),
    )


def _ahead() -> ColumnElement[Any]:
    """Return the latest sign of life of a participant that lies ahead."""

    def latest(at: Any, own_rows: ColumnElement[bool]) -> ColumnElement[Any]:
        found = select(func.max(at)).where(own_rows, at > NOW).correlate(SessionParticipant)
        return found.scalar_subquery()

    return func.greatest(
        ahead(SessionParticipant.joined_at),
        latest(User.last_active, User.id == SessionParticipant.user_id),
        *(latest(at, _in_the_room(model)) for model, at in _SIGNS),
    )


_THERE = (
    select(SessionParticipant.id)
    .where(
        SessionParticipant.session_id == VoiceStatus.session_id,
        SessionParticipant.user_id == VoiceStatus.user_id,
        SessionParticipant.is_active.is_(True),
    )
    .exists()
)
_ACTIVE = and_(SessionParticipant.is_active.is_(True), SessionParticipant.session_id.is_not(None))
# Each list is made once, however many rooms there are: a count for each room would read all who were ever
# in it.
_DRIFTED = or_(
    ChatSession.current_participants.is_(None),
    and_(
        ChatSession.current_participants == 0,
        ChatSession.id.in_(select(SessionParticipant.session_id).where(_ACTIVE)),
    ),
    and_(
        ChatSession.current_participants != 0,
        tuple_(ChatSession.id, ChatSession.current_participants).not_in(
            select(SessionParticipant.session_id, func.count())
            .where(_ACTIVE)
            .group_by(SessionParticipant.session_id)
        ),
    ),
)
_COUNT = (
    select(func.count())
    .where(SessionParticipant.session_id == ChatSession.id, SessionParticipant.is_active.is_(True))
    .correlate(ChatSession)
    .scalar_subquery()
)


def _person_alive() -> ColumnElement[bool]:
    """Return whether a person has given a sign of life since NOW - AFTER, or sits in a room.

    NULL is no sign, as for ghosts: the application hardly ever writes `last_active`, and need not say when.
    """
    since = NOW - AFTER

    def seen(model: Any, *signs: ColumnElement[bool]) -> ColumnElement[bool]:
        return exists().where(model.user_id == User.id, or_(*signs))

    return or_(
        seen(
            SessionParticipant,
            SessionParticipant.is_active.is_(True),
            SessionParticipant.joined_at >= since,
            SessionParticipant.left_at >= since,
        ),
        seen(ChatMessage, ChatMessage.created_at >= since, ChatMessage.edited_at >= since),
        seen(MessageReaction, MessageReaction.created_at >= since),
        seen(VoiceStatus, VoiceStatus.last_updated >= since),
        seen(TypingIndicator, TypingIndicator.started_at >= since),
    )


_of = aliased(ChatMessage)
_ROOM_OF_A_REACTION = (
    select(_of.session_id)
    .where(_of.id == MessageReaction.message_id)
    .correlate(MessageReaction)
    .scalar_subquery()
)
_OWNERS: Owners = {
    ChatMessage: {"user": (ChatMessage.user_id,), "room": (ChatMessage.session_id,)},
    MessageReaction: {"user": (MessageReaction.user_id,), "room": (_ROOM_OF_A_REACTION,)},
    User: {"user": (User.id,)},
    SessionParticipant: {"user": (SessionParticipant.user_id,), "room": (SessionParticipant.session_id,)},
    TypingIndicator: {"user": (TypingIndicator.user_id,), "room": (TypingIndicator.session_id,)},
    VoiceStatus: {"user": (VoiceStatus.user_id,), "room": (VoiceStatus.session_id,)},
}

ECHOROOM = App(
    name="echoroom",
    about="mood-based voice rooms",
    document="echoroom.md",
    models=echoroom,
    cleanup=(
        Sweep(
            name="echoroom.typing",
            model=TypingIndicator,
            rule="typing indicators past expires_at are deleted; one without it, or further ahead, lives "
            "{after}",
            why="An indicator must not stay for ever (echoroom.md, Cleanup Functions); the documented "
            "function keeps those without an expiry. One that expires in hours was written by a wrong clock.",
            due=or_(
                TypingIndicator.expires_at < NOW,
                TypingIndicator.expires_at > NOW + AFTER,
                and_(
                    TypingIndicator.expires_at.is_(None),
                    recent(TypingIndicator.started_at).is_not(True),
                ),
            ),
            action=Delete(),
            every=timedelta(seconds=5),
            # The default of the table.
            after=timedelta(seconds=10),
            ahead=case(
                (TypingIndicator.expires_at.is_(None), ahead(TypingIndicator.started_at)),
                (TypingIndicator.expires_at > NOW + AFTER, TypingIndicator.expires_at),
            ),
            event=Event(
                name="typing-stop",
                room=TypingIndicator.session_id,
                data={"user_id": TypingIndicator.user_id},
            ),
        ),
        Sweep(
            name="echoroom.ghosts",
            model=SessionParticipant,
            rule="participants without any sign of life for {after} leave, with their voice status",
            why="People who went without a word (echoroom.md, Cleanup Functions). A message, speaking, "
            "typing and joining are signs of life too: the application hardly ever writes last_active.",
            due=and_(SessionParticipant.is_active.is_(True), ~_alive()),
            action=Update(
                {
                    SessionParticipant.is_active: False,
                    SessionParticipant.left_at: NOW,
                    SessionParticipant.is_speaking: False,
                    SessionParticipant.is_muted: False,
                }
            ),
            every=timedelta(minutes=1),
            after=timedelta(minutes=30),
            ahead=_ahead(),
            # The trigger counts them out of their room.
            lock_first=SessionParticipant.session_id,
            related=(
                Related(
                    model=VoiceStatus,
                    of=and_(
                        VoiceStatus.session_id == SessionParticipant.session_id,
                        VoiceStatus.user_id == SessionParticipant.user_id,
                    ),
                    action=Delete(),
                ),
            ),
            event=Event(
                name="user-left",
                room=SessionParticipant.session_id,
                data={"user_id": SessionParticipant.user_id},
            ),
        ),
        Sweep(
            name="echoroom.voice",
            model=VoiceStatus,
            rule="voice status of people who are not in the room is deleted when it is older than {after}",
            why="The documented function leaves it behind (echoroom.md, Cleanup Functions). A young one may "
            "be of a user who is just joining.",
            due=and_(recent(VoiceStatus.last_updated).is_not(True), ~_THERE),
            action=Delete(),
            every=timedelta(minutes=1),
            after=timedelta(minutes=1),
            ahead=ahead(VoiceStatus.last_updated),
            # The only indexes are by room and by person.
            full_pass_every=timedelta(minutes=10),
        ),
        Sweep(
            name="echoroom.speaking",
            model=SessionParticipant,
            rule="participants who are not there, or without any sign of life for {after}, do not speak",
            why="A crash leaves is_speaking on (echoroom.md, session_participants).",
            due=and_(
                SessionParticipant.is_speaking.is_(True),
                or_(SessionParticipant.is_active.is_not(True), ~_alive()),
            ),
            action=Update({SessionParticipant.is_speaking: False}),
            every=timedelta(minutes=1),
            after=timedelta(minutes=10),
            ahead=case((SessionParticipant.is_active.is_(True), _ahead())),
            indexed=and_(SessionParticipant.is_active.is_(True), SessionParticipant.is_speaking.is_(True)),
            full_pass_every=timedelta(minutes=10),
            event=Event(
                name="voice-status",
                room=SessionParticipant.session_id,
                data={
                    "user_id": SessionParticipant.user_id,
                    "isSpeaking": False,
                    "isMuted": SessionParticipant.is_muted,
                },
            ),
        ),
        Sweep(
            name="echoroom.voice_speaking",
            model=VoiceStatus,
            rule="voice status that says speaking and was not updated for {after} says so no more",
            why="A crash leaves is_speaking on (echoroom.md, voice_status).",
            due=and_(VoiceStatus.is_speaking.is_(True), recent(VoiceStatus.last_updated).is_not(True)),
            # `last_updated` stays: it is a sign of life of the person, not of ours.
            action=Update({VoiceStatus.is_speaking: False}),
            every=timedelta(minutes=1),
            after=timedelta(minutes=10),
            ahead=ahead(VoiceStatus.last_updated),
            full_pass_every=timedelta(minutes=10),
            event=Event(
                name="voice-status",
                room=VoiceStatus.session_id,
                data={
                    "user_id": VoiceStatus.user_id,
                    "isSpeaking": False,
                    "isMuted": VoiceStatus.is_muted,
                },
            ),
        ),
        Sweep(
            name="echoroom.counts",
            model=ChatSession,
            rule="current_participants is set to the number of active participants where it is another",
            why="The trigger only adds and subtracts (echoroom.md, Participant Count Management): it goes "
            "below zero, above the maximum, and wrong where a row changes its room.",
            due=_DRIFTED,
            action=Update({ChatSession.current_participants: _COUNT}),
            every=timedelta(minutes=1),
            # Any room may have drifted, whatever an index knows of it.
            full_pass_every=timedelta(minutes=10),
            event=Event(
                name="participant-count",
                room=ChatSession.id,
                data={"session_id": ChatSession.id, "count": ChatSession.current_participants},
            ),
        ),
    ),
    retention=(
        Retention(
            name="echoroom.messages",
            model=ChatMessage,
            rule="messages older than {after} go with their reactions; replies to them stay",
            why="What is said in passing is not kept for ever (echoroom.md, chat_messages): no period is "
            "documented. One without created_at stays.",
            age=ChatMessage.created_at,
            refers=(
                Cascade(MessageReaction.message_id, "CASCADE: a reaction says nothing without its message"),
                SetValues(ChatMessage.reply_to, "SET NULL: who has replied keeps what they wrote"),
            ),
            owners=_OWNERS,
            # Their indexes begin with the room.
            full_pass_every=timedelta(days=1),
        ),
        Retention(
            name="echoroom.anonymous_users",
            model=User,
            rule="anonymous users without any sign of life for {after} go, with what names them; their "
            "messages stay without their name",
            why="Names that were made up for an evening (echoroom.md, users). A message, a reaction, "
            "joining, speaking and typing are signs of life too: the application hardly ever writes "
            "last_active.",
            # A user whose row changes is there as well; NULL is ignored, and a user without any time stays.
            age=func.greatest(
                User.last_active, User.created_at, User.updated_at, type_=DateTime(timezone=True)
            ),
            where=and_(User.is_anonymous.is_(True), ~_person_alive()),
            refers=(
                Cascade(SessionParticipant.user_id, "CASCADE: who was in a room, and is in none now"),
                Cascade(MessageReaction.user_id, "CASCADE: a reaction belongs to its user"),
                Cascade(TypingIndicator.user_id, "CASCADE: holds their name"),
                Cascade(VoiceStatus.user_id, "CASCADE: the speaker is gone"),
                SetValues(
                    ChatMessage.user_id,
                    "SET NULL: what was said is a part of the talk; the key would leave their name there",
                    values={ChatMessage.user_id: None, ChatMessage.sender_name: "Deleted user"},
                ),
            ),
            owners=_OWNERS,
            indexed=User.last_active < NOW - AFTER,
            # NULL last_active, too.
            full_pass_every=timedelta(days=1),
        ),
    ),
    rollups=ROLLUPS,
    entities={"user": User, "room": ChatSession},
    untouched={},
)
