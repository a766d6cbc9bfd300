"""`roomkeeper` needs nothing of the platform's, nor what the platform needs: a service can take it alone."""

import shutil
import subprocess
import sys
from pathlib import Path
from uuid import UUID

import pytest

import roomkeeper
from tests.platform import Platform

pytestmark = pytest.mark.system

ROOT = Path(__file__).parents[2]
#: What the workers need and a service may not have, or have in another version.
FORBIDDEN = (
    *("alembic", "av", "boto3", "flower", "PIL", "prometheus_client", "pydantic", "redbeat", "rich"),
    *("sqlalchemy", "structlog", "typer"),
    *("beat_schedule", "commands", "models", "stack", "storage", "tasks", "workers"),
)
PREFACE = """
import sys

class Refuses:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {forbidden!r}:
            raise AssertionError(f"{{name}} is imported")

sys.meta_path.insert(0, Refuses())
"""
PUBLISHES = """
import uuid
from datetime import UTC, datetime
from roomkeeper import Producer, Status

me = uuid.uuid4()
with Producer(sys.argv[1]) as producer:
    print(producer.process_attachment("openchat", me))
    print(*producer.record_status("pern", [Status(me, me, "read", datetime.now(UTC))]))
    print(producer.recount_conversation("openchat", me))
    print(producer.recompute_room("audiorooms", me))
"""
CALLS = """
import uuid
from datetime import UTC, datetime
import psycopg
from roomkeeper import InvalidPayload, Status, sql

me = uuid.uuid4()
with psycopg.connect(sys.argv[1]) as connection, connection.cursor() as cursor:
    print(sql.process_attachment(cursor, "openchat", me))
    sql.record_status(cursor, "pern", [Status(me, me, "read", datetime.now(UTC))])
    print(sql.recount_conversation(cursor, "openchat", me))
    print(sql.recompute_room(cursor, "audiorooms", "ABC123"))
try:
    Status(me, "", "read", datetime.now(UTC))
except InvalidPayload as error:
    print(me)
"""


def run(folder: Path, code: str, forbidden: tuple[str, ...], argument: str) -> list[UUID]:
    """Run a program that has a copy of the package and nothing else of ours; return the ids that it says."""
    shutil.copytree(ROOT / "roomkeeper", folder / "roomkeeper", dirs_exist_ok=True)
    program = PREFACE.format(forbidden=forbidden) + code
    outcome = subprocess.run(
        [sys.executable, "-c", program, argument], cwd=folder, capture_output=True, text=True, timeout=60
    )
    assert (outcome.returncode, outcome.stderr) == (0, "")
    return [UUID(word) for word in outcome.stdout.split()]


def test_it_publishes_without_what_the_workers_need(platform: Platform, tmp_path: Path) -> None:
    output = run(tmp_path, PUBLISHES, FORBIDDEN, platform.environment["ROOMKEEPER_BROKER_URL"])
    assert len(output) == 4


def test_it_calls_without_celery(platform: Platform, tmp_path: Path) -> None:
    forbidden = (*FORBIDDEN, "celery", "kombu", "redis")
    *task_ids, _ = run(tmp_path, CALLS, forbidden, platform.environment["DATABASE_URL"])
    rows = platform.sql("SELECT task_id FROM roomkeeper.outbox ORDER BY id")
    assert [row.task_id for row in rows] == task_ids
    assert len(platform.sql("SELECT FROM roomkeeper.status_inbox")) == 1


def test_it_offers_what_it_says_it_does() -> None:
    for name in roomkeeper.__all__:
        assert getattr(roomkeeper, name).__name__ == name
    assert not hasattr(roomkeeper, "Consumer")
