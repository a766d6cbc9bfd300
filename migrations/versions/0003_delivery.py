"""Message statuses and ways in by SQL: inbox, outbox, and what may be put into them.

Goes before the deploy of the code that uses it. Drops a column that nothing has read or written since 0002.
"""

from pathlib import Path

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

revision = "0003"
down_revision = "0002"

SCHEMA = "roomkeeper"
JOBS = "attachment_jobs"
#: Functions, and the tasks that they take.
WAYS_IN = Path(__file__).parent.parent / "sql" / "0003_ways_in.sql"


def _id() -> "sa.Column[object]":
    return sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True)


def _moment(name: str, *, now: bool = False) -> "sa.Column[object]":
    default = sa.text("now()") if now else None
    return sa.Column(name, sa.DateTime(timezone=True), server_default=default, nullable=not now)


def upgrade() -> None:
    op.drop_column(JOBS, "rewritten_bytes", schema=SCHEMA)
    # What a release was given for. One that was given before holds for nothing: a file looked at again
    # is refused, and an operator decides anew.
    for name in ("override_sha256", "override_reason"):
        op.add_column(JOBS, sa.Column(name, sa.Text), schema=SCHEMA)
    op.create_table(
        "outbox",
        _id(),
        sa.Column("task_id", sa.Uuid, server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("task", sa.Text, nullable=False),
        sa.Column("payload", JSONB, nullable=False),
        _moment("created_at", now=True),
        _moment("published_at"),
        schema=SCHEMA,
    )
    for name, column, where in (
        ("outbox_due", "id", "published_at is null"),
        ("outbox_published", "published_at", "published_at is not null"),
    ):
        op.create_index(name, "outbox", [column], schema=SCHEMA, postgresql_where=sa.text(where))
    op.create_table(
        "status_inbox",
        _id(),
        sa.Column("app", sa.Text, nullable=False),
        sa.Column("events", JSONB, nullable=False),
        _moment("received_at", now=True),
        _moment("due_at", now=True),
        schema=SCHEMA,
    )
    op.create_index("status_inbox_due", "status_inbox", ["due_at"], schema=SCHEMA)
    op.create_table(
        "sql_tasks",
        sa.Column("task", sa.Text, primary_key=True),
        sa.Column("fields", JSONB, nullable=False),
        sa.Column("apps", ARRAY(sa.Text), nullable=False),
        schema=SCHEMA,
    )
    # Statements in a row, for which the driver takes no parameters.
    op.get_bind().exec_driver_sql(WAYS_IN.read_text(), execution_options={"no_parameters": True})


def downgrade() -> None:
    # With the triggers that call it.
    op.execute(f"DROP FUNCTION {SCHEMA}.enqueue_attachment() CASCADE")
    for function in (
        "record_status(text, jsonb)",
        "enqueue(text, jsonb)",
        "is_moment(text)",
        "is_uuid(text)",
        "shape(jsonb)",
        "refuse(text, text)",
    ):
        op.execute(f"DROP FUNCTION {SCHEMA}.{function}")
    for table in ("sql_tasks", "status_inbox", "outbox"):
        op.drop_table(table, schema=SCHEMA)
    for name in ("override_sha256", "override_reason"):
        op.drop_column(JOBS, name, schema=SCHEMA)
    op.add_column(JOBS, sa.Column("rewritten_bytes", sa.BigInteger), schema=SCHEMA)
