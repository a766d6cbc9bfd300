"""A database that is read-only, fails over or is away: each message ends merged or as a dead letter."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from redis import Redis

from tasks.apps import APPS
from tasks.delivery.events import dumped
from tests.delivery.people import Pern, at, event
from tests.faults.conftest import ReadOnly
from tests.faults.replication import follow, multi_host_url, primary_and_replica, promote, refuse_writes
from tests.platform import Platform, Program, eventually
from tests.servers import PostgresServer
from workers import migrate
from workers.bootstrap import bootstrap
from workers.db import create
from workers.settings import load

pytestmark = pytest.mark.system

WORLD = Pern()
MESSAGES = 10


def people_and_messages(platform: Platform) -> tuple[UUID, list[UUID]]:
    """Insert two people and messages of the first; return the second person and the messages."""
    with platform.engine.begin() as connection:
        ada, bob = WORLD.people(connection, 2)
        return bob, WORLD.messages(connection, ada, MESSAGES)


def report(platform: Platform, bob: UUID, messages: list[UUID]) -> set[str]:
    """Report each message as read, in a task of its own; return the tasks' ids."""
    return {
        platform.send("delivery.record", {"app": "pern", "events": dumped([one])}, queue="delivery")
        for one in (event(message, bob, "read", number) for number, message in enumerate(messages))
    }


def merged(bob: UUID, messages: list[UUID]) -> dict[tuple[UUID, UUID], Any]:
    """Return the rows that the reports make."""
    return {(message, bob): ("read", at(i), at(i)) for i, message in enumerate(messages)}


def rows(platform: Platform, messages: list[UUID]) -> Any:
    with platform.engine.begin() as connection:
        return WORLD.rows(connection, messages)


def met(worker: Program, what: str, times: int) -> None:
    """Wait until the worker's log has something so often."""
    eventually(
        lambda: worker.output().count(what) >= times, what=f"{what} ×{times}: {worker.output()[-3000:]}"
    )


def broker_is_empty(platform: Platform) -> bool:
    """Return whether no message waits or is held anywhere."""
    with Redis.from_url(platform.environment["ROOMKEEPER_BROKER_URL"]) as client:
        return not any(client.exists(key) for key in ("delivery", "attachments", "unacked", "unacked_index"))


def with_the_broker(platform: Platform) -> set[str]:
    """Return the ids of the messages that wait in the queue or that a worker holds."""
    with Redis.from_url(platform.environment["ROOMKEEPER_BROKER_URL"]) as client:
        waiting = [json.loads(one) for one in client.lrange("delivery", 0, -1)]
        taken = [json.loads(one)[0] for one in client.hvals("unacked")]
    return {message["headers"]["id"] for message in (*waiting, *taken)}


def kill(worker: Program, platform: Platform, messages: set[str]) -> None:
    """SIGKILL a worker while the broker has all messages, none on its way between the two."""
    # What Redis has handed out and the worker has not noted yet would be lost: not our subject here.
    group = worker.process.pid

    def stopped() -> bool:
        os.killpg(group, signal.SIGSTOP)
        if with_the_broker(platform) >= messages:
            return True
        os.killpg(group, signal.SIGCONT)
        return False

    eventually(stopped, what="the broker has all messages")
    worker.kill()


# -- A failover -------------------------------------------------------------------------------------------


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[PostgresServer, PostgresServer]]:
    """A primary with the platform's tables, and its replica."""
    with primary_and_replica(tmp_path) as (primary, replica):
        engine = create(load({"DATABASE_URL": primary.url()}))
        bootstrap(engine, [APPS["pern"].models])
        migrate.upgrade(engine)
        engine.dispose()
        yield primary, replica


class TestFailover:
    """The platform's URL names both servers, the first primary first."""

    @pytest.fixture
    def database(self, cluster: tuple[PostgresServer, PostgresServer]) -> str:
        return multi_host_url(*cluster)

    def test_workers_go_on_with_the_promoted_replica(
        self, cluster: tuple[PostgresServer, PostgresServer], platform: Platform
    ) -> None:
        primary, replica = cluster
        platform.set(apps="pern")
        bob, messages = people_and_messages(platform)
        worker = platform.worker("delivery")
        report(platform, bob, messages[:1])
        eventually(lambda: rows(platform, messages[:1]))

        # A switchover as it is done by hand: no more writes, stop, promote, the old one follows.
        refuse_writes(primary)
        report(platform, bob, messages)
        met(worker, "retry", MESSAGES)
        promote(primary, replica)
        follow(primary, replica)

        eventually(lambda: rows(platform, messages) == merged(bob, messages), what=worker.output()[-3000:])
        eventually(lambda: broker_is_empty(platform))
        assert platform.dead_letters() == []
        assert "dead_letter.lost" not in worker.output()


# -- A database that takes no writes ----------------------------------------------------------------------


def invalid(platform: Platform) -> set[str]:
    """Send messages that can only end as dead letters; return their ids."""
    invalid_event = {"message_id": "x", "user_id": "y", "status": "read", "at": "now"}
    return {
        platform.send("delivery.record", {"app": "pern", "events": [invalid_event]}, queue="delivery"),
        platform.send("delivery.record", {"app": "pern"}, "one argument too many", queue="delivery"),
        platform.send("delivery.record", queue="delivery"),
    }


def letters(platform: Platform) -> set[str]:
    return {letter.task_id for letter in platform.dead_letters()}


@pytest.mark.parametrize("killed", [False, True], ids=["", "killed"])
def test_messages_wait_for_a_database_that_is_read_only(
    platform: Platform, read_only: ReadOnly, killed: bool
) -> None:
    bob, messages = people_and_messages(platform)
    worker = platform.worker("delivery")
    with read_only():
        good, bad = report(platform, bob, messages), invalid(platform)
        met(worker, "ReadOnlySqlTransaction", MESSAGES)
        met(worker, "task.postponed", len(bad))
        if killed:
            kill(worker, platform, good | bad)
    if killed:
        platform.worker("delivery")
    eventually(lambda: rows(platform, messages) == merged(bob, messages))
    eventually(lambda: letters(platform) == bad)
    eventually(lambda: broker_is_empty(platform))


def test_messages_wait_for_a_database_that_is_down(platform: Platform, postgres: PostgresServer) -> None:
    bob, messages = people_and_messages(platform)
    worker = platform.worker("delivery")
    postgres.stop()
    report(platform, bob, messages)
    bad = invalid(platform)
    met(worker, "retry", MESSAGES)
    met(worker, "task.postponed", len(bad))
    postgres.start()
    eventually(lambda: rows(platform, messages) == merged(bob, messages))
    eventually(lambda: letters(platform) == bad)
    eventually(lambda: broker_is_empty(platform))
