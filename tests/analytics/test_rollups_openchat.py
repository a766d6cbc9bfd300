"""The statistics of `openchat`."""

import random
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text, update

from models.openchat import Message
from tasks.apps import APPS
from tests.analytics import oracle_openchat as oracle
from tests.analytics.figuring import (
    LEAPS,
    Database,
    Place,
    Rows,
    agree,
    computed,
    flat,
    midnight,
    needed,
    rolled_back,
)
from tests.analytics.oracle_openchat import conversation, message, person
from tests.examples import examples
from tests.platform import Platform

TYPES, DAILY = APPS["openchat"].rollups
DAY = LEAPS["UTC"]
NEXT = DAY + timedelta(days=1)
START = midnight(DAY)
NOON = START + timedelta(hours=12)


def found(platform: Database, rollup: Any = DAILY, zone: str = "UTC") -> dict[Place, Any]:
    """Compute all days that a test may touch; return all statistics."""
    day = LEAPS[zone]
    return computed(platform, rollup, day - timedelta(days=2), day + timedelta(days=3), zone)


def test_the_figures_are_the_oracles(platform: Platform) -> None:
    @examples(16)
    @given(chance=st.randoms(use_true_random=True), zone=st.sampled_from(list(LEAPS)))
    def check(chance: random.Random, zone: str) -> None:
        rows = oracle.history(chance, zone)
        with rolled_back(platform) as connection:
            rows.write(connection)
            agree(found(connection, TYPES, zone), flat(oracle.messages_daily(rows, zone)))
            agree(found(connection, DAILY, zone), flat(oracle.daily(rows, zone)))

    check()


@pytest.mark.parametrize("role_zone", ["America/New_York", "Asia/Kathmandu"])
def test_what_is_kept_in_utc_is_read_so_whatever_the_database_is_set_to(
    platform: Platform, role_zone: str
) -> None:
    platform.sql(
        f"ALTER ROLE CURRENT_USER IN DATABASE {platform.engine.url.database} SET timezone = '{role_zone}'"
    )
    platform.engine.dispose()
    rows = Rows()
    message(rows, conversation(rows), START, delivered=START)
    rows.write(platform)
    assert {day for day, _ in found(platform)} == {DAY}


def test_each_content_type_has_a_row(platform: Platform) -> None:
    rows = Rows()
    where = conversation(rows)
    kinds = ["text", "image", "file", "audio", "video", "code", "system", "poll", "location"]
    for count, kind in enumerate(kinds, start=1):
        for number in range(count):
            message(rows, where, NOON, content_type=kind, is_deleted=number == 0)
    rows.write(platform)
    assert found(platform, TYPES) == {
        (DAY, kind, "messages"): count for count, kind in enumerate(kinds, start=1)
    }
    # The types are sums of the day, and add up to it.
    assert found(platform)[DAY, "messages"] == 45


def test_active_are_those_who_wrote(platform: Platform) -> None:
    rows = Rows()
    here, there = conversation(rows), conversation(rows)
    ada, bob, eve, dan = (person(rows) for _ in range(4))
    message(rows, here, NOON, ada)
    message(rows, there, NOON, ada, is_deleted=True)
    message(rows, here, NOON, bob, is_system_message=None, is_deleted=None)
    # In whose name something is told, and who writes nothing.
    message(rows, here, NOON, eve, content_type="system")
    message(rows, here, NOON, eve, is_system_message=True)
    message(rows, here, midnight(NEXT), dan, content_type="system", is_system_message=None)
    rows.write(platform)
    metrics = found(platform)
    assert [metrics[DAY, name] for name in ("messages", "active_users", "conversations")] == [5, 2, 2]
    assert [metrics[NEXT, name] for name in ("messages", "active_users", "conversations")] == [1, 0, 1]


def test_delivery_takes_as_long_as_it_took(platform: Platform) -> None:
    for count in (1, 2, 3, 20, 21, 22, 41):
        with rolled_back(platform) as connection:
            rows, chance = Rows(), random.Random(count)
            where = conversation(rows)
            took = [timedelta(microseconds=chance.randrange(60_000_000)) for _ in range(count)]
            for length in took:
                message(rows, where, NOON, delivered=NOON + length)
            message(rows, where, NOON)
            rows.write(connection)
            metrics = found(connection)
            agree(metrics, flat(oracle.daily(rows, "UTC")))
            ordered = sorted(length.total_seconds() for length in took)
            middle = (ordered[(count - 1) // 2] + ordered[count // 2]) / 2
            assert metrics[DAY, "delivery_median_seconds"] == pytest.approx(middle)
            assert (metrics[DAY, "messages"], metrics[DAY, "delivered"]) == (count + 1, count)


def test_nothing_is_delivered_before_it_was_sent_or_at_no_moment(platform: Platform) -> None:
    rows = Rows()
    where = conversation(rows)
    message(rows, where, NOON, delivered=NOON - timedelta(hours=1))
    message(rows, where, NOON, delivered=NOON + timedelta(seconds=4))
    never = message(rows, where, NOON)
    rows.write(platform)
    with platform.engine.begin() as connection:
        connection.execute(update(Message).where(Message.id == never).values(delivered_at=text("'infinity'")))
    metrics = found(platform)
    assert metrics[DAY, "delivered"] == 2
    assert metrics[DAY, "delivery_median_seconds"] == pytest.approx(2)
    assert metrics[DAY, "delivery_p95_seconds"] == pytest.approx(3.8)


def test_where_nothing_was_delivered_nothing_is_said_of_it(platform: Platform) -> None:
    rows = Rows()
    message(rows, conversation(rows), NOON)
    rows.write(platform)
    metrics = found(platform)
    assert metrics[DAY, "delivered"] == 0
    assert metrics[DAY, "delivery_median_seconds"] is metrics[DAY, "delivery_p95_seconds"] is None


def test_they_need_what_they_name() -> None:
    look = {"SELECT"}
    read = {"conversation_id", "sender_id", "content_type", "is_system_message", "created_at", "delivered_at"}
    for rollup in (TYPES, DAILY):
        assert needed(rollup) == {
            "openchat.message": (read, look),
            "openchat.conversation": ({"id"}, look),
        }
