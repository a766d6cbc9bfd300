"""A run holds one connection for its lock and one for its work: two for a process, whatever the job."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import insert

from beat_schedule import timetable
from models.platform import AttachmentJob
from stack.demo.rollups import RollupDemo
from stack.demo.rows import SOON
from stack.demo.settings import IMPATIENT
from stack.demo.stale_rows import Ephemera
from tasks.apps import POLICIES, policies
from tasks.delivery.events import dumped
from tasks.policies.retention import Retention
from tasks.reconcile import reconcile
from tasks.retention import task as retention
from tasks.sweeps import task as cleanup
from tests.delivery.people import Pern, event
from tests.platform import Platform, environment
from workers.app import app
from workers.db import clock

pytestmark = pytest.mark.usefixtures("two_connections")


def run(platform: Platform, name: str) -> None:
    """Run a policy a moment ahead, when its rows are due."""
    policy, moment = POLICIES[name], clock() + SOON
    if isinstance(policy, Retention):
        assert retention.run(policy, platform.settings, now=moment) is not None
    else:
        assert cleanup.run(policy, platform.settings, now=moment) is not None


def test_sweeps_and_retention(platform: Platform) -> None:
    platform.set(
        retention_days=IMPATIENT["ROOMKEEPER_RETENTION_DAYS"], archive_root=platform.folder / "archive"
    )
    RollupDemo().furnish(platform.settings)
    ephemera = Ephemera(platform.engine, platform.settings)
    ephemera.feed()
    for name in policies(platform.settings):
        run(platform, name)
    ephemera.look()
    assert ephemera.waiting == []


def test_whatever_beat_sends(platform: Platform) -> None:
    demo = RollupDemo()
    demo.furnish(platform.settings)
    demo.feed(platform.engine, platform.settings)
    for _ in range(2):
        row_id = platform.openchat_attachment(b"Milk, bread\n", "notes.txt")
        platform.sql(
            "SELECT roomkeeper.enqueue('attachments.process', CAST(:payload AS jsonb))",
            payload=json.dumps({"app": "openchat", "id": str(row_id)}),
        )
    with platform.engine.begin() as connection:
        ada, bob = Pern().people(connection, 2)
        (message,) = Pern().messages(connection, ada, 1)
    platform.sql(
        "SELECT roomkeeper.record_status('pern', CAST(:events AS jsonb))",
        events=json.dumps(dumped([event(message, bob, "read", 1)])),
    )
    platform.set(archive_root=platform.folder / "archive")
    with environment(platform.environment):
        app.tasks["attachments.process"]({"app": "openchat", "id": str(row_id)})
        for entry in timetable(platform.settings).values():
            app.tasks[entry["task"]]()
    with platform.engine.begin() as connection:
        assert Pern().rows(connection, [message])
    assert platform.sql("SELECT job, error FROM roomkeeper.job_runs WHERE outcome = 'failed'") == []
    assert platform.sql("SELECT FROM roomkeeper.outbox WHERE published_at IS NULL") == []


def test_a_comparison_of_store_and_rows(platform: Platform) -> None:
    platform.set(reconcile_prefixes="uploads/", reconcile_share=1)
    platform.put(b"1", "uploads/named-by-no-row")
    row_id = platform.openchat_attachment(None, storage_key="uploads/not-there")
    with platform.engine.begin() as connection:
        connection.execute(
            insert(AttachmentJob).values(
                app="openchat",
                attachment_id=row_id,
                attempt=1,
                state="finished",
                outcome="accepted",
                finished_at=datetime.now(UTC),
            )
        )
    later = datetime.now(UTC) + timedelta(days=8)
    found = reconcile(platform.settings, apply=True, store="local", now=later)
    assert found is not None
    assert [(one.deleted, one.reopened) for one in found] == [(1, 1)]
