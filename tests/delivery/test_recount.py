"""`delivery.recount`: what a deleted message or a member who has left changes is right within seconds."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import update

from models.openchat import Conversation, Message
from tasks import outbox

# Modules, not tasks: pytest looks at what it finds here before there are settings.
from tasks.delivery import audit as audits
from tasks.delivery import recount as recounts
from tasks.delivery.payload import RecountConversation
from tests.delivery.test_pointers import Chat, read
from tests.delivery.world import OpenchatWorld
from tests.docs.blocks import statements
from tests.platform import Platform, eventually


@pytest.fixture
def chat(platform: Platform) -> Chat:
    made = Chat(platform.engine)
    first, second, third = (made.says(made.ada, seconds) for seconds in (1, 2, 3))
    made.merge(read(first, made.bob, 100))
    assert badge(made) == 2
    with platform.engine.begin() as connection:
        connection.execute(update(Message).where(Message.id.in_([second, third])).values(is_deleted=True))
    return made


def badge(chat: Chat) -> int | None:
    return chat.pointer(chat.bob)[2]


@pytest.mark.system
def test_a_badge_is_right_within_seconds_of_a_call_in_sql(platform: Platform, chat: Chat) -> None:
    platform.set(worker_processes=1)
    platform.worker("delivery")
    assert badge(chat) == 2
    began = datetime.now(UTC)
    for statement in statements("delivery-recount", conversation_id=chat.id):
        platform.sql(statement)
    outbox.relay()
    eventually(lambda: badge(chat) == 0, 10, "the badge is right")
    assert datetime.now(UTC) - began < timedelta(seconds=5)


def test_the_task_says_how_many_rows_it_has_corrected(platform: Platform, chat: Chat) -> None:
    del platform
    request = RecountConversation(app="openchat", conversation_id=chat.id)
    # The badge, and the conversation's own counters, which nothing has ever set.
    assert recounts.recount(request.model_dump(mode="json")) == "2 corrected"
    assert badge(chat) == 0
    assert recounts.recount(request.model_dump(mode="json")) == "0 corrected"


def test_a_conversation_that_is_not_there_has_nothing_to_correct(platform: Platform) -> None:
    del platform
    payload = {"app": "openchat", "conversation_id": str(uuid4())}
    assert recounts.recount(payload) == "0 corrected"


@pytest.mark.parametrize("sign", ["written", "read"])
def test_the_audit_begins_with_the_latest_conversations(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, sign: str
) -> None:
    """Of more than a run has time for; each has only one sign of life, by which it is found."""
    world = OpenchatWorld()
    rooms = sorted(world.conversation() for _ in range(5))
    recent, later, _, ahead, old = rooms[::-1]
    now = datetime.now(UTC).replace(tzinfo=None)
    times = {
        recent: now - timedelta(seconds=1),
        later: now - timedelta(minutes=59),
        ahead: now + timedelta(minutes=1),
        old: now - timedelta(minutes=61),
    }
    for room in rooms:
        world.participant(room, last_read_at=times.get(room) if sign == "read" else None)
    with platform.engine.begin() as connection:
        world.save(connection)
        for room, at in times.items() if sign == "written" else ():
            connection.execute(
                update(Conversation).where(Conversation.id == room).values(last_activity_at=at)
            )
    seen: list[UUID] = []

    def recount(_app: str, _table: Any, room: UUID) -> int:
        seen.append(room)
        return 0

    monkeypatch.setattr(audits, "_recount", recount)
    audits.audit()
    assert seen == [recent, later, *rooms]
    seen.clear()
    monkeypatch.setattr(audits, "RUN_SECONDS", 0)
    for _ in range(2):
        audits.audit()
    # At least one each way, however little time there is.
    assert seen == [recent, rooms[0], recent, rooms[1]]
