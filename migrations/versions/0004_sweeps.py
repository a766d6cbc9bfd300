"""Sweeps: how far each has walked through its table, and what a run says of itself in the ledger.

Goes before the deploy of the code that uses it. The new columns are nullable or have constant defaults, so no
table is rewritten.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

SCHEMA = "roomkeeper"
RUNS = "job_runs"


def upgrade() -> None:
    op.create_table(
        "sweeps",
        sa.Column("policy", sa.Text, primary_key=True),
        sa.Column("page", sa.BigInteger, nullable=False),
        schema=SCHEMA,
    )
    for column in (
        sa.Column("slot", sa.DateTime(timezone=True)),
        sa.Column("batches", sa.BigInteger, server_default=sa.text("0"), nullable=False),
        sa.Column("remaining", sa.BigInteger, server_default=sa.text("0"), nullable=False),
    ):
        op.add_column(RUNS, column, schema=SCHEMA)
    # By this it ages out; the other begins with the job.
    op.create_index("job_runs_started_at", RUNS, ["started_at"], schema=SCHEMA)


def downgrade() -> None:
    op.drop_index("job_runs_started_at", RUNS, schema=SCHEMA)
    for name in ("remaining", "batches", "slot"):
        op.drop_column(RUNS, name, schema=SCHEMA)
    op.drop_table("sweeps", schema=SCHEMA)
