"""Retention of `openchat`: what was deleted softly, with files and counters; users are anonymised."""

from dataclasses import replace
from datetime import datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select

from models.openchat import (
    Account,
    Attachment,
    Conversation,
    ConversationParticipant,
    Message,
    Session,
    User,
    UserRelationship,
)
from tasks.apps import APPS
from tasks.delivery import audit as audits
from tasks.delivery.events import Event
from tasks.delivery.merge import merge
from tasks.policies.columns import table_of
from tasks.policies.status import ReadPointers
from tasks.retention import task as retention
from tasks.retention.batch import PACE
from tests.delivery.world import OpenchatWorld, moment
from tests.platform import Platform
from tests.retention.proving import add_hold, proven
from tests.retention.retaining import days, retain
from tests.sweeps.sweeping import INSTANT, NOW, add, ago, naive, rows

GRACE = timedelta(days=30)
#: Just due, and just not yet.
OVER, NOT_YET = naive(NOW - GRACE - INSTANT), naive(NOW - GRACE)
#: Whatever is young enough for any policy.
LATELY = naive(NOW - timedelta(hours=1))
DELETED: dict[str, Any] = {"is_deleted": True, "deleted_at": OVER}


@pytest.fixture(autouse=True)
def periods(platform: Platform) -> None:
    names = [policy.name for policy in APPS["openchat"].retention]
    days(platform, **dict.fromkeys(names, GRACE.days))


def person(platform: Platform, **values: Any) -> UUID:
    names = {"name": "Ada", "email": f"{uuid4()}@x.org", "email_verified": True}
    return add(platform, User, **{"updated_at": LATELY, **names, **values})


def conversation(platform: Platform, **values: Any) -> UUID:
    creator = values.pop("created_by", None) or person(platform)
    return add(platform, Conversation, created_by=creator, **{"updated_at": LATELY, **values})


def member(platform: Platform, of: UUID, **values: Any) -> UUID:
    user = values.pop("user_id", None) or person(platform)
    return add(platform, ConversationParticipant, conversation_id=of, user_id=user, **values)


def message(platform: Platform, of: UUID, at: datetime = OVER, **values: Any) -> UUID:
    sender = values.pop("sender_id", None) or person(platform)
    columns = {"conversation_id": of, "sender_id": sender, "content": "hi", "created_at": at}
    return add(platform, Message, **{"updated_at": LATELY, **columns, **values})


def file(platform: Platform, of: UUID, **values: Any) -> UUID:
    key = values.pop("storage_key", None) or platform.put(b"bytes")
    uploader = values.pop("uploaded_by", None) or person(platform)
    described = {"filename": "a", "original_filename": "a", "mime_type": "text/plain", "file_size": 5}
    return add(
        platform,
        Attachment,
        message_id=of,
        uploaded_by=uploader,
        storage_key=key,
        **{"updated_at": LATELY, **described, **values},
    )


def relationship(platform: Platform, one: UUID, other: UUID) -> UUID:
    return add(platform, UserRelationship, from_user_id=one, to_user_id=other, type="friend")


# -- attachments ------------------------------------------------------------------------------------------


def test_an_object_that_another_row_names_stays(platform: Platform) -> None:
    message_id = message(platform, conversation(platform))
    key = platform.put(b"shared")
    expired = file(platform, message_id, storage_key=key, **DELETED)
    file(platform, message_id, storage_key=key)
    proven(platform, "openchat.deleted_attachments", deleted={Attachment: [expired]}, restored=False)
    assert set(platform.objects()) == {key}


# -- messages ---------------------------------------------------------------------------------------------


def test_replies_and_threads_are_not_left_dangling(platform: Platform) -> None:
    room = conversation(platform)
    root = message(platform, room, reply_count=3)
    expired = message(platform, room, parent_message_id=root, thread_root_id=root, reply_count=2, **DELETED)
    # Goes with what it replies to.
    along = message(platform, room, parent_message_id=expired, thread_root_id=expired, **DELETED)
    reply = message(platform, room, parent_message_id=expired, thread_root_id=root)
    thread = message(platform, room, parent_message_id=root, thread_root_id=expired)
    both = message(platform, room, parent_message_id=expired, thread_root_id=along)
    # Deleted as well, and not yet due: no younger for it.
    later = message(platform, room, parent_message_id=along, is_deleted=True, updated_at=NOT_YET)
    proven(
        platform,
        "openchat.deleted_messages",
        deleted={Message: [expired, along]},
        changed={
            Message: {
                reply: {"parent_message_id": None},
                thread: {"thread_root_id": None},
                both: {"parent_message_id": None, "thread_root_id": None},
                later: {"parent_message_id": None},
            }
        },
    )
    # A counter that nothing maintains is not made smaller for what was deleted long ago.
    assert rows(platform, Message)[root]["reply_count"] == 3


def test_read_pointers_go_to_the_message_before(platform: Platform) -> None:
    room, other = conversation(platform), conversation(platform)
    at = [naive(ago(days=100 - number)) for number in range(6)]
    first_gone = message(platform, room, at[0], **DELETED)
    first = message(platform, room, at[1])
    # Of the same moment: in the order of their ids.
    low, high = sorted([uuid4(), uuid4()])
    message(platform, room, at[2], id=low, is_deleted=True, deleted_at=LATELY)
    message(platform, room, at[2], id=high, **DELETED)
    # The next of the same moment stays, and is not read by that.
    lower, higher = sorted([uuid4(), uuid4()])
    expired = message(platform, room, at[3], id=lower, **DELETED)
    message(platform, room, at[3], id=higher)
    last = message(platform, room, at[4])
    last_gone = message(platform, room, at[5], **DELETED)
    message(platform, other, at[4])
    elsewhere = message(platform, other, at[5], **DELETED)
    early = message(platform, other, at[0], **DELETED)

    def reader(pointer: UUID | None, read: datetime | None = at[5]) -> UUID:
        return member(platform, room, last_read_message_id=pointer, last_read_at=read, unread_count=7)

    moved = {
        reader(first_gone): None,
        reader(high): low,
        reader(expired): low,
        reader(last_gone): last,
        # Into another conversation: at the time of reading.
        reader(elsewhere, at[2]): low,
        reader(elsewhere, at[1]): first,
        reader(elsewhere, at[0]): None,
        reader(elsewhere, None): None,
        reader(early, at[4]): last,
    }
    for pointer in (None, first, low, last, uuid4()):
        reader(pointer)
    proven(
        platform,
        "openchat.deleted_messages",
        deleted={Message: [first_gone, high, expired, last_gone, elsewhere, early]},
        changed={
            ConversationParticipant: {key: {"last_read_message_id": value} for key, value in moved.items()}
        },
    )


@pytest.mark.parametrize("keys_at_once", [1, 500])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_counters_are_right_afterwards(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, keys_at_once: int, seed: int
) -> None:
    """Read by a few people, deleted anywhere, by the audit's own count: it finds nothing to mend."""
    chance, world, events = Random(seed), OpenchatWorld(Random(seed)), []
    for size in (2, 4, 6):
        room = world.conversation()
        people = [
            world.participant(room, status="left" if number == 3 else "active") for number in range(size)
        ]
        messages = [
            world.message(
                room,
                chance.choice(people),
                number // 3,
                is_deleted=chance.random() < 0.7,
                deleted_at=chance.choice([OVER, OVER, NOT_YET]),
            )
            for number in range(30)
        ]
        events += [
            Event(
                message_id=chance.choice(messages),
                user_id=chance.choice(people),
                status=chance.choice(["read", "read", "delivered"]),
                at=moment(100 + number),
            )
            for number in range(10)
        ]
    table = APPS["openchat"].delivery
    assert isinstance(table, ReadPointers)
    with platform.engine.begin() as connection:
        world.save(connection)
        assert merge(connection, table, events) == set()
    audits.audit()
    unread = {key: row["unread_count"] for key, row in rows(platform, ConversationParticipant).items()}
    read = {key: row["read_by_count"] for key, row in rows(platform, Message).items()}
    monkeypatch.setattr(retention, "PACE", replace(PACE, keys=keys_at_once, most_keys=keys_at_once))
    done = retain(platform, "openchat.deleted_messages")
    assert done.rows > 20
    assert done.batches == (done.rows if keys_at_once == 1 else 1)
    found = rows(platform, Message)
    assert {key: row["read_by_count"] for key, row in found.items()} == {key: read[key] for key in found}
    after = rows(platform, ConversationParticipant)
    assert {key: row["unread_count"] for key, row in after.items()} == unread
    assert {row["last_read_message_id"] for row in after.values()} <= {None, *found}
    before = platform.everything()
    audits.audit()
    job_tables = {"roomkeeper.job_runs", "roomkeeper.checkpoints"}
    assert {name: rows for name, rows in platform.everything().items() if name not in job_tables} == {
        name: rows for name, rows in before.items() if name not in job_tables
    }
    (last,) = platform.sql(
        "SELECT * FROM roomkeeper.job_runs WHERE job = 'delivery.audit' ORDER BY id DESC LIMIT 1"
    )
    assert (last.outcome, last.rows) == ("done", 0)


# -- conversations ----------------------------------------------------------------------------------------


def test_a_whole_conversation_goes_in_the_end(platform: Platform) -> None:
    room = conversation(platform, is_deleted=True, updated_at=OVER)
    for number in range(30):
        file(platform, message(platform, room, naive(ago(days=number))))
    member(platform, room, last_read_message_id=next(iter(rows(platform, Message))))
    assert retain(platform, "openchat.deleted_conversations").rows == 0
    assert retain(platform, "openchat.conversation_messages").rows == 30
    assert platform.objects() == {}
    assert retain(platform, "openchat.deleted_conversations").rows == 1
    assert rows(platform, Conversation) == rows(platform, ConversationParticipant) == {}


# -- people -----------------------------------------------------------------------------------------------

PERSONAL = {
    "image": "https://x.org/ada.png",
    "display_name": "Ada L.",
    "bio": "Counts",
    "location": "London",
    "website": "https://x.org",
    "custom_status": "thinking",
    "last_seen_at": OVER,
    "is_online": True,
    "status": "away",
}


def anonymised(key: UUID, deleted_at: datetime) -> dict[str, Any]:
    """Return what is left of a person."""
    return {
        **dict.fromkeys(PERSONAL),
        "name": "Deleted user",
        "email": f"deleted-{key}@invalid",
        "email_verified": False,
        "status": "offline",
        "is_online": False,
        "is_active": False,
        "deleted_at": deleted_at,
        "updated_at": naive(NOW),
    }


def signed_in(platform: Platform, who: UUID) -> dict[Any, list[UUID]]:
    """Add what signs a person in."""
    return {
        Session: [add(platform, Session, user_id=who, token=str(uuid4()), expires_at=LATELY)],
        Account: [add(platform, Account, user_id=who, account_id="ada", provider_id="mail", password="x")],
    }


def forgotten(
    platform: Platform,
    deleted: dict[Any, list[UUID]],
    changed: dict[UUID, dict[str, Any]],
    *,
    by_hand: bool = True,
) -> Any:
    """Run it: these are anonymised, what signs them in goes; nothing else changes, then or the next time."""
    before = platform.everything()
    tables = {model: rows(platform, model) for model in {*deleted, User}}
    done = retain(platform, "openchat.anonymised_users", by_hand=by_hand)
    for model, table in tables.items():
        left = {key: row for key, row in table.items() if key not in deleted.get(model, [])}
        if model is User:
            left = {key: {**row, **changed.get(key, {})} for key, row in left.items()}
        assert rows(platform, model) == left
    after = platform.everything()
    names = {table_of(model).fullname for model in tables}
    names |= {"roomkeeper.job_runs", "roomkeeper.sweep_checkpoints", "roomkeeper.receipts"}
    assert {name: found for name, found in after.items() if name not in names} == {
        name: found for name, found in before.items() if name not in names
    }
    assert (done.rows, done.remaining, done.error) == (len(changed), 0, None)
    versions = platform.sql('SELECT id, xmin::text FROM openchat."user" ORDER BY id')
    again = retain(platform, "openchat.anonymised_users", by_hand=by_hand)
    assert (again.rows, again.remaining) == (0, 0)
    assert platform.sql('SELECT id, xmin::text FROM openchat."user" ORDER BY id') == versions
    return done


@pytest.mark.parametrize("column", [*PERSONAL, "name", "email"])
def test_what_is_told_of_nobody_later_is_forgotten_too(platform: Platform, column: str) -> None:
    who = person(platform, **DELETED)
    retain(platform, "openchat.anonymised_users")
    with platform.engine.begin() as connection:
        users = table_of(User)
        value = PERSONAL.get(column, "ada@x.org")
        connection.execute(users.update().where(users.c.id == who).values({column: value}))
    forgotten(platform, {}, {who: anonymised(who, OVER)})


def test_nothing_personal_is_left_in_the_row(platform: Platform) -> None:
    """Every column is anonymised, or says nothing of a person: a new one has to be looked at."""
    impersonal = {"id", "created_at", "is_deleted", "is_private", "allow_friend_requests"}
    impersonal |= {"show_online_status"}
    assert set(table_of(User).c.keys()) - impersonal == set(anonymised(uuid4(), OVER))


@pytest.mark.parametrize("whose", ["own", "friend"])
def test_who_is_on_hold_or_has_to_do_with_somebody_on_hold_keeps_their_name(
    platform: Platform, whose: str
) -> None:
    held, friend, expired = person(platform, **DELETED), person(platform), person(platform, **DELETED)
    if whose == "friend":
        signed_in(platform, held)
        relationship(platform, friend, held)
    add_hold(platform, "openchat", "user", held if whose == "own" else friend)
    forgotten(platform, {}, {expired: anonymised(expired, OVER)})


def test_everything_that_was_deleted_goes_in_the_end(platform: Platform) -> None:
    """Rows that keep others go before them, run by run; only users that others refer to are left."""
    who, friend = person(platform, **PERSONAL, **DELETED), person(platform)
    room = conversation(platform, created_by=who, is_deleted=True, updated_at=OVER)
    talk = conversation(platform, created_by=friend)
    for place in (room, talk):
        member(platform, place, user_id=friend)
        file(platform, message(platform, place, sender_id=who, **DELETED), uploaded_by=who, **DELETED)
    member(platform, room, user_id=who)
    signed_in(platform, who)
    for _ in range(4):
        for policy in APPS["openchat"].retention:
            retain(platform, policy.name)
    with platform.engine.begin() as connection:
        assert list(connection.execute(select(User.id)).scalars()) == [friend]
        assert list(connection.execute(select(Conversation.id)).scalars()) == [talk]
    assert len(rows(platform, ConversationParticipant)) == 1
    assert rows(platform, Message) == rows(platform, Session) == rows(platform, Account) == {}
    assert platform.objects() == {}
