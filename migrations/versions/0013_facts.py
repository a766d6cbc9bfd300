"""What statistics need of rows that a conversation's own limit deletes before their days are final.

Goes before the deploy of the code that uses it. Workers of 0009 to 0012 run on it: the rollups that count
facts have a new definition, so those workers neither compute them any more, nor delete rows that they count.
A downgrade freezes the days of which facts are kept: their rows are gone.
"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
#: The oldest revision whose code runs on this schema.
oldest_worker = "0009"

SCHEMA = "roomkeeper"
#: By table, the rollup that counts its facts.
ROLLUPS = {"pern_facts": "pern.daily", "attachment_facts": "roomkeeper.attachments_daily"}


def upgrade() -> None:
    _create(
        "pern_facts",
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("key", sa.Uuid),
        sa.Column("seconds", sa.Double),
        sa.Column("batch", sa.Uuid, nullable=False),
        sa.CheckConstraint("kind in ('message', 'person', 'delivery', 'read')", name="kind_known"),
    )
    _create(
        "attachment_facts",
        sa.Column("app", sa.Text, nullable=False),
        sa.Column("verdict", sa.Text),
        sa.Column("size_bytes", sa.BigInteger),
        sa.Column("seconds", sa.Double),
    )


def downgrade() -> None:
    for table, rollup in ROLLUPS.items():
        latest = f"(SELECT max(at) FROM {SCHEMA}.{table})"  # noqa: S608
        op.execute(
            f"UPDATE {SCHEMA}.rollups SET frozen_to = greatest(frozen_to, {latest}),"  # noqa: S608
            f" definition = least(definition, 1) WHERE name = '{rollup}'"
        )
        op.drop_table(table, schema=SCHEMA)


def _create(name: str, *columns: "sa.Column[object] | sa.CheckConstraint") -> None:
    op.create_table(
        name,
        sa.Column("id", sa.Uuid, primary_key=True, server_default=sa.text("gen_random_uuid()")),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        *columns,
        schema=SCHEMA,
    )
    op.create_index(f"{name}_at", name, ["at"], schema=SCHEMA)
