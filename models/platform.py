"""The platform's own tables, in the schema `roomkeeper`. Alembic makes them (`migrations/`)."""

from datetime import datetime
from typing import Any, ClassVar
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    Double,
    Identity,
    Index,
    SmallInteger,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
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
        list[str]: ARRAY(Text),
        float: Double,
    }


class AttachmentJob(PlatformBase):
    """Where one attachment stands in the pipeline. The applications' tables hold no such state.

    `attempt` counts claims and fences writes: only the holder of the latest claim may write. `failures`
    counts the claims that ended badly (an error, a dead worker); a scanner that does not answer is not one.
    `override` is an operator's word, which stands above any verdict: a release for the content and the reason
    that it was given for, and no other. `rewritten_sha256` is what the original
    became when its personal metadata was taken out; the row may still describe what it was before.
    `judged_object` is what tells the object that the file was judged by from any other under its key, as the
    store does (`ObjectStore.fingerprint`); NULL where there was none.
    `risk` and `popularity` say which files a new version of the signatures looks at first.
    """

    __tablename__ = "attachment_jobs"
    __table_args__ = (
        CheckConstraint("state in ('waiting', 'running', 'finished', 'failed')", name="state_known"),
        CheckConstraint("outcome in ('accepted', 'refused', 'quarantined')", name="outcome_known"),
        CheckConstraint("verdict in ('clean', 'infected', 'suspicious', 'opaque')", name="verdict_known"),
        CheckConstraint("(state = 'running') = (lease_until is not null)", name="lease_while_running"),
        CheckConstraint("(state = 'finished') = (outcome is not null)", name="outcome_when_finished"),
        CheckConstraint("override in ('release', 'quarantine')", name="override_known"),
        # The recovery job asks for these two alone; finished rows, nearly all, are not in the index.
        Index("attachment_jobs_due", "not_before", postgresql_where=text("state = 'waiting'")),
        Index("attachment_jobs_leases", "lease_until", postgresql_where=text("state = 'running'")),
        Index("attachment_jobs_failed", "updated_at", postgresql_where=text("state = 'failed'")),
        # For rows that name the same object.
        Index("attachment_jobs_quarantined", "app", postgresql_where=text("quarantine_key is not null")),
        # A day's, for the statistics of that day.
        Index("attachment_jobs_created_at", "created_at"),
        # The last minutes' alone, for the rate.
        Index("attachment_jobs_finished_at", "finished_at", postgresql_where=text("finished_at is not null")),
        # All copies of a file, when one of them turns out to be infected.
        Index("attachment_jobs_sha256", "sha256"),
        # What is served and was scanned with older signatures, the most dangerous first.
        Index(
            "attachment_jobs_rescan",
            "signature_version",
            text("(risk + popularity) desc"),
            text("finished_at desc"),
            postgresql_where=text("outcome = 'accepted' and verdict = 'clean'"),
        ),
        Index(
            "attachment_jobs_urls",
            "url_expires_at",
            postgresql_where=text("url_expires_at is not null"),
        ),
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
    findings: Mapped[list[str]] = mapped_column(server_default=text("'{}'::text[]"))
    override: Mapped[str | None]
    override_sha256: Mapped[str | None]
    override_reason: Mapped[str | None]
    rewritten_sha256: Mapped[str | None]
    judged_object: Mapped[str | None]
    risk: Mapped[int] = mapped_column(SmallInteger, server_default=text("0"))
    popularity: Mapped[int] = mapped_column(SmallInteger, server_default=text("0"))
    url_expires_at: Mapped[datetime | None]
    rescanned_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    updated_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    finished_at: Mapped[datetime | None]


class AttachmentEvent(PlatformBase):
    """What happened to an attachment: one row for each phase of each attempt, and for what operators did.

    `seconds` is how long a phase took; `detail` what was found, by name; `actor` and `reason` are an
    operator's. Rows are only added.
    """

    __tablename__ = "attachment_events"
    __table_args__ = (
        Index("attachment_events_attachment", "app", "attachment_id", "id"),
        {"schema": SCHEMA},
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    app: Mapped[str]
    attachment_id: Mapped[UUID]
    attempt: Mapped[int]
    event: Mapped[str]
    at: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"))
    seconds: Mapped[float | None]
    worker: Mapped[str | None]
    detail: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
    actor: Mapped[str | None]
    reason: Mapped[str | None]


class ScanVerdict(PlatformBase):
    """The latest verdict on some content, by the engine and signatures that reached it: the same bytes are
    not scanned twice with the same signatures."""

    __tablename__ = "scan_verdicts"
    __table_args__ = (
        CheckConstraint("verdict in ('clean', 'infected', 'suspicious')", name="scan_verdict_known"),
        # What must not be served, wherever it lies.
        Index("scan_verdicts_bad", "scanned_at", postgresql_where=text("verdict <> 'clean'")),
        {"schema": SCHEMA},
    )

    sha256: Mapped[str] = mapped_column(primary_key=True)
    engine_version: Mapped[str]
    signature_version: Mapped[str]
    verdict: Mapped[str]
    signature: Mapped[str | None]
    scanned_at: Mapped[datetime] = mapped_column(server_default=text("now()"))


class Checkpoint(PlatformBase):
    """How far a job has come that walks through a table, a stretch at each turn; NULL: at its beginning."""

    __tablename__ = "checkpoints"
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


class OutboxMessage(PlatformBase):
    """A task that a service enqueued in SQL, in its own transaction: `outbox.relay` publishes it.

    `task_id` becomes the id of the message, so that a message published twice is the same task twice.
    """

    __tablename__ = "outbox"
    __table_args__ = (
        # The relay takes these in order; published rows, nearly all, are not in the index.
        Index("outbox_due", "id", postgresql_where=text("published_at is null")),
        Index("outbox_published", "published_at", postgresql_where=text("published_at is not null")),
        {"schema": SCHEMA},
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    task_id: Mapped[UUID] = mapped_column(server_default=text("gen_random_uuid()"))
    task: Mapped[str]
    payload: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    published_at: Mapped[datetime | None]


class StatusInbox(PlatformBase):
    """Message statuses that `delivery.drain` is to merge: of one application, one row for each call.

    Rows come from `roomkeeper.record_status`, and from `delivery.record`, whose messages were not there yet.
    A row goes in the transaction that merges it. `due_at` is when it is worth trying (again).
    """

    __tablename__ = "status_inbox"
    __table_args__ = (Index("status_inbox_due", "due_at"), {"schema": SCHEMA})

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    app: Mapped[str]
    events: Mapped[list[Any]] = mapped_column(JSONB)
    received_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    due_at: Mapped[datetime] = mapped_column(server_default=text("now()"))


class SqlTask(PlatformBase):
    """A task that may be handed over in SQL: its payload's fields, whose kinds are 'app', 'uuid', 'room',
    'events'.

    `apps` are the applications that the field of kind 'app' may name. A 'room' is a room's id or code. A task
    with 'events' is not for `roomkeeper.enqueue`, but for `roomkeeper.record_status`.
    """

    __tablename__ = "sql_tasks"
    __table_args__ = ({"schema": SCHEMA},)

    task: Mapped[str] = mapped_column(primary_key=True)
    fields: Mapped[dict[str, Any]]
    apps: Mapped[list[str]]


class SweepCheckpoint(PlatformBase):
    """How far a sweep has walked through a table that no index serves: the page that comes next."""

    __tablename__ = "sweep_checkpoints"
    __table_args__ = ({"schema": SCHEMA},)

    policy: Mapped[str] = mapped_column(primary_key=True)
    page: Mapped[int] = mapped_column(BigInteger)


class FutureTimestamp(PlatformBase):
    """A sign of life with a time in the future: of which row, its time, and when a sweep saw it first.

    It goes with its row. One whose row has gone by other ways, or has given another sign, goes at
    `expires_at`, long after the sweep would have taken the row.
    """

    __tablename__ = "future_timestamps"
    __table_args__ = (
        UniqueConstraint("policy", "key"),
        Index("future_timestamps_expires_at", "expires_at"),
        {"schema": SCHEMA},
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    policy: Mapped[str]
    key: Mapped[UUID]
    at: Mapped[datetime]
    seen_at: Mapped[datetime]
    expires_at: Mapped[datetime]


class JobRun(PlatformBase):
    """The job history: one row for each run of a periodic job.

    `slot` is when beat was to send it; NULL for a run by hand. `batches` are transactions that changed rows.
    `remaining` are rows that the run saw and could not change: they were locked, or the database refused
    (`error` says how). 'stopped' is a run that would have taken far more rows than usual.
    """

    __tablename__ = "job_runs"
    __table_args__ = (
        CheckConstraint(
            "outcome in ('done', 'more', 'skipped', 'failed', 'stopped')", name="run_outcome_known"
        ),
        Index("job_runs_job_started_at", "job", "started_at"),
        Index("job_runs_started_at", "started_at"),
        {"schema": SCHEMA},
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    job: Mapped[str]
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime]
    rows: Mapped[int] = mapped_column(BigInteger)
    outcome: Mapped[str]
    error: Mapped[str | None]
    slot: Mapped[datetime | None]
    batches: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    remaining: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))


class Worker(PlatformBase):
    """A running worker or beat: one row for each process, with the time of its last heartbeat.

    A process that ends in good order deletes its row. That of one that was killed stays for a while;
    the last of its kind to end in good order deletes it, too.

    Attributes:
        kind: the kind of worker, or 'beat'.
        version: of the package; `revision` is the newest one of the schema that its code knows.
        seen_at: its last heartbeat, by the database's clock.
    """

    __tablename__ = "workers"
    __table_args__ = ({"schema": SCHEMA},)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    kind: Mapped[str]
    host: Mapped[str]
    pid: Mapped[int]
    version: Mapped[str]
    revision: Mapped[str]
    started_at: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"))
    seen_at: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"))


class Revision(PlatformBase):
    """Which workers a revision of this schema serves: written by the migration run that leads to it.

    `oldest_worker` is the oldest revision whose code runs on it. A worker whose own newest revision is older
    than the schema has no file that says so.
    """

    __tablename__ = "revisions"
    __table_args__ = ({"schema": SCHEMA},)

    revision: Mapped[str] = mapped_column(primary_key=True)
    oldest_worker: Mapped[str]
    applied_at: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"))


class Installation(PlatformBase):
    """The identity of this installation: one row. The broker is marked with it, so that no other uses it."""

    __tablename__ = "installation"
    __table_args__ = (CheckConstraint("single", name="installation_single"), {"schema": SCHEMA})

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("gen_random_uuid()"))
    single: Mapped[bool] = mapped_column(server_default=text("true"), unique=True)


class Hold(PlatformBase):
    """A legal hold: no rows of this user, conversation or room are taken by retention until it is lifted."""

    __tablename__ = "holds"
    __table_args__ = (
        CheckConstraint("entity in ('user', 'conversation', 'room')", name="hold_entity_known"),
        CheckConstraint("(lifted_at is null) = (lifted_by is null)", name="hold_lifted_by_somebody"),
        # One at a time of each; every batch asks for those that are in force.
        Index(
            "holds_in_force",
            "app",
            "entity",
            "entity_id",
            unique=True,
            postgresql_where=text("lifted_at is null"),
        ),
        {"schema": SCHEMA},
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    app: Mapped[str]
    entity: Mapped[str]
    entity_id: Mapped[UUID]
    reason: Mapped[str]
    placed_by: Mapped[str]
    placed_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    lifted_by: Mapped[str | None]
    lifted_at: Mapped[datetime | None]


class Approval(PlatformBase):
    """An operator's word that a policy may take more rows than usual: so many, for a while."""

    __tablename__ = "approvals"
    __table_args__ = (Index("approvals_policy", "policy", "id"), {"schema": SCHEMA})

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    policy: Mapped[str]
    period_seconds: Mapped[float | None]
    rows: Mapped[int] = mapped_column(BigInteger)
    reason: Mapped[str]
    approved_by: Mapped[str]
    approved_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    expires_at: Mapped[datetime]


class Receipt(PlatformBase):
    """What one transaction of retention took, or put back, and why. A trigger keeps it from changing.

    `hash` is the SHA-256 of all else in the row, `previous` among it: the hash of the receipt before. `run`
    is the same for all of one run. `content` says the rest, see `tasks/retention/receipts.py`.
    """

    __tablename__ = "receipts"
    __table_args__ = (
        CheckConstraint("kind in ('taken', 'restored', 'dropped', 'reconciled')", name="receipt_kind_known"),
        Index("receipts_policy", "policy", "number"),
        Index("receipts_written_at", "written_at"),
        # Every run asks for them.
        Index("receipts_restored", "written_at", postgresql_where=text("kind = 'restored'")),
        {"schema": SCHEMA},
    )

    number: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    kind: Mapped[str]
    policy: Mapped[str]
    run: Mapped[UUID]
    written_at: Mapped[datetime]
    rows: Mapped[int] = mapped_column(BigInteger)
    approval: Mapped[int | None] = mapped_column(BigInteger)
    content: Mapped[dict[str, Any]]
    previous: Mapped[str]
    hash: Mapped[str]


class UnfinishedArchive(PlatformBase):
    """An archive that is being written. Its row goes with the receipt that names it; what a crash leaves
    here is removed from the store by the policy's next run."""

    __tablename__ = "unfinished_archives"
    __table_args__ = (Index("unfinished_archives_policy", "policy"), {"schema": SCHEMA})

    key: Mapped[str] = mapped_column(primary_key=True)
    policy: Mapped[str]
    begun_at: Mapped[datetime] = mapped_column(server_default=text("now()"))


class PendingDeletion(PlatformBase):
    """The objects of one attachment whose row was deleted: they are to be deleted too, and still exist.

    The row is written in the transaction that deletes the attachment's row, and removed when its objects are
    deleted. Besides what it names, the attachment's pictures are deleted; their keys follow from its id.

    Attributes:
        receipt: the receipt of that transaction; None for rows that were carried over by migration 0007.
        store, key: where the original is; `key` is None where another row names the same object.
        quarantine_key: its name in the quarantine, if it is there.
        small_key: a picture that the application itself may have stored.
        not_before: when the next attempt is due.
        attempts: how many attempts have failed.
        error, failing_since: why the last one failed, and when the first one did.
    """

    __tablename__ = "pending_deletions"
    __table_args__ = (
        Index("pending_deletions_due", "store", "not_before"),
        Index("pending_deletions_receipt", "receipt"),
        {"schema": SCHEMA},
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    app: Mapped[str]
    attachment_id: Mapped[UUID]
    policy: Mapped[str]
    receipt: Mapped[int | None] = mapped_column(BigInteger)
    store: Mapped[str]
    key: Mapped[str | None]
    quarantine_key: Mapped[str | None]
    small_key: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    not_before: Mapped[datetime] = mapped_column(server_default=text("now()"))
    attempts: Mapped[int] = mapped_column(server_default=text("0"))
    error: Mapped[str | None]
    failing_since: Mapped[datetime | None]


class DeletionEvent(PlatformBase):
    """What became of objects that a receipt says were to be deleted. Rows are only added.

    Attributes:
        outcome: 'deleted'; 'kept', because a row named them at that moment; 'cancelled', because their rows
            were restored first.
        objects: how many.
    """

    __tablename__ = "deletion_events"
    __table_args__ = (
        CheckConstraint("outcome in ('deleted', 'kept', 'cancelled')", name="deletion_outcome_known"),
        Index("deletion_events_receipt", "receipt"),
        {"schema": SCHEMA},
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    receipt: Mapped[int] = mapped_column(BigInteger)
    outcome: Mapped[str]
    objects: Mapped[int] = mapped_column(BigInteger)
    at: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"))


class ListedObject(PlatformBase):
    """What a store holds, as it was listed to be compared with the rows. Not logged: a crash empties it."""

    __tablename__ = "listed_objects"
    __table_args__ = ({"schema": SCHEMA, "prefixes": ["UNLOGGED"]},)

    store: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    modified_at: Mapped[datetime]
