"""Objects of deleted rows when something dies, is away, or comes in between: no row ever lacks its object."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from alembic import command
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from models.openchat import Attachment, Message
from tasks.attachments.objects import picture_key
from tasks.retention import receipts
from tests.fault_proxy import Fault, FaultProxy
from tests.platform import Platform, eventually
from tests.retention.deleting import POLICY, away, complete, deleted, events, pending, put_back, recover
from tests.retention.deleting import _period as _period
from tests.retention.deleting import provider as provider
from tests.retention.deleting import proxy as proxy
from tests.retention.dying import kill_at
from tests.retention.retaining import everything, retain
from tests.sweeps.sweeping import rows
from workers import migrate
from workers.storage.local import LocalStore


def test_a_run_that_is_killed_while_it_deletes_objects(platform: Platform, provider: str) -> None:
    stays = platform.openchat_attachment(b"stays", storage_provider=provider)
    deleted(platform, provider, 3)
    store = "local.LocalStore" if provider == "local" else "s3.S3Store"
    step = f"workers.storage.{store}.delete_many:after:1"
    kill_at(step, POLICY, platform.environment)
    complete(platform, provider)
    assert set(rows(platform, Attachment)) == {stays}
    (receipt,) = platform.sql("SELECT content FROM roomkeeper.receipts")
    assert receipt.content["objects"] == 3

    def recovered() -> bool:
        recover(platform)
        return not pending(platform)

    eventually(recovered, what="the session of the dead has ended")
    assert events(platform) == [(1, "deleted", 3)]
    complete(platform, provider)


def test_a_session_that_ends_before_its_commit(
    platform: Platform, provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    deleted(platform, provider, 2)
    before, objects = everything(platform), platform.objects(provider)
    append = receipts.append

    def end(connection: Any, **given: Any) -> int:
        number = append(connection, **given)
        pid = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
        platform.sql("SELECT pg_terminate_backend(:pid)", pid=pid)
        return number

    with monkeypatch.context() as patch, pytest.raises(DBAPIError):
        patch.setattr(receipts, "append", end)
        retain(platform, POLICY)
    assert platform.objects(provider) == objects
    assert {**everything(platform), "roomkeeper.unfinished_archives": []} == before
    assert retain(platform, POLICY).rows == 1
    assert platform.objects(provider) == {}
    assert (pending(platform), events(platform)) == ([], [(1, "deleted", 2)])


def test_a_store_that_is_away_has_its_objects_deleted_later(platform: Platform, provider: str) -> None:
    stays = platform.openchat_attachment(b"stays", storage_provider=provider)
    deleted(platform, provider, 2)
    with away(platform, provider):
        done = retain(platform, POLICY)
        assert (done.rows, done.remaining) == (1, 0)
        assert "objects of deleted rows wait" in str(done.error)
        assert set(rows(platform, Attachment)) == {stays}
        (receipt,) = platform.sql("SELECT number, content FROM roomkeeper.receipts")
        assert receipt.content["objects"] == 2
        for attempts in (1, 2):
            waiting = pending(platform)
            assert [(row.receipt, row.attempts) for row in waiting] == [(receipt.number, attempts)] * 2
            assert all(row.error and row.failing_since for row in waiting)
            # Not before its time.
            recover(platform, due=False)
            assert pending(platform) == waiting
            recover(platform)
        pauses = platform.sql(
            "SELECT extract(epoch FROM not_before - clock_timestamp()) FROM roomkeeper.pending_deletions"
        )
        # Twice doubled, and halved at most.
        assert all(50 < seconds <= 120 for (seconds,) in pauses)
    assert len(platform.objects(provider)) == 3
    (run, *_) = platform.sql(
        "SELECT outcome, rows, remaining, error FROM roomkeeper.job_runs"
        " WHERE job = 'retention.delete_objects' ORDER BY id DESC"
    )
    assert (run.outcome, run.rows, run.remaining) == ("done", 0, 2)
    assert run.error == pending(platform)[0].error

    recover(platform)
    assert (pending(platform), events(platform)) == ([], [(1, "deleted", 2)])
    assert list(platform.objects(provider)) == [platform.row(Attachment, stays).storage_key]


@pytest.mark.parametrize(("after", "deleted_now"), [(0, 0), (1, 333)])
def test_a_server_that_goes_away_between_two_requests(
    platform: Platform, proxy: FaultProxy, after: int, deleted_now: int
) -> None:
    deleted(platform, "s3", 400)
    with proxy.doing(Fault(methods=("POST",), containing="delete", after=after, status=503)):
        done = retain(platform, POLICY)
        assert done.rows == 1
        assert len(pending(platform)) == len(platform.objects("s3")) == 400 - deleted_now
    recover(platform)
    assert platform.objects("s3") == {}
    assert pending(platform) == []
    assert sum(number for _, _, number in events(platform)) == 400


def test_one_batch_alone_tries_a_store_that_is_away(platform: Platform, proxy: FaultProxy) -> None:
    for _ in range(3):
        deleted(platform, "s3")
    platform.sql(
        "INSERT INTO roomkeeper.pending_deletions (app, attachment_id, policy, store, key)"
        " SELECT 'openchat', gen_random_uuid(), 'x', 's3', 'uploads/' || n FROM generate_series(1, 700) AS n"
    )
    refusing = Fault(methods=("POST",), containing="delete", status=403)
    with proxy.doing(refusing):
        proxy.requests.clear()
        assert retain(platform, POLICY).rows == 3
        recover(platform)
    # Each of the two requests, the run's and the job's, is tried three times by the client.
    assert len([one for one in proxy.requests if one.startswith("POST")]) == 2 * 3
    assert {row.attempts for row in pending(platform)} == {0, 1}
    recover(platform)
    assert (pending(platform), platform.objects("s3")) == ([], {})


def test_rows_that_are_restored_in_between_keep_their_objects(platform: Platform, provider: str) -> None:
    first, *_ = deleted(platform, provider, 2)
    platform.put(b"drawn", picture_key("openchat", first, "small"), provider)
    before, objects = rows(platform, Attachment), platform.objects(provider)
    with away(platform, provider):
        retain(platform, POLICY)
        done = put_back(platform)
    assert (done.objects, done.objects_kept) == (0, 2)
    assert rows(platform, Attachment) == before
    recover(platform)
    assert platform.objects(provider) == objects
    assert (pending(platform), events(platform)) == ([], [(1, "cancelled", 2)])
    # Once more changes nothing.
    assert (put_back(platform).objects, pending(platform)) == (0, [])


def test_a_restore_waits_for_a_deletion_at_work(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    deleted(platform, "local")
    reached, go_on = threading.Event(), threading.Event()
    delete_many = LocalStore.delete_many

    def slow(self: LocalStore, keys: Any) -> None:
        reached.set()
        assert go_on.wait(60)
        delete_many(self, keys)

    monkeypatch.setattr(LocalStore, "delete_many", slow)
    with ThreadPoolExecutor(2) as pool:
        run = pool.submit(retain, platform, POLICY)
        assert reached.wait(60)
        back = pool.submit(put_back, platform)
        eventually(lambda: platform.sql("SELECT 1 FROM pg_locks WHERE NOT granted"))
        go_on.set()
        assert run.result(60).rows == 1
        done = back.result(60)
    # It says what the rows lack.
    assert (done.objects, done.objects_kept) == (1, 0)
    assert len(rows(platform, Attachment)) == 1


@pytest.mark.parametrize(
    ("provider", "app"), [("local", "openchat"), ("s3", "openchat"), ("local", "pern")], indirect=["provider"]
)
def test_a_key_that_a_row_names_again_keeps_its_object(platform: Platform, provider: str, app: str) -> None:
    (deleted_id,) = deleted(platform, provider)
    key = platform.row(Attachment, deleted_id).storage_key
    picture = platform.put(b"drawn", picture_key("openchat", deleted_id, "small"), provider)
    with away(platform, provider):
        retain(platform, POLICY)
    assert len(pending(platform)) == 1
    if app == "openchat":
        platform.openchat_attachment(None, storage_key=key, storage_provider=provider)
    else:
        platform.pern_attachment(None, file_path=key)
    recover(platform)
    assert set(platform.objects(provider)) == {key}
    assert picture not in platform.objects(provider)
    assert (pending(platform), events(platform)) == ([], [(1, "kept", 1)])


def test_an_attachment_that_is_there_again_keeps_its_pictures(platform: Platform, provider: str) -> None:
    (deleted_id,) = deleted(platform, provider)
    row = platform.row(Attachment, deleted_id)
    picture = platform.put(b"drawn", picture_key("openchat", deleted_id, "small"), provider)
    with away(platform, provider):
        retain(platform, POLICY)
    again = platform.openchat_attachment(b"new", storage_provider=provider)
    platform.sql("UPDATE openchat.attachment SET id = :id WHERE id = :again", id=deleted_id, again=again)
    recover(platform)
    new = platform.row(Attachment, deleted_id).storage_key
    assert new != row.storage_key
    assert set(platform.objects(provider)) == {new, picture}
    assert events(platform) == [(1, "deleted", 1)]


def test_an_application_that_is_not_enabled_can_name_objects(platform: Platform) -> None:
    deleted(platform, "local")
    with away(platform, "local"):
        retain(platform, POLICY)
    platform.set(apps="pern")
    recover(platform)
    (row,) = pending(platform)
    assert row.error == "ROOMKEEPER_APPS does not name openchat"
    assert len(platform.objects()) == 1
    platform.set(apps="pern,openchat")
    recover(platform)
    assert (pending(platform), platform.objects()) == ([], {})


def test_two_that_delete_at_once_share_the_work(platform: Platform) -> None:
    from tasks.retention import object_deleter
    from tasks.retention.object_deleter import Deletions

    deleted(platform, "local", 1_100)
    with away(platform, "local"):
        retain(platform, POLICY)
    platform.sql("UPDATE roomkeeper.pending_deletions SET not_before = now()")
    done = [Deletions() for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda one: object_deleter.delete_objects(platform.settings, one), done))
    recover(platform)
    assert (pending(platform), platform.objects()) == ([], {})
    assert sum(number for _, _, number in events(platform)) == 1_100
    assert all(one.error is None for one in done)


def test_an_object_that_the_store_refuses_keeps_no_other_waiting(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused, *others = deleted(platform, "local", 40)
    name = Path(platform.row(Attachment, refused).storage_key).name
    unlink = Path.unlink

    def forbid(self: Path, missing_ok: bool = False) -> None:
        if self.name == name:
            raise PermissionError(1, "Operation not permitted")
        unlink(self, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", forbid)
        retain(platform, POLICY)
    (row,) = pending(platform)
    assert (row.attachment_id, row.attempts) == (refused, 1)
    assert "Operation not permitted" in row.error
    assert len(platform.objects()) == 1
    assert events(platform) == [(1, "deleted", len(others))]
    recover(platform)
    assert (pending(platform), platform.objects()) == ([], {})


def test_what_two_attachments_name_is_deleted_once(platform: Platform) -> None:
    first, second, *_ = deleted(platform, "local", 3)
    platform.sql(
        "UPDATE openchat.attachment SET storage_key = :key WHERE id = :id",
        key=(key := platform.row(Attachment, first).storage_key),
        id=second,
    )
    with away(platform, "local"):
        retain(platform, POLICY)
    assert sorted(row.key == key for row in pending(platform) if row.key) == [False, True]
    (receipt,) = platform.sql("SELECT content FROM roomkeeper.receipts")
    assert receipt.content["objects"] == 2
    recover(platform)
    assert events(platform) == [(1, "deleted", 2)]


def test_what_the_previous_version_noted_is_carried_over(platform: Platform) -> None:
    """It noted objects before it deleted rows: after a crash the rows are still there."""
    there = platform.openchat_attachment(b"there")
    key, orphan = platform.row(Attachment, there).storage_key, platform.put(b"orphan")
    picture = platform.put(b"drawn", picture_key("openchat", there, "small"))
    with platform.engine.begin() as connection:
        command.downgrade(migrate._config(connection), "0006")
        noted = (
            "INSERT INTO roomkeeper.doomed_objects (app, attachment_id, policy, store, key, quarantined)"
            " VALUES ('openchat', :id, 'openchat.deleted_messages', 'local', :key, :quarantined)"
        )
        for row_id, its_key in ((there, key), (uuid4(), orphan)):
            connection.execute(text(noted), {"id": row_id, "key": its_key, "quarantined": None})
    migrate.upgrade(platform.engine)
    assert {(row.key, row.receipt, row.attempts) for row in pending(platform)} == {
        (key, None, 0),
        (orphan, None, 0),
    }
    recover(platform, due=False)
    assert set(platform.objects()) == {key, picture}
    assert (pending(platform), events(platform)) == ([], [])


def test_the_way_back_keeps_what_the_previous_version_can_use(platform: Platform) -> None:
    deleted(platform, "local", 2)
    with away(platform, "local"):
        retain(platform, POLICY)
    # Another one of the same attachment, and one without an object of its own.
    platform.sql(
        "INSERT INTO roomkeeper.pending_deletions (app, attachment_id, policy, store, key)"
        " SELECT app, attachment_id, policy, store, 'uploads/later' FROM roomkeeper.pending_deletions"
        "  LIMIT 1"
    )
    platform.sql(
        "INSERT INTO roomkeeper.pending_deletions (app, attachment_id, policy, store)"
        " VALUES ('openchat', gen_random_uuid(), 'x', 'local')"
    )
    with platform.engine.begin() as connection:
        command.downgrade(migrate._config(connection), "0006")
        noted = connection.execute(text("SELECT key FROM roomkeeper.doomed_objects")).scalars().all()
        assert len(noted) == 2
        assert "uploads/later" in noted
    migrate.upgrade(platform.engine)
    assert len(pending(platform)) == 2


def test_a_message_that_is_deleted_twice_leaves_nothing(platform: Platform) -> None:
    """Restored after its objects were deleted, and due again."""
    deleted(platform, "local")
    retain(platform, POLICY)
    assert put_back(platform).objects == 1
    platform.sql(
        "INSERT INTO roomkeeper.approvals"
        " (policy, period_seconds, rows, reason, approved_by, expires_at)"
        " VALUES (:policy, 30 * 86400, 9, 'looked at', 'ada', now() + interval '1 hour')",
        policy=POLICY,
    )
    assert retain(platform, POLICY).rows == 1
    assert rows(platform, Message) == {}
    assert [outcome for _, outcome, _ in events(platform)] == ["deleted", "deleted"]
