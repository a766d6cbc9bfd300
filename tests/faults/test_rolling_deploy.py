"""Old and new programs side by side: a newer schema, messages of tasks that only the newer version knows."""

import json
import sys
from datetime import UTC, datetime, timedelta

import pytest
from redis import Redis
from syrupy.assertion import SnapshotAssertion

from tests.commands.cli import on, stable
from tests.faults.test_quarantine import message
from tests.platform import Platform, eventually
from tests.workers.test_metrics import asked
from workers import revision, unknown_tasks
from workers.queues import UNKNOWN
from workers.state_metrics import State

pytestmark = pytest.mark.system

#: A program of a version that has no task of that name.
OLDER = """
import sys
from commands.start import start
from workers.app import app
sys.argv = sys.argv[1:]
app.loader.import_default_modules()
app.finalize()
app.tasks.unregister("attachments.process")
start()
"""


def test_a_worker_starts_on_a_newer_schema_that_serves_it(
    platform: Platform, snapshot: SnapshotAssertion
) -> None:
    newest = revision.newest()
    platform.set(worker_processes=1)
    platform.sql("UPDATE roomkeeper.alembic_version SET version_num = '0099'")
    assert stable(on(platform, "check").faults[0][0], newest=newest) == snapshot(name="unknown")
    refused = platform.start("worker", "delivery")
    assert refused.process.wait(timeout=60) == 1
    assert "cannot use it" in refused.output()
    assert on(platform, "db", "upgrade").code == 1

    platform.sql("INSERT INTO roomkeeper.revisions (revision, oldest_worker) VALUES ('0099', '0009')")
    # As newer additive steps do.
    platform.sql("ALTER TABLE roomkeeper.job_runs ADD COLUMN host text")
    platform.worker("delivery")
    checked = on(platform, "check").out.splitlines()
    assert "✓ database" in checked
    assert stable(checked[0], newest=newest) == snapshot(name="newer")
    # A container that migrates at its start does so at a restart, too.
    upgraded = on(platform, "db", "upgrade")
    assert upgraded.code == 0
    assert stable(upgraded, newest=newest) == snapshot(name="upgrade")


# -- messages of a newer version --------------------------------------------------------------------------


def test_a_task_that_a_worker_does_not_know_waits_for_one_that_does(
    platform: Platform, snapshot: SnapshotAssertion
) -> None:
    platform.set(worker_processes=1)
    row_id = platform.openchat_attachment(b"Milk\n", "notes.txt")
    older = platform.worker(under=(sys.executable, "-c", OLDER))
    platform.enqueue("openchat", row_id)
    with Redis.from_url(platform.environment["ROOMKEEPER_BROKER_URL"]) as client:
        eventually(lambda: client.llen(UNKNOWN) == 1, what="the message waits")
        first = unknown_tasks.oldest(client)
        assert first is not None
        assert (first.task, first.queue) == ("attachments.process", "attachments")
        assert asked(State(platform.settings))["roomkeeper_unknown_tasks", ()] == 1
        # Offered again, and taken by the older worker once more.
        assert platform.collected() == []
        eventually(lambda: client.llen(UNKNOWN) == 1, what="the message waits again")
        again = unknown_tasks.oldest(client)
        assert again is not None
        assert (again.since, again.task) == (first.since, first.task)
        older.kill()
        platform.worker()
        assert platform.collected() == []
        assert platform.finished(row_id).outcome == "accepted"
        assert client.llen(UNKNOWN) == 0
    assert platform.dead_letters() == []


def test_after_a_day_it_is_a_dead_letter_that_can_be_sent_again(platform: Platform) -> None:
    row_id = platform.openchat_attachment(b"Milk\n", "notes.txt")
    day = 24 * 3600

    def waiting(seconds: float, **headers: object) -> bytes:
        item = json.dumps(message(row_id, task="attachments.fold", **headers)).encode()
        now = datetime.now(UTC).timestamp()
        return unknown_tasks.packed(item, "attachments", {unknown_tasks.SINCE: now - seconds})

    past = (datetime.now(UTC) - timedelta(minutes=1)).isoformat()
    with Redis.from_url(platform.environment["ROOMKEEPER_BROKER_URL"]) as client:
        client.lpush(UNKNOWN, waiting(day + 60), waiting(day - 60), waiting(5, expires=past), "garbage")
        assert on(platform, "dead-letters", "collect").out.splitlines()[-1] == "2 collected."
        assert (client.llen(UNKNOWN), client.llen("attachments")) == (0, 1)
        garbage, letter = sorted(platform.dead_letters(), key=lambda one: str(one.task), reverse=True)
        assert garbage.task == "unknown"
        assert letter.task == "attachments.fold"
        assert letter.reason.startswith("task: no task is called 'attachments.fold'; ")
        assert letter.payload == {"args": [{"app": "openchat", "id": str(row_id)}], "kwargs": {}}
        # By the version that knows it.
        platform.sql(
            "UPDATE roomkeeper.dead_letters SET task = 'attachments.process' WHERE id = :id", id=letter.id
        )
        assert on(platform, "dead-letters", "retry", str(letter.id)).out == "1 sent again.\n"
        assert client.llen("attachments") == 2
