"""Examples of `pern`'s policies."""

from datetime import timedelta
from typing import Any

from models.pern import (
    Attachment,
    AuditLog,
    AuthSession,
    Conversation,
    ConversationParticipant,
    Message,
    MessageStatus,
    User,
    UserPublicKey,
)
from tests.contract.example import AT, NEW, Case, Example, Of, Row, changes, goes
from tests.sweeps.sweeping import NOW, ago

_WITHOUT = timedelta(0)
_SEVERITIES = ("info", "warning", "error", "critical", "security")


def _limited(days: Any) -> Row:
    return Row(model=Conversation, values={Conversation.settings: {"message_retention_days": days}})


def _written(**membership: Any) -> tuple[Row, ...]:
    member = {getattr(ConversationParticipant, name): value for name, value in membership.items()}
    return (
        Row(model=ConversationParticipant, by=ConversationParticipant.user_id, values=member),
        Row(
            model=Message,
            values={
                Message.conversation_id: Of(ConversationParticipant.conversation_id),
                Message.sender_id: Of(ConversationParticipant.user_id),
                Message.created_at: AT if not membership else NOW,
            },
        ),
    )


_WITH_A_MESSAGE = (
    goes(MessageStatus.message_id),
    goes(Attachment.message_id),
    changes(Message.reply_to_id, values={Message.created_at: NOW}),
)
_HELD_MESSAGE = {
    "user": (Message.sender_id, MessageStatus.user_id),
    "conversation": (Message.conversation_id,),
}

EXAMPLES = (
    Example(
        policy="pern.sessions",
        limits=(
            Case(values={AuthSession.expires_at: AT}, period=_WITHOUT),
            Case(values={AuthSession.revoked_at: AT, AuthSession.expires_at: NOW + timedelta(days=1)}),
        ),
        null_due=(AuthSession.revoked_at,),
        due=({AuthSession.revoked_at: NOW},),
        stays=({AuthSession.revoked_at: None, AuthSession.expires_at: NOW + timedelta(days=1)},),
    ),
    Example(
        policy="pern.keys",
        row={UserPublicKey.expires_at: ago(days=1000)},
        limits=(UserPublicKey.expires_at,),
        null_stays=(UserPublicKey.expires_at,),
        due=(
            {UserPublicKey.expires_at: ago(days=1)},
            {UserPublicKey.expires_at: ago(days=1), UserPublicKey.key_type: "signing"},
        ),
        stays=({UserPublicKey.is_active: False},),
        becomes={UserPublicKey.is_active: False, UserPublicKey.updated_at: NOW},
    ),
    Example(
        policy="pern.presence",
        row={User.status: "online", User.last_seen_at: ago(days=1)},
        limits=(
            User.updated_at,
            User.last_seen_at,
            Case(
                beside=(Row(model=AuthSession, by=AuthSession.user_id, values={AuthSession.updated_at: AT}),)
            ),
            Case(beside=_written()),
        ),
        null_due=(User.last_seen_at,),
        null_stays=(User.status,),
        due=({User.status: "away"}, Case(beside=_written(is_active=False))),
        stays=({User.status: "offline"},),
        becomes={User.status: "offline", User.updated_at: NOW},
    ),
    Example(
        policy="pern.messages_by_conversation",
        row={Message.conversation_id: _limited(7)},
        period=timedelta(days=7),
        limits=(Message.created_at,),
        stays=tuple({Message.conversation_id: _limited(days)} for days in (None, 0, 1.5, "7", True)),
        related=_WITH_A_MESSAGE,
        held=_HELD_MESSAGE,
    ),
    Example(
        policy="pern.messages",
        limits=(Message.created_at,),
        due=(
            {Message.is_deleted: True},
            {Message.conversation_id: _limited(0)},
            {Message.conversation_id: _limited("7")},
        ),
        stays=({Message.conversation_id: _limited(7)},),
        related=_WITH_A_MESSAGE,
        held=_HELD_MESSAGE,
    ),
    *(
        Example(
            policy=f"pern.audit_{severity}",
            row={AuditLog.severity: severity, AuditLog.user_id: NEW, AuditLog.resource_id: NEW},
            limits=(AuditLog.created_at,),
            null_due=(AuditLog.user_id, AuditLog.resource_id),
            stays=tuple({AuditLog.severity: other} for other in _SEVERITIES if other != severity),
            held={
                "user": (AuditLog.user_id, AuditLog.resource_id),
                "conversation": (AuditLog.resource_id,),
            },
        )
        for severity in _SEVERITIES
    ),
)
