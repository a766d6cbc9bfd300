"""Attachments to the end: history, verdicts by content, operators' overrides, rescans, addresses that expire.

Goes before the deploy of the code that uses it. Every new column has a constant default, so no table is
rewritten; the indexes are built while writers wait, some seconds for a million attachments.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

revision = "0002"
down_revision = "0001"

SCHEMA = "roomkeeper"
JOBS = "attachment_jobs"


def _moment(name: str, default: str | None = None) -> "sa.Column[object]":
    return sa.Column(
        name,
        sa.DateTime(timezone=True),
        server_default=sa.text(default) if default else None,
        nullable=default is None,
    )


def upgrade() -> None:
    small = sa.text("0")
    for column in (
        sa.Column("findings", ARRAY(sa.Text), server_default=sa.text("'{}'::text[]"), nullable=False),
        sa.Column("override", sa.Text),
        sa.Column("rewritten_sha256", sa.Text),
        sa.Column("rewritten_bytes", sa.BigInteger),
        sa.Column("risk", sa.SmallInteger, server_default=small, nullable=False),
        sa.Column("popularity", sa.SmallInteger, server_default=small, nullable=False),
        _moment("address_expires_at"),
        _moment("rescanned_at"),
    ):
        op.add_column(JOBS, column, schema=SCHEMA)
    op.create_check_constraint("override_known", JOBS, "override in ('release', 'quarantine')", schema=SCHEMA)
    _index("parked", ["updated_at"], "state = 'parked'")
    _index("sha256", ["sha256"], None)
    _index(
        "rescan",
        ["signature_version", sa.text("(risk + popularity) desc"), sa.text("finished_at desc")],
        "outcome = 'accepted' and verdict = 'clean'",
    )
    _index("addresses", ["address_expires_at"], "address_expires_at is not null")

    op.create_table(
        "attachment_events",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("app", sa.Text, nullable=False),
        sa.Column("attachment_id", sa.Uuid, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("event", sa.Text, nullable=False),
        _moment("at", "clock_timestamp()"),
        sa.Column("seconds", sa.Double),
        sa.Column("worker", sa.Text),
        sa.Column("detail", JSONB, server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("actor", sa.Text),
        sa.Column("reason", sa.Text),
        schema=SCHEMA,
    )
    op.create_index(
        "attachment_events_attachment", "attachment_events", ["app", "attachment_id", "id"], schema=SCHEMA
    )
    op.create_table(
        "scan_verdicts",
        sa.Column("sha256", sa.Text, primary_key=True),
        sa.Column("engine_version", sa.Text, nullable=False),
        sa.Column("signature_version", sa.Text, nullable=False),
        sa.Column("verdict", sa.Text, nullable=False),
        sa.Column("signature", sa.Text),
        _moment("scanned_at", "now()"),
        sa.CheckConstraint("verdict in ('clean', 'infected', 'suspicious')", name="scan_verdict_known"),
        schema=SCHEMA,
    )
    op.create_index(
        "scan_verdicts_bad",
        "scan_verdicts",
        ["scanned_at"],
        schema=SCHEMA,
        postgresql_where=sa.text("verdict <> 'clean'"),
    )


def _index(name: str, columns: "list[str | sa.TextClause]", where: str | None) -> None:
    op.create_index(
        f"{JOBS}_{name}",
        JOBS,
        columns,
        schema=SCHEMA,
        postgresql_where=sa.text(where) if where else None,
    )


def downgrade() -> None:
    op.drop_table("scan_verdicts", schema=SCHEMA)
    op.drop_table("attachment_events", schema=SCHEMA)
    for name in ("parked", "sha256", "rescan", "addresses"):
        op.drop_index(f"{JOBS}_{name}", JOBS, schema=SCHEMA)
    op.drop_constraint("override_known", JOBS, schema=SCHEMA, type_="check")
    for column in (
        "rescanned_at",
        "address_expires_at",
        "popularity",
        "risk",
        "rewritten_bytes",
        "rewritten_sha256",
        "override",
        "findings",
    ):
        op.drop_column(JOBS, column, schema=SCHEMA)
