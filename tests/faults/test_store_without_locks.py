"""A store may take minutes to answer: no row of an application is locked then, and no snapshot is open."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from models.openchat import Attachment
from stack.demo.samples import photo
from tasks.attachments import operator_actions, urls
from tasks.reconcile import reconcile
from tasks.retention.restore import restore
from tests.attachments.context import AppContext, at_scan
from tests.platform import Platform, environment
from tests.retention.deleting import deleted, recover
from tests.retention.retaining import days, retain
from workers.known_bad import EICAR
from workers.storage.local import LocalStore

POLICY = "openchat.deleted_messages"
#: What the store is asked. URLs are signed by ourselves, but credentials may have to be fetched for it.
OPERATIONS = (
    *("fetch", "fetch_quarantined", "put", "publish", "quarantine", "restore"),
    *("delete", "delete_many", "discard", "list", "probe", "url"),
)
#: Rows of a table are locked, or changed, by a transaction that has such a lock of the table.
_LOCKED = """
    SELECT DISTINCT lock.relation::regclass::text, lock.mode
      FROM pg_locks AS lock
      JOIN pg_class AS class ON class.oid = lock.relation AND class.relkind IN ('r', 'p')
      JOIN pg_namespace AS space ON space.oid = class.relnamespace
     WHERE lock.database = (SELECT oid FROM pg_database WHERE datname = current_database())
       AND lock.pid <> pg_backend_pid() AND lock.mode <> 'AccessShareLock'
       AND space.nspname NOT IN ('pg_catalog', 'pg_toast', 'information_schema', 'roomkeeper')
"""
_SNAPSHOTS = """
    SELECT count(*) FROM pg_stat_activity
     WHERE datname = current_database() AND pid <> pg_backend_pid() AND state = 'idle in transaction'
       AND backend_xmin IS NOT NULL
"""


@dataclass
class Watch:
    """What was open in the database while the store was asked."""

    url: str
    asked: list[str] = field(default_factory=list)
    faults: set[tuple[str, ...]] = field(default_factory=set)

    def look(self, operation: str) -> None:
        self.asked.append(operation)
        with psycopg.connect(self.url, autocommit=True) as connection:
            for table, mode in connection.execute(_LOCKED):
                self.faults.add((operation, table, mode))
            ((snapshots,),) = connection.execute(_SNAPSHOTS)
            if snapshots:
                self.faults.add((operation, "a snapshot is open"))


@pytest.fixture
def watch(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> Watch:
    made = Watch(platform.environment["DATABASE_URL"])

    def watched(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def operation(store: LocalStore, *arguments: Any, **options: Any) -> Any:
            made.look(name)
            return real(store, *arguments, **options)

        return operation

    for name in OPERATIONS:
        monkeypatch.setattr(LocalStore, name, watched(name, getattr(LocalStore, name)))
    return made


@pytest.fixture
def context(platform: Platform) -> AppContext:
    return AppContext(platform, "openchat")


@pytest.mark.parametrize(
    ("content", "outcome", "operation"),
    [
        (photo(40, 30), "accepted", "publish"),
        (EICAR, "quarantined", "quarantine"),
        (b"", "refused (empty)", "delete_many"),
    ],
)
def test_an_attempt(context: AppContext, watch: Watch, content: bytes, outcome: str, operation: str) -> None:
    row_id = context.upload(content, "photo.jpg" if outcome == "accepted" else "a.txt", "image/jpeg")
    assert context.work(row_id).startswith(outcome.partition(" ")[0])
    assert operation in watch.asked or "delete" in watch.asked
    assert watch.faults == set()


def test_a_file_that_has_failed(context: AppContext, watch: Watch) -> None:
    context.platform.set(attachment_attempts=1, attachment_missing_seconds=0)
    row_id = context.upload(None)
    assert context.work(row_id) == "failed (object_missing)"
    assert "delete" in watch.asked
    assert watch.faults == set()


def test_a_file_whose_workers_have_died(context: AppContext, watch: Watch) -> None:
    context.platform.set(attachment_attempts=1)
    row_id = context.upload(b"x")
    context.platform.sql(
        "INSERT INTO roomkeeper.attachment_jobs (app, attachment_id, state, attempt, lease_until)"
        " VALUES ('openchat', :id, 'running', 1, now() - interval '1 hour')",
        id=row_id,
    )
    assert context.work(row_id) == "failed (worker_lost)"
    assert "delete" in watch.asked
    assert watch.faults == set()


def test_a_row_that_vanishes_meanwhile(
    context: AppContext, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    row_id = context.upload(photo(40, 30), "photo.jpg", "image/jpeg")
    at_scan(
        monkeypatch,
        lambda: context.platform.sql("DELETE FROM openchat.attachment WHERE id = :id", id=row_id),
    )
    assert context.work(row_id) == "vanished"
    assert context.pictures(row_id) == []
    assert watch.faults == set()


def test_what_an_operator_does(context: AppContext, watch: Watch) -> None:
    row_id = context.upload(photo(40, 30), "photo.jpg", "image/jpeg")
    context.work(row_id)
    for act in ("quarantine", "release", "retry"):
        operator_actions.act(act, "openchat", row_id, actor="ada", reason="because")
        context.again(row_id)
    assert {"quarantine", "restore"} <= {*watch.asked}
    assert watch.faults == set()


def test_urls_that_are_renewed(context: AppContext, watch: Watch) -> None:
    rows = [context.upload(photo(40, 30), "photo.jpg", "image/jpeg") for _ in range(2)]
    for row_id in rows:
        context.work(row_id)
    context.platform.sql("UPDATE roomkeeper.attachment_jobs SET url_expires_at = now()")
    watch.asked.clear()
    with environment(context.platform.environment):
        urls.renew_urls.run()
    assert watch.asked == ["url"] * 6
    assert watch.faults == set()


def test_a_worker_that_has_lost_a_file_to_another(
    context: AppContext, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    row_id = context.upload(EICAR)
    at_scan(
        monkeypatch,
        lambda: operator_actions.act("retry", "openchat", row_id, actor="ada", reason="because"),
    )
    assert context.work(row_id) == "taken over"
    assert watch.faults == set()


def test_retention_with_objects_archive_and_restore(platform: Platform, watch: Watch) -> None:
    days(platform, **{POLICY: 30})
    deleted(platform, "local", 3)
    assert retain(platform, POLICY).rows == 1
    recover(platform)
    assert {"put", "fetch", "delete_many"} <= {*watch.asked}
    assert watch.faults == set()
    ((number,),) = platform.sql("SELECT number FROM roomkeeper.receipts")
    assert restore(number, platform.settings, operator="ada", reason="because").rows
    assert watch.faults == set()


@pytest.fixture
def stray(platform: Platform) -> Iterator[None]:
    """An object that no row names, and a row whose object is gone."""
    platform.set(reconcile_prefixes="uploads/")
    platform.put(b"x", "uploads/stray")
    row_id = platform.openchat_attachment(b"x")
    AppContext(platform, "openchat").work(row_id)
    row = platform.row(Attachment, row_id)
    (platform.store / row.storage_key).unlink()
    yield


@pytest.mark.usefixtures("stray")
def test_reconcile(platform: Platform, watch: Watch) -> None:
    later = datetime.now(UTC) + timedelta(days=30)
    found = reconcile(platform.settings, store="local", now=later, apply=True, actor="ada", reason="because")
    assert found is not None
    assert (found[0].deleted, found[0].reopened) == (1, 1)
    assert {"list", "fetch", "delete_many"} <= {*watch.asked}
    assert watch.faults == set()
