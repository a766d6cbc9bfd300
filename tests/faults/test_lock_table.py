"""The table of locks is one for all programs of a server: a burst of statuses takes a few entries of it."""

from collections.abc import Iterator
from pathlib import Path
from random import Random
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import Engine, text

from models import openchat
from stack.ports import free_port
from stack.servers.postgres import Postgres
from tasks.apps.openchat import OPENCHAT
from tasks.delivery.events import Event
from tasks.delivery.pointers import MOST_LOCKS, lock_conversations, merge
from tasks.policies.status import ReadPointers
from tests.delivery.world import OpenchatWorld, moment
from tests.servers import PostgresServer
from workers.bootstrap import bootstrap
from workers.db import create
from workers.settings import load

assert isinstance(OPENCHAT.delivery, ReadPointers)
TABLE = OPENCHAT.delivery
_ADVISORY = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()")


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    made = create(load({"DATABASE_URL": database}))
    yield made
    made.dispose()


@pytest.mark.parametrize(("conversations", "locks"), [(1, 2), (MOST_LOCKS, MOST_LOCKS + 1), (3_000, 1)])
def test_a_batch_holds_few_locks_however_many_conversations_it_is_of(
    engine: Engine, conversations: int, locks: int
) -> None:
    world = OpenchatWorld(Random(1))
    with engine.begin() as connection:
        lock_conversations(connection, [world.id() for _ in range(conversations)])
        assert connection.scalar(_ADVISORY) == locks


@pytest.fixture
def small_server(tmp_path: Path) -> Iterator[PostgresServer]:
    """A server with the tables of `openchat` and room for some hundreds of locks."""
    server = PostgresServer(Postgres(tmp_path / "postgres", free_port(), durable=False))
    server.start()
    try:
        made = create(load({"DATABASE_URL": server.url()}))
        bootstrap(made, [openchat])
        made.dispose()
        with psycopg.connect(server.url(), autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET max_locks_per_transaction = 10")
            connection.execute("ALTER SYSTEM SET max_connections = 10")
        server.stop()
        server.start()
        yield server
    finally:
        server.stop()


def test_a_burst_over_thousands_of_conversations_leaves_room_for_others(
    small_server: PostgresServer,
) -> None:
    world, events = OpenchatWorld(Random(1)), list[Event]()
    sender, reader = world.person(), world.person()
    for number in range(5_000):
        room = world.conversation(id=UUID(int=number + 1))
        world.participant(room, sender)
        world.participant(room, reader)
        message = world.message(room, sender, 1)
        events.append(Event(message_id=message, user_id=reader, status="read", at=moment(10)))
    made = create(load({"DATABASE_URL": small_server.url()}))
    try:
        with made.begin() as connection:
            world.save(connection)
        with made.begin() as burst:
            assert merge(burst, TABLE, events) == set()
            # Another program of the same server, with locks of its own.
            with psycopg.connect(small_server.url()) as other:
                other.execute("SELECT pg_advisory_xact_lock(one) FROM generate_series(1, 100) AS one")
        with made.begin() as connection:
            found = connection.execute(text("SELECT DISTINCT status, read_by_count FROM openchat.message"))
            assert found.all() == [("read", 1)]
    finally:
        made.dispose()
