"""Retention of `pern`: messages with their statuses, files and objects; audit logs by severity."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import insert, select

from models.pern import Attachment, AuditLog, Conversation, Message, MessageStatus
from models.platform import AttachmentJob
from tasks.apps import enabled, policies
from tasks.apps.pern import MALFORMED_LIMIT
from tasks.attachments.objects import picture_key
from tasks.policies.columns import table_of
from tasks.policies.sweep import Delete
from tasks.retention import task as retention
from tasks.retention.batch import RetentionBatches
from tasks.retention.restore import restore
from tasks.retention.safety_limit import ApprovalRequired
from tasks.sweeps.batch import Seen, Taken
from tasks.sweeps.engine import Pace
from tests.platform import Platform
from tests.retention.pern_chats import attachment, conversation, message, person, status
from tests.retention.proving import proven
from tests.retention.retaining import days, everything, policy, retain
from tests.sweeps.sweeping import INSTANT, NOW, add, ago, rows
from workers.settings import SettingsError, load


def test_messages_go_with_statuses_files_and_objects_and_replies_stay(platform: Platform) -> None:
    days(platform, **{"pern.messages": 30})
    room = conversation(platform)
    old = message(platform, room, timedelta(days=30) + INSTANT)
    young = message(platform, room, timedelta(days=30), reply_to_id=old)
    read, file = status(platform, old), attachment(platform, old)
    kept_file = attachment(platform, young)
    reply = rows(platform, Message)[young]
    done = retain(platform, "pern.messages")
    assert (done.rows, done.remaining, done.error) == (1, 0, None)
    assert rows(platform, Message) == {young: {**reply, "reply_to_id": None}}
    assert rows(platform, MessageStatus) == {}
    assert set(rows(platform, Attachment)) == {kept_file}
    assert list(platform.objects()) == [rows(platform, Attachment)[kept_file]["file_path"]]
    assert read and file
    assert retain(platform, "pern.messages").rows == 0


def test_what_was_taken_comes_back(platform: Platform) -> None:
    days(platform, **{"pern.messages": 30})
    room = conversation(platform)
    old = message(platform, room, timedelta(days=31), metadata={"a": [1, None]})
    message(platform, room, timedelta(days=1), reply_to_id=old)
    status(platform, old)
    attachment(platform, old)
    before = everything(platform)
    retain(platform, "pern.messages")
    done = restore(1, platform.settings, operator="ada", reason="a mistake")
    assert everything(platform) == before
    assert done.rows == {"pern.messages": 1, "pern.attachments": 1, "pern.message_statuses": 1}
    assert (done.changed, done.other, done.there, done.objects, done.receipt) == (1, 0, 0, 1, 2)
    again = restore(1, platform.settings, operator="ada", reason="a mistake")
    assert everything(platform) == before
    assert (again.there, again.receipt, again.changed) == (3, None, 0)
    with pytest.raises(ApprovalRequired, match="were put back"):
        retain(platform, "pern.messages")


GLOBAL, OWN = "pern.messages", "pern.messages_by_conversation"
MONTH = timedelta(days=30)
OLD = MONTH + INSTANT
#: What a conversation may say, and whether it is thirty days. As JSON is written, numbers above all.
LIMITS = {
    '{"message_retention_days": 30}': True,
    '{"message_retention_days": 30.0}': True,
    '{"message_retention_days": 3e1}': True,
    '{"message_retention_days": "30"}': False,
    '{"message_retention_days": 0}': False,
    '{"message_retention_days": -1}': False,
    '{"message_retention_days": 1.5}': False,
    '{"message_retention_days": 29.999999999999999999999}': False,
    '{"message_retention_days": 1e9}': False,
    '{"message_retention_days": 1e400}': False,
    '{"message_retention_days": 36601}': False,
    '{"message_retention_days": {}}': False,
    '{"message_retention_days": {"days": 30}}': False,
    '{"message_retention_days": [30]}': False,
    '{"message_retention_days": true}': False,
    '{"message_retention_days": ""}': False,
    # None, and none is wrong.
    '{"message_retention_days": null}': None,
    '{"Message_retention_days": 30}': None,
    "{}": None,
    "[]": None,
    '[{"message_retention_days": 30}]': None,
    '["message_retention_days"]': None,
    '"message_retention_days"': None,
    "30": None,
    "null": None,
}


def limited(platform: Platform, written: str) -> UUID:
    """Return a conversation with these settings."""
    room = conversation(platform)
    platform.sql(
        "UPDATE pern.conversations SET settings = CAST(:written AS jsonb) WHERE id = :room",
        written=written,
        room=room,
    )
    return room


def malformed(platform: Platform) -> set[UUID]:
    with platform.engine.begin() as connection:
        return set(connection.execute(select(Conversation.id).where(MALFORMED_LIMIT)).scalars())


both = pytest.mark.parametrize("by_hand", [True, False], ids=["by hand", "as beat does"])


@both
def test_a_conversation_s_own_limit_holds_if_it_is_a_whole_number_of_days(
    platform: Platform, by_hand: bool
) -> None:
    days(platform)
    rooms = {limited(platform, written): whole for written, whole in LIMITS.items()}
    expired = set()
    for room, whole in rooms.items():
        old = message(platform, room, OLD)
        message(platform, room, MONTH)
        message(platform, room, timedelta(days=4000) if whole is not True else MONTH)
        expired |= {old} if whole else set()
    assert len(expired) == 3
    proven(platform, OWN, deleted={Message: expired}, by_hand=by_hand)
    assert malformed(platform) == {room for room, whole in rooms.items() if whole is False}


@pytest.mark.parametrize(("limit", "right"), [(1, True), (36_600, True), (36_601, False)])
def test_the_shortest_and_the_longest_limit(platform: Platform, limit: int, right: bool) -> None:
    days(platform)
    room = limited(platform, f'{{"message_retention_days": {limit}}}')
    old = message(platform, room, timedelta(days=limit) + INSTANT)
    message(platform, room, timedelta(days=limit))
    proven(platform, OWN, deleted={Message: {old} if right else set()})
    assert malformed(platform) == (set() if right else {room})


@both
def test_where_a_conversation_has_no_limit_of_its_own_the_general_one_holds(
    platform: Platform, by_hand: bool
) -> None:
    days(platform, **{GLOBAL: 30})
    expired = set()
    for written, whole in LIMITS.items():
        room = limited(platform, written)
        old = message(platform, room, OLD)
        message(platform, room, MONTH)
        expired |= set() if whole else {old}
    assert len(expired) == len(LIMITS) - 3
    proven(platform, GLOBAL, deleted={Message: expired}, by_hand=by_hand)


@pytest.mark.parametrize(
    ("own", "age", "stays"), [(7, 8, False), (7, 7, True), (90, 89, True), (90, 91, False)]
)
def test_the_own_limit_stands_above_the_general_one(
    platform: Platform, own: int, age: int, stays: bool
) -> None:
    """A shorter one and a longer one: the general one is 30 days."""
    days(platform, **{GLOBAL: 30})
    room = limited(platform, f'{{"message_retention_days": {own}}}')
    one = message(platform, room, timedelta(days=age))
    proven(platform, GLOBAL, deleted={Message: []})
    proven(platform, OWN, deleted={Message: [] if stays else [one]})


def test_a_limit_that_is_made_longer_between_look_and_lock_holds(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    days(platform)
    room = limited(platform, '{"message_retention_days": 30}')
    one = message(platform, room, OLD)
    take = RetentionBatches.take

    def late(self: RetentionBatches, seen: Seen) -> Taken:
        platform.sql("""UPDATE pern.conversations SET settings = '{"message_retention_days": 31}'""")
        return take(self, seen)

    monkeypatch.setattr(RetentionBatches, "take", late)
    assert retain(platform, OWN).rows == 0
    assert set(rows(platform, Message)) == {one}


def test_every_status_goes_with_its_message_reactions_too(platform: Platform) -> None:
    days(platform, **{GLOBAL: 30})
    room = conversation(platform)
    old, young = message(platform, room, OLD), message(platform, room, MONTH)
    expired = {status(platform, old), status(platform, old, reaction="👍", delivered_at=ago(days=1))}
    expired.add(react(platform, old))
    react(platform, young)
    status(platform, young, reaction="👍")
    proven(platform, GLOBAL, deleted={Message: [old], MessageStatus: expired})


def react(platform: Platform, of: UUID) -> UUID:
    who = person(platform)
    stamps = {"created_at": NOW, "updated_at": NOW}
    return add(platform, MessageStatus, message_id=of, user_id=who, status="reacted", reaction="❤️", **stamps)


@pytest.mark.parametrize("at_once", [1, 2, 100])
def test_a_thread_comes_back_as_it_was_however_it_was_taken(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    """Replies to replies: each in a batch of its own, or together with what it refers to."""
    days(platform, **{GLOBAL: 30})
    monkeypatch.setattr(retention, "PACE", Pace(keys=at_once, most_keys=at_once))
    room = conversation(platform)
    old = [message(platform, room, OLD)]
    for _ in range(4):
        old.append(message(platform, room, OLD, reply_to_id=old[-1]))
    platform.sql("UPDATE pern.messages SET reply_to_id = :last WHERE id = :first", last=old[-1], first=old[0])
    young = message(platform, room, MONTH, reply_to_id=old[2])
    message(platform, room, MONTH, reply_to_id=young)
    proven(platform, GLOBAL, deleted={Message: old}, changed={Message: {young: {"reply_to_id": None}}})


def test_a_file_stays_while_another_row_names_it(platform: Platform) -> None:
    """Of two messages, and of another application's store of the same name."""
    days(platform, **{GLOBAL: 30})
    room = conversation(platform)
    old, older, young = (message(platform, room, age) for age in (OLD, OLD, MONTH))
    file = attachment(platform, old)
    shared = rows(platform, Attachment)[file]["file_path"]
    same = {file, attachment(platform, older, file_path=shared)}
    left = attachment(platform, young, file_path=shared)
    other = attachment(platform, old, file_path="uploads/theirs")
    platform.openchat_attachment(b"theirs", storage_key="uploads/theirs", storage_provider="local")
    elsewhere = attachment(platform, old, file_path="uploads/elsewhere")
    platform.openchat_attachment(b"x", storage_key="uploads/here", storage_provider="local")
    platform.put(b"ours", "uploads/elsewhere")
    platform.sql(
        "UPDATE openchat.attachment SET storage_key = 'uploads/elsewhere', storage_provider = 's3'"
        " WHERE storage_key = 'uploads/here'"
    )
    proven(
        platform,
        GLOBAL,
        deleted={Message: [old, older], Attachment: {*same, other, elsewhere}},
        restored=False,
    )
    found = platform.objects()
    assert {shared, "uploads/theirs"} <= set(found)
    # Of the same name, in another store.
    assert "uploads/elsewhere" not in found
    # Noted, and those that other rows name are kept.
    assert taken_objects(platform) == [3]
    platform.sql("UPDATE pern.messages SET created_at = created_at - interval '1 day'")
    proven(platform, GLOBAL, deleted={Message: [young], Attachment: [left]}, restored=False)
    assert shared not in platform.objects()


def taken_objects(platform: Platform) -> list[int]:
    """Return how many objects each receipt says are to be deleted."""
    found = platform.sql("SELECT content FROM roomkeeper.receipts WHERE kind = 'taken' ORDER BY number")
    return [row.content["objects"] for row in found]


def test_a_file_of_several_messages_that_all_go_goes_once(platform: Platform) -> None:
    days(platform, **{GLOBAL: 30})
    room = conversation(platform)
    one, other = message(platform, room, OLD), message(platform, room, OLD)
    file = attachment(platform, one)
    shared = rows(platform, Attachment)[file]["file_path"]
    again = attachment(platform, other, file_path=shared)
    proven(platform, GLOBAL, deleted={Message: [one, other], Attachment: [file, again]}, restored=False)
    assert shared not in platform.objects()
    assert taken_objects(platform) == [1]


def job(platform: Platform, of: UUID, **values: Any) -> None:
    platform_job = {"app": "pern", "attachment_id": of, "state": "failed", **values}
    with platform.engine.begin() as connection:
        connection.execute(insert(table_of(AttachmentJob)).values(platform_job))


def test_a_file_that_somebody_works_on_keeps_its_message(platform: Platform) -> None:
    days(platform, **{GLOBAL: 30})
    room = conversation(platform)
    busy, left, free = (message(platform, room, OLD) for _ in range(3))
    files = {of: attachment(platform, of) for of in (busy, left, free)}
    second = attachment(platform, busy)
    later, earlier = "clock_timestamp() + interval '1 hour'", "clock_timestamp() - interval '1 second'"
    for of in (busy, left):
        job(platform, files[of], state="running", lease_until=NOW)
    job(platform, second, state="finished", outcome="accepted")
    job(platform, files[free], state="waiting")
    until = "UPDATE roomkeeper.attachment_jobs SET lease_until = {} WHERE attachment_id = :file"
    platform.sql(until.format(later), file=files[busy])
    platform.sql(until.format(earlier), file=files[left])
    done = retain(platform, GLOBAL)
    assert (done.rows, done.remaining, done.error) == (2, 1, None)
    assert set(rows(platform, Message)) == {busy}
    assert set(rows(platform, Attachment)) == {files[busy], second}
    assert len(platform.objects()) == 2
    # What was known of the others has gone with them.
    left_jobs = platform.sql("SELECT attachment_id FROM roomkeeper.attachment_jobs")
    assert {row.attachment_id for row in left_jobs} == {files[busy], second}
    platform.sql(until.format(earlier), file=files[busy])
    assert retain(platform, GLOBAL).rows == 1
    assert platform.objects() == {}


def test_pictures_and_what_is_in_quarantine_go_too(platform: Platform) -> None:
    days(platform, **{GLOBAL: 30})
    room = conversation(platform)
    old, young = message(platform, room, OLD), message(platform, room, MONTH)
    bad, good, kept = attachment(platform, old), attachment(platform, old), attachment(platform, young)
    quarantine = platform.settings.quarantine_root
    quarantine.mkdir(exist_ok=True)
    for file in (bad, kept):
        paths = rows(platform, Attachment)[file]
        (platform.store / paths["file_path"]).rename(quarantine / file.hex)
        job(platform, file, state="finished", outcome="quarantined", quarantine_key=file.hex)
    job(platform, good, state="finished", outcome="accepted")
    for file in (good, kept):
        for name in ("small", "large"):
            platform.put(b"picture", picture_key("pern", file, name))
    # Another object has come to where the bad one was: no row names the bad one any more.
    platform.put(b"another", rows(platform, Attachment)[bad]["file_path"])
    assert retain(platform, GLOBAL).rows == 1
    assert set(platform.quarantined()) == {kept.hex}
    assert set(platform.objects()) == {picture_key("pern", kept, name) for name in ("small", "large")}
    assert taken_objects(platform) == [2]


def test_what_an_operator_said_of_a_file_is_not_forgotten(platform: Platform) -> None:
    days(platform, **{GLOBAL: 30})
    file = attachment(platform, message(platform, conversation(platform), OLD))
    words = {"override": "release", "override_sha256": "a" * 64, "override_reason": "malware"}
    job(platform, file, state="finished", outcome="accepted", **words)
    assert retain(platform, GLOBAL).rows == 1
    found = platform.job(file)
    assert found is not None
    assert (found.state, found.outcome, found.reason) == ("failed", None, "row_deleted")
    assert {name: getattr(found, name) for name in words} == words


SEVERITIES = ("info", "warning", "error", "critical", "security")


def log(platform: Platform, severity: str, age: timedelta, **values: Any) -> UUID:
    given = {"action": "login", "resource_type": "user", "ip_address": "10.0.0.1/8", "user_agent": "x"}
    return add(platform, AuditLog, severity=severity, created_at=NOW - age, **{**given, **values})


def test_audit_logs_of_a_severity_without_a_period_stay(platform: Platform) -> None:
    days(platform, **{"pern.audit_info": 10})
    running = {name for name in policies(platform.settings) if name.startswith("pern.audit_")}
    assert running == {"pern.audit_info"}
    old = [log(platform, severity, timedelta(days=4000)) for severity in SEVERITIES]
    proven(platform, "pern.audit_info", deleted={AuditLog: old[:1]})


def test_an_audit_log_is_never_edited_and_never_goes_without_an_archive() -> None:
    for severity in SEVERITIES:
        one = policy(f"pern.audit_{severity}")
        assert one.must_archive
        assert isinstance(one.action, Delete)
    with pytest.raises(SettingsError, match="may do without an archive"):
        enabled(load({"DATABASE_URL": "postgresql://", "ROOMKEEPER_ARCHIVE_OFF": "pern.audit_info"}))
