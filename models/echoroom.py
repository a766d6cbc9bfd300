"""`echoroom`: mood-based voice rooms on Supabase, with row level security on every table."""

from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Aware, AwareNow, Base, Counter, DefaultFalse, DefaultTrue, GeneratedId, TextStr

#: The logical names of the application's schemas.
SCHEMAS: tuple[str, ...] = ("echoroom",)


class ChatSession(Base):
    """A mood-based voice room."""

    __tablename__ = "chat_sessions"
    __table_args__ = (
        Index("idx_chat_sessions_active", "is_active"),
        Index("idx_chat_sessions_category", "category"),
        {"schema": "echoroom"},
    )

    id: Mapped[GeneratedId]
    category: Mapped[TextStr]
    description: Mapped[TextStr | None]
    is_active: Mapped[DefaultTrue | None]
    max_participants: Mapped[int | None] = mapped_column(server_default=text("6"))
    # Kept by a trigger that only adds and subtracts: recount rather than trust it.
    current_participants: Mapped[Counter | None]
    created_at: Mapped[AwareNow | None]
    updated_at: Mapped[AwareNow | None]


class User(Base):
    """A person, mostly anonymous under a made-up name."""

    __tablename__ = "users"
    __table_args__ = (
        Index("idx_users_last_active", "last_active"),
        Index("idx_users_username", "username"),
        {"schema": "echoroom"},
    )

    id: Mapped[GeneratedId]
    username: Mapped[TextStr]
    avatar_url: Mapped[TextStr | None]
    is_anonymous: Mapped[DefaultTrue | None]
    # Hardly ever written by the application: no proof of inactivity by itself.
    last_active: Mapped[AwareNow | None]
    created_at: Mapped[AwareNow | None]
    updated_at: Mapped[AwareNow | None]


class SessionParticipant(Base):
    """One person in one room, now or earlier."""

    __tablename__ = "session_participants"
    __table_args__ = (
        UniqueConstraint("session_id", "user_id"),
        Index("idx_session_participants_active", "is_active"),
        Index("idx_session_participants_session", "session_id"),
        Index("idx_session_participants_user", "user_id"),
        {"schema": "echoroom"},
    )

    id: Mapped[GeneratedId]
    session_id: Mapped[UUID | None] = mapped_column(
        ForeignKey("echoroom.chat_sessions.id", ondelete="CASCADE")
    )
    user_id: Mapped[UUID | None] = mapped_column(ForeignKey("echoroom.users.id", ondelete="CASCADE"))
    joined_at: Mapped[AwareNow | None]
    left_at: Mapped[Aware | None]
    is_active: Mapped[DefaultTrue | None]
    mood: Mapped[TextStr | None]
    is_speaking: Mapped[DefaultFalse | None]
    is_muted: Mapped[DefaultFalse | None]


class ChatMessage(Base):
    """One message in a room."""

    __tablename__ = "chat_messages"
    __table_args__ = (
        CheckConstraint("message_type IN ('text', 'system', 'ai-prompt', 'mood-check')"),
        Index("idx_chat_messages_session", "session_id", text("created_at DESC")),
        Index("idx_chat_messages_type", "message_type"),
        Index("idx_chat_messages_user", "user_id"),
        {"schema": "echoroom"},
    )

    id: Mapped[GeneratedId]
    session_id: Mapped[UUID | None] = mapped_column(
        ForeignKey("echoroom.chat_sessions.id", ondelete="CASCADE")
    )
    user_id: Mapped[UUID | None] = mapped_column(ForeignKey("echoroom.users.id", ondelete="SET NULL"))
    # A copy: it survives the deletion of the user.
    sender_name: Mapped[TextStr]
    content: Mapped[TextStr]
    message_type: Mapped[TextStr | None] = mapped_column(server_default="text")
    reply_to: Mapped[UUID | None] = mapped_column(
        ForeignKey("echoroom.chat_messages.id", ondelete="SET NULL")
    )
    is_edited: Mapped[DefaultFalse | None]
    edited_at: Mapped[Aware | None]
    created_at: Mapped[AwareNow | None]
    updated_at: Mapped[AwareNow | None]


class MessageReaction(Base):
    """One person's emoji at one message."""

    __tablename__ = "message_reactions"
    __table_args__ = (
        UniqueConstraint("message_id", "user_id", "emoji"),
        Index("idx_message_reactions_message", "message_id"),
        Index("idx_message_reactions_user", "user_id"),
        {"schema": "echoroom"},
    )

    id: Mapped[GeneratedId]
    message_id: Mapped[UUID | None] = mapped_column(
        ForeignKey("echoroom.chat_messages.id", ondelete="CASCADE")
    )
    user_id: Mapped[UUID | None] = mapped_column(ForeignKey("echoroom.users.id", ondelete="CASCADE"))
    emoji: Mapped[TextStr]
    created_at: Mapped[AwareNow | None]


class TypingIndicator(Base):
    """One person typing in one room, until `expires_at`."""

    __tablename__ = "typing_indicators"
    __table_args__ = (
        UniqueConstraint("session_id", "user_id"),
        Index("idx_typing_indicators_expires", "expires_at"),
        Index("idx_typing_indicators_session", "session_id"),
        {"schema": "echoroom"},
    )

    id: Mapped[GeneratedId]
    session_id: Mapped[UUID | None] = mapped_column(
        ForeignKey("echoroom.chat_sessions.id", ondelete="CASCADE")
    )
    user_id: Mapped[UUID | None] = mapped_column(ForeignKey("echoroom.users.id", ondelete="CASCADE"))
    username: Mapped[TextStr]
    started_at: Mapped[AwareNow | None]
    expires_at: Mapped[Aware | None] = mapped_column(server_default=text("now() + interval '10 seconds'"))


class VoiceStatus(Base):
    """Whether one person in one room is speaking or muted."""

    __tablename__ = "voice_status"
    __table_args__ = (
        UniqueConstraint("session_id", "user_id"),
        Index("idx_voice_status_session", "session_id"),
        Index("idx_voice_status_user", "user_id"),
        {"schema": "echoroom"},
    )

    id: Mapped[GeneratedId]
    session_id: Mapped[UUID | None] = mapped_column(
        ForeignKey("echoroom.chat_sessions.id", ondelete="CASCADE")
    )
    user_id: Mapped[UUID | None] = mapped_column(ForeignKey("echoroom.users.id", ondelete="CASCADE"))
    is_speaking: Mapped[DefaultFalse | None]
    is_muted: Mapped[DefaultFalse | None]
    last_updated: Mapped[AwareNow | None]


#: Run in this order after the tables; `{schema}` stands for the schema's real name, quoted.
ROUTINES: tuple[str, ...] = (
    """
    CREATE FUNCTION {echoroom}.update_updated_at_column() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        NEW.updated_at := now();
        RETURN NEW;
    END $$
    """,
    """
    CREATE TRIGGER update_chat_sessions_updated_at BEFORE UPDATE ON {echoroom}.chat_sessions
    FOR EACH ROW EXECUTE FUNCTION {echoroom}.update_updated_at_column()
    """,
    """
    CREATE TRIGGER update_users_updated_at BEFORE UPDATE ON {echoroom}.users
    FOR EACH ROW EXECUTE FUNCTION {echoroom}.update_updated_at_column()
    """,
    """
    CREATE TRIGGER update_chat_messages_updated_at BEFORE UPDATE ON {echoroom}.chat_messages
    FOR EACH ROW EXECUTE FUNCTION {echoroom}.update_updated_at_column()
    """,
    # The application's own counting, faults included: a row whose `is_active` passes through NULL is
    # subtracted without having been added, and a change of room is not seen at all.
    """
    CREATE FUNCTION {echoroom}.update_session_participant_count() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE
        step integer := 0;
        room uuid;
    BEGIN
        IF TG_OP = 'INSERT' THEN
            room := NEW.session_id;
            IF NEW.is_active THEN step := 1; END IF;
        ELSIF TG_OP = 'UPDATE' THEN
            room := NEW.session_id;
            IF OLD.is_active AND NOT NEW.is_active THEN step := -1;
            ELSIF NOT OLD.is_active AND NEW.is_active THEN step := 1;
            END IF;
        ELSE
            room := OLD.session_id;
            IF OLD.is_active THEN step := -1; END IF;
        END IF;
        IF step <> 0 THEN
            UPDATE {echoroom}.chat_sessions
               SET current_participants = current_participants + step
             WHERE id = room;
        END IF;
        RETURN NULL;
    END $$
    """,
    """
    CREATE TRIGGER update_participant_count_trigger
    AFTER INSERT OR UPDATE OR DELETE ON {echoroom}.session_participants
    FOR EACH ROW EXECUTE FUNCTION {echoroom}.update_session_participant_count()
    """,
    """
    CREATE FUNCTION {echoroom}.cleanup_expired_typing_indicators() RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
        DELETE FROM {echoroom}.typing_indicators WHERE expires_at < now();
    END $$
    """,
    """
    CREATE FUNCTION {echoroom}.cleanup_inactive_participants() RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
        UPDATE {echoroom}.session_participants
           SET is_active = false, left_at = now()
         WHERE is_active = true
           AND user_id IN (
               SELECT id FROM {echoroom}.users WHERE last_active < now() - interval '30 minutes'
           );
    END $$
    """,
    "ALTER TABLE {echoroom}.chat_sessions ENABLE ROW LEVEL SECURITY",
    "ALTER TABLE {echoroom}.users ENABLE ROW LEVEL SECURITY",
    "ALTER TABLE {echoroom}.session_participants ENABLE ROW LEVEL SECURITY",
    "ALTER TABLE {echoroom}.chat_messages ENABLE ROW LEVEL SECURITY",
    "ALTER TABLE {echoroom}.message_reactions ENABLE ROW LEVEL SECURITY",
    "ALTER TABLE {echoroom}.typing_indicators ENABLE ROW LEVEL SECURITY",
    "ALTER TABLE {echoroom}.voice_status ENABLE ROW LEVEL SECURITY",
    """
    CREATE POLICY "Chat sessions are publicly readable" ON {echoroom}.chat_sessions
    FOR SELECT USING (true)
    """,
    """
    CREATE POLICY "Users can read own data" ON {echoroom}.users
    FOR SELECT USING ({auth}.uid() = id)
    """,
    """
    CREATE POLICY "Users can update own data" ON {echoroom}.users
    FOR UPDATE USING ({auth}.uid() = id)
    """,
    # Asks its own table, so PostgreSQL refuses a plain role's query here, and wherever another policy
    # looks in here, with "infinite recursion". So it is documented.
    """
    CREATE POLICY "Users can see session participants" ON {echoroom}.session_participants
    FOR SELECT USING (
        session_id IN (
            SELECT session_id FROM {echoroom}.session_participants
            WHERE user_id = {auth}.uid() AND is_active = true
        )
    )
    """,
    """
    CREATE POLICY "Users can see session messages" ON {echoroom}.chat_messages
    FOR SELECT USING (
        session_id IN (
            SELECT session_id FROM {echoroom}.session_participants
            WHERE user_id = {auth}.uid() AND is_active = true
        )
    )
    """,
    """
    CREATE POLICY "Users can send messages" ON {echoroom}.chat_messages
    FOR INSERT WITH CHECK (user_id = {auth}.uid())
    """,
    """
    CREATE POLICY "Users can see message reactions" ON {echoroom}.message_reactions
    FOR SELECT USING (
        message_id IN (
            SELECT id FROM {echoroom}.chat_messages
            WHERE session_id IN (
                SELECT session_id FROM {echoroom}.session_participants
                WHERE user_id = {auth}.uid() AND is_active = true
            )
        )
    )
    """,
    """
    CREATE POLICY "Users can add reactions" ON {echoroom}.message_reactions
    FOR INSERT WITH CHECK (user_id = {auth}.uid())
    """,
    """
    CREATE POLICY "Users can see typing indicators" ON {echoroom}.typing_indicators
    FOR SELECT USING (
        session_id IN (
            SELECT session_id FROM {echoroom}.session_participants
            WHERE user_id = {auth}.uid() AND is_active = true
        )
    )
    """,
    """
    CREATE POLICY "Users can see voice status" ON {echoroom}.voice_status
    FOR SELECT USING (
        session_id IN (
            SELECT session_id FROM {echoroom}.session_participants
            WHERE user_id = {auth}.uid() AND is_active = true
        )
    )
    """,
)
