"""`roomkeeper partition`: sentences for what cannot be, SQL that works, and what was made and dropped."""

import re
from datetime import UTC, datetime, timedelta

import psycopg
from syrupy.assertion import SnapshotAssertion

from models.pern import AuditLog
from tests.commands.cli import Outcome, on, refused
from tests.platform import Platform
from tests.sweeps.sweeping import add, close_rollups, rows

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
    script = printed.out[printed.out.index("\n-- ") :]
    before, at_once = script.split("BEGIN;")
    with psycopg.connect(platform.environment["DATABASE_URL"], autocommit=True) as connection:
        for statement in before.split(";\n"):
            connection.execute(statement.encode())
        connection.execute(f"BEGIN;{at_once}".encode())


def sizeless(outcome: Outcome) -> str:
    """Return what was printed, without the size of a table."""
    return re.sub(r"\b[\d.]+ (?:bytes|kB)", "<size>", outcome.out)


def of_month(printed: str, month: str) -> str:
    """Return the one line that is about a month."""
    (line,) = [line for line in printed.splitlines() if month in line]
    return line.replace(month, "<month>")


def test_what_cannot_be_is_told_in_sentences(platform: Platform, snapshot: SnapshotAssertion) -> None:
    outcome = on(platform, "partition", "plan", "pern.message_statuses")
    assert (outcome.code, outcome.err) == (0, "")
    assert sizeless(outcome) == snapshot(name="never analysed")
    with platform.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("ANALYZE pern.message_statuses")
    outcome = on(platform, "partition", "plan", "pern.message_statuses")
    assert "(message_id, user_id)" in outcome.out
    assert "CREATE" not in outcome.out
    assert sizeless(outcome) == snapshot(name="analysed")
    by = on(platform, "partition", "plan", "connect.interaction_logs", "--by", "ended_at")
    assert "(id)" in by.out
    assert sizeless(by) == snapshot(name="by another column")


def test_a_wrong_name_is_a_sentence(platform: Platform, snapshot: SnapshotAssertion) -> None:
    outcome = on(platform, "partition", "plan", "pern.audit_log")
    assert refused(outcome, "'pern.audit_logs'?") == snapshot(name="table")
    outcome = on(platform, "partition", "plan", TABLE, "--by", "nothing")
    assert refused(outcome, "'nothing'") == snapshot(name="column")
    assert refused(on(platform, "partition", "plan", "openchat.message"), "--by ") == snapshot(name="several")
    outcome = on(platform, "partition", "run", TABLE)
    assert refused(outcome, f"roomkeeper partition plan {TABLE}") == snapshot(name="not partitioned")


def test_from_the_plan_to_the_drop(platform: Platform, snapshot: SnapshotAssertion) -> None:
    now = datetime.now(UTC)
    close_rollups(platform)
    log(platform, now - timedelta(days=1))
    switch(platform)
    there = on(platform, "partition", "plan", TABLE).out
    assert "audit_logs_before_y" in there
    nothing = there.splitlines()[-1]
    assert nothing == snapshot(name="nothing to do")
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
    assert re.search(r"audit_logs_first .* – .* 2020-02-01 .* over ", there)
    month = f"{now:%Y-%m}"
    missing, advice = of_month(there.rpartition("┘\n")[2], month), there.splitlines()[-1]
    assert [missing, advice] == snapshot(name="something to do")
    dry = on(platform, "partition", "run", TABLE, "--dry-run")
    assert (dry.code, dry.err) == (0, "")
    assert [of_month(dry.out, month), *dry.out.splitlines()[-2:]] == snapshot(name="dry run")
    assert len(rows(platform, AuditLog)) == 1
    without = on(platform, "partition", "run", TABLE)
    assert without.code == 1
    assert "ROOMKEEPER_ARCHIVE_ROOT" in without.err
    platform.set(archive_root=platform.folder / "archive")
    done = on(platform, "partition", "run", TABLE, "--actor", "ada")
    assert done.code == 0
    assert done.out.splitlines()[-1] == snapshot(name="dropped")
    assert rows(platform, AuditLog) == {}
    assert platform.sql("SELECT content->>'operator' FROM roomkeeper.receipts") == [("ada",)]
    assert on(platform, "partition", "run", TABLE).out == f"{nothing}\n"


def test_what_subscribers_get_and_miss_is_printed(platform: Platform, snapshot: SnapshotAssertion) -> None:
    platform.sql("ALTER TABLE pern.audit_logs REPLICA IDENTITY FULL")
    platform.sql("CREATE PUBLICATION changes FOR TABLE pern.audit_logs")
    platform.sql("CREATE PUBLICATION copies FOR ALL TABLES WITH (publish = 'insert')")
    printed = on(platform, "partition", "plan", TABLE).out
    notes = [line for line in printed.splitlines() if line.startswith("  - ")]
    assert "\n".join(notes) == snapshot(name="conversion")
    switch(platform)
    platform.sql("ALTER PUBLICATION copies SET (publish_via_partition_root = false)")
    month = f"{datetime.now(UTC) + timedelta(days=60):y%Ym%m}"
    platform.sql(f"ALTER TABLE pern.audit_logs_{month} REPLICA IDENTITY DEFAULT")
    printed = on(platform, "partition", "plan", TABLE).out.rpartition("┘\n")[2]
    assert printed.replace(month, "<month>") == snapshot(name="partitions")
