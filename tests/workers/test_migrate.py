"""The schema `roomkeeper`: its migrations make what the models say, once, whoever asks and how often."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
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


OURS = {
    "alembic_version",
    "approvals",
    "attachment_events",
    "attachment_jobs",
    "attachments_daily",
    "audiorooms_long_stays",
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
    "job_runs",
    "listed_objects",
    "openchat_daily",
    "openchat_messages_daily",
    "outbox",
    "pending_deletions",
    "pern_daily",
    "pern_security_daily",
    "pern_sessions_daily",
    "positions",
    "receipts",
    "rollup_live",
    "rollups",
    "scan_verdicts",
    "sql_tasks",
    "status_inbox",
    "sweeps",
    "unfinished_archives",
}


def test_the_migrations_make_what_the_models_say(engine: Engine) -> None:
    migrate.upgrade(engine)
    with engine.begin() as connection:
        assert migrate.drift(connection) == []
    assert tables(engine) == OURS


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
    assert tables(engine) == OURS


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


def test_a_program_does_not_start_on_another_revision(engine: Engine, empty_database: str) -> None:
    def said() -> list[str]:
        return [f"{fault.sentence} {fault.advice}" for fault in checks.database(get_settings())]

    bootstrap(engine, [APPS["echoroom"].models])
    with environment({"DATABASE_URL": empty_database, "ROOMKEEPER_APPS": "echoroom"}):
        newest = revision.newest()
        assert said() == [
            f"The schema roomkeeper is absent, and this version needs {newest}. Run: roomkeeper db upgrade"
        ]
        migrate.upgrade(engine)
        assert said() == []
        with engine.begin() as connection:
            connection.execute(text("UPDATE roomkeeper.alembic_version SET version_num = 'older'"))
        assert said() == [
            f"The schema roomkeeper is at older, and this version needs {newest}. Run: roomkeeper db upgrade"
        ]


def test_the_newest_revision_is_alembics_head() -> None:
    config = Config()
    config.set_main_option("script_location", str(revision.SCRIPTS))
    config.set_main_option("path_separator", "os")
    assert revision.newest() == ScriptDirectory.from_config(config).get_current_head()
