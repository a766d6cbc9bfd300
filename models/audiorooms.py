"""`audiorooms`: broadcast audio rooms on Supabase, with row level security on every table."""

import datetime
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import (
    Aware,
    AwareNow,
    Base,
    Counter,
    DefaultFalse,
    DefaultTrue,
    GeneratedId,
    Inet,
    JsonObject,
    TextStr,
)
from models.supabase import User as AuthUser

#: The logical names of the application's schemas.
SCHEMAS: tuple[str, ...] = ("audiorooms",)


class AudioRoom(Base):
    """A broadcast room. People know it by its six-character `code`."""

    __tablename__ = "audio_rooms"
    __table_args__ = (
        CheckConstraint("char_length(code) = 6"),
        CheckConstraint("code ~ '^[A-Z0-9]{6}$'"),
        Index("idx_rooms_active", "active", "created_at"),
        Index("idx_rooms_code", "code", postgresql_where=text("active = true")),
        Index("idx_rooms_created_by", "created_by"),
        Index("idx_rooms_suspended", "suspended_until", postgresql_where=text("suspended_until IS NOT NULL")),
        {"schema": "audiorooms"},
    )

    id: Mapped[GeneratedId]
    code: Mapped[TextStr] = mapped_column(unique=True)
    password_hash: Mapped[TextStr]
    created_by: Mapped[UUID | None] = mapped_column(ForeignKey(AuthUser.id, ondelete="CASCADE"))
    active: Mapped[DefaultTrue | None]
    public: Mapped[DefaultFalse | None]
    suspended_until: Mapped[Aware | None]
    metadata_: Mapped[JsonObject | None] = mapped_column("metadata", server_default="{}")
    created_at: Mapped[AwareNow | None]
    updated_at: Mapped[AwareNow | None]


class RoomParticipant(Base):
    """One stay of one client in one room; a reconnect makes another row."""

    __tablename__ = "room_participants"
    __table_args__ = (
        CheckConstraint("connection_duration IS NULL OR connection_duration >= 0"),
        CheckConstraint("role IN ('broadcaster', 'listener')"),
        Index("idx_participants_active", "room_id", "left_at", postgresql_where=text("left_at IS NULL")),
        Index("idx_participants_joined", "joined_at"),
        Index("idx_participants_room", "room_id"),
        Index("idx_participants_user", "user_id"),
        {"schema": "audiorooms"},
    )

    id: Mapped[GeneratedId]
    room_id: Mapped[UUID | None] = mapped_column(ForeignKey("audiorooms.audio_rooms.id", ondelete="CASCADE"))
    user_id: Mapped[UUID | None] = mapped_column(ForeignKey(AuthUser.id, ondelete="SET NULL"))
    client_id: Mapped[TextStr | None]
    nickname: Mapped[TextStr | None]
    # NULL counts as 'listener'.
    role: Mapped[TextStr | None] = mapped_column(server_default="listener")
    joined_at: Mapped[AwareNow | None]
    left_at: Mapped[Aware | None]
    # Whole seconds, set by a trigger when `left_at` is.
    connection_duration: Mapped[int | None]


class RoomAnalytics(Base):
    """The statistics of one room for one day."""

    __tablename__ = "room_analytics"
    __table_args__ = (
        UniqueConstraint("room_id", "date", name="unique_room_date"),
        Index("idx_analytics_date", "date"),
        Index("idx_analytics_room", "room_id"),
        Index("idx_analytics_room_date", "room_id", "date"),
        {"schema": "audiorooms"},
    )

    id: Mapped[GeneratedId]
    room_id: Mapped[UUID | None] = mapped_column(ForeignKey("audiorooms.audio_rooms.id", ondelete="CASCADE"))
    date: Mapped[datetime.date]
    peak_listeners: Mapped[Counter | None]
    total_listen_minutes: Mapped[Counter | None]
    total_listeners: Mapped[Counter | None]
    total_packets_sent: Mapped[int | None] = mapped_column(BigInteger, server_default=text("0"))
    total_packets_received: Mapped[int | None] = mapped_column(BigInteger, server_default=text("0"))
    avg_latency_ms: Mapped[int | None]
    created_at: Mapped[AwareNow | None]


class AuditLog(Base):
    """One entry of the audit trail."""

    __tablename__ = "audit_log"
    __table_args__ = (
        CheckConstraint(
            "event_type IN ('login_success', 'login_failure', 'room_created', 'room_joined', 'room_left',"
            " 'room_closed', 'token_refresh', 'rate_limit_exceeded', 'invalid_token', 'room_access_denied')"
        ),
        Index("idx_audit_created", "created_at"),
        Index("idx_audit_event_type", "event_type"),
        Index("idx_audit_ip", "ip_address"),
        Index("idx_audit_room", "room_id"),
        Index("idx_audit_user", "user_id"),
        {"schema": "audiorooms"},
    )

    id: Mapped[GeneratedId]
    event_type: Mapped[TextStr]
    user_id: Mapped[UUID | None] = mapped_column(ForeignKey(AuthUser.id, ondelete="SET NULL"))
    room_id: Mapped[UUID | None] = mapped_column(ForeignKey("audiorooms.audio_rooms.id", ondelete="SET NULL"))
    ip_address: Mapped[Inet | None]
    user_agent: Mapped[TextStr | None]
    details: Mapped[JsonObject | None] = mapped_column(server_default="{}")
    created_at: Mapped[AwareNow | None]


#: Run in this order after the tables; `{schema}` stands for the schema's real name, quoted. No policies
#: are documented: a role that row level security applies to sees nothing.
ROUTINES: tuple[str, ...] = (
    """
    CREATE FUNCTION {audiorooms}.set_audio_room_updated_at() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        NEW.updated_at := now();
        RETURN NEW;
    END $$
    """,
    """
    CREATE TRIGGER audio_rooms_updated_at BEFORE UPDATE ON {audiorooms}.audio_rooms
    FOR EACH ROW EXECUTE FUNCTION {audiorooms}.set_audio_room_updated_at()
    """,
    # A `left_at` before `joined_at` gives a negative duration, and the CHECK on it refuses the row. Cut,
    # not rounded: a stay is not credited with a second that it did not last.
    """
    CREATE FUNCTION {audiorooms}.set_connection_duration() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF OLD.left_at IS NULL AND NEW.left_at IS NOT NULL THEN
            NEW.connection_duration := floor(extract(epoch FROM NEW.left_at - NEW.joined_at))::integer;
        END IF;
        RETURN NEW;
    END $$
    """,
    """
    CREATE TRIGGER room_participants_connection_duration BEFORE UPDATE ON {audiorooms}.room_participants
    FOR EACH ROW EXECUTE FUNCTION {audiorooms}.set_connection_duration()
    """,
    "ALTER TABLE {audiorooms}.audio_rooms ENABLE ROW LEVEL SECURITY",
    "ALTER TABLE {audiorooms}.room_participants ENABLE ROW LEVEL SECURITY",
    "ALTER TABLE {audiorooms}.room_analytics ENABLE ROW LEVEL SECURITY",
    "ALTER TABLE {audiorooms}.audit_log ENABLE ROW LEVEL SECURITY",
    """
    CREATE VIEW {audiorooms}.active_rooms_view AS
    SELECT room.id, room.code, room.created_by, room.created_at, room.metadata,
           count(stay.id) FILTER (WHERE stay.left_at IS NULL) AS current_listeners,
           count(stay.id) AS total_listeners,
           max(stay.joined_at) AS last_activity
      FROM {audiorooms}.audio_rooms AS room
      LEFT JOIN {audiorooms}.room_participants AS stay ON stay.room_id = room.id
     WHERE room.active
     GROUP BY room.id
    """,
    # Joins stays and analytics to the room side by side, so each stay's seconds are summed once for each
    # day of analytics. The application's view does so, and no job may trust it.
    """
    CREATE VIEW {audiorooms}.room_statistics_view AS
    SELECT room.id, room.code, room.created_at,
           count(DISTINCT stay.id) AS total_participants,
           sum(stay.connection_duration) AS total_listen_seconds,
           avg(stay.connection_duration) AS avg_session_duration,
           max(day.peak_listeners) AS peak_listeners
      FROM {audiorooms}.audio_rooms AS room
      LEFT JOIN {audiorooms}.room_participants AS stay ON stay.room_id = room.id
      LEFT JOIN {audiorooms}.room_analytics AS day ON day.room_id = room.id
     GROUP BY room.id
    """,
)
