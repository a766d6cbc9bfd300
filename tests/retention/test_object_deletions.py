"""Objects of deleted rows: which rows are asked whether they name one; failures; a restore meanwhile."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import event

from commands import progress
from models.openchat import Attachment, Message
from tasks.apps import ROLLUPS
from tasks.retention import object_deletions, pending_deletions, receipts
from tests.commands.cli import on
from tests.platform import Platform, environment, eventually
from tests.retention.deleting import POLICY, away, deleted, events, pending, put_back, recover
from tests.retention.deleting import provider as provider
from tests.retention.retaining import days, retain
from tests.sweeps.sweeping import ago, naive, rows
from workers.db import get_engine
from workers.storage.local import LocalStore

#: A second policy that deletes attachments.
ATTACHMENTS = "openchat.deleted_attachments"


@pytest.fixture(autouse=True)
def _periods(platform: Platform) -> None:
    days(platform, **{POLICY: 30, ATTACHMENTS: 30})


def waiting(platform: Platform, number: int = 1) -> str:
    """Delete rows while their store is away; return the key of the first one's object."""
    (first, *_) = deleted(platform, "local", number)
    key: str = platform.row(Attachment, first).storage_key
    with away(platform, "local"):
        assert retain(platform, POLICY).rows == 1
    return key


# -- which rows are asked --------------------------------------------------------------------------------


def test_a_row_of_an_application_that_is_not_enabled_keeps_its_object(platform: Platform) -> None:
    key = waiting(platform)
    platform.pern_attachment(None, file_path="another", thumbnail_path=key)
    platform.set(apps="openchat")
    recover(platform)
    assert set(platform.objects()) == {key}
    assert (pending(platform), events(platform)) == ([], [(1, "kept", 1)])


@pytest.mark.parametrize("apps", ["openchat", "openchat,pern"])
def test_objects_wait_for_a_table_that_cannot_be_read(platform: Platform, apps: str) -> None:
    key = waiting(platform)
    platform.set(apps=apps)
    platform.sql("ALTER TABLE pern.attachments RENAME COLUMN thumbnail_path TO preview")
    recover(platform)
    (row,) = pending(platform)
    assert row.attempts == 2
    assert "pern.attachments" in row.error
    assert "thumbnail_path" in row.error
    assert set(platform.objects()) == {key}
    platform.sql("ALTER TABLE pern.attachments RENAME COLUMN preview TO thumbnail_path")
    recover(platform)
    assert (pending(platform), platform.objects()) == ([], {})


def test_an_application_whose_tables_are_not_here_names_nothing(platform: Platform) -> None:
    waiting(platform)
    platform.set(apps="openchat")
    platform.sql("DROP SCHEMA pern CASCADE")
    recover(platform)
    assert (pending(platform), platform.objects()) == ([], {})


def test_an_object_of_two_rows_that_two_policies_delete_at_once(
    platform: Platform, provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each transaction still sees the row that the other one is deleting."""
    (first,) = deleted(platform, provider)
    key = platform.row(Attachment, first).storage_key
    second = platform.openchat_attachment(None, storage_key=key, storage_provider=provider)
    platform.sql(
        "UPDATE openchat.attachment SET is_deleted = true, deleted_at = :at WHERE id = :id",
        at=naive(ago(days=31)),
        id=second,
    )
    # Or the second one waits for the statistics that the first one freezes. The process has few connections.
    platform.set(sweep_off=",".join(ROLLUPS), archive_off=ATTACHMENTS)
    reached, go_on = threading.Event(), threading.Event()
    append = receipts.append

    def slow(connection: Any, *, policy: str, **given: Any) -> int:
        if policy == POLICY:
            reached.set()
            assert go_on.wait(30)
        return append(connection, policy=policy, **given)

    monkeypatch.setattr(receipts, "append", slow)
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(retain, platform, POLICY)
        assert reached.wait(30)
        assert retain(platform, ATTACHMENTS).rows == 1
        assert set(platform.objects(provider)) == {key}
        go_on.set()
        assert other.result(30).rows == 1
    assert rows(platform, Attachment) == {}
    assert (platform.objects(provider), pending(platform)) == ({}, [])
    assert events(platform) == [(1, "kept", 1), (2, "deleted", 1)]


def test_what_another_row_names_is_noted_and_kept(platform: Platform) -> None:
    (first,) = deleted(platform, "local")
    key = platform.row(Attachment, first).storage_key
    platform.openchat_attachment(None, storage_key=key)
    assert retain(platform, POLICY).rows == 1
    assert (set(platform.objects()), pending(platform)) == ({key}, [])
    assert events(platform) == [(1, "kept", 1)]


@pytest.mark.parametrize("spelt", ["uploads//{}", "/uploads/{}", "uploads\\{}"])
def test_an_odd_key_that_the_previous_version_noted_deletes_nothing(platform: Platform, spelt: str) -> None:
    """To the store it is the object of another row."""
    name = str(uuid4())
    platform.openchat_attachment(b"stays", storage_key=f"uploads/{name}")
    objects = platform.objects()
    platform.sql(
        "INSERT INTO roomkeeper.pending_deletions (app, attachment_id, policy, store, key)"
        " VALUES ('openchat', gen_random_uuid(), 'x', 'local', :key)",
        key=spelt.format(name),
    )
    recover(platform)
    assert (platform.objects(), pending(platform)) == (objects, [])


@pytest.fixture
def limits(platform: Platform) -> Iterator[list[str]]:
    """The statement timeouts under which tables of attachments are asked for keys."""
    seen: list[str] = []

    def look(_connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if "file_path" in statement and "any(" in statement:
            with cursor.connection.cursor() as other:
                seen.append(other.execute("SHOW statement_timeout").fetchone()[0])

    engine = get_engine()
    event.listen(engine, "before_cursor_execute", look)
    yield seen
    event.remove(engine, "before_cursor_execute", look)
    assert platform


def test_the_look_at_who_names_an_object_may_take_its_time(platform: Platform, limits: list[str]) -> None:
    """Without an index it reads the tables. The transaction that deletes rows does not look."""
    deleted(platform, "local")
    assert retain(platform, POLICY).rows == 1
    assert platform.objects() == {}
    assert limits == ["150s"]


def test_the_deletion_of_objects_makes_no_batch_smaller(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds no row: what tunes the size of batches is how long their transactions take."""
    deleted(platform, "local")
    delete_many, pause = LocalStore.delete_many, 0.7

    def slow(self: LocalStore, keys: Any) -> None:
        threading.Event().wait(pause)
        delete_many(self, keys)

    monkeypatch.setattr(LocalStore, "delete_many", slow)
    began = perf_counter()
    done = retain(platform, POLICY)
    assert done.rows == 1
    assert done.longest_seconds <= perf_counter() - began - pause


# -- failed attempts -------------------------------------------------------------------------------------


def test_a_connection_that_is_lost_after_the_commit_loses_no_count(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    deleted(platform, "local", 3)
    delete_many = LocalStore.delete_many

    def cut(self: LocalStore, keys: Any) -> None:
        """Store and database: the object is deleted, and the answer of that is lost."""
        delete_many(self, keys)
        platform.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_locks"
            " WHERE relation = 'roomkeeper.pending_deletions'::regclass AND pid <> pg_backend_pid()"
        )

    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "delete_many", cut)
        done = retain(platform, POLICY)
    assert done.rows == 1
    assert "objects of deleted rows wait: " in str(done.error)
    (run,) = platform.sql("SELECT outcome, rows FROM roomkeeper.job_runs WHERE job = :job", job=POLICY)
    assert tuple(run) == ("done", 1)
    assert {row.attempts for row in pending(platform)} == {1}
    # The second is what psycopg says where the socket was closed before the server's last words were read.
    lost = ("terminating connection", "connection socket closed")
    assert all(any(words in row.error for words in lost) for row in pending(platform))
    recover(platform)
    assert (pending(platform), platform.objects()) == ([], {})
    assert events(platform) == [(1, "deleted", 3)]


def test_a_fault_while_objects_are_deleted_is_the_reason_that_they_wait(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    deleted(platform, "local")
    deleted(platform, "local")

    def fail(_self: LocalStore, _keys: Any) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "delete_many", fail)
        done = retain(platform, POLICY)
        assert done.rows == 2
        # As a task does it, too.
        recover(platform)
    assert rows(platform, Message) == {}
    for row in pending(platform):
        assert (row.attempts, row.error) == (2, "OSError: [Errno 5] Input/output error")
    recover(platform)
    assert (pending(platform), platform.objects()) == ([], {})


def test_references_that_cannot_be_cleared_after_the_commit_lose_no_count(platform: Platform) -> None:
    """By the time the trigger is in the way, the rows are gone."""
    deleted(platform, "local")
    platform.sql(
        "CREATE FUNCTION openchat.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " RAISE EXCEPTION 'not now' USING ERRCODE = 'insufficient_privilege'; END $$"
    )
    platform.sql(
        "CREATE TRIGGER refuse BEFORE UPDATE ON openchat.message FOR EACH STATEMENT"
        " EXECUTE FUNCTION openchat.refuse()"
    )
    platform.sql(
        "CREATE TRIGGER refuse BEFORE UPDATE ON openchat.conversation_participant FOR EACH STATEMENT"
        " EXECUTE FUNCTION openchat.refuse()"
    )
    assert retain(platform, POLICY).rows == 1
    assert (rows(platform, Message), platform.objects()) == ({}, {})


# -- a restore meanwhile ---------------------------------------------------------------------------------


def test_a_restore_shows_what_it_waits_for(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0)
    waiting(platform)
    with ThreadPoolExecutor(1) as pool, platform.engine.begin() as deleter:
        deleter.exec_driver_sql("SELECT FROM roomkeeper.pending_deletions FOR UPDATE")
        back = pool.submit(on, platform, "retention", "restore", "1", "--reason", "a mistake")
        attempt = "SELECT query_start FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        first = eventually(lambda: platform.sql(attempt))
        eventually(lambda: (found := platform.sql(attempt)) and found != first)
        deleter.rollback()
        outcome = back.result(30)
    assert outcome.code == 0, outcome.err
    assert "receipt 1: waiting for a deletion of its objects to end, 1 s" in outcome.err
    assert "1 object still waited to be deleted, and stay" in outcome.out
    assert len(rows(platform, Message)) == 1


def test_a_restore_that_waits_in_vain_says_for_what(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pending_deletions, "LONGEST_SECONDS", 0)
    waiting(platform)
    with platform.engine.begin() as deleter:
        deleter.exec_driver_sql("SELECT FROM roomkeeper.pending_deletions FOR UPDATE")
        outcome = on(platform, "retention", "restore", "1", "--reason", "a mistake")
    assert (outcome.code, outcome.err) == (
        1,
        "Nothing was put back: another process has been deleting its objects for 1 seconds. See what keeps "
        "the store or the database busy, and try again; what waits: roomkeeper retention pending.\n",
    )
    assert rows(platform, Message) == {}


def test_a_restored_row_keeps_an_object_that_another_receipt_has_noted(
    platform: Platform, provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (first,) = deleted(platform, provider)
    key = platform.row(Attachment, first).storage_key
    with away(platform, provider):
        retain(platform, POLICY)
        second = platform.openchat_attachment(None, storage_key=key, storage_provider=provider)
        platform.sql(
            "UPDATE openchat.message SET is_deleted = true, deleted_at = :at", at=naive(ago(days=31))
        )
        retain(platform, POLICY)
    # The second receipt's is dealt with; that of the first waits.
    platform.sql("DELETE FROM roomkeeper.pending_deletions WHERE receipt = 2")
    platform.sql("UPDATE roomkeeper.pending_deletions SET not_before = now()")
    append = receipts.append

    def during(connection: Any, **given: Any) -> int:
        object_deletions.delete_objects.run()
        return append(connection, **given)

    with monkeypatch.context() as patch, environment(platform.environment):
        patch.setattr(receipts, "append", during)
        put_back(platform, 2)
    recover(platform)
    assert set(rows(platform, Attachment)) == {second}
    assert set(platform.objects(provider)) >= {key}
    assert events(platform) == [(1, "kept", 1)]
