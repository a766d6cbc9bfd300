"""What happens beside a run of retention, or is there that no model knows: nothing goes that should not."""

import threading
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from models.openchat import Attachment as OpenchatAttachment
from models.pern import Attachment, Message, MessageStatus
from tasks.retention import archive, holds, receipts
from tasks.retention import task as retention
from tasks.retention.batch import PACE
from tasks.retention.foreign_keys import UnknownReferenceError
from tasks.retention.restore import RestoreError, restore
from tasks.retention.safety_limit import ApprovalRequired
from tests.platform import Platform
from tests.retention.pern_chats import attachment, conversation, message, person, status
from tests.retention.retaining import days, policy, retain
from tests.sweeps.sweeping import NOW, ago, naive, rows

MESSAGES = "pern.messages"
BY_CONVERSATION = "pern.messages_by_conversation"
OPENCHAT = "openchat.deleted_messages"
_MOVE = text("UPDATE pern.attachments SET message_id = :to WHERE id = :id")
OLD, YOUNG = timedelta(days=31), timedelta(days=1)


@pytest.fixture(autouse=True)
def _periods(platform: Platform) -> None:
    days(platform, **{MESSAGES: 30, OPENCHAT: 30})


def test_what_has_moved_to_a_living_message_stays(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = conversation(platform)
    old, young = message(platform, room, OLD), message(platform, room, YOUNG)
    file = attachment(platform, old)
    copy_out = archive.copy_out
    moved: list[str] = []

    def move_first(*given: Any, **named: Any) -> Any:
        if not moved:
            try:
                with platform.engine.begin() as connection:
                    connection.execute(text("SET LOCAL lock_timeout = '100ms'"))
                    connection.execute(_MOVE, {"to": young, "id": file})
                moved.append("moved")
            except OperationalError:
                # Locked by now, which is as good.
                moved.append("held")
        return copy_out(*given, **named)

    monkeypatch.setattr(archive, "copy_out", move_first)
    retain(platform, MESSAGES)
    # Either it was held and went with its message, or it moved and stays.
    assert moved
    assert (file in rows(platform, Attachment)) is (moved == ["moved"])


def test_a_service_at_work_on_what_goes_along_is_not_waited_for(platform: Platform) -> None:
    """It may come to wait for the batch, which holds its other rows: it would be the victim."""
    room = conversation(platform)
    old = message(platform, room, OLD)
    status_id = status(platform, old)
    with platform.engine.connect() as connection, connection.begin():
        react = text("UPDATE pern.message_statuses SET reaction = '!' WHERE id = :id")
        connection.execute(react, {"id": status_id})
        done = retain(platform, MESSAGES)
        assert (done.rows, done.remaining) == (0, 1)
    assert retain(platform, MESSAGES).rows == 1


def test_a_row_that_a_trigger_keeps_keeps_what_belongs_to_it(platform: Platform) -> None:
    room = conversation(platform)
    kept = message(platform, room, OLD)
    status_id, file = status(platform, kept), attachment(platform, kept)
    platform.sql(
        "CREATE FUNCTION pern.keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$"
    )
    platform.sql(
        "CREATE TRIGGER keep BEFORE DELETE ON pern.messages FOR EACH ROW EXECUTE FUNCTION pern.keep()"
    )
    done = retain(platform, MESSAGES)
    assert done.rows == 0
    assert "do not go" in str(done.error)
    assert kept in rows(platform, Message)
    assert status_id in rows(platform, MessageStatus)
    assert file in rows(platform, Attachment)
    assert len(platform.objects()) == 1


def test_what_refuses_at_the_commit_refuses_before_objects_are_gone(platform: Platform) -> None:
    room = conversation(platform)
    kept = message(platform, room, OLD)
    attachment(platform, kept)
    platform.sql(
        "CREATE FUNCTION pern.refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '23503'; END $$"
    )
    platform.sql(
        "CREATE CONSTRAINT TRIGGER refuse AFTER DELETE ON pern.messages DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION pern.refuse()"
    )
    assert retain(platform, MESSAGES).rows == 0
    assert kept in rows(platform, Message)
    assert len(platform.objects()) == 1


def test_a_table_that_nobody_told_of_takes_nothing_along(platform: Platform) -> None:
    old = message(platform, conversation(platform), OLD)
    notes = "pern.notes (message_id uuid REFERENCES pern.messages ON DELETE {})"
    platform.sql(f"CREATE TABLE {notes.format('CASCADE')}")
    platform.sql("INSERT INTO pern.notes VALUES (:id)", id=old)
    with pytest.raises(
        UnknownReferenceError, match=r"pern\.messages does not know .* pern\.notes\.message_id"
    ):
        retain(platform, MESSAGES)
    assert old in rows(platform, Message)
    platform.sql("DROP TABLE pern.notes")
    # One that refuses by itself does no harm.
    platform.sql(f"CREATE TABLE {notes.format('RESTRICT')}")
    platform.sql("INSERT INTO pern.notes VALUES (:id)", id=old)
    expired = message(platform, conversation(platform), OLD)
    done = retain(platform, MESSAGES)
    assert (done.rows, done.remaining) == (1, 1)
    assert set(rows(platform, Message)) == {old}
    assert expired not in rows(platform, Message)


def test_a_run_that_was_taken_for_dead_takes_nothing(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connection to job history is lost, the one that deletes is not; the next run removes archives."""
    old = message(platform, conversation(platform), OLD)
    others: list[Any] = []
    write = archive.write

    def lost(*given: Any, **named: Any) -> Any:
        written = write(*given, **named)
        if not others:
            others.append(None)
            platform.sql(
                "SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_stat_activity USING (pid)"
                " WHERE locktype = 'advisory' AND mode = 'ExclusiveLock' AND granted"
                "   AND datname = current_database()"
            )
            other = threading.Thread(
                target=lambda: others.append(
                    retention.run(policy(MESSAGES), platform.settings, now=NOW, by_hand=True)
                )
            )
            other.start()
            other.join()
        return written

    monkeypatch.setattr(archive, "write", lost)
    with pytest.raises(Exception, match=r"taken this one for dead|terminat|closed|lost"):
        retain(platform, MESSAGES)
    monkeypatch.undo()
    root = platform.settings.archive_root
    assert root is not None
    there = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    with platform.engine.begin() as connection:
        named = {one["key"] for row in receipts.every(connection) for one in row.content["archives"]}
    assert named <= there
    if old in rows(platform, Message):
        assert retain(platform, MESSAGES).rows == 1


def test_rows_that_were_put_back_are_no_other_policys_either(platform: Platform) -> None:
    old = message(platform, conversation(platform), OLD)
    retain(platform, MESSAGES)
    restore(1, platform.settings, operator="ada", reason="a mistake")
    platform.sql("UPDATE pern.conversations SET settings = '{\"message_retention_days\": 7}'")
    with pytest.raises(ApprovalRequired, match="put back"):
        retain(platform, BY_CONVERSATION)
    assert old in rows(platform, Message)


def test_a_receipt_that_was_changed_restores_nothing(platform: Platform) -> None:
    message(platform, conversation(platform), OLD)
    retain(platform, MESSAGES)
    platform.sql("ALTER TABLE roomkeeper.receipts DISABLE TRIGGER ALL")
    platform.sql("UPDATE roomkeeper.receipts SET rows = 2")
    with pytest.raises(RestoreError, match="is not what was written"):
        restore(1, platform.settings, operator="ada", reason="a mistake")
    assert rows(platform, Message) == {}


def test_what_is_large_goes_in_small_parts(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MOST_BYTES", 100_000)
    room, sender = conversation(platform), person(platform)
    for _ in range(12):
        message(platform, room, OLD, sender_id=sender, content_encrypted="x" * 30_000)
    # One that cannot be parted.
    message(platform, room, OLD, sender_id=sender, content_encrypted="x" * 300_000)
    done = retain(platform, MESSAGES)
    assert (done.rows, done.remaining) == (13, 0)
    parts = platform.sql("SELECT rows FROM roomkeeper.receipts")
    assert max(part.rows for part in parts) <= 3


def test_a_row_that_is_on_hold_is_not_changed_either(platform: Platform) -> None:
    room, bob = conversation(platform), person(platform)
    old = message(platform, room, OLD)
    reply = message(platform, room, OLD, sender_id=bob, reply_to_id=old)
    holds.place("pern", "user", bob, reason="a case", actor="ada")
    before = rows(platform, Message)
    assert retain(platform, MESSAGES).rows == 0
    assert rows(platform, Message) == before
    assert before[reply]["reply_to_id"] == old


def test_a_reply_that_comes_in_while_its_message_goes_does_not_dangle(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No foreign key guards it in `openchat`."""
    going = platform.row(OpenchatAttachment, platform.openchat_attachment(b"x")).message_id
    platform.sql(
        "UPDATE openchat.message SET is_deleted = true, deleted_at = :at WHERE id = :id",
        at=naive(ago(days=31)),
        id=going,
    )
    write = archive.write
    answers: list[UUID] = []

    def answered(*given: Any, **named: Any) -> Any:
        if not answers:
            answers.append(uuid4())
            platform.sql(
                "INSERT INTO openchat.message (id, conversation_id, sender_id, content, parent_message_id)"
                " SELECT :id, conversation_id, sender_id, 'yes', id FROM openchat.message WHERE id = :of",
                id=answers[0],
                of=going,
            )
        return write(*given, **named)

    monkeypatch.setattr(archive, "write", answered)
    # What was archived is not what would be deleted: the next run takes it.
    first = retain(platform, OPENCHAT)
    assert (first.rows, first.remaining) == (0, 1)
    assert retain(platform, OPENCHAT).rows == 1
    (left,) = platform.sql("SELECT id, parent_message_id FROM openchat.message")
    assert (left.id, left.parent_message_id) == (answers[0], None)


def test_a_picture_that_the_application_stored_goes_with_its_file(platform: Platform) -> None:
    old = message(platform, conversation(platform), OLD)
    attachment(platform, old, thumbnail_path=platform.put(b"small"))
    assert len(platform.objects()) == 2
    retain(platform, MESSAGES)
    assert platform.objects() == {}


@pytest.mark.parametrize("spelling", ["uploads//{}", "uploads/{}/", "/uploads/{}"])
@pytest.mark.parametrize("odd_goes", [True, False], ids=["the odd one goes", "the odd one stays"])
def test_an_object_that_two_spellings_name_stays(platform: Platform, spelling: str, odd_goes: bool) -> None:
    """A store on disk takes them for the same."""
    name = str(uuid4())
    plain = platform.put(b"theirs", f"uploads/{name}")
    keys = [spelling.format(name), plain] if odd_goes else [plain, spelling.format(name)]
    room = conversation(platform)
    attachment(platform, message(platform, room, OLD), file_path=keys[0])
    attachment(platform, message(platform, room, YOUNG), file_path=keys[1])
    assert retain(platform, MESSAGES).rows == 1
    assert platform.objects() == {plain: b"theirs"}


def test_what_went_in_two_batches_comes_back_whole_from_the_latest_on(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.retention.task.PACE", replace(PACE, keys=1, most_keys=1))
    room = conversation(platform)
    first = message(platform, room, OLD)
    message(platform, room, OLD, reply_to_id=first)
    message(platform, room, OLD, reply_to_id=first)
    before = rows(platform, Message)
    retain(platform, MESSAGES)
    assert rows(platform, Message) == {}
    numbers = [row.number for row in platform.sql("SELECT number FROM roomkeeper.receipts ORDER BY 1")]
    assert len(numbers) == 3
    for number in reversed(numbers):
        restore(number, platform.settings, operator="ada", reason="a mistake")
    if rows(platform, Message) != before:
        # The message that was answered went after an answer: it could not be put into that yet.
        restored = [restore(number, platform.settings, operator="ada", reason="again") for number in numbers]
        assert sum(one.changed for one in restored) > 0
    assert rows(platform, Message) == before
