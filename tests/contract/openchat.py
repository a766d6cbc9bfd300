"""Examples of `openchat`'s policies."""

from typing import Any

from models.openchat import (
    Account,
    Attachment,
    Conversation,
    ConversationParticipant,
    Message,
    Session,
    User,
    UserRelationship,
    Verification,
)
from tests.contract.example import AT, NEW, Case, Example, Of, Row, changes, goes, refers
from tests.contract.scenario import LONG_AGO
from tests.sweeps.sweeping import NOW


def _deleted(model: Any) -> dict[Any, Any]:
    return {model.is_deleted: True, model.deleted_at: LONG_AGO}


def _deleted_limits(model: Any) -> tuple[Any, ...]:
    """Return by what a soft deletion is dated; `updated_at` says nothing where `deleted_at` does."""
    return (
        Case(values={model.deleted_at: AT, model.updated_at: LONG_AGO}),
        Case(values={model.deleted_at: None, model.updated_at: AT}),
    )


def _with_a_message() -> tuple[Row, ...]:
    return (
        goes(Attachment.message_id),
        changes(Message.parent_message_id, values={Message.created_at: NOW}),
        changes(Message.thread_root_id, values={Message.created_at: NOW}),
        changes(ConversationParticipant.last_read_message_id),
    )


def _conversation(**values: Any) -> Row:
    named = {getattr(Conversation, name): value for name, value in values.items()}
    return Row(model=Conversation, values=named)


_HELD_MESSAGE = {
    "user": (Message.sender_id, Attachment.uploaded_by, ConversationParticipant.user_id),
    "conversation": (Message.conversation_id, ConversationParticipant.conversation_id),
}
_ANONYMISED = {
    User.name: "Deleted user",
    User.email: lambda row: f"deleted-{row['id']}@invalid",
    User.email_verified: False,
    User.status: "offline",
    User.is_online: False,
    User.is_active: False,
}
_PERSONAL = (
    User.image,
    User.display_name,
    User.bio,
    User.location,
    User.website,
    User.custom_status,
    User.last_seen_at,
)

EXAMPLES = (
    Example(policy="openchat.sessions", limits=(Session.expires_at,)),
    Example(policy="openchat.verifications", limits=(Verification.expires_at,)),
    Example(
        policy="openchat.presence",
        row={User.is_online: True, User.status: "online", User.last_seen_at: LONG_AGO},
        limits=(
            User.last_seen_at,
            User.updated_at,
            Case(
                beside=(
                    Row(
                        model=ConversationParticipant,
                        by=ConversationParticipant.user_id,
                        values={ConversationParticipant.last_read_at: AT},
                    ),
                )
            ),
            Case(
                beside=(
                    Row(model=ConversationParticipant, by=ConversationParticipant.user_id),
                    Row(
                        model=Message,
                        values={
                            Message.conversation_id: Of(ConversationParticipant.conversation_id),
                            Message.sender_id: Of(ConversationParticipant.user_id),
                            Message.created_at: AT,
                        },
                    ),
                )
            ),
        ),
        null_due=(User.is_online, User.status, User.last_seen_at),
        due=(
            {User.status: "away", User.is_online: False},
            {User.status: "busy", User.is_online: None},
            {User.status: "offline"},
            Case(values={User.status: "invisible"}, becomes={User.status: "invisible"}),
            # What others write is no sign of theirs, nor is what is written where they never were.
            Case(
                beside=(
                    Row(model=ConversationParticipant, by=ConversationParticipant.user_id),
                    Row(
                        model=Message,
                        values={
                            Message.conversation_id: Of(ConversationParticipant.conversation_id),
                            Message.sender_id: NEW,
                            Message.created_at: NOW,
                        },
                    ),
                )
            ),
            Case(beside=(Row(model=Message, by=Message.sender_id, values={Message.created_at: NOW}),)),
        ),
        stays=(
            {User.status: "offline", User.is_online: False},
            {User.status: "invisible", User.is_online: False},
            {User.status: None, User.is_online: None},
        ),
        becomes={User.is_online: False, User.status: "offline", User.updated_at: NOW},
    ),
    Example(
        policy="openchat.mutes",
        row={ConversationParticipant.is_muted: True, ConversationParticipant.muted_until: LONG_AGO},
        limits=(ConversationParticipant.muted_until,),
        null_stays=(ConversationParticipant.muted_until,),
        # Left behind by who was unmuted by hand: it would end the next mute.
        due=({ConversationParticipant.is_muted: False}, {ConversationParticipant.is_muted: None}),
        becomes={ConversationParticipant.is_muted: False, ConversationParticipant.muted_until: None},
    ),
    Example(
        policy="openchat.attachments",
        row={Attachment.expires_at: LONG_AGO},
        limits=(Attachment.expires_at,),
        null_due=(Attachment.is_deleted,),
        null_stays=(Attachment.expires_at,),
        stays=(
            {Attachment.is_deleted: True},
            {Attachment.is_deleted: True, Attachment.deleted_at: LONG_AGO},
        ),
        becomes={Attachment.is_deleted: True, Attachment.deleted_at: NOW, Attachment.updated_at: NOW},
    ),
    Example(
        policy="openchat.deleted_attachments",
        row=_deleted(Attachment),
        limits=_deleted_limits(Attachment),
        null_due=(Attachment.deleted_at,),
        null_stays=(Attachment.is_deleted,),
        stays=({Attachment.is_deleted: False},),
        held={"user": (Attachment.uploaded_by,), "conversation": (Message.conversation_id,)},
    ),
    Example(
        policy="openchat.deleted_messages",
        row=_deleted(Message),
        limits=_deleted_limits(Message),
        null_due=(Message.deleted_at,),
        null_stays=(Message.is_deleted,),
        stays=({Message.is_deleted: False},),
        related=_with_a_message(),
        held=_HELD_MESSAGE,
    ),
    Example(
        policy="openchat.conversation_messages",
        row={Message.conversation_id: _conversation(is_deleted=True, updated_at=LONG_AGO)},
        limits=(Case(values={Message.conversation_id: _conversation(is_deleted=True, updated_at=AT)}),),
        stays=(
            {Message.conversation_id: _conversation(is_deleted=False)},
            {Message.conversation_id: _conversation(is_deleted=None)},
        ),
        related=_with_a_message(),
        held=_HELD_MESSAGE,
    ),
    Example(
        policy="openchat.deleted_conversations",
        row={Conversation.is_deleted: True},
        limits=(Conversation.updated_at,),
        null_stays=(Conversation.is_deleted,),
        stays=({Conversation.is_deleted: False},),
        protected_by=(refers(Message.conversation_id),),
        related=(goes(ConversationParticipant.conversation_id),),
        held={
            "user": (Conversation.created_by, ConversationParticipant.user_id),
            "conversation": (Conversation.id, ConversationParticipant.conversation_id),
        },
    ),
    Example(
        policy="openchat.anonymised_users",
        row={**_deleted(User), **dict.fromkeys(_PERSONAL[:-1], "Ada"), User.last_seen_at: LONG_AGO},
        limits=(
            Case(
                values={User.deleted_at: AT, User.updated_at: LONG_AGO},
                becomes={User.deleted_at: lambda row: row["deleted_at"]},
            ),
            Case(
                values={User.deleted_at: None, User.updated_at: AT},
                becomes={User.deleted_at: lambda row: row["updated_at"]},
            ),
        ),
        null_due=(User.deleted_at, User.status, User.is_online, User.is_active, *_PERSONAL),
        null_stays=(User.is_deleted,),
        stays=(
            {User.is_deleted: False},
            # One who is anonymised already.
            {**_ANONYMISED, **dict.fromkeys(_PERSONAL)},
        ),
        becomes={
            **_ANONYMISED,
            **dict.fromkeys(_PERSONAL),
            User.deleted_at: LONG_AGO,
            User.updated_at: NOW,
        },
        related=(
            goes(Session.user_id),
            goes(Account.user_id),
            goes(UserRelationship.from_user_id),
            goes(UserRelationship.to_user_id),
        ),
        held={
            "user": (
                User.id,
                Session.user_id,
                Account.user_id,
                UserRelationship.from_user_id,
                UserRelationship.to_user_id,
            )
        },
    ),
    Example(
        policy="openchat.deleted_users",
        row={**_deleted(User), User.email: _ANONYMISED[User.email]},
        limits=_deleted_limits(User),
        null_due=(User.deleted_at,),
        null_stays=(User.is_deleted,),
        stays=({User.is_deleted: False}, {User.email: "ada@example.org"}),
        protected_by=tuple(
            refers(by)
            for by in (
                Conversation.created_by,
                Message.sender_id,
                Message.edited_by,
                Message.pinned_by,
                Message.moderated_by,
                Message.deleted_by,
                Attachment.uploaded_by,
                ConversationParticipant.invited_by,
                ConversationParticipant.user_id,
                Session.user_id,
                Account.user_id,
            )
        ),
        related=(goes(UserRelationship.from_user_id), goes(UserRelationship.to_user_id)),
        held={"user": (User.id, UserRelationship.from_user_id, UserRelationship.to_user_id)},
    ),
)
