"""Read pointers, counts and times of `openchat`: each rule, any order, and many at once."""

import random
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, Row, case, delete, select, text, update
from sqlalchemy.exc import OperationalError

from models.base import Base
from models.openchat import ConversationParticipant, Message
from tasks.apps.openchat import OPENCHAT
from tasks.delivery.events import Event, Pair, Status
from tasks.delivery.pointers import lock_conversations, merge
from tasks.policies.status import ReadPointers
from tests.delivery import openchat_model as model
from tests.delivery.world import OpenchatWorld, moment, naive
from tests.examples import examples
from tests.platform import eventually
from workers.db import create
from workers.settings import load

assert isinstance(OPENCHAT.delivery, ReadPointers)
TABLE = OPENCHAT.delivery
#: The smallest step of a time, in seconds.
TICK = 1e-6


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    made = create(load({"DATABASE_URL": database}), connections=12)
    yield made
    made.dispose()


@dataclass
class Chat:
    """A conversation of Ada, Bob and others; what is reported of it, and what its rows say then."""

    engine: Engine
    world: OpenchatWorld = field(default_factory=OpenchatWorld)
    ada: UUID = field(init=False)
    bob: UUID = field(init=False)

    def __post_init__(self) -> None:
        self.id = self.world.conversation()
        self.ada, self.bob = self.joins(), self.joins()

    def joins(self, **columns: Any) -> UUID:
        """Add a participant."""
        return self.world.participant(self.id, **columns)

    def says(self, sender: UUID, seconds: float, **columns: Any) -> UUID:
        """Add a message."""
        return self.world.message(self.id, sender, seconds, **columns)

    def save(self) -> None:
        with self.engine.begin() as connection:
            self.world.save(connection)

    def merge(self, *events: Event) -> set[Pair]:
        """Merge, after all that was added is saved."""
        self.save()
        with self.engine.begin() as connection:
            return merge(connection, TABLE, events)

    def message(self, row_id: UUID) -> Row[Any]:
        with self.engine.begin() as connection:
            return connection.execute(select(*Message.__table__.c).where(Message.id == row_id)).one()

    def state(self, row_id: UUID) -> tuple[str, Any, int | None]:
        """Return a message's status, when it was delivered, and the count of its readers."""
        row = self.message(row_id)
        return row.status, row.delivered_at, row.read_by_count

    def pointer(self, user: UUID) -> tuple[UUID | None, Any, int | None]:
        """Return a participant's pointer, when they read last, and how much is unread."""
        table = ConversationParticipant
        columns = (table.last_read_message_id, table.last_read_at, table.unread_count)
        with self.engine.begin() as connection:
            row = connection.execute(
                select(*columns).where(table.conversation_id == self.id, table.user_id == user)
            )
            return tuple(row.one())  # type: ignore[return-value]


@pytest.fixture
def chat(engine: Engine) -> Chat:
    return Chat(engine)


def event(message: UUID, user: UUID, status: Status, seconds: float) -> Event:
    return Event(message_id=message, user_id=user, status=status, at=moment(seconds))


def read(message: UUID, user: UUID, seconds: float) -> Event:
    return event(message, user, "read", seconds)


def delivered(message: UUID, user: UUID, seconds: float) -> Event:
    return event(message, user, "delivered", seconds)


def everything(connection: Connection) -> dict[str, list[tuple[Any, ...]]]:
    """Return all rows there are, each with the transaction that wrote it last."""
    return {
        table.fullname: sorted(
            map(tuple, connection.execute(select(text("xmin::text"), table)).all()), key=repr
        )
        for table in Base.metadata.sorted_tables
    }


def rows(connection: Connection, conversation: UUID) -> model.Room:
    """Return a conversation as it is."""
    message, person = Message, ConversationParticipant
    messages = connection.execute(
        select(
            message.id,
            message.sender_id,
            message.created_at,
            message.status,
            message.delivered_at,
            message.read_by_count,
            message.is_deleted,
        ).where(message.conversation_id == conversation)
    )
    people = connection.execute(
        select(
            person.user_id,
            # An application may write that somebody has left, and not change the status.
            case((person.left_at >= person.joined_at, "left"), else_=person.status),
            person.last_read_message_id,
            person.last_read_at,
            person.unread_count,
        ).where(person.conversation_id == conversation)
    )
    return model.Room(
        {row.id: model.Message(*row) for row in messages},
        {row.user_id: model.Participant(*row) for row in people},
    )


# -- What a reading does -------------------------------------------------------------------------------------


def test_whoever_reads_a_message_has_read_all_before_it(chat: Chat) -> None:
    first, second, third = (chat.says(chat.ada, seconds) for seconds in (1, 2, 3))
    assert chat.merge(read(second, chat.bob, 10)) == set()
    assert chat.pointer(chat.bob) == (second, naive(10), 1)
    assert chat.state(first) == chat.state(second) == ("read", naive(10), 1)
    assert chat.state(third) == ("sent", None, 0)
    chat.merge(read(third, chat.bob, 20))
    assert chat.pointer(chat.bob) == (third, naive(20), 0)
    assert chat.state(first) == chat.state(second) == ("read", naive(10), 1)
    assert chat.state(third) == ("read", naive(20), 1)


def test_messages_of_one_time_stand_in_the_order_of_their_ids(chat: Chat) -> None:
    low, middle, high = sorted(chat.world.id() for _ in range(3))
    for row_id in (high, low, middle):
        chat.says(chat.ada, 5, id=row_id)
    before, after = chat.says(chat.ada, 5 - TICK), chat.says(chat.ada, 5 + TICK)
    chat.merge(read(middle, chat.bob, 10))
    assert chat.pointer(chat.bob) == (middle, naive(10), 2)
    assert [chat.state(row_id)[2] for row_id in (before, low, middle, high, after)] == [1, 1, 1, 0, 0]
    # From just behind the pointer, again.
    chat.merge(read(after, chat.bob, 11))
    assert [chat.state(row_id)[2] for row_id in (before, low, middle, high, after)] == [1, 1, 1, 1, 1]


def test_a_pointer_does_not_go_back_and_nor_does_its_time(chat: Chat) -> None:
    first, second = chat.says(chat.ada, 1), chat.says(chat.ada, 2)
    chat.merge(read(second, chat.bob, 10))
    chat.merge(read(first, chat.bob, 30))
    assert chat.pointer(chat.bob) == (second, naive(30), 0)
    chat.merge(read(second, chat.bob, 20))
    assert chat.pointer(chat.bob) == (second, naive(30), 0)
    assert chat.state(first) == chat.state(second) == ("read", naive(10), 1)


def test_a_late_report_of_an_earlier_reading_says_when_things_were_delivered(chat: Chat) -> None:
    first, second, third = (chat.says(chat.ada, seconds) for seconds in (1, 2, 3))
    chat.merge(read(third, chat.bob, 10))
    chat.merge(read(second, chat.bob, 5))
    assert chat.pointer(chat.bob) == (third, naive(10), 0)
    assert chat.state(first) == chat.state(second) == ("read", naive(5), 1)
    assert chat.state(third) == ("read", naive(10), 1)


def test_what_was_delivered_earlier_stays_so(chat: Chat) -> None:
    message = chat.says(chat.ada, 1, delivered_at=naive(3))
    for at, earliest in ((4, 3), (3 - TICK, 3 - TICK), (2, 2), (3, 2)):
        chat.merge(delivered(message, chat.bob, at))
        assert chat.state(message)[:2] == ("delivered", naive(earliest))
    chat.merge(read(message, chat.bob, 2 + TICK))
    assert chat.state(message) == ("read", naive(2), 1)
    chat.merge(read(message, chat.bob, 1))
    assert chat.state(message) == ("read", naive(1), 1)


@pytest.mark.parametrize(("early", "looked"), [(0.0, False), (TICK, True)])
def test_only_a_late_report_looks_behind_the_pointer(chat: Chat, early: float, looked: bool) -> None:
    """It would find nothing there in rows that this has written; in these it does."""
    first, second = chat.says(chat.ada, 1), chat.says(chat.ada, 2)
    third, last = chat.says(chat.ada, 3), chat.says(chat.ada, 4)
    user = chat.joins(last_read_message_id=second, last_read_at=naive(10))
    chat.merge(read(last, user, 10 - early))
    at = naive(10 - early)
    old = ("delivered", at, 0) if looked else ("sent", None, 0)
    assert chat.state(first) == chat.state(second) == old
    assert chat.state(third) == chat.state(last) == ("delivered", at, 1)


def test_what_is_read_itself_was_delivered_though_the_pointer_is_further(chat: Chat) -> None:
    """A message may be committed after a later one was read."""
    first, second = chat.says(chat.ada, 1), chat.says(chat.ada, 2)
    user = chat.joins(last_read_message_id=second, last_read_at=naive(10))
    chat.merge(read(first, user, 20))
    assert chat.state(first) == ("delivered", naive(20), 0)
    assert chat.pointer(user) == (second, naive(20), 0)
    chat.merge(read(second, chat.bob, 30))
    assert chat.state(first) == ("read", naive(20), 1)


def test_a_message_that_came_late_is_read_when_its_own_reading_is_reported(chat: Chat) -> None:
    """No pointer passes it any more. Other reports ignore its readers, whatever their order."""
    late, second, third = (chat.says(chat.ada, seconds) for seconds in (1, 2, 3))
    chat.save()
    with chat.engine.begin() as connection:
        change = update(ConversationParticipant).where(ConversationParticipant.user_id == chat.bob)
        connection.execute(change.values(last_read_message_id=second, last_read_at=naive(10)))
    chat.merge(read(second, chat.bob, 8))
    assert chat.state(late) == ("delivered", naive(8), 0)
    chat.merge(delivered(late, chat.bob, 3), read(third, chat.bob, 20))
    assert chat.state(late) == ("delivered", naive(3), 0)
    chat.merge(read(late, chat.bob, 30))
    assert chat.state(late) == ("read", naive(3), 0)


def test_unread_are_those_of_others_behind_the_pointer_that_are_not_deleted(chat: Chat) -> None:
    first = chat.says(chat.ada, 1)
    chat.says(chat.bob, 2)
    for deleted in (True, False, None):
        chat.says(chat.ada, 3, is_deleted=deleted)
    chat.merge(read(first, chat.bob, 10))
    assert chat.pointer(chat.bob) == (first, naive(10), 2)
    # Recounted at each report, whether the pointer moves or not.
    chat.says(chat.world.person(), 4)
    chat.merge(read(first, chat.bob, 10))
    assert chat.pointer(chat.bob) == (first, naive(10), 3)


def test_who_reads_their_own_message_has_read_those_before(chat: Chat) -> None:
    other_message, own_message = chat.says(chat.ada, 1), chat.says(chat.bob, 2)
    chat.merge(read(own_message, chat.bob, 10), delivered(own_message, chat.bob, 9))
    assert chat.pointer(chat.bob) == (own_message, naive(10), 0)
    assert chat.state(other_message) == ("read", naive(10), 1)
    assert chat.state(own_message) == ("sent", None, 0)


def test_a_delivery_is_of_one_message_and_moves_no_pointer(chat: Chat) -> None:
    first, second, third = (chat.says(chat.ada, seconds) for seconds in (1, 2, 3))
    chat.merge(delivered(second, chat.bob, 10))
    assert chat.state(second) == ("delivered", naive(10), 0)
    assert chat.state(first) == chat.state(third) == ("sent", None, 0)
    assert chat.pointer(chat.bob) == (None, None, 0)


def test_a_count_that_was_never_set_is_none(chat: Chat) -> None:
    message, other = chat.says(chat.ada, 1, read_by_count=None), chat.says(chat.ada, 2, read_by_count=None)
    chat.merge(read(message, chat.bob, 10), delivered(other, chat.bob, 10))
    assert chat.state(message)[2] == 1
    assert chat.state(other)[2] is None


# -- Status --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["sending", "failed", "edited", "deleted", "read"])
def test_other_statuses_are_the_applications_own(chat: Chat, status: str) -> None:
    message = chat.says(chat.ada, 1, status=status)
    chat.merge(delivered(message, chat.bob, 10))
    assert chat.state(message) == (status, naive(10), 0)
    chat.merge(read(message, chat.bob, 5))
    assert chat.state(message) == (status, naive(5), 1)


@pytest.mark.parametrize("status", ["sent", "delivered"])
def test_read_is_what_all_have_read_who_are_waited_for(chat: Chat, status: str) -> None:
    for other in ("invited", "left", "removed", "banned"):
        chat.joins(status=other)
    carol = chat.joins()
    low, high = sorted(chat.world.id() for _ in range(2))
    for row_id in (low, high):
        chat.says(chat.ada, 1, id=row_id, status=status)
    chat.merge(read(high, chat.bob, 10))
    assert chat.state(low) == chat.state(high) == ("delivered", naive(10), 1)
    chat.merge(read(low, carol, 20))
    assert chat.state(low) == ("read", naive(10), 2)
    assert chat.state(high) == ("delivered", naive(10), 1)
    chat.merge(read(high, carol, 30))
    assert chat.state(high) == ("read", naive(10), 2)


def test_a_sender_is_not_waited_for_even_if_they_are_last(chat: Chat) -> None:
    """Each message has a sender of its own: what is the lowest pointer for one is not for another."""
    carol = chat.joins()
    by_ada, by_bob, by_carol = (chat.says(user, 1 + n) for n, user in enumerate((chat.ada, chat.bob, carol)))
    chat.merge(read(by_carol, chat.bob, 10), read(by_carol, carol, 11))
    assert chat.state(by_ada) == ("read", naive(10), 2)
    assert chat.state(by_bob) == ("delivered", naive(11), 1)
    assert chat.state(by_carol) == ("delivered", naive(10), 1)
    chat.merge(read(by_bob, chat.ada, 20))
    assert chat.state(by_bob) == ("read", naive(11), 2)
    assert chat.state(by_carol) == ("delivered", naive(10), 1)


def test_somebody_has_to_have_read_it(chat: Chat) -> None:
    """A message without other active participants is delivered, not read."""
    world = chat.world
    room = world.conversation()
    sender, left = world.participant(room), world.participant(room, status="left")
    message = world.message(room, sender, 1)
    chat.merge(read(message, left, 10), read(message, sender, 10))
    assert chat.state(message) == ("delivered", naive(10), 1)


def test_a_sender_who_is_no_participant_is_not_waited_for(chat: Chat) -> None:
    message, by_one_who_left = chat.says(chat.world.person(), 1), chat.says(chat.joins(status="left"), 2)
    chat.merge(read(by_one_who_left, chat.ada, 10))
    assert chat.state(message)[0] == chat.state(by_one_who_left)[0] == "delivered"
    chat.merge(read(by_one_who_left, chat.bob, 11))
    assert chat.state(message)[0] == chat.state(by_one_who_left)[0] == "read"


def test_who_has_left_still_counts_as_a_reader(chat: Chat) -> None:
    left = chat.joins(status="left")
    message = chat.says(chat.ada, 1)
    chat.merge(read(message, left, 10))
    assert chat.state(message) == ("delivered", naive(10), 1)
    assert chat.pointer(left) == (message, naive(10), 0)


# -- Pointers to what is gone --------------------------------------------------------------------------------


def test_a_pointer_to_a_deleted_message_stands_behind_all_of_its_time(chat: Chat) -> None:
    before, same, after = (
        chat.says(chat.ada, seconds, delivered_at=naive(1)) for seconds in (5, 10, 10 + TICK)
    )
    user = chat.joins(last_read_message_id=chat.world.id(), last_read_at=naive(10))
    chat.merge(read(before, user, 20))
    # It is set anew, or it would stand at 20 now.
    assert chat.pointer(user) == (same, naive(20), 1)
    assert [chat.state(row_id)[2] for row_id in (before, same, after)] == [0, 0, 0]
    chat.merge(read(after, user, 20))
    assert chat.pointer(user) == (after, naive(20), 0)
    assert [chat.state(row_id)[2] for row_id in (before, same, after)] == [0, 0, 1]


def test_a_pointer_to_a_deleted_message_counts_as_one_for_who_has_read(chat: Chat) -> None:
    same, after = chat.says(chat.ada, 10), chat.says(chat.ada, 10 + TICK)
    chat.joins(last_read_message_id=chat.world.id(), last_read_at=naive(10))
    chat.merge(read(after, chat.bob, 20))
    assert chat.state(same)[0] == "read"
    assert chat.state(after)[0] == "delivered"


def test_a_pointer_into_another_conversation_is_one_to_nothing(chat: Chat) -> None:
    room = chat.world.conversation()
    elsewhere = chat.world.message(room, chat.world.person(), 100)
    old, new = chat.says(chat.ada, 10), chat.says(chat.ada, 20)
    user = chat.joins(last_read_message_id=elsewhere, last_read_at=naive(10))
    chat.merge(read(new, user, 20))
    assert chat.pointer(user) == (new, naive(20), 0)
    assert [chat.state(old)[2], chat.state(new)[2]] == [0, 1]


# -- What is not there, and what is left alone ---------------------------------------------------------------


def test_what_cannot_be_recorded_yet_is_returned_and_the_rest_is_merged(chat: Chat) -> None:
    message = chat.says(chat.ada, 1)
    room = chat.world.conversation()
    outsider, unknown = chat.world.participant(room), chat.world.id()
    missing = chat.merge(
        read(unknown, chat.bob, 10),
        delivered(unknown, chat.ada, 10),
        read(message, outsider, 10),
        delivered(message, unknown, 10),
        read(message, chat.bob, 10),
        *(event(unknown, chat.bob, status, 10) for status in ("sent", "failed")),
        *(event(message, outsider, status, 10) for status in ("sent", "failed")),
    )
    assert missing == {(unknown, chat.bob), (unknown, chat.ada), (message, outsider), (message, unknown)}
    assert chat.state(message) == ("read", naive(10), 1)


def test_a_participant_is_one_of_the_messages_own_conversation(engine: Engine) -> None:
    """The next conversation's first participant is the very same person."""
    world = OpenchatWorld()
    low, high = sorted(world.id() for _ in range(2))
    for room in (low, high):
        world.conversation(id=room)
    person = world.participant(high)
    message = world.message(low, world.participant(low), 1)
    with engine.begin() as connection:
        world.save(connection)
        assert merge(connection, TABLE, [read(message, person, 10)]) == {(message, person)}
        assert rows(connection, high).participants[person].pointer is None


def test_that_it_was_sent_or_failed_changes_nothing(chat: Chat) -> None:
    message = chat.says(chat.ada, 1)
    chat.save()
    with chat.engine.connect() as connection:
        before = everything(connection)
    missing = chat.world.id()
    assert (
        chat.merge(
            *(event(row, chat.bob, status, 5) for row in (message, missing) for status in ("sent", "failed"))
        )
        == set()
    )
    assert chat.merge() == set()
    with chat.engine.connect() as connection:
        assert everything(connection) == before


def test_only_what_was_reported_of_is_written_and_only_once(chat: Chat) -> None:
    messages = [chat.says(chat.ada, seconds) for seconds in range(4)]
    chat.says(chat.bob, 5)
    others = Chat(chat.engine, chat.world)
    # With the same people: it is the conversation that counts.
    others.joins(user=chat.bob)
    others.joins(user=chat.ada)
    for seconds in range(4):
        others.says(chat.ada, seconds)
    chat.save()
    with chat.engine.connect() as connection:
        before = everything(connection)
    report = [read(messages[2], chat.bob, 10), delivered(messages[3], chat.bob, 9)]
    chat.merge(*report)
    with chat.engine.connect() as connection:
        after = everything(connection)
    written = {name: [row[1] for row in after[name] if row not in before[name]] for name in after}
    changed = {name: set(found) for name, found in written.items() if found}
    people = {
        row[1] for row in after["openchat.conversation_participant"] if chat.bob in row and chat.id in row
    }
    assert changed == {"openchat.message": set(messages), "openchat.conversation_participant": people}
    assert chat.message(messages[2]).updated_at == naive(2)
    # Not one row is written a second time.
    chat.merge(*report, *report)
    chat.merge(*report[:1], read(messages[0], chat.bob, 10), delivered(messages[0], chat.bob, 12))
    with chat.engine.connect() as connection:
        assert everything(connection) == after


# -- In any order --------------------------------------------------------------------------------------------

STATUSES = ("sent", "delivered", "read", "edited", "deleted", "failed", "sending")
EVENTS: tuple[Status, ...] = ("sent", "failed", "delivered", "read", "read", "read")


@dataclass(frozen=True)
class Story:
    """A conversation, made as `random` says, and what is reported of it."""

    conversation: UUID
    events: list[Event]


def make_story(
    world: OpenchatWorld, chance: random.Random, people: int = 5, messages: int = 12, events: int = 25
) -> Story:
    """Add a conversation of at most so many, and make up what happens there."""
    conversation = world.conversation()
    users = [world.participant(conversation) for _ in range(chance.randint(2, people))]
    if chance.random() < 0.5:
        absent: dict[str, Any] = chance.choice(
            [{"status": "left"}, {"status": "invited"}, {"left_at": naive(0), "joined_at": naive(0)}]
        )
        users.append(world.participant(conversation, **absent))
    senders = [*users, world.person()]
    written = [
        world.message(
            conversation,
            chance.choice(senders),
            # Few times, so that some are equal.
            chance.randint(0, messages * 2 // 3),
            status=chance.choice(STATUSES[:2] * 3 + STATUSES),
            delivered_at=chance.choice([None, None, naive(chance.randint(0, 40))]),
            read_by_count=chance.choice([0, 0, 3, None]),
            is_deleted=chance.choice([False, False, True, None]),
        )
        for _ in range(chance.randint(0, messages))
    ]
    strangers = [world.id(), world.person()]
    happened = [
        event(
            chance.choice(written * 5 + [world.id()]),
            chance.choice(users * 5 + strangers),
            chance.choice(EVENTS),
            chance.randint(0, 40),
        )
        for _ in range(chance.randint(0, events))
    ]
    return Story(conversation, happened)


def portions(events: Sequence[Event], chance: random.Random, most: int = 25) -> Iterator[list[Event]]:
    """Put the events in another order, some of them twice, in portions of any size up to a limit."""
    shuffled = [*events, *chance.choices(events, k=chance.randint(0, len(events)))] if events else []
    chance.shuffle(shuffled)
    while shuffled:
        size = chance.randint(1, most)
        yield shuffled[:size]
        del shuffled[:size]


def outcome(
    connection: Connection, story: Story, batches: Iterable[Sequence[Event]]
) -> tuple[list[str], set[Pair]]:
    """Merge, and undo it; return what it led to, and what could not be recorded."""
    with connection.begin_nested() as savepoint:
        missing = [merge(connection, TABLE, batch) for batch in batches]
        after = rows(connection, story.conversation).lines()
        savepoint.rollback()
    return after, set().union(*missing)


@examples(20)
@given(chance=st.randoms(use_true_random=True))
def check_any_order(engine: Engine, chance: random.Random) -> None:
    world = OpenchatWorld(chance)
    story = make_story(world, chance)
    with engine.connect() as connection:
        world.save(connection)
        before = rows(connection, story.conversation)
        expected = before.after(story.events).lines()
        missing = {
            event.pair
            for event in story.events
            if event.status in ("delivered", "read")
            and not (event.message_id in before.messages and event.user_id in before.participants)
        }
        for batches in ([story.events], *(portions(story.events, chance) for _ in range(4))):
            after, left = outcome(connection, story, batches)
            assert after == expected
            assert left == missing


def test_any_order_doubling_and_split_ends_as_the_rules_say(engine: Engine) -> None:
    check_any_order(engine)


@examples(20)
@given(chance=st.randoms(use_true_random=True))
def check_any_order_after_deletion(engine: Engine, chance: random.Random) -> None:
    world = OpenchatWorld(chance)
    story = make_story(world, chance)
    with engine.connect() as connection:
        world.save(connection)
        merge(connection, TABLE, story.events[::2])
        people = rows(connection, story.conversation).participants.values()
        deleted = [person.pointer for person in people if person.pointer and chance.random() < 0.7]
        connection.execute(delete(Message).where(Message.id.in_(deleted)))
        before = rows(connection, story.conversation)
        later = story.events[1::2]
        expected = before.after(later).lines()
        for batches in ([later], *(portions(later, chance) for _ in range(4))):
            after, _ = outcome(connection, story, batches)
            assert after == expected


def test_a_pointer_to_a_deleted_message_makes_no_difference_to_that(engine: Engine) -> None:
    check_any_order_after_deletion(engine)


# -- Many at once --------------------------------------------------------------------------------------------


def waiting(engine: Engine) -> bool:
    """Return whether a transaction waits for a lock."""
    with engine.begin() as connection:
        query = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock')"
        return bool(connection.scalar(text(query)))


def test_conversations_are_locked_each_on_its_own_until_the_end(engine: Engine) -> None:
    world = OpenchatWorld()
    one, other = world.id(), world.id()
    with ThreadPoolExecutor() as pool, engine.connect() as holder:

        def lock(*ids: UUID) -> None:
            with engine.begin() as connection:
                lock_conversations(connection, ids)

        with holder.begin():
            lock_conversations(holder, [one])
            lock(other)
            waiter = pool.submit(lock, other, one)
            eventually(lambda: waiting(engine))
            assert not waiter.done()
        waiter.result()


def test_what_the_application_has_just_written_is_kept(chat: Chat) -> None:
    """Its message is edited while we wait for the row, after our statement has begun."""
    edited, deleted, plain = (chat.says(chat.ada, seconds) for seconds in (1, 2, 3))
    chat.save()
    with ThreadPoolExecutor() as pool:
        with chat.engine.begin() as connection:
            change = update(Message)
            connection.execute(
                change.where(Message.id == edited).values(
                    status="edited", read_by_count=Message.read_by_count + 5
                )
            )
            connection.execute(
                change.where(Message.id == deleted).values(status="deleted", delivered_at=naive(4))
            )
            merging = pool.submit(chat.merge, read(plain, chat.bob, 10))
            eventually(lambda: waiting(chat.engine))
        assert merging.result() == set()
    assert chat.state(edited) == ("edited", naive(10), 6)
    assert chat.state(deleted) == ("deleted", naive(4), 1)
    assert chat.state(plain) == ("read", naive(10), 1)


def test_a_pointer_that_the_application_has_just_moved_does_not_go_back(chat: Chat) -> None:
    first, second = chat.says(chat.ada, 1), chat.says(chat.ada, 2)
    chat.save()
    with ThreadPoolExecutor() as pool:
        with chat.engine.begin() as connection:
            change = update(ConversationParticipant).where(ConversationParticipant.user_id == chat.bob)
            connection.execute(change.values(last_read_message_id=second, last_read_at=naive(5)))
            merging = pool.submit(chat.merge, read(first, chat.bob, 10))
            eventually(lambda: waiting(chat.engine))
        merging.result()
    assert chat.pointer(chat.bob) == (second, naive(10), 0)


def test_participants_are_locked_in_the_order_of_their_ids(chat: Chat) -> None:
    """Another transaction that locks them in the same order cannot deadlock with ours."""
    low, high = sorted(chat.world.id() for _ in range(2))
    by_high, by_low = chat.joins(id=high), chat.joins(id=low)
    first, second = sorted(chat.world.id() for _ in range(2))
    for row_id in (first, second):
        chat.says(chat.ada, 1, id=row_id)
    chat.save()
    person = ConversationParticipant
    with ThreadPoolExecutor() as pool:
        with chat.engine.begin() as connection:
            connection.execute(update(person).where(person.id == low).values(is_muted=True))
            # Taken as they come the other one would be locked first.
            merging = pool.submit(chat.merge, read(first, by_high, 10), read(second, by_low, 10))
            eventually(lambda: waiting(chat.engine))
            connection.execute(update(person).where(person.id == high).values(is_muted=True))
        merging.result()
    assert chat.state(first)[2] == 2


def test_two_at_once_lose_no_count(chat: Chat) -> None:
    """The second one has begun, and waits, before the first one ends: it has to look again."""
    carol = chat.joins()
    first, second = chat.says(chat.ada, 1), chat.says(chat.ada, 2)
    chat.save()
    with ThreadPoolExecutor() as pool:
        with chat.engine.begin() as connection:
            merge(connection, TABLE, [read(first, chat.bob, 10)])
            merging = [pool.submit(chat.merge, read(second, user, 20)) for user in (chat.bob, carol)]
            eventually(lambda: waiting(chat.engine))
        for one in merging:
            one.result()
    assert chat.state(first) == ("read", naive(10), 2)
    assert chat.state(second) == ("read", naive(20), 2)
    assert chat.pointer(chat.bob) == (second, naive(20), 0)


class Worker:
    """One of many that report; some of its transactions fail in the end, and are repeated."""

    def __init__(self, url: str, batches: list[list[Event]], chance: random.Random) -> None:
        self.engine = create(load({"DATABASE_URL": url}), connections=12)
        self.batches, self.chance = batches, chance
        self.pid: int | None = None
        self.lost = 0

    def work(self) -> None:
        for batch in self.batches:
            while not self.done(batch):
                self.lost += 1
        self.engine.dispose()

    def done(self, batch: list[Event]) -> bool:
        """Try once; return whether it was committed."""
        fate = self.chance.choice(["end", "end", "end", "undo", "die"])
        try:
            with self.engine.connect() as connection, connection.begin() as transaction:
                self.pid = connection.scalar(text("SELECT pg_backend_pid()"))
                merge(connection, TABLE, batch)
                if fate == "undo":
                    transaction.rollback()
                    return False
                if fate == "die":
                    assert self.pid
                    terminate(self.engine, self.pid)
        except OperationalError as error:
            # Nothing else may go wrong, and a deadlock least of all.
            assert error.connection_invalidated, error
            return False
        return True


def terminate(engine: Engine, pid: int) -> None:
    with engine.begin() as connection:
        connection.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})


def edit(url: str, ids: list[UUID], over: threading.Event) -> int:
    """Change some messages in the order of their ids, as an API may, again and again; return how often."""
    engine, rounds = create(load({"DATABASE_URL": url}), connections=12), 0
    while not over.is_set():
        with engine.begin() as connection:
            for row_id in sorted(random.sample(ids, min(len(ids), 15))):
                connection.execute(update(Message).where(Message.id == row_id).values(content=str(rounds)))
        rounds += 1
    engine.dispose()
    return rounds


def test_many_at_once_some_of_them_killed_end_as_the_rules_say(engine: Engine, database: str) -> None:
    chance = random.Random(7)
    world = OpenchatWorld(chance)
    stories = [make_story(world, chance, people=20, messages=40, events=800) for _ in range(3)]
    events = [event for story in stories for event in story.events]
    with engine.begin() as connection:
        world.save(connection)
        before = [rows(connection, story.conversation) for story in stories]
    workers = []
    for number in range(8):
        # Events that no other worker reports, and some that others do.
        own_events = events[number::8] + chance.sample(events, min(len(events), 100))
        workers.append(Worker(database, list(portions(own_events, chance, 60)), random.Random(number)))
    over = threading.Event()
    with ThreadPoolExecutor(10) as pool:
        api = pool.submit(edit, database, [row_id for room in before for row_id in room.messages], over)
        working: list[Future[None]] = [pool.submit(worker.work) for worker in workers]
        # Some die in the midst of a statement, or while they wait.
        while not all(future.done() for future in working):
            victim = chance.choice(workers)
            if victim.pid:
                terminate(engine, victim.pid)
            over.wait(0.1)
        over.set()
        for future in working:
            future.result()
        assert api.result() > 0
    assert sum(worker.lost for worker in workers) > 20
    with engine.begin() as connection:
        for story, room in zip(stories, before, strict=True):
            assert rows(connection, story.conversation).lines() == room.after(story.events).lines()


# -- At any size ---------------------------------------------------------------------------------------------

_MANY = """
INSERT INTO openchat."user" (id, name, email, email_verified)
    SELECT gen_random_uuid(), 'Ada', n || '@x.org', true FROM generate_series(1, 2000) n;
INSERT INTO openchat.conversation (created_by)
    SELECT id FROM openchat."user";
INSERT INTO openchat.conversation_participant (conversation_id, user_id)
    SELECT c.id, u.id FROM openchat.conversation c
    CROSS JOIN LATERAL (SELECT id FROM openchat."user" WHERE id > c.id ORDER BY id LIMIT 10) u;
INSERT INTO openchat.message (conversation_id, sender_id, content, created_at)
    SELECT c.id, c.created_by, 'hello', timestamp '2026-03-01' + n * interval '1 minute'
    FROM openchat.conversation c, generate_series(1, 100) n;
ANALYZE;
"""


def test_no_table_is_gone_through_from_end_to_end(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql(_MANY)
    for plans in ("force_custom_plan", "force_generic_plan"):
        output = "\n".join(plans_of_a_merge(engine, plans))
        for table in ("message", "conversation_participant"):
            assert output.count(f"Update on {table} ") == 1
            assert f"Index Scan using {table}_pkey" in output
        assert "Index Scan on message_conversation_created_idx" in output
        assert "Index Scan using conversation_participant_conversation_id_user_id_key" in output
        assert "Seq Scan" not in output


def plans_of_a_merge(engine: Engine, mode: str) -> list[str]:
    """Merge 1,000 events of 50 conversations; return the plans by which that was done, and undo it."""
    notices: list[str] = []
    with engine.connect() as connection:
        driver: Any = connection.connection.dbapi_connection
        driver.prepare_threshold = 0
        driver.add_notice_handler(lambda notice: notices.append(notice.message_primary))
        connection.exec_driver_sql("LOAD 'auto_explain'")
        rooms = select(Message.conversation_id).distinct().limit(50)
        person = ConversationParticipant
        pairs = connection.execute(
            select(Message.id, person.user_id)
            .join(person, person.conversation_id == Message.conversation_id)
            .where(Message.conversation_id.in_(rooms))
            .limit(1000)
        ).all()
        for setting in (
            "auto_explain.log_min_duration = 0",
            "client_min_messages = log",
            f"plan_cache_mode = {mode}",
        ):
            connection.exec_driver_sql(f"SET LOCAL {setting}")
        assert not merge(connection, TABLE, [read(*pair, 10) for pair in pairs])
        connection.rollback()
        driver.prepare_threshold = 5
    return notices
