"""`connect`: match, call, then chat. Three schemas with foreign keys between them."""

from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, String, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import (
    Aware,
    AwareCurrent,
    Base,
    Counter,
    DefaultFalse,
    DefaultTrue,
    GeneratedId,
    Inet,
    JsonArray,
    JsonObject,
    TextStr,
)

#: The logical names of the application's schemas.
SCHEMAS: tuple[str, ...] = ("user_schema", "interaction_schema", "communication_schema")


class User(Base):
    """An account."""

    __tablename__ = "users"
    __table_args__ = (
        CheckConstraint("role IN ('male', 'female', 'admin')"),
        Index("idx_users_active", "is_active"),
        Index("idx_users_created_at", "created_at"),
        Index("idx_users_email", "email"),
        Index("idx_users_role", "role"),
        Index("idx_users_username", "username"),
        {"schema": "user_schema"},
    )

    id: Mapped[GeneratedId]
    username: Mapped[str] = mapped_column(String(50), unique=True)
    email: Mapped[str] = mapped_column(String(255), unique=True)
    password_hash: Mapped[str] = mapped_column(String(255))
    # The default violates the CHECK: every writer must give a role.
    role: Mapped[str] = mapped_column(String(20), server_default="user")
    email_verified: Mapped[DefaultFalse | None]
    is_active: Mapped[DefaultTrue | None]
    created_at: Mapped[AwareCurrent | None]
    updated_at: Mapped[AwareCurrent | None]
    last_login: Mapped[Aware | None]


class Profile(Base):
    """What a user shows of themselves to be matched."""

    __tablename__ = "profiles"
    __table_args__ = (
        CheckConstraint("age >= 18 AND age <= 100"),
        CheckConstraint("intent IN ('casual', 'friends', 'serious', 'networking')"),
        Index("idx_profiles_age", "age"),
        Index("idx_profiles_intent", "intent"),
        Index("idx_profiles_location", "location_city", "location_country"),
        Index("idx_profiles_updated_at", "updated_at"),
        Index("idx_profiles_user_id", "user_id"),
        {"schema": "user_schema"},
    )

    id: Mapped[GeneratedId]
    user_id: Mapped[UUID] = mapped_column(ForeignKey("user_schema.users.id", ondelete="CASCADE"), unique=True)
    display_name: Mapped[str] = mapped_column(String(100))
    short_bio: Mapped[TextStr | None]
    photos: Mapped[JsonArray | None] = mapped_column(server_default="[]")
    videos: Mapped[JsonArray | None] = mapped_column(server_default="[]")
    intent: Mapped[str] = mapped_column(String(50), server_default="casual")
    age: Mapped[int | None]
    location_city: Mapped[str | None] = mapped_column(String(100))
    location_country: Mapped[str | None] = mapped_column(String(100))
    preferences: Mapped[JsonObject | None] = mapped_column(server_default="{}")
    created_at: Mapped[AwareCurrent | None]
    updated_at: Mapped[AwareCurrent | None]


class UserSession(Base):
    """One socket of a user and their presence on it."""

    __tablename__ = "user_sessions"
    __table_args__ = (
        CheckConstraint("status IN ('online', 'offline', 'in-call', 'queuing')"),
        Index("idx_sessions_expires_at", "expires_at"),
        Index("idx_sessions_socket_id", "socket_id"),
        Index("idx_sessions_status", "status"),
        Index("idx_sessions_user_id", "user_id"),
        {"schema": "user_schema"},
    )

    id: Mapped[GeneratedId]
    user_id: Mapped[UUID] = mapped_column(ForeignKey("user_schema.users.id", ondelete="CASCADE"))
    socket_id: Mapped[str | None] = mapped_column(String(255))
    status: Mapped[str | None] = mapped_column(String(20), server_default="offline")
    ip_address: Mapped[Inet | None]
    user_agent: Mapped[TextStr | None]
    created_at: Mapped[AwareCurrent | None]
    updated_at: Mapped[AwareCurrent | None]
    expires_at: Mapped[Aware | None]


class InteractionLog(Base):
    """One call between two users and how it ended."""

    __tablename__ = "interaction_logs"
    __table_args__ = (
        CheckConstraint("interaction_type IN ('voice_call', 'video_call')"),
        CheckConstraint("outcome IN ('no_action', 'female_connected', 'both_left', 'timeout')"),
        Index("idx_interaction_logs_female_user_id", "female_user_id"),
        Index("idx_interaction_logs_outcome", "outcome"),
        Index("idx_interaction_logs_room_id", "room_id"),
        Index("idx_interaction_logs_started_at", "started_at"),
        Index("idx_interaction_logs_user1_id", "user1_id"),
        Index("idx_interaction_logs_user2_id", "user2_id"),
        Index("idx_interaction_logs_users_composite", "user1_id", "user2_id"),
        {"schema": "interaction_schema"},
    )

    id: Mapped[GeneratedId]
    user1_id: Mapped[UUID] = mapped_column(ForeignKey("user_schema.users.id", ondelete="CASCADE"))
    user2_id: Mapped[UUID] = mapped_column(ForeignKey("user_schema.users.id", ondelete="CASCADE"))
    room_id: Mapped[str] = mapped_column(String(255))
    interaction_type: Mapped[str | None] = mapped_column(String(20), server_default="voice_call")
    started_at: Mapped[AwareCurrent | None]
    ended_at: Mapped[Aware | None]
    duration_seconds: Mapped[Counter | None]
    # Stays 'no_action' unless someone says otherwise, even where a connection came of the call.
    outcome: Mapped[str | None] = mapped_column(String(20), server_default="no_action")
    female_user_id: Mapped[UUID | None] = mapped_column(ForeignKey("user_schema.users.id"))
    metadata_: Mapped[JsonObject | None] = mapped_column("metadata", server_default="{}")


class Connection(Base):
    """A lasting tie between two users who had a call. Goes with its log, and takes its chat with it."""

    __tablename__ = "connections"
    __table_args__ = (
        CheckConstraint("connection_type IN ('chat_only', 'video_enabled')"),
        UniqueConstraint("user1_id", "user2_id", name="unique_user_connection"),
        Index("idx_connections_active", "is_active"),
        Index("idx_connections_created_at", "created_at"),
        Index("idx_connections_female_user_id", "female_user_id"),
        Index("idx_connections_interaction_log_id", "interaction_log_id"),
        Index("idx_connections_user1_id", "user1_id"),
        Index("idx_connections_user2_id", "user2_id"),
        {"schema": "interaction_schema"},
    )

    id: Mapped[GeneratedId]
    user1_id: Mapped[UUID] = mapped_column(ForeignKey("user_schema.users.id", ondelete="CASCADE"))
    user2_id: Mapped[UUID] = mapped_column(ForeignKey("user_schema.users.id", ondelete="CASCADE"))
    interaction_log_id: Mapped[UUID] = mapped_column(
        ForeignKey("interaction_schema.interaction_logs.id", ondelete="CASCADE")
    )
    female_user_id: Mapped[UUID] = mapped_column(ForeignKey("user_schema.users.id"))
    connection_type: Mapped[str | None] = mapped_column(String(20), server_default="chat_only")
    is_active: Mapped[DefaultTrue | None]
    created_at: Mapped[AwareCurrent | None]
    updated_at: Mapped[AwareCurrent | None]


class VideoRequest(Base):
    """A request for a video call within a connection, until `expires_at`."""

    __tablename__ = "video_requests"
    __table_args__ = (
        CheckConstraint("status IN ('pending', 'approved', 'rejected', 'expired')"),
        Index("idx_video_requests_approver", "approver_user_id"),
        Index("idx_video_requests_connection_id", "connection_id"),
        Index("idx_video_requests_expires_at", "expires_at"),
        Index("idx_video_requests_requester", "requester_user_id"),
        Index("idx_video_requests_status", "status"),
        {"schema": "interaction_schema"},
    )

    id: Mapped[GeneratedId]
    connection_id: Mapped[UUID] = mapped_column(
        ForeignKey("interaction_schema.connections.id", ondelete="CASCADE")
    )
    requester_user_id: Mapped[UUID] = mapped_column(ForeignKey("user_schema.users.id", ondelete="CASCADE"))
    approver_user_id: Mapped[UUID] = mapped_column(ForeignKey("user_schema.users.id", ondelete="CASCADE"))
    status: Mapped[str | None] = mapped_column(String(20), server_default="pending")
    requested_at: Mapped[AwareCurrent | None]
    responded_at: Mapped[Aware | None]
    expires_at: Mapped[Aware | None] = mapped_column(
        server_default=text("CURRENT_TIMESTAMP + interval '24 hours'")
    )
    metadata_: Mapped[JsonObject | None] = mapped_column("metadata", server_default="{}")


class ChatRoom(Base):
    """The chat of one connection."""

    __tablename__ = "chat_rooms"
    __table_args__ = (
        Index("idx_chat_rooms_active", "is_active"),
        Index("idx_chat_rooms_connection_id", "connection_id"),
        Index("idx_chat_rooms_room_name", "room_name"),
        {"schema": "communication_schema"},
    )

    id: Mapped[GeneratedId]
    connection_id: Mapped[UUID] = mapped_column(
        ForeignKey("interaction_schema.connections.id", ondelete="CASCADE"), unique=True
    )
    room_name: Mapped[str] = mapped_column(String(255))
    is_active: Mapped[DefaultTrue | None]
    created_at: Mapped[AwareCurrent | None]
    updated_at: Mapped[AwareCurrent | None]


class Message(Base):
    """One message in a chat room."""

    __tablename__ = "messages"
    __table_args__ = (
        CheckConstraint("message_type IN ('text', 'image', 'video', 'voice', 'system')"),
        Index("idx_messages_chat_room_id", "chat_room_id"),
        Index("idx_messages_created_at", "created_at"),
        Index("idx_messages_deleted", "is_deleted"),
        Index("idx_messages_room_created_desc", "chat_room_id", text("created_at DESC")),
        Index("idx_messages_sender_user_id", "sender_user_id"),
        Index("idx_messages_type", "message_type"),
        {"schema": "communication_schema"},
    )

    id: Mapped[GeneratedId]
    chat_room_id: Mapped[UUID] = mapped_column(
        ForeignKey("communication_schema.chat_rooms.id", ondelete="CASCADE")
    )
    sender_user_id: Mapped[UUID] = mapped_column(ForeignKey("user_schema.users.id", ondelete="CASCADE"))
    content: Mapped[TextStr]
    message_type: Mapped[str | None] = mapped_column(String(20), server_default="text")
    metadata_: Mapped[JsonObject | None] = mapped_column("metadata", server_default="{}")
    is_edited: Mapped[DefaultFalse | None]
    is_deleted: Mapped[DefaultFalse | None]
    created_at: Mapped[AwareCurrent | None]
    updated_at: Mapped[AwareCurrent | None]


class MessageReadStatus(Base):
    """When one user read one message."""

    __tablename__ = "message_read_status"
    __table_args__ = (
        UniqueConstraint("message_id", "user_id", name="unique_user_message_read"),
        Index("idx_message_read_status_message_id", "message_id"),
        Index("idx_message_read_status_read_at", "read_at"),
        Index("idx_message_read_status_user_id", "user_id"),
        {"schema": "communication_schema"},
    )

    id: Mapped[GeneratedId]
    message_id: Mapped[UUID] = mapped_column(
        ForeignKey("communication_schema.messages.id", ondelete="CASCADE")
    )
    user_id: Mapped[UUID] = mapped_column(ForeignKey("user_schema.users.id", ondelete="CASCADE"))
    read_at: Mapped[AwareCurrent | None]


#: Run in this order after the tables; `{schema}` stands for the schema's real name, quoted. The
#: application's functions name no schema; here each is in that of the table it is about.
ROUTINES: tuple[str, ...] = (
    """
    CREATE FUNCTION {user_schema}.update_timestamp() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        NEW.updated_at := CURRENT_TIMESTAMP;
        RETURN NEW;
    END $$
    """,
    """
    CREATE TRIGGER update_users_timestamp BEFORE UPDATE ON {user_schema}.users
    FOR EACH ROW EXECUTE FUNCTION {user_schema}.update_timestamp()
    """,
    """
    CREATE TRIGGER update_profiles_timestamp BEFORE UPDATE ON {user_schema}.profiles
    FOR EACH ROW EXECUTE FUNCTION {user_schema}.update_timestamp()
    """,
    """
    CREATE TRIGGER update_sessions_timestamp BEFORE UPDATE ON {user_schema}.user_sessions
    FOR EACH ROW EXECUTE FUNCTION {user_schema}.update_timestamp()
    """,
    """
    CREATE TRIGGER update_connections_timestamp BEFORE UPDATE ON {interaction_schema}.connections
    FOR EACH ROW EXECUTE FUNCTION {user_schema}.update_timestamp()
    """,
    """
    CREATE TRIGGER update_chat_rooms_timestamp BEFORE UPDATE ON {communication_schema}.chat_rooms
    FOR EACH ROW EXECUTE FUNCTION {user_schema}.update_timestamp()
    """,
    """
    CREATE TRIGGER update_messages_timestamp BEFORE UPDATE ON {communication_schema}.messages
    FOR EACH ROW EXECUTE FUNCTION {user_schema}.update_timestamp()
    """,
    # The other side of an active connection; NULL when the user is on neither.
    """
    CREATE FUNCTION {interaction_schema}.get_connection_partner(
        input_user_id uuid, input_connection_id uuid
    ) RETURNS uuid LANGUAGE plpgsql AS $$
    BEGIN
        RETURN (
            SELECT CASE input_user_id WHEN user1_id THEN user2_id WHEN user2_id THEN user1_id END
              FROM {interaction_schema}.connections
             WHERE id = input_connection_id AND is_active
        );
    END $$
    """,
    # NULL for a user who is not there.
    """
    CREATE FUNCTION {user_schema}.is_female_user(input_user_id uuid) RETURNS boolean
    LANGUAGE plpgsql AS $$
    BEGIN
        RETURN (SELECT role = 'female' FROM {user_schema}.users WHERE id = input_user_id);
    END $$
    """,
    """
    CREATE FUNCTION {user_schema}.cleanup_expired_sessions() RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
        DELETE FROM {user_schema}.user_sessions WHERE expires_at < CURRENT_TIMESTAMP;
    END $$
    """,
    # Deletes logs that a connection refers to as well, and with them the connection and its chat.
    """
    CREATE FUNCTION {interaction_schema}.cleanup_old_interactions(retention_days integer DEFAULT 365)
    RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
        DELETE FROM {interaction_schema}.interaction_logs
         WHERE started_at < CURRENT_TIMESTAMP - interval '1 day' * retention_days
           AND outcome IN ('no_action', 'both_left', 'timeout');
    END $$
    """,
)
