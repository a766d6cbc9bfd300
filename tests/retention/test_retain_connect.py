"""Retention of `connect`: calls that led to nothing, and messages with their read marks."""

from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import delete, insert

from models.connect import (
    Connection,
    InteractionLog,
    User,
)
from tasks.apps import policies
from tasks.retention.batch import RetentionBatches
from tasks.sweeps.batch import Seen, Taken
from tests.platform import Platform
from tests.retention.proving import proven
from tests.retention.retaining import days, everything, retain
from tests.sweeps.sweeping import INSTANT, NOW, add, rows
from tests.sweeps.test_engine import held

LOGS, MESSAGES = "connect.logs", "connect.messages"
#: As documented.
YEAR = timedelta(days=365)
DUE = NOW - YEAR - INSTANT


def person(platform: Platform, role: str = "female") -> UUID:
    key = uuid4()
    names = {"username": key.hex, "email": f"{key}@x.org", "password_hash": "x"}
    return add(platform, User, id=key, role=role, **names)


def call(platform: Platform, **values: Any) -> UUID:
    people = {"user1_id": values.pop("user1_id", None) or person(platform)}
    people["user2_id"] = values.pop("user2_id", None) or person(platform)
    given = {"room_id": "x", "started_at": DUE, "ended_at": DUE + INSTANT, "outcome": "no_action"}
    return add(platform, InteractionLog, **people, **{**given, **values})


def ties(log: UUID, one: UUID, other: UUID) -> dict[str, Any]:
    return {"user1_id": one, "user2_id": other, "interaction_log_id": log, "female_user_id": one}


def tie(platform: Platform, log: UUID, **values: Any) -> UUID:
    return add(platform, Connection, **ties(log, person(platform), person(platform)), **values)


def test_another_period_may_be_set(platform: Platform) -> None:
    days(platform, **{LOGS: 400})
    expired = call(platform, started_at=NOW - timedelta(days=400) - INSTANT)
    call(platform, started_at=NOW - timedelta(days=400))
    call(platform)
    proven(platform, LOGS, deleted={InteractionLog: [expired]})


@pytest.mark.parametrize("made", [True, False])
def test_a_connection_that_is_being_made_keeps_its_call(platform: Platform, made: bool) -> None:
    """Its transaction is not committed yet."""
    days(platform)
    log, one, other = call(platform), person(platform), person(platform)
    before = everything(platform)
    with held(platform, insert(Connection).values(ties(log, one, other))) as connection:
        done = retain(platform, LOGS)
        assert (done.rows, done.remaining, done.error) == (0, 1, None)
        assert everything(platform) == before
        if not made:
            connection.execute(delete(Connection))
    proven(platform, LOGS, deleted={InteractionLog: [] if made else [log]})


def test_a_connection_that_comes_between_look_and_lock_keeps_its_call(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    days(platform)
    log, expired = call(platform), call(platform)
    take = RetentionBatches.take

    def late(self: RetentionBatches, seen: Seen) -> Taken:
        assert {row[0] for row in seen} == {log, expired}
        tie(platform, log)
        return take(self, seen)

    monkeypatch.setattr(RetentionBatches, "take", late)
    assert retain(platform, LOGS).rows == 1
    monkeypatch.undo()
    assert set(rows(platform, InteractionLog)) == {log}
    assert len(rows(platform, Connection)) == 1
    assert retain(platform, LOGS).rows == 0


def test_a_connection_that_comes_after_the_lock_fails_or_waits_but_takes_nothing_along(
    platform: Platform,
) -> None:
    """The holder of the log's lock decides: a connection to a log that goes cannot be made."""
    days(platform)
    kept, expired = call(platform), call(platform)
    tie(platform, kept)
    assert retain(platform, LOGS).rows == 1
    with pytest.raises(Exception, match="violates foreign key"):
        tie(platform, expired)
    assert set(rows(platform, InteractionLog)) == {kept}


def test_messages_have_no_period_until_one_is_set(platform: Platform) -> None:
    assert LOGS in policies(platform.settings)
    assert MESSAGES not in policies(platform.settings)
    days(platform, **{MESSAGES: 30})
    assert MESSAGES in policies(platform.settings)
