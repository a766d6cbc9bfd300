"""Clocks of others: statuses of any time are taken, and signs of life in the future are noted.

Goes before the deploy of the code that uses it. Until then a call with a time that the old code does not take
is kept as a dead letter, as a whole.
"""

import re
from pathlib import Path

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

SCHEMA = "roomkeeper"
#: How statuses are taken from now on, and how they were before.
WAYS_IN, BEFORE = (Path(__file__).parent.parent / "sql" / f"{name}_ways_in.sql" for name in ("0008", "0003"))


def upgrade() -> None:
    op.create_table(
        "future_timestamps",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("policy", sa.Text, nullable=False),
        sa.Column("key", sa.Uuid, nullable=False),
        *(
            sa.Column(name, sa.DateTime(timezone=True), nullable=False)
            for name in ("at", "seen_at", "expires_at")
        ),
        sa.UniqueConstraint("policy", "key"),
        schema=SCHEMA,
    )
    op.create_index("future_timestamps_expires_at", "future_timestamps", ["expires_at"], schema=SCHEMA)
    _statements(WAYS_IN.read_text())


def downgrade() -> None:
    before = BEFORE.read_text()
    for pattern in (r"roomkeeper\.is_moment\(.*?^END;", r"roomkeeper\.record_status\(.*?^\$\$;"):
        found = re.search(rf"^CREATE FUNCTION ({pattern})$", before, re.M | re.S)
        assert found is not None
        _statements(f"CREATE OR REPLACE FUNCTION {found[1]}")
    op.drop_table("future_timestamps", schema=SCHEMA)


def _statements(text: str) -> None:
    # The driver takes no parameters for statements in a row.
    op.get_bind().exec_driver_sql(text, execution_options={"no_parameters": True})
