"""An API service may have a conversation recounted in SQL: `roomkeeper.enqueue('delivery.recount', …)`.

Workers of before do not know the task: a call becomes a dead letter until they are replaced.
"""

from alembic import op

revision = "0012"
down_revision = "0011"
#: The oldest revision whose code runs on this schema.
oldest_worker = "0009"


def upgrade() -> None:
    op.execute(
        "INSERT INTO roomkeeper.sql_tasks (task, fields, apps)"
        """ VALUES ('delivery.recount', '{"app": "app", "conversation_id": "uuid"}', '{openchat}')"""
    )


def downgrade() -> None:
    op.execute("DELETE FROM roomkeeper.sql_tasks WHERE task = 'delivery.recount'")
