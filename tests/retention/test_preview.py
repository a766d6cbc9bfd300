"""What `tasks.retention.preview` counts, against what a run then takes; and that it changes nothing."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.exc import InternalError

from models import openchat
from models.pern import AuditLog
from stack.demo.rows import SOON
from stack.demo.settings import IMPATIENT
from stack.demo.stale_rows import Ephemera
from tasks.apps import POLICIES
from tasks.policies.retention import Cascade, Restrict, Retention, SetValues
from tasks.policies.sweep import Delete
from tasks.retention import holds
from tasks.retention import preview as module
from tasks.retention import task as retention
from tasks.retention.preview import Preview, preview, reading
from tests.platform import Platform
from tests.retention.pern_chats import attachment, conversation, message, person, status
from tests.retention.retaining import days, policy, retain
from tests.sweeps.sweeping import INSTANT, NOW, add, ago, close_rollups, naive
from workers.db import clock

DAY = timedelta(days=1)


def previewed(platform: Platform, name: str, now: datetime = NOW) -> Preview:
    return preview(policy(name), platform.settings, now=now)


def entry(platform: Platform, age: timedelta, severity: str = "info", **values: object) -> UUID:
    return add(
        platform,
        AuditLog,
        **{
            "action": "login",
            "resource_type": "user",
            "ip_address": "192.0.2.1",
            "user_agent": "x",
            **values,
        },
        severity=severity,
        created_at=NOW - age,
    )


@pytest.fixture(params=["at once", "by pages"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Either way of counting."""
    if request.param == "by pages":
        monkeypatch.setattr(module, "AT_ONCE", -1)
        monkeypatch.setattr(module, "PAGES", 1)
    yield request.param


def test_it_counts_what_a_run_takes(platform: Platform, way: str) -> None:
    days(platform, **{"pern.messages": 30})
    room = conversation(platform)
    old = [message(platform, room, timedelta(days=30 + n) + INSTANT) for n in range(7)]
    message(platform, room, timedelta(days=30), reply_to_id=old[0])
    # It is deleted itself, so no change is visible in the end.
    message(platform, room, timedelta(days=99), reply_to_id=old[1])
    status(platform, old[0])
    status(platform, old[0])
    attachment(platform, old[1], file_size=700)
    found = previewed(platform, "pern.messages")
    assert (found.rows, found.held, found.files, found.file_bytes) == (8, 0, 1, 700)
    assert found.oldest == NOW - timedelta(days=99)
    assert found.newest == NOW - timedelta(days=30) - INSTANT
    assert found.samples[1:] == [str(key) for key in old[:2:-1]]
    by_table = {(one.table.name, type(one.one)): one.rows for one in found.referring}
    assert by_table == {
        ("message_statuses", Cascade): 2,
        ("attachments", Cascade): 1,
        ("messages", SetValues): 1,
    }
    done = retain(platform, "pern.messages")
    assert done.rows == found.rows
    ((content,),) = platform.sql("SELECT content FROM roomkeeper.receipts")
    assert content["tables"] == {"pern.messages": 8, "pern.message_statuses": 2, "pern.attachments": 1}


def test_nothing_is_changed(platform: Platform, way: str) -> None:
    days(platform, **{"pern.messages": 30})
    message(platform, conversation(platform), timedelta(days=31))
    files, before = sorted(platform.folder.rglob("*")), platform.everything()
    previewed(platform, "pern.messages")
    assert platform.everything() == before
    # The place of archives is not even made.
    assert sorted(platform.folder.rglob("*")) == files


def test_it_can_change_nothing(platform: Platform) -> None:
    with reading() as connection, pytest.raises(InternalError, match="read-only transaction"):
        connection.execute(text("DELETE FROM pern.messages"))


def test_it_sees_one_moment(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AT_ONCE", -1)
    monkeypatch.setattr(module, "PAGES", 1)
    days(platform, **{"pern.audit_info": 30})
    for _ in range(500):
        entry(platform, 31 * DAY)
    looked = []

    def watch(page: int, pages: int) -> None:
        looked.append((page, pages))
        if page == 1:
            platform.sql("DELETE FROM pern.audit_logs")

    found = preview(policy("pern.audit_info"), platform.settings, now=NOW, watch=watch)
    assert found.rows == 500
    pages = looked[0][1]
    assert looked == [(page, pages) for page in range(pages + 1)] and pages > 3


def test_holds_are_counted_apart(platform: Platform, way: str) -> None:
    days(platform, **{"pern.messages": 30})
    room = conversation(platform)
    writer, reader = person(platform), person(platform)
    message(platform, room, 31 * DAY)
    message(platform, room, 31 * DAY, sender_id=writer)
    status(platform, message(platform, room, 31 * DAY), user_id=reader)
    # Too young anyway.
    message(platform, room, 30 * DAY, sender_id=writer)
    holds.place("pern", "user", writer, reason="a suit", actor="ada")
    holds.place("pern", "user", reader, reason="a suit", actor="ada")
    found = previewed(platform, "pern.messages")
    assert (found.rows, found.held) == (1, 2)
    assert [one.rows for one in found.referring if isinstance(one.one, Cascade)] == [0, 0]
    holds.place("pern", "conversation", room, reason="a suit", actor="ada")
    assert (previewed(platform, "pern.messages").rows, previewed(platform, "pern.messages").held) == (0, 3)


def test_each_row_is_judged_by_its_own_limit(platform: Platform, way: str) -> None:
    days(platform)
    strict, lax = (conversation(platform, message_retention_days=limit) for limit in (2, 90))
    for room in (strict, lax, conversation(platform)):
        message(platform, room, 31 * DAY)
    found = previewed(platform, "pern.messages_by_conversation")
    assert (found.rows, found.period, found.cutoff) == (1, None, None)


def test_the_space_is_what_the_rows_take(platform: Platform, way: str) -> None:
    days(platform, **{"pern.audit_info": 30})
    platform.sql(
        "INSERT INTO pern.audit_logs"
        " (id, action, resource_type, severity, ip_address, user_agent, created_at)"
        " SELECT gen_random_uuid(), 'login', 'user', 'info', '192.0.2.1', repeat('x', 100), '2020-01-01Z'"
        " FROM generate_series(1, 2000)"
    )
    ((pages,),) = platform.sql("SELECT pg_relation_size('pern.audit_logs')")
    size = previewed(platform, "pern.audit_info").size
    # Rows begin at multiples of eight bytes, and a page is never quite full.
    assert 0.85 * pages < size <= pages


def test_what_is_stored_apart_counts_as_it_is_stored(platform: Platform, way: str) -> None:
    days(platform, **{"pern.audit_info": 30})
    entry(platform, 31 * DAY, user_agent="x" * 1_000_000)
    found = previewed(platform, "pern.audit_info")
    # Compressed.
    assert 10_000 < found.size < 20_000


def test_what_others_keep_alive_is_counted(platform: Platform, way: str) -> None:
    days(platform, **{"openchat.deleted_conversations": 30})
    made = {"is_deleted": True, "updated_at": naive(ago(days=31)), "participant_count": 2}
    users = [
        add(platform, openchat.User, name="Bea", email=f"{n}@x.org", email_verified=True) for n in range(2)
    ]
    empty, full, held = (add(platform, openchat.Conversation, created_by=users[0], **made) for _ in range(3))
    for talk in (empty, full, held):
        for user in users:
            add(platform, openchat.ConversationParticipant, conversation_id=talk, user_id=user)
    for _ in range(2):
        add(platform, openchat.Message, conversation_id=full, sender_id=users[0], content="Hello")
    holds.place("openchat", "conversation", held, reason="a suit", actor="ada")
    holds.place("openchat", "conversation", full, reason="a suit", actor="ada")
    found = previewed(platform, "openchat.deleted_conversations")
    assert (found.rows, found.samples) == (1, [str(empty)])
    # Each once: what others keep alive is not told of as on hold too.
    assert found.held == 1
    counted = {type(one.one): (one.table.name, one.rows) for one in found.referring}
    assert counted == {Restrict: ("message", 1), Cascade: ("conversation_participant", 2)}
    assert found.oldest == found.newest == ago(days=31)


@pytest.mark.parametrize("when", ["-infinity", "0044-03-15 BC"])
def test_an_age_beyond_all_ages(platform: Platform, way: str, when: str) -> None:
    days(platform, **{"pern.audit_info": 30})
    key = entry(platform, 31 * DAY)
    platform.sql(f"UPDATE pern.audit_logs SET created_at = '{when}'")
    found = previewed(platform, "pern.audit_info")
    assert (found.rows, found.samples) == (1, [str(key)])
    assert found.oldest is not None and found.oldest.year == 1


def test_nothing_is_due(platform: Platform, way: str) -> None:
    days(platform, **{"pern.messages": 30})
    found = previewed(platform, "pern.messages")
    assert (found.rows, found.size, found.oldest, found.newest, found.samples) == (0, 0, None, None, [])


# -- whether a run would stop ----------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "stops"), [(3, False), (4, True)])
def test_it_says_whether_a_run_would_stop(platform: Platform, number: int, stops: bool) -> None:
    days(platform, **{"pern.audit_info": 30})
    platform.set(retention_floor=3)
    for _ in range(number):
        entry(platform, 31 * DAY)
    found = previewed(platform, "pern.audit_info")
    assert found.allowed is not None
    assert (found.allowed.rows, found.allowed.usual, found.too_many) == (3, 0, stops)


def test_what_was_put_back_stops_it(platform: Platform) -> None:
    from tasks.retention.restore import restore

    days(platform, **{"pern.audit_info": 30})
    entry(platform, 31 * DAY)
    retain(platform, "pern.audit_info")
    restore(1, platform.settings, operator="ada", reason="a mistake")
    found = previewed(platform, "pern.audit_info")
    assert (found.rows, found.allowed, found.too_many) == (1, None, False)
    assert "were put back (receipt 2)" in (found.stopped or "")


# -- all policies ----------------------------------------------------------------------------------------


def test_of_every_policy_it_counts_what_a_run_takes(platform: Platform, way: str) -> None:
    """Of rows as the local stack feeds them: by the receipts, nothing else went, or changed."""
    platform.set(
        retention_days=IMPATIENT["ROOMKEEPER_RETENTION_DAYS"], archive_root=platform.folder / "archive"
    )
    ephemera = Ephemera(platform.engine, platform.settings)
    ephemera.feed()
    close_rollups(platform)
    retained = [case.policy for case in ephemera.waiting if isinstance(case.policy, Retention)]
    assert [one.name for one in retained] == [
        name for name, one in POLICIES.items() if isinstance(one, Retention)
    ]
    for one in retained:
        moment = clock() + SOON
        found = preview(one, platform.settings, now=moment)
        assert found.rows >= 1, one.name
        done = retention.run(one, platform.settings, now=moment, by_hand=True)
        assert done is not None
        assert done.rows == found.rows, one.name
        (receipt,) = platform.sql("SELECT * FROM roomkeeper.receipts ORDER BY number DESC LIMIT 1")
        deletes = isinstance(one.action, Delete)
        deleted = {one.table.fullname: found.rows} if deletes else {}
        for referring in found.referring:
            if isinstance(referring.one, Cascade) and referring.rows:
                name = referring.table.fullname
                deleted[name] = deleted.get(name, 0) + referring.rows
        assert receipt.content["tables"] == deleted, one.name
        assert receipt.content["objects"] == found.files
        changed = sum(each.rows for each in found.referring if isinstance(each.one, SetValues))
        assert sum(one["rows"] for one in receipt.content["archives"] if one["changed"]) == changed
        assert preview(one, platform.settings, now=moment).rows == 0
