"""Heartbeats of real workers and of beat: a dead one is named, one that ended in good order is not."""

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
from redis import Redis
from sqlalchemy import Row
from syrupy.assertion import SnapshotAssertion

from commands import checks
from tests.commands.cli import on, stable, timeless
from tests.faults.test_database_frozen import frozen
from tests.platform import Platform, Program, eventually
from tests.servers import PostgresServer
from tests.workers.test_metrics import asked, of
from workers import heartbeat, revision
from workers.queues import PROGRAMS
from workers.state_metrics import State

pytestmark = pytest.mark.system


def rows(platform: Platform) -> list[Row[Any]]:
    found: list[Row[Any]] = platform.sql("SELECT * FROM roomkeeper.workers ORDER BY kind, started_at")
    return found


def kinds(platform: Platform) -> list[str]:
    return [row.kind for row in rows(platform)]


def seen(platform: Platform, *expected: str) -> None:
    eventually(lambda: kinds(platform) == sorted(expected), what=f"{expected}, not {kinds(platform)}")


def age(platform: Platform, kind: str, ago: str, column: str = "seen_at") -> None:
    """Set a time of a kind's row back, as if so much time had passed."""
    platform.sql(
        f"UPDATE roomkeeper.workers SET {column} = {column} - CAST(:ago AS interval) WHERE kind = :kind",
        kind=kind,
        ago=ago,
    )


def write(platform: Platform, kind: str, pid: int = 1, ago: str = "0 s", running: str = "0 s") -> None:
    """Write the row of a process whose last heartbeat was so long ago, and which had started before."""
    platform.sql(
        "INSERT INTO roomkeeper.workers (id, kind, host, pid, version, revision, started_at, seen_at)"
        " VALUES (gen_random_uuid(), :kind, 'a', :pid, '1', '0011',"
        " now() - CAST(:running AS interval), now() - CAST(:ago AS interval))",
        kind=kind,
        pid=pid,
        ago=ago,
        running=running,
    )


def named(platform: Platform, program: Program | None = None) -> str:
    """Return what `check` says of workers, for a snapshot."""
    faults = checks.workers(platform.settings)
    text = "\n".join(f"{'!' if one.warning else '✗'} {one.sentence}\n  {one.advice}" for one in faults)
    text = text.replace(os.uname().nodename, "<host>")
    return timeless(stable(text, **({"pid": program.process.pid} if program else {})))


def test_a_worker_and_beat_are_seen_until_they_end(platform: Platform, snapshot: SnapshotAssertion) -> None:
    platform.set(worker_processes=1)
    worker, beat = platform.start("worker", "delivery"), platform.start("beat")
    seen(platform, "delivery", "beat")
    beat_row, worker_row = rows(platform)
    assert (beat_row.pid, worker_row.pid) == (beat.process.pid, worker.process.pid)
    assert (worker_row.host, worker_row.revision) == (os.uname().nodename, revision.newest())
    up = of(asked(State(platform.settings)), "roomkeeper_worker_up", "kind")
    assert up == {kind: float(kind in {"delivery", "beat"}) for kind in PROGRAMS}
    # The others may be about to start: a deploy starts one after another.
    assert named(platform) == ""
    age(platform, "beat", "11 minutes", "started_at")
    assert named(platform) == snapshot(name="never seen")

    # One that is killed leaves its row; one that ends takes it along.
    worker.kill()
    age(platform, "delivery", "5 minutes")
    assert named(platform, worker) == snapshot(name="killed")
    assert of(asked(State(platform.settings)), "roomkeeper_worker_up", "kind")["delivery"] == 0
    second = platform.start("worker", "delivery")
    seen(platform, "delivery", "delivery", "beat")
    assert named(platform, worker) == snapshot(name="another runs")
    # The row of the dead one is removed by the others, after a while.
    age(platform, "delivery", "2 hours")
    third = platform.start("worker", "delivery")
    eventually(lambda: third.process.pid in [row.pid for row in rows(platform)])
    assert worker.process.pid not in [row.pid for row in rows(platform)]
    for program in (second, third, beat):
        program.process.send_signal(signal.SIGTERM)
    for program in (second, third, beat):
        assert program.process.wait(timeout=30) == 0
    seen(platform)


def test_one_whose_loop_stands_still_is_not_seen(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "EVERY_SECONDS", 0.02)
    monkeypatch.setattr(heartbeat, "ALIVE_SECONDS", 0.2)
    this = heartbeat.Heartbeat("delivery", platform.settings)
    this.start()

    def advances() -> bool:
        before = rows(platform)[0].seen_at
        heartbeat.alive()
        eventually(lambda: rows(platform)[0].seen_at > before, 10)
        return True

    def stands() -> bool:
        before = rows(platform)[0].seen_at
        return not this._over.wait(0.1) and rows(platform)[0].seen_at == before

    try:
        seen(platform, "delivery")
        eventually(stands, what="no heartbeats come")
        assert advances()
    finally:
        this.stop()
    seen(platform)


def test_after_a_clean_end_a_worker_that_was_killed_earlier_is_not_named(
    platform: Platform,
) -> None:
    write(platform, "maintenance", running="11 minutes")
    write(platform, "delivery", pid=7, ago="5 minutes", running="20 minutes")
    first = heartbeat.Heartbeat("delivery", platform.settings)
    second = heartbeat.Heartbeat("delivery", platform.settings)
    first.start()
    second.start()
    seen(platform, "maintenance", *["delivery"] * 3)
    # Another one runs: that one was killed is still worth a warning.
    first.stop()
    assert sorted(row.pid for row in rows(platform) if row.kind == "delivery") == [7, os.getpid()]
    # The last that was seen has ended in good order, just now.
    second.stop()
    assert kinds(platform) == ["maintenance"]
    faults = [one.sentence for one in checks.workers(platform.settings)]
    assert "No worker of kind delivery is running." in faults


def test_a_frozen_database_holds_up_neither_the_worker_nor_its_end(
    platform: Platform, postgres: PostgresServer
) -> None:
    platform.set(worker_processes=1, health_file=platform.folder / "alive")
    worker = platform.worker("delivery")
    seen(platform, "delivery")
    alive = platform.folder / "alive"
    with frozen(postgres):
        before = alive.stat().st_mtime
        eventually(lambda: alive.stat().st_mtime > before, what="the worker's loop turns")
        worker.process.terminate()
        assert worker.process.wait(timeout=20) == 0
    # It could not be deleted, and counts as dead in a minute.
    assert kinds(platform) == ["delivery"]


# -- why jobs do not run ----------------------------------------------------------------------------------


@pytest.fixture
def silent(platform: Platform) -> Callable[[], str]:
    """Jobs that have not run for long; returns the advice that `check` gives."""
    platform.sql(
        "INSERT INTO roomkeeper.job_runs (job, started_at, finished_at, rows, outcome)"
        " VALUES ('echoroom.counts', '2026-01-01Z', '2026-01-01Z', 0, 'done')"
    )
    platform.set(apps="echoroom")

    def advice() -> str:
        outcome = on(platform, "check")
        assert outcome.code == 1
        return next(advice for sentence, advice in outcome.faults if "have not run" in sentence)

    return advice


def test_the_right_one_is_named(
    platform: Platform, silent: Callable[[], str], snapshot: SnapshotAssertion
) -> None:
    assert silent() == snapshot(name="no heartbeats")
    for kind in PROGRAMS:
        write(platform, kind)
    assert silent() == snapshot(name="all run")
    with Redis.from_url(platform.environment["ROOMKEEPER_BROKER_URL"]) as client:
        client.lpush("cleanup", *range(1234))
        assert silent() == snapshot(name="a long queue")
        client.delete("cleanup")
    age(platform, "beat", "5 minutes")
    assert silent() == snapshot(name="beat")
    age(platform, "maintenance", "5 minutes")
    platform.sql("UPDATE roomkeeper.workers SET seen_at = now() WHERE kind = 'beat'")
    assert silent() == snapshot(name="maintenance")
