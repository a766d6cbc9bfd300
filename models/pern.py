"""`pern`: end-to-end encrypted chat, one to one and in groups.

The database supplies no `id`, `created_at`, `updated_at` or `joined_at`: the writer must.
"""

from uuid import UUID

from sqlalchemy import BigInteger, Dialect, ForeignKey, Index, String, text
from sqlalchemy.dialects.postgresql import ENUM
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Aware, Base, DefaultFalse, DefaultTrue, Inet, JsonObject, SuppliedId, TextStr

#: The logical names of the application's schemas.
SCHEMAS: tuple[str, ...] = ("pern",)
#: The application has no triggers, functions, views or policies.
ROUTINES: tuple[str, ...] = ()


class Labels(ENUM):
    """An enum type that passes any label through.

    SQLAlchemy's own refuses to read a label that it was not told of, and a live database may hold more
    labels than are written here.
    """

    def result_processor(self, dialect: Dialect, coltype: object) -> None:
        """Read labels as they are."""


# The application documents only some labels: roles admin, moderator and member; conversations direct and
# group; statuses sent, delivered, read and reacted; each column's default. The others are assumed, and
# nothing compares them with a live database.
PRESENCE = Labels("online", "offline", "away", name="enum_users_status", schema="pern")
KEY_TYPE = Labels("encryption", "signing", name="enum_user_public_keys_key_type", schema="pern")
CONVERSATION_TYPE = Labels("direct", "group", name="enum_conversations_type", schema="pern")
ROLE = Labels("admin", "moderator", "member", name="enum_conversation_participants_role", schema="pern")
MESSAGE_TYPE = Labels(
    "text", "image", "file", "audio", "video", "system", name="enum_messages_message_type", schema="pern"
)
MESSAGE_STATUS = Labels(
    "sent", "delivered", "read", "failed", "reacted", name="enum_message_statuses_status", schema="pern"
)
SEVERITY = Labels(
    "info", "warning", "error", "critical", "security", name="enum_audit_logs_severity", schema="pern"
)

DEFAULT_SETTINGS = (
    '{"encryption_enabled": true, "allow_member_invites": true, "message_retention_days": null,'
    ' "require_admin_approval": false}'
)


class User(Base):
    """A person: account, profile and presence."""

    __tablename__ = "users"
    __table_args__ = (
        Index("idx_users_display_name", "display_name"),
        Index("idx_users_last_seen_at", "last_seen_at"),
        Index("idx_users_status", "status"),
        Index("idx_users_totp_enabled", "totp_enabled"),
        Index("idx_users_email_unique", "email", unique=True),
        Index("idx_users_username_unique", "username", unique=True),
        {"schema": "pern"},
    )

    id: Mapped[SuppliedId]
    username: Mapped[str] = mapped_column(String(50), unique=True)
    email: Mapped[str] = mapped_column(String(255), unique=True)
    password_hash: Mapped[str] = mapped_column(String(255))
    display_name: Mapped[str] = mapped_column(String(100))
    avatar_url: Mapped[str | None] = mapped_column(String(500))
    status: Mapped[str | None] = mapped_column(PRESENCE, server_default="offline")
    totp_secret_encrypted: Mapped[str | None] = mapped_column(String(1024))
    is_active: Mapped[DefaultTrue]
    totp_enabled: Mapped[DefaultFalse]
    last_seen_at: Mapped[Aware | None]
    created_at: Mapped[Aware]
    updated_at: Mapped[Aware]


class AuthSession(Base):
    """A refresh token of one device, until it expires or is revoked."""

    __tablename__ = "auth_sessions"
    __table_args__ = (
        Index("idx_auth_sessions_expires_at", "expires_at"),
        Index("idx_auth_sessions_revoked_at", "revoked_at"),
        Index("idx_auth_sessions_user_id", "user_id"),
        Index("idx_auth_sessions_user_valid", "user_id", "expires_at", "revoked_at"),
        {"schema": "pern"},
    )

    id: Mapped[SuppliedId]
    user_id: Mapped[UUID] = mapped_column(
        ForeignKey("pern.users.id", onupdate="CASCADE", ondelete="RESTRICT")
    )
    refresh_token_hash: Mapped[str] = mapped_column(String(255))
    device_info: Mapped[TextStr]
    ip_address: Mapped[Inet]
    expires_at: Mapped[Aware]
    revoked_at: Mapped[Aware | None]
    created_at: Mapped[Aware]
    updated_at: Mapped[Aware]


class UserPublicKey(Base):
    """A public key of a person's device, until it expires or is rotated out."""

    __tablename__ = "user_public_keys"
    __table_args__ = (
        Index("idx_user_public_keys_expires_at", "expires_at"),
        Index("idx_user_public_keys_type_active", "key_type", "is_active"),
        Index("idx_user_public_keys_user_active", "user_id", "is_active"),
        Index("idx_user_public_keys_user_id", "user_id"),
        Index("idx_user_public_keys_user_type_active", "user_id", "key_type", "is_active"),
        {"schema": "pern"},
    )

    id: Mapped[SuppliedId]
    user_id: Mapped[UUID] = mapped_column(ForeignKey("pern.users.id", onupdate="CASCADE", ondelete="CASCADE"))
    key_type: Mapped[str] = mapped_column(KEY_TYPE, server_default="encryption")
    public_key: Mapped[TextStr]
    is_active: Mapped[DefaultTrue]
    expires_at: Mapped[Aware | None]
    created_at: Mapped[Aware]
    updated_at: Mapped[Aware]


class Conversation(Base):
    """A direct chat or a group."""

    __tablename__ = "conversations"
    __table_args__ = (
        Index("idx_conversations_created_by", "created_by"),
        Index("idx_conversations_is_active", "is_active"),
        Index("idx_conversations_last_message_at", "last_message_at"),
        Index("idx_conversations_type", "type"),
        Index("idx_conversations_type_active_recent", "type", "is_active", "last_message_at"),
        {"schema": "pern"},
    )

    id: Mapped[SuppliedId]
    created_by: Mapped[UUID] = mapped_column(
        ForeignKey("pern.users.id", onupdate="CASCADE", ondelete="RESTRICT")
    )
    type: Mapped[str] = mapped_column(CONVERSATION_TYPE, server_default="direct")
    title: Mapped[str | None] = mapped_column(String(255))
    description: Mapped[TextStr | None]
    avatar_url: Mapped[str | None] = mapped_column(String(500))
    # Its `message_retention_days` is how long the conversation keeps messages; NULL is for ever.
    settings: Mapped[JsonObject] = mapped_column(server_default=DEFAULT_SETTINGS)
    is_active: Mapped[DefaultTrue]
    last_message_at: Mapped[Aware | None]
    created_at: Mapped[Aware]
    updated_at: Mapped[Aware]


class ConversationParticipant(Base):
    """One person in one conversation; at most one such row is active at a time."""

    __tablename__ = "conversation_participants"
    __table_args__ = (
        Index("idx_conversation_participants_conversation_active", "conversation_id", "is_active"),
        Index(
            "idx_conversation_participants_conversation_active_role", "conversation_id", "is_active", "role"
        ),
        Index("idx_conversation_participants_conversation_id", "conversation_id"),
        Index("idx_conversation_participants_conversation_role", "conversation_id", "role"),
        Index("idx_conversation_participants_user_active", "user_id", "is_active"),
        Index("idx_conversation_participants_user_id", "user_id"),
        Index(
            "idx_conversation_participants_user_unique_active",
            "conversation_id",
            "user_id",
            unique=True,
            postgresql_where=text("is_active = true"),
        ),
        {"schema": "pern"},
    )

    id: Mapped[SuppliedId]
    conversation_id: Mapped[UUID] = mapped_column(
        ForeignKey("pern.conversations.id", onupdate="CASCADE", ondelete="CASCADE")
    )
    user_id: Mapped[UUID] = mapped_column(
        ForeignKey("pern.users.id", onupdate="CASCADE", ondelete="RESTRICT")
    )
    role: Mapped[str] = mapped_column(ROLE, server_default="member")
    key_material: Mapped[TextStr | None]
    is_active: Mapped[DefaultTrue]
    joined_at: Mapped[Aware]
    left_at: Mapped[Aware | None]
    created_at: Mapped[Aware]
    updated_at: Mapped[Aware]


class Message(Base):
    """One message, encrypted by its sender."""

    __tablename__ = "messages"
    __table_args__ = (
        Index(
            "idx_messages_conversation_created_at",
            "conversation_id",
            "created_at",
            postgresql_where=text("is_deleted = false"),
        ),
        Index("idx_messages_conversation_id", "conversation_id"),
        Index("idx_messages_conversation_not_deleted", "conversation_id", "is_deleted"),
        Index("idx_messages_conversation_recent_not_deleted", "conversation_id", "created_at", "is_deleted"),
        Index("idx_messages_is_deleted", "is_deleted"),
        Index("idx_messages_message_type", "message_type"),
        Index("idx_messages_reply_to_id", "reply_to_id"),
        Index("idx_messages_sender_id", "sender_id"),
        {"schema": "pern"},
    )

    id: Mapped[SuppliedId]
    conversation_id: Mapped[UUID] = mapped_column(
        ForeignKey("pern.conversations.id", onupdate="CASCADE", ondelete="CASCADE")
    )
    # NOT NULL and SET NULL contradict each other: a person who has written cannot be deleted.
    sender_id: Mapped[UUID] = mapped_column(
        ForeignKey("pern.users.id", onupdate="CASCADE", ondelete="SET NULL")
    )
    reply_to_id: Mapped[UUID | None] = mapped_column(
        ForeignKey("pern.messages.id", onupdate="CASCADE", ondelete="SET NULL")
    )
    message_type: Mapped[str] = mapped_column(MESSAGE_TYPE, server_default="text")
    content_encrypted: Mapped[TextStr]
    metadata_: Mapped[JsonObject | None] = mapped_column("metadata")
    is_edited: Mapped[DefaultFalse]
    is_deleted: Mapped[DefaultFalse]
    created_at: Mapped[Aware]
    updated_at: Mapped[Aware]


class MessageStatus(Base):
    """How far one message has come with one recipient; the same row holds their reaction."""

    __tablename__ = "message_statuses"
    __table_args__ = (
        Index("idx_message_statuses_created_at", "created_at"),
        Index("idx_message_statuses_delivered_at", "delivered_at"),
        Index("idx_message_statuses_message_id", "message_id"),
        Index("idx_message_statuses_message_status", "message_id", "status"),
        Index("idx_message_statuses_read_at", "read_at"),
        Index("idx_message_statuses_status", "status"),
        Index("idx_message_statuses_user_id", "user_id"),
        Index("idx_message_statuses_user_status", "user_id", "status"),
        Index("idx_message_statuses_user_status_time", "user_id", "status", "created_at"),
        Index("idx_message_statuses_message_user_unique", "message_id", "user_id", unique=True),
        {"schema": "pern"},
    )

    id: Mapped[SuppliedId]
    message_id: Mapped[UUID] = mapped_column(
        ForeignKey("pern.messages.id", onupdate="CASCADE", ondelete="CASCADE")
    )
    user_id: Mapped[UUID] = mapped_column(ForeignKey("pern.users.id", onupdate="CASCADE", ondelete="CASCADE"))
    status: Mapped[str] = mapped_column(MESSAGE_STATUS, server_default="sent")
    reaction: Mapped[str | None] = mapped_column(String(10))
    delivered_at: Mapped[Aware | None]
    read_at: Mapped[Aware | None]
    created_at: Mapped[Aware]
    updated_at: Mapped[Aware]


class Attachment(Base):
    """A file that belongs to a message; encrypted unless it says otherwise."""

    __tablename__ = "attachments"
    __table_args__ = (
        Index("idx_attachments_file_size", "file_size"),
        Index("idx_attachments_is_encrypted", "is_encrypted"),
        Index("idx_attachments_message_id", "message_id"),
        Index("idx_attachments_mime_type", "mime_type"),
        Index("idx_attachments_mime_type_encrypted", "mime_type", "is_encrypted"),
        Index("idx_attachments_file_hash_unique", "file_hash", unique=True),
        {"schema": "pern"},
    )

    id: Mapped[SuppliedId]
    message_id: Mapped[UUID] = mapped_column(
        ForeignKey("pern.messages.id", onupdate="CASCADE", ondelete="CASCADE")
    )
    file_name: Mapped[str] = mapped_column(String(255))
    file_path: Mapped[str] = mapped_column(String(1000))
    file_size: Mapped[int] = mapped_column(BigInteger)
    mime_type: Mapped[str] = mapped_column(String(100))
    # Unique over the whole table: the same file cannot be attached twice.
    file_hash: Mapped[str] = mapped_column(String(64))
    thumbnail_path: Mapped[str | None] = mapped_column(String(1000))
    is_encrypted: Mapped[DefaultTrue]
    created_at: Mapped[Aware]
    updated_at: Mapped[Aware]


class AuditLog(Base):
    """One entry of the audit trail."""

    __tablename__ = "audit_logs"
    __table_args__ = (
        Index("idx_audit_logs_action", "action"),
        Index("idx_audit_logs_action_time", "action", "created_at"),
        Index("idx_audit_logs_created_at", "created_at"),
        Index("idx_audit_logs_resource", "resource_type", "resource_id"),
        Index("idx_audit_logs_resource_type", "resource_type"),
        Index("idx_audit_logs_severity", "severity"),
        Index("idx_audit_logs_severity_time", "severity", "created_at"),
        Index("idx_audit_logs_user_id", "user_id"),
        Index("idx_audit_logs_user_severity_time", "user_id", "severity", "created_at"),
        {"schema": "pern"},
    )

    id: Mapped[SuppliedId]
    user_id: Mapped[UUID | None] = mapped_column(
        ForeignKey("pern.users.id", onupdate="CASCADE", ondelete="SET NULL")
    )
    action: Mapped[str] = mapped_column(String(100))
    resource_type: Mapped[str] = mapped_column(String(50))
    resource_id: Mapped[UUID | None]
    severity: Mapped[str] = mapped_column(SEVERITY, server_default="info")
    old_values: Mapped[JsonObject | None]
    new_values: Mapped[JsonObject | None]
    ip_address: Mapped[Inet]
    user_agent: Mapped[TextStr]
    created_at: Mapped[Aware]
