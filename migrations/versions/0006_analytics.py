"""Analytics: daily and hourly figures, and how far each rollup has come.

Goes before the deploy of the code that uses it. The index on attachment_jobs is made while the table can not
be written: some seconds for a million rows.
"""

import re
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

SCHEMA = "roomkeeper"
#: One more task that may be handed over in SQL; and how the function that takes it was before.
WAYS_IN, BEFORE = (Path(__file__).parent.parent / "sql" / f"{name}_ways_in.sql" for name in ("0006", "0003"))
JOBS_TAKEN_UP = "attachment_jobs_created_at"
#: The figures of `echoroom`, by the hour and by the day.
OF_A_ROOM = (
    "participants",
    "peak_participants",
    "messages",
    "messages_text",
    "messages_system",
    "messages_ai_prompt",
    "messages_mood_check",
    "reactions",
    "speakers",
)


def upgrade() -> None:
    op.create_table(
        "rollups",
        _key("name", sa.Text),
        sa.Column("zone", sa.Text, nullable=False),
        _moment("watermark"),
        _moment("covered_from"),
        *(_moment(name, null=True) for name in ("frozen_to", "ticked_at")),
        sa.Column("probe", sa.Text),
        *(_moment(name, null=True) for name in ("surveyed_at", "revisit_at", "revisited_at")),
        schema=SCHEMA,
    )
    op.create_table(
        "rollup_live", _key("rollup", sa.Text), _key("key", sa.Uuid), _moment("since"), schema=SCHEMA
    )
    _figures(
        "connect_calls_daily",
        _key("day", sa.Date),
        _key("interaction_type", sa.Text),
        *_counts(
            "calls",
            "female_connected",
            "both_left",
            "timeout",
            "no_action",
            "no_outcome",
            "open_calls",
            "connected",
        ),
        sa.Column("connect_rate", sa.Double, nullable=False),
        sa.Column("total_seconds", sa.BigInteger, nullable=False),
        *_seconds("median_seconds", "p95_seconds"),
        *_counts("users"),
    )
    _figures(
        "connect_daily",
        _key("day", sa.Date),
        *_counts(
            "users_in_calls",
            "requests",
            "requests_pending",
            "requests_approved",
            "requests_rejected",
            "requests_expired",
            "messages",
            "senders",
        ),
    )
    _figures(
        "openchat_messages_daily", _key("day", sa.Date), _key("content_type", sa.Text), *_counts("messages")
    )
    _figures(
        "openchat_daily",
        _key("day", sa.Date),
        *_counts("messages", "active_users", "conversations", "delivered"),
        *_seconds("delivery_median_seconds", "delivery_p95_seconds"),
    )
    _figures(
        "attachments_daily",
        _key("day", sa.Date),
        _key("app", sa.Text),
        _key("verdict", sa.Text),
        *_counts("attachments", "finished"),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        *_seconds("processing_median_seconds", "processing_p95_seconds"),
    )
    _figures(
        "pern_daily",
        _key("day", sa.Date),
        *_counts("messages", "conversations", "active_users", "deliveries"),
        *_seconds("delivery_median_seconds", "delivery_p95_seconds"),
        *_counts("reads"),
        *_seconds("read_median_seconds", "read_p95_seconds"),
    )
    _figures("pern_sessions_daily", _key("day", sa.Date), *_counts("sessions", "users"))
    _figures(
        "pern_security_daily", _key("day", sa.Date), _key("severity", sa.Text), *_counts("events", "users")
    )
    for table, bucket in (
        ("echoroom_hourly", _key("hour", sa.DateTime(timezone=True))),
        ("echoroom_daily", _key("day", sa.Date)),
    ):
        _figures(table, _key("room_id", sa.Uuid), bucket, *_counts(*OF_A_ROOM))
        op.create_index(f"{table}_{bucket.name}", table, [bucket.name], schema=SCHEMA)
    op.create_table(
        "echoroom_stays",
        sa.Column("id", sa.Uuid, server_default=sa.func.gen_random_uuid(), primary_key=True),
        sa.Column("room_id", sa.Uuid, nullable=False),
        sa.Column("user_id", sa.Uuid, nullable=False),
        _moment("joined_at"),
        _moment("left_at", null=True),
        _moment("seen_at"),
        sa.UniqueConstraint("room_id", "user_id", "joined_at"),
        schema=SCHEMA,
    )
    for column in ("joined_at", "left_at", "seen_at"):
        op.create_index(f"echoroom_stays_{column}", "echoroom_stays", [column], schema=SCHEMA)
    op.create_index(
        "echoroom_stays_open",
        "echoroom_stays",
        ["room_id"],
        postgresql_where=sa.text("left_at is null"),
        schema=SCHEMA,
    )
    op.create_table(
        "echoroom_speakers",
        sa.Column("id", sa.Uuid, server_default=sa.func.gen_random_uuid(), primary_key=True),
        sa.Column("room_id", sa.Uuid, nullable=False),
        sa.Column("user_id", sa.Uuid, nullable=False),
        _moment("hour"),
        sa.UniqueConstraint("room_id", "user_id", "hour"),
        schema=SCHEMA,
    )
    op.create_index("echoroom_speakers_hour", "echoroom_speakers", ["hour"], schema=SCHEMA)
    op.create_table("audiorooms_long_stays", _key("id", sa.Uuid), schema=SCHEMA)
    op.create_index(JOBS_TAKEN_UP, "attachment_jobs", ["created_at"], schema=SCHEMA)
    _statements(WAYS_IN.read_text())


def downgrade() -> None:
    found = re.search(r"^CREATE FUNCTION (roomkeeper\.enqueue\(.*?^\$\$;)$", BEFORE.read_text(), re.M | re.S)
    assert found is not None
    _statements(f"CREATE OR REPLACE FUNCTION {found[1]}")
    op.execute("DELETE FROM roomkeeper.sql_tasks WHERE task = 'analytics.room'")
    op.execute("DROP FUNCTION roomkeeper.is_room(jsonb)")
    op.drop_index(JOBS_TAKEN_UP, "attachment_jobs", schema=SCHEMA)
    for table in (
        "audiorooms_long_stays",
        "echoroom_speakers",
        "echoroom_stays",
        "echoroom_daily",
        "echoroom_hourly",
        "pern_security_daily",
        "pern_sessions_daily",
        "pern_daily",
        "attachments_daily",
        "openchat_daily",
        "openchat_messages_daily",
        "connect_daily",
        "connect_calls_daily",
        "rollup_live",
        "rollups",
    ):
        op.drop_table(table, schema=SCHEMA)


def _statements(text: str) -> None:
    # The driver takes no parameters for statements in a row.
    op.get_bind().exec_driver_sql(text, execution_options={"no_parameters": True})


def _figures(name: str, *columns: "sa.Column[Any]") -> None:
    computed_at = sa.Column(
        "computed_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False
    )
    op.create_table(name, *columns, computed_at, schema=SCHEMA)


def _key(name: str, kind: Any) -> "sa.Column[Any]":
    return sa.Column(name, kind, primary_key=True)


def _moment(name: str, *, null: bool = False) -> "sa.Column[Any]":
    return sa.Column(name, sa.DateTime(timezone=True), nullable=null)


def _counts(*names: str) -> "list[sa.Column[Any]]":
    return [sa.Column(name, sa.Integer, nullable=False) for name in names]


def _seconds(*names: str) -> "list[sa.Column[Any]]":
    return [sa.Column(name, sa.Double) for name in names]
