"""The platform's own tables, in the schema `roomkeeper`. Alembic makes them (`migrations/`)."""

from datetime import datetime
from typing import Any, ClassVar
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, DateTime, Identity, Index, Text, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from models.base import Base

SCHEMA = "roomkeeper"


class PlatformBase(DeclarativeBase):
    """Base of the platform's tables: the common metadata, a registry of its own."""

    metadata = Base.metadata
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        str: Text,
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB,
    }


class AttachmentJob(PlatformBase):
    """Where one attachment stands in the pipeline. The applications' tables hold no such state.

    `attempt` counts claims and fences writes: only the holder of the latest claim may write. `failures`
    counts the claims that ended badly (an error, a dead worker); a scanner that does not answer is not one.
    """

    __tablename__ = "attachment_jobs"
    __table_args__ = (
        CheckConstraint("state in ('waiting', 'running', 'finished', 'parked')", name="state_known"),
        CheckConstraint("outcome in ('accepted', 'refused', 'quarantined')", name="outcome_known"),
        CheckConstraint("verdict in ('clean', 'infected', 'suspicious', 'opaque')", name="verdict_known"),
        CheckConstraint("(state = 'running') = (lease_until is not null)", name="lease_while_running"),
        CheckConstraint("(state = 'finished') = (outcome is not null)", name="outcome_when_finished"),
        # The periodic twin asks for these two alone; finished rows, nearly all, are not in the index.
        Index("attachment_jobs_due", "not_before", postgresql_where=text("state = 'waiting'")),
        Index("attachment_jobs_leases", "lease_until", postgresql_where=text("state = 'running'")),
        {"schema": SCHEMA},
    )

    app: Mapped[str] = mapped_column(primary_key=True)
    attachment_id: Mapped[UUID] = mapped_column(primary_key=True)
    state: Mapped[str]
    attempt: Mapped[int] = mapped_column(server_default=text("0"))
    failures: Mapped[int] = mapped_column(server_default=text("0"))
    waits: Mapped[int] = mapped_column(server_default=text("0"))
    not_before: Mapped[datetime | None]
    enqueued_at: Mapped[datetime | None]
    lease_until: Mapped[datetime | None]
    worker: Mapped[str | None]
    phase: Mapped[str | None]
    outcome: Mapped[str | None]
    verdict: Mapped[str | None]
    reason: Mapped[str | None]
    detail: Mapped[str | None]
    sha256: Mapped[str | None]
    size_bytes: Mapped[int | None] = mapped_column(BigInteger)
    media_type: Mapped[str | None]
    signature: Mapped[str | None]
    engine_version: Mapped[str | None]
    signature_version: Mapped[str | None]
    small_key: Mapped[str | None]
    large_key: Mapped[str | None]
    quarantine_key: Mapped[str | None]
    timings: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
    created_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    updated_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    finished_at: Mapped[datetime | None]


class Position(PlatformBase):
    """How far a job has come that walks through a table, a stretch at each turn; NULL: at its beginning."""

    __tablename__ = "positions"
    __table_args__ = ({"schema": SCHEMA},)

    job: Mapped[str] = mapped_column(primary_key=True)
    app: Mapped[str] = mapped_column(primary_key=True)
    position: Mapped[UUID | None]


class DeadLetter(PlatformBase):
    """A message that was refused or failed for good: kept with its reason, not retried for ever."""

    __tablename__ = "dead_letters"
    __table_args__ = (Index("dead_letters_created_at", "created_at"), {"schema": SCHEMA})

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    task: Mapped[str]
    task_id: Mapped[str]
    payload: Mapped[dict[str, Any]]
    reason: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=text("now()"))


class JobRun(PlatformBase):
    """The ledger: one row for each run of a periodic job."""

    __tablename__ = "job_runs"
    __table_args__ = (
        CheckConstraint("outcome in ('done', 'more', 'skipped', 'failed')", name="run_outcome_known"),
        Index("job_runs_job_started_at", "job", "started_at"),
        {"schema": SCHEMA},
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    job: Mapped[str]
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime]
    rows: Mapped[int] = mapped_column(BigInteger)
    outcome: Mapped[str]
    error: Mapped[str | None]
