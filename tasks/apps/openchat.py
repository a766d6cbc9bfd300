"""`openchat`: a messenger with attachments, threads and relationships."""

from models import openchat
from models.openchat import Attachment
from tasks.apps.spec import App, AttachmentTable, Mirror

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
    untouched={
        openchat.User: "presence is cleaned by a job to come",
        openchat.Session: "expired sessions are cleaned by a job to come",
        openchat.Account: "OAuth links live as long as their user",
        openchat.Verification: "expired verifications are cleaned by a job to come",
        openchat.Conversation: "counters are audited by a job to come",
        openchat.ConversationParticipant: "read pointers and mutes are kept by jobs to come",
        openchat.Message: "delivery states are kept by a job to come",
        openchat.UserRelationship: "relationships are the users' own and do not age",
    },
)
