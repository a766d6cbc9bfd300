"""The schema `roomkeeper`: its migrations make what the models say, once, however often they are run."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Engine, inspect, text

from commands import checks
from models.platform import SCHEMA
from tasks.apps import APPS
from tests.platform import environment
from workers import db, migrate, revision
from workers.bootstrap import bootstrap
from workers.settings import get_settings, load


@pytest.fixture
def engine(empty_database: str) -> Iterator[Engine]:
    made = db.create(load({"DATABASE_URL": empty_database}))
    yield made
    made.dispose()


def tables(engine: Engine) -> set[str]:
    """Return the names of the tables in our schema."""
    return set(inspect(engine).get_table_names(schema=SCHEMA))


TABLES = {
    "alembic_version",
    "approvals",
    "attachment_events",
    "attachment_facts",
    "attachment_jobs",
    "attachments_daily",
    "audiorooms_long_stays",
    "checkpoints",
    "connect_calls_daily",
    "connect_daily",
    "dead_letters",
    "deletion_events",
    "echoroom_daily",
    "echoroom_hourly",
    "echoroom_speakers",
    "echoroom_stays",
    "future_timestamps",
    "holds",
    "installation",
    "job_runs",
    "listed_objects",
    "openchat_daily",
    "openchat_messages_daily",
    "outbox",
    "pending_deletions",
    "pern_daily",
    "pern_facts",
    "pern_security_daily",
    "pern_sessions_daily",
    "receipts",
    "revisions",
    "rollup_live",
    "rollups",
    "scan_verdicts",
    "sql_tasks",
    "status_inbox",
    "sweep_checkpoints",
    "unfinished_archives",
    "workers",
}


def test_the_migrations_make_what_the_models_say(engine: Engine) -> None:
    migrate.upgrade(engine)
    with engine.begin() as connection:
        assert migrate.drift(connection) == []
    assert tables(engine) == TABLES


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE roomkeeper.dead_letters DROP COLUMN reason",
        "ALTER TABLE roomkeeper.dead_letters ADD COLUMN more text",
        "ALTER TABLE roomkeeper.dead_letters ALTER COLUMN reason DROP NOT NULL",
        "ALTER TABLE roomkeeper.attachment_jobs ALTER COLUMN attempt SET DEFAULT 7",
        "DROP INDEX roomkeeper.attachment_jobs_due",
        "DROP INDEX roomkeeper.job_runs_started_at",
        "ALTER TABLE roomkeeper.job_runs DROP COLUMN slot",
        "ALTER TABLE roomkeeper.job_runs ALTER COLUMN remaining DROP DEFAULT",
        "CREATE TABLE roomkeeper.more (id int)",
    ],
)
def test_what_differs_is_found(engine: Engine, change: str) -> None:
    migrate.upgrade(engine)
    with engine.begin() as connection:
        connection.execute(text(change))
        assert migrate.drift(connection)


def test_other_schemas_are_none_of_our_business(engine: Engine) -> None:
    migrate.upgrade(engine)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE public.dead_letters (id int)"))
        connection.execute(text("CREATE SCHEMA chat"))
        connection.execute(text("CREATE TABLE chat.message (id int)"))
        assert migrate.drift(connection) == []


def test_a_second_upgrade_changes_nothing(engine: Engine) -> None:
    newest = revision.newest()
    assert newest is not None
    assert migrate.upgrade(engine) == (None, newest)
    assert migrate.upgrade(engine) == (newest, newest)


def test_two_upgrades_at_once_do_it_once(engine: Engine) -> None:
    with ThreadPoolExecutor(3) as pool:
        outcomes = list(pool.map(migrate.upgrade, [engine] * 3))
    newest = revision.newest()
    assert sorted(before or "" for before, _ in outcomes) == ["", newest, newest]
    assert {after for _, after in outcomes} == {newest}


def test_a_failing_upgrade_leaves_nothing_behind(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("CREATE SCHEMA roomkeeper"))
        # In the way of the last table.
        connection.execute(text("CREATE TABLE roomkeeper.job_runs (id int)"))
    with pytest.raises(Exception, match="job_runs"):
        migrate.upgrade(engine)
    assert tables(engine) == {"job_runs"}


def test_there_is_a_way_back_and_forth_again(engine: Engine) -> None:
    migrate.upgrade(engine)
    with engine.begin() as connection:
        command.downgrade(migrate._config(connection), "base")
        assert revision.current(connection) is None
    assert tables(engine) == {"alembic_version"}
    migrate.upgrade(engine)
    assert tables(engine) == TABLES


def test_without_facts_their_days_are_frozen(engine: Engine) -> None:
    """Code before 0013 would compute these days from the rows that are left."""
    migrate.upgrade(engine)
    states = text(
        "INSERT INTO roomkeeper.rollups (name, zone, watermark, covered_from, frozen_to, definition) VALUES"
        " ('pern.daily', 'UTC', '2026-03-09Z', '2026-01-01Z', '2026-02-01Z', 2),"
        " ('roomkeeper.attachments_daily', 'UTC', '2026-03-09Z', '2026-01-01Z', '2026-02-01Z', 2)"
    )
    facts = text(
        "INSERT INTO roomkeeper.pern_facts (at, kind, batch) VALUES"
        " ('2026-03-02Z', 'message', gen_random_uuid()), ('2026-03-01Z', 'read', gen_random_uuid())"
    )
    with engine.begin() as connection:
        connection.execute(states)
        connection.execute(facts)
        command.downgrade(migrate._config(connection), "0012")
        found = connection.execute(
            text("SELECT name, frozen_to, definition FROM roomkeeper.rollups ORDER BY name")
        ).all()
    moments = {"pern.daily": datetime(2026, 3, 2, tzinfo=UTC)}
    moments["roomkeeper.attachments_daily"] = datetime(2026, 2, 1, tzinfo=UTC)
    assert found == [(name, moment, 1) for name, moment in moments.items()]


def test_runs_of_an_earlier_version_stay_in_the_ledger(engine: Engine) -> None:
    migrate.upgrade(engine)
    with engine.begin() as connection:
        command.downgrade(migrate._config(connection), "0003")
        connection.execute(
            text(
                "INSERT INTO roomkeeper.job_runs (job, started_at, finished_at, rows, outcome)"
                " VALUES ('attachments.recover', '2026-01-01Z', '2026-01-01Z', 3, 'done')"
            )
        )
    migrate.upgrade(engine)
    with engine.begin() as connection:
        (run,) = connection.execute(text("SELECT * FROM roomkeeper.job_runs")).all()
    assert (run.job, run.rows, run.slot, run.batches, run.remaining) == ("attachments.recover", 3, None, 0, 0)


#: What the tables at revision 0008 take in a column, where not any value of its type is allowed.
ALLOWED = {
    ("attachment_jobs", "state"): "'parked'",
    ("attachment_jobs", "reason"): "'jail_unavailable'",
    ("attachment_jobs", "outcome"): "NULL",
    ("attachment_jobs", "verdict"): "'clean'",
    ("attachment_jobs", "lease_until"): "NULL",
    ("attachment_jobs", "override"): "'release'",
    ("attachment_events", "event"): "'parked'",
    ("deletion_events", "outcome"): "'kept'",
    ("holds", "entity"): "'user'",
    ("holds", "lifted_at"): "NULL",
    ("holds", "lifted_by"): "NULL",
    ("job_runs", "job"): "'attachments.renew_addresses'",
    ("job_runs", "outcome"): "'done'",
    ("receipts", "kind"): "'taken'",
    ("scan_verdicts", "verdict"): "'clean'",
}
ANY = {
    "text": "'text'",
    "uuid": "gen_random_uuid()",
    "timestamptz": "now()",
    "date": "current_date",
    "jsonb": """'{"key": 1}'""",
    "_text": "'{text}'",
    "bool": "true",
    **dict.fromkeys(("int2", "int4", "int8", "float8", "numeric"), "7"),
}
RENAMED_TABLES = {"positions": "checkpoints", "sweeps": "sweep_checkpoints"}
RENAMED_COLUMNS = {
    "address_expires_at": "url_expires_at",
    "surveyed_at": "daily_snapshot_at",
    "revisit_at": "recompute_at",
    "revisited_at": "recomputed_at",
}
RENAMED_VALUES = {
    ("attachment_jobs", "state"): "failed",
    ("attachment_jobs", "reason"): "sandbox_unavailable",
    ("attachment_events", "event"): "given_up",
    ("job_runs", "job"): "attachments.renew_urls",
}


def test_rows_of_every_table_are_carried_over_to_new_names_and_back(engine: Engine) -> None:
    def content() -> dict[str, list[Any]]:
        with engine.begin() as connection:
            return {
                name: list(
                    connection.execute(text(f"SELECT to_jsonb(t) FROM roomkeeper.{name} AS t")).scalars()
                )
                for name in tables(engine) - {"alembic_version"}
            }

    migrate.upgrade(engine)
    with engine.begin() as connection:
        command.downgrade(migrate._config(connection), "0008")
        for name in set(inspect(connection).get_table_names(schema=SCHEMA)) - {
            "alembic_version",
            "sql_tasks",
        }:
            columns = connection.execute(
                text(
                    "SELECT column_name, udt_name FROM information_schema.columns WHERE is_identity = 'NO'"
                    " AND table_schema = 'roomkeeper' AND table_name = :name"
                ),
                {"name": name},
            ).all()
            names = ", ".join(column for column, _ in columns)
            values = ", ".join(ALLOWED.get((name, column)) or ANY[kind] for column, kind in columns)
            connection.exec_driver_sql(f"INSERT INTO roomkeeper.{name} ({names}) VALUES ({values})")
    before = content()
    assert all(before.values())
    with engine.begin() as connection:
        command.upgrade(migrate._config(connection), "0009")
    expected = {
        RENAMED_TABLES.get(name, name): [
            {
                RENAMED_COLUMNS.get(column, column): RENAMED_VALUES.get((name, column), value)
                for column, value in row.items()
            }
            for row in rows
        ]
        for name, rows in before.items()
    }
    # Tables that are newer are new.
    assert {name: rows for name, rows in content().items() if name in expected} == expected
    with engine.begin() as connection:
        command.downgrade(migrate._config(connection), "0008")
    assert content() == before


def test_from_0009_on_each_revision_says_which_workers_it_serves() -> None:
    scripts = ScriptDirectory(str(revision.SCRIPTS)).walk_revisions()
    late = [script for script in scripts if script.revision >= "0009"]
    assert {script.revision: "0009" <= script.module.oldest_worker <= script.revision for script in late} == {
        script.revision: True for script in late
    }


def test_a_program_does_not_start_on_another_revision(engine: Engine, empty_database: str) -> None:
    def reported() -> list[str]:
        return [f"{fault.sentence} {fault.advice}" for fault in checks.database(get_settings())]

    bootstrap(engine, [APPS["echoroom"].models])
    with environment({"DATABASE_URL": empty_database, "ROOMKEEPER_APPS": "echoroom"}):
        newest = revision.newest()
        assert reported() == [
            f"The schema roomkeeper is absent, and this version needs {newest}. Run: roomkeeper db upgrade"
        ]
        migrate.upgrade(engine)
        assert reported() == []
        with engine.begin() as connection:
            connection.execute(text("UPDATE roomkeeper.alembic_version SET version_num = '0000'"))
        assert reported() == [
            f"The schema roomkeeper is at 0000, and this version needs {newest}. Run: roomkeeper db upgrade"
        ]


def test_the_newest_revision_is_alembics_head() -> None:
    config = Config()
    config.set_main_option("script_location", str(revision.SCRIPTS))
    config.set_main_option("path_separator", "os")
    assert revision.newest() == ScriptDirectory.from_config(config).get_current_head()


# -- a schema that is newer than the code -------------------------------------------------------------------


def migrated_by(engine: Engine, version: str, oldest_worker: str | None) -> None:
    """Leave the schema as the migration run of a newer version leaves it."""
    with engine.begin() as connection:
        connection.execute(text("UPDATE roomkeeper.alembic_version SET version_num = :v"), {"v": version})
        if oldest_worker is not None:
            connection.execute(
                text("INSERT INTO roomkeeper.revisions (revision, oldest_worker) VALUES (:v, :oldest)"),
                {"v": version, "oldest": oldest_worker},
            )


def test_a_migration_run_stores_which_workers_each_revision_serves(engine: Engine) -> None:
    for _ in range(2):
        migrate.upgrade(engine)
    with engine.begin() as connection:
        rows = connection.execute(text("SELECT revision, oldest_worker FROM roomkeeper.revisions"))
        stored = {row.revision: row.oldest_worker for row in rows}
        assert revision.newer(connection) is None
    scripts = ScriptDirectory(str(revision.SCRIPTS)).walk_revisions()
    assert stored == {
        script.revision: script.module.oldest_worker for script in scripts if script.revision >= "0009"
    }


@pytest.mark.parametrize(
    ("oldest_worker", "serves"), [("0009", True), (revision.newest(), True), ("0099", False), (None, False)]
)
def test_a_newer_schema_is_used_if_it_serves_this_code(
    engine: Engine, oldest_worker: str | None, serves: bool
) -> None:
    migrate.upgrade(engine)
    migrated_by(engine, "0099", oldest_worker)
    with engine.begin() as connection:
        assert revision.newer(connection) == ("0099" if serves else None)
        assert bool(checks.revision(connection)) is not serves
        assert bool(checks.newer_revision(connection)) is serves
    if serves:
        assert migrate.upgrade(engine) == ("0099", "0099")
    else:
        with pytest.raises(CommandError):
            migrate.upgrade(engine)
