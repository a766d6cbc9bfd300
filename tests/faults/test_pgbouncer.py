"""Behind PgBouncer in transaction mode: every kind of worker, with fewer connections than clients."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from uuid import UUID

import psycopg
import pytest
from pydantic import SecretStr
from sqlalchemy import text

from commands import checks
from stack.demo.rollups import RollupDemo
from stack.demo.samples import SAMPLES, Sample
from stack.demo.settings import IMPATIENT
from stack.demo.stale_rows import Ephemera
from stack.servers.pgbouncer import PgBouncer
from tasks.apps import POLICIES, ROLLUPS
from tasks.delivery.events import dumped
from tests.delivery.people import Pern, at, event
from tests.pgbouncer import pooled
from tests.platform import PATIENCE_SECONDS, Platform, eventually
from workers import queues
from workers.db import engine_for
from workers.settings import Settings, load

pytestmark = pytest.mark.system

#: Of each kind of worker.
PROCESSES = 2
KINDS = tuple(queues.KINDS)
#: Fewer than the two of each process: every server connection serves many clients.
POOL = len(KINDS) * PROCESSES + 2
#: What a worker logs if a statement meets a server connection that does not know it, or if a run waits for a
#: third connection.
FAULTS = re.compile(
    "DuplicatePreparedStatement|InvalidSqlStatementName|ProtocolViolation|bind message supplies"
    "|QueuePool limit"
)


@pytest.fixture
def pooler(platform: Platform, tmp_path: Path) -> Iterator[PgBouncer]:
    """A pooler through which all programs reach the database; the test itself does not."""
    behind = platform.environment["DATABASE_URL"]
    with pooled(tmp_path / "pgbouncer", behind, default_pool_size=str(POOL)) as made:
        platform.environment["DATABASE_URL"] = made.url(behind)
        yield made


def report_reads(platform: Platform, count: int) -> tuple[UUID, list[UUID]]:
    """Report messages as read, half by messages and half in SQL; return the reader and the messages."""
    with platform.engine.begin() as connection:
        ada, bob = Pern().people(connection, 2)
        messages = Pern().messages(connection, ada, count)
    for number, message in enumerate(messages):
        events = dumped([event(message, bob, "read", number)])
        if number % 2:
            platform.send("delivery.record", {"app": "pern", "events": events}, queue="delivery")
        else:
            sql = "SELECT roomkeeper.record_status('pern', CAST(:events AS jsonb))"
            platform.sql(sql, events=json.dumps(events))
    return bob, messages


def upload(platform: Platform, samples: Sequence[Sample]) -> list[UUID]:
    """Upload files; enqueue half of them by messages, and half in SQL."""
    ids = []
    for number, sample in enumerate(samples):
        content = sample.content()
        if sample.app == "openchat":
            row_id = platform.openchat_attachment(content, sample.name, sample.media_type)
        else:
            row_id = platform.pern_attachment(
                content, sample.name, sample.media_type, is_encrypted=sample.encrypted
            )
        if number % 2:
            platform.enqueue(sample.app, row_id)
        else:
            sql = "SELECT roomkeeper.enqueue('attachments.process', CAST(:payload AS jsonb))"
            platform.sql(sql, payload=json.dumps({"app": sample.app, "id": str(row_id)}))
        ids.append(row_id)
    return ids


def clients(pooler: PgBouncer) -> int:
    """Return how many connections the platform's programs have to the pooler."""
    return sum(one["application_name"] == "roomkeeper" for one in pooler.ask("SHOW CLIENTS"))


def test_every_kind_of_worker_serves_behind_a_transaction_pooler(
    platform: Platform, pooler: PgBouncer, database: str
) -> None:
    platform.environment.update(IMPATIENT)
    platform.set(
        archive_root=platform.folder / "archive",
        worker_processes=PROCESSES,
        # Seldom enough for the workers to keep up.
        sweep_every=",".join(f"{name}=10" for name in (*POLICIES, *ROLLUPS) if name != "roomkeeper.runs"),
    )
    direct = platform.settings.model_copy(update={"database_url": SecretStr(database)})
    rollups, ephemera = RollupDemo(), Ephemera(platform.engine, direct)
    rollups.furnish(direct)
    for kind in KINDS:
        platform.worker(kind)
    platform.start("beat")
    ephemera.feed()
    files = upload(platform, [one for one in SAMPLES if one.provider == "local"])
    bob, messages = report_reads(platform, 100)
    rollups.feed(platform.engine, direct, len(files))
    most = 0

    def left() -> dict[str, object]:
        nonlocal most
        most = max(most, clients(pooler))
        ephemera.look()
        rollups.look(platform.engine)
        states = [job.state if (job := platform.job(row_id)) else "none" for row_id in files]
        with platform.engine.begin() as connection:
            merged = len(Pern().rows(connection, messages))
        waiting = {
            "policies": [case.policy.name for case in ephemera.waiting],
            "rollups": [one.name for one in rollups.waiting],
            "files": [state for state in states if state != "finished"],
            "statuses": len(messages) - merged,
        }
        return {name: value for name, value in waiting.items() if value}

    try:
        eventually(lambda: not left(), 2 * PATIENCE_SECONDS)
    finally:
        logs = "\n".join(program.output() for program in platform.programs)
        assert (sorted(set(FAULTS.findall(logs))), left()) == ([], {})
    with platform.engine.begin() as connection:
        rows = Pern().rows(connection, messages)
    assert rows == {(message, bob): ("read", at(i), at(i)) for i, message in enumerate(messages)}
    # One that expires in a day has a wrong clock, and is deleted in the end.
    assert [case.policy.name for case in ephemera.harmed() if case.policy.name != "echoroom.typing"] == []
    assert platform.sql("SELECT job, error FROM roomkeeper.job_runs WHERE outcome = 'failed'") == []
    # Of the sample data.
    assert {letter.task for letter in platform.dead_letters()} <= {"stack.example"}
    # Two for each worker process, and one that the main process of each program keeps from its start.
    assert most <= 2 * PROCESSES * len(KINDS) + len(platform.programs)
    platform.set(reconcile_share=1)
    compared = platform.start("reconcile", "--apply", "--reason", "a test", "--store", "local")
    assert compared.process.wait(60) == 0, compared.output()


# -- what is wrong is a sentence ---------------------------------------------------------------------------


def through(pooler: PgBouncer, database: str, query: str = "", **settings: str) -> Settings:
    """Return settings that name the database behind the pooler."""
    given = {f"ROOMKEEPER_{name.upper()}": value for name, value in settings.items()}
    return load({"DATABASE_URL": pooler.url(database) + query, **given})


def test_prepared_statements_behind_a_pooler_are_a_warning(database: str, tmp_path: Path) -> None:
    on = {"prepared_statements": "true"}
    with pooled(tmp_path / "pgbouncer", database) as pooler:
        assert checks.database(through(pooler, database)) == []
        (fault,) = checks.database(through(pooler, database, **on))
    assert fault.warning
    assert "ROOMKEEPER_PREPARED_STATEMENTS" in fault.advice
    assert checks.database(load({"DATABASE_URL": database, "ROOMKEEPER_PREPARED_STATEMENTS": "true"})) == []


def test_a_parameter_that_the_pooler_refuses_is_named(database: str, tmp_path: Path) -> None:
    with pooled(tmp_path / "pgbouncer", database) as pooler:
        (fault,) = checks.database(through(pooler, database, "?options=-csearch_path%3Dpublic"))
    assert "unsupported startup parameter: options" in fault.sentence
    assert "PGOPTIONS" in fault.advice
    assert "ignore_startup_parameters" in fault.advice


def test_statement_pooling_is_refused(database: str, tmp_path: Path) -> None:
    with pooled(tmp_path / "pgbouncer", database, pool_mode="statement") as pooler:
        (fault,) = checks.database(through(pooler, database))
    assert "pool_mode = transaction" in fault.advice


def test_a_pool_that_is_too_small_is_named(database: str, tmp_path: Path) -> None:
    limits = {"default_pool_size": "1", "query_wait_timeout": "1"}
    with (
        pooled(tmp_path / "pgbouncer", database, **limits) as pooler,
        engine_for(through(pooler, database)) as engine,
        engine.begin() as busy,
    ):
        busy.execute(text("SELECT 1"))
        (fault,) = checks.database(through(pooler, database))
    assert "query_wait_timeout" in fault.sentence
    assert "default_pool_size" in fault.advice


def test_a_transaction_leaves_nothing_to_the_next_client(database: str, tmp_path: Path) -> None:
    """Both are one session of the server: what a transaction sets for itself ends with it."""
    limits = "SELECT current_setting('statement_timeout'), current_setting('lock_timeout')"
    with pooled(tmp_path / "pgbouncer", database, default_pool_size="1") as pooler:
        settings = through(pooler, database)
        with psycopg.connect(pooler.url(database), autocommit=True) as client, engine_for(settings) as engine:
            before = client.execute(limits).fetchone()
            with engine.begin() as connection:
                assert tuple(connection.execute(text(limits)).one()) == ("30s", "5s")
                session = connection.scalar(text("SELECT pg_backend_pid()"))
            assert client.execute("SELECT pg_backend_pid()").fetchone() == (session,)
            assert client.execute(limits).fetchone() == before
