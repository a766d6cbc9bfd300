"""`openchat`: a messenger with attachments, threads and relationships.

Every timestamp is naive and holds UTC. Nothing in the database maintains a counter or `updated_at`.
"""

from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, Counter, DefaultFalse, DefaultTrue, GeneratedId, Naive, NaiveNow, TextStr

#: The logical names of the application's schemas.
SCHEMAS: tuple[str, ...] = ("openchat",)
#: The application has no triggers, functions, views or policies.
ROUTINES: tuple[str, ...] = ()


class User(Base):
    """A person: profile, presence and privacy. The table's name is a reserved word; SQLAlchemy quotes it."""

    __tablename__ = "user"
    __table_args__ = (
        CheckConstraint("status IN ('online', 'away', 'busy', 'invisible', 'offline')"),
        Index("user_active_idx", "is_active", "is_deleted"),
        Index("user_email_idx", "email"),
        Index("user_last_seen_idx", "last_seen_at"),
        Index("user_status_idx", "status"),
        {"schema": "openchat"},
    )

    id: Mapped[GeneratedId]
    name: Mapped[TextStr]
    email: Mapped[TextStr] = mapped_column(unique=True)
    email_verified: Mapped[bool]
    image: Mapped[TextStr | None]
    display_name: Mapped[TextStr | None]
    bio: Mapped[TextStr | None]
    location: Mapped[TextStr | None]
    website: Mapped[TextStr | None]
    # The application sets it at connect and disconnect; after a crash it stays true.
    is_online: Mapped[DefaultFalse | None]
    last_seen_at: Mapped[Naive | None]
    status: Mapped[TextStr | None] = mapped_column(server_default="offline")
    custom_status: Mapped[TextStr | None]
    is_active: Mapped[DefaultTrue | None]
    is_deleted: Mapped[DefaultFalse | None]
    deleted_at: Mapped[Naive | None]
    is_private: Mapped[DefaultFalse | None]
    allow_friend_requests: Mapped[DefaultTrue | None]
    show_online_status: Mapped[DefaultTrue | None]
    created_at: Mapped[NaiveNow]
    updated_at: Mapped[NaiveNow]


class Session(Base):
    """A signed-in device, until `expires_at`."""

    __tablename__ = "session"
    __table_args__ = (
        UniqueConstraint("token", name="session_token_unique"),
        {"schema": "openchat"},
    )

    id: Mapped[GeneratedId]
    user_id: Mapped[UUID] = mapped_column(ForeignKey("openchat.user.id"))
    token: Mapped[TextStr]
    ip_address: Mapped[TextStr | None]
    user_agent: Mapped[TextStr | None]
    expires_at: Mapped[Naive]
    created_at: Mapped[NaiveNow]
    updated_at: Mapped[NaiveNow]


class Account(Base):
    """A way to sign in: a password or an account with an OAuth provider."""

    __tablename__ = "account"
    __table_args__ = ({"schema": "openchat"},)

    id: Mapped[GeneratedId]
    user_id: Mapped[UUID] = mapped_column(ForeignKey("openchat.user.id"))
    account_id: Mapped[TextStr]
    provider_id: Mapped[TextStr]
    access_token: Mapped[TextStr | None]
    refresh_token: Mapped[TextStr | None]
    id_token: Mapped[TextStr | None]
    scope: Mapped[TextStr | None]
    password: Mapped[TextStr | None]
    access_token_expires_at: Mapped[Naive | None]
    refresh_token_expires_at: Mapped[Naive | None]
    created_at: Mapped[NaiveNow]
    updated_at: Mapped[NaiveNow]


class Verification(Base):
    """A one-time value, such as the code in an e-mail, until `expires_at`."""

    __tablename__ = "verification"
    __table_args__ = ({"schema": "openchat"},)

    id: Mapped[GeneratedId]
    identifier: Mapped[TextStr]
    value: Mapped[TextStr]
    expires_at: Mapped[Naive]
    created_at: Mapped[NaiveNow | None]
    updated_at: Mapped[NaiveNow | None]


class Conversation(Base):
    """A direct chat, group, channel or talk with an assistant."""

    __tablename__ = "conversation"
    __table_args__ = (
        CheckConstraint("type IN ('direct', 'group', 'channel', 'assistant')"),
        Index("conversation_active_idx", "is_active", "is_deleted"),
        Index("conversation_created_by_idx", "created_by"),
        Index("conversation_invite_code_idx", "invite_code"),
        Index("conversation_last_activity_idx", "last_activity_at"),
        Index("conversation_type_idx", "type"),
        {"schema": "openchat"},
    )

    id: Mapped[GeneratedId]
    title: Mapped[TextStr | None]
    description: Mapped[TextStr | None]
    type: Mapped[TextStr] = mapped_column(server_default="direct")
    is_public: Mapped[DefaultFalse | None]
    invite_code: Mapped[TextStr | None] = mapped_column(unique=True)
    max_participants: Mapped[int | None]
    is_active: Mapped[DefaultTrue | None]
    is_archived: Mapped[DefaultFalse | None]
    is_deleted: Mapped[DefaultFalse | None]
    created_by: Mapped[UUID] = mapped_column(ForeignKey("openchat.user.id"))
    # Nothing in the database keeps these four up to date; services that write messages and participants must.
    last_message_at: Mapped[Naive | None]
    last_activity_at: Mapped[Naive | None]
    message_count: Mapped[Counter | None]
    participant_count: Mapped[Counter | None]
    # JSON as text: may be NULL, empty or not JSON at all.
    settings: Mapped[TextStr | None]
    created_at: Mapped[NaiveNow]
    updated_at: Mapped[NaiveNow]


class ConversationParticipant(Base):
    """One person in one conversation: role, permissions, and how far they have read."""

    __tablename__ = "conversation_participant"
    __table_args__ = (
        CheckConstraint("role IN ('owner', 'admin', 'moderator', 'member', 'guest')"),
        CheckConstraint("status IN ('active', 'invited', 'left', 'removed', 'banned')"),
        UniqueConstraint("conversation_id", "user_id"),
        Index("participant_conversation_idx", "conversation_id"),
        Index("participant_last_read_idx", "last_read_at"),
        Index("participant_role_idx", "role"),
        Index("participant_status_idx", "status"),
        Index("participant_user_idx", "user_id"),
        {"schema": "openchat"},
    )

    id: Mapped[GeneratedId]
    conversation_id: Mapped[UUID] = mapped_column(ForeignKey("openchat.conversation.id", ondelete="CASCADE"))
    user_id: Mapped[UUID] = mapped_column(ForeignKey("openchat.user.id", ondelete="CASCADE"))
    role: Mapped[TextStr] = mapped_column(server_default="member")
    status: Mapped[TextStr] = mapped_column(server_default="active")
    can_add_members: Mapped[DefaultFalse | None]
    can_remove_members: Mapped[DefaultFalse | None]
    can_edit_conversation: Mapped[DefaultFalse | None]
    can_delete_messages: Mapped[DefaultFalse | None]
    can_pin_messages: Mapped[DefaultFalse | None]
    notifications_enabled: Mapped[DefaultTrue | None]
    muted_until: Mapped[Naive | None]
    is_muted: Mapped[DefaultFalse | None]
    # The read pointer. Not a foreign key: the message it names may be gone.
    last_read_message_id: Mapped[UUID | None]
    last_read_at: Mapped[Naive | None]
    unread_count: Mapped[Counter | None]
    joined_at: Mapped[NaiveNow]
    left_at: Mapped[Naive | None]
    invited_by: Mapped[UUID | None] = mapped_column(ForeignKey("openchat.user.id"))


class Message(Base):
    """One message. Threads refer to other messages without a foreign key."""

    __tablename__ = "message"
    __table_args__ = (
        CheckConstraint(
            "content_type IN ('text', 'image', 'file', 'audio', 'video', 'code', 'system', 'poll',"
            " 'location')"
        ),
        CheckConstraint("status IN ('sending', 'sent', 'delivered', 'read', 'failed', 'edited', 'deleted')"),
        CheckConstraint(
            "system_message_type IN ('join', 'leave', 'add_member', 'remove_member', 'title_change',"
            " 'settings_change')"
        ),
        Index("message_content_type_idx", "content_type"),
        Index("message_conversation_created_idx", "conversation_id", "created_at"),
        Index("message_deleted_idx", "is_deleted"),
        Index("message_parent_idx", "parent_message_id"),
        Index("message_pinned_idx", "is_pinned"),
        Index("message_sender_idx", "sender_id"),
        Index("message_status_idx", "status"),
        Index("message_thread_root_idx", "thread_root_id"),
        {"schema": "openchat"},
    )

    id: Mapped[GeneratedId]
    conversation_id: Mapped[UUID] = mapped_column(ForeignKey("openchat.conversation.id", ondelete="CASCADE"))
    sender_id: Mapped[UUID] = mapped_column(ForeignKey("openchat.user.id"))
    content: Mapped[TextStr]
    content_type: Mapped[TextStr] = mapped_column(server_default="text")
    formatted_content: Mapped[TextStr | None]
    # JSON as text, like `edit_history` and `metadata_`: may be NULL, empty or not JSON at all.
    mentions: Mapped[TextStr | None]
    hashtags: Mapped[TextStr | None]
    reactions: Mapped[TextStr | None]
    thread_root_id: Mapped[UUID | None]
    parent_message_id: Mapped[UUID | None]
    thread_order: Mapped[Counter | None]
    reply_count: Mapped[Counter | None]
    # One value for all readers, and 'edited' and 'deleted' take the place of the delivery state.
    status: Mapped[TextStr] = mapped_column(server_default="sent")
    edit_history: Mapped[TextStr | None]
    edited_at: Mapped[Naive | None]
    edited_by: Mapped[UUID | None] = mapped_column(ForeignKey("openchat.user.id"))
    is_pinned: Mapped[DefaultFalse | None]
    pinned_at: Mapped[Naive | None]
    pinned_by: Mapped[UUID | None] = mapped_column(ForeignKey("openchat.user.id"))
    delivered_at: Mapped[Naive | None]
    read_by_count: Mapped[Counter | None]
    is_system_message: Mapped[DefaultFalse | None]
    system_message_type: Mapped[TextStr | None]
    is_moderated: Mapped[DefaultFalse | None]
    moderation_reason: Mapped[TextStr | None]
    moderated_at: Mapped[Naive | None]
    moderated_by: Mapped[UUID | None] = mapped_column(ForeignKey("openchat.user.id"))
    is_deleted: Mapped[DefaultFalse | None]
    deleted_at: Mapped[Naive | None]
    deleted_by: Mapped[UUID | None] = mapped_column(ForeignKey("openchat.user.id"))
    token_count: Mapped[Counter | None]
    model: Mapped[TextStr | None]
    metadata_: Mapped[TextStr | None] = mapped_column("metadata")
    created_at: Mapped[NaiveNow]
    updated_at: Mapped[NaiveNow]


class Attachment(Base):
    """A file that belongs to a message. Deleting the row does not delete the stored object."""

    __tablename__ = "attachment"
    __table_args__ = (
        CheckConstraint("processing_status IN ('pending', 'processing', 'completed', 'failed')"),
        CheckConstraint("scan_result IN ('clean', 'infected', 'suspicious', 'pending')"),
        CheckConstraint("storage_provider IN ('local', 's3', 'gcs', 'azure', 'cloudinary')"),
        Index("attachment_message_idx", "message_id"),
        Index("attachment_mime_type_idx", "mime_type"),
        Index("attachment_processing_status_idx", "processing_status"),
        Index("attachment_storage_key_idx", "storage_key"),
        Index("attachment_uploader_idx", "uploaded_by"),
        {"schema": "openchat"},
    )

    id: Mapped[GeneratedId]
    message_id: Mapped[UUID] = mapped_column(ForeignKey("openchat.message.id", ondelete="CASCADE"))
    uploaded_by: Mapped[UUID] = mapped_column(ForeignKey("openchat.user.id"))
    filename: Mapped[TextStr]
    original_filename: Mapped[TextStr]
    mime_type: Mapped[TextStr]
    file_size: Mapped[int]
    storage_provider: Mapped[TextStr] = mapped_column(server_default="local")
    storage_key: Mapped[TextStr]
    storage_url: Mapped[TextStr | None]
    # JSON as text, like `tags` and `scan_details`: may be NULL, empty or not JSON at all.
    metadata_: Mapped[TextStr | None] = mapped_column("metadata")
    thumbnail_url: Mapped[TextStr | None]
    preview_url: Mapped[TextStr | None]
    content_description: Mapped[TextStr | None]
    extracted_text: Mapped[TextStr | None]
    tags: Mapped[TextStr | None]
    is_public: Mapped[DefaultFalse | None]
    access_token: Mapped[TextStr | None]
    expires_at: Mapped[Naive | None]
    # Unscanned is `scan_result` NULL as well as 'pending'.
    is_scanned: Mapped[DefaultFalse | None]
    scan_result: Mapped[TextStr | None]
    scan_details: Mapped[TextStr | None]
    processing_status: Mapped[TextStr] = mapped_column(server_default="pending")
    processing_error: Mapped[TextStr | None]
    download_count: Mapped[Counter | None]
    last_accessed_at: Mapped[Naive | None]
    is_deleted: Mapped[DefaultFalse | None]
    deleted_at: Mapped[Naive | None]
    created_at: Mapped[NaiveNow]
    updated_at: Mapped[NaiveNow]


class UserRelationship(Base):
    """What one person is to another: friend, blocked, followed or muted."""

    __tablename__ = "user_relationship"
    __table_args__ = (
        CheckConstraint("status IN ('pending', 'accepted', 'rejected', 'active', 'inactive')"),
        CheckConstraint("type IN ('friend', 'block', 'follow', 'mute')"),
        UniqueConstraint("from_user_id", "to_user_id", "type"),
        Index("relationship_from_user_idx", "from_user_id"),
        Index("relationship_last_interaction_idx", "last_interaction_at"),
        Index("relationship_to_user_idx", "to_user_id"),
        Index("relationship_type_status_idx", "type", "status"),
        {"schema": "openchat"},
    )

    id: Mapped[GeneratedId]
    from_user_id: Mapped[UUID] = mapped_column(ForeignKey("openchat.user.id", ondelete="CASCADE"))
    to_user_id: Mapped[UUID] = mapped_column(ForeignKey("openchat.user.id", ondelete="CASCADE"))
    type: Mapped[TextStr]
    status: Mapped[TextStr] = mapped_column(server_default="pending")
    request_message: Mapped[TextStr | None]
    response_message: Mapped[TextStr | None]
    can_see_online_status: Mapped[DefaultTrue | None]
    can_send_messages: Mapped[DefaultTrue | None]
    can_see_profile: Mapped[DefaultTrue | None]
    notifications_enabled: Mapped[DefaultTrue | None]
    last_interaction_at: Mapped[Naive | None]
    interaction_count: Mapped[Counter | None]
    created_at: Mapped[NaiveNow]
    updated_at: Mapped[NaiveNow]
    accepted_at: Mapped[Naive | None]
