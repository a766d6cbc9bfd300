"""Objects are deleted after the commit that deletes their rows: pending deletions, and what became of them.

Goes before the deploy of the code that uses it. Until its workers are replaced, the previous version cannot
find its table `doomed_objects`: its retention runs fail before they change a row or delete an object, and
`roomkeeper reconcile` fails too. All its other jobs go on. A batch of the previous version that is already
deleting objects is waited for.

Rows of `doomed_objects` are carried over. The previous version wrote them before it deleted rows, so most
name attachments that are still there: the new code keeps the objects of those, and deletes the others.

The way back drops the outcomes and the reasons for waiting. Objects that still wait are forgotten by the
previous version at its next run; `roomkeeper reconcile` finds them as orphans.
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

SCHEMA = "roomkeeper"
BEFORE, AFTER = "doomed_objects", "pending_deletions"
RENAMED = {"quarantined": "quarantine_key", "marked_at": "created_at"}
MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.rename_table(BEFORE, AFTER, schema=SCHEMA)
    op.drop_constraint("doomed_objects_pkey", AFTER, schema=SCHEMA)
    for before, after in RENAMED.items():
        op.alter_column(AFTER, before, new_column_name=after, schema=SCHEMA)
    op.alter_column(AFTER, "key", nullable=True, schema=SCHEMA)
    for column in (
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), nullable=False),
        sa.Column("receipt", sa.BigInteger),
        sa.Column("not_before", MOMENT, server_default=sa.text("now()"), nullable=False),
        sa.Column("attempts", sa.Integer, server_default=sa.text("0"), nullable=False),
        sa.Column("error", sa.Text),
        sa.Column("failing_since", MOMENT),
    ):
        op.add_column(AFTER, column, schema=SCHEMA)
    op.create_primary_key("pending_deletions_pkey", AFTER, ["id"], schema=SCHEMA)
    op.create_index("pending_deletions_due", AFTER, ["store", "not_before"], schema=SCHEMA)
    op.create_index("pending_deletions_receipt", AFTER, ["receipt"], schema=SCHEMA)
    op.create_table(
        "deletion_events",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("receipt", sa.BigInteger, nullable=False),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("objects", sa.BigInteger, nullable=False),
        sa.Column("at", MOMENT, server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.CheckConstraint("outcome in ('deleted', 'kept', 'cancelled')", name="deletion_outcome_known"),
        schema=SCHEMA,
    )
    op.create_index("deletion_events_receipt", "deletion_events", ["receipt"], schema=SCHEMA)


def downgrade() -> None:
    op.drop_table("deletion_events", schema=SCHEMA)
    for index in ("pending_deletions_due", "pending_deletions_receipt"):
        op.drop_index(index, AFTER, schema=SCHEMA)
    # Without an object of their own, or one of several of an attachment.
    op.execute(
        f"DELETE FROM {SCHEMA}.{AFTER} AS one WHERE key IS NULL OR EXISTS ("  # noqa: S608
        f"SELECT FROM {SCHEMA}.{AFTER} AS later WHERE later.id > one.id AND later.key IS NOT NULL"
        " AND later.app = one.app AND later.attachment_id = one.attachment_id)"
    )
    op.drop_constraint("pending_deletions_pkey", AFTER, schema=SCHEMA)
    for column in ("id", "receipt", "not_before", "attempts", "error", "failing_since"):
        op.drop_column(AFTER, column, schema=SCHEMA)
    op.alter_column(AFTER, "key", nullable=False, schema=SCHEMA)
    for before, after in RENAMED.items():
        op.alter_column(AFTER, after, new_column_name=before, schema=SCHEMA)
    op.create_primary_key("doomed_objects_pkey", AFTER, ["app", "attachment_id"], schema=SCHEMA)
    op.rename_table(AFTER, BEFORE, schema=SCHEMA)
