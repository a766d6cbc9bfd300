"""`openchat`: a messenger with attachments, threads and relationships."""

from models import openchat
from models.openchat import Attachment, Conversation, ConversationParticipant, Message
from tasks.apps.spec import App, AttachmentTable, Mirror
from tasks.apps.statuses import ReadPointers

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
    untouched={
        openchat.User: "presence is cleaned by a job to come",
        openchat.Session: "expired sessions are cleaned by a job to come",
        openchat.Account: "OAuth links live as long as their user",
        openchat.Verification: "expired verifications are cleaned by a job to come",
        openchat.UserRelationship: "relationships are the users' own and do not age",
    },
)
