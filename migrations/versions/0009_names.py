"""Names that an engineer from elsewhere knows: tables, columns, states and jobs are renamed, with their rows.

Workers of the previous version cannot find what was renamed: stop them before, and start the new ones after.
It is the last revision that asks for this. From here on each revision says which workers it serves:
`oldest_worker` is the oldest revision whose code runs on this one's schema.
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
#: The oldest revision whose code runs on this schema.
oldest_worker = "0009"

SCHEMA = "roomkeeper"
JOBS = "attachment_jobs"
TABLES = {"positions": "checkpoints", "sweeps": "sweep_checkpoints"}
#: (table, before, after).
COLUMNS = (
    (JOBS, "address_expires_at", "url_expires_at"),
    ("rollups", "surveyed_at", "daily_snapshot_at"),
    ("rollups", "revisit_at", "recompute_at"),
    ("rollups", "revisited_at", "recomputed_at"),
)
#: (table, column, before, after): what rows say.
VALUES = (
    (JOBS, "state", "parked", "failed"),
    (JOBS, "reason", "jail_unavailable", "sandbox_unavailable"),
    ("attachment_events", "event", "parked", "given_up"),
    ("job_runs", "job", "attachments.renew_addresses", "attachments.renew_urls"),
)


def upgrade() -> None:
    for before, after in TABLES.items():
        _rename_table(before, after)
    for table, before, after in COLUMNS:
        op.alter_column(table, before, new_column_name=after, schema=SCHEMA)
    _rename_index("attachment_jobs_addresses", "attachment_jobs_urls")
    _drop_what_names_the_state("parked")
    for table, column, before, after in VALUES:
        _set(table, column, before, after)
    _name_the_state("failed")


def downgrade() -> None:
    _drop_what_names_the_state("failed")
    for table, column, before, after in VALUES:
        _set(table, column, after, before)
    _name_the_state("parked")
    _rename_index("attachment_jobs_urls", "attachment_jobs_addresses")
    for table, before, after in COLUMNS:
        op.alter_column(table, after, new_column_name=before, schema=SCHEMA)
    for before, after in TABLES.items():
        _rename_table(after, before)


def _rename_table(before: str, after: str) -> None:
    op.rename_table(before, after, schema=SCHEMA)
    _rename_index(f"{before}_pkey", f"{after}_pkey")


def _rename_index(before: str, after: str) -> None:
    op.execute(f"ALTER INDEX {SCHEMA}.{before} RENAME TO {after}")


def _drop_what_names_the_state(state: str) -> None:
    op.drop_constraint("state_known", JOBS, schema=SCHEMA)
    op.drop_index(f"{JOBS}_{state}", JOBS, schema=SCHEMA)


def _name_the_state(state: str) -> None:
    known = f"state in ('waiting', 'running', 'finished', '{state}')"
    op.create_check_constraint("state_known", JOBS, known, schema=SCHEMA)
    only = sa.text(f"state = '{state}'")
    op.create_index(f"{JOBS}_{state}", JOBS, ["updated_at"], schema=SCHEMA, postgresql_where=only)


def _set(table: str, column: str, before: str, after: str) -> None:
    named = sa.table(table, sa.column(column), schema=SCHEMA)
    op.execute(named.update().where(named.c[column] == before).values({column: after}))
