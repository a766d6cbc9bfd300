"""Statuses in rows: any order, any repetition, any batching, any number of writers end in the same rows."""

import threading
from collections.abc import Iterator, Sequence
from random import Random
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, insert, select, text, update
from sqlalchemy.exc import DBAPIError, OperationalError

from models import connect, pern
from tasks.apps import APPS
from tasks.delivery.events import Event
from tasks.delivery.merge import merge
from tasks.policies.status import ReadMarks, StatusRows
from tests.delivery.people import Connect, Pern, Rows, at, event
from tests.examples import examples
from workers import db
from workers.settings import load

STATUSES = ("sent", "failed", "delivered", "read")
World = Pern | Connect
WORLDS: list[World] = [Pern(), Connect()]
each = pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.name)
#: The same each time.
QUICK = examples(20)


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    made = db.create(load({"DATABASE_URL": database}))
    yield made
    made.dispose()


def table(world: World) -> StatusRows | ReadMarks:
    found = APPS[world.name].delivery
    assert isinstance(found, StatusRows | ReadMarks)
    return found


def expected(world: World, events: Sequence[Event], sender: UUID, before: Rows | None = None) -> Rows:
    """The rules, said once more, and more slowly."""
    rows = dict(before or {})
    for one in events:
        key = (one.message_id, one.user_id)
        own_events = [other for other in events if (other.message_id, other.user_id) == key]
        reads = [other.at for other in own_events if other.status == "read"]
        if isinstance(world, Connect):
            if reads and one.user_id != sender:
                known = [moment for (moment,) in [rows.get(key, (None,))] if moment]
                rows[key] = (min(reads + known),)
            continue
        status, delivered, read = (before or {}).get(key, ("sent", None, None))
        order = [*STATUSES, "reacted"]
        arrived = [other.at for other in own_events if other.status in ("delivered", "read")]
        rows[key] = (
            max([status, *(other.status for other in own_events)], key=order.index),
            min([*arrived, *(moment for moment in (delivered, read) if moment)], default=None),
            min([*reads, *([read] if read else [])], default=None),
        )
    return rows


def send(engine: Engine, world: World, batches: Sequence[Sequence[Event]]) -> None:
    for batch in batches:
        with engine.begin() as connection:
            assert merge(connection, table(world), batch) == set()


@each
def test_any_order_repetition_and_batching_ends_in_the_same_rows(engine: Engine, world: World) -> None:
    @QUICK
    @given(st.data())
    def check(data: st.DataObject) -> None:
        with engine.begin() as connection:
            people = world.people(connection, 3)
            messages = world.messages(connection, people[0], 3)
        history = data.draw(
            st.lists(
                st.builds(
                    event,
                    st.sampled_from(messages),
                    st.sampled_from(people),
                    st.sampled_from(STATUSES),
                    st.integers(0, 9),
                ),
                min_size=1,
                max_size=25,
            )
        )
        repeated = history + data.draw(st.lists(st.sampled_from(history), max_size=10))
        shuffled = data.draw(st.permutations(repeated))
        cuts = sorted(data.draw(st.sets(st.integers(1, len(shuffled)), max_size=6)) | {len(shuffled)})
        send(engine, world, [shuffled[start:end] for start, end in zip([0, *cuts], cuts, strict=False)])
        with engine.begin() as connection:
            assert world.rows(connection, messages) == expected(world, history, people[0])

    check()


def test_rows_of_others_are_merged_with(engine: Engine) -> None:
    """What the application itself, or a writer before us, has left there: reactions, missing times."""
    world = Pern()

    @QUICK
    @given(st.data())
    def check(data: st.DataObject) -> None:
        moment = st.none() | st.integers(0, 9).map(at)
        with engine.begin() as connection:
            people = world.people(connection, 2)
            messages = world.messages(connection, people[0], 2)
            held = [
                {
                    "message_id": message,
                    "user_id": people[1],
                    "status": data.draw(st.sampled_from([*STATUSES, "reacted"])),
                    "delivered_at": data.draw(moment),
                    "read_at": data.draw(moment),
                }
                for message in messages
            ]
            connection.execute(
                insert(pern.MessageStatus), [{"id": uuid4(), **world.stamps, **row} for row in held]
            )
            before = world.rows(connection, messages)
        history = data.draw(
            st.lists(
                st.builds(
                    event,
                    st.sampled_from(messages),
                    st.just(people[1]),
                    st.sampled_from(STATUSES),
                    st.integers(0, 9),
                ),
                max_size=8,
            )
        )
        for one in history:
            send(engine, world, [[one]])
        with engine.begin() as connection:
            found = world.rows(connection, messages)
        wanted = expected(world, history, people[0], before)
        for key, row in found.items():
            touched = any((one.message_id, one.user_id) == key for one in history)
            # A time that is missing is made good by an event that changes the row, and by no other.
            assert row == wanted[key] or (not touched and row == before[key])

    check()


@pytest.mark.parametrize(
    ("first", "then", "status", "delivered", "read"),
    [
        ("read", "delivered", "read", 1, 1),
        ("delivered", "read", "read", 1, 2),
        ("delivered", "failed", "delivered", 1, None),
        ("failed", "delivered", "delivered", 2, None),
        ("failed", "sent", "failed", None, None),
        ("sent", "failed", "failed", None, None),
        ("sent", "read", "read", 2, 2),
    ],
)
def test_each_step_of_a_status(
    engine: Engine, first: str, then: str, status: str, delivered: int | None, read: int | None
) -> None:
    world = Pern()
    with engine.begin() as connection:
        ada, bob = world.people(connection, 2)
        (message,) = world.messages(connection, ada, 1)
    send(engine, world, [[event(message, bob, first, 1)], [event(message, bob, then, 2)]])
    with engine.begin() as connection:
        moments = tuple(None if moment is None else at(moment) for moment in (delivered, read))
        assert world.rows(connection, [message]) == {(message, bob): (status, *moments)}


@pytest.mark.parametrize(
    ("first", "late", "read"), [("read", "delivered", 2), ("delivered", "delivered", None)]
)
def test_a_late_event_gives_its_earlier_time_and_takes_no_status_back(
    engine: Engine, first: str, late: str, read: int | None
) -> None:
    world = Pern()
    with engine.begin() as connection:
        ada, bob = world.people(connection, 2)
        (message,) = world.messages(connection, ada, 1)
    send(engine, world, [[event(message, bob, first, 2)], [event(message, bob, late, 1)]])
    with engine.begin() as connection:
        read_at = None if read is None else at(read)
        assert world.rows(connection, [message]) == {(message, bob): (first, at(1), read_at)}


def test_a_reaction_is_kept_and_gains_its_times(engine: Engine) -> None:
    world = Pern()
    with engine.begin() as connection:
        ada, bob = world.people(connection, 2)
        (message,) = world.messages(connection, ada, 1)
        row = {"id": uuid4(), "message_id": message, "user_id": bob, "status": "reacted", "reaction": "👍"}
        connection.execute(insert(pern.MessageStatus).values(**row, **world.stamps))
    send(engine, world, [[event(message, bob, "read", 5)]])
    with engine.begin() as connection:
        found = connection.execute(select(*pern.MessageStatus.__table__.columns)).one()
    assert (found.id, found.status, found.reaction) == (row["id"], "reacted", "👍")
    assert (found.delivered_at, found.read_at) == (at(5), at(5))
    assert found.updated_at > world.stamps["updated_at"]
    assert found.created_at == world.stamps["created_at"]


@each
def test_what_says_nothing_new_writes_nothing(engine: Engine, world: World) -> None:
    with engine.begin() as connection:
        ada, bob = world.people(connection, 2)
        messages = world.messages(connection, ada, 3)
    events = [event(message, bob, "read", 5) for message in messages]
    send(engine, world, [events])
    model = pern.MessageStatus if isinstance(world, Pern) else connect.MessageReadStatus
    versions = select(text("xmin::text"), *model.__table__.columns).order_by(model.id)
    with engine.begin() as connection:
        before = connection.execute(versions).all()
    late = [event(message, bob, "read", 5.001) for message in messages]
    send(engine, world, [events, events[::-1], late, [event(messages[0], bob, "sent", 1)]])
    with engine.begin() as connection:
        assert connection.execute(versions).all() == before


@each
def test_what_is_not_there_is_returned_and_the_rest_is_merged(engine: Engine, world: World) -> None:
    with engine.begin() as connection:
        ada, bob = world.people(connection, 2)
        (message,) = world.messages(connection, ada, 1)
    unknown, nothing = uuid4(), uuid4()
    events = [
        event(message, bob, "read", 1),
        event(nothing, bob, "read", 2),
        event(message, unknown, "read", 3),
        event(nothing, unknown, "read", 4),
    ]
    with engine.begin() as connection:
        missing = merge(connection, table(world), events)
        assert missing == {(nothing, bob), (message, unknown), (nothing, unknown)}
        assert world.rows(connection, [message, nothing]).keys() == {(message, bob)}


def test_only_what_was_read_is_kept_where_only_reading_is(engine: Engine) -> None:
    world = Connect()
    with engine.begin() as connection:
        ada, bob = world.people(connection, 2)
        (message,) = world.messages(connection, ada, 1)
        # Neither is it waited for.
        events = [event(message, bob, "delivered", 1), event(uuid4(), bob, "sent", 1)]
        assert merge(connection, table(world), events) == set()
        assert world.rows(connection, [message]) == {}
        # And a sender is not a reader.
        assert merge(connection, table(world), [event(message, ada, "read", 1)]) == set()
        assert world.rows(connection, [message]) == {}


def test_a_time_of_reading_that_is_missing_is_made_good(engine: Engine) -> None:
    world = Connect()
    with engine.begin() as connection:
        ada, bob = world.people(connection, 2)
        (message,) = world.messages(connection, ada, 1)
        connection.execute(
            insert(connect.MessageReadStatus).values(message_id=message, user_id=bob, read_at=None)
        )
    send(engine, world, [[event(message, bob, "read", 3)]])
    with engine.begin() as connection:
        assert world.rows(connection, [message]) == {(message, bob): (at(3),)}


@each
def test_many_writers_at_once_some_of_whom_are_killed(engine: Engine, world: World) -> None:
    """Each repeats what was cut off: no deadlock, nothing is lost, nothing is doubled."""
    with engine.begin() as connection:
        people = world.people(connection, 5)
        messages = world.messages(connection, people[0], 20)
    events = [
        event(message, person, status, second)
        for message in messages
        for person in people
        for second, status in enumerate(("sent", "delivered", "read"))
    ]
    faults: list[BaseException] = []

    def write(seed: int) -> None:
        chance, shuffled = Random(seed), [*events]
        chance.shuffle(shuffled)
        for start in range(0, len(shuffled), 40):
            batch = shuffled[start : start + 40]
            while True:
                try:
                    with engine.begin() as connection:
                        merge(connection, table(world), batch)
                        if chance.random() < 0.2:
                            connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
                    break
                except OperationalError as error:
                    if "deadlock" in str(error):
                        faults.append(error)
                        return
                except DBAPIError as error:
                    faults.append(error)
                    return

    threads = [threading.Thread(target=write, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    with engine.begin() as connection:
        assert world.rows(connection, messages) == expected(world, events, people[0])


def test_other_rows_are_not_touched(engine: Engine) -> None:
    world = Pern()
    with engine.begin() as connection:
        ada, bob = world.people(connection, 2)
        messages = world.messages(connection, ada, 2)
    send(engine, world, [[event(message, bob, "delivered", 1) for message in messages]])
    everything = {
        model: select(*model.__table__.columns) for model in (pern.User, pern.Message, pern.Conversation)
    }
    with engine.begin() as connection:
        before = {model: connection.execute(query).all() for model, query in everything.items()}
        connection.execute(update(pern.MessageStatus).values(updated_at=at(0)))
    send(engine, world, [[event(messages[0], bob, "read", 2)]])
    with engine.begin() as connection:
        assert {model: connection.execute(query).all() for model, query in everything.items()} == before
        still = select(pern.MessageStatus.updated_at).where(pern.MessageStatus.message_id == messages[1])
        assert connection.scalar(still) == at(0)
