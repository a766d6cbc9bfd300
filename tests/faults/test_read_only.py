"""A database that takes no writes: jobs end and go on, files lose no attempt, operators get a sentence."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine, insert, text
from sqlalchemy.exc import DBAPIError, InternalError
from structlog.testing import capture_logs

from models import pern
from models.echoroom import ChatSession, TypingIndicator, User
from tasks.apps import APPS, POLICIES
from tasks.attachments import attachment_work, pipeline, recover
from tasks.attachments.lease import Lease
from tasks.delivery import audit, drain
from tasks.sweeps import engine as sweep

# Modules, not tasks: pytest looks at what it finds here before there are settings.
from tasks.sweeps import task as cleanup
from tests.attachments.context import AppContext, at_scan
from tests.commands.cli import on
from tests.delivery.people import Pern, event
from tests.faults.conftest import ReadOnly
from tests.faults.replication import multi_host_url, primary_and_replica, run
from tests.platform import Platform, ago, environment, eventually
from tests.servers import PostgresServer
from tests.sweeps.sweeping import add
from workers import db, job_history
from workers.database_errors import is_unavailable
from workers.settings import load
from workers.state_metrics import State

PID = text("SELECT pg_backend_pid()")
JOB = "echoroom.typing"


# -- Connections ------------------------------------------------------------------------------------------


def pid(engine: Engine) -> int:
    with engine.begin() as connection:
        return int(connection.execute(PID).scalar_one())


def test_a_connection_to_a_server_that_takes_no_writes_is_left(
    platform: Platform, read_only: ReadOnly
) -> None:
    assert pid(platform.engine) == pid(platform.engine)
    with read_only():
        assert len({pid(platform.engine) for _ in range(3)}) == 3
    assert pid(platform.engine) == pid(platform.engine)


def test_a_transaction_that_is_read_only_by_itself_says_nothing_of_its_server(platform: Platform) -> None:
    reading = platform.engine.execution_options(postgresql_readonly=True)
    assert pid(reading) == pid(reading)
    with platform.engine.begin() as connection:
        db.refuse_read_only(connection)


def test_a_metric_says_whether_the_database_takes_writes(platform: Platform, read_only: ReadOnly) -> None:
    def writable() -> list[float]:
        found = State(platform.settings).collect()
        samples = [sample for metric in found for sample in metric.samples]
        return [one.value for one in samples if one.name == "roomkeeper_database_writable"]

    assert writable() == [1]
    with read_only():
        assert writable() == [0]
    assert writable() == [1]


# -- Jobs -------------------------------------------------------------------------------------------------


def runs(platform: Platform) -> list[tuple[str, str | None]]:
    found = platform.sql("SELECT outcome, error FROM roomkeeper.job_runs ORDER BY id")
    return [(row.outcome, row.error) for row in found]


@pytest.mark.parametrize(
    "job",
    [
        lambda settings: cleanup.run(POLICIES[JOB], settings),
        lambda _: recover.recover(),
        lambda _: drain.drain(),
        lambda _: audit.audit(),
    ],
    ids=["sweep", "recover", "drain", "audit"],
)
def test_a_job_ends_with_the_reason_and_goes_on_at_its_next_turn(
    platform: Platform, read_only: ReadOnly, job: Any
) -> None:
    with read_only():
        with pytest.raises(DBAPIError, match="takes no writes") as met:
            job(platform.settings)
        assert is_unavailable(met.value)
        assert runs(platform) == []
    job(platform.settings)
    assert [outcome for outcome, _ in runs(platform) if outcome != "done"] == []


def test_a_run_that_fails_as_its_database_goes_away_raises_its_own_error(
    platform: Platform, read_only: ReadOnly
) -> None:
    with (
        contextlib.ExitStack() as away,
        capture_logs() as logs,
        pytest.raises(ZeroDivisionError),
        job_history.run(JOB),
    ):
        away.enter_context(read_only())
        _ = 1 / 0
    (line,) = [line for line in logs if line["event"] == "job_history.not_written"]
    assert (line["job"], line["error"], line["also"]) == (JOB, "ZeroDivisionError", "InternalError")
    with job_history.run(JOB) as again:
        assert again is not None
    assert runs(platform) == [("done", None)]


def test_a_sweep_takes_no_row_for_refused(platform: Platform, read_only: ReadOnly) -> None:
    """It may become read-only in the middle of a run, after the run's own transaction has begun."""
    ada = add(platform, User, username="Ada")
    room = add(platform, ChatSession, category="Calm")
    add(platform, TypingIndicator, username="Ada", user_id=ada, session_id=room, expires_at=ago(60))
    with contextlib.ExitStack() as away, pytest.raises(DBAPIError) as met:
        real = sweep.SweepRun.go

        def go(self: Any) -> Any:
            away.enter_context(read_only())
            return real(self)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sweep.SweepRun, "go", go)
            cleanup.run(POLICIES[JOB], platform.settings)
    assert is_unavailable(met.value)
    assert all(error is None for _, error in runs(platform))


def test_statuses_that_wait_are_neither_set_aside_nor_lost(platform: Platform, read_only: ReadOnly) -> None:
    world = Pern()
    with platform.engine.begin() as connection:
        ada, bob = world.people(connection, 2)
        (message,) = world.messages(connection, ada, 1)
        from tasks.delivery import inbox
        from tasks.delivery.events import dumped

        now = connection.execute(text("SELECT now()")).scalar_one()
        inbox.put(connection, "pern", dumped([event(message, bob, "read", 1)]), now)
    before = platform.sql("SELECT * FROM roomkeeper.status_inbox")
    with read_only(), pytest.raises(DBAPIError):
        drain.drain()
    assert platform.sql("SELECT * FROM roomkeeper.status_inbox") == before
    drain.drain()
    assert platform.sql("SELECT * FROM roomkeeper.status_inbox") == []
    assert platform.dead_letters() == []


# -- Attachments ------------------------------------------------------------------------------------------


@pytest.fixture
def context(platform: Platform) -> AppContext:
    return AppContext(platform, "openchat")


def test_a_file_loses_no_attempt_to_a_database_that_turns_read_only(
    context: AppContext, read_only: ReadOnly, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Longer than its lease: it is waited for, and the file is given back."""
    context.platform.set(attachment_attempts=1, attachment_lease_seconds=1)
    row_id = context.upload(b"Milk\n")
    with contextlib.ExitStack() as away:
        at_scan(monkeypatch, lambda: away.enter_context(read_only()))
        waits: list[float] = []

        def wait(seconds: float) -> None:
            waits.append(seconds)
            if len(waits) > 3:
                away.close()

        monkeypatch.setattr(pipeline, "sleep", wait)
        assert context.work(row_id) == "waiting (database_unavailable)"
    assert len(waits) > 3
    assert (context.job(row_id).failures, context.job(row_id).state) == (0, "waiting")
    assert context.again(row_id) == "accepted"


def test_a_lease_that_a_read_only_database_did_not_renew_is_not_taken_for_anothers(
    context: AppContext, read_only: ReadOnly
) -> None:
    context.platform.set(attachment_lease_seconds=1)
    row_id = context.upload(b"Milk\n")
    table = APPS["openchat"].attachments
    assert table is not None
    with environment(context.platform.environment), db.transaction() as connection:
        own_claim = attachment_work.claim(
            connection, "openchat", table, row_id, "worker", context.platform.settings
        )
    assert own_claim is not None

    def refused(lease: Lease) -> bool:
        try:
            lease.check()
        except InternalError:
            return True
        return False

    with environment(context.platform.environment), Lease(own_claim, context.platform.settings) as lease:
        with read_only():
            eventually(lambda: refused(lease), 10)
        # No other worker has taken it meanwhile.
        eventually(lambda: not refused(lease), 10)


# -- What operators are told ------------------------------------------------------------------------------

ADA = uuid4()
COMMANDS = {
    "run": ("run", JOB),
    "hold add": ("hold", "add", "pern", "user", str(ADA), "--reason", "a case"),
    "dead-letters drop": ("dead-letters", "drop", "--task", "delivery.record"),
    "dead-letters retry": ("dead-letters", "retry", "--task", "delivery.record"),
    "run a rollup": ("run", "pern.daily"),
    "reconcile": ("reconcile",),
    "db upgrade": ("db", "upgrade"),
    "grant": ("grant", "roomkeeper"),
    "triggers install": ("triggers", "install", "openchat"),
    "check": ("check",),
}
FROZEN = "The database takes no writes: default_transaction_read_only is on."


@pytest.mark.parametrize("arguments", COMMANDS.values(), ids=COMMANDS)
def test_a_command_says_that_the_database_takes_no_writes(
    platform: Platform, read_only: ReadOnly, arguments: tuple[str, ...]
) -> None:
    platform.set(max_file_bytes=100_000)
    platform.sql(
        "INSERT INTO roomkeeper.dead_letters (task, task_id, payload, reason) VALUES"
        " ('delivery.record', '1', '{\"args\": [{}]}', 'no')"
    )
    with platform.engine.begin() as connection:
        names = {"username": "ada", "email": "ada@x.org", "display_name": "Ada", "password_hash": "x"}
        connection.execute(insert(pern.User).values(id=ADA, **names, **Pern.stamps))
    if arguments == ("db", "upgrade"):
        # Where all migrations have run there is nothing to write.
        platform.sql("UPDATE roomkeeper.alembic_version SET version_num = '0007'")
    with read_only():
        outcome = on(platform, *arguments)
    assert outcome.code == 1
    sentences = [sentence for sentence, _ in outcome.faults]
    assert any(sentence.startswith("The database takes no writes: ") for sentence in sentences), outcome
    assert "Traceback" not in outcome.out + outcome.err


def test_a_check_says_how_to_end_that(platform: Platform, read_only: ReadOnly) -> None:
    platform.set(max_file_bytes=100_000)
    with read_only():
        faults = dict(on(platform, "check").faults)
    assert faults[FROZEN].startswith("If that is over: ALTER SYSTEM, DATABASE or ROLE ... RESET")


@pytest.mark.parametrize(
    "arguments", [("policies",), ("rollup", "list"), ("retention", "receipts"), ("hold", "list")]
)
def test_what_only_reads_does_so(
    platform: Platform, read_only: ReadOnly, arguments: tuple[str, ...], tmp_path: Path
) -> None:
    with read_only():
        outcome = on(platform, *arguments)
    assert outcome.code == 0, outcome


# -- Replicas ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[PostgresServer, PostgresServer]]:
    with primary_and_replica(tmp_path_factory.mktemp("cluster")) as servers:
        yield servers


Cluster = tuple[PostgresServer, PostgresServer]


def test_a_check_says_that_the_server_is_a_replica(platform: Platform, cluster: Cluster) -> None:
    _, replica = cluster
    platform.environment["DATABASE_URL"] = replica.url()
    platform.set(max_file_bytes=100_000)
    outcome = on(platform, "check")
    advice = dict(outcome.faults)["The database server is a replica: it takes no writes."]
    assert advice.startswith(
        "Name the primary in DATABASE_URL, or all servers: postgresql://user@host1,host2"
    )


def test_of_several_servers_the_primary_is_used_whatever_their_order(cluster: Cluster) -> None:
    primary, _ = cluster
    for servers in (cluster, cluster[::-1]):
        engine = db.create(load({"DATABASE_URL": multi_host_url(*servers)}))
        with engine.begin() as connection:
            assert connection.scalar(text("SHOW port")) == str(primary.server.port)
        engine.dispose()


def test_another_choice_in_the_url_stands(cluster: Cluster) -> None:
    _, replica = cluster
    url = f"{multi_host_url(*cluster)}?target_session_attrs=standby"
    engine = db.create(load({"DATABASE_URL": url}))
    with engine.begin() as connection:
        assert connection.scalar(text("SHOW port")) == str(replica.server.port)
    engine.dispose()


def test_of_several_servers_of_which_none_takes_writes_that_is_said(
    platform: Platform, cluster: Cluster
) -> None:
    _, replica = cluster
    platform.environment["DATABASE_URL"] = multi_host_url(replica, replica)
    outcome = on(platform, "db", "upgrade")
    ((sentence, advice),) = outcome.faults
    assert (outcome.code, outcome.out) == (1, "")
    assert sentence.startswith("The database takes no writes: connection failed")
    assert sentence.endswith("session is read-only.")
    assert advice.startswith("Name the primary in DATABASE_URL")


def test_a_job_does_not_run_on_a_replica(cluster: Cluster) -> None:
    """What it does not know yet would be taken for gone: an object that was just stored, say."""
    primary, replica = cluster
    run(primary, "CREATE TABLE IF NOT EXISTS t (id int)")
    with (
        environment({"DATABASE_URL": replica.url()}),
        pytest.raises(InternalError, match="takes no writes"),
        job_history.run(JOB),
    ):
        pytest.fail("it ran")
