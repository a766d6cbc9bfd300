"""Retention: legal holds, approvals, receipts, and what a crash must not lose sight of.

Goes before the deploy of the code that uses it. No table that has rows is rewritten; replacing the CHECK
of the ledger reads it once.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB, UUID

revision = "0005"
down_revision = "0004"

SCHEMA = "roomkeeper"
OUTCOMES = ("done", "more", "skipped", "failed")


def upgrade() -> None:
    _outcomes((*OUTCOMES, "stopped"))
    op.create_table(
        "holds",
        _identity(),
        _text("app"),
        _text("entity"),
        sa.Column("entity_id", UUID(as_uuid=True), nullable=False),
        _text("reason"),
        _text("placed_by"),
        _moment("placed_at"),
        sa.Column("lifted_by", sa.Text),
        sa.Column("lifted_at", sa.DateTime(timezone=True)),
        sa.CheckConstraint("entity in ('user', 'conversation', 'room')", name="hold_entity_known"),
        sa.CheckConstraint("(lifted_at is null) = (lifted_by is null)", name="hold_lifted_by_somebody"),
        schema=SCHEMA,
    )
    op.create_index(
        "holds_in_force",
        "holds",
        ["app", "entity", "entity_id"],
        unique=True,
        postgresql_where=sa.text("lifted_at is null"),
        schema=SCHEMA,
    )
    op.create_table(
        "approvals",
        _identity(),
        _text("policy"),
        sa.Column("period_seconds", sa.Double),
        sa.Column("rows", sa.BigInteger, nullable=False),
        _text("reason"),
        _text("approved_by"),
        _moment("approved_at"),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        schema=SCHEMA,
    )
    op.create_index("approvals_policy", "approvals", ["policy", "id"], schema=SCHEMA)
    op.create_table(
        "receipts",
        sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
        _text("kind"),
        _text("policy"),
        sa.Column("run", UUID(as_uuid=True), nullable=False),
        sa.Column("written_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("rows", sa.BigInteger, nullable=False),
        sa.Column("approval", sa.BigInteger),
        sa.Column("content", JSONB, nullable=False),
        _text("previous"),
        _text("hash"),
        sa.CheckConstraint(
            "kind in ('taken', 'restored', 'dropped', 'reconciled')", name="receipt_kind_known"
        ),
        schema=SCHEMA,
    )
    op.create_index("receipts_policy", "receipts", ["policy", "number"], schema=SCHEMA)
    op.create_index("receipts_written_at", "receipts", ["written_at"], schema=SCHEMA)
    op.create_index(
        "receipts_restored",
        "receipts",
        ["written_at"],
        postgresql_where=sa.text("kind = 'restored'"),
        schema=SCHEMA,
    )
    op.execute(_ONLY_ADDED)
    op.create_table(
        "unfinished_archives",
        sa.Column("key", sa.Text, primary_key=True),
        _text("policy"),
        _moment("begun_at"),
        schema=SCHEMA,
    )
    op.create_index("unfinished_archives_policy", "unfinished_archives", ["policy"], schema=SCHEMA)
    op.create_table(
        "doomed_objects",
        sa.Column("app", sa.Text, primary_key=True),
        sa.Column("attachment_id", UUID(as_uuid=True), primary_key=True),
        _text("policy"),
        _text("store"),
        _text("key"),
        sa.Column("quarantined", sa.Text),
        sa.Column("small_key", sa.Text),
        _moment("marked_at"),
        schema=SCHEMA,
    )
    op.create_table(
        "listed_objects",
        sa.Column("store", sa.Text, primary_key=True),
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("modified_at", sa.DateTime(timezone=True), nullable=False),
        schema=SCHEMA,
        prefixes=["UNLOGGED"],
    )


def downgrade() -> None:
    for table in (
        "listed_objects",
        "doomed_objects",
        "unfinished_archives",
        "receipts",
        "approvals",
        "holds",
    ):
        op.drop_table(table, schema=SCHEMA)
    op.execute(f"DROP FUNCTION {SCHEMA}.receipts_are_only_added()")
    op.execute(f"UPDATE {SCHEMA}.job_runs SET outcome = 'skipped' WHERE outcome = 'stopped'")  # noqa: S608
    _outcomes(OUTCOMES)


def _outcomes(known: tuple[str, ...]) -> None:
    op.drop_constraint("run_outcome_known", "job_runs", schema=SCHEMA)
    listed = ", ".join(f"'{one}'" for one in known)
    op.create_check_constraint("run_outcome_known", "job_runs", f"outcome in ({listed})", schema=SCHEMA)


def _identity() -> "sa.Column[int]":
    return sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True)


def _text(name: str) -> "sa.Column[str]":
    return sa.Column(name, sa.Text, nullable=False)


def _moment(name: str) -> "sa.Column[object]":
    return sa.Column(name, sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False)


# Who owns the table can still get round it: then the chain of hashes tells.
_ONLY_ADDED = f"""
    CREATE FUNCTION {SCHEMA}.receipts_are_only_added() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
    BEGIN
        RAISE EXCEPTION 'receipts are only added, never changed or deleted';
    END
    $$;
    CREATE TRIGGER receipts_are_only_added BEFORE UPDATE OR DELETE OR TRUNCATE ON {SCHEMA}.receipts
    FOR EACH STATEMENT EXECUTE FUNCTION {SCHEMA}.receipts_are_only_added();
    REVOKE ALL ON FUNCTION {SCHEMA}.receipts_are_only_added() FROM PUBLIC;
"""
