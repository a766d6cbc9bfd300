"""`openchat`: a messenger with attachments, threads and relationships."""

from datetime import timedelta

from sqlalchemy import ColumnElement, and_, case, func, or_, select

from models import openchat
from models.openchat import (
    Attachment,
    Conversation,
    ConversationParticipant,
    Message,
    Session,
    User,
    Verification,
)
from tasks.apps.spec import App, AttachmentTable, Mirror
from tasks.apps.statuses import ReadPointers
from tasks.apps.sweeps import AFTER, NOW_UTC, Delete, Sweep, Update

#: What `user.status` says of somebody who is there, and is seen to be.
_SEEN_THERE = ["online", "away", "busy"]


def _alive() -> ColumnElement[bool]:
    """Return whether a user has given a sign of life since NOW_UTC - AFTER.

    The row says it where the application keeps it up to date, which it need not: somebody who writes or reads
    is there, whatever their row says.
    """
    since = NOW_UTC - AFTER
    # `bool_or` and not EXISTS: each user is looked up by the index on their participations, and each of these
    # by the one on conversation and time, which reads some minutes only. PostgreSQL might take EXISTS for a
    # join, and read all messages of all times, or all of their sender.
    written = (
        select(func.bool_or(Message.sender_id == ConversationParticipant.user_id))
        .where(
            Message.conversation_id == ConversationParticipant.conversation_id, Message.created_at >= since
        )
        .correlate(ConversationParticipant)
    )

    def anywhere(sign: ColumnElement[bool]) -> ColumnElement[bool]:
        theirs = select(func.bool_or(sign)).where(ConversationParticipant.user_id == User.id)
        return func.coalesce(theirs.correlate(User).scalar_subquery(), False)

    return or_(
        func.coalesce(User.last_seen_at >= since, False),
        func.coalesce(User.updated_at >= since, False),
        anywhere(ConversationParticipant.last_read_at >= since),
        anywhere(written.scalar_subquery()),
    )


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
        mirror=Mirror(
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
        pointer=ConversationParticipant.last_read_message_id,
        last_read_at=ConversationParticipant.last_read_at,
        unread_count=ConversationParticipant.unread_count,
        conversation_id=Conversation.id,
        message_count=Conversation.message_count,
        participant_count=Conversation.participant_count,
        last_message_at=Conversation.last_message_at,
    ),
    cleanup=(
        Sweep(
            name="openchat.sessions",
            model=Session,
            rule="sessions past expires_at are deleted",
            why="Nobody signs in with them any more (openchat.md, Authentication & User Management).",
            due=Session.expires_at < NOW_UTC,
            then=Delete(),
            every=timedelta(minutes=5),
            # No index knows when one expires.
            walk=timedelta(hours=2),
        ),
        Sweep(
            name="openchat.verifications",
            model=Verification,
            rule="verifications past expires_at are deleted",
            why="An old code verifies nothing (openchat.md, Authentication & User Management).",
            due=Verification.expires_at < NOW_UTC,
            then=Delete(),
            every=timedelta(minutes=5),
            walk=timedelta(hours=2),
        ),
        Sweep(
            name="openchat.presence",
            model=User,
            rule="users online without any sign of life for {after} go offline; 'invisible' stays",
            why="A crash leaves people online for ever (openchat.md, Users Table). Writing and reading are "
            "signs of life too: the application need not write last_seen_at.",
            due=and_(or_(User.is_online.is_(True), User.status.in_(_SEEN_THERE)), ~_alive()),
            # `last_seen_at` stays: they were not seen now.
            then=Update(
                {
                    User.is_online: False,
                    User.status: case((User.status == "invisible", "invisible"), else_="offline"),
                    User.updated_at: NOW_UTC,
                }
            ),
            every=timedelta(minutes=1),
            after=timedelta(minutes=5),
            quick=User.status.in_([*_SEEN_THERE, "invisible"]),
            # Online with a status that says otherwise: 'offline' is its default.
            walk=timedelta(minutes=30),
        ),
        Sweep(
            name="openchat.mutes",
            model=ConversationParticipant,
            rule="mutes past muted_until end; those without it stay",
            why="Nothing else ends a mute (openchat.md, Conversation Participants Table). A muted_until left "
            "behind would end a later mute too, one that is meant to last.",
            due=ConversationParticipant.muted_until < NOW_UTC,
            then=Update({ConversationParticipant.is_muted: False, ConversationParticipant.muted_until: None}),
            every=timedelta(minutes=1),
            walk=timedelta(minutes=30),
        ),
        Sweep(
            name="openchat.attachments",
            model=Attachment,
            rule="attachments past expires_at are marked as deleted",
            why="Access control and expiration (openchat.md, File Attachments Table). Their objects follow "
            "by retention.",
            due=and_(Attachment.expires_at < NOW_UTC, Attachment.is_deleted.is_not(True)),
            then=Update(
                {
                    Attachment.is_deleted: True,
                    Attachment.deleted_at: NOW_UTC,
                    Attachment.updated_at: NOW_UTC,
                }
            ),
            every=timedelta(minutes=5),
            walk=timedelta(hours=2),
        ),
    ),
    untouched={
        openchat.Account: "OAuth links live as long as their user",
        openchat.UserRelationship: "relationships are the users' own and do not age",
    },
)
