"""`roomkeeper check` on real servers: sound ones pass, each fault is a sentence and an advice."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from redis import Redis
from sqlalchemy import select

from commands import checks, rollup_status
from commands.rollup_status import Standing
from models.echoroom import ChatSession, TypingIndicator, User
from models.platform import SCHEMA
from stack.ports import free_port
from stack.processes import Run, run
from stack.servers import signatures
from stack.servers.clamd import Clamd
from stack.servers.signatures import Signatures
from stack.servers.valkey import Valkey
from tasks.analytics.engine import state_of
from tasks.apps import APPS, POLICIES, ROLLUPS
from tasks.policies.retention import Retention
from tasks.policies.rollup import Rollup
from tasks.retention import task as retention
from tasks.retention.safety_limit import ApprovalRequired
from tasks.sweeps import task as cleanup
from tests.commands.cli import Outcome, on
from tests.platform import Platform
from tests.retention.pern_chats import conversation, message
from tests.servers import ClamdServer, PostgresServer, SeaweedFSServer, ValkeyServer
from tests.sweeps.sweeping import add, figures_closed
from workers import revision, sandbox
from workers.inspection import Fault
from workers.scanner import Version
from workers.settings import load

MIB = 1024 * 1024
MIGRATE = "Run the migrations of the application that the table belongs to."
MIGRATE_OR_RENAME = (
    "Run the application's migrations, or say in ROOMKEEPER_SCHEMAS what its schema is really called."
)
NOT_LOOKED_AT = "Workers and beat are not looked at: see Flower, or the metrics."
ALL_APPS = "echoroom, openchat, connect, pern, audiorooms"

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


@pytest.fixture(autouse=True)
def key_indexes(platform: Platform) -> None:
    """A policy that runs as it is deletes files; the application makes no indexes on their keys."""
    for column in ("file_path", "thumbnail_path"):
        platform.sql(f"CREATE INDEX by_{column} ON pern.attachments ({column})")


def found(outcome: Outcome) -> list[tuple[str, str]]:
    """Return the faults of a check that must have found some."""
    assert outcome.code == 1
    assert "Traceback" not in outcome.out + outcome.err
    assert "Ready" not in outcome.out
    assert outcome.err == ""
    for sentence, advice in outcome.faults:
        assert sentence.endswith(".")
        assert advice
    assert len(outcome.faults) > 0
    return outcome.faults


def passed(outcome: Outcome) -> list[str]:
    """Return what was found sound."""
    return re.findall(r"^✓ (\w+)\b", outcome.out, re.MULTILINE)


# -- all is well -----------------------------------------------------------------------------------------


def test_a_sound_platform_is_ready(platform: Platform) -> None:
    outcome = on(platform, "check")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.splitlines() == [
        "✓ database",
        "✓ broker",
        "✓ store",
        "✓ scanner",
        "✓ decoder",
        "✓ retention",
        "✓ jobs (nothing has run yet)",
        f"Ready for: {ALL_APPS}.",
        NOT_LOOKED_AT,
    ]
    strict = on(platform, "check", "--strict")
    assert (strict.code, strict.out) == (0, outcome.out)


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


def test_a_database_that_is_down(platform: Platform) -> None:
    port = free_port()
    change_url(platform, r":\d+/", f":{port}/")
    outcome = on(platform, "check")
    assert found(outcome) == [
        (
            'The database does not answer: connection failed: connection to server at "127.0.0.1", '
            f"port {port} failed: Connection refused.",
            "Start it, or name another in DATABASE_URL.",
        )
    ]
    assert passed(outcome) == ["broker", "store", "scanner", "decoder", "retention"]


def test_a_database_that_there_is_not(platform: Platform) -> None:
    change_url(platform, r"/\w+$", "/nowhere")
    ((sentence, advice),) = found(on(platform, "check"))
    assert sentence.startswith("The database does not answer: ")
    assert sentence.endswith('FATAL:  database "nowhere" does not exist.')
    assert advice == "Start it, or name another in DATABASE_URL."


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


def test_a_wrong_password(platform: Platform, locked: str) -> None:
    change_url(platform, "roomkeeper@", f"{locked}:geheim@")
    outcome = on(platform, "check")
    ((sentence, advice),) = found(outcome)
    assert sentence.endswith('FATAL:  password authentication failed for user "locked".')
    assert "DATABASE_URL" in advice
    assert "geheim" not in outcome.out


def test_our_schema_is_missing(platform: Platform) -> None:
    platform.sql("DROP SCHEMA roomkeeper CASCADE")
    assert found(on(platform, "check")) == [
        (
            f"The schema roomkeeper is absent, and this version needs {revision.newest()}.",
            "Run: roomkeeper db upgrade",
        )
    ]


def test_our_schema_is_older(platform: Platform) -> None:
    platform.sql("UPDATE roomkeeper.alembic_version SET version_num = '0000'")
    assert found(on(platform, "check")) == [
        (
            f"The schema roomkeeper is at 0000, and this version needs {revision.newest()}.",
            "Run: roomkeeper db upgrade",
        )
    ]


@pytest.mark.parametrize(
    ("statement", "sentence", "advice"),
    [
        ("DROP TABLE pern.attachments", "The table pern.attachments does not exist.", MIGRATE_OR_RENAME),
        (
            "DROP TABLE roomkeeper.dead_letters",
            "The table roomkeeper.dead_letters does not exist.",
            MIGRATE_OR_RENAME,
        ),
        (
            "ALTER TABLE openchat.attachment DROP COLUMN scan_result",
            "The column openchat.attachment.scan_result does not exist.",
            MIGRATE,
        ),
        (
            "ALTER TABLE pern.attachments ALTER COLUMN file_size TYPE text",
            "The column pern.attachments.file_size is of type text, not ",
            MIGRATE,
        ),
        (
            "ALTER SCHEMA pern RENAME TO chat",
            "The schema pern does not exist.",
            MIGRATE_OR_RENAME,
        ),
    ],
)
def test_a_database_that_is_not_as_the_jobs_need_it(
    platform: Platform, statement: str, sentence: str, advice: str
) -> None:
    platform.sql(statement)
    ((told, advised),) = found(on(platform, "check"))
    assert told.startswith(sentence)
    assert advised == advice


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


def test_a_role_that_row_level_security_blinds(api: Platform) -> None:
    api.sql("ALTER TABLE openchat.attachment ENABLE ROW LEVEL SECURITY")
    assert found(on(api, "check")) == [
        (
            "Row level security hides rows of openchat.attachment from the role api (SELECT, UPDATE).",
            "ALTER ROLE api BYPASSRLS; or run as the service role.",
        )
    ]
    api.sql("ALTER ROLE api BYPASSRLS")
    assert on(api, "check").code == 0


def test_a_role_that_lacks_a_right(api: Platform) -> None:
    api.sql("REVOKE UPDATE ON pern.attachments FROM api")
    assert found(on(api, "check")) == [
        (
            "The role api lacks UPDATE on pern.attachments.",
            "GRANT UPDATE ON pern.attachments TO api;",
        )
    ]


def test_the_right_to_delete_is_asked_for_where_something_is_to_be_deleted(api: Platform) -> None:
    api.sql("REVOKE DELETE ON pern.audit_logs FROM api")
    assert on(api, "check").code == 0
    days(api, **{"pern.audit_info": 400})
    assert found(on(api, "check")) == [
        (
            "The role api lacks DELETE on pern.audit_logs.",
            "GRANT DELETE ON pern.audit_logs TO api;",
        )
    ]


def test_a_role_that_may_not_look_into_our_schema(api: Platform) -> None:
    api.sql("REVOKE USAGE ON SCHEMA roomkeeper FROM api")
    ((sentence, advice),) = found(on(api, "check"))
    assert sentence == "The database refuses: permission denied for schema roomkeeper."
    assert "DATABASE_URL" in advice


def test_what_is_switched_off_is_not_needed(platform: Platform) -> None:
    platform.sql("DROP SCHEMA openchat CASCADE")
    assert found(on(platform, "check")) == [("The schema openchat does not exist.", MIGRATE_OR_RENAME)]
    platform.set(apps="pern,connect")
    outcome = on(platform, "check")
    assert outcome.code == 0
    assert outcome.out.splitlines()[-2:] == ["Ready for: pern, connect.", NOT_LOOKED_AT]


def test_a_schema_may_be_called_otherwise(platform: Platform) -> None:
    platform.sql("DROP SCHEMA public CASCADE")
    platform.sql("ALTER SCHEMA openchat RENAME TO public")
    assert found(on(platform, "check")) == [("The schema openchat does not exist.", MIGRATE_OR_RENAME)]
    platform.set(schemas="openchat=public")
    assert on(platform, "check").code == 0
    platform.sql("ALTER TABLE public.attachment DROP COLUMN storage_key")
    # By the name that the operator knows.
    assert found(on(platform, "check")) == [
        ("The column public.attachment.storage_key does not exist.", MIGRATE)
    ]


# -- the jobs --------------------------------------------------------------------------------------------

WHO_HOLDS_THEM = (
    "Look who holds them (pg_locks, pg_stat_activity), whether row level security lets this role change "
    "them, and whether a trigger or a constraint refuses."
)
IS_BEAT_RUNNING = "Is beat running, and a maintenance worker?"


def test_jobs_that_get_on_are_sound(platform: Platform) -> None:
    assert cleanup.run(POLICIES["echoroom.typing"], platform.settings) is not None
    assert "✓ jobs" in on(platform, "check").out.splitlines()


def test_a_policy_that_gets_nowhere(platform: Platform) -> None:
    """By a real run, while somebody holds the row."""
    room = add(platform, ChatSession, category="Calm")
    user = add(platform, User, username="Ada")
    past = datetime.now(UTC) - timedelta(minutes=1)
    here = {"session_id": room, "user_id": user}
    add(platform, TypingIndicator, username="Ada", expires_at=past, **here)
    with platform.engine.connect() as somebody:
        somebody.execute(select(TypingIndicator.id).with_for_update())
        for _ in range(3):
            assert cleanup.run(POLICIES["echoroom.typing"], platform.settings) is not None
        assert found(on(platform, "check")) == [
            ("echoroom.typing did nothing in its last 3 runs, though a row is due.", WHO_HOLDS_THEM)
        ]
    assert cleanup.run(POLICIES["echoroom.typing"], platform.settings) is not None
    assert on(platform, "check").code == 0


def test_an_index_that_is_not_there_is_a_warning(platform: Platform) -> None:
    platform.sql("DROP INDEX echoroom.idx_typing_indicators_expires")
    for options, code in (((), 0), (("--strict",), 1)):
        outcome = on(platform, "check", *options)
        assert outcome.code == code
        lines = outcome.out.splitlines()
        assert lines[:2] == [
            "! No index serves echoroom.typing: each run reads all of echoroom.typing_indicators.",
            "  CREATE INDEX CONCURRENTLY idx_typing_indicators_expires ON echoroom.typing_indicators "
            "(expires_at);",
        ]
        assert ("✓ database" in lines) is (code == 0)
        assert ("Ready" in outcome.out) is (code == 0)


def test_a_database_that_takes_no_writes(platform: Platform) -> None:
    name = platform.engine.url.database
    platform.sql(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    assert found(on(platform, "check")) == [
        (
            "The database takes no writes: default_transaction_read_only is on.",
            "If that is over: ALTER SYSTEM, DATABASE or ROLE ... RESET default_transaction_read_only, "
            "wherever it was set.",
        )
    ]


def test_policies_that_do_not_run(platform: Platform) -> None:
    platform.sql(
        "INSERT INTO roomkeeper.job_runs (job, started_at, finished_at, rows, outcome)"
        " VALUES ('echoroom.counts', '2026-01-01Z', '2026-01-01Z', 0, 'done')"
    )
    platform.set(apps="echoroom")
    names = "echoroom.typing, echoroom.ghosts, echoroom.voice"
    assert found(on(platform, "check")) == [
        (f"13 jobs have not run for three of their periods: {names} and 10 more.", IS_BEAT_RUNNING)
    ]
    # What is switched off, or belongs to an application that is, need not run.
    others = [name for name in (*POLICIES, *ROLLUPS) if name.startswith(("echoroom.", "roomkeeper."))]
    others.remove("echoroom.counts")
    platform.set(sweep_off=",".join(others))
    assert found(on(platform, "check")) == [
        (
            "echoroom.counts has not run since 2026-01-01 00:00:00 UTC, for more than three of its periods.",
            IS_BEAT_RUNNING,
        )
    ]
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


def test_a_rollup_that_is_late_is_a_fault(platform: Platform) -> None:
    """Either side of the limit: the next bucket's end, the time to settle, and what it may be late by."""
    now = datetime.now(UTC)
    hourly = ROLLUPS["echoroom.hourly"]
    hour = now.replace(minute=0, second=0, microsecond=0)
    standing = Standing(hourly, now, None)
    assert (standing.lag, standing.late, standing.closed) == (None, False, None)
    closed_up_to(platform, hourly, hour)
    with platform.engine.begin() as connection:
        state = state_of(connection, hourly)
    assert state is not None
    limit = hour + timedelta(hours=1) + hourly.grace + hourly.late_after
    assert not Standing(hourly, limit, state).late
    late = Standing(hourly, limit + timedelta(microseconds=1), state)
    assert late.late
    assert rollup_status.faults([late, standing]) == [
        Fault(
            f"echoroom.hourly is late: {hour:%Y-%m-%d %H:%M} should have been closed 2 hours ago; 2 hours "
            "are allowed.",
            "See whether it runs, and how it ends: roomkeeper policies echoroom; close what is due at once: "
            "roomkeeper run echoroom.hourly",
        )
    ]


def test_late_rollups_are_one_fault(platform: Platform) -> None:
    day = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    closed_up_to(platform, EVENTS, day)
    assert on(platform, "check").code == 0
    closed_up_to(platform, EVENTS, day - timedelta(days=9))
    ((sentence, advice),) = found(on(platform, "check"))
    assert re.fullmatch(
        rf"pern\.security_daily is late: {day - timedelta(days=9):%Y-%m-%d} should have been closed [78] "
        r"days ago; 2 hours are allowed\.",
        sentence,
    )
    assert advice.endswith("close what is due at once: roomkeeper run pern.security_daily")
    assert on(platform, "run", EVENTS.name).code == 0
    assert on(platform, "check").code == 0
    for number, name in enumerate(("pern.daily", "connect.daily", "connect.calls_daily", "openchat.daily")):
        closed_up_to(platform, ROLLUPS[name], day - timedelta(days=9 + number))
    ((sentence, _),) = found(on(platform, "check"))
    assert sentence.startswith(
        "4 rollups are late: openchat.daily, connect.calls_daily, connect.daily and 1 more; of "
        f"openchat.daily {day - timedelta(days=12):%Y-%m-%d} should have been closed "
    )
    # What is off is never late.
    platform.set(sweep_off="pern.daily,connect.daily,connect.calls_daily,openchat.daily")
    assert on(platform, "check").code == 0


def test_another_zone_is_a_warning(platform: Platform) -> None:
    day = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    closed_up_to(platform, EVENTS, day)
    platform.set(rollup_zones=f"{EVENTS.name}=Europe/Berlin,pern.daily=Asia/Tokyo")
    outcome = on(platform, "check")
    assert outcome.code == 0
    (warning,) = [line for line in outcome.out.splitlines() if line.startswith("! ")]
    assert warning == f"! {EVENTS.name} has counted days of UTC, and days of Europe/Berlin are set."
    closed_up_to(platform, EVENTS, day, "Europe/Berlin")
    assert "! " not in on(platform, "check").out


def test_rollups_that_do_not_run_are_told_with_policies(platform: Platform) -> None:
    platform.set(apps="pern", sweep_off=",".join(name for name in POLICIES if name != "roomkeeper.runs"))
    platform.sql(
        "INSERT INTO roomkeeper.job_runs (job, started_at, finished_at, rows, outcome)"
        " VALUES ('roomkeeper.runs', now() - interval '1 day', now(), 0, 'done')"
    )
    names = "pern.daily, pern.sessions_daily, pern.security_daily"
    assert found(on(platform, "check")) == [
        (f"4 jobs have not run for three of their periods: {names} and 1 more.", IS_BEAT_RUNNING)
    ]


def test_what_rollups_need_is_asked_for(api: Platform) -> None:
    api.sql("REVOKE SELECT ON pern.audit_logs FROM api")
    api.sql("REVOKE INSERT ON roomkeeper.pern_security_daily FROM api")
    told = [sentence for sentence, _ in found(on(api, "check"))]
    assert told == [
        "The role api lacks INSERT on roomkeeper.pern_security_daily.",
        "The role api lacks SELECT on pern.audit_logs.",
    ]


def test_of_a_rollup_that_is_off_nothing_is_needed(platform: Platform) -> None:
    platform.sql("ALTER TABLE audiorooms.room_analytics DROP COLUMN total_listen_minutes")
    ((sentence, _),) = found(on(platform, "check"))
    assert sentence == "The column audiorooms.room_analytics.total_listen_minutes does not exist."
    platform.set(sweep_off="audiorooms.room_analytics")
    assert on(platform, "check").code == 0


def test_the_platforms_own_rollup_is_checked(platform: Platform) -> None:
    platform.sql("ALTER TABLE roomkeeper.attachments_daily DROP COLUMN size_bytes")
    assert found(on(platform, "check")) == [
        ("The column roomkeeper.attachments_daily.size_bytes does not exist.", MIGRATE)
    ]


# -- retention -------------------------------------------------------------------------------------------


def test_keys_of_files_without_an_index_are_a_warning(platform: Platform) -> None:
    platform.sql("DROP INDEX pern.by_file_path")
    platform.sql("DROP INDEX pern.by_thumbnail_path")
    platform.sql("CREATE INDEX by_file_path ON pern.attachments (file_path) WHERE file_size > 0")
    platform.sql(
        "CREATE INDEX by_thumbnail_path ON pern.attachments (thumbnail_path) WHERE thumbnail_path <> ''"
    )
    warning = (
        "! pern.attachments.{0} has no index: it is read as a whole for each 333 files whose objects "
        "retention deletes.\n  CREATE INDEX CONCURRENTLY ON pern.attachments ({0});\n"
    )
    outcome = on(platform, "check")
    assert outcome.code == 0
    for column in ("file_path", "thumbnail_path"):
        assert warning.format(column) in outcome.out
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


def test_archives_need_a_place(platform: Platform) -> None:
    platform.set(apps="pern")
    del platform.environment["ROOMKEEPER_ARCHIVE_ROOT"]
    advice = (
        "Set ROOMKEEPER_ARCHIVE_ROOT or ROOMKEEPER_ARCHIVE_BUCKET; or name what may go without in "
        "ROOMKEEPER_ARCHIVE_OFF, and what must not go in ROOMKEEPER_SWEEP_OFF."
    )
    assert found(on(platform, "check")) == [
        (
            "pern.messages_by_conversation archives its rows before they go, and there is no place for "
            "archives: nothing is deleted.",
            advice,
        )
    ]
    days(platform, **{"pern.audit_info": 400, "pern.messages": 400, "pern.audit_error": 400})
    ((sentence, _),) = found(on(platform, "check"))
    assert sentence == (
        "pern.messages_by_conversation, pern.messages, pern.audit_info and 1 more archive rows before they "
        "go, and there is no place for archives: nothing is deleted."
    )
    # Audit logs must be archived.
    days(platform, **{"pern.messages": 400})
    platform.set(archive_off="pern.messages", sweep_off="pern.messages_by_conversation")
    assert on(platform, "check").code == 0


def test_archives_are_not_served(platform: Platform) -> None:
    platform.set(archive_root=platform.store / "deep" / "archive")
    assert found(on(platform, "check")) == [
        (
            f"The archives in {platform.store}/deep/archive lie in the store, whose files are served.",
            f"Name a place outside of {platform.store} in ROOMKEEPER_ARCHIVE_ROOT.",
        )
    ]
    assert list(platform.store.iterdir()) == []


@pytest.mark.parametrize("there", [True, False])
def test_archives_can_be_written(platform: Platform, archive: Path, there: bool) -> None:
    if there:
        archive.mkdir()
        # Nobody writes there, whoever they are.
        platform.set(archive_root="/proc/self")
    else:
        platform.set(archive_root="/proc/archive")
    ((sentence, advice),) = found(on(platform, "check"))
    assert sentence.startswith("The archive does not work: /proc/")
    assert advice == "Give this user the right to write there, or set ROOMKEEPER_ARCHIVE_ROOT."


def test_an_archive_in_a_bucket(platform: Platform, seaweedfs: SeaweedFSServer, bucket: str) -> None:
    del platform.environment["ROOMKEEPER_ARCHIVE_ROOT"]
    platform.environment.update(seaweedfs.settings())
    platform.set(archive_bucket=bucket)
    assert on(platform, "check").code == 0
    assert "Contents" not in seaweedfs.client.list_objects_v2(Bucket=bucket)
    platform.set(archive_bucket=f"{bucket}-not")
    ((sentence, advice),) = found(on(platform, "check"))
    assert sentence.startswith("The archive does not work: ")
    assert advice == "Make it, or name another in ROOMKEEPER_ARCHIVE_BUCKET."


@pytest.mark.parametrize(
    ("name", "needed", "figures"),
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
def test_what_figures_need_is_kept_for_them(platform: Platform, name: str, needed: int, figures: str) -> None:
    """As long as they are computed again, and what settles before."""
    days(platform, **{name: needed})
    assert on(platform, "check").code == 0
    days(platform, **{name: needed - 0.5})
    assert found(on(platform, "check")) == [
        (
            f"{name} deletes after {24 * needed - 12} hours what the figures need for {needed} days "
            f"({figures}).",
            f"Give it {needed} days at least: ROOMKEEPER_RETENTION_DAYS={name}={needed}",
        )
    ]
    # Figures that nobody wants need nothing.
    platform.set(sweep_off=figures.replace(" ", ""))
    assert on(platform, "check").code == 0


def test_what_waits_for_others_is_not_to_go_before_them(platform: Platform) -> None:
    days(platform, **{"audiorooms.rooms": 90, "audiorooms.participants": 90})
    assert on(platform, "check").code == 0
    days(platform, **{"audiorooms.rooms": 89, "audiorooms.participants": 90})
    assert found(on(platform, "check")) == [
        (
            "audiorooms.rooms is to delete after 89 days what waits for audiorooms.participants, which takes "
            "90 days.",
            "Give it as long at least: ROOMKEEPER_RETENTION_DAYS=audiorooms.rooms=90; or the other less.",
        )
    ]


def test_what_waits_for_what_is_off_is_told(platform: Platform) -> None:
    days(platform, **{"audiorooms.rooms": 90})
    outcome = on(platform, "check")
    assert outcome.code == 0
    told = (
        "! audiorooms.rooms never takes what audiorooms.participants would have to take first, which is off.",
        "  If that is not meant so: add audiorooms.participants=DAYS to ROOMKEEPER_RETENTION_DAYS",
    )
    lines = outcome.out.splitlines()
    assert tuple(lines[lines.index(told[0]) :][:2]) == told
    platform.set(sweep_off="audiorooms.participants")
    days(platform, **{"audiorooms.rooms": 90, "audiorooms.participants": 90})
    assert (
        "  If that is not meant so: take it out of ROOMKEEPER_SWEEP_OFF"
        in on(platform, "check").out.splitlines()
    )


def test_deleted_files_do_not_go_before_their_time(platform: Platform) -> None:
    for files, messages, right in ((40, 40, True), (39, 40, True), (41, 40, False)):
        days(
            platform,
            **{"openchat.deleted_attachments": files, "openchat.deleted_messages": messages},
        )
        outcome = on(platform, "check")
        assert (outcome.code == 0) is right
    assert found(outcome) == [
        (
            "openchat.deleted_attachments keeps deleted files for 41 days, and openchat.deleted_messages "
            "takes them along with their messages after 40 days.",
            "Give it as long at least: ROOMKEEPER_RETENTION_DAYS=openchat.deleted_messages=41; or the other "
            "less.",
        )
    ]


def test_security_is_kept_longest(platform: Platform) -> None:
    days(platform, **{"pern.audit_security": 90, "pern.audit_critical": 90, "pern.audit_info": 36})
    assert on(platform, "check").code == 0
    days(platform, **{"pern.audit_security": 90, "pern.audit_critical": 91})
    assert found(on(platform, "check")) == [
        (
            "pern.audit_security is deleted after 90 days, before pern.audit_critical, which is kept for 91 "
            "days: security is to be kept longest.",
            "Give it as long at least: ROOMKEEPER_RETENTION_DAYS=pern.audit_security=91; or the other less.",
        )
    ]
    # Kept for ever.
    days(platform, **{"pern.audit_critical": 91})
    assert on(platform, "check").code == 0


def test_limits_that_are_ignored_are_told(platform: Platform) -> None:
    conversation(platform, message_retention_days=30)
    conversation(platform, message_retention_days=None)
    assert "message_retention_days" not in on(platform, "check").out
    wrong = [conversation(platform, message_retention_days=limit) for limit in ("30", 0)]
    outcome = on(platform, "check")
    assert outcome.code == 0
    (line,) = [line for line in outcome.out.splitlines() if line.startswith("! ")]
    assert line.startswith(
        "! 2 conversations have a message_retention_days that is not a whole number of days: it is ignored ("
    )
    assert all(str(key) in line for key in wrong)
    platform.set(apps="connect")
    assert "! " not in on(platform, "check").out


def test_objects_that_wait_for_long_to_be_deleted_are_told(platform: Platform) -> None:
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
    assert outcome.code == 0
    (line,) = [line for line in outcome.out.splitlines() if line.startswith("! ")]
    assert line.startswith(
        "! The objects of 1 file wait in s3 to be deleted, though their rows were deleted at"
    )
    assert line.endswith(" UTC: the object store does not answer.")


def test_holds_that_cannot_be_read_are_a_fault(api: Platform) -> None:
    api.sql("ALTER TABLE roomkeeper.holds ENABLE ROW LEVEL SECURITY")
    ((sentence, _),) = found(on(api, "check"))
    assert sentence.startswith("Row level security hides rows of roomkeeper.holds from the role api")


def test_a_policy_that_has_stopped_is_a_fault(platform: Platform) -> None:
    figures_closed(platform)
    days(platform, **{"pern.messages": 40})
    platform.set(retention_floor=1)
    room = conversation(platform)
    for _ in range(2):
        message(platform, room, timedelta(days=9000))
    policy = POLICIES["pern.messages"]
    assert isinstance(policy, Retention)
    with pytest.raises(ApprovalRequired):
        retention.run(policy, platform.settings)
    assert found(on(platform, "check")) == [
        (
            "pern.messages has stopped: pern.messages would take more than 1 rows, and a run of it usually "
            "takes 0.",
            "Look with: roomkeeper retention preview pern.messages; if all of it may go: "
            'roomkeeper retention approve pern.messages --reason "REASON"',
        )
    ]


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


def test_a_broker_that_is_down(platform: Platform) -> None:
    port = free_port()
    platform.set(broker_url=f"redis://:geheim@127.0.0.1:{port}/0")
    outcome = on(platform, "check")
    assert found(outcome) == [
        (
            f"The broker does not answer: Error 111 connecting to 127.0.0.1:{port}. Connection refused.",
            "Start it, or name another in ROOMKEEPER_BROKER_URL.",
        )
    ]
    assert passed(outcome) == ["database", "store", "scanner", "decoder", "retention", "jobs"]


def test_a_broker_that_is_frozen(platform: Platform, valkey: ValkeyServer) -> None:
    valkey.freeze()
    ((sentence, _),) = found(on(platform, "check"))
    assert sentence.startswith("The broker does not answer: Timeout ")


@pytest.mark.parametrize(
    ("options", "faults"),
    [
        (
            {"maxmemory_policy": "allkeys-lru"},
            [
                (
                    "The broker may drop messages when memory is short (allkeys-lru).",
                    "Set in its configuration: maxmemory-policy noeviction",
                )
            ],
        ),
        (
            {"appendonly": "no"},
            [("The broker forgets its messages when it dies.", "Set in its configuration: appendonly yes")],
        ),
    ],
)
def test_a_broker_that_loses_messages(
    platform: Platform, second_valkey: ValkeyServer, options: dict[str, str], faults: list[tuple[str, str]]
) -> None:
    platform.set(broker_url=second_valkey.url())
    assert on(platform, "check").code == 0
    with configured(second_valkey, **options):
        assert found(on(platform, "check")) == faults


def test_a_broker_that_takes_no_messages(platform: Platform, second_valkey: ValkeyServer) -> None:
    platform.set(broker_url=second_valkey.url())
    with configured(second_valkey, maxmemory="1"):
        assert found(on(platform, "check")) == [
            (
                "The broker's memory is full: it takes no messages.",
                "Workers empty it; see that they run, or give it more: maxmemory in its configuration.",
            )
        ]
    with configured(second_valkey, min_replicas_to_write="1"):
        assert found(on(platform, "check")) == [
            (
                "The broker refuses: NOREPLICAS Not enough good replicas to write.",
                "Let it serve, or name another in ROOMKEEPER_BROKER_URL.",
            )
        ]


def test_a_broker_with_another_password(platform: Platform, second_valkey: ValkeyServer) -> None:
    platform.set(broker_url=second_valkey.url().replace("127.0.0.1", "default:geheim@127.0.0.1"))
    with Redis.from_url(second_valkey.url()) as client:
        client.execute_command("ACL", "SETUSER", "default", "resetpass", ">right")
    try:
        outcome = on(platform, "check")
        assert found(outcome) == [
            ("The broker wants another password.", "Put it into ROOMKEEPER_BROKER_URL.")
        ]
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


#: A directory that nobody can write to, not even root.
SEALED = Path("/sys/kernel")


def test_a_store_that_cannot_be_written_to(platform: Platform) -> None:
    platform.set(storage_root=SEALED)
    outcome = on(platform, "check")
    ((sentence, advice),) = found(outcome)
    assert sentence.startswith(f"The store does not work: {SEALED} cannot be written to: ")
    assert advice == "Give this user the right to write there, or set ROOMKEEPER_STORAGE_ROOT."
    assert passed(outcome) == ["database", "broker", "scanner", "decoder", "retention", "jobs"]


@pytest.mark.parametrize(
    ("root", "says"), [(SEALED, "cannot be written to"), (SEALED / "q", "cannot be made")], ids=str
)
def test_a_quarantine_that_cannot_be_written_to(platform: Platform, root: Path, says: str) -> None:
    platform.set(quarantine_root=root)
    ((sentence, advice),) = found(on(platform, "check"))
    assert sentence.startswith(f"The quarantine does not work: {root} {says}: ")
    assert advice == "Give this user the right to write there, or set ROOMKEEPER_QUARANTINE_ROOT."


def test_a_store_that_is_not_there(platform: Platform) -> None:
    (platform.folder / "file").touch()
    for root in (platform.folder / "absent", platform.folder / "file", platform.folder / "file" / "below"):
        platform.set(storage_root=root)
        outcome = on(platform, "check")
        assert found(outcome) == [
            (
                f"There is no directory {root} for the store.",
                "Create it, for this user and the API services to write to, or set ROOMKEEPER_STORAGE_ROOT.",
            )
        ]
        assert passed(outcome) == ["database", "broker", "scanner", "decoder", "retention", "jobs"]
        # A disk that is not mounted would become an empty store.
        assert not root.is_dir()


def test_a_quarantine_that_cannot_be_made(platform: Platform) -> None:
    (platform.folder / "file").touch()
    for root in (platform.folder / "file" / "quarantine", platform.folder / "file"):
        platform.set(quarantine_root=root)
        assert found(on(platform, "check")) == [
            (
                f"The quarantine does not work: {root} cannot be made: Not a directory.",
                "Give this user the right to write there, or set ROOMKEEPER_QUARANTINE_ROOT.",
            )
        ]


@pytest.mark.parametrize("below", [".", "quarantine", "a/../b"])
def test_a_quarantine_that_lies_in_the_store(platform: Platform, below: str) -> None:
    quarantine = platform.store / below
    platform.set(quarantine_root=quarantine)
    assert found(on(platform, "check")) == [
        (
            f"The quarantine {quarantine} lies in the store, whose files are served.",
            f"Name a place outside of {platform.store} in ROOMKEEPER_QUARANTINE_ROOT.",
        )
    ]


def test_a_store_that_rows_name_and_that_is_not_set_up(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform.openchat_attachment(b"text")
    platform.openchat_attachment(None, storage_provider="azure", is_deleted=True)
    assert on(platform, "check").code == 0
    rows = [platform.openchat_attachment(None, storage_provider=name) for name in ("s3", "gcs", "gcs")]
    outcome = on(platform, "check")
    assert sorted(found(outcome)) == [
        (
            "Rows of openchat name the store 'gcs', which is not set up.",
            "Move them to 'local' or 's3': their files wait, and their addresses are not renewed.",
        ),
        (
            "Rows of openchat name the store 's3', which is not set up.",
            "Set ROOMKEEPER_S3_BUCKET, and what else that store needs.",
        ),
    ]
    assert passed(outcome) == ["database", "broker", "scanner", "decoder", "retention", "jobs"]
    # Only a sample is looked at, the end of the table in the order of its ids.
    monkeypatch.setattr(checks, "SAMPLED_ROWS", 1)
    last = max([*rows, *(row.id for row in platform.sql("SELECT id FROM openchat.attachment"))])
    for name in ("s3", "gcs"):
        platform.sql(
            "UPDATE openchat.attachment SET storage_provider = :name WHERE id = :id", name=name, id=last
        )
        platform.sql("UPDATE openchat.attachment SET is_deleted = false")
        ((sentence, _),) = found(on(platform, "check"))
        assert f"{name!r}" in sentence
    platform.set(apps="pern,connect")
    assert on(platform, "check").code == 0


# -- the scanner -----------------------------------------------------------------------------------------


class EditedClamd(Clamd):
    """clamd whose written configuration has been edited by hand."""

    def prepare(self, run: Run = run) -> None:
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


def test_a_scanner_that_is_down(platform: Platform) -> None:
    socket = platform.folder / "nobody.sock"
    platform.set(clamd=f"unix:{socket}")
    outcome = on(platform, "check")
    ((sentence, advice),) = found(outcome)
    assert sentence.startswith(f"The virus scanner does not answer: clamd at unix:{socket}: ")
    assert advice == "Start it, or set ROOMKEEPER_CLAMD."
    assert passed(outcome) == ["database", "broker", "store", "decoder", "retention", "jobs"]


@pytest.mark.parametrize(
    ("change", "sentence", "advice"),
    [
        (
            "AlertExceedsMax no",
            "The virus scanner calls clean what goes beyond its limits.",
            "Set in clamd.conf: AlertExceedsMax yes",
        ),
        (
            "AlertEncrypted no",
            "The virus scanner calls encrypted archives clean.",
            "Set in clamd.conf: AlertEncrypted yes",
        ),
        (
            "MaxFileSize 1M",
            "The largest upload that is allowed is beyond the virus scanner's limits.",
            "StreamMaxLength, MaxFileSize and MaxScanSize of clamd must be at least 2097152 bytes, or "
            "ROOMKEEPER_MAX_FILE_BYTES smaller.",
        ),
        (
            "MaxScanSize 1M",
            "The largest upload that is allowed is beyond the virus scanner's limits.",
            "StreamMaxLength, MaxFileSize and MaxScanSize of clamd must be at least 2097152 bytes, or "
            "ROOMKEEPER_MAX_FILE_BYTES smaller.",
        ),
    ],
)
def test_a_scanner_that_fails_open(
    platform: Platform, edited: Clamds, change: str, sentence: str, advice: str
) -> None:
    platform.set(clamd=edited(change).address)
    assert found(on(platform, "check")) == [(sentence, advice)]


def test_a_scanner_over_the_network_that_takes_less_than_is_allowed(
    platform: Platform, edited: Clamds
) -> None:
    port = free_port()
    edited(f"TCPSocket {port}", "TCPAddr 127.0.0.1", "StreamMaxLength 1M")
    platform.set(clamd=f"tcp://127.0.0.1:{port}")
    ((sentence, advice),) = found(on(platform, "check"))
    assert sentence.startswith("The virus scanner does not take the largest upload that is allowed: ")
    assert "INSTREAM size limit exceeded" in sentence
    assert advice.startswith("StreamMaxLength, ")
    platform.set(max_file_bytes=MIB)
    assert on(platform, "check").code == 0


def test_a_scanner_that_knows_nothing(platform: Platform, edited: Clamds) -> None:
    directory = platform.folder / "ignorant"
    directory.mkdir()
    (directory / "own.ndb").write_text("Nothing.Known:0:*:deadbeefdeadbeefdeadbeef\n")
    platform.set(clamd=edited(known=Signatures(directory, real=False)).address)
    assert found(on(platform, "check")) == [
        ("The virus scanner does not find the EICAR test file.", "Give it signatures: run freshclam.")
    ]


# -- everything at once -----------------------------------------------------------------------------------


def test_several_faults_are_all_told(platform: Platform, edited: Clamds) -> None:
    platform.sql("ALTER TABLE openchat.attachment DROP COLUMN scan_result")
    platform.sql("DROP TABLE pern.attachments")
    platform.set(
        broker_url=f"redis://127.0.0.1:{free_port()}/0",
        quarantine_root=platform.store / "quarantine",
        clamd=edited("AlertExceedsMax no", "AlertEncrypted no").address,
    )
    outcome = on(platform, "check")
    assert [sentence.partition(":")[0] for sentence, _ in found(outcome)] == [
        "The column openchat.attachment.scan_result does not exist.",
        "The table pern.attachments does not exist.",
        "The broker does not answer",
        f"The quarantine {platform.store}/quarantine lies in the store, whose files are served.",
        "The virus scanner calls clean what goes beyond its limits.",
        "The virus scanner calls encrypted archives clean.",
    ]
    assert passed(outcome) == ["decoder", "retention", "jobs"]


# -- signatures ------------------------------------------------------------------------------------------


def test_signatures_may_be_three_days_old_and_not_older() -> None:
    settings = load({"DATABASE_URL": "postgresql://"})
    released = datetime(2026, 3, 1, tzinfo=UTC)
    version = Version("1.4.6", "27500", released)
    limit = released + timedelta(days=3)
    assert checks.signatures(version, settings, limit) == []
    fault = checks.signatures(version, settings, limit + timedelta(seconds=1))
    assert [found.sentence for found in fault] == [
        "The virus signatures are 3 days old (number 27500, of 2026-03-01)."
    ]
    assert "ROOMKEEPER_SIGNATURE_MAX_AGE_DAYS" in fault[0].advice
    longer = load({"DATABASE_URL": "postgresql://", "ROOMKEEPER_SIGNATURE_MAX_AGE_DAYS": "4"})
    assert checks.signatures(version, longer, limit + timedelta(seconds=1)) == []


def test_signatures_that_do_not_tell_their_age_are_ours() -> None:
    assert checks.signatures(Version("1.4.6", "local"), load({"DATABASE_URL": "postgresql://"})) == []


# -- jail ------------------------------------------------------------------------------------------------


def test_a_wall_that_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load({"DATABASE_URL": "postgresql://"})
    assert checks.decoder(settings) == []
    monkeypatch.setattr(
        sandbox, "protections", lambda: {"limits": None, "landlock": "Function not implemented"}
    )
    assert [fault.sentence for fault in checks.decoder(settings)] == [
        "Strangers' files are decoded without landlock: Function not implemented."
    ]

    def closed() -> dict[str, str | None]:
        raise sandbox.Jailed("jail_closed", "the helper does not start")

    monkeypatch.setattr(sandbox, "protections", closed)
    assert [fault.sentence for fault in checks.decoder(settings)] == [
        "Strangers' files cannot be decoded: jail_closed: the helper does not start."
    ]
