"""The figures of `openchat`."""

import random
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Table, delete, text, update

from models.openchat import Message
from tasks.apps import APPS
from tests.analytics import oracle_openchat as oracle
from tests.analytics.figuring import (
    INSTANT,
    LEAPS,
    Place,
    Rows,
    agree,
    computed,
    empty,
    flat,
    midnight,
    naive,
    needed,
)
from tests.analytics.oracle_openchat import conversation, message, person
from tests.examples import examples
from tests.platform import Platform

TYPES, DAILY = APPS["openchat"].rollups
TABLES: list[Table] = APPS["openchat"].tables()
DAY = LEAPS["UTC"]
NEXT = DAY + timedelta(days=1)
START = midnight(DAY)
NOON = START + timedelta(hours=12)


def found(platform: Platform, rollup: Any = DAILY, zone: str = "UTC") -> dict[Place, Any]:
    """Compute all days that a test may touch; return all figures."""
    day = LEAPS[zone]
    return computed(platform, rollup, day - timedelta(days=2), day + timedelta(days=3), zone)


@pytest.mark.parametrize("zone", LEAPS)
def test_the_figures_are_the_oracles(platform: Platform, zone: str) -> None:
    @examples(8)
    @given(chance=st.randoms(use_true_random=True))
    def check(chance: random.Random) -> None:
        rows = oracle.history(chance, zone)
        empty(platform, TABLES)
        rows.write(platform)
        agree(found(platform, TYPES, zone), flat(oracle.messages_daily(rows, zone)))
        agree(found(platform, DAILY, zone), flat(oracle.daily(rows, zone)))

    check()


def test_a_message_is_of_the_day_in_which_it_was_sent(platform: Platform) -> None:
    rows = Rows()
    where = conversation(rows)
    for sent in (START - INSTANT, START, START + INSTANT, midnight(NEXT) - INSTANT, midnight(NEXT)):
        # Delivered on another day.
        message(rows, where, sent, delivered=sent + timedelta(days=2))
    rows.write(platform)
    figures = found(platform)
    for name in ("messages", "delivered"):
        days = {day: value for (day, of), value in figures.items() if of == name}
        assert days == {DAY - timedelta(days=1): 1, DAY: 3, NEXT: 1}
    assert figures[DAY, "delivery_median_seconds"] == 2 * 86_400


@pytest.mark.parametrize(
    ("zone", "hours"), [("Europe/Berlin", 23), ("America/New_York", 25), ("Asia/Kathmandu", 24)]
)
def test_a_day_is_as_long_as_its_zone_has_it(platform: Platform, zone: str, hours: int) -> None:
    rows, day = Rows(), LEAPS[zone]
    where = conversation(rows)
    for hour in range(-1, hours + 1):
        message(rows, where, midnight(day, zone) + timedelta(hours=hour))
    rows.write(platform)
    figures = found(platform, DAILY, zone)
    assert figures[day, "messages"] == hours
    assert figures[day - timedelta(days=1), "messages"] == figures[day + timedelta(days=1), "messages"] == 1


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
    figures = found(platform)
    assert [figures[DAY, name] for name in ("messages", "active_users", "conversations")] == [5, 2, 2]
    assert [figures[NEXT, name] for name in ("messages", "active_users", "conversations")] == [1, 0, 1]


@pytest.mark.parametrize("count", [1, 2, 3, 20, 21, 22, 41])
def test_delivery_takes_as_long_as_it_took(platform: Platform, count: int) -> None:
    rows, chance = Rows(), random.Random(count)
    where = conversation(rows)
    took = [timedelta(microseconds=chance.randrange(60_000_000)) for _ in range(count)]
    for length in took:
        message(rows, where, NOON, delivered=NOON + length)
    message(rows, where, NOON)
    rows.write(platform)
    figures = found(platform)
    agree(figures, flat(oracle.daily(rows, "UTC")))
    ordered = sorted(length.total_seconds() for length in took)
    middle = (ordered[(count - 1) // 2] + ordered[count // 2]) / 2
    assert figures[DAY, "delivery_median_seconds"] == pytest.approx(middle)
    assert (figures[DAY, "messages"], figures[DAY, "delivered"]) == (count + 1, count)


def test_nothing_is_delivered_before_it_was_sent_or_at_no_moment(platform: Platform) -> None:
    rows = Rows()
    where = conversation(rows)
    message(rows, where, NOON, delivered=NOON - timedelta(hours=1))
    message(rows, where, NOON, delivered=NOON + timedelta(seconds=4))
    never = message(rows, where, NOON)
    rows.write(platform)
    with platform.engine.begin() as connection:
        connection.execute(update(Message).where(Message.id == never).values(delivered_at=text("'infinity'")))
    figures = found(platform)
    assert figures[DAY, "delivered"] == 2
    assert figures[DAY, "delivery_median_seconds"] == pytest.approx(2)
    assert figures[DAY, "delivery_p95_seconds"] == pytest.approx(3.8)


def test_where_nothing_was_delivered_nothing_is_said_of_it(platform: Platform) -> None:
    rows = Rows()
    message(rows, conversation(rows), NOON)
    rows.write(platform)
    figures = found(platform)
    assert figures[DAY, "delivered"] == 0
    assert figures[DAY, "delivery_median_seconds"] is figures[DAY, "delivery_p95_seconds"] is None


def test_what_came_late_was_corrected_or_is_gone_changes_the_figures(platform: Platform) -> None:
    rows = Rows()
    first, second = (message(rows, conversation(rows), NOON) for _ in range(2))
    rows.write(platform)
    assert found(platform)[DAY, "delivered"] == 0

    def after(statement: Any) -> dict[Place, Any]:
        with platform.engine.begin() as connection:
            connection.execute(statement)
        return found(platform)

    late = naive(NOON + timedelta(days=9))
    figures = after(update(Message).where(Message.id == first).values(delivered_at=late))
    assert figures[DAY, "delivery_median_seconds"] == 9 * 86_400
    # Marked as deleted it was sent all the same.
    assert after(update(Message).values(is_deleted=True))[DAY, "messages"] == 2
    assert after(delete(Message).where(Message.id == first))[DAY, "messages"] == 1
    figures = after(update(Message).where(Message.id == second).values(created_at=naive(midnight(NEXT))))
    assert {day for day, _ in figures} == {NEXT}
    assert after(delete(Message)) == found(platform, TYPES) == {}


def test_they_need_what_they_name() -> None:
    look = {"SELECT"}
    read = {"conversation_id", "sender_id", "content_type", "is_system_message", "created_at", "delivered_at"}
    for rollup in (TYPES, DAILY):
        assert needed(rollup) == {
            "openchat.message": (read, look),
            "openchat.conversation": ({"id"}, look),
        }


def test_they_are_fed_by_messages() -> None:
    for rollup in (TYPES, DAILY):
        (feed,) = rollup.feeds
        assert feed.model is Message
        assert [at.key for at in feed.at] == ["created_at"]
