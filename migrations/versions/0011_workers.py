"""What is known of the running programs: a row for each worker and each beat, with its last heartbeat.

And an index on the times at which files were finished, for the rate at which that goes. `revisions` says of
each revision which workers it serves: for workers whose code is older than the schema, and does not have the
file that says so. `installation` has one row: the identity that the broker is marked with.

Goes before the deploy of the code that uses it; the code before it does not need it.
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
#: The oldest revision whose code runs on this schema.
oldest_worker = "0009"

SCHEMA = "roomkeeper"


def upgrade() -> None:
    op.create_table(
        "workers",
        sa.Column("id", sa.Uuid, primary_key=True),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("kind", "host")),
        sa.Column("pid", sa.Integer, nullable=False),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("version", "revision")),
        *(
            sa.Column(
                name,
                sa.DateTime(timezone=True),
                server_default=sa.text("clock_timestamp()"),
                nullable=False,
            )
            for name in ("started_at", "seen_at")
        ),
        schema=SCHEMA,
    )
    op.create_table(
        "revisions",
        sa.Column("revision", sa.Text, primary_key=True),
        sa.Column("oldest_worker", sa.Text, nullable=False),
        sa.Column(
            "applied_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        schema=SCHEMA,
    )
    op.create_table(
        "installation",
        sa.Column("id", sa.Uuid, primary_key=True, server_default=sa.text("gen_random_uuid()")),
        sa.Column("single", sa.Boolean, server_default=sa.text("true"), nullable=False, unique=True),
        sa.CheckConstraint("single", name="installation_single"),
        schema=SCHEMA,
    )
    op.execute(f"INSERT INTO {SCHEMA}.installation DEFAULT VALUES")
    op.create_index(
        "attachment_jobs_finished_at",
        "attachment_jobs",
        ["finished_at"],
        schema=SCHEMA,
        postgresql_where=sa.text("finished_at is not null"),
    )


def downgrade() -> None:
    op.drop_index("attachment_jobs_finished_at", "attachment_jobs", schema=SCHEMA)
    op.drop_table("installation", schema=SCHEMA)
    op.drop_table("revisions", schema=SCHEMA)
    op.drop_table("workers", schema=SCHEMA)
