"""The audit: wrong counters are set to what the rows say, whatever the cause; right ones are left alone."""

from random import Random
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select, text, update

from models import openchat
from tasks.apps import APPS

# Modules, not tasks: pytest looks at what it finds here before there are settings.
from tasks.delivery import audit as audits
from tasks.delivery.events import Event
from tasks.delivery.merge import merge
from tasks.policies.columns import table_of
from tasks.policies.status import ReadPointers
from tests.delivery.world import OpenchatWorld, moment, naive
from tests.platform import Platform, environment

TABLE = APPS["openchat"].delivery
assert isinstance(TABLE, ReadPointers)


@pytest.fixture
def rooms(platform: Platform) -> list[UUID]:
    """Three conversations of up to six people, whose messages were read at random."""
    chance = Random(7)
    world = OpenchatWorld(chance)
    made, events = [], []
    for size in (2, 4, 6):
        room = world.conversation()
        made.append(room)
        people = [
            world.participant(room, status="left" if number == 3 else "active") for number in range(size)
        ]
        messages = [
            world.message(room, chance.choice(people), number // 2, is_deleted=number % 5 == 4)
            for number in range(20)
        ]
        events += [
            Event(
                message_id=chance.choice(messages),
                user_id=chance.choice(people),
                status=chance.choice(["read", "delivered"]),
                at=moment(100 + number),
            )
            for number in range(15)
        ]
    with platform.engine.begin() as connection:
        world.save(connection)
        assert isinstance(TABLE, ReadPointers)
        assert merge(connection, TABLE, events) == set()
    return made


def expected(platform: Platform) -> dict[str, dict[UUID, Any]]:
    """Count it all, one by one."""
    with platform.engine.begin() as connection:
        messages = connection.execute(select(*table_of(openchat.Message).c)).all()
        members = connection.execute(select(*table_of(openchat.ConversationParticipant).c)).all()
        rooms = connection.execute(select(openchat.Conversation.id)).scalars().all()
    place = {message.id: (message.created_at, message.id) for message in messages}

    def at(member: Any) -> Any:
        return place.get(member.last_read_message_id, (naive(-1), UUID(int=0)))

    found: dict[str, dict[UUID, Any]] = {"read": {}, "unread": {}, "room": {}}
    for message in messages:
        found["read"][message.id] = sum(
            member.user_id != message.sender_id and at(member) >= place[message.id]
            for member in members
            if member.conversation_id == message.conversation_id
        )
    for member in members:
        found["unread"][member.id] = sum(
            message.sender_id != member.user_id and not message.is_deleted and place[message.id] > at(member)
            for message in messages
            if message.conversation_id == member.conversation_id
        )
    for room in rooms:
        there = [one for one in messages if one.conversation_id == room and not one.is_deleted]
        found["room"][room] = (
            len(there),
            sum(member.conversation_id == room and member.status == "active" for member in members),
            max((one.created_at for one in there), default=None),
        )
    return found


def held(platform: Platform) -> dict[str, dict[UUID, Any]]:
    message, member, room = openchat.Message, openchat.ConversationParticipant, openchat.Conversation
    counters = (room.message_count, room.participant_count, room.last_message_at)
    with platform.engine.begin() as connection:
        return {
            "read": dict(connection.execute(select(message.id, message.read_by_count)).all()),
            "unread": dict(connection.execute(select(member.id, member.unread_count)).all()),
            "room": {row[0]: tuple(row[1:]) for row in connection.execute(select(room.id, *counters))},
        }


def runs(platform: Platform) -> list[Any]:
    return list(platform.sql("SELECT * FROM roomkeeper.job_runs WHERE job = 'delivery.audit' ORDER BY id"))


@pytest.mark.usefixtures("rooms")
def test_what_was_merged_is_right_already(platform: Platform) -> None:
    """So differences that an audit finds come from another writer."""
    right = expected(platform)
    assert held(platform)["read"] == right["read"]
    audits.audit()
    assert held(platform) == right
    before = platform.everything()
    audits.audit()
    after = platform.everything()
    job_tables = {"roomkeeper.job_runs", "roomkeeper.checkpoints"}
    assert {name: rows for name, rows in before.items() if name not in job_tables} == {
        name: rows for name, rows in after.items() if name not in job_tables
    }
    assert [run.outcome for run in runs(platform)] == ["done", "done"]
    assert runs(platform)[1].rows == 0


@pytest.mark.usefixtures("rooms")
@pytest.mark.parametrize("wrong", [-1, 99, None])
def test_drift_is_repaired_and_told(platform: Platform, wrong: int | None) -> None:
    audits.audit()
    right = expected(platform)
    with platform.engine.begin() as connection:
        connection.execute(update(openchat.Message).values(read_by_count=wrong))
        connection.execute(update(openchat.ConversationParticipant).values(unread_count=wrong))
        connection.execute(
            update(openchat.Conversation).values(
                message_count=wrong, participant_count=wrong, last_message_at=naive(0)
            )
        )
    audits.audit()
    # No value counts as 0, and is left where 0 is right.
    assert {
        kind: {key: count or 0 if kind != "room" else count for key, count in rows.items()}
        for kind, rows in held(platform).items()
    } == right
    total = sum(len(rows) for rows in right.values())
    zeros = sum(count == 0 for kind in ("read", "unread") for count in right[kind].values())
    assert runs(platform)[-1].rows == (total - zeros if wrong is None else total)


def test_one_conversation_that_is_wrong_is_the_only_one_touched(
    platform: Platform, rooms: list[UUID]
) -> None:
    audits.audit()
    before = held(platform)
    versions = text("SELECT xmin::text, id FROM openchat.message ORDER BY id")
    with platform.engine.begin() as connection:
        message = connection.scalar(
            select(openchat.Message.id).where(openchat.Message.conversation_id == rooms[1]).limit(1)
        )
        connection.execute(
            update(openchat.Message).where(openchat.Message.id == message).values(read_by_count=77)
        )
        untouched = {row.id: row.xmin for row in connection.execute(versions) if row.id != message}
    audits.audit()
    assert held(platform) == before
    with platform.engine.begin() as connection:
        after = {row.id: row.xmin for row in connection.execute(versions) if row.id != message}
    assert after == untouched
    assert runs(platform)[-1].rows == 1


@pytest.mark.usefixtures("rooms")
def test_a_run_goes_on_where_the_last_one_stopped(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[UUID] = []

    def recount(_app: str, _table: ReadPointers, room: UUID) -> int:
        seen.append(room)
        return 1

    monkeypatch.setattr(audits, "_recount", recount)
    monkeypatch.setattr(audits, "RUN_SECONDS", 0)
    for outcome in ("more", "more", "done", "more"):
        audits.audit()
        assert runs(platform)[-1].outcome == outcome
    assert len(seen) == 4
    assert seen[:3] == sorted(seen[:3])
    assert seen[3] == seen[0]


def test_a_conversation_that_somebody_holds_does_not_stop_the_others(
    platform: Platform, rooms: list[UUID]
) -> None:
    audits.audit()
    right = held(platform)
    with platform.engine.begin() as connection:
        connection.execute(update(openchat.ConversationParticipant).values(unread_count=55))
    platform.set(lock_timeout_ms=200)
    with platform.engine.begin() as holder, environment(dict(platform.environment)):
        holder.execute(
            select(openchat.ConversationParticipant.id)
            .where(openchat.ConversationParticipant.conversation_id == min(rooms))
            .with_for_update()
        ).all()
        audits.audit()
    with platform.engine.begin() as connection:
        left = connection.execute(
            select(openchat.ConversationParticipant.conversation_id)
            .where(openchat.ConversationParticipant.unread_count == 55)
            .distinct()
        ).scalars()
        assert list(left) == [min(rooms)]
    audits.audit()
    assert held(platform) == right
