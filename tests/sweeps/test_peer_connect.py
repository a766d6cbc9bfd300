"""`connect`'s own cleanup function as a peer: ours ends in its state, but for what is named here."""

from datetime import datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import func, insert, select

from models.connect import User, UserSession
from tasks.policies.columns import table_of
from tests.platform import Platform
from tests.sweeps.sweeping import INSTANT, rows, sweep

SESSIONS = 200


def random_sessions(random: Random, now: datetime, users: list[UUID]) -> list[dict[str, Any]]:
    """Return sessions around every limit, with every NULL that the table allows."""
    month = timedelta(days=30)
    edges = [now, now - month]
    near = [edge + step for edge in edges for step in (-INSTANT, timedelta(0), INSTANT)]

    def moment() -> datetime | None:
        wherever = now + timedelta(seconds=random.uniform(-90 * 86400, 30 * 86400))
        return random.choice([None, wherever, wherever, random.choice(near)])

    return [
        {
            "id": UUID(int=random.getrandbits(128), version=4),
            "user_id": random.choice(users),
            "status": random.choice(["online", "offline", "in-call", "queuing", None]),
            "created_at": moment(),
            "updated_at": moment(),
            "expires_at": moment(),
        }
        for _ in range(SESSIONS)
    ]


@pytest.mark.parametrize("seed", range(8))
def test_sessions_end_as_by_the_documented_function(platform: Platform, seed: int) -> None:
    random = Random(seed)
    users = [UUID(int=random.getrandbits(128), version=4) for _ in range(20)]
    people = [
        {"id": key, "username": key.hex, "email": f"{key}@x.org", "password_hash": "x", "role": "male"}
        for key in users
    ]
    with platform.engine.begin() as connection:
        connection.execute(insert(table_of(User)), people)

    # Theirs, at the time of a transaction that is taken back.
    with platform.engine.connect() as connection, connection.begin() as transaction:
        now: datetime = connection.execute(select(func.now())).scalar_one()
        made = random_sessions(random, now, users)
        connection.execute(insert(table_of(UserSession)), made)
        connection.execute(select(func.user_schema.cleanup_expired_sessions()))
        by_them = {
            row["id"]: dict(row) for row in connection.execute(select(table_of(UserSession))).mappings()
        }
        transaction.rollback()

    # Ours, on the same rows and at the same moment.
    with platform.engine.begin() as connection:
        connection.execute(insert(table_of(UserSession)), made)
    before = rows(platform, UserSession)
    swept = sweep(platform, "connect.sessions", now=now)
    by_us = rows(platform, UserSession)

    # Named: theirs keeps a session without an expiry for ever, ours until 30 days after its last update.
    month_ago = now - timedelta(days=30)
    forgotten = {
        key
        for key, row in before.items()
        if row["expires_at"] is None
        and (row["updated_at"] or row["created_at"] or month_ago - INSTANT) < month_ago
    }
    assert by_us == {key: row for key, row in by_them.items() if key not in forgotten}
    # It is the only difference, and there is one in this data; theirs alone would keep some of each kind.
    assert forgotten
    assert forgotten < set(by_them)
    assert any(row["expires_at"] is None for row in by_us.values())
    assert any(row["expires_at"] is not None for row in by_us.values())
    assert swept.rows == SESSIONS - len(by_us)
    assert len(by_them) < SESSIONS
