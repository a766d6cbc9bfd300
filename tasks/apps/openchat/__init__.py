"""`openchat`: a messenger with attachments, threads and relationships."""

from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Text, Uuid, and_, case, cast, func, literal, or_, select, tuple_
from sqlalchemy.orm import aliased

from models import openchat
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
from tasks.apps.openchat.rollups import OPENCHAT_ROLLUPS
from tasks.policies.app import App
from tasks.policies.attachment import AppColumns, AttachmentTable
from tasks.policies.columns import Column
from tasks.policies.naive import before, moment_of, since, stored
from tasks.policies.retention import GOING, Cascade, Owners, Restrict, Retention, SetValues
from tasks.policies.status import ReadPointers
from tasks.policies.sweep import AFTER, NOW_UTC, Delete, Sweep, Update, ahead, recent

#: The values of `user.status` of a user who is there, and is seen to be.
_SEEN_THERE = ["online", "away", "busy"]


def _anywhere(sign: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return the sign of life of all participations of a user, an aggregate."""
    found = select(sign).where(ConversationParticipant.user_id == User.id)
    return found.correlate(User).scalar_subquery()


def _alive() -> ColumnElement[bool]:
    """Return whether a user has given a sign of life since NOW_UTC - AFTER.

    The row says it where the application keeps it up to date, which it need not: a user who writes or reads
    is there, whatever their row says.
    """
    # `bool_or` and not EXISTS: each user is looked up by the index on their participations, and each of these
    # by the one on conversation and time, which reads some minutes only. PostgreSQL might take EXISTS for a
    # join, and read all messages of all times, or all of their sender.
    written = (
        select(func.bool_or(Message.sender_id == ConversationParticipant.user_id))
        .where(
            Message.conversation_id == ConversationParticipant.conversation_id,
            since(Message.created_at, NOW_UTC - AFTER),
            before(Message.created_at, NOW_UTC, inclusive=True),
        )
        .correlate(ConversationParticipant)
    )
    signs: tuple[ColumnElement[bool], ...] = (
        recent(User.last_seen_at, NOW_UTC),
        recent(moment_of(User.updated_at), NOW_UTC),
        _anywhere(func.bool_or(recent(ConversationParticipant.last_read_at, NOW_UTC))),
        _anywhere(func.bool_or(written.scalar_subquery())),
    )
    return or_(*(func.coalesce(sign, False) for sign in signs))


def _ahead() -> ColumnElement[Any]:
    """Return the latest sign of life of a user that lies ahead."""
    written = (
        select(moment_of(Message.created_at, func.max(Message.created_at)))
        .where(
            Message.conversation_id == ConversationParticipant.conversation_id,
            Message.sender_id == ConversationParticipant.user_id,
            since(Message.created_at, NOW_UTC),
            moment_of(Message.created_at) > NOW_UTC,
        )
        .correlate(ConversationParticipant)
    )
    latest = func.greatest(
        ahead(User.last_seen_at, NOW_UTC),
        ahead(moment_of(User.updated_at), NOW_UTC),
        _anywhere(func.max(ahead(ConversationParticipant.last_read_at, NOW_UTC))),
        _anywhere(func.max(written.scalar_subquery())),
    )
    return func.timezone("UTC", latest)


#: Behind all messages of a moment.
_HIGHEST = literal(UUID(int=2**128 - 1), Uuid())


def _deleted_at(model: Any) -> ColumnElement[Any]:
    """Return when a row was deleted softly: soft deletion often leaves `deleted_at` NULL."""
    return func.coalesce(model.deleted_at, moment_of(model.updated_at))


def _pointer() -> ColumnElement[Any]:
    """Return, for a participant whose read pointer names a message that goes, where it goes instead.

    To the latest message that stays, of those that the pointer has passed: so nothing comes to be unread, or
    to be read by fewer. None stands before all messages. A pointer into another conversation stands at the
    time of reading, as everywhere (`tasks/delivery/positions.py`).
    """
    before, pointed, reader = aliased(Message), aliased(Message), ConversationParticipant

    def pointed_to(here: Any, elsewhere: Any) -> ColumnElement[Any]:
        place = case((pointed.conversation_id == reader.conversation_id, here), else_=elsewhere)
        found = select(place).where(pointed.id == reader.last_read_message_id)
        return found.correlate(ConversationParticipant).scalar_subquery()

    # Not by a join: with values for a bound, the index on conversation and time is read from there on.
    at = stored(Message.created_at, reader.last_read_at)
    position = tuple_(pointed_to(pointed.created_at, at), pointed_to(pointed.id, _HIGHEST))
    passed = (
        select(before.id)
        .where(
            before.conversation_id == reader.conversation_id,
            tuple_(before.created_at, before.id) <= position,
            before.id != func.all(GOING),
        )
        .order_by(before.created_at.desc(), before.id.desc())
        .limit(1)
        .correlate(ConversationParticipant)
    )
    return passed.scalar_subquery()


_WITH_A_MESSAGE = (
    Cascade(Attachment.message_id, "CASCADE: a file goes with its message, marked as deleted or not"),
    SetValues(
        Message.parent_message_id,
        "no foreign key: a reply keeps what it says, and answers nothing",
        # `reply_count` is left alone: a reply that is deleted left it when it was marked, if ever.
        to=Message.id,
    ),
    SetValues(
        Message.thread_root_id,
        "no foreign key: what was said in the thread stays, and is of none",
        to=Message.id,
    ),
    SetValues(
        ConversationParticipant.last_read_message_id,
        "no foreign key: who has read so far has read what was before",
        values={ConversationParticipant.last_read_message_id: _pointer()},
        to=Message.id,
    ),
)

_of = aliased(Message)
_CONVERSATION_OF_A_FILE = (
    select(_of.conversation_id).where(_of.id == Attachment.message_id).correlate(Attachment).scalar_subquery()
)
_OWNERS: Owners = {
    Attachment: {"user": (Attachment.uploaded_by,), "conversation": (_CONVERSATION_OF_A_FILE,)},
    Message: {"user": (Message.sender_id,), "conversation": (Message.conversation_id,)},
    ConversationParticipant: {
        "user": (ConversationParticipant.user_id,),
        "conversation": (ConversationParticipant.conversation_id,),
    },
    Conversation: {"user": (Conversation.created_by,), "conversation": (Conversation.id,)},
    User: {"user": (User.id,)},
    Session: {"user": (Session.user_id,)},
    Account: {"user": (Account.user_id,)},
    UserRelationship: {"user": (UserRelationship.from_user_id, UserRelationship.to_user_id)},
}

_GONE_CONVERSATION = Conversation.is_deleted.is_(True)
#: What is left of a person where the row must stay. The address belongs to no one and cannot be delivered to.
_ADDRESS = func.concat("deleted-", cast(User.id, Text), "@invalid")
_ANONYMISED: dict[Column, Any] = {
    User.name: "Deleted user",
    User.email: _ADDRESS,
    User.email_verified: False,
    User.image: None,
    User.display_name: None,
    User.bio: None,
    User.location: None,
    User.website: None,
    User.custom_status: None,
    User.status: "offline",
    User.is_online: False,
    User.last_seen_at: None,
    User.is_active: False,
}

OPENCHAT = App(
    name="openchat",
    about="messenger with attachments, threads, relationships",
    document="openchat.md",
    models=openchat,
    attachments=AttachmentTable(
        model=Attachment,
        why="Virus scanning, thumbnails and previews as the attachments table of openchat.md describes them.",
        id=Attachment.id,
        key=Attachment.storage_key,
        provider=Attachment.storage_provider,
        name=Attachment.original_filename,
        media_type=Attachment.mime_type,
        size=Attachment.file_size,
        encrypted=None,
        sha256=None,
        # Nullable, like every boolean here: NULL is not deleted.
        live=Attachment.is_deleted.is_not(True),
        # `scan_result` would not do: NULL and 'pending' both mean unscanned, and no index serves it.
        unprocessed=Attachment.processing_status.in_(["pending", "processing"]),
        created_at=Attachment.created_at,
        downloads=Attachment.download_count,
        app_columns=AppColumns(
            status=Attachment.processing_status,
            error=Attachment.processing_error,
            scanned=Attachment.is_scanned,
            verdict=Attachment.scan_result,
            details=Attachment.scan_details,
            metadata=Attachment.metadata_,
            media_type=Attachment.mime_type,
            url=Attachment.storage_url,
            small_url=Attachment.thumbnail_url,
            large_url=Attachment.preview_url,
            updated_at=Attachment.updated_at,
        ),
    ),
    delivery=ReadPointers(
        why="Read pointers, delivery status and counters (openchat.md, conversation_participant and "
        "message): nothing in the database maintains them.",
        message=Message.id,
        conversation=Message.conversation_id,
        sender=Message.sender_id,
        created_at=Message.created_at,
        status=Message.status,
        delivered_at=Message.delivered_at,
        read_by_count=Message.read_by_count,
        deleted=Message.is_deleted,
        participant=ConversationParticipant.id,
        member_of=ConversationParticipant.conversation_id,
        user=ConversationParticipant.user_id,
        member_status=ConversationParticipant.status,
        joined_at=ConversationParticipant.joined_at,
        left_at=ConversationParticipant.left_at,
        user_id=User.id,
        user_deleted=User.is_deleted,
        pointer=ConversationParticipant.last_read_message_id,
        last_read_at=ConversationParticipant.last_read_at,
        unread_count=ConversationParticipant.unread_count,
        conversation_id=Conversation.id,
        message_count=Conversation.message_count,
        participant_count=Conversation.participant_count,
        last_message_at=Conversation.last_message_at,
        last_activity_at=Conversation.last_activity_at,
    ),
    cleanup=(
        Sweep(
            name="openchat.sessions",
            model=Session,
            rule="sessions past expires_at are deleted",
            why="They cannot be used to sign in any more (openchat.md, Authentication & User Management).",
            due=Session.expires_at < NOW_UTC,
            action=Delete(),
            every=timedelta(minutes=5),
            # No index knows when one expires.
            full_pass_every=timedelta(hours=2),
        ),
        Sweep(
            name="openchat.verifications",
            model=Verification,
            rule="verifications past expires_at are deleted",
            why="An old code verifies nothing (openchat.md, Authentication & User Management).",
            due=Verification.expires_at < NOW_UTC,
            action=Delete(),
            every=timedelta(minutes=5),
            full_pass_every=timedelta(hours=2),
        ),
        Sweep(
            name="openchat.presence",
            model=User,
            rule="users online without any sign of life for {after} go offline; 'invisible' stays",
            why="A crash leaves people online for ever (openchat.md, Users Table). Writing and reading are "
            "signs of life too: the application need not write last_seen_at.",
            due=and_(or_(User.is_online.is_(True), User.status.in_(_SEEN_THERE)), ~_alive()),
            # `last_seen_at` stays: they were not seen now.
            action=Update(
                {
                    User.is_online: False,
                    User.status: case((User.status == "invisible", "invisible"), else_="offline"),
                    User.updated_at: NOW_UTC,
                }
            ),
            every=timedelta(minutes=1),
            after=timedelta(minutes=5),
            ahead=_ahead(),
            indexed=User.status.in_([*_SEEN_THERE, "invisible"]),
            # Online with a status that says otherwise: 'offline' is its default.
            full_pass_every=timedelta(minutes=30),
        ),
        Sweep(
            name="openchat.mutes",
            model=ConversationParticipant,
            rule="mutes past muted_until end; those without it stay",
            why="Nothing else ends a mute (openchat.md, Conversation Participants Table). A muted_until left "
            "behind would end a later mute too, one that is meant to last.",
            due=ConversationParticipant.muted_until < NOW_UTC,
            action=Update(
                {ConversationParticipant.is_muted: False, ConversationParticipant.muted_until: None}
            ),
            every=timedelta(minutes=1),
            full_pass_every=timedelta(minutes=30),
        ),
        Sweep(
            name="openchat.attachments",
            model=Attachment,
            rule="attachments past expires_at are marked as deleted",
            why="Access control and expiration (openchat.md, File Attachments Table). Their objects follow "
            "by retention.",
            due=and_(Attachment.expires_at < NOW_UTC, Attachment.is_deleted.is_not(True)),
            action=Update(
                {
                    Attachment.is_deleted: True,
                    Attachment.deleted_at: NOW_UTC,
                    Attachment.updated_at: NOW_UTC,
                }
            ),
            every=timedelta(minutes=5),
            full_pass_every=timedelta(hours=2),
        ),
    ),
    retention=(
        Retention(
            name="openchat.deleted_attachments",
            model=Attachment,
            rule="attachments that were deleted softly more than {after} ago go, then their objects",
            why="Soft deletion keeps the object for as long as the row is there (openchat.md, File "
            "Attachments Table); where deleted_at is NULL, updated_at tells.",
            age=_deleted_at(Attachment),
            where=Attachment.is_deleted.is_(True),
            owners=_OWNERS,
            # No index knows what is deleted.
            full_pass_every=timedelta(days=1),
        ),
        Retention(
            name="openchat.deleted_messages",
            model=Message,
            rule="messages that were deleted softly more than {after} ago go, with files and objects; "
            "replies and threads stay, and read pointers move to the message before",
            why="They are hidden from all users (openchat.md, Enhanced Messages Table); where deleted_at is "
            "NULL, updated_at tells.",
            age=_deleted_at(Message),
            where=Message.is_deleted.is_(True),
            refers=_WITH_A_MESSAGE,
            owners=_OWNERS,
        ),
        Retention(
            name="openchat.conversation_messages",
            model=Message,
            rule="messages of conversations that were deleted softly more than {after} ago go, with files "
            "and objects",
            why="A conversation takes all that was said in it along (openchat.md, Conversations Table): too "
            "much for one transaction, and its objects would stay behind.",
            # The table of conversations has no deleted_at.
            age=select(moment_of(Conversation.updated_at))
            .where(Conversation.id == Message.conversation_id)
            .correlate(Message)
            .scalar_subquery(),
            # With the age once more: by it an index finds what is due, and nothing else is looked at.
            where=Message.conversation_id.in_(
                select(Conversation.id).where(
                    _GONE_CONVERSATION, moment_of(Conversation.updated_at) < NOW_UTC - AFTER
                )
            ),
            refers=_WITH_A_MESSAGE,
            owners=_OWNERS,
        ),
        Retention(
            name="openchat.deleted_conversations",
            model=Conversation,
            rule="conversations that were deleted softly more than {after} ago go with their participants "
            "when no message of theirs is left",
            why="They are hidden from all users (openchat.md, Conversations Table); they have no deleted_at, "
            "so updated_at tells.",
            age=moment_of(Conversation.updated_at),
            where=_GONE_CONVERSATION,
            refers=(
                Restrict(
                    Message.conversation_id,
                    "CASCADE: would take messages along that are on hold, and lose their objects",
                ),
                Cascade(
                    ConversationParticipant.conversation_id,
                    "CASCADE: a membership says nothing without its conversation",
                ),
            ),
            owners=_OWNERS,
            follows=("openchat.conversation_messages",),
            full_pass_every=timedelta(days=1),
        ),
        Retention(
            name="openchat.anonymised_users",
            model=User,
            rule="users who were deleted softly more than {after} ago lose all that tells who they were, "
            "with accounts, sessions and relationships",
            why="Messages and conversations refer to them, so the row must stay (openchat.md, Users Table); "
            "where deleted_at is NULL, updated_at tells.",
            age=_deleted_at(User),
            # Once: a user who is anonymised already stays as they are.
            where=and_(
                User.is_deleted.is_(True),
                or_(*(column.is_distinct_from(value) for column, value in _ANONYMISED.items())),
            ),
            # Their age stays what it is when `updated_at` is set.
            action=Update({**_ANONYMISED, User.deleted_at: _deleted_at(User), User.updated_at: NOW_UTC}),
            refers=(
                Cascade(Session.user_id, "NO ACTION: a token of a deleted user"),
                Cascade(Account.user_id, "NO ACTION: a password, or tokens, of a deleted user"),
                Cascade(UserRelationship.from_user_id, "CASCADE: with words of a person to another"),
                Cascade(UserRelationship.to_user_id, "CASCADE: with words of another to the person"),
            ),
            owners=_OWNERS,
            # An archive would keep what is to be forgotten.
            archive=False,
            full_pass_every=timedelta(days=1),
        ),
        Retention(
            name="openchat.deleted_users",
            model=User,
            rule="anonymised users who were deleted softly more than {after} ago go when nothing refers to "
            "them any more",
            why="An anonymised user to whom nothing refers is of no use (openchat.md, Users Table). "
            "Anonymised first, they leave nothing personal in the archive.",
            age=_deleted_at(User),
            where=and_(User.is_deleted.is_(True), User.email == _ADDRESS),
            refers=(
                Restrict(Conversation.created_by, "NO ACTION: blocks the deletion"),
                Restrict(Message.sender_id, "NO ACTION: blocks the deletion"),
                Restrict(Message.edited_by, "NO ACTION: blocks the deletion"),
                Restrict(Message.pinned_by, "NO ACTION: blocks the deletion"),
                Restrict(Message.moderated_by, "NO ACTION: blocks the deletion"),
                Restrict(Message.deleted_by, "NO ACTION: blocks the deletion"),
                Restrict(Attachment.uploaded_by, "NO ACTION: blocks the deletion"),
                Restrict(ConversationParticipant.invited_by, "NO ACTION: blocks the deletion"),
                # Gone since they were anonymised; a new one says that the user is there.
                Restrict(Session.user_id, "NO ACTION: blocks the deletion"),
                Restrict(Account.user_id, "NO ACTION: blocks the deletion"),
                Restrict(
                    ConversationParticipant.user_id,
                    "CASCADE: would take a reader out of the counters of a conversation that goes on",
                ),
                Cascade(UserRelationship.from_user_id, "CASCADE: a relationship needs two"),
                Cascade(UserRelationship.to_user_id, "CASCADE: a relationship needs two"),
            ),
            owners=_OWNERS,
            follows=(
                "openchat.anonymised_users",
                "openchat.deleted_attachments",
                "openchat.deleted_messages",
                "openchat.deleted_conversations",
            ),
            full_pass_every=timedelta(days=1),
        ),
    ),
    rollups=OPENCHAT_ROLLUPS,
    entities={"user": User, "conversation": Conversation},
    untouched={
        openchat.Account: "OAuth links live as long as their user, and go when that one is anonymised",
        openchat.UserRelationship: "relationships do not age; they go when one of the two is anonymised",
    },
)
