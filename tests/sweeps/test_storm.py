"""Sweeps against a storm: people join, leave, change rooms and type over eight connections all the while."""

import random
import threading
from collections.abc import Callable
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg.errors import DeadlockDetected

from models.echoroom import ChatSession, SessionParticipant, User
from tasks.apps import APPS, POLICIES
from tasks.sweeps import task as cleanup
from tasks.sweeps.batch import Batches
from tasks.sweeps.engine import SweepRun
from tests.platform import Platform
from tests.sweeps.sweeping import add, rows
from workers.db import clock

CONNECTIONS, TURNS, ROOMS, PEOPLE = 8, 250, 6, 40
SWEPT = [policy.name for policy in APPS["echoroom"].cleanup]


class Client(threading.Thread):
    """An API service's connection, and what it knows must be there at the end."""

    def __init__(self, url: str, seed: int, rooms: list[UUID], people: list[UUID]) -> None:
        super().__init__()
        self._url = url
        self._chance = random.Random(seed)
        self._rooms = rooms
        self._people = people
        self.errors: list[Exception] = []
        #: Of each person of this connection: the turn in which they entered a room last.
        self.moods: dict[UUID, int] = {}

    def run(self) -> None:
        try:
            with psycopg.connect(self._url, autocommit=True) as connection:
                for turn in range(TURNS):
                    with connection.transaction():
                        self._chance.choice([self._join, self._join, self._leave, self._move, self._type])(
                            connection.execute, turn
                        )
        except Exception as error:  # noqa: BLE001 - for the main thread to see
            self.errors.append(error)

    def _join(self, execute: Callable[..., Any], turn: int) -> None:
        self._enter(execute, self._chance.choice(self._people), self._chance.choice(self._rooms), turn)

    def _enter(self, execute: Callable[..., Any], person: UUID, room: UUID, turn: int) -> None:
        # Long ago for the sweep's clock: it may throw them out at once.
        execute(
            "INSERT INTO echoroom.session_participants (session_id, user_id, joined_at, mood, is_speaking)"
            " VALUES (%s, %s, now() - interval '1 hour', %s, true) ON CONFLICT (session_id, user_id)"
            " DO UPDATE SET is_active = true, joined_at = excluded.joined_at, left_at = NULL,"
            " mood = excluded.mood",
            (room, person, str(turn)),
        )
        execute(
            "INSERT INTO echoroom.voice_status (session_id, user_id, is_speaking) VALUES (%s, %s, true)"
            " ON CONFLICT (session_id, user_id) DO UPDATE SET is_speaking = true, last_updated ="
            " now() - interval '1 hour'",
            (room, person),
        )
        self.moods[person] = turn

    def _leave(self, execute: Callable[..., Any], _turn: int) -> None:
        self._exit(execute, self._chance.choice(self._people), self._chance.choice(self._rooms))

    def _exit(self, execute: Callable[..., Any], person: UUID, room: UUID) -> None:
        execute(
            "UPDATE echoroom.session_participants SET is_active = false, left_at = now()"
            " WHERE user_id = %s AND session_id = %s",
            (person, room),
        )

    def _move(self, execute: Callable[..., Any], turn: int) -> None:
        """Leave one room and enter another in one transaction, which locks both rooms.

        In the order of their ids: otherwise the services would deadlock among themselves.
        """
        person = self._chance.choice(self._people)
        here, there = sorted(self._chance.sample(self._rooms, 2))
        self._exit(execute, person, here)
        self._enter(execute, person, there, turn)

    def _type(self, execute: Callable[..., Any], _turn: int) -> None:
        execute(
            "INSERT INTO echoroom.typing_indicators (session_id, user_id, username, expires_at)"
            " VALUES (%s, %s, 'Ada', now() - interval '1 second') ON CONFLICT (session_id, user_id)"
            " DO UPDATE SET started_at = now(), expires_at = excluded.expires_at",
            (self._chance.choice(self._rooms), self._chance.choice(self._people)),
        )


@pytest.mark.parametrize("seed", [1, 2])
def test_no_deadlock_no_lost_update_and_counters_that_are_right(platform: Platform, seed: int) -> None:
    rooms = [add(platform, ChatSession, category="Calm") for _ in range(ROOMS)]
    people = [add(platform, User, username="Ada", last_active=None) for _ in range(PEOPLE)]
    # Each connection has people of its own, so that it knows what must be there at the end.
    own_people = [people[number::CONNECTIONS] for number in range(CONNECTIONS)]
    url = platform.environment["DATABASE_URL"]
    clients = [Client(url, seed * 100 + n, rooms, own_people[n]) for n in range(CONNECTIONS)]
    for client in clients:
        client.start()
    settings, swept = platform.settings, 0
    while any(client.is_alive() for client in clients):
        for name in SWEPT:
            done = cleanup.run(POLICIES[name], settings)
            assert done is not None
            assert done.error is None
            swept += done.rows
    for client in clients:
        client.join()
        assert not any(isinstance(error, DeadlockDetected) for error in client.errors)
        assert client.errors == []
    assert swept > 100
    assert (
        platform.sql("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")[0][0] == 0
    )
    # What the services wrote is there: each person's last mood is in some row of theirs.
    found = rows(platform, SessionParticipant).values()
    for client in clients:
        for person, turn in client.moods.items():
            assert str(turn) in {row["mood"] for row in found if row["user_id"] == person}
    # And the counters are what there is, without a recount.
    before = rows(platform, ChatSession)
    active = {room: sum(row["session_id"] == room and row["is_active"] for row in found) for room in rooms}
    assert {room: row["current_participants"] for room, row in before.items()} == active
    assert not any(row["is_active"] and row["left_at"] for row in found)


def test_sweeps_of_one_policy_and_of_others_do_not_wait_for_each_other_in_a_circle(
    platform: Platform,
) -> None:
    """Two runs at once, as after the first one's connection was cut: each batch is safe by itself."""
    for _ in range(ROOMS):
        add(platform, ChatSession, category="Calm")
    platform.sql(
        "INSERT INTO echoroom.users (username, last_active) SELECT 'Ada', NULL FROM generate_series(1, 300)"
    )
    platform.sql(
        "INSERT INTO echoroom.session_participants (session_id, user_id, joined_at, is_speaking)"
        " SELECT room.id, who.id, now() - interval '1 hour', true"
        " FROM echoroom.chat_sessions AS room, echoroom.users AS who"
    )
    now = clock()
    totals: list[tuple[str, int]] = []
    errors: list[Exception] = []

    def go(name: str) -> None:
        try:
            policy = POLICIES[name]
            totals.append((name, SweepRun(Batches(policy, now, policy.after), 60).go().rows))
        except Exception as error:  # noqa: BLE001
            errors.append(error)

    names = ["echoroom.ghosts", "echoroom.ghosts", "echoroom.speaking", "echoroom.counts"]
    threads = [threading.Thread(target=go, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    ghosts = sum(count for name, count in totals if name == "echoroom.ghosts")
    again = cleanup.run(POLICIES["echoroom.ghosts"], platform.settings)
    assert again is not None
    assert ghosts + again.rows == 300 * ROOMS
    assert {row["current_participants"] for row in rows(platform, ChatSession).values()} == {0}
