"""A row that has a crowd of rows which are deleted with it: bounded transactions, and nothing half-done."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import func, insert, select, text

from models.base import Base
from models.echoroom import ChatMessage, ChatSession, MessageReaction, User
from models.openchat import User as OpenchatUser
from tasks.apps import POLICIES
from tasks.policies.columns import table_of
from tasks.policies.retention import Retention
from tasks.policies.sweep import Delete
from tasks.retention import batch as batches
from tasks.retention import receipts
from tasks.retention.restore import restore
from tests.platform import Platform
from tests.retention.proving import add_hold
from tests.retention.retaining import days, everything, retain
from tests.sweeps.sweeping import add, ago, rows

USERS = "echoroom.anonymous_users"
MESSAGES = "echoroom.messages"
OLD = ago(days=40)


@pytest.fixture(autouse=True)
def _period(platform: Platform) -> None:
    days(platform, **{USERS: 30, MESSAGES: 30})


def react(platform: Platform, user: UUID, number: int) -> UUID:
    """Add so many reactions of a user to a message of another, long ago; return the message."""
    room = add(platform, ChatSession, category="Calm")
    other = add(platform, User, username="Bob", is_anonymous=False)
    message = add(
        platform,
        ChatMessage,
        session_id=room,
        user_id=other,
        sender_name="Bob",
        content="hello",
        created_at=ago(days=1),
    )
    platform.sql(
        "INSERT INTO echoroom.message_reactions (message_id, user_id, emoji, created_at)"
        " SELECT :message, :user, n::text, :at FROM generate_series(1, :number) AS n",
        message=message,
        user=user,
        number=number,
        at=OLD,
    )
    return message


def anonymous(platform: Platform, name: str = "Ada") -> UUID:
    times = {"last_active": OLD, "created_at": OLD, "updated_at": OLD}
    return add(platform, User, username=name, is_anonymous=True, **times)


def reactions(platform: Platform) -> int:
    with platform.engine.begin() as connection:
        return connection.scalar(select(func.count()).select_from(MessageReaction)) or 0


@contextmanager
def observed(platform: Platform) -> Iterator[list[tuple[float, int]]]:
    """Note how long each transaction that changes rows of the application has lasted, and its locks."""
    over, found = threading.Event(), list[tuple[float, int]]()

    def look() -> None:
        with psycopg.connect(platform.environment["DATABASE_URL"], autocommit=True) as connection:
            while not over.wait(0.02):
                row = connection.execute(
                    "SELECT extract(epoch FROM clock_timestamp() - min(activity.xact_start))::float, count(*)"
                    "  FROM pg_stat_activity AS activity JOIN pg_locks AS lock USING (pid)"
                    " WHERE activity.datname = current_database() AND pid <> pg_backend_pid()"
                    "   AND EXISTS (SELECT FROM pg_locks AS own WHERE own.pid = activity.pid"
                    "        AND own.mode = 'RowExclusiveLock'"
                    "        AND own.relation = 'echoroom.message_reactions'::regclass)"
                ).fetchone()
                if row and row[1]:
                    found.append((row[0], row[1]))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()


@pytest.mark.system
def test_a_user_of_200_000_reactions_goes_in_bounded_transactions(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a slow machine, too, in one run.
    monkeypatch.setattr(batches, "PORTIONS_SECONDS", 300.0)
    user = anonymous(platform)
    react(platform, user, 200_000)
    with observed(platform) as transactions:
        done = retain(platform, USERS)
    assert (done.rows, done.remaining) == (1, 0)
    assert reactions(platform) == 0
    assert [row["username"] for row in rows(platform, User).values()] == ["Bob"]
    longest, locks = max(transactions)[0], max(count for _, count in transactions)
    # Generous, for a machine that others use: by itself each takes some tenths.
    assert longest < 10
    # Of tables and indexes; rows are not in the table of locks.
    assert locks < 300
    with platform.engine.begin() as connection:
        written = list(receipts.every(connection))
    sizes = [one.content["tables"].get("echoroom.message_reactions", 0) for one in written]
    assert sum(sizes) == 200_000
    assert max(sizes) <= batches.MOST_DEPENDANTS
    assert [one.rows for one in written] == [0] * (len(written) - 1) + [1]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> int:
    """Portions of ten rows."""
    monkeypatch.setattr(batches, "MOST_DEPENDANTS", 10)
    return 10


@pytest.mark.usefixtures("small")
def test_a_run_that_ends_between_portions_leaves_all_that_it_has_not_taken(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = anonymous(platform)
    react(platform, user, 35)
    before = everything(platform)
    real, calls = receipts.append, list[int]()

    def append(*given: Any, **named: Any) -> int:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(receipts, "append", append)
        with pytest.raises(KeyboardInterrupt):
            retain(platform, USERS)
    # Two portions; the user is there with the rest.
    assert reactions(platform) == 15
    assert user in rows(platform, User)
    assert retain(platform, USERS).rows == 1
    assert reactions(platform) == 0
    with platform.engine.begin() as connection:
        written = [one.number for one in receipts.every(connection)]
    for number in reversed(written):
        restore(number, platform.settings, operator="ada", reason="a mistake")
    assert everything(platform) == before


@pytest.mark.usefixtures("small")
def test_who_comes_back_between_portions_stays_with_the_rest(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = anonymous(platform)
    react(platform, user, 35)
    real, calls = receipts.append, list[int]()

    def append(*given: Any, **named: Any) -> int:
        calls.append(1)
        if len(calls) == 2:
            add_hold(platform, "echoroom", "user", user)
        return real(*given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(receipts, "append", append)
        retain(platform, USERS)
    assert reactions(platform) == 15
    assert user in rows(platform, User)


@pytest.mark.usefixtures("small")
def test_rows_with_few_dependants_are_not_taken_one_by_one(platform: Platform) -> None:
    for number in range(6):
        react(platform, anonymous(platform, f"Ada {number}"), 4)
    heavy = anonymous(platform, "Heavy")
    react(platform, heavy, 25)
    done = retain(platform, USERS)
    assert (done.rows, done.remaining) == (7, 0)
    assert reactions(platform) == 0
    with platform.engine.begin() as connection:
        written = list(receipts.every(connection))
    assert all(sum(one.content["tables"].values()) <= 10 + one.rows for one in written)


@pytest.mark.usefixtures("small")
def test_rows_that_stay_are_changed_in_portions_too(platform: Platform) -> None:
    user = anonymous(platform)
    room = add(platform, ChatSession, category="Calm")
    with platform.engine.begin() as connection:
        message = {
            "session_id": room,
            "user_id": user,
            "sender_name": "Ada",
            "content": "hello",
            "created_at": OLD,
        }
        connection.execute(insert(table_of(ChatMessage)), [message] * 34)
    platform.set(retention_days=f"{USERS}=30")
    before = everything(platform)
    assert retain(platform, USERS).rows == 1
    names = {(row["user_id"], row["sender_name"]) for row in rows(platform, ChatMessage).values()}
    assert names == {(None, "Deleted user")}
    with platform.engine.begin() as connection:
        written = [one.number for one in receipts.every(connection)]
    assert len(written) == 4
    for number in reversed(written):
        restore(number, platform.settings, operator="ada", reason="a mistake")
    after = everything(platform)
    # The application's trigger writes the time of each change.
    without = {"echoroom.chat_messages"}
    assert {name: found for name, found in after.items() if name not in without} == {
        name: found for name, found in before.items() if name not in without
    }
    names = {(row["user_id"], row["sender_name"]) for row in rows(platform, ChatMessage).values()}
    assert names == {(user, "Ada")}


def test_an_anonymised_user_loses_many_relationships_in_portions(platform: Platform, small: int) -> None:
    """Rows that stay, without an archive."""
    del small
    policy = "openchat.anonymised_users"
    platform.set(retention_days=f"{policy}=30")
    at = ago(days=40).replace(tzinfo=None)
    with platform.engine.begin() as connection:
        users = [
            connection.execute(
                insert(OpenchatUser)
                .values(
                    name=f"u{n}", email=f"u{n}@x.org", email_verified=True, is_deleted=n == 0, deleted_at=at
                )
                .returning(OpenchatUser.id)
            ).scalar_one()
            for n in range(36)
        ]
        connection.execute(
            text(
                "INSERT INTO openchat.user_relationship (from_user_id, to_user_id, type)"
                " SELECT :user, unnest(CAST(:others AS uuid[])), 'friend'"
            ),
            {"user": users[0], "others": users[1:]},
        )
    assert retain(platform, policy).rows == 1
    assert platform.sql("SELECT count(*) FROM openchat.user_relationship") == [(0,)]
    assert rows(platform, OpenchatUser)[users[0]]["name"] == "Deleted user"


def test_no_sweep_deletes_rows_that_others_refer_to() -> None:
    """Their foreign keys would delete a crowd in one statement; that is for a retention policy."""
    referred = {key.column.table for table in Base.metadata.tables.values() for key in table.foreign_keys}
    sweeps = [one for one in POLICIES.values() if not isinstance(one, Retention)]
    deleting = {one.table for one in sweeps if isinstance(one.action, Delete)}
    deleting |= {
        table_of(also.model) for one in sweeps for also in one.related if isinstance(also.action, Delete)
    }
    assert deleting
    assert deleting & referred == set()
