"""`pern`: end-to-end encrypted chat, one to one and in groups."""

from sqlalchemy import true

from models import pern
from models.pern import Attachment, Message, MessageStatus, User
from tasks.apps.spec import App, AttachmentTable, Mirror
from tasks.apps.statuses import StatusRows

PERN = App(
    name="pern",
    about="end-to-end encrypted 1:1 and group chat",
    document="pern.md",
    models=pern,
    attachments=AttachmentTable(
        model=Attachment,
        why="Files are encrypted unless the row says otherwise (pern.md, Data Encryption): those are checked "
        "for size and hash, and cannot be looked into; the others are scanned and drawn.",
        id=Attachment.id,
        key=Attachment.file_path,
        provider=None,
        name=Attachment.file_name,
        media_type=Attachment.mime_type,
        size=Attachment.file_size,
        encrypted=Attachment.is_encrypted,
        sha256=Attachment.file_hash,
        # No soft deletion, no state column: every row is live, and only our own table knows what is done.
        live=true(),
        unprocessed=None,
        created_at=Attachment.created_at,
        mirror=Mirror(
            media_type=Attachment.mime_type,
            small_key=Attachment.thumbnail_path,
            updated_at=Attachment.updated_at,
        ),
    ),
    delivery=StatusRows(
        model=MessageStatus,
        why="Delivery and read receipts (pern.md, Message Queue), merged and not overwritten: 'read' is not "
        "taken back by a late 'delivered', and a row that holds a reaction keeps it.",
        # 'reacted' comes from the application alone.
        order=("sent", "failed", "delivered", "read", "reacted"),
        id=MessageStatus.id,
        message=MessageStatus.message_id,
        user=MessageStatus.user_id,
        status=MessageStatus.status,
        delivered_at=MessageStatus.delivered_at,
        read_at=MessageStatus.read_at,
        created_at=MessageStatus.created_at,
        updated_at=MessageStatus.updated_at,
        message_id=Message.id,
        user_id=User.id,
    ),
    untouched={
        pern.User: "presence is cleaned by a job to come",
        pern.AuthSession: "expired and revoked sessions are cleaned by a job to come",
        pern.UserPublicKey: "expired keys are deactivated by a job to come",
        pern.Conversation: "read by retention, a job to come",
        pern.ConversationParticipant: "memberships are the application's own and do not age",
        pern.Message: "aged out by retention, a job to come",
        pern.AuditLog: "never edited; aged out by retention, a job to come",
    },
)
