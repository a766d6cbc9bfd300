"""Statistics of our own, in the schema `roomkeeper`, and how far each rollup has come.

A figure counts what lies in its bucket alone. Sums of days are sums (messages, seconds, bytes); numbers of
different people, medians, 95th percentiles and peaks are not: for a week or a whole application they are
computed anew from the rows, never added up.

Seconds are durations; a median or percentile is NULL where there is nothing to take it of. `computed_at` is
when a row's statistics last changed.
"""

import datetime
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, Index, UniqueConstraint, func, text
from sqlalchemy.orm import Mapped, mapped_column

from models.platform import SCHEMA, PlatformBase

_COMPUTED_AT = text("now()")


class RollupState(PlatformBase):
    """How far a rollup has come.

    `watermark` is the end of the last closed bucket, and where the next one begins. `covered_from` is the
    beginning of the first. Rows are gone, by cleanup or retention, up to `frozen_to`: buckets that begin at
    or before it are not computed any more. `ticked_at` is the moment of the last run that computed open
    buckets; `probe` is what the counters of its tables said then. `daily_snapshot_at` is when whole tables
    were last read. `recompute_at` is the closed bucket that is to be looked at again next, and
    `recomputed_at` when one last was. Buckets before `zone_from` are days of `zone_before`, the others days
    of `zone`; both are NULL where all are. `definition` is the number of the definition that was computed.
    """

    __tablename__ = "rollups"
    __table_args__ = ({"schema": SCHEMA},)

    name: Mapped[str] = mapped_column(primary_key=True)
    zone: Mapped[str]
    watermark: Mapped[datetime.datetime]
    covered_from: Mapped[datetime.datetime]
    frozen_to: Mapped[datetime.datetime | None]
    ticked_at: Mapped[datetime.datetime | None]
    probe: Mapped[str | None]
    daily_snapshot_at: Mapped[datetime.datetime | None]
    recompute_at: Mapped[datetime.datetime | None]
    recomputed_at: Mapped[datetime.datetime | None]
    zone_from: Mapped[datetime.datetime | None]
    zone_before: Mapped[str | None]
    definition: Mapped[int] = mapped_column(server_default=text("1"))


class RollupLive(PlatformBase):
    """A key (a room, say) that had something going on at a rollup's last run, and since when."""

    __tablename__ = "rollup_live"
    __table_args__ = ({"schema": SCHEMA},)

    rollup: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[UUID] = mapped_column(primary_key=True)
    since: Mapped[datetime.datetime]


class ConnectCallsDaily(PlatformBase):
    """`connect`, per day and type of interaction: calls that began that day.

    `connected` are calls that a connection came of, or whose outcome says so; `connect_rate` is their share.
    Outcomes are counted as they stand; `no_outcome` are those without. `open_calls` have not ended.
    Durations are of calls that ended. `users` are different people.
    """

    __tablename__ = "connect_calls_daily"
    __table_args__ = ({"schema": SCHEMA},)

    day: Mapped[datetime.date] = mapped_column(primary_key=True)
    interaction_type: Mapped[str] = mapped_column(primary_key=True)
    calls: Mapped[int]
    female_connected: Mapped[int]
    both_left: Mapped[int]
    timeout: Mapped[int]
    no_action: Mapped[int]
    no_outcome: Mapped[int]
    open_calls: Mapped[int]
    connected: Mapped[int]
    connect_rate: Mapped[float]
    total_seconds: Mapped[int] = mapped_column(BigInteger)
    median_seconds: Mapped[float | None]
    p95_seconds: Mapped[float | None]
    users: Mapped[int]
    computed_at: Mapped[datetime.datetime] = mapped_column(server_default=_COMPUTED_AT)


class ConnectDaily(PlatformBase):
    """`connect`, per day: people in calls that began that day, video requests made that day by what became
    of them, messages sent that day and their senders."""

    __tablename__ = "connect_daily"
    __table_args__ = ({"schema": SCHEMA},)

    day: Mapped[datetime.date] = mapped_column(primary_key=True)
    users_in_calls: Mapped[int]
    requests: Mapped[int]
    requests_pending: Mapped[int]
    requests_approved: Mapped[int]
    requests_rejected: Mapped[int]
    requests_expired: Mapped[int]
    messages: Mapped[int]
    senders: Mapped[int]
    computed_at: Mapped[datetime.datetime] = mapped_column(server_default=_COMPUTED_AT)


class OpenchatMessagesDaily(PlatformBase):
    """`openchat`, per day and content type: messages sent that day, deleted ones too."""

    __tablename__ = "openchat_messages_daily"
    __table_args__ = ({"schema": SCHEMA},)

    day: Mapped[datetime.date] = mapped_column(primary_key=True)
    content_type: Mapped[str] = mapped_column(primary_key=True)
    messages: Mapped[int]
    computed_at: Mapped[datetime.datetime] = mapped_column(server_default=_COMPUTED_AT)


class OpenchatDaily(PlatformBase):
    """`openchat`, per day: messages sent that day, who sent them, in how many conversations, and how long
    those that were delivered took."""

    __tablename__ = "openchat_daily"
    __table_args__ = ({"schema": SCHEMA},)

    day: Mapped[datetime.date] = mapped_column(primary_key=True)
    messages: Mapped[int]
    active_users: Mapped[int]
    conversations: Mapped[int]
    delivered: Mapped[int]
    delivery_median_seconds: Mapped[float | None]
    delivery_p95_seconds: Mapped[float | None]
    computed_at: Mapped[datetime.datetime] = mapped_column(server_default=_COMPUTED_AT)


class AttachmentsDaily(PlatformBase):
    """Of each application with attachments, per day and verdict: files that the platform took up that day.

    `verdict` is 'none' for a file that has not got one (yet). Processing time is from when a file was taken
    up to when it was finished, of those that are.
    """

    __tablename__ = "attachments_daily"
    __table_args__ = ({"schema": SCHEMA},)

    day: Mapped[datetime.date] = mapped_column(primary_key=True)
    app: Mapped[str] = mapped_column(primary_key=True)
    verdict: Mapped[str] = mapped_column(primary_key=True)
    attachments: Mapped[int]
    finished: Mapped[int]
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    processing_median_seconds: Mapped[float | None]
    processing_p95_seconds: Mapped[float | None]
    computed_at: Mapped[datetime.datetime] = mapped_column(server_default=_COMPUTED_AT)


class PernDaily(PlatformBase):
    """`pern`, per day: messages sent that day, in how many conversations; statuses that were delivered or
    read that day, and how long after their message; people who sent, or read, something that day."""

    __tablename__ = "pern_daily"
    __table_args__ = ({"schema": SCHEMA},)

    day: Mapped[datetime.date] = mapped_column(primary_key=True)
    messages: Mapped[int]
    conversations: Mapped[int]
    active_users: Mapped[int]
    deliveries: Mapped[int]
    delivery_median_seconds: Mapped[float | None]
    delivery_p95_seconds: Mapped[float | None]
    reads: Mapped[int]
    read_median_seconds: Mapped[float | None]
    read_p95_seconds: Mapped[float | None]
    computed_at: Mapped[datetime.datetime] = mapped_column(server_default=_COMPUTED_AT)


class PernSessionsDaily(PlatformBase):
    """`pern`, per day: sessions that began that day, and whose they are."""

    __tablename__ = "pern_sessions_daily"
    __table_args__ = ({"schema": SCHEMA},)

    day: Mapped[datetime.date] = mapped_column(primary_key=True)
    sessions: Mapped[int]
    users: Mapped[int]
    computed_at: Mapped[datetime.datetime] = mapped_column(server_default=_COMPUTED_AT)


class PernSecurityDaily(PlatformBase):
    """`pern`, per day and severity: entries of the audit log, and of how many people."""

    __tablename__ = "pern_security_daily"
    __table_args__ = ({"schema": SCHEMA},)

    day: Mapped[datetime.date] = mapped_column(primary_key=True)
    severity: Mapped[str] = mapped_column(primary_key=True)
    events: Mapped[int]
    users: Mapped[int]
    computed_at: Mapped[datetime.datetime] = mapped_column(server_default=_COMPUTED_AT)


class _OfARoom:
    """The statistics of a room of `echoroom`, by the hour and by the day."""

    participants: Mapped[int]
    peak_participants: Mapped[int]
    messages: Mapped[int]
    messages_text: Mapped[int]
    messages_system: Mapped[int]
    messages_ai_prompt: Mapped[int]
    messages_mood_check: Mapped[int]
    reactions: Mapped[int]
    speakers: Mapped[int]
    computed_at: Mapped[datetime.datetime] = mapped_column(server_default=_COMPUTED_AT)


class EchoroomHourly(_OfARoom, PlatformBase):
    """`echoroom`, per room and hour: people in the room, the most at once, messages by type, reactions to
    them, and people who were seen speaking."""

    __tablename__ = "echoroom_hourly"
    __table_args__ = (Index("echoroom_hourly_hour", "hour"), {"schema": SCHEMA})

    room_id: Mapped[UUID] = mapped_column(primary_key=True)
    hour: Mapped[datetime.datetime] = mapped_column(primary_key=True)


class EchoroomDaily(_OfARoom, PlatformBase):
    """`echoroom`, per room and day: as by the hour."""

    __tablename__ = "echoroom_daily"
    __table_args__ = (Index("echoroom_daily_day", "day"), {"schema": SCHEMA})

    room_id: Mapped[UUID] = mapped_column(primary_key=True)
    day: Mapped[datetime.date] = mapped_column(primary_key=True)


class EchoroomStay(PlatformBase):
    """A stay of a person in a room of `echoroom`, as it was seen.

    The application keeps one row for each person and room, and overwrites it when they come again: what
    statistics need of it is copied in time. `left_at` is NULL while they are there; `seen_at` is when it
    was first seen.
    """

    __tablename__ = "echoroom_stays"
    __table_args__ = (
        UniqueConstraint("room_id", "user_id", "joined_at"),
        Index("echoroom_stays_joined_at", "joined_at"),
        Index("echoroom_stays_left_at", "left_at"),
        Index("echoroom_stays_seen_at", "seen_at"),
        Index("echoroom_stays_open", "room_id", postgresql_where=text("left_at is null")),
        {"schema": SCHEMA},
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.gen_random_uuid())
    room_id: Mapped[UUID]
    user_id: Mapped[UUID]
    joined_at: Mapped[datetime.datetime]
    left_at: Mapped[datetime.datetime | None]
    seen_at: Mapped[datetime.datetime]


class EchoroomSpeaker(PlatformBase):
    """A user who was seen speaking in a room of `echoroom` in the quarter of an hour that begins at `hour`.

    Rows of earlier versions are of a whole hour of UTC.
    """

    __tablename__ = "echoroom_speakers"
    __table_args__ = (
        UniqueConstraint("room_id", "user_id", "hour"),
        Index("echoroom_speakers_hour", "hour"),
        {"schema": SCHEMA},
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.gen_random_uuid())
    room_id: Mapped[UUID]
    user_id: Mapped[UUID]
    hour: Mapped[datetime.datetime]


class PernFact(PlatformBase):
    """What the statistics of `pern` need of a row that retention has deleted early, by a limit of its own.

    `at` is the quarter of an hour in which the row counts: in any zone a day begins at one. A 'message' has
    the `key` of its conversation; a 'person' is a user who sent or read something, by their `key`. Of a
    'delivery' and a 'read' only the `seconds` since the message was sent are kept. All facts of one batch of
    retention have its `batch`, by which they are removed if the rows are restored.
    """

    __tablename__ = "pern_facts"
    __table_args__ = (
        CheckConstraint("kind in ('message', 'person', 'delivery', 'read')", name="kind_known"),
        Index("pern_facts_at", "at"),
        {"schema": SCHEMA},
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.gen_random_uuid())
    at: Mapped[datetime.datetime]
    kind: Mapped[str]
    key: Mapped[UUID | None]
    seconds: Mapped[float | None]
    batch: Mapped[UUID]


class AttachmentFact(PlatformBase):
    """What the statistics of attachments need of a job that was deleted early, as `PernFact` for messages.

    `seconds` is NULL where the file was not finished.
    """

    __tablename__ = "attachment_facts"
    __table_args__ = (Index("attachment_facts_at", "at"), {"schema": SCHEMA})

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.gen_random_uuid())
    at: Mapped[datetime.datetime]
    app: Mapped[str]
    verdict: Mapped[str | None]
    size_bytes: Mapped[int | None] = mapped_column(BigInteger)
    seconds: Mapped[float | None]


class AudioroomsLongStay(PlatformBase):
    """The key of a stay of `audiorooms` that lasts long, or has lasted: no index finds those that reach into
    a day by their end, so a day looks for stays that began some hours before it, and here."""

    __tablename__ = "audiorooms_long_stays"
    __table_args__ = ({"schema": SCHEMA},)

    id: Mapped[UUID] = mapped_column(primary_key=True)
