"""A database that answers nothing and keeps its connections, as one of a frozen machine: workers go on."""

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from redis import Redis
from sqlalchemy import text
from structlog.testing import capture_logs

from tests.faults.brokers import held
from tests.faults.test_messages_stay import Report
from tests.faults.test_quarantine import message
from tests.platform import Platform, eventually
from tests.servers import PostgresServer
from workers import outstanding
from workers.db import transaction
from workers.queues import QUARANTINE

pytestmark = pytest.mark.system


@contextmanager
def frozen(postgres: PostgresServer) -> Iterator[None]:
    """SIGSTOP every process of the server: those that serve connections would answer."""
    os.kill(postgres.pid, signal.SIGSTOP)
    children = Path(f"/proc/{postgres.pid}/task/{postgres.pid}/children").read_text().split()
    everyone = [*map(int, children), postgres.pid]
    for pid in everyone:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in everyone:
            os.kill(pid, signal.SIGCONT)


def test_it_holds_up_neither_the_worker_s_loop_nor_its_end(
    platform: Platform, postgres: PostgresServer
) -> None:
    platform.set(task_soft_limit_seconds=1, task_hard_limit_seconds=2, worker_processes=1)
    platform.set(shutdown_seconds=2)
    report = Report(platform)
    unreadable = message(uuid4(), timelimit=5)
    worker = platform.worker("delivery")
    with Redis.from_url(platform.environment["ROOMKEEPER_BROKER_URL"]) as client, frozen(postgres):
        # Its process waits for the database until it is killed.
        killed = report.send()
        eventually(lambda: client.llen(QUARANTINE) == 1, 20, "its message is in the quarantine")
        client.lpush("delivery", json.dumps(unreadable))
        eventually(lambda: client.llen(QUARANTINE) == 2, 20, "so is one that cannot be read")
        assert held(client) == (0, 0)
        worker.process.terminate()
        assert worker.process.wait(timeout=20) == 0
    letters = {letter.task_id: letter for letter in platform.collected()}
    assert letters.keys() == {killed, unreadable["headers"]["id"]}
    assert letters[killed].task == "delivery.record"
    assert letters[killed].reason == "TimeLimitExceeded: TimeLimitExceeded(2,)"
    assert letters[killed].payload["args"][0]["app"] == "pern"
    assert letters[killed].payload["kwargs"] == {}
    assert letters[unreadable["headers"]["id"]].reason.startswith("timelimit: ")


def test_a_process_that_ends_waits_for_it_no_longer_than_its_limit(
    platform: Platform, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker is away, too: what only this process has is to become a dead letter."""
    monkeypatch.setattr(outstanding, "BURY_SECONDS", 0.5)
    kept = outstanding.Outstanding()

    def bury() -> None:
        with transaction() as connection:
            connection.execute(text("SELECT 1"))

    def one(key: str) -> outstanding.Message:
        return outstanding.Message(key, "LPUSH", b"", bury)

    kept.keep(one("stored"))
    kept._bury()
    with frozen(postgres), capture_logs() as logs:
        kept._ending = False
        for key in ("first", "second"):
            kept.messages.append(one(key))
        began = time.monotonic()
        kept._bury()
        assert time.monotonic() - began < 5
    lost: list[Any] = [line["key"] for line in logs if line["event"] == "broker.message_lost"]
    assert lost == ["first", "second"]
    assert not kept.messages
