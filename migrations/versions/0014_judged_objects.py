"""Which object a file was judged by, so that an enqueued file is looked at again when there is another.

And an index on the files in quarantine: rows that name the same object find it there.

Workers of before do not write the column: files that they judged are looked at once more when they are
enqueued.
"""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
#: The oldest revision whose code runs on this schema.
oldest_worker = "0009"

SCHEMA = "roomkeeper"
JOBS = "attachment_jobs"


def upgrade() -> None:
    op.add_column(JOBS, sa.Column("judged_object", sa.Text), schema=SCHEMA)
    op.create_index(
        f"{JOBS}_quarantined",
        JOBS,
        ["app"],
        schema=SCHEMA,
        postgresql_where=sa.text("quarantine_key is not null"),
    )


def downgrade() -> None:
    op.drop_index(f"{JOBS}_quarantined", JOBS, schema=SCHEMA)
    op.drop_column(JOBS, "judged_object", schema=SCHEMA)
