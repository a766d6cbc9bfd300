"""Members who are gone: no message waits for them; when one leaves, what all others have read is `read`."""

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine, delete, update

from models.openchat import ConversationParticipant, User
from tasks.delivery import audit as audits
from tasks.delivery.recount import recount_conversation
from tests.delivery.test_pointers import TABLE, TICK, Chat, read
from tests.delivery.world import naive
from tests.platform import Platform
from workers.db import create
from workers.settings import load

#: What an application writes of a participant, or of a user, who is gone; either may be all that it writes.
PARTICIPANT = {
    "left": {"status": "left"},
    "left, status unchanged": {"left_at": naive(50), "joined_at": naive(0)},
    "left in the moment of joining": {"left_at": naive(0), "joined_at": naive(0)},
    "removed": {"status": "removed", "left_at": naive(50)},
    "banned": {"status": "banned"},
}
USER = {
    "deleted": {"is_deleted": True},
    "anonymised": {
        "is_deleted": True,
        "is_active": False,
        "name": "Deleted user",
        "email": "deleted-1@invalid",
    },
}
ABSENCES = [
    *({"participant": values} for values in PARTICIPANT.values()),
    *({"user": values} for values in USER.values()),
]
NAMES = [*PARTICIPANT, *USER]
HERE = {
    "back again": {"participant": {"left_at": naive(0), "joined_at": naive(TICK)}},
    "offline": {"user": {"is_deleted": None, "is_active": False}},
}


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    made = create(load({"DATABASE_URL": database}))
    yield made
    made.dispose()


@pytest.fixture
def chat(engine: Engine) -> Chat:
    return Chat(engine)


def change(chat: Chat, person: UUID, user: Any = None, participant: Any = None) -> None:
    """Have the application write this of a person."""
    chat.save()
    with chat.engine.begin() as connection:
        if user:
            connection.execute(update(User).where(User.id == person).values(user))
        if participant:
            member = ConversationParticipant
            connection.execute(update(member).where(member.user_id == person).values(participant))


@pytest.mark.parametrize("values", ABSENCES, ids=NAMES)
def test_no_message_waits_for_a_member_who_is_gone(chat: Chat, values: dict[str, Any]) -> None:
    change(chat, chat.joins(), **values)
    message = chat.says(chat.ada, 1)
    chat.merge(read(message, chat.bob, 100))
    assert chat.state(message) == ("read", naive(100), 1)


@pytest.mark.parametrize("values", HERE.values(), ids=HERE)
def test_a_message_waits_for_everybody_else(chat: Chat, values: dict[str, Any]) -> None:
    change(chat, chat.joins(), **values)
    message = chat.says(chat.ada, 1)
    chat.merge(read(message, chat.bob, 100))
    assert chat.state(message) == ("delivered", naive(100), 1)


@pytest.mark.parametrize("values", ABSENCES, ids=NAMES)
def test_a_last_reading_of_a_member_who_is_gone_does_not_speak_for_others(
    chat: Chat, values: dict[str, Any]
) -> None:
    carol = chat.joins()
    change(chat, carol, **values)
    message = chat.says(chat.ada, 1)
    chat.merge(read(message, carol, 100))
    assert chat.state(message) == ("delivered", naive(100), 1)
    chat.merge(read(message, chat.bob, 200))
    assert chat.state(message) == ("read", naive(100), 2)


@pytest.mark.parametrize("values", [*ABSENCES, None], ids=[*NAMES, "the row is deleted"])
def test_what_all_others_have_read_becomes_read_when_one_leaves(
    chat: Chat, values: dict[str, Any] | None
) -> None:
    carol = chat.joins()
    both, bob_only, neither = (chat.says(chat.ada, seconds) for seconds in (1, 2, 3))
    own = chat.says(chat.bob, 2.5)
    edited = chat.says(chat.ada, 1.5, status="edited")
    chat.merge(read(both, carol, 100), read(bob_only, chat.bob, 200))
    assert [chat.state(one)[0] for one in (both, bob_only, neither, own)] == [
        "read",
        "delivered",
        "sent",
        "sent",
    ]
    before = chat.message(neither), chat.message(own), chat.message(edited)
    if values is None:
        with chat.engine.begin() as connection:
            connection.execute(
                delete(ConversationParticipant).where(ConversationParticipant.user_id == carol)
            )
    else:
        change(chat, carol, **values)
    with chat.engine.begin() as connection:
        drift = recount_conversation(connection, TABLE, chat.id)
    assert chat.state(bob_only)[:2] == ("read", naive(200))
    assert (chat.message(neither), chat.message(own), chat.message(edited)) == before
    assert drift["status"] == 1


def test_what_no_other_member_is_left_to_read_stays_as_it_is(chat: Chat) -> None:
    message = chat.says(chat.ada, 1)
    change(chat, chat.bob, participant={"status": "left"})
    with chat.engine.begin() as connection:
        recount_conversation(connection, TABLE, chat.id)
    assert chat.state(message) == ("sent", None, 0)


def test_a_long_history_becomes_read_in_portions(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is a transaction of its own: a member of many years leaves."""
    monkeypatch.setattr("tasks.delivery.counts.MOST_CHANGED", 10)
    carol = chat.joins()
    messages = [chat.says(chat.ada, seconds) for seconds in range(25)]
    chat.merge(read(messages[-1], chat.bob, 100))
    change(chat, carol, participant={"status": "left"})
    portions = []
    for _ in range(4):
        with chat.engine.begin() as connection:
            portions.append(recount_conversation(connection, TABLE, chat.id)["status"])
    assert portions == [10, 10, 5, 0]
    assert {chat.state(one)[0] for one in messages} == {"read"}


def test_the_audit_finds_who_has_left(platform: Platform) -> None:
    chat = Chat(platform.engine)
    carol = chat.joins()
    message = chat.says(chat.ada, 1)
    chat.merge(read(message, chat.bob, 100))
    change(chat, carol, user={"is_deleted": True})
    audits.audit()
    assert chat.state(message)[0] == "read"
