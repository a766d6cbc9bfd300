"""Which zone and which definition a rollup's closed buckets were computed with.

Goes before the deploy of the code that uses it. Workers of 0009 run on it. They do not know where the days of
one zone end and those of another begin: change no zone while one of them runs.
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
#: The oldest revision whose code runs on this schema.
oldest_worker = "0009"

SCHEMA = "roomkeeper"


def upgrade() -> None:
    op.add_column("rollups", sa.Column("zone_from", sa.DateTime(timezone=True)), schema=SCHEMA)
    op.add_column("rollups", sa.Column("zone_before", sa.Text), schema=SCHEMA)
    op.add_column(
        "rollups", sa.Column("definition", sa.Integer, server_default="1", nullable=False), schema=SCHEMA
    )


def downgrade() -> None:
    for name in ("definition", "zone_before", "zone_from"):
        op.drop_column("rollups", name, schema=SCHEMA)
