"""`roomkeeper check` on real servers: sound ones pass, each fault is a sentence and an advice."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import psycopg
import pytest
from redis import Redis
from sqlalchemy import select
from syrupy.assertion import SnapshotAssertion

from commands import checks, rollup_status
from commands.rollup_status import RollupStatus
from models.echoroom import ChatSession, TypingIndicator, User
from models.platform import SCHEMA
from stack.ports import free_port
from stack.processes import RunCommand, run
from stack.servers import signatures
from stack.servers.clamd import Clamd
from stack.servers.signatures import Signatures
from stack.servers.valkey import Valkey
from tasks.analytics.state import state_of
from tasks.apps import APPS, POLICIES, ROLLUPS
from tasks.policies.retention import Retention
from tasks.policies.rollup import Rollup
from tasks.retention import task as retention
from tasks.retention.safety_limit import ApprovalRequired
from tasks.sweeps import task as cleanup
from tests.commands.cli import Outcome, on, relative, stable, timeless
from tests.databases import ReusedDatabase
from tests.platform import Platform
from tests.retention.pern_chats import conversation, message
from tests.servers import ClamdServer, PostgresServer, SeaweedFSServer, ValkeyServer
from tests.sweeps.sweeping import add, close_rollups
from workers import revision, sandbox
from workers.scanner import Version
from workers.settings import load

MIB = 1024 * 1024

#: Days are counted back from today.
pytestmark = pytest.mark.usefixtures("same_day")


@pytest.fixture(autouse=True)
def small_files(platform: Platform) -> None:
    """The scanner is asked about a file as large as the limit: a small one takes no time."""
    platform.set(max_file_bytes=2 * MIB)


@pytest.fixture(autouse=True)
def archive(platform: Platform) -> Path:
    """Some policies of retention run as they are, and they archive what they delete."""
    root = platform.folder / "archive"
    platform.set(archive_root=root)
    return root


@pytest.fixture(scope="module")
def _reused(postgres: PostgresServer, _template: str) -> Iterator[ReusedDatabase]:
    """A database with indexes on the keys of files that a policy deletes; the application makes none."""
    alter = [
        f"CREATE INDEX by_{column} ON pern.attachments ({column})"
        for column in ("file_path", "thumbnail_path")
    ]
    made = ReusedDatabase(postgres.url(), _template, postgres.url, name="with_key_indexes_", alter=alter)
    yield made
    made.drop()


def found(outcome: Outcome, *names: str, **known: object) -> str:
    """Return the faults of a check as they are printed: as many as `names`, each of which names its own."""
    assert outcome.code == 1
    assert "Traceback" not in outcome.out + outcome.err
    assert "Ready" not in outcome.out
    assert outcome.err == ""
    for sentence, advice in outcome.faults:
        assert sentence.endswith(".")
        assert advice
    faults = [f"✗ {sentence}\n  {advice}\n" for sentence, advice in outcome.faults]
    assert len(faults) == len(names), faults
    for name, one in zip(names, faults, strict=True):
        assert name in one
    return stable("".join(faults), **known)


def warned(outcome: Outcome, *names: str, code: int = 0, **known: object) -> str:
    """Return the warnings of a check, as `found` does its faults."""
    assert (outcome.code, outcome.err) == (code, "")
    warnings = re.findall(r"^! .*\n  .*\n", outcome.out, re.MULTILINE)
    assert len(warnings) == len(names), warnings
    for name, one in zip(names, warnings, strict=True):
        assert name in one
    return stable("".join(warnings), **known)


def without_reason(fault: str) -> str:
    """Return what was said of a fault without the words of a system or a library, which are its own."""
    sentence, _, advice = fault.partition("\n")
    return f"{sentence.rpartition(': ')[0]}: …\n{advice}"


def passed(outcome: Outcome) -> list[str]:
    """Return what was found sound."""
    return re.findall(r"^✓ (\w+)\b", outcome.out, re.MULTILINE)


def all_but(*faulty: str) -> list[str]:
    """Return the names of all checks but these, in their order."""
    names = ("database", "broker", "store", "scanner", "decoder", "retention", "workers", "queues", "jobs")
    return [name for name in names if name not in faulty]


# -- all is well -----------------------------------------------------------------------------------------


def test_a_sound_platform_is_ready(platform: Platform, snapshot: SnapshotAssertion) -> None:
    outcome = on(platform, "check")
    assert (outcome.code, outcome.err) == (0, "")
    checked = ["database", "broker", "store", "scanner", "decoder", "retention", "workers", "queues", "jobs"]
    assert passed(outcome) == checked
    assert outcome.out == snapshot
    strict = on(platform, "check", "--strict")
    assert (strict.code, strict.out) == (0, outcome.out)


def test_published_rows_that_nothing_identifies_are_reported(
    platform: Platform, snapshot: SnapshotAssertion
) -> None:
    platform.sql("ALTER TABLE pern.audit_logs DROP CONSTRAINT audit_logs_pkey")
    assert on(platform, "check").code == 0
    platform.sql("CREATE PUBLICATION changes FOR TABLES IN SCHEMA pern WITH (publish = 'insert, delete')")
    outcome = on(platform, "check")
    assert found(outcome, "pern.audit_logs") == snapshot
    (_, advice), *_ = outcome.faults
    platform.sql(advice.partition("or: ")[2])
    assert on(platform, "check").code == 0


def test_a_check_leaves_nothing_behind(platform: Platform) -> None:
    def left() -> tuple[object, ...]:
        with Redis.from_url(platform.environment["ROOMKEEPER_BROKER_URL"]) as client:
            keys = client.dbsize()
        # Directories too: the quarantine is made by the first worker that needs it.
        return platform.everything(), keys, sorted(platform.folder.rglob("*"))

    before = left()
    assert on(platform, "check").code == 0
    assert left() == before


# -- the database ----------------------------------------------------------------------------------------


def change_url(platform: Platform, pattern: str, replacement: str) -> None:
    url = platform.environment["DATABASE_URL"]
    platform.environment["DATABASE_URL"] = re.sub(pattern, replacement, url)
    assert platform.environment["DATABASE_URL"] != url


def test_a_database_that_is_down(platform: Platform, snapshot: SnapshotAssertion) -> None:
    port = free_port()
    change_url(platform, r":\d+/", f":{port}/")
    outcome = on(platform, "check")
    assert found(outcome, f"port {port} failed: Connection refused.") == snapshot
    assert passed(outcome) == all_but("database", "jobs")


def test_a_database_that_there_is_not(platform: Platform, snapshot: SnapshotAssertion) -> None:
    change_url(platform, r"/\w+$", "/nowhere")
    assert found(on(platform, "check"), 'FATAL:  database "nowhere" does not exist.') == snapshot


@pytest.fixture
def locked(postgres: PostgresServer) -> Iterator[str]:
    """A role that must give a password, on a server that otherwise trusts everybody."""
    rules = postgres.server.directory / "data" / "pg_hba.conf"
    before = rules.read_text()
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute("CREATE ROLE locked LOGIN PASSWORD 'right'")
        rules.write_text(f"host all locked 127.0.0.1/32 scram-sha-256\n{before}")
        connection.execute("SELECT pg_reload_conf()")
        yield "locked"
        rules.write_text(before)
        connection.execute("SELECT pg_reload_conf()")
        connection.execute("DROP ROLE locked")


def test_a_wrong_password(platform: Platform, locked: str, snapshot: SnapshotAssertion) -> None:
    change_url(platform, "roomkeeper@", f"{locked}:geheim@")
    outcome = on(platform, "check")
    assert found(outcome, 'FATAL:  password authentication failed for user "locked".') == snapshot
    assert "geheim" not in outcome.out


def test_our_schema_is_missing(platform: Platform, snapshot: SnapshotAssertion) -> None:
    platform.sql("DROP SCHEMA roomkeeper CASCADE")
    newest = revision.newest()
    assert found(on(platform, "check"), newest, newest=newest) == snapshot


def test_our_schema_is_older(platform: Platform, snapshot: SnapshotAssertion) -> None:
    platform.sql("UPDATE roomkeeper.alembic_version SET version_num = '0000'")
    newest = revision.newest()
    outcome = on(platform, "check")
    assert "0000" in outcome.out
    assert found(outcome, newest, newest=newest) == snapshot


@pytest.mark.parametrize(
    ("statement", "name"),
    [
        ("DROP TABLE pern.attachments", "table pern.attachments"),
        ("DROP TABLE roomkeeper.dead_letters", "table roomkeeper.dead_letters"),
        (
            "ALTER TABLE openchat.attachment DROP COLUMN scan_result",
            "column openchat.attachment.scan_result",
        ),
        (
            "ALTER TABLE pern.attachments ALTER COLUMN file_size TYPE text",
            "column pern.attachments.file_size",
        ),
        ("ALTER SCHEMA pern RENAME TO chat", "schema pern"),
    ],
)
def test_a_database_that_is_not_as_the_jobs_need_it(
    platform: Platform, statement: str, name: str, snapshot: SnapshotAssertion
) -> None:
    platform.sql(statement)
    assert found(on(platform, "check"), name) == snapshot


@pytest.fixture
def api(platform: Platform, postgres: PostgresServer) -> Iterator[Platform]:
    """The platform, whose role is no superuser but may do all that is needed."""
    # The tables of the others are behind row level security.
    apps = ("openchat", "connect", "pern")
    platform.set(apps=",".join(apps))
    everything = ", ".join([SCHEMA, *(schema for app in apps for schema in APPS[app].models.SCHEMAS)])
    platform.sql("CREATE ROLE api LOGIN")
    platform.sql(f"GRANT USAGE ON SCHEMA {everything} TO api")
    platform.sql(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {everything} TO api")
    change_url(platform, "roomkeeper@", "api@")
    yield platform
    platform.sql("DROP OWNED BY api")
    platform.sql("DROP ROLE api")


def test_a_role_with_the_rights_that_are_needed_will_do(api: Platform) -> None:
    assert on(api, "check").code == 0


def test_a_role_that_row_level_security_blinds(api: Platform, snapshot: SnapshotAssertion) -> None:
    api.sql("ALTER TABLE openchat.attachment ENABLE ROW LEVEL SECURITY")
    assert found(on(api, "check"), "ALTER ROLE api BYPASSRLS;") == snapshot
    api.sql("ALTER ROLE api BYPASSRLS")
    assert on(api, "check").code == 0


def test_a_role_that_lacks_a_right(api: Platform, snapshot: SnapshotAssertion) -> None:
    api.sql("REVOKE UPDATE ON pern.attachments FROM api")
    assert found(on(api, "check"), "GRANT UPDATE ON pern.attachments TO api;") == snapshot


def test_the_right_to_delete_is_asked_for_where_something_is_to_be_deleted(
    api: Platform, snapshot: SnapshotAssertion
) -> None:
    api.sql("REVOKE DELETE ON pern.audit_logs FROM api")
    assert on(api, "check").code == 0
    days(api, **{"pern.audit_info": 400})
    assert found(on(api, "check"), "GRANT DELETE ON pern.audit_logs TO api;") == snapshot


def test_a_role_that_may_not_look_into_our_schema(api: Platform, snapshot: SnapshotAssertion) -> None:
    api.sql("REVOKE USAGE ON SCHEMA roomkeeper FROM api")
    assert found(on(api, "check"), "permission denied for schema roomkeeper.") == snapshot


def test_what_is_switched_off_is_not_needed(platform: Platform, snapshot: SnapshotAssertion) -> None:
    platform.sql("DROP SCHEMA openchat CASCADE")
    assert found(on(platform, "check"), "schema openchat") == snapshot(name="fault")
    platform.set(apps="pern,connect")
    outcome = on(platform, "check")
    assert outcome.code == 0
    assert outcome.out.splitlines()[-1] == snapshot(name="without it")


def test_a_schema_may_be_called_otherwise(platform: Platform) -> None:
    platform.sql("DROP SCHEMA public CASCADE")
    platform.sql("ALTER SCHEMA openchat RENAME TO public")
    found(on(platform, "check"), "schema openchat")
    platform.set(schemas="openchat=public")
    assert on(platform, "check").code == 0
    platform.sql("ALTER TABLE public.attachment DROP COLUMN storage_key")
    # By the name that the operator knows.
    found(on(platform, "check"), "column public.attachment.storage_key")


# -- the jobs --------------------------------------------------------------------------------------------


def test_jobs_that_get_on_are_sound(platform: Platform) -> None:
    assert cleanup.run(POLICIES["echoroom.typing"], platform.settings) is not None
    assert "✓ jobs" in on(platform, "check").out.splitlines()


def test_a_policy_that_gets_nowhere(platform: Platform, snapshot: SnapshotAssertion) -> None:
    """By a real run, while another transaction holds the row."""
    room = add(platform, ChatSession, category="Calm")
    user = add(platform, User, username="Ada")
    past = datetime.now(UTC) - timedelta(minutes=1)
    here = {"session_id": room, "user_id": user}
    add(platform, TypingIndicator, username="Ada", expires_at=past, **here)
    with platform.engine.connect() as blocker:
        blocker.execute(select(TypingIndicator.id).with_for_update())
        for _ in range(3):
            assert cleanup.run(POLICIES["echoroom.typing"], platform.settings) is not None
        assert found(on(platform, "check"), "echoroom.typing") == snapshot
    assert cleanup.run(POLICIES["echoroom.typing"], platform.settings) is not None
    assert on(platform, "check").code == 0


def test_an_index_that_is_not_there_is_a_warning(platform: Platform, snapshot: SnapshotAssertion) -> None:
    platform.sql("DROP INDEX echoroom.idx_typing_indicators_expires")
    index = "idx_typing_indicators_expires ON echoroom.typing_indicators (expires_at);"
    for options, code in (((), 0), (("--strict",), 1)):
        outcome = on(platform, "check", *options)
        assert warned(outcome, index, code=code) == snapshot(name="warning")
        assert ("database" in passed(outcome)) is (code == 0)
        assert ("Ready" in outcome.out) is (code == 0)


def test_a_database_that_takes_no_writes(platform: Platform, snapshot: SnapshotAssertion) -> None:
    name = platform.engine.url.database
    platform.sql(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    assert found(on(platform, "check"), "default_transaction_read_only") == snapshot


def test_policies_that_do_not_run(platform: Platform, snapshot: SnapshotAssertion) -> None:
    platform.sql(
        "INSERT INTO roomkeeper.job_runs (job, started_at, finished_at, rows, outcome)"
        " VALUES ('echoroom.counts', '2026-01-01Z', '2026-01-01Z', 0, 'done')"
    )
    platform.set(apps="echoroom")
    names = "echoroom.typing, echoroom.ghosts, echoroom.voice and 12 more"
    assert found(on(platform, "check"), names) == snapshot(name="many")
    # What is switched off, or belongs to an application that is, need not run.
    others = [name for name in (*POLICIES, *ROLLUPS) if name.startswith(("echoroom.", "roomkeeper."))]
    others.remove("echoroom.counts")
    platform.set(sweep_off=",".join(others))
    assert found(on(platform, "check"), "echoroom.counts") == snapshot(name="one")
    platform.set(sweep_every=f"echoroom.counts={100 * 365 * 24 * 3600}")
    assert on(platform, "check").code == 0


# -- rollups ---------------------------------------------------------------------------------------------

EVENTS = ROLLUPS["pern.security_daily"]


def closed_up_to(platform: Platform, rollup: Rollup, watermark: datetime, zone: str = "UTC") -> None:
    """Say how far a rollup has come."""
    platform.sql("DELETE FROM roomkeeper.rollups WHERE name = :name", name=rollup.name)
    platform.sql(
        "INSERT INTO roomkeeper.rollups (name, zone, watermark, covered_from)"
        " VALUES (:name, :zone, :watermark, '2026-01-01Z')",
        name=rollup.name,
        zone=zone,
        watermark=watermark,
    )


def test_a_rollup_that_is_late_is_a_fault(platform: Platform, snapshot: SnapshotAssertion) -> None:
    """Either side of the limit: the next bucket's end, the time to settle, and what it may be late by."""
    now = datetime.now(UTC)
    hourly = ROLLUPS["echoroom.hourly"]
    hour = now.replace(minute=0, second=0, microsecond=0)
    standing = RollupStatus(hourly, now, None)
    assert (standing.lag, standing.late, standing.closed) == (None, False, None)
    closed_up_to(platform, hourly, hour)
    with platform.engine.begin() as connection:
        state = state_of(connection, hourly)
    assert state is not None
    limit = hour + timedelta(hours=1) + hourly.grace + hourly.late_after
    assert not RollupStatus(hourly, limit, state).late
    late = RollupStatus(hourly, limit + timedelta(microseconds=1), state)
    assert late.late
    (fault,) = rollup_status.faults([late, standing])
    assert stable(f"{fault.sentence}\n{fault.advice}", hour=f"{hour:%Y-%m-%d %H:%M}") == snapshot


def test_late_rollups_are_one_fault(platform: Platform, snapshot: SnapshotAssertion) -> None:
    day = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)

    def late(*names: str) -> str:
        text = relative(found(on(platform, "check"), *names))
        # How long ago depends on the hour.
        return re.sub(r"\b(\d+) (days|hours) ago", "<lag> ago", text)

    closed_up_to(platform, EVENTS, day)
    assert on(platform, "check").code == 0
    closed_up_to(platform, EVENTS, day - timedelta(days=9))
    assert re.search(r"\b[78] days ago; 2 hours ", on(platform, "check").out)
    assert late(EVENTS.name) == snapshot(name="one")
    assert on(platform, "run", EVENTS.name).code == 0
    assert on(platform, "check").code == 0
    for number, name in enumerate(("pern.daily", "connect.daily", "connect.calls_daily", "openchat.daily")):
        closed_up_to(platform, ROLLUPS[name], day - timedelta(days=9 + number))
    assert late("openchat.daily, connect.calls_daily, connect.daily and 1 more") == snapshot(name="many")
    # What is off is never late.
    platform.set(sweep_off="pern.daily,connect.daily,connect.calls_daily,openchat.daily")
    assert on(platform, "check").code == 0


def test_another_zone_is_a_fault(platform: Platform, snapshot: SnapshotAssertion) -> None:
    day = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    closed_up_to(platform, EVENTS, day)
    platform.set(rollup_zones=f"{EVENTS.name}=Europe/Berlin,pern.daily=Asia/Tokyo")
    assert found(on(platform, "check"), f"roomkeeper rollup zone {EVENTS.name} Europe/Berlin") == snapshot
    closed_up_to(platform, EVENTS, day, "Europe/Berlin")
    assert on(platform, "check").faults == []


def test_rollups_that_do_not_run_are_told_with_policies(
    platform: Platform, snapshot: SnapshotAssertion
) -> None:
    platform.set(apps="pern", sweep_off=",".join(name for name in POLICIES if name != "roomkeeper.runs"))
    platform.sql(
        "INSERT INTO roomkeeper.job_runs (job, started_at, finished_at, rows, outcome)"
        " VALUES ('roomkeeper.runs', now() - interval '1 day', now(), 0, 'done')"
    )
    names = "pern.daily, pern.sessions_daily, pern.security_daily"
    assert found(on(platform, "check"), names) == snapshot


def test_what_rollups_need_is_asked_for(api: Platform, snapshot: SnapshotAssertion) -> None:
    api.sql("REVOKE SELECT ON pern.audit_logs FROM api")
    api.sql("REVOKE INSERT ON roomkeeper.pern_security_daily FROM api")
    insert = "GRANT INSERT ON roomkeeper.pern_security_daily TO api;"
    assert found(on(api, "check"), insert, "GRANT SELECT ON pern.audit_logs TO api;") == snapshot


def test_of_a_rollup_that_is_off_nothing_is_needed(platform: Platform) -> None:
    platform.sql("ALTER TABLE audiorooms.room_analytics DROP COLUMN total_listen_minutes")
    found(on(platform, "check"), "column audiorooms.room_analytics.total_listen_minutes")
    platform.set(sweep_off="audiorooms.room_analytics")
    assert on(platform, "check").code == 0


def test_the_platforms_own_rollup_is_checked(platform: Platform) -> None:
    platform.sql("ALTER TABLE roomkeeper.attachments_daily DROP COLUMN size_bytes")
    found(on(platform, "check"), "column roomkeeper.attachments_daily.size_bytes")


# -- retention -------------------------------------------------------------------------------------------


def test_keys_of_files_without_an_index_are_a_warning(
    platform: Platform, snapshot: SnapshotAssertion
) -> None:
    platform.sql("DROP INDEX pern.by_file_path")
    platform.sql("DROP INDEX pern.by_thumbnail_path")
    platform.sql("CREATE INDEX by_file_path ON pern.attachments (file_path) WHERE file_size > 0")
    platform.sql(
        "CREATE INDEX by_thumbnail_path ON pern.attachments (thumbnail_path) WHERE thumbnail_path <> ''"
    )
    outcome = on(platform, "check")
    create = [
        f"CREATE INDEX CONCURRENTLY ON pern.attachments ({c});" for c in ("file_path", "thumbnail_path")
    ]
    assert warned(outcome, *create) == snapshot
    assert on(platform, "check", "--strict").code == 1
    with psycopg.connect(platform.environment["DATABASE_URL"], autocommit=True) as connection:
        for statement in re.findall(r"CREATE INDEX.*;", outcome.out):
            connection.execute(statement.encode())
    assert "retention" in passed(on(platform, "check", "--strict"))
    # Where nothing deletes files, nothing is asked.
    platform.sql("DROP INDEX pern.attachments_file_path_idx")
    platform.set(sweep_off="pern.messages_by_conversation")
    assert "retention" in passed(on(platform, "check", "--strict"))


def days(platform: Platform, **periods: float) -> None:
    platform.set(retention_days=",".join(f"{name}={period}" for name, period in periods.items()))


def test_archives_need_a_place(platform: Platform, snapshot: SnapshotAssertion) -> None:
    platform.set(apps="pern")
    del platform.environment["ROOMKEEPER_ARCHIVE_ROOT"]
    assert found(on(platform, "check"), "pern.messages_by_conversation ") == snapshot(name="one")
    days(platform, **{"pern.audit_info": 400, "pern.messages": 400, "pern.audit_error": 400})
    names = "pern.messages_by_conversation, pern.messages, pern.audit_info"
    assert found(on(platform, "check"), names) == snapshot(name="many")
    # Audit logs must be archived.
    days(platform, **{"pern.messages": 400})
    platform.set(archive_off="pern.messages", sweep_off="pern.messages_by_conversation")
    assert on(platform, "check").code == 0


def test_archives_are_not_served(platform: Platform, snapshot: SnapshotAssertion) -> None:
    platform.set(archive_root=platform.store / "deep" / "archive")
    assert found(on(platform, "check"), f"{platform.store}/deep/archive ") == snapshot
    assert list(platform.store.iterdir()) == []


@pytest.mark.parametrize("there", [True, False])
def test_archives_can_be_written(
    platform: Platform, archive: Path, there: bool, snapshot: SnapshotAssertion
) -> None:
    if there:
        archive.mkdir()
        # No user can write there.
        platform.set(archive_root="/proc/self")
    else:
        platform.set(archive_root="/proc/archive")
    fault = found(on(platform, "check"), "/proc/")
    assert without_reason(fault) == snapshot


def test_an_archive_in_a_bucket(
    platform: Platform, seaweedfs: SeaweedFSServer, bucket: str, snapshot: SnapshotAssertion
) -> None:
    del platform.environment["ROOMKEEPER_ARCHIVE_ROOT"]
    platform.environment.update(seaweedfs.settings())
    platform.set(archive_bucket=bucket)
    assert on(platform, "check").code == 0
    assert "Contents" not in seaweedfs.client.list_objects_v2(Bucket=bucket)
    platform.set(archive_bucket=f"{bucket}-not")
    assert found(on(platform, "check"), "ROOMKEEPER_ARCHIVE_BUCKET", bucket=bucket) == snapshot


@pytest.mark.parametrize(
    ("name", "needed", "rollups"),
    [
        ("pern.messages", 36, "pern.daily, roomkeeper.attachments_daily"),
        ("pern.audit_security", 36, "pern.security_daily"),
        ("connect.messages", 36, "connect.daily"),
        (
            "openchat.deleted_messages",
            36,
            "openchat.messages_daily, openchat.daily, roomkeeper.attachments_daily",
        ),
        ("openchat.deleted_attachments", 36, "roomkeeper.attachments_daily"),
        ("echoroom.messages", 4, "echoroom.hourly, echoroom.daily"),
        ("audiorooms.participants", 36, "audiorooms.room_analytics"),
    ],
)
def test_what_figures_need_is_kept_for_them(
    platform: Platform, name: str, needed: int, rollups: str, snapshot: SnapshotAssertion
) -> None:
    """As long as they are computed again, and what settles before."""
    days(platform, **{name: needed})
    assert on(platform, "check").code == 0
    days(platform, **{name: needed - 0.5})
    fault = found(on(platform, "check"), f"({rollups})")
    assert f"ROOMKEEPER_RETENTION_DAYS={name}={needed}\n" in fault
    assert fault == snapshot
    # Statistics that are switched off need nothing.
    platform.set(sweep_off=rollups.replace(" ", ""))
    assert on(platform, "check").code == 0


def test_what_waits_for_others_is_not_to_go_before_them(
    platform: Platform, snapshot: SnapshotAssertion
) -> None:
    days(platform, **{"audiorooms.rooms": 90, "audiorooms.participants": 90})
    assert on(platform, "check").code == 0
    days(platform, **{"audiorooms.rooms": 89, "audiorooms.participants": 90})
    assert found(on(platform, "check"), "ROOMKEEPER_RETENTION_DAYS=audiorooms.rooms=90") == snapshot


def test_what_waits_for_what_is_off_is_told(platform: Platform, snapshot: SnapshotAssertion) -> None:
    days(platform, **{"audiorooms.rooms": 90})
    assert warned(on(platform, "check"), "audiorooms.participants=DAYS") == snapshot(name="no period")
    platform.set(sweep_off="audiorooms.participants")
    days(platform, **{"audiorooms.rooms": 90, "audiorooms.participants": 90})
    assert warned(on(platform, "check"), "ROOMKEEPER_SWEEP_OFF") == snapshot(name="switched off")


def test_deleted_files_do_not_go_before_their_time(platform: Platform, snapshot: SnapshotAssertion) -> None:
    for files, messages, right in ((40, 40, True), (39, 40, True), (41, 40, False)):
        days(
            platform,
            **{"openchat.deleted_attachments": files, "openchat.deleted_messages": messages},
        )
        outcome = on(platform, "check")
        assert (outcome.code == 0) is right
    assert found(outcome, "ROOMKEEPER_RETENTION_DAYS=openchat.deleted_messages=41") == snapshot


def test_security_is_kept_longest(platform: Platform, snapshot: SnapshotAssertion) -> None:
    days(platform, **{"pern.audit_security": 90, "pern.audit_critical": 90, "pern.audit_info": 36})
    assert on(platform, "check").code == 0
    days(platform, **{"pern.audit_security": 90, "pern.audit_critical": 91})
    assert found(on(platform, "check"), "ROOMKEEPER_RETENTION_DAYS=pern.audit_security=91") == snapshot
    # Kept for ever.
    days(platform, **{"pern.audit_critical": 91})
    assert on(platform, "check").code == 0


def test_limits_that_are_ignored_are_told(platform: Platform, snapshot: SnapshotAssertion) -> None:
    conversation(platform, message_retention_days=36)
    conversation(platform, message_retention_days=None)
    assert "message_retention_days" not in on(platform, "check").out
    wrong = [conversation(platform, message_retention_days=limit) for limit in ("30", 0)]
    outcome = on(platform, "check")
    assert warned(outcome, "2 conversations have a message_retention_days") == snapshot
    assert all(str(key) in outcome.out for key in wrong)
    platform.set(apps="connect")
    assert "! " not in on(platform, "check").out


def test_a_limit_of_a_day_is_no_fault_while_facts_are_kept_for_long(
    platform: Platform, snapshot: SnapshotAssertion
) -> None:
    """Either side of the time for which late rows are counted: two hours of grace and 35 days."""
    conversation(platform, message_retention_days=1)
    assert "! " not in on(platform, "check").out
    kept = dict.fromkeys(("roomkeeper.pern_facts", "roomkeeper.attachment_facts"), 36 * 86400)
    platform.set(sweep_after=",".join(f"{name}={seconds}" for name, seconds in kept.items()))
    assert on(platform, "check").code == 0
    platform.set(sweep_after=f"roomkeeper.pern_facts={36 * 86_400 - 1}")
    outcome = on(platform, "check")
    assert found(outcome, "ROOMKEEPER_SWEEP_AFTER=roomkeeper.pern_facts=3110400") == snapshot
    platform.set(sweep_off="pern.daily")
    assert on(platform, "check").code == 0


def test_objects_that_wait_for_long_to_be_deleted_are_told(
    platform: Platform, snapshot: SnapshotAssertion
) -> None:
    def wait(minutes: int, error: str | None) -> None:
        platform.sql(
            "INSERT INTO roomkeeper.pending_deletions"
            " (app, attachment_id, policy, store, key, error, created_at)"
            " VALUES ('pern', gen_random_uuid(), 'pern.messages', 's3', 'a', :error, now() - :ago)",
            error=error,
            ago=timedelta(minutes=minutes),
        )

    wait(59, None)
    assert "! " not in on(platform, "check").out
    wait(61, "the object store does not answer")
    outcome = on(platform, "check")
    assert timeless(warned(outcome, " s3 ")) == snapshot
    assert " UTC: the object store does not answer." in outcome.out


def test_holds_that_cannot_be_read_are_a_fault(api: Platform, snapshot: SnapshotAssertion) -> None:
    api.sql("ALTER TABLE roomkeeper.holds ENABLE ROW LEVEL SECURITY")
    assert found(on(api, "check"), "roomkeeper.holds") == snapshot


def test_a_policy_that_has_stopped_is_a_fault(platform: Platform, snapshot: SnapshotAssertion) -> None:
    close_rollups(platform)
    days(platform, **{"pern.messages": 40})
    platform.set(retention_floor=1)
    room = conversation(platform)
    for _ in range(2):
        message(platform, room, timedelta(days=9000))
    policy = POLICIES["pern.messages"]
    assert isinstance(policy, Retention)
    with pytest.raises(ApprovalRequired):
        retention.run(policy, platform.settings)
    assert found(on(platform, "check"), "roomkeeper retention approve pern.messages") == snapshot


# -- the broker ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def second_valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    """A broker to be set up wrongly."""
    server = ValkeyServer(Valkey(tmp_path_factory.mktemp("valkey"), free_port()))
    server.start()
    yield server
    server.stop()


@contextmanager
def configured(server: ValkeyServer, **options: str) -> Iterator[None]:
    with Redis.from_url(server.url(), decode_responses=True) as client:
        before = {name.replace("_", "-"): client.config_get(name.replace("_", "-")) for name in options}
        for name, value in options.items():
            client.config_set(name.replace("_", "-"), value)
        try:
            yield
        finally:
            for name, values in before.items():
                client.config_set(name, values[name])


def test_a_broker_that_is_down(platform: Platform, snapshot: SnapshotAssertion) -> None:
    port = free_port()
    platform.set(broker_url=f"redis://:geheim@127.0.0.1:{port}/0")
    outcome = on(platform, "check")
    assert found(outcome, f"127.0.0.1:{port}. Connection refused.") == snapshot
    assert "geheim" not in outcome.out
    assert passed(outcome) == all_but("broker")


def test_a_broker_that_is_frozen(
    platform: Platform, valkey: ValkeyServer, snapshot: SnapshotAssertion
) -> None:
    valkey.freeze()
    assert without_reason(found(on(platform, "check"), ": Timeout ")) == snapshot


@pytest.mark.parametrize(
    ("options", "advised"),
    [
        ({"maxmemory_policy": "allkeys-lru"}, "maxmemory-policy noeviction"),
        ({"appendonly": "no"}, "appendonly yes"),
    ],
    ids=["evicts", "forgets"],
)
def test_a_broker_that_loses_messages(
    platform: Platform,
    second_valkey: ValkeyServer,
    options: dict[str, str],
    advised: str,
    snapshot: SnapshotAssertion,
) -> None:
    platform.set(broker_url=second_valkey.url())
    assert on(platform, "check").code == 0
    with configured(second_valkey, **options):
        assert found(on(platform, "check"), advised) == snapshot


def test_a_broker_that_takes_no_messages(
    platform: Platform, second_valkey: ValkeyServer, snapshot: SnapshotAssertion
) -> None:
    platform.set(broker_url=second_valkey.url())
    with configured(second_valkey, maxmemory="1"):
        assert found(on(platform, "check"), "maxmemory") == snapshot(name="full")
    with configured(second_valkey, min_replicas_to_write="1"):
        assert found(on(platform, "check"), "NOREPLICAS") == snapshot(name="refuses")


def test_a_broker_with_another_password(
    platform: Platform, second_valkey: ValkeyServer, snapshot: SnapshotAssertion
) -> None:
    platform.set(broker_url=second_valkey.url().replace("127.0.0.1", "default:geheim@127.0.0.1"))
    with Redis.from_url(second_valkey.url()) as client:
        client.execute_command("ACL", "SETUSER", "default", "resetpass", ">right")
    try:
        outcome = on(platform, "check")
        assert found(outcome, "ROOMKEEPER_BROKER_URL") == snapshot
        assert "geheim" not in outcome.out
    finally:
        with Redis.from_url(second_valkey.url().replace("127.0.0.1", "default:right@127.0.0.1")) as client:
            client.execute_command("ACL", "SETUSER", "default", "nopass")


def test_a_hosted_broker_may_keep_its_configuration_to_itself(
    platform: Platform, second_valkey: ValkeyServer
) -> None:
    with Redis.from_url(second_valkey.url()) as client:
        client.execute_command("ACL", "SETUSER", "guest", "on", ">pw", "~*", "&*", "+@all", "-@admin")
    platform.set(broker_url=second_valkey.url().replace("127.0.0.1", "guest:pw@127.0.0.1"))
    assert on(platform, "check").code == 0


# -- the store -------------------------------------------------------------------------------------------


#: A directory that no user can write to, not even root.
SEALED = Path("/sys/kernel")


def test_a_store_that_cannot_be_written_to(platform: Platform, snapshot: SnapshotAssertion) -> None:
    platform.set(storage_root=SEALED)
    outcome = on(platform, "check")
    assert without_reason(found(outcome, f"{SEALED} ")) == snapshot
    assert passed(outcome) == all_but("store")


@pytest.mark.parametrize("root", [SEALED, SEALED / "q"], ids=["there", "absent"])
def test_a_quarantine_that_cannot_be_written_to(
    platform: Platform, root: Path, snapshot: SnapshotAssertion
) -> None:
    platform.set(quarantine_root=root)
    assert without_reason(found(on(platform, "check"), f"{root} ")) == snapshot


def test_a_store_that_is_not_there(platform: Platform, snapshot: SnapshotAssertion) -> None:
    (platform.folder / "file").touch()
    for root in (platform.folder / "absent", platform.folder / "file", platform.folder / "file" / "below"):
        platform.set(storage_root=root)
        outcome = on(platform, "check")
        assert found(outcome, f"{root} ", root=root) == snapshot(name="each")
        assert passed(outcome) == all_but("store")
        # A disk that is not mounted would become an empty store.
        assert not root.is_dir()


def test_work_files_that_cannot_be_written(platform: Platform, snapshot: SnapshotAssertion) -> None:
    for root in (SEALED, platform.folder / "absent"):
        platform.set(work_root=root)
        outcome = on(platform, "check")
        assert without_reason(found(outcome, f"{root}: ", root=root)) == snapshot(name="each")
        assert passed(outcome) == all_but("store")


class Usage(NamedTuple):
    """What the system says of a disk."""

    free: int


def test_a_full_disk_of_work_files(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, snapshot: SnapshotAssertion
) -> None:
    monkeypatch.setattr(checks, "disk_usage", lambda _: Usage(free=4096))
    platform.set(work_root=platform.folder)
    outcome = on(platform, "check")
    assert found(outcome, "4,096 bytes left", root=platform.folder) == snapshot
    assert passed(outcome) == all_but("store")


def test_a_quarantine_that_cannot_be_made(platform: Platform, snapshot: SnapshotAssertion) -> None:
    (platform.folder / "file").touch()
    for root in (platform.folder / "file" / "quarantine", platform.folder / "file"):
        platform.set(quarantine_root=root)
        fault = found(on(platform, "check"), f"{root} ", root=root)
        assert ": Not a directory.\n" in fault
        assert fault == snapshot(name="each")


@pytest.mark.parametrize("below", [".", "quarantine", "a/../b"])
def test_a_quarantine_that_lies_in_the_store(
    platform: Platform, below: str, snapshot: SnapshotAssertion
) -> None:
    quarantine = platform.store / below
    platform.set(quarantine_root=quarantine)
    assert found(on(platform, "check"), f"{quarantine} ") == snapshot


def test_a_store_that_rows_name_and_that_is_not_set_up(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, snapshot: SnapshotAssertion
) -> None:
    platform.openchat_attachment(b"text")
    platform.openchat_attachment(None, storage_provider="azure", is_deleted=True)
    assert on(platform, "check").code == 0
    rows = [platform.openchat_attachment(None, storage_provider=name) for name in ("s3", "gcs", "gcs")]
    outcome = on(platform, "check")
    assert sorted(outcome.faults) == snapshot
    assert passed(outcome) == all_but("store")
    # Only a sample is looked at, the end of the table in the order of its ids.
    monkeypatch.setattr(checks, "SAMPLED_ROWS", 1)
    last = max([*rows, *(row.id for row in platform.sql("SELECT id FROM openchat.attachment"))])
    for name in ("s3", "gcs"):
        platform.sql(
            "UPDATE openchat.attachment SET storage_provider = :name WHERE id = :id", name=name, id=last
        )
        platform.sql("UPDATE openchat.attachment SET is_deleted = false")
        found(on(platform, "check"), f"{name!r}")
    platform.set(apps="pern,connect")
    assert on(platform, "check").code == 0


# -- the scanner -----------------------------------------------------------------------------------------


class EditedClamd(Clamd):
    """clamd whose written configuration has been edited by hand."""

    def prepare(self, run: RunCommand = run) -> None:
        super().prepare(run)
        config = self.directory / "clamd.conf"
        changes = (self.directory / "changes").read_text().splitlines()
        changed = {line.split()[0] for line in changes}
        kept = [line for line in config.read_text().splitlines() if line.split()[0] not in changed]
        config.write_text("".join(f"{line}\n" for line in kept + changes))


Clamds = Callable[..., Clamd]


@pytest.fixture
def edited(tmp_path: Path) -> Iterator[Clamds]:
    """Start a clamd with changed options, and signatures if they are given."""
    started: list[ClamdServer] = []

    def start(*changes: str, known: Signatures | None = None) -> Clamd:
        directory = tmp_path / f"clamd-{len(started)}"
        directory.mkdir()
        (directory / "changes").write_text("".join(f"{change}\n" for change in changes))
        known = known or signatures.choose(directory / "signatures", own_only=True)
        server = ClamdServer(EditedClamd(directory, known, 2 * MIB))
        server.start()
        started.append(server)
        return server.server

    yield start
    for server in started:
        server.stop()


def test_a_scanner_that_is_down(platform: Platform, snapshot: SnapshotAssertion) -> None:
    socket = platform.folder / "missing.sock"
    platform.set(clamd=f"unix:{socket}")
    outcome = on(platform, "check")
    assert without_reason(found(outcome, f"clamd at unix:{socket}: ")) == snapshot
    assert passed(outcome) == all_but("scanner")


@pytest.mark.parametrize(
    ("change", "advised"),
    [
        ("AlertExceedsMax no", "clamd.conf: AlertExceedsMax yes"),
        ("AlertEncrypted no", "clamd.conf: AlertEncrypted yes"),
        ("MaxFileSize 1M", "at least 2097152 bytes"),
        ("MaxScanSize 1M", "at least 2097152 bytes"),
    ],
)
def test_a_scanner_that_fails_open(
    platform: Platform, edited: Clamds, change: str, advised: str, snapshot: SnapshotAssertion
) -> None:
    platform.set(clamd=edited(change).address)
    assert found(on(platform, "check"), advised) == snapshot


def test_a_scanner_over_the_network_that_takes_less_than_is_allowed(
    platform: Platform, edited: Clamds, snapshot: SnapshotAssertion
) -> None:
    port = free_port()
    edited(f"TCPSocket {port}", "TCPAddr 127.0.0.1", "StreamMaxLength 1M")
    platform.set(clamd=f"tcp://127.0.0.1:{port}")
    assert without_reason(found(on(platform, "check"), "INSTREAM size limit exceeded")) == snapshot
    platform.set(max_file_bytes=MIB)
    assert on(platform, "check").code == 0


def test_a_scanner_that_knows_nothing(
    platform: Platform, edited: Clamds, snapshot: SnapshotAssertion
) -> None:
    directory = platform.folder / "ignorant"
    directory.mkdir()
    (directory / "own.ndb").write_text("Nothing.Known:0:*:deadbeefdeadbeefdeadbeef\n")
    platform.set(clamd=edited(known=Signatures(directory, real=False)).address)
    assert found(on(platform, "check"), "EICAR") == snapshot


# -- everything at once -----------------------------------------------------------------------------------


def test_several_faults_are_all_told(platform: Platform, edited: Clamds, snapshot: SnapshotAssertion) -> None:
    platform.sql("ALTER TABLE openchat.attachment DROP COLUMN scan_result")
    platform.sql("DROP TABLE pern.attachments")
    platform.set(
        broker_url=f"redis://127.0.0.1:{free_port()}/0",
        quarantine_root=platform.store / "quarantine",
        clamd=edited("AlertExceedsMax no", "AlertEncrypted no").address,
    )
    outcome = on(platform, "check")
    faults = found(
        outcome,
        "column openchat.attachment.scan_result",
        "table pern.attachments",
        "ROOMKEEPER_BROKER_URL",
        f"{platform.store}/quarantine",
        "AlertExceedsMax",
        "AlertEncrypted",
    )
    assert passed(outcome) == all_but("database", "broker", "store", "scanner")
    assert faults == snapshot


# -- signatures ------------------------------------------------------------------------------------------


def test_signatures_may_be_three_days_old_and_not_older(snapshot: SnapshotAssertion) -> None:
    settings = load({"DATABASE_URL": "postgresql://"})
    released = datetime(2026, 3, 1, tzinfo=UTC)
    version = Version("1.4.6", "27500", released)
    limit = released + timedelta(days=3)
    assert checks.signatures(version, settings, limit) == []
    (fault,) = checks.signatures(version, settings, limit + timedelta(seconds=1))
    assert f"{fault.sentence}\n{fault.advice}" == snapshot
    assert "ROOMKEEPER_SIGNATURE_MAX_AGE_DAYS" in fault.advice
    longer = load({"DATABASE_URL": "postgresql://", "ROOMKEEPER_SIGNATURE_MAX_AGE_DAYS": "4"})
    assert checks.signatures(version, longer, limit + timedelta(seconds=1)) == []


def test_signatures_that_do_not_tell_their_age_are_ours() -> None:
    assert checks.signatures(Version("1.4.6", "local"), load({"DATABASE_URL": "postgresql://"})) == []


# -- sandbox ------------------------------------------------------------------------------------------------


def test_a_wall_that_is_missing_is_told(monkeypatch: pytest.MonkeyPatch, snapshot: SnapshotAssertion) -> None:
    settings = load({"DATABASE_URL": "postgresql://"})
    assert checks.decoder(settings) == []
    monkeypatch.setattr(
        sandbox, "protections", lambda: {"limits": None, "landlock": "Function not implemented"}
    )
    (missing,) = checks.decoder(settings)
    assert "landlock" in missing.sentence
    assert missing.sentence == snapshot(name="missing")

    def closed() -> dict[str, str | None]:
        raise sandbox.SandboxFailure("sandbox_closed", "the helper does not start")

    monkeypatch.setattr(sandbox, "protections", closed)
    (cannot,) = checks.decoder(settings)
    assert "sandbox_closed" in cannot.sentence
    assert cannot.sentence == snapshot(name="closed")
