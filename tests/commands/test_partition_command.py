"""`roomkeeper partition`: sentences for what cannot be, SQL that works, and what was made and dropped."""

import re
from datetime import UTC, datetime, timedelta

import psycopg

from models.pern import AuditLog
from tests.commands.cli import on
from tests.platform import Platform
from tests.sweeps.sweeping import add, figures_closed, rows

TABLE = "pern.audit_logs"


def log(platform: Platform, at: datetime) -> None:
    add(
        platform,
        AuditLog,
        action="a",
        resource_type="b",
        severity="info",
        ip_address="::1",
        user_agent="x",
        created_at=at,
    )


def switch(platform: Platform) -> None:
    """Run the SQL that is printed, as an operator would paste it."""
    printed = on(platform, "partition", "plan", TABLE)
    assert (printed.code, printed.err) == (0, "")
    script = printed.out[printed.out.index("-- While it works") :]
    before, at_once = script.split("BEGIN;")
    with psycopg.connect(platform.environment["DATABASE_URL"], autocommit=True) as connection:
        for statement in before.split(";\n"):
            connection.execute(statement.encode())
        connection.execute(f"BEGIN;{at_once}".encode())


def test_what_cannot_be_is_told_in_sentences(platform: Platform) -> None:
    told = on(platform, "partition", "plan", "pern.message_statuses")
    assert (told.code, told.err) == (0, "")
    never = "pern.message_statuses by month of created_at: rows never estimated (ANALYZE does), "
    assert never in told.out
    with platform.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("ANALYZE pern.message_statuses")
    told = on(platform, "partition", "plan", "pern.message_statuses")
    assert "pern.message_statuses by month of created_at: about 0 rows, " in told.out
    assert "It cannot be partitioned:\n  - Its unique key (message_id, user_id) does not" in told.out
    assert "CREATE" not in told.out
    by = on(platform, "partition", "plan", "connect.interaction_logs", "--by", "ended_at")
    assert "Its primary key (id) does not contain ended_at" in by.out


def test_a_wrong_name_is_a_sentence(platform: Platform) -> None:
    told = on(platform, "partition", "plan", "pern.audit_log")
    assert (told.code, told.out) == (1, "")
    assert told.err == "There is no table 'pern.audit_log'. Did you mean 'pern.audit_logs'?\n"
    told = on(platform, "partition", "plan", TABLE, "--by", "nothing")
    assert told.err == "pern.audit_logs has no column 'nothing'.\n"
    told = on(platform, "partition", "plan", "openchat.message")
    assert told.err == (
        "The policies of openchat.message tell the age by more than one column of a row: name one with --by "
        "COLUMN.\n"
    )
    told = on(platform, "partition", "run", TABLE)
    assert told.err == (
        "pern.audit_logs is not partitioned by created_at; see: roomkeeper partition plan pern.audit_logs\n"
    )


def test_from_the_plan_to_the_drop(platform: Platform) -> None:
    now = datetime.now(UTC)
    figures_closed(platform)
    log(platform, now - timedelta(days=1))
    switch(platform)
    there = on(platform, "partition", "plan", TABLE).out
    assert "audit_logs_before_y" in there
    assert "Nothing is missing, and nothing is over." in there
    platform.sql(
        "CREATE TABLE pern.audit_logs_first (LIKE pern.audit_logs);"
        " ALTER TABLE pern.audit_logs DETACH PARTITION pern."
        + platform.sql(
            "SELECT relname FROM pg_class WHERE relname LIKE 'audit_logs_before%' AND relkind = 'r'"
        )[0][0]
    )
    platform.sql(
        "ALTER TABLE pern.audit_logs ATTACH PARTITION pern.audit_logs_first FOR VALUES FROM (MINVALUE)"
        " TO ('2020-02-01Z')"
    )
    log(platform, datetime(2020, 1, 5, tzinfo=UTC))
    periods = ",".join(f"pern.audit_{one}=30" for one in ("info", "warning", "error", "critical", "security"))
    platform.set(retention_days=periods)
    there = on(platform, "partition", "plan", TABLE).out
    assert f"Missing: {now:%Y-%m}." in there
    assert re.search(r"audit_logs_first .* – .* 2020-02-01 .* over ", there)
    dry = on(platform, "partition", "run", TABLE, "--dry-run")
    assert (dry.code, dry.err) == (0, "")
    assert f"{now:%Y-%m}: would be made." in dry.out
    assert "audit_logs_first: would be dropped, 1 row.\nNothing was changed.\n" in dry.out
    assert len(rows(platform, AuditLog)) == 1
    without = on(platform, "partition", "run", TABLE)
    assert without.code == 1
    assert "ROOMKEEPER_ARCHIVE_ROOT" in without.err
    platform.set(archive_root=platform.folder / "archive")
    done = on(platform, "partition", "run", TABLE, "--actor", "ada")
    assert done.code == 0
    assert done.out.endswith("audit_logs_first: dropped, 1 row; receipt 1.\n")
    assert rows(platform, AuditLog) == {}
    assert platform.sql("SELECT content->>'operator' FROM roomkeeper.receipts") == [("ada",)]
    assert on(platform, "partition", "run", TABLE).out == "Nothing is missing, and nothing is over.\n"
