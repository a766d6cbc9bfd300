"""The engine of retention: nothing is half gone, whatever dies, and nothing goes that should not."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import structlog
from sqlalchemy import insert, text
from sqlalchemy.exc import ProgrammingError

from models.pern import Attachment, AuditLog, Message, MessageStatus
from tasks.policies.columns import table_of
from tasks.retention import archive, holds, object_deletions, receipts
from tasks.retention.restore import restore
from tasks.retention.safety_limit import ApprovalRequired
from tests.platform import Platform, eventually
from tests.retention.dying import kill_at
from tests.retention.pern_chats import attachment, conversation, message, person, status
from tests.retention.retaining import days, everything, retain
from tests.sweeps.sweeping import NOW, rows
from workers.settings import SettingsError
from workers.storage import StoreError
from workers.storage.local import LocalStore

MESSAGES = "pern.messages"
OLD = timedelta(days=31)


def archived(platform: Platform) -> set[str]:
    """Return the keys of all archives."""
    root = platform.settings.archive_root
    assert root is not None
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def named(platform: Platform) -> set[str]:
    """Return the keys of all archives that receipts name."""
    with platform.engine.begin() as connection:
        return {one["key"] for receipt in receipts.every(connection) for one in receipt.content["archives"]}


def logs(platform: Platform, number: int, age: timedelta = OLD, **values: Any) -> None:
    """Add so many audit logs."""
    each = {
        "action": "login",
        "resource_type": "session",
        "ip_address": "10.0.0.1",
        "user_agent": "curl",
        "created_at": NOW - age,
        **values,
    }
    with platform.engine.begin() as connection:
        connection.execute(insert(table_of(AuditLog)), [{"id": uuid4(), **each} for _ in range(number)])


@pytest.fixture
def chat(platform: Platform) -> Iterator[dict[str, Any]]:
    """Some old messages with all that may go with them, and young ones."""
    days(platform, **{MESSAGES: 30})
    room = conversation(platform)
    old = [message(platform, room, OLD) for _ in range(3)]
    young = message(platform, room, timedelta(days=1), reply_to_id=old[0])
    for one in (*old, young):
        status(platform, one)
        attachment(platform, one)
    yield {"old": old, "young": young}


STEPS = [
    # Rows are locked, and nothing is changed.
    "tasks.retention.pending_deletions.held_back:before:1",
    # Rows are deleted, and that is not committed.
    "tasks.retention.archive.write:before:1",
    # One archive of four is written; it is noted and not read back; all are.
    "tasks.retention.archive.write:after:1",
    "tasks.retention.archive._fetch:before:2",
    "tasks.retention.archive.write:after:4",
    # The jobs of the attachments are deleted; the receipt is there; so are pending deletions.
    "tasks.retention.pending_deletions.prepare:after:1",
    "tasks.retention.receipts.append:after:1",
    "tasks.retention.pending_deletions.note:after:1",
]
#: After the commit: the objects are there; one is deleted; all are, and the pending deletions are there; all
#: is done. Each with the number of objects that are left.
COMMITTED = [
    ("tasks.retention.object_deleter.delete_objects:before:1", 4),
    ("workers.storage.local.LocalStore.delete_many:before:1", 4),
    # After four archives, six pictures and an original; each object has two names.
    ("pathlib.Path.unlink:before:19", 3),
    ("workers.storage.local.LocalStore.delete_many:after:1", 1),
    ("tasks.retention.batch.RetentionBatches.take:after:1", 1),
]


def killed_at(platform: Platform, step: str) -> None:
    """Run the policy in a process that is killed at a step."""
    kill_at(step, MESSAGES, platform.environment)


def gone_without_a_trace(platform: Platform, chat: dict[str, Any]) -> None:
    """See that all that belongs to the old messages is gone, and nothing else, and nothing is left over."""
    assert set(rows(platform, Message)) == {chat["young"]}
    assert {row["message_id"] for row in rows(platform, MessageStatus).values()} == {chat["young"]}
    (file,) = rows(platform, Attachment).values()
    assert set(platform.objects()) == {file["file_path"]}
    assert archived(platform) == named(platform)
    assert platform.sql("SELECT * FROM roomkeeper.unfinished_archives") == []
    assert platform.sql("SELECT * FROM roomkeeper.pending_deletions") == []


@pytest.mark.parametrize("step", STEPS)
def test_a_run_that_is_killed_before_its_commit_leaves_all_as_it_was(
    platform: Platform, chat: dict[str, Any], step: str
) -> None:
    before, objects = everything(platform), platform.objects()
    killed_at(platform, step)
    left = "roomkeeper.unfinished_archives"
    assert {**everything(platform), left: []} == before
    assert platform.objects() == objects
    assert named(platform) == set()

    # The server may still be ending the session of the dead.
    done = eventually(lambda: _again(platform))
    assert done.rows == 3
    gone_without_a_trace(platform, chat)


@pytest.mark.parametrize(("step", "left"), COMMITTED)
def test_a_run_that_is_killed_after_its_commit_leaves_no_row_without_its_object(
    platform: Platform, chat: dict[str, Any], step: str, left: int
) -> None:
    killed_at(platform, step)
    # The rows are gone, and the receipt is there, with all archives.
    assert set(rows(platform, Message)) == {chat["young"]}
    (file,) = rows(platform, Attachment).values()
    assert file["file_path"] in platform.objects()
    assert len(platform.objects()) == left
    (receipt,) = platform.sql("SELECT content FROM roomkeeper.receipts")
    assert receipt.content["objects"] == 3
    assert named(platform) == archived(platform) != set()
    pending = platform.sql("SELECT * FROM roomkeeper.pending_deletions")
    assert len(pending) == (0 if step == COMMITTED[-1][0] else 3)

    # The server may still be ending the session of the dead.
    eventually(lambda: _recovered(platform))
    gone_without_a_trace(platform, chat)
    events = platform.sql("SELECT receipt, outcome, objects FROM roomkeeper.deletion_events")
    assert [tuple(event) for event in events] == [(1, "deleted", 3)]
    assert eventually(lambda: _again(platform)).rows == 0


def _recovered(platform: Platform) -> bool:
    object_deletions.delete_objects.run()
    return not platform.sql("SELECT * FROM roomkeeper.pending_deletions")


def _again(platform: Platform) -> Any:
    try:
        return retain(platform, MESSAGES)
    except AssertionError:
        return None


def test_an_archive_that_cannot_be_written_takes_nothing(platform: Platform, chat: dict[str, Any]) -> None:
    before = everything(platform)
    objects = platform.objects()
    # A file is where the directory of the archives should be.
    (platform.folder / "archive").write_text("")
    with pytest.raises((StoreError, SettingsError)):
        retain(platform, MESSAGES)
    assert everything(platform) == before
    assert platform.objects() == objects
    (run,) = platform.sql("SELECT outcome, rows, error FROM roomkeeper.job_runs")
    assert (run.outcome, run.rows) == ("failed", 0)
    assert "archive" in run.error


def test_without_a_place_for_archives_nothing_goes(platform: Platform, chat: dict[str, Any]) -> None:
    before = everything(platform)
    platform.environment.pop("ROOMKEEPER_ARCHIVE_ROOT")
    with pytest.raises(StoreError, match="ROOMKEEPER_ARCHIVE_ROOT or ROOMKEEPER_ARCHIVE_BUCKET, or name it"):
        retain(platform, MESSAGES)
    assert everything(platform) == before
    platform.set(archive_off=MESSAGES)
    assert retain(platform, MESSAGES).rows == 3
    platform.environment.pop("ROOMKEEPER_ARCHIVE_OFF")
    days(platform, **{"pern.audit_info": 30})
    platform.environment.pop("ROOMKEEPER_ARCHIVE_ROOT")
    logs(platform, 1)
    with pytest.raises(StoreError, match=r"ROOMKEEPER_ARCHIVE_BUCKET$"):
        retain(platform, "pern.audit_info")
    assert len(rows(platform, AuditLog)) == 1


def test_an_archive_that_is_not_what_was_written_takes_nothing(
    platform: Platform, chat: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = everything(platform)
    put = LocalStore.put

    def damage(self: LocalStore, key: str, source: Path, *rest: Any) -> str:
        damaged = source.with_name("damaged")
        written = source.read_bytes()
        damaged.write_bytes(written[:10] + bytes([written[10] ^ 1]) + written[11:])
        return put(self, key, damaged, *rest)

    monkeypatch.setattr(LocalStore, "put", damage)
    with pytest.raises(archive.ArchiveError, match="is not what was written"):
        retain(platform, MESSAGES)
    assert rows(platform, Message).keys() == {*chat["old"], chat["young"]}
    monkeypatch.undo()
    assert retain(platform, MESSAGES).rows == 3
    assert archived(platform) == named(platform)
    assert before != everything(platform)


def test_more_than_usual_waits_for_an_operator(platform: Platform) -> None:
    days(platform, **{"pern.audit_info": 30})
    platform.set(retention_floor=20)
    logs(platform, 21)
    before = everything(platform)
    with pytest.raises(
        ApprovalRequired, match="would take more than 20 rows, and a run of it usually takes 0"
    ):
        retain(platform, "pern.audit_info", by_hand=False)
    assert everything(platform) == before
    (run,) = platform.sql("SELECT outcome, rows, error FROM roomkeeper.job_runs")
    assert (run.outcome, run.rows) == ("stopped", 0)
    assert "roomkeeper retention approve pern.audit_info" in run.error

    platform.sql("DELETE FROM pern.audit_logs WHERE ctid = '(0,1)'")
    assert retain(platform, "pern.audit_info", by_hand=False).rows == 20
    # Five times what is usual, now.
    logs(platform, 101)
    with pytest.raises(
        ApprovalRequired, match="would take more than 100 rows, and a run of it usually takes 20"
    ):
        retain(platform, "pern.audit_info")
    platform.sql("DELETE FROM pern.audit_logs WHERE ctid = (SELECT min(ctid) FROM pern.audit_logs)")
    assert retain(platform, "pern.audit_info").rows == 100


def approve(platform: Platform, name: str, number: int, period: timedelta, hours: float = 1) -> int:
    """Approve so many rows."""
    (row,) = platform.sql(
        "INSERT INTO roomkeeper.approvals (policy, period_seconds, rows, reason, approved_by, expires_at)"
        " VALUES (:name, :period, :rows, 'looked at', 'ada', now() + make_interval(secs => :seconds))"
        " RETURNING id",
        name=name,
        period=period.total_seconds(),
        rows=number,
        seconds=3600 * hours,
    )
    assert isinstance(row.id, int)
    return row.id


def test_an_approval_is_for_its_rows_its_period_and_its_time(platform: Platform) -> None:
    name = "pern.audit_info"
    days(platform, **{name: 30})
    platform.set(retention_floor=10)
    logs(platform, 60)
    for period, hours in ((timedelta(days=29), 1.0), (timedelta(days=30), -1.0)):
        approve(platform, name, 60, period, hours)
        with pytest.raises(ApprovalRequired):
            retain(platform, name)
    number = approve(platform, name, 30, timedelta(days=30))
    # As many as were approved, and as many as it may take anyway.
    done = retain(platform, name)
    assert (done.rows, done.more) == (40, True)
    (receipt,) = platform.sql("SELECT approval, rows FROM roomkeeper.receipts")
    assert (receipt.approval, receipt.rows) == (number, 40)
    # What was approved is no measure of what is usual.
    with pytest.raises(ApprovalRequired, match="usually takes 0"):
        retain(platform, name)


def test_a_crowd_that_a_walk_falls_upon_is_stopped_at_the_limit(platform: Platform) -> None:
    """Of the share that a run walks through few may be due, and all beyond it."""
    days(platform, **{MESSAGES: 30})
    platform.set(retention_floor=50, archive_off=MESSAGES)
    room, sender = conversation(platform), person(platform)
    platform.sql(
        "INSERT INTO pern.messages"
        "       (id, conversation_id, sender_id, content_encrypted, created_at, updated_at)"
        " SELECT gen_random_uuid(), :room, :sender, repeat('x', 1000),"
        "        CAST(:now AS timestamptz) - CASE WHEN n <= 140 THEN 1 ELSE 31 END * interval '1 day', now()"
        "   FROM generate_series(1, 3000) AS n",
        room=room,
        sender=sender,
        now=NOW,
    )
    # Twenty pages of seven rows.
    assert retain(platform, MESSAGES, by_hand=False).rows == 0
    with pytest.raises(ApprovalRequired):
        retain(platform, MESSAGES, by_hand=False)
    assert len(rows(platform, Message)) == 3000


def test_a_hold_waits_for_the_batch_at_work_and_keeps_all_after_it(
    platform: Platform, chat: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    reached, go_on = threading.Event(), threading.Event()
    append = receipts.append

    def slow(*given: Any, **named: Any) -> Any:
        reached.set()
        assert go_on.wait(60)
        return append(*given, **named)

    monkeypatch.setattr(receipts, "append", slow)
    (room,) = {row["conversation_id"] for row in rows(platform, Message).values()}
    with ThreadPoolExecutor(2) as pool:
        run = pool.submit(retain, platform, MESSAGES)
        assert reached.wait(60)
        hold = pool.submit(holds.place, "pern", "conversation", room, reason="a case", actor="ada")
        eventually(lambda: platform.sql("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"))
        assert not hold.done()
        go_on.set()
        assert run.result(60).rows == 3
        assert hold.result(60) > 0
    old = message(platform, room, OLD)
    assert retain(platform, MESSAGES).rows == 0
    assert old in rows(platform, Message)
    holds.lift(hold.result(), actor="ada")
    assert retain(platform, MESSAGES).rows == 1


@pytest.mark.parametrize("event", ["a hold is placed", "a row is changed"])
def test_what_changes_while_rows_are_archived_is_judged_anew(
    platform: Platform, chat: dict[str, Any], monkeypatch: pytest.MonkeyPatch, event: str
) -> None:
    """Nothing is locked while the archive is written: what is deleted is what is in it, or it is removed."""
    write, calls = archive.write, list[int]()
    (room,) = {row["conversation_id"] for row in rows(platform, Message).values()}

    def meanwhile(*given: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            if event == "a hold is placed":
                holds.place("pern", "conversation", room, reason="a case", actor="ada")
            else:
                platform.sql("UPDATE pern.messages SET content_encrypted = 'changed'")
        return write(*given, **named)

    monkeypatch.setattr(archive, "write", meanwhile)
    done = retain(platform, MESSAGES)
    kept = event == "a hold is placed"
    assert done.rows == (0 if kept else 3)
    # One is young.
    assert len(rows(platform, Message)) == (4 if kept else 1)
    assert platform.sql("SELECT * FROM roomkeeper.unfinished_archives") == []
    folder = platform.folder / "archive"
    contents = [row.content for row in platform.sql("SELECT content FROM roomkeeper.receipts")]
    named = {one["key"] for content in contents for one in content["archives"]}
    assert {str(file.relative_to(folder)) for file in folder.rglob("*.parquet")} == named
    for row in platform.sql("SELECT number FROM roomkeeper.receipts ORDER BY number DESC"):
        restore(row.number, platform.settings, operator="ada", reason="a mistake")
    texts = {row["content_encrypted"] for row in rows(platform, Message).values()}
    assert kept or texts == {"changed"}
    del chat


def test_an_object_that_another_row_names_stays(platform: Platform, chat: dict[str, Any]) -> None:
    (young,) = [row for row in rows(platform, Attachment).values() if row["message_id"] == chat["young"]]
    shared = attachment(platform, chat["old"][0], file_path=young["file_path"])
    done = retain(platform, MESSAGES)
    assert done.rows == 3
    assert shared not in rows(platform, Attachment)
    assert set(platform.objects()) == {young["file_path"]}
    (receipt,) = platform.sql("SELECT content FROM roomkeeper.receipts")
    assert receipt.content["objects"] == 4
    outcomes = platform.sql("SELECT outcome, objects FROM roomkeeper.deletion_events ORDER BY outcome")
    assert [tuple(row) for row in outcomes] == [("deleted", 3), ("kept", 1)]


def test_a_receipt_that_was_changed_or_is_missing_is_found(platform: Platform) -> None:
    days(platform, **{"pern.audit_info": 30, "pern.audit_error": 30})
    for number in (3, 2, 1):
        logs(platform, number)
        retain(platform, "pern.audit_info")
    with platform.engine.begin() as connection:
        found = receipts.verify(connection)
        last = connection.execute(text("SELECT hash FROM roomkeeper.receipts WHERE number = 3")).scalar_one()
    assert (found.receipts, found.faults, found.last) == (3, [], last)

    def faults(change: str, expected: str | None = None) -> list[str]:
        """Return what is found after a change by a superuser, and undo it."""
        with platform.engine.connect() as connection, connection.begin() as transaction:
            connection.execute(text("ALTER TABLE roomkeeper.receipts DISABLE TRIGGER ALL"))
            connection.execute(text(change))
            found = receipts.verify(connection, expected=expected).faults
            transaction.rollback()
            return found

    result = faults("UPDATE roomkeeper.receipts SET rows = 1 WHERE number = 2")
    assert result == ["Receipt 2 is not what was written."]
    result = faults('UPDATE roomkeeper.receipts SET content = content || \'{"rule": "x"}\' WHERE number = 3')
    assert result == ["Receipt 3 is not what was written."]
    result = faults("DELETE FROM roomkeeper.receipts WHERE number = 2")
    assert result == ["Receipts 2 to 2 are missing."]
    assert faults("DELETE FROM roomkeeper.receipts WHERE number = 3") == []
    result = faults("DELETE FROM roomkeeper.receipts WHERE number = 3", expected=last)
    assert result == [f"No receipt has the hash {last}: some are missing, or were written anew."]
    # Written anew, with a hash that fits.
    result = faults("UPDATE roomkeeper.receipts SET hash = repeat('0', 64) WHERE number = 1")
    assert result == [
        "Receipt 1 is not what was written.",
        "Receipt 2 does not follow the one before: that one was changed.",
    ]


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE roomkeeper.receipts SET rows = 0",
        "DELETE FROM roomkeeper.receipts",
        "TRUNCATE roomkeeper.receipts",
    ],
)
def test_receipts_are_only_added(platform: Platform, change: str) -> None:
    days(platform, **{"pern.audit_info": 30})
    logs(platform, 1)
    retain(platform, "pern.audit_info")
    with pytest.raises(ProgrammingError, match="receipts are only added"):
        platform.sql(change)


def test_two_policies_at_once_write_one_chain(platform: Platform) -> None:
    names = [f"pern.audit_{severity}" for severity in ("info", "warning", "error", "critical")]
    days(platform, **dict.fromkeys(names, 30))
    for name in names:
        logs(platform, 50, severity=name.rpartition("_")[2])
    # Never killed.
    command = [sys.executable, "-m", "tests.retention.dying"]
    step = "tasks.retention.receipts.append:after:99"
    root = Path(__file__).parents[2]
    runs = [
        subprocess.Popen([*command, name, step], env=platform.environment, cwd=root, stderr=subprocess.PIPE)
        for name in names
    ]
    assert {run.communicate()[1] for run in runs} == {b"It was not killed.\n"}
    assert rows(platform, AuditLog) == {}
    with platform.engine.begin() as connection:
        found = receipts.verify(connection)
    assert (found.receipts, found.faults) == (4, [])


def test_a_limit_that_makes_no_sense_is_told(platform: Platform, chat: dict[str, Any]) -> None:
    room = conversation(platform, message_retention_days="soon")
    with structlog.testing.capture_logs() as logs:
        retain(platform, "pern.messages_by_conversation")
    (event,) = [one for one in logs if one["event"] == "retention.ignored"]
    assert (event["table"], event["ids"]) == ("pern.conversations", [str(room)])
