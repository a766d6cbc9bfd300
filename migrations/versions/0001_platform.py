"""The platform's own tables: attachment jobs, positions, dead letters, ledger.

Goes before the deploy of the code that uses it.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None

SCHEMA = "roomkeeper"


def _moment(name: str, *, now: bool = False) -> "sa.Column[object]":
    default = sa.text("now()") if now else None
    return sa.Column(name, sa.DateTime(timezone=True), server_default=default, nullable=not now)


def upgrade() -> None:
    op.create_table(
        "attachment_jobs",
        sa.Column("app", sa.Text, primary_key=True),
        sa.Column("attachment_id", sa.Uuid, primary_key=True),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("attempt", sa.Integer, server_default=sa.text("0"), nullable=False),
        sa.Column("failures", sa.Integer, server_default=sa.text("0"), nullable=False),
        sa.Column("waits", sa.Integer, server_default=sa.text("0"), nullable=False),
        _moment("not_before"),
        _moment("enqueued_at"),
        _moment("lease_until"),
        *(sa.Column(name, sa.Text) for name in ("worker", "phase", "outcome", "verdict", "reason", "detail")),
        sa.Column("sha256", sa.Text),
        sa.Column("size_bytes", sa.BigInteger),
        *(
            sa.Column(name, sa.Text)
            for name in (
                "media_type",
                "signature",
                "engine_version",
                "signature_version",
                "small_key",
                "large_key",
                "quarantine_key",
            )
        ),
        sa.Column("timings", JSONB, server_default=sa.text("'{}'::jsonb"), nullable=False),
        _moment("created_at", now=True),
        _moment("updated_at", now=True),
        _moment("finished_at"),
        sa.CheckConstraint("state in ('waiting', 'running', 'finished', 'parked')", name="state_known"),
        sa.CheckConstraint("outcome in ('accepted', 'refused', 'quarantined')", name="outcome_known"),
        sa.CheckConstraint("verdict in ('clean', 'infected', 'suspicious', 'opaque')", name="verdict_known"),
        sa.CheckConstraint("(state = 'running') = (lease_until is not null)", name="lease_while_running"),
        sa.CheckConstraint("(state = 'finished') = (outcome is not null)", name="outcome_when_finished"),
        schema=SCHEMA,
    )
    op.create_index(
        "attachment_jobs_due",
        "attachment_jobs",
        ["not_before"],
        schema=SCHEMA,
        postgresql_where=sa.text("state = 'waiting'"),
    )
    op.create_index(
        "attachment_jobs_leases",
        "attachment_jobs",
        ["lease_until"],
        schema=SCHEMA,
        postgresql_where=sa.text("state = 'running'"),
    )
    op.create_table(
        "positions",
        sa.Column("job", sa.Text, primary_key=True),
        sa.Column("app", sa.Text, primary_key=True),
        sa.Column("position", sa.Uuid),
        schema=SCHEMA,
    )
    op.create_table(
        "dead_letters",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("task", sa.Text, nullable=False),
        sa.Column("task_id", sa.Text, nullable=False),
        sa.Column("payload", JSONB, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        _moment("created_at", now=True),
        schema=SCHEMA,
    )
    op.create_index("dead_letters_created_at", "dead_letters", ["created_at"], schema=SCHEMA)
    op.create_table(
        "job_runs",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("job", sa.Text, nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("rows", sa.BigInteger, nullable=False),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("error", sa.Text),
        sa.CheckConstraint("outcome in ('done', 'more', 'skipped', 'failed')", name="run_outcome_known"),
        schema=SCHEMA,
    )
    op.create_index("job_runs_job_started_at", "job_runs", ["job", "started_at"], schema=SCHEMA)


def downgrade() -> None:
    for table in ("job_runs", "dead_letters", "positions", "attachment_jobs"):
        op.drop_table(table, schema=SCHEMA)
