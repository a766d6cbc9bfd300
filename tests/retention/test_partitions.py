"""Tables that are partitioned by month: what is said of them, made, archived and dropped."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from sqlalchemy import insert, select, text

from models.audiorooms import AuditLog as RoomLog
from models.pern import AuditLog, User
from models.platform import Approval, AttachmentEvent, Receipt, UnfinishedArchive
from tasks.analytics import rollup_guard
from tasks.apps import POLICIES
from tasks.policies.columns import table_of
from tasks.policies.retention import Retention
from tasks.retention import archive, partitions, receipts
from tasks.retention.archive import Archived
from tasks.retention.batch import RetentionBatches
from tasks.retention.cascade import files_of
from tasks.retention.partitions import (
    PartitionError,
    archives,
    create_for_rows,
    create_upcoming,
    drop,
    missing_months,
)
from tasks.retention.partitions.catalog import Found
from tasks.retention.partitions.policies import running, whole
from tasks.retention.restore import restore
from tasks.retention.safety_limit import ApprovalRequired
from tests.platform import Platform
from tests.retention.proving import add_hold
from tests.retention.retaining import days, everything, retain
from tests.sweeps.sweeping import INSTANT, NOW, add, rolled_up, rows
from workers import job_history
from workers.storage import ObjectStore, StoreError
from workers.storage.archives import archive_for

AUDIT = table_of(AuditLog)
SEVERITIES = ("info", "warning", "error", "critical", "security")
#: NOW is the first of March 2026; all five policies at 28 days: February's partition begins after the cutoff.
PERIOD = 28
JANUARY, FEBRUARY, MARCH, APRIL = (datetime(2026, number, 1, tzinfo=UTC) for number in (1, 2, 3, 4))


def archived_rows(store: ObjectStore, content: Any) -> Any:
    """Return the rows of an archive, by what a receipt says of it."""
    one = Archived(**content)
    with archive.fetched(store, [one]) as paths:
        return archive.load(paths[one.key])


def log(platform: Platform, at: datetime, severity: str = "info", **values: Any) -> UUID:
    """Add an entry of the audit trail."""
    given = {"action": "a", "resource_type": "b", "ip_address": "::1", "user_agent": 'x,"\n'} | values
    return add(platform, AuditLog, severity=severity, created_at=at, **given)


def find(platform: Platform, table: Any = AUDIT, by: str | None = None) -> Found:
    with platform.engine.begin() as connection:
        return partitions.find(connection, table, partitions.age_of(table, by))


def plan(platform: Platform, name: str, by: str | None = None, now: datetime = NOW) -> partitions.Plan:
    found = find(platform, partitions.named(name), by)
    with platform.engine.begin() as connection:
        return partitions.plan(connection, found, platform.settings, now)


def switch(platform: Platform, name: str, now: datetime) -> None:
    """Run what the plan says, as the application's migration would."""
    made = plan(platform, name, now=now)
    assert (made.reasons, made.conversion is None) == ([], False)
    assert made.conversion is not None
    url = platform.environment["DATABASE_URL"]
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in made.conversion.before:
            connection.execute(statement.encode())
        with connection.transaction():
            for statement in made.conversion.at_once:
                connection.execute(statement.encode())


def names(platform: Platform, table: Any = AUDIT) -> list[str]:
    found = find(platform, table)
    with platform.engine.begin() as connection:
        return [one.name for one in partitions.partitions(connection, found)]


@pytest.fixture
def monthly(platform: Platform) -> Platform:
    """`pern.audit_logs`, partitioned a quarter before NOW: what was before December, and six months."""
    switch(platform, "pern.audit_logs", datetime(2025, 11, 10, tzinfo=UTC))
    days(platform, **{f"pern.audit_{severity}": PERIOD for severity in SEVERITIES})
    create_upcoming(find(platform), NOW)
    return platform


def dropped(platform: Platform, now: datetime = NOW, **given: Any) -> dict[str, str | None]:
    """Drop what is over; return why what stays does, by partition."""
    done = partitions.drop_past(AUDIT, platform.settings, now, **given)
    assert not done.busy
    return {result.name: result.kept for result in done.results}


def kinds(platform: Platform) -> list[tuple[str, str, int]]:
    with platform.engine.begin() as connection:
        assert not receipts.verify(connection).faults
        return [(one.kind, one.policy, one.rows) for one in receipts.every(connection)]


# -- plans -----------------------------------------------------------------------------------------------


def test_the_plan_works_on_a_filled_table(platform: Platform) -> None:
    person = add(
        platform,
        User,
        username="ada",
        email="ada@x.org",
        display_name="Ada",
        password_hash="x",
        created_at=NOW,
        updated_at=NOW,
    )
    for number in range(40):
        log(platform, NOW - timedelta(days=7 * number), SEVERITIES[number % 5], user_id=person)
    before = everything(platform)
    platform.sql("CREATE ROLE auditor_of_tests; GRANT SELECT ON pern.audit_logs TO auditor_of_tests")
    try:
        switch(platform, "pern.audit_logs", NOW)
        assert everything(platform) == before
        assert names(platform) == [
            "audit_logs_before_y2026m04",
            *(f"audit_logs_y2026m0{n}" for n in (4, 5, 6, 7)),
        ]
        granted = "SELECT has_table_privilege('auditor_of_tests', 'pern.audit_logs', 'SELECT')"
        assert platform.sql(granted) == [(True,)]
    finally:
        platform.sql("DROP OWNED BY auditor_of_tests; DROP ROLE auditor_of_tests")
    old, new = (
        {
            row.definition.replace("audit_logs_before_y2026m04", "audit_logs")
            for row in platform.sql(
                "SELECT regexp_replace(pg_get_indexdef(indexrelid), 'INDEX [^ ]+ ON (ONLY )?', 'INDEX ON ')"
                f" AS definition FROM pg_index WHERE indrelid = '{name}'\\:\\:regclass"
            )
        }
        for name in ("pern.audit_logs_before_y2026m04", "pern.audit_logs")
    )
    assert old == new
    assert len(new) == 1 + len(AUDIT.indexes)
    # Each index of the old table is part of the new one's: nothing was built anew.
    ((attached,),) = platform.sql(
        "SELECT count(*) FROM pg_inherits JOIN pg_index ON indexrelid = inhrelid"
        " WHERE indrelid = 'pern.audit_logs_before_y2026m04'\\:\\:regclass"
    )
    assert attached == len(new)
    # What refers to others still does, and old rows follow.
    platform.sql("DELETE FROM pern.users")
    assert {row["user_id"] for row in rows(platform, AuditLog).values()} == {None}
    made = plan(platform, "pern.audit_logs")
    assert (made.reasons, made.conversion, made.coming, made.past) == ([], None, [], [])
    late = log(platform, MARCH + timedelta(days=150))
    assert late in rows(platform, AuditLog)
    with pytest.raises(Exception, match="audit_logs_user_id_fkey"):
        log(platform, MARCH + timedelta(days=150), user_id=uuid4())
    with pytest.raises(Exception, match="no partition of relation"):
        log(platform, MARCH + timedelta(days=160))


REASONS = {
    "connect.interaction_logs": [
        "interaction_schema.connections (interaction_log_id) refers to its (id): a foreign key needs",
        "Its primary key (id) does not contain started_at: PostgreSQL keeps a key unique",
    ],
    "pern.message_statuses": [
        "Its unique key (message_id, user_id) does not contain created_at",
        "merges by ON CONFLICT (message_id, user_id), which needs UNIQUE (message_id, user_id)",
        "Its primary key (id) does not contain created_at either; that alone could be mended",
    ],
    "pern.messages": ["pern.messages (reply_to_id) refers to its (id)"],
    "audiorooms.room_analytics": ["Its unique key (room_id, date) does not contain created_at"],
}


@pytest.mark.parametrize("name", REASONS)
def test_a_table_whose_keys_are_needed_cannot_be_partitioned(platform: Platform, name: str) -> None:
    made = plan(platform, name)
    assert made.conversion is None
    for reason in REASONS[name]:
        assert any(reason in one for one in made.reasons), made.reasons


def test_it_is_the_catalogue_that_is_asked(platform: Platform) -> None:
    platform.sql("CREATE UNIQUE INDEX once ON pern.audit_logs (action)")
    platform.sql("CREATE TABLE pern.notes (entry uuid REFERENCES pern.audit_logs (id))")
    platform.sql("CREATE VIEW pern.latest AS SELECT * FROM pern.audit_logs")
    reasons = "\n".join(plan(platform, "pern.audit_logs").reasons)
    for expected in (
        "Its unique key (action) does not contain created_at",
        "pern.notes (entry) refers to its (id)",
        "Its primary key (id) does not contain created_at",
        "pern.latest reads it",
    ):
        assert expected in reasons
    platform.sql("DROP VIEW pern.latest; DROP TABLE pern.notes; DROP INDEX pern.once")
    platform.sql(
        "CREATE FUNCTION pern.stamp() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN NEW.created_at \\:= now(); RETURN NEW; END $$"
    )
    platform.sql("CREATE TRIGGER stamps BEFORE UPDATE ON pern.audit_logs EXECUTE FUNCTION pern.stamp()")
    reason, *_ = plan(platform, "pern.audit_logs").reasons
    assert reason.startswith("The trigger stamps sets created_at at each change")


def test_rows_that_are_not_of_their_time_are_told(platform: Platform) -> None:
    log(platform, NOW + timedelta(days=367))
    (reason,) = plan(platform, "pern.audit_logs").reasons
    assert reason == "It has rows of 2027-03-03, which is still to come: mend those first."
    platform.sql("UPDATE pern.audit_logs SET created_at = '2026-06-30Z'")
    switch(platform, "pern.audit_logs", NOW)
    assert names(platform)[:2] == ["audit_logs_before_y2026m07", "audit_logs_y2026m07"]


def test_rows_without_an_age_must_get_one(platform: Platform) -> None:
    add(platform, RoomLog, event_type="room_left", created_at=None)
    reason, *_ = plan(platform, "audiorooms.audit_log", "created_at").reasons
    assert reason.startswith("A row has no created_at (NULL)")


def test_a_table_with_row_security_stays_secure(platform: Platform) -> None:
    platform.sql("CREATE POLICY mine ON audiorooms.audit_log FOR SELECT USING (user_id IS NULL)")
    kept = add(platform, RoomLog, event_type="room_left", created_at=NOW)
    switch(platform, "audiorooms.audit_log", NOW)
    assert list(rows(platform, RoomLog)) == [kept]
    with pytest.raises(Exception, match="audit_log_event_type_check"):
        add(platform, RoomLog, event_type="something else", created_at=NOW)
    found = find(platform, table_of(RoomLog), "created_at")
    # The switch has made April to July; from May on, three months ahead are one more.
    assert create_upcoming(found, datetime(2026, 5, 1, tzinfo=UTC)) == ["audit_log_y2026m08"]
    secured = platform.sql(
        "SELECT bool_and(relrowsecurity), count(*) FROM pg_class WHERE relname LIKE 'audit_log%'"
        " AND relkind IN ('r', 'p') AND relnamespace = 'audiorooms'\\:\\:regnamespace"
    )
    assert secured == [(True, 1 + len(names_of(platform, found)))]
    assert platform.sql(
        "SELECT polname, polcmd FROM pg_policy WHERE polrelid = 'audiorooms.audit_log'\\:\\:regclass"
    ) == [("mine", "r")]


def names_of(platform: Platform, found: Found) -> list[str]:
    with platform.engine.begin() as connection:
        return [one.name for one in partitions.partitions(connection, found)]


def event(platform: Platform) -> int:
    values = {"app": "pern", "attachment_id": uuid4(), "attempt": 1, "event": "scan"}
    with platform.engine.begin() as connection:
        added = insert(AttachmentEvent).values(values).returning(AttachmentEvent.id)
        return int(connection.execute(added).scalar_one())


def test_numbering_goes_on(platform: Platform) -> None:
    first = [event(platform) for _ in range(3)]
    switch(platform, "roomkeeper.attachment_events", datetime.now(UTC))
    assert [event(platform), event(platform)] == [first[-1] + 1, first[-1] + 2]


# -- partitions to come ----------------------------------------------------------------------------------


def test_this_month_and_three_ahead_are_made_once(monthly: Platform) -> None:
    coming = [f"audit_logs_y2026m0{number}" for number in (3, 4, 5, 6)]
    assert names(monthly)[-4:] == coming
    assert create_upcoming(find(monthly), NOW) == []
    # Until the last instant of the month it is this one.
    assert create_upcoming(find(monthly), APRIL - INSTANT) == []
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: create_upcoming(find(monthly), APRIL), range(4)))
    assert sorted(name for one in made for name in one) == ["audit_logs_y2026m07"]
    owners = monthly.sql("SELECT DISTINCT relowner FROM pg_class WHERE relname LIKE 'audit_logs%'")
    assert len(owners) == 1
    monthly.sql("DROP TABLE pern.audit_logs_y2026m05")
    assert plan(monthly, "pern.audit_logs").coming == [datetime(2026, 5, 1, tzinfo=UTC)]
    assert create_upcoming(find(monthly), NOW) == ["audit_logs_y2026m05"]


@pytest.mark.parametrize(
    ("moment", "months"),
    [
        ("2026-01-31T23:59:59.999999+00:00", ["2026-01", "2026-02", "2026-03", "2026-04"]),
        ("2028-02-29T23:58:00+00:00", ["2028-02", "2028-03", "2028-04", "2028-05"]),
        ("2026-11-30T12:00:00+00:00", ["2026-11", "2026-12", "2027-01", "2027-02"]),
        ("2026-12-31T23:59:59.999999+00:00", ["2026-12", "2027-01", "2027-02", "2027-03"]),
        ("2027-01-01T00:00:00+00:00", ["2027-01", "2027-02", "2027-03", "2027-04"]),
        # It is December still in UTC.
        ("2027-01-01T01:00:00+02:00", ["2026-12", "2027-01", "2027-02", "2027-03"]),
    ],
)
def test_months_to_come_are_those_of_the_calendar(moment: str, months: list[str]) -> None:
    coming = missing_months([], datetime.fromisoformat(moment))
    assert [f"{begins:%Y-%m}" for begins in coming] == months
    assert all((begins.day, begins.hour, begins.tzinfo) == (1, 0, UTC) for begins in coming)


def test_a_default_partition_that_holds_rows_of_a_month_to_come_is_told(monthly: Platform) -> None:
    monthly.sql("CREATE TABLE pern.rest PARTITION OF pern.audit_logs DEFAULT")
    kept = log(monthly, datetime(2026, 7, 31, tzinfo=UTC))
    with pytest.raises(PartitionError, match=r"The default partition rest holds 1 rows of 2026-07: while"):
        create_upcoming(find(monthly), APRIL)
    assert list(rows(monthly, AuditLog)) == [kept]
    monthly.sql("UPDATE pern.audit_logs SET created_at = '2026-08-01Z'")
    assert create_upcoming(find(monthly), APRIL) == ["audit_logs_y2026m07"]


def test_a_partition_of_a_part_of_a_month_is_told(monthly: Platform) -> None:
    monthly.sql(
        "CREATE TABLE pern.week PARTITION OF pern.audit_logs"
        " FOR VALUES FROM ('2026-07-01Z') TO ('2026-07-08Z')"
    )
    with pytest.raises(PartitionError, match="week has some of 2026-07, from 2026-07-01 00:00 to 2026-07-08"):
        create_upcoming(find(monthly), APRIL)


def test_a_table_in_the_way_is_told(monthly: Platform) -> None:
    monthly.sql("ALTER TABLE pern.audit_logs DETACH PARTITION pern.audit_logs_y2026m06")
    with pytest.raises(PartitionError, match="which is no partition of it: was it detached"):
        create_upcoming(find(monthly), NOW)


# -- partitions that are over ----------------------------------------------------------------------------


def test_a_month_goes_when_the_longest_period_is_over(monthly: Platform) -> None:
    last, first = log(monthly, FEBRUARY - INSTANT, "security"), log(monthly, FEBRUARY)
    log(monthly, JANUARY), log(monthly, datetime(2020, 5, 5, tzinfo=UTC), "error")
    over = FEBRUARY + timedelta(days=PERIOD)
    assert last in rows(monthly, AuditLog)
    assert "audit_logs_y2026m01" not in dropped(monthly, over - INSTANT)
    assert dropped(monthly, over) == {"audit_logs_y2026m01": None}
    assert list(rows(monthly, AuditLog)) == [first]
    assert names(monthly)[0] == "audit_logs_y2026m02"
    assert dropped(monthly, over) == {}
    assert kinds(monthly) == [
        ("dropped", "pern.audit_error", 1),
        ("dropped", "pern.audit_info", 0),
        ("dropped", "pern.audit_info", 1),
        ("dropped", "pern.audit_security", 1),
    ]


def test_the_longest_period_of_all_severities_counts(monthly: Platform) -> None:
    periods = {f"pern.audit_{severity}": 1.0 for severity in SEVERITIES}
    days(monthly, **{**periods, "pern.audit_security": PERIOD})
    log(monthly, JANUARY)
    # February is over for all but security.
    assert "audit_logs_y2026m02" not in dropped(monthly, NOW + timedelta(days=2))
    assert "audit_logs_y2026m02" in names(monthly)


def test_rows_of_a_policy_that_is_off_keep_their_month(monthly: Platform) -> None:
    days(monthly, **{f"pern.audit_{severity}": PERIOD for severity in SEVERITIES[:4]})
    kept = [log(monthly, JANUARY, "security"), log(monthly, JANUARY, "info")]
    found = dropped(monthly)
    assert found["audit_logs_y2026m01"] == (
        "1 row in it is not due: on hold, not in the statistics yet, or of a policy that is off or keeps it"
    )
    assert set(rows(monthly, AuditLog)) == set(kept)
    days(monthly)
    monthly.set(retention_days="")
    assert dropped(monthly) == {}


def test_a_row_on_hold_keeps_its_month(monthly: Platform) -> None:
    person = uuid4()
    kept = [log(monthly, JANUARY, resource_id=person), log(monthly, JANUARY)]
    expired = log(monthly, JANUARY - timedelta(days=1))
    add_hold(monthly, "pern", "user", person)
    found = dropped(monthly)
    assert (found["audit_logs_y2025m12"], found["audit_logs_y2026m01"] is None) == (None, False)
    assert set(rows(monthly, AuditLog)) == set(kept)
    assert expired not in kept
    monthly.sql("UPDATE roomkeeper.holds SET lifted_at = now(), lifted_by = 'ada'")
    assert dropped(monthly) == {"audit_logs_y2026m01": None}


def test_a_hold_that_comes_at_the_last_moment_is_seen(
    monthly: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    person = uuid4()
    kept = log(monthly, JANUARY, resource_id=person)
    meanwhile(monkeypatch, lambda: add_hold(monthly, "pern", "user", person))
    assert "not due" in str(dropped(monthly)["audit_logs_y2026m01"])
    assert list(rows(monthly, AuditLog)) == [kept]
    assert left_over(monthly) == []


def meanwhile(monkeypatch: pytest.MonkeyPatch, does: Any) -> None:
    """Do something once, after an archive was written."""
    writes, done = archive.write, list[Any]()

    def write(*given: Any, **named: Any) -> Archived:
        written = writes(*given, **named)
        if not done:
            done.append(does())
        return written

    monkeypatch.setattr(archive, "write", write)


def left_over(platform: Platform) -> list[str]:
    """Return what is in the place of archives that no receipt names, and what is noted as unfinished."""
    store = archive_for(platform.settings)
    assert store is not None
    with platform.engine.begin() as connection:
        named = [one["key"] for row in receipts.every(connection) for one in row.content["archives"]]
        noted = list(connection.execute(select(UnfinishedArchive.key)).scalars())
    stored = [one.key for one in store.list("pern.")]
    return sorted({*stored, *noted} - set(named))


CHANGES = {
    "a row was added": "INSERT INTO pern.audit_logs SELECT gen_random_uuid(), user_id, action, resource_type,"
    " resource_id, severity, old_values, new_values, ip_address, user_agent, created_at"
    " FROM pern.audit_logs LIMIT 1",
    "a row was changed": "UPDATE pern.audit_logs SET action = 'other' WHERE action = 'first'",
    "a row has gone": "DELETE FROM pern.audit_logs WHERE action = 'first'",
    "a row has gone and another has come": "WITH gone AS (DELETE FROM pern.audit_logs WHERE action = 'first'"
    " RETURNING *) INSERT INTO pern.audit_logs SELECT gen_random_uuid(), user_id, action, resource_type,"
    " resource_id, severity, old_values, new_values, ip_address, user_agent, created_at FROM gone",
    "its severity was changed": "UPDATE pern.audit_logs SET severity = 'error' WHERE action = 'first'",
    "it was written anew": "VACUUM FULL pern.audit_logs_y2026m01",
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_changed_while_it_was_archived_stays(
    monthly: Platform, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    log(monthly, JANUARY, action="first")
    log(monthly, JANUARY)
    url = monthly.environment["DATABASE_URL"]

    def do() -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(CHANGES[change].encode())

    meanwhile(monkeypatch, do)
    found = dropped(monthly)
    assert found["audit_logs_y2026m01"] == (
        "its rows were changed while they were archived; the next run begins anew"
    )
    assert "audit_logs_y2026m01" in names(monthly)
    assert left_over(monthly) == []
    assert dropped(monthly)["audit_logs_y2026m01"] is None
    assert left_over(monthly) == []


def test_what_was_dropped_comes_back(monthly: Platform) -> None:
    values = {"old_values": {"a": [1, None]}, "new_values": None, "user_agent": 'x, "\n\u2028'}
    for severity in SEVERITIES:
        for number in range(3):
            log(monthly, JANUARY + timedelta(days=number), severity, **values)
    log(monthly, datetime(2020, 5, 5, tzinfo=UTC))
    before = everything(monthly)
    found = dropped(monthly, operator="ada")
    assert {name for name, kept in found.items() if kept is None} == {
        "audit_logs_before_y2025m12",
        "audit_logs_y2025m12",
        "audit_logs_y2026m01",
    }
    assert rows(monthly, AuditLog) == {}
    with monthly.engine.begin() as connection:
        written = [one for one in receipts.every(connection) if one.rows]
        store = archive_for(monthly.settings)
        assert store is not None
        assert {one.content["operator"] for one in written} == {"ada"}
        for one in written:
            for archived in one.content["archives"]:
                create_for_rows(connection, AUDIT, archived_rows(store, archived))
    for one in written:
        restore(one.number, monthly.settings, operator="ada", reason="a mistake")
    assert everything(monthly) == before
    assert {"audit_logs_y2020m05", "audit_logs_y2026m01"} < set(names(monthly))
    with pytest.raises(ApprovalRequired, match="were put back"):
        dropped(monthly)


def test_a_large_partition_is_archived_in_parts(monthly: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(monthly, 1_000)
    log(monthly, JANUARY, "security")
    monkeypatch.setattr(archives, "ARCHIVE_ROWS", 100)
    before = everything(monthly)
    assert dropped(monthly)["audit_logs_y2026m01"] is None
    with monthly.engine.begin() as connection:
        info, security = [one for one in receipts.every(connection) if one.rows]
    archived = info.content["archives"]
    assert (info.rows, sum(one["rows"] for one in archived)) == (1_000, 1_000)
    assert len(archived) >= 8
    assert max(one["rows"] for one in archived) <= 200
    assert info.content["partition"] == {
        "name": "audit_logs_y2026m01",
        "begins": JANUARY.isoformat(),
        "ends": FEBRUARY.isoformat(),
    }
    ids = sorted(str(row[0]) for row in before["pern.audit_logs"] if row[5] == "info")
    assert info.content["keys"] == [ids[0], ids[-1]]
    with monthly.engine.begin() as connection:
        store = archive_for(monthly.settings)
        assert store is not None
        create_for_rows(connection, AUDIT, archived_rows(store, archived[0]))
    for number in (info.number, security.number):
        restore(number, monthly.settings, operator="ada", reason="a mistake")
    assert everything(monthly) == before


def fill(platform: Platform, number: int, begins: str = "2026-01-01Z") -> None:
    platform.sql(
        "INSERT INTO pern.audit_logs"
        " (id, action, resource_type, severity, ip_address, user_agent, created_at)"
        f" SELECT gen_random_uuid(), 'a', 'b', 'info', '\\:\\:1', 'Mozilla/5.0', '{begins}'\\:\\:timestamptz"
        f" + number * interval '1 second' FROM generate_series(1, {number}) AS number"
    )


def test_a_dry_run_changes_nothing(monthly: Platform) -> None:
    log(monthly, JANUARY)
    before, there = monthly.everything(), names(monthly)
    assert dropped(monthly, dry_run=True)["audit_logs_y2026m01"] is None
    assert (monthly.everything(), names(monthly), left_over(monthly)) == (before, there, [])


def test_more_than_usual_waits_for_an_approval(monthly: Platform) -> None:
    monthly.set(retention_floor=10)
    fill(monthly, 11)
    with pytest.raises(
        ApprovalRequired, match=r"pern.audit_info would take 11 rows with partitions .* may take 10"
    ):
        dropped(monthly)
    assert (len(rows(monthly, AuditLog)), left_over(monthly)) == (11, [])
    assert "may take 10" in str(dropped(monthly, dry_run=True)["audit_logs_y2026m01"])
    values = {"period_seconds": PERIOD * 86400, "rows": 11, "reason": "so it is", "approved_by": "ada"}
    until = datetime.now(UTC) + timedelta(hours=1)
    with monthly.engine.begin() as connection:
        approval = insert(Approval).values(policy="pern.audit_info", expires_at=until, **values)
        connection.execute(approval)
    assert dropped(monthly) == {"audit_logs_y2026m01": None}
    with monthly.engine.begin() as connection:
        assert connection.scalar(select(Receipt.approval).where(Receipt.rows == 11)) == 1
        # What a month usually has is what those before had.
        connection.execute(text("UPDATE roomkeeper.approvals SET expires_at = now()"))
    fill(monthly, 55, "2026-02-01Z")
    fill(monthly, 1, "2026-02-02Z")
    later = NOW + timedelta(days=31)
    with pytest.raises(ApprovalRequired, match="would take 56 rows"):
        dropped(monthly, later)
    monthly.sql("DELETE FROM pern.audit_logs WHERE created_at > '2026-02-02Z'")
    assert dropped(monthly, later) == {"audit_logs_y2026m02": None}


def test_several_months_count_together(monthly: Platform) -> None:
    monthly.set(retention_floor=10)
    fill(monthly, 6, "2025-12-01Z")
    fill(monthly, 6)
    with pytest.raises(ApprovalRequired, match="would take 12 rows"):
        dropped(monthly)
    assert len(rows(monthly, AuditLog)) == 6


def test_a_store_that_is_down_leaves_all_as_it_was(monthly: Platform) -> None:
    log(monthly, JANUARY)
    in_the_way = monthly.folder / "archive" / "pern.audit_info"
    in_the_way.parent.mkdir()
    in_the_way.write_text("")
    with pytest.raises(StoreError):
        dropped(monthly)
    assert len(rows(monthly, AuditLog)) == 1
    in_the_way.unlink()
    assert dropped(monthly) == {"audit_logs_y2026m01": None}
    assert left_over(monthly) == []


@pytest.mark.parametrize("step", ["tasks.retention.archive.write", "tasks.retention.receipts.append"])
def test_a_run_that_is_killed_leaves_all_as_it_was(monthly: Platform, step: str) -> None:
    """After the archive was written, or when the receipt was, before the commit."""
    log(monthly, JANUARY)
    program = f"""
import os, signal
import {step.rpartition(".")[0]} as owner
from tasks.retention import partitions
does = owner.{step.rpartition(".")[2]}
def deadly(*given, **named):
    found = does(*given, **named)
    if named.get("rows", 1):
        os.kill(os.getpid(), signal.SIGKILL)
    return found
owner.{step.rpartition(".")[2]} = deadly
from tests.retention.test_partitions import AUDIT, NOW
from workers.settings import get_settings
partitions.drop_past(AUDIT, get_settings(), NOW)
"""
    died = subprocess.run([sys.executable, "-c", program], env=monthly.environment, timeout=60)
    assert died.returncode == -9
    assert len(rows(monthly, AuditLog)) == 1
    assert len(left_over(monthly)) == 1
    assert dropped(monthly)["audit_logs_y2026m01"] is None
    assert (rows(monthly, AuditLog), left_over(monthly)) == ({}, [])


def test_archives_that_a_receipt_is_about_to_name_stay(monthly: Platform) -> None:
    """A run that was taken for dead commits its receipt while the next one clears away."""
    log(monthly, JANUARY)
    root = monthly.settings.archive_root
    assert root is not None
    archive = root / "pern.audit_info" / "theirs.parquet"
    archive.parent.mkdir(parents=True)
    archive.write_bytes(b"rows")
    monthly.sql(
        "INSERT INTO roomkeeper.unfinished_archives (key, policy)"
        " VALUES ('pern.audit_info/theirs.parquet', 'partitions.pern.audit_logs')"
    )
    with monthly.engine.connect() as other_run, other_run.begin():
        other_run.execute(text("DELETE FROM roomkeeper.unfinished_archives"))
        assert dropped(monthly)["audit_logs_y2026m01"] is None
    assert archive.read_bytes() == b"rows"


def test_a_table_whose_rows_have_objects_is_not_dropped_by_months() -> None:
    policies = {one.name: one for one in POLICIES.values() if isinstance(one, Retention)}
    assert whole(policies["pern.audit_info"])
    assert not whole(policies["openchat.deleted_attachments"])
    assert [name for name, one in policies.items() if whole(one) and files_of(one) is not None] == []


def test_two_at_once_drop_once(monthly: Platform) -> None:
    fill(monthly, 500)

    def run(_: int) -> partitions.Dropped:
        return partitions.drop_past(AUDIT, monthly.settings, NOW)

    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(run, range(2)))
    dropped_names = [result.name for one in done for result in one.results if result.kept is None]
    assert sorted(dropped_names) == [
        "audit_logs_before_y2025m12",
        "audit_logs_y2025m12",
        "audit_logs_y2026m01",
    ]
    assert [one for one in kinds(monthly) if one[2]] == [("dropped", "pern.audit_info", 500)]
    assert left_over(monthly) == []


def test_while_another_run_is_under_way_nothing_is_done(monthly: Platform) -> None:
    log(monthly, JANUARY)
    with job_history.run("partitions.pern.audit_logs"):
        assert partitions.drop_past(AUDIT, monthly.settings, NOW).busy
    assert (len(rows(monthly, AuditLog)), left_over(monthly)) == (1, [])


INSERT_MARCH = text(
    "INSERT INTO pern.audit_logs SELECT gen_random_uuid(), NULL, 'a', 'b', NULL, 'info',"
    " NULL, NULL, '::1', 'x', '2026-03-01 13:00Z'"
)


@contextmanager
def writing(platform: Platform) -> Iterator[list[float]]:
    """Add and read rows all the time; yield how long each took, in seconds."""
    over, took = threading.Event(), list[float]()

    def write() -> None:
        with platform.engine.connect() as connection:
            while not over.is_set():
                began = time.perf_counter()
                connection.execute(INSERT_MARCH)
                connection.execute(text("SELECT count(*) FROM pern.audit_logs WHERE action = 'none'"))
                connection.commit()
                took.append(time.perf_counter() - began)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield took
    finally:
        over.set()
        thread.join()


def test_who_writes_does_not_wait_for_an_archive(monthly: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is held while one is written, which may take minutes."""
    fill(monthly, 3_000)
    monthly.set(retention_floor=100_000)
    written = archive.write
    during: list[int] = []

    def write(*given: Any, **named: Any) -> Any:
        with monthly.engine.begin() as connection:
            connection.execute(text("SET LOCAL lock_timeout = '2s'"))
            during.append(connection.execute(INSERT_MARCH).rowcount)
            connection.execute(text("SELECT count(*) FROM pern.audit_logs"))
        return written(*given, **named)

    monkeypatch.setattr(archive, "write", write)
    with writing(monthly) as took:
        assert dropped(monthly)["audit_logs_y2026m01"] is None
        create_upcoming(find(monthly), APRIL)
    assert during
    assert set(during) == {1}
    # Others write all the time, and none of their statements fails.
    assert len(took) > 10


def test_who_reads_for_long_is_not_waited_for(monthly: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    log(monthly, JANUARY)
    monkeypatch.setattr(drop, "TRIES", 2)
    with monthly.engine.begin() as connection:
        connection.execute(text("SELECT count(*) FROM pern.audit_logs"))
        found = dropped(monthly)
    assert str(found["audit_logs_y2026m01"]).startswith("others hold it all the time (LockNotAvailable")
    assert (len(rows(monthly, AuditLog)), left_over(monthly), kinds(monthly)) == (1, [], [])
    assert dropped(monthly)["audit_logs_y2026m01"] is None


def test_what_a_scheduled_run_has_no_time_for_stays(monthly: Platform) -> None:
    log(monthly, JANUARY)
    assert "roomkeeper partition run" in str(dropped(monthly, seconds=0)["audit_logs_y2026m01"])
    assert left_over(monthly) == []


# -- together with the sweep -----------------------------------------------------------------------------


def test_the_sweep_takes_what_is_left(monthly: Platform) -> None:
    """The month of the cutoff, row by row, in whatever partition."""
    old, due = log(monthly, JANUARY), log(monthly, FEBRUARY + timedelta(hours=11))
    young = log(monthly, FEBRUARY + timedelta(hours=12))
    policy = running(AUDIT, monthly.settings)[0][0]
    assert partitions.keep(policy, monthly.settings, NOW) == []
    assert old not in rows(monthly, AuditLog)
    assert due in rows(monthly, AuditLog)
    assert retain(monthly, "pern.audit_info").rows == 1
    assert list(rows(monthly, AuditLog)) == [young]


def test_a_table_that_is_not_partitioned_is_left_alone(platform: Platform) -> None:
    days(platform, **{"pern.audit_info": 1})
    log(platform, JANUARY)
    before = platform.everything()
    policy = running(AUDIT, platform.settings)[0][0]
    assert partitions.keep(policy, platform.settings, NOW) == []
    assert dropped(platform) == {}
    assert platform.everything() == before


def test_a_month_stays_until_its_days_are_closed_and_freezes_them(monthly: Platform) -> None:
    name = "pern.security_daily"
    latest = JANUARY + timedelta(days=20)
    log(monthly, JANUARY)
    log(monthly, latest, "error")
    log(monthly, latest + INSTANT)
    rolled_up(monthly, name, watermark=latest + INSTANT)
    (why,) = (why for one, why in dropped(monthly).items() if "2026m01" in one)
    assert why is not None
    assert why.startswith("1 row in it is not due: on hold, not in the statistics yet")
    assert len(rows(monthly, AuditLog)) == 3
    rolled_up(monthly, name, watermark=latest + 2 * INSTANT)
    assert None in dropped(monthly).values()
    assert rows(monthly, AuditLog) == {}
    (state,) = monthly.sql("SELECT frozen_to FROM roomkeeper.rollups WHERE name = :name", name=name)
    assert state.frozen_to == latest + INSTANT


def test_a_batch_takes_no_more_than_it_may(monthly: Platform) -> None:
    """A row's place is one of each partition."""
    for begins in (JANUARY, FEBRUARY - timedelta(days=45), datetime(2020, 1, 1, tzinfo=UTC)):
        for number in range(5):
            log(monthly, begins + timedelta(minutes=number))
    policy = running(AUDIT, monthly.settings)[0][0]
    with monthly.engine.begin() as connection:
        rolled_up = rollup_guard.ask(connection, [policy], monthly.settings, NOW)
    batches = RetentionBatches(
        policy,
        NOW,
        timedelta(days=PERIOD),
        closed=rolled_up,
        settings=monthly.settings,
        run=uuid4(),
        archives=archive_for(monthly.settings),
        allowed=4,
    )
    assert batches.by_index(5).rows == 4
    assert len(rows(monthly, AuditLog)) == 11


@pytest.mark.usefixtures("two_connections")
def test_a_scheduled_run_drops_and_a_restore_makes_room_again(monthly: Platform) -> None:
    old = log(monthly, JANUARY)
    before = rows(monthly, AuditLog)
    retain(monthly, "pern.audit_info")
    assert rows(monthly, AuditLog) == {}
    (receipt,) = monthly.sql("SELECT number, kind FROM roomkeeper.receipts WHERE rows > 0")
    assert receipt.kind == "dropped"
    restore(receipt.number, monthly.settings, operator="ada", reason="a mistake")
    assert rows(monthly, AuditLog) == before
    assert set(before) == {old}
