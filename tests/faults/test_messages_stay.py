"""A message stays with the broker until its work or its dead letter is stored, however its task ends."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from celery.exceptions import Reject, Retry
from redis import Redis
from sqlalchemy.exc import IntegrityError, InternalError

from tasks.delivery.events import dumped
from tests.delivery.people import Pern, at, event
from tests.faults.conftest import ReadOnly
from tests.platform import Platform, Program, eventually
from tests.servers import PostgresServer, ValkeyServer
from workers import task as tasks
from workers.queues import QUARANTINE

pytestmark = pytest.mark.system

WORLD = Pern()


class Report:
    """Statuses of one message, as a task of their own."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        with platform.engine.begin() as connection:
            ada, self._bob = WORLD.people(connection, 2)
            (self._message,) = WORLD.messages(connection, ada, 1)

    def send(self) -> str:
        events = dumped([event(self._message, self._bob, "read", 1)])
        return self._platform.send("delivery.record", {"app": "pern", "events": events}, queue="delivery")

    def merged(self) -> bool:
        with self._platform.engine.begin() as connection:
            return WORLD.rows(connection, [self._message]) == {
                (self._message, self._bob): ("read", at(1), at(1))
            }


def broker_is_empty(platform: Platform) -> bool:
    with Redis.from_url(platform.environment["ROOMKEEPER_BROKER_URL"]) as client:
        return not any(map(client.exists, ("delivery", "unacked", "unacked_index")))


# -- The hard time limit ----------------------------------------------------------------------------------


@contextmanager
def stuck(platform: Platform, worker: Program, report: Report) -> Iterator[str]:
    """Send a report whose process hangs at work, as one in a system call that never returns."""
    with psycopg.connect(platform.environment["DATABASE_URL"]) as other:
        other.execute("LOCK TABLE pern.message_statuses")
        task_id = report.send()
        waits = "SELECT 1 FROM pg_locks WHERE NOT granted"
        eventually(lambda: other.execute(waits).fetchone(), what="the task waits for the table")
        for child in worker.children():
            os.kill(child, signal.SIGSTOP)
        yield task_id


@pytest.fixture
def short(platform: Platform) -> Program:
    platform.set(task_soft_limit_seconds=1, task_hard_limit_seconds=2, worker_processes=1)
    return platform.worker("delivery")


def test_a_task_that_is_killed_at_its_hard_limit_leaves_a_dead_letter(
    platform: Platform, short: Program
) -> None:
    with stuck(platform, short, Report(platform)) as task_id:
        (letter,) = eventually(platform.collected)
    assert (letter.task, letter.task_id) == ("delivery.record", task_id)
    assert letter.reason.startswith("TimeLimitExceeded")
    assert letter.payload["args"][0]["app"] == "pern"
    eventually(lambda: broker_is_empty(platform))


def test_its_message_stays_where_the_broker_does_not_take_it_into_the_quarantine(
    platform: Platform, short: Program, valkey: ValkeyServer
) -> None:
    report = Report(platform)
    with stuck(platform, short, report), Redis.from_url(valkey.url()) as client:
        client.set(QUARANTINE, "in the way")
        eventually(lambda: "broker.not_quarantined" in short.output(), what=short.output()[-2000:])
        client.delete(QUARANTINE)
    eventually(report.merged)
    eventually(lambda: broker_is_empty(platform))
    assert platform.collected() == []


# -- Memory -----------------------------------------------------------------------------------------------

#: A worker with one more task, which wants more memory than there is.
HOG = """
from workers.app import app, task

@task(name="hog", queue="attachments")
def hog(request):
    bytearray(1 << 60)

app.start(["worker", "--queues=attachments", "--concurrency=1", "--loglevel=INFO"])
"""


def test_a_task_that_wants_too_much_memory_is_a_dead_letter_and_no_more(platform: Platform) -> None:
    row_id = platform.openchat_attachment(b"Milk\n", "notes.txt")
    hog = platform.send("hog", {"app": "pern"})
    platform.enqueue("openchat", row_id)
    log = platform.folder / "hog.log"
    with log.open("wb") as out:
        worker = subprocess.Popen(
            [sys.executable, "-c", HOG], env=platform.environment, stdout=out, stderr=out
        )
    try:
        # Nothing has waited for the worker to be ready.
        assert platform.finished(row_id, 120).outcome == "accepted", log.read_text()[-2000:]
        assert worker.poll() is None, log.read_text()[-2000:]
    finally:
        worker.kill()
        worker.wait()
    (letter,) = platform.dead_letters()
    assert (letter.task, letter.task_id, letter.reason) == ("hog", hog, "MemoryError: ")
    assert letter.payload == {"args": [{"app": "pern"}], "kwargs": {}}


# -- A broker that takes nothing --------------------------------------------------------------------------


@contextmanager
def nothing_is_published(valkey: ValkeyServer) -> Iterator[None]:
    """Have the broker refuse what is published, and nothing else: a publisher declares its queue before."""
    with Redis.from_url(valkey.url()) as client:
        client.execute_command("ACL", "SETUSER", "default", "-sadd")
        try:
            yield
        finally:
            client.execute_command("ACL", "SETUSER", "default", "+sadd")


def test_a_message_stays_whose_retry_the_broker_does_not_take(
    platform: Platform, valkey: ValkeyServer, read_only: ReadOnly
) -> None:
    reports = [Report(platform) for _ in range(3)]
    worker = platform.worker("delivery")
    # Its messages are to come when everything is in a bad way.
    os.killpg(worker.process.pid, signal.SIGSTOP)
    for report in reports:
        report.send()
    invalid = platform.send("delivery.record", {"app": "pern"}, queue="delivery")
    with read_only(), nothing_is_published(valkey):
        os.killpg(worker.process.pid, signal.SIGCONT)
        eventually(lambda: worker.output().count("task.requeued") > len(reports) + 1)
    eventually(lambda: all(report.merged() for report in reports))
    eventually(lambda: [letter.task_id for letter in platform.dead_letters()] == [invalid])
    eventually(lambda: broker_is_empty(platform))


# -- What is worth a retry --------------------------------------------------------------------------------


@pytest.fixture
def task(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A task of an attachment that has been retried fifty times."""
    monkeypatch.setattr(tasks, "REQUEUE_PAUSE_SECONDS", 0.01)
    from tasks.attachments.process import process

    process.push_request(
        id=str(uuid4()),
        args=[{"app": "pern", "id": str(uuid4())}],
        kwargs={},
        retries=50,
        called_directly=False,
        delivery_info={"exchange": "", "routing_key": "attachments"},
    )
    yield process
    process.pop_request()


def published(valkey: ValkeyServer) -> int:
    with Redis.from_url(valkey.url()) as client:
        return int(client.llen("attachments"))


def fail(state: str, kind: type[Exception] = InternalError) -> Exception:
    return kind("UPDATE x", {}, psycopg.errors.lookup(state)("no"))


def test_a_database_that_is_away_is_waited_for_without_end(task: Any, valkey: ValkeyServer) -> None:
    with pytest.raises(Retry):
        task.retry(exc=fail("25006"), countdown=0.01)
    assert published(valkey) == 1


def test_an_outage_does_not_use_up_the_retries_of_what_comes_after(
    task: Any, valkey: ValkeyServer, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "HOLD_SECONDS", 0.01)
    task.request.retries = 1

    def headers() -> Any:
        with Redis.from_url(valkey.url()) as client:
            return json.loads(client.lpop("attachments"))["headers"]

    for waits in range(1, 12):
        with pytest.raises(Retry):
            task.retry(exc=fail("57P01"), countdown=1)
        found = headers()
        assert (found["retries"], found[tasks.WAITS]) == (1, waits)
        task.request.headers = {tasks.WAITS: waits}
    # A dead letter that cannot be stored waits for the database, too.
    postgres.stop()
    task.on_failure(ValueError("no"), task.request.id, task.request.args, {}, None)
    found = headers()
    assert (found["retries"], found[tasks.WAITS]) == (1, 12)
    # Deadlocks, and a row that is not there yet, have all their retries.
    with pytest.raises(Retry):
        task.retry(exc=fail("40P01"), countdown=1)
    assert headers()["retries"] == 2
    # The wait for a row goes by the database's clock.
    postgres.start()
    with pytest.raises(Retry):
        task.not_there_yet(ValueError("no"))
    assert headers()["retries"] == 2


@pytest.mark.parametrize("stranger", ["x", None, -1, 10**12, [1]])
def test_a_stranger_s_number_of_waits_does_no_harm(
    task: Any, valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch, stranger: object
) -> None:
    monkeypatch.setattr(tasks, "HOLD_SECONDS", 0.01)
    task.request.headers = {tasks.WAITS: stranger}
    with pytest.raises(Retry):
        task.retry(exc=fail("57P01"))
    assert published(valkey) == 1


@pytest.mark.parametrize("state", ["40P01", "57014"])
def test_what_is_in_the_way_is_retried_some_times_only(task: Any, valkey: ValkeyServer, state: str) -> None:
    with pytest.raises(InternalError):
        task.retry(exc=fail(state), countdown=1)
    assert published(valkey) == 0
    task.request.retries = 7
    with pytest.raises(Retry):
        task.retry(exc=fail(state), countdown=1)
    assert published(valkey) == 1


@pytest.mark.parametrize("state", ["23505", "42P01", "XX000"])
def test_what_a_retry_would_not_mend_is_not_retried(task: Any, valkey: ValkeyServer, state: str) -> None:
    task.request.retries = 0
    with pytest.raises(IntegrityError):
        task.retry(exc=fail(state, IntegrityError), countdown=1)
    assert published(valkey) == 0


def test_a_failure_outside_of_its_request_goes_back_to_the_broker(
    task: Any, valkey: ValkeyServer, postgres: PostgresServer
) -> None:
    postgres.stop()
    with pytest.raises(Reject) as rejected:
        task.on_failure(ValueError("no"), "another", [1], {}, None)
    assert rejected.value.args[1], "requeue"
    assert published(valkey) == 0
