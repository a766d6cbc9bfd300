"""Examples of `echoroom`'s policies."""

from datetime import timedelta
from typing import Any

from models.echoroom import (
    ChatMessage,
    ChatSession,
    MessageReaction,
    SessionParticipant,
    TypingIndicator,
    User,
    VoiceStatus,
)
from tests.contract.example import AT, NEW, STAMP, Case, Example, Of, Row, changes, goes
from tests.contract.scenario import LONG_AGO
from tests.sweeps.sweeping import NOW, ago


def _in_the_room(model: Any, of: Any = SessionParticipant, **values: Any) -> Row:
    """Return a row of the same person in the same room."""
    here = {model.session_id: Of(of.session_id), model.user_id: Of(of.user_id)}
    return Row(model=model, values=here | {getattr(model, name): value for name, value in values.items()})


def _last_active(at: Any) -> Row:
    return Row(model=User, values={User.last_active: at})


#: Where a participant gives signs of life; each is enough.
_SIGNS = (
    SessionParticipant.joined_at,
    Case(values={SessionParticipant.user_id: _last_active(AT)}),
    Case(beside=(_in_the_room(ChatMessage, created_at=AT),)),
    Case(beside=(_in_the_room(TypingIndicator, started_at=AT),)),
)
_PARTICIPANT = {
    SessionParticipant.session_id: NEW,
    SessionParticipant.user_id: NEW,
    SessionParticipant.is_speaking: True,
    SessionParticipant.is_muted: True,
}
_VOICE = {VoiceStatus.session_id: NEW, VoiceStatus.user_id: NEW}
_ELSEWHERE = (
    Row(
        model=ChatMessage,
        values={
            ChatMessage.session_id: NEW,
            ChatMessage.user_id: Of(SessionParticipant.user_id),
            ChatMessage.created_at: NOW,
        },
    ),
)


def _goes_with_voice(at: Any) -> Row:
    row = _in_the_room(VoiceStatus, last_updated=at)
    return Row(model=row.model, values=row.values, deleted=True)


def _sign(by: Any, **values: Any) -> Case:
    """Return a user who has left a row that goes with them."""
    return Case(
        beside=(goes(by, {getattr(by.class_, name): value for name, value in values.items()}),),
    )


EXAMPLES = (
    Example(
        policy="echoroom.typing",
        row={TypingIndicator.expires_at: ago(days=1)},
        limits=(
            Case(values={TypingIndicator.expires_at: AT}, period=timedelta(0)),
            Case(values={TypingIndicator.expires_at: None, TypingIndicator.started_at: AT}),
        ),
        null_due=(TypingIndicator.expires_at, TypingIndicator.started_at),
        due=({TypingIndicator.expires_at: None, TypingIndicator.started_at: None},),
    ),
    Example(
        policy="echoroom.ghosts",
        row=_PARTICIPANT,
        limits=(*_SIGNS, Case(beside=(_goes_with_voice(AT),))),
        null_due=(
            SessionParticipant.joined_at,
            SessionParticipant.session_id,
            SessionParticipant.user_id,
        ),
        null_stays=(SessionParticipant.is_active,),
        due=(
            Case(values={SessionParticipant.user_id: _last_active(None)}),
            Case(beside=_ELSEWHERE),
            Case(beside=(_goes_with_voice(None),)),
        ),
        stays=({SessionParticipant.is_active: False},),
        becomes={
            SessionParticipant.is_active: False,
            SessionParticipant.left_at: NOW,
            SessionParticipant.is_speaking: False,
            SessionParticipant.is_muted: False,
            ChatSession.current_participants: 0,
            ChatSession.updated_at: STAMP,
        },
        # Another user keeps speaking.
        related=(
            Row(
                model=VoiceStatus,
                values={
                    VoiceStatus.session_id: Of(SessionParticipant.session_id),
                    VoiceStatus.user_id: NEW,
                },
            ),
        ),
    ),
    Example(
        policy="echoroom.voice",
        row=_VOICE,
        limits=(VoiceStatus.last_updated,),
        null_due=(VoiceStatus.last_updated, VoiceStatus.session_id, VoiceStatus.user_id),
        due=tuple(
            Case(beside=(_in_the_room(SessionParticipant, VoiceStatus, is_active=active),))
            for active in (False, None)
        ),
        stays=(Case(beside=(_in_the_room(SessionParticipant, VoiceStatus),)),),
    ),
    Example(
        policy="echoroom.speaking",
        row=_PARTICIPANT,
        limits=(*_SIGNS, Case(beside=(_in_the_room(VoiceStatus, last_updated=AT),))),
        null_due=(
            SessionParticipant.joined_at,
            SessionParticipant.session_id,
            SessionParticipant.user_id,
            SessionParticipant.is_active,
        ),
        null_stays=(SessionParticipant.is_speaking,),
        due=({SessionParticipant.is_active: False, SessionParticipant.joined_at: NOW},),
        stays=({SessionParticipant.is_speaking: False},),
        becomes={SessionParticipant.is_speaking: False},
    ),
    Example(
        policy="echoroom.voice_speaking",
        row={**_VOICE, VoiceStatus.is_speaking: True},
        limits=(VoiceStatus.last_updated,),
        null_due=(VoiceStatus.last_updated,),
        null_stays=(VoiceStatus.is_speaking,),
        stays=({VoiceStatus.is_speaking: False},),
        becomes={VoiceStatus.is_speaking: False},
    ),
    Example(
        policy="echoroom.counts",
        row={ChatSession.current_participants: 3},
        null_due=(ChatSession.current_participants,),
        due=(
            {ChatSession.current_participants: -1},
            # The trigger has counted this one.
            Case(
                values={ChatSession.current_participants: 7},
                beside=(
                    Row(
                        model=SessionParticipant,
                        by=SessionParticipant.session_id,
                        values={SessionParticipant.user_id: NEW},
                    ),
                    Row(
                        model=SessionParticipant,
                        by=SessionParticipant.session_id,
                        values={SessionParticipant.user_id: NEW, SessionParticipant.is_active: False},
                    ),
                ),
                becomes={ChatSession.current_participants: 1},
            ),
        ),
        stays=(
            {ChatSession.current_participants: 0},
            Case(
                values={ChatSession.current_participants: 0},
                beside=(
                    Row(
                        model=SessionParticipant,
                        by=SessionParticipant.session_id,
                        values={SessionParticipant.user_id: NEW},
                    ),
                ),
            ),
        ),
        becomes={ChatSession.current_participants: 0, ChatSession.updated_at: STAMP},
    ),
    Example(
        policy="echoroom.messages",
        row={ChatMessage.user_id: NEW, ChatMessage.session_id: NEW},
        limits=(ChatMessage.created_at,),
        null_stays=(ChatMessage.created_at,),
        null_due=(ChatMessage.user_id, ChatMessage.session_id),
        related=(
            goes(MessageReaction.message_id, {MessageReaction.user_id: NEW}),
            changes(
                ChatMessage.reply_to, {ChatMessage.updated_at: STAMP}, values={ChatMessage.created_at: NOW}
            ),
        ),
        held={
            "user": (ChatMessage.user_id, MessageReaction.user_id),
            "room": (ChatMessage.session_id,),
        },
    ),
    Example(
        policy="echoroom.anonymous_users",
        row={User.is_anonymous: True, User.last_active: LONG_AGO},
        limits=(
            User.last_active,
            User.created_at,
            User.updated_at,
            _sign(SessionParticipant.user_id, joined_at=AT, is_active=False),
            _sign(SessionParticipant.user_id, left_at=AT, is_active=False),
            _sign(MessageReaction.user_id, created_at=AT),
            _sign(TypingIndicator.user_id, started_at=AT),
            _sign(VoiceStatus.user_id, last_updated=AT),
            *(
                Case(
                    beside=(
                        changes(
                            ChatMessage.user_id,
                            {ChatMessage.sender_name: "Deleted user", ChatMessage.updated_at: STAMP},
                            values={at: AT},
                        ),
                    )
                )
                for at in (ChatMessage.created_at, ChatMessage.edited_at)
            ),
        ),
        null_due=(User.last_active, User.created_at, User.updated_at),
        null_stays=(User.is_anonymous,),
        stays=(
            {User.is_anonymous: False},
            {User.last_active: None, User.created_at: None, User.updated_at: None},
            _sign(SessionParticipant.user_id, is_active=True),
        ),
        related=(
            goes(
                SessionParticipant.user_id,
                {SessionParticipant.session_id: NEW, SessionParticipant.is_active: False},
            ),
            goes(MessageReaction.user_id),
            goes(TypingIndicator.user_id, {TypingIndicator.session_id: NEW}),
            goes(VoiceStatus.user_id, {VoiceStatus.session_id: NEW}),
            changes(
                ChatMessage.user_id,
                {ChatMessage.sender_name: "Deleted user", ChatMessage.updated_at: STAMP},
                values={ChatMessage.session_id: NEW},
            ),
        ),
        held={
            "user": (
                User.id,
                SessionParticipant.user_id,
                MessageReaction.user_id,
                TypingIndicator.user_id,
                VoiceStatus.user_id,
            ),
            "room": (
                SessionParticipant.session_id,
                TypingIndicator.session_id,
                VoiceStatus.session_id,
                ChatMessage.session_id,
            ),
        },
    ),
)
