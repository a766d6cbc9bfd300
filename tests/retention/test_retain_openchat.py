"""Retention of `openchat`: what was deleted softly, with files and counters; people become nobody."""

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
from tasks import retention
from tasks.apps import APPS
from tasks.apps.columns import table_of
from tasks.apps.statuses import ReadPointers
from tasks.delivery import audit as audits
from tasks.delivery.events import Event
from tasks.delivery.merge import merge
from tasks.engines.retire import PACE
from tasks.restore import restore
from tests.cleanup.sweeping import INSTANT, NOW, add, ago, naive, rows
from tests.delivery.world import OpenchatWorld, moment
from tests.platform import Platform
from tests.retention.proving import add_hold, proven, receipts
from tests.retention.retaining import days, retain

GRACE = timedelta(days=30)
#: Just due, and just not yet.
OVER, NOT_YET = naive(NOW - GRACE - INSTANT), naive(NOW - GRACE)
#: Whatever is young enough for any policy.
LATELY = naive(NOW - timedelta(hours=1))
DELETED: dict[str, Any] = {"is_deleted": True, "deleted_at": OVER}

#: How a row says that it was deleted softly, and whether it is due.
MARKS: list[tuple[dict[str, Any], bool]] = [
    ({"is_deleted": True, "deleted_at": OVER, "updated_at": LATELY}, True),
    ({"is_deleted": True, "deleted_at": NOT_YET, "updated_at": OVER}, False),
    ({"is_deleted": True, "deleted_at": None, "updated_at": OVER}, True),
    ({"is_deleted": True, "deleted_at": None, "updated_at": NOT_YET}, False),
    ({"is_deleted": False, "deleted_at": OVER, "updated_at": OVER}, False),
    ({"is_deleted": None, "deleted_at": OVER, "updated_at": OVER}, False),
]


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
    said = {"conversation_id": of, "sender_id": sender, "content": "hi", "created_at": at}
    return add(platform, Message, **{"updated_at": LATELY, **said, **values})


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


def keys(platform: Platform) -> set[str]:
    """Return the keys that files name."""
    return {row["storage_key"] for row in rows(platform, Attachment).values()}


# -- attachments ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_hand", [True, False], ids=["by hand", "as beat does"])
def test_attachments_go_a_while_after_they_were_deleted(platform: Platform, by_hand: bool) -> None:
    said = message(platform, conversation(platform))
    made = [(file(platform, said, **marks), due) for marks, due in MARKS]
    file(platform, said)
    done = proven(
        platform,
        "openchat.deleted_attachments",
        gone={Attachment: [key for key, due in made if due]},
        by_hand=by_hand,
        restored=False,
    )
    assert done.rows == 2
    assert set(platform.objects()) == keys(platform)
    for number in receipts(platform):
        restore(number, platform.settings, operator="ada", reason="a test")
    assert len(rows(platform, Attachment)) == len(MARKS) + 1


def test_an_object_that_another_row_names_stays(platform: Platform) -> None:
    said = message(platform, conversation(platform))
    key = platform.put(b"shared")
    gone = file(platform, said, storage_key=key, **DELETED)
    file(platform, said, storage_key=key)
    proven(platform, "openchat.deleted_attachments", gone={Attachment: [gone]}, restored=False)
    assert set(platform.objects()) == {key}


@pytest.mark.parametrize("whose", ["uploader", "conversation"])
def test_an_attachment_on_hold_stays(platform: Platform, whose: str) -> None:
    room, uploader = conversation(platform), person(platform)
    held = file(platform, message(platform, room), uploaded_by=uploader, **DELETED)
    gone = file(platform, message(platform, conversation(platform)), **DELETED)
    if whose == "uploader":
        add_hold(platform, "openchat", "user", uploader)
    else:
        add_hold(platform, "openchat", "conversation", room)
    # Of another application, or of somebody else.
    add_hold(platform, "pern", "user", rows(platform, Attachment)[gone]["uploaded_by"])
    add_hold(platform, "openchat", "user", person(platform))
    proven(platform, "openchat.deleted_attachments", gone={Attachment: [gone]})
    assert set(rows(platform, Attachment)) == {held, gone}


# -- messages ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_hand", [True, False], ids=["by hand", "as beat does"])
def test_messages_go_a_while_after_they_were_deleted_with_their_files(
    platform: Platform, by_hand: bool
) -> None:
    room = conversation(platform)
    made = [(message(platform, room, **marks), due) for marks, due in MARKS]
    message(platform, room)
    files = {key: [file(platform, key), file(platform, key, is_deleted=True)] for key, _ in made}
    due = [key for key, due in made if due]
    gone = {Message: due, Attachment: [one for key in due for one in files[key]]}
    proven(platform, "openchat.deleted_messages", gone=gone, by_hand=by_hand, restored=False)
    assert set(platform.objects()) == keys(platform)
    for number in receipts(platform):
        restore(number, platform.settings, operator="ada", reason="a test")
    assert len(rows(platform, Attachment)) == 2 * len(MARKS)


def test_replies_and_threads_are_not_left_dangling(platform: Platform) -> None:
    room = conversation(platform)
    root = message(platform, room, reply_count=3)
    gone = message(platform, room, parent_message_id=root, thread_root_id=root, reply_count=2, **DELETED)
    # Goes with what it replies to.
    along = message(platform, room, parent_message_id=gone, thread_root_id=gone, **DELETED)
    reply = message(platform, room, parent_message_id=gone, thread_root_id=root)
    thread = message(platform, room, parent_message_id=root, thread_root_id=gone)
    both = message(platform, room, parent_message_id=gone, thread_root_id=along)
    # Deleted as well, and not yet due: no younger for it.
    later = message(platform, room, parent_message_id=along, is_deleted=True, updated_at=NOT_YET)
    proven(
        platform,
        "openchat.deleted_messages",
        gone={Message: [gone, along]},
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
    gone = message(platform, room, at[3], id=lower, **DELETED)
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
        reader(gone): low,
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
        gone={Message: [first_gone, high, gone, last_gone, elsewhere, early]},
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
    ours = {"roomkeeper.job_runs", "roomkeeper.positions"}
    assert {name: rows for name, rows in platform.everything().items() if name not in ours} == {
        name: rows for name, rows in before.items() if name not in ours
    }
    (last,) = platform.sql(
        "SELECT * FROM roomkeeper.job_runs WHERE job = 'delivery.audit' ORDER BY id DESC LIMIT 1"
    )
    assert (last.outcome, last.rows) == ("done", 0)


@pytest.mark.parametrize("whose", ["sender", "conversation", "uploader"])
@pytest.mark.parametrize("name", ["openchat.deleted_messages", "openchat.conversation_messages"])
def test_a_message_on_hold_or_with_a_file_on_hold_stays(platform: Platform, name: str, whose: str) -> None:
    gone_room = {"is_deleted": True, "updated_at": OVER}
    marks = gone_room if name == "openchat.conversation_messages" else {}
    deleted: dict[str, Any] = {} if marks else DELETED
    room, sender, uploader = conversation(platform, **marks), person(platform), person(platform)
    held = message(platform, room, sender_id=sender, **deleted)
    if whose == "uploader":
        file(platform, held, uploaded_by=uploader)
    gone = message(platform, conversation(platform, **marks), **deleted)
    kind = "conversation" if whose == "conversation" else "user"
    add_hold(
        platform, "openchat", kind, {"sender": sender, "conversation": room, "uploader": uploader}[whose]
    )
    proven(platform, name, gone={Message: [gone]}, restored=False)
    assert held in rows(platform, Message)
    platform.sql("UPDATE roomkeeper.holds SET lifted_at = now(), lifted_by = 'ada'")
    assert retain(platform, name).rows == 1
    assert rows(platform, Message) == rows(platform, Attachment) == {}
    assert platform.objects() == {}


@pytest.mark.parametrize("what", ["reply", "thread", "pointer"])
def test_a_message_stays_whose_end_would_change_a_row_on_hold(platform: Platform, what: str) -> None:
    room, somebody = conversation(platform), person(platform)
    kept, gone = message(platform, room, **DELETED), message(platform, room, **DELETED)
    if what == "pointer":
        member(platform, room, user_id=somebody, last_read_message_id=kept)
    else:
        column = "parent_message_id" if what == "reply" else "thread_root_id"
        message(platform, room, OVER, sender_id=somebody, **{column: kept})
    add_hold(platform, "openchat", "user", somebody)
    proven(platform, "openchat.deleted_messages", gone={Message: [gone]})


# -- conversations ----------------------------------------------------------------------------------------

ROOMS: list[tuple[dict[str, Any], bool]] = [
    ({"is_deleted": True, "updated_at": OVER}, True),
    ({"is_deleted": True, "updated_at": NOT_YET}, False),
    ({"is_deleted": False, "updated_at": OVER}, False),
    ({"is_deleted": None, "updated_at": OVER}, False),
]


@pytest.mark.parametrize("by_hand", [True, False], ids=["by hand", "as beat does"])
def test_messages_go_with_their_conversation(platform: Platform, by_hand: bool) -> None:
    gone: dict[Any, list[UUID]] = {Message: [], Attachment: []}
    moved, replies = {}, {}
    for marks, due in ROOMS:
        room = conversation(platform, **marks)
        first = message(platform, room, updated_at=LATELY)
        second = message(platform, room, LATELY, parent_message_id=first, is_deleted=True)
        reader = member(platform, room, last_read_message_id=second, last_read_at=LATELY)
        files = [file(platform, first), file(platform, second)]
        if due:
            gone[Message] += [first, second]
            gone[Attachment] += files
            moved[reader] = {"last_read_message_id": None}
            replies[message(platform, conversation(platform), thread_root_id=first)] = {
                "thread_root_id": None
            }
    proven(
        platform,
        "openchat.conversation_messages",
        gone=gone,
        changed={ConversationParticipant: moved, Message: replies},
        by_hand=by_hand,
        restored=False,
    )
    assert set(platform.objects()) == keys(platform)


@pytest.mark.parametrize("by_hand", [True, False], ids=["by hand", "as beat does"])
def test_conversations_go_with_their_members_when_their_messages_have_gone(
    platform: Platform, by_hand: bool
) -> None:
    gone: dict[Any, list[UUID]] = {Conversation: [], ConversationParticipant: []}
    for marks, due in ROOMS:
        room = conversation(platform, **marks)
        people = [member(platform, room), member(platform, room, status="left")]
        if due:
            gone[Conversation].append(room)
            gone[ConversationParticipant] += people
    # Any message keeps it.
    for deleted in (True, False):
        room = conversation(platform, is_deleted=True, updated_at=OVER)
        member(platform, room)
        message(platform, room, is_deleted=deleted, deleted_at=OVER)
    proven(platform, "openchat.deleted_conversations", gone=gone, by_hand=by_hand)


@pytest.mark.parametrize("whose", ["creator", "member", "conversation"])
def test_a_conversation_on_hold_or_of_somebody_on_hold_stays(platform: Platform, whose: str) -> None:
    gone = conversation(platform, is_deleted=True, updated_at=OVER)
    creator, reader = person(platform), person(platform)
    held = conversation(platform, is_deleted=True, updated_at=OVER, created_by=creator)
    if whose == "member":
        member(platform, held)
        member(platform, held, user_id=reader)
    kind = "conversation" if whose == "conversation" else "user"
    add_hold(platform, "openchat", kind, {"creator": creator, "conversation": held, "member": reader}[whose])
    proven(platform, "openchat.deleted_conversations", gone={Conversation: [gone]})


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


def nobody(key: UUID, deleted_at: datetime) -> dict[str, Any]:
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


@pytest.mark.parametrize("by_hand", [True, False], ids=["by hand", "as beat does"])
def test_who_was_deleted_becomes_nobody(platform: Platform, by_hand: bool) -> None:
    friend, changed = person(platform), {}
    gone: dict[Any, list[UUID]] = {User: [], Session: [], Account: [], UserRelationship: []}
    for marks, due in MARKS:
        who = person(platform, **PERSONAL, **marks)
        room = conversation(platform, created_by=who)
        message(platform, room, sender_id=who)
        member(platform, room, user_id=who)
        tokens = signed_in(platform, who)
        between = [relationship(platform, who, friend), relationship(platform, friend, who)]
        if due:
            changed[who] = nobody(who, marks["deleted_at"] or marks["updated_at"])
            gone[UserRelationship] += between
            for model, some in tokens.items():
                gone[model] += some
    signed_in(platform, friend)
    done = forgotten(platform, gone, changed, by_hand=by_hand)
    assert done.rows == 2
    assert list((platform.folder / "archive").rglob("*.parquet")) == []
    addresses = {row["email"] for row in rows(platform, User).values()}
    assert len(addresses) == len(rows(platform, User))


def forgotten(
    platform: Platform,
    gone: dict[Any, list[UUID]],
    changed: dict[UUID, dict[str, Any]],
    *,
    by_hand: bool = True,
) -> Any:
    """Run it: these become nobody, what signs them in goes; nothing else changes, then or the next time."""
    before = platform.everything()
    tables = {model: rows(platform, model) for model in {*gone, User}}
    done = retain(platform, "openchat.anonymised_users", by_hand=by_hand)
    for model, table in tables.items():
        left = {key: row for key, row in table.items() if key not in gone.get(model, [])}
        if model is User:
            left = {key: {**row, **changed.get(key, {})} for key, row in left.items()}
        assert rows(platform, model) == left
    after = platform.everything()
    names = {table_of(model).fullname for model in tables}
    names |= {"roomkeeper.job_runs", "roomkeeper.sweeps", "roomkeeper.receipts"}
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
    forgotten(platform, {}, {who: nobody(who, OVER)})


def test_nothing_personal_is_left_in_the_row(platform: Platform) -> None:
    """Every column is either told of nobody, or says nothing of a person: a new one has to be looked at."""
    impersonal = {"id", "created_at", "is_deleted", "is_private", "allow_friend_requests"}
    impersonal |= {"show_online_status"}
    assert set(table_of(User).c.keys()) - impersonal == set(nobody(uuid4(), OVER))


@pytest.mark.parametrize("whose", ["own", "friend"])
def test_who_is_on_hold_or_has_to_do_with_somebody_on_hold_keeps_their_name(
    platform: Platform, whose: str
) -> None:
    held, friend, gone = person(platform, **DELETED), person(platform), person(platform, **DELETED)
    if whose == "friend":
        signed_in(platform, held)
        relationship(platform, friend, held)
    add_hold(platform, "openchat", "user", held if whose == "own" else friend)
    forgotten(platform, {}, {gone: nobody(gone, OVER)})


def anonymised(platform: Platform, **values: Any) -> UUID:
    key = uuid4()
    return person(platform, id=key, **{**nobody(key, OVER), "is_deleted": True, **values})


@pytest.mark.parametrize("by_hand", [True, False], ids=["by hand", "as beat does"])
def test_nobody_goes_when_nothing_refers_to_them(platform: Platform, by_hand: bool) -> None:
    made = [(anonymised(platform, **marks), due) for marks, due in MARKS]
    gone: dict[Any, list[UUID]] = {User: [key for key, due in made if due]}
    # Who still has a name.
    other = person(platform, **DELETED)
    one, *_ = gone[User]
    gone[UserRelationship] = [relationship(platform, one, other), relationship(platform, other, one)]
    relationship(platform, other, made[1][0])
    proven(platform, "openchat.deleted_users", gone=gone, by_hand=by_hand)


REFERENCES = [
    (Conversation, "created_by"),
    (Message, "sender_id"),
    (Message, "edited_by"),
    (Message, "pinned_by"),
    (Message, "moderated_by"),
    (Message, "deleted_by"),
    (Attachment, "uploaded_by"),
    (ConversationParticipant, "invited_by"),
    (ConversationParticipant, "user_id"),
    (Session, "user_id"),
    (Account, "user_id"),
]


@pytest.mark.parametrize(("model", "column"), REFERENCES, ids=lambda one: getattr(one, "__name__", one))
def test_whoever_is_referred_to_stays(platform: Platform, model: Any, column: str) -> None:
    kept, gone = anonymised(platform), anonymised(platform)
    room = conversation(platform)
    if model is Conversation:
        conversation(platform, created_by=kept)
    elif model is Message:
        message(platform, room, OVER, **{column: kept})
    elif model is Attachment:
        file(platform, message(platform, room), uploaded_by=kept)
    elif model is ConversationParticipant:
        member(platform, room, **{column: kept})
    else:
        values: dict[str, Any] = {"token": "t", "expires_at": LATELY}
        if model is Account:
            values = {"account_id": "ada", "provider_id": "mail"}
        add(platform, model, user_id=kept, **values)
    proven(platform, "openchat.deleted_users", gone={User: [gone]})


@pytest.mark.parametrize("whose", ["own", "friend"])
def test_nobody_on_hold_stays(platform: Platform, whose: str) -> None:
    held, friend, gone = anonymised(platform), person(platform), anonymised(platform)
    if whose == "friend":
        relationship(platform, friend, held)
    add_hold(platform, "openchat", "user", held if whose == "own" else friend)
    proven(platform, "openchat.deleted_users", gone={User: [gone]})


def test_everything_that_was_deleted_goes_in_the_end(platform: Platform) -> None:
    """Whatever keeps something alive goes before it, run by run, and who is left is whom somebody knows."""
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
