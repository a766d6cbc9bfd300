"""The statistics of `connect`."""

import random
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text, update

from models.connect import InteractionLog
from tasks.apps import APPS
from tests.analytics import oracle_connect as oracle
from tests.analytics.figuring import (
    INSTANT,
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
from tests.analytics.oracle_connect import call, message, person, request, room, tie
from tests.examples import examples
from tests.platform import Platform

CALLS, DAILY = APPS["connect"].rollups
DAY = LEAPS["UTC"]
NEXT = DAY + timedelta(days=1)
START = midnight(DAY)
NOON = START + timedelta(hours=12)


def found(platform: Database, rollup: Any = CALLS, zone: str = "UTC") -> dict[Place, Any]:
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
            agree(found(connection, CALLS, zone), flat(oracle.calls_daily(rows, zone)))
            agree(found(connection, DAILY, zone), flat(oracle.daily(rows, zone)))

    check()


# -- calls ----------------------------------------------------------------------------------------------


def test_outcomes_are_counted_as_they_stand(platform: Platform) -> None:
    rows = Rows()
    # What it was marked as, and whether a connection came of it: all eight that count, and two that do not.
    for outcome in ("female_connected", "both_left", "timeout", "no_action", None):
        call(rows, NOON, outcome=outcome)
        tie(rows, call(rows, NOON, outcome=outcome), active=outcome == "timeout")
    rows.write(platform)
    metrics = found(platform)
    assert {name: metrics[DAY, "voice_call", name] for name in CALLS.metrics} == {
        "calls": 10,
        "female_connected": 2,
        "both_left": 2,
        "timeout": 2,
        "no_action": 2,
        "no_outcome": 2,
        "open_calls": 10,
        "connected": 6,
        "connect_rate": 0.6,
        "total_seconds": 0,
        "median_seconds": None,
        "p95_seconds": None,
        "users": 20,
    }


def test_a_call_that_connects_twice_is_one(platform: Platform) -> None:
    rows = Rows()
    log = call(rows, NOON, NOON + timedelta(seconds=1))
    tie(rows, log)
    tie(rows, log)
    rows.write(platform)
    metrics = found(platform)
    assert metrics[DAY, "voice_call", "calls"] == metrics[DAY, "voice_call", "connected"] == 1
    assert metrics[DAY, "voice_call", "total_seconds"] == 1


def test_each_type_has_a_row_and_those_without_are_unknown(platform: Platform) -> None:
    rows = Rows()
    ada, bob, eve = (person(rows) for _ in range(3))
    call(rows, NOON, people=(ada, bob), kind="voice_call")
    call(rows, NOON, people=(bob, ada), kind="voice_call")
    call(rows, NOON, people=(bob, eve), kind="video_call")
    call(rows, NOON, people=(eve, eve), kind=None)
    rows.write(platform)
    metrics = found(platform)
    users = {key: value for (day, key, name), value in metrics.items() if name == "users"}
    assert users == {"voice_call": 2, "video_call": 2, "unknown": 1}
    # Of the day they are three: different people do not add up.
    assert found(platform, DAILY)[DAY, "users_in_calls"] == 3


def test_durations_are_of_calls_that_ended(platform: Platform) -> None:
    for count in (1, 2, 3, 20, 21, 22, 40, 41):
        with rolled_back(platform) as connection:
            rows, chance = Rows(), random.Random(count)
            lasted = [timedelta(microseconds=chance.randrange(3_600_000_000)) for _ in range(count)]
            for length in lasted:
                # What the application says of it, or does not, is not asked.
                call(rows, NOON, NOON + length, duration_seconds=chance.choice([0, None, -1, 86_400]))
            call(rows, NOON, duration_seconds=5)
            rows.write(connection)
            metrics = found(connection)
            agree(metrics, flat(oracle.calls_daily(rows, "UTC")))
            assert metrics[DAY, "voice_call", "open_calls"] == 1
            ordered = sorted(length.total_seconds() for length in lasted)
            middle = (ordered[(count - 1) // 2] + ordered[count // 2]) / 2
            assert metrics[DAY, "voice_call", "median_seconds"] == pytest.approx(middle)
            assert metrics[DAY, "voice_call", "p95_seconds"] <= ordered[-1]


def test_a_clock_that_went_back_makes_no_call_shorter_than_nothing(platform: Platform) -> None:
    rows = Rows()
    for length in (-3600, 0, 10):
        call(rows, NOON, NOON + timedelta(seconds=length))
    rows.write(platform)
    metrics = found(platform)
    assert metrics[DAY, "voice_call", "total_seconds"] == 10
    assert metrics[DAY, "voice_call", "median_seconds"] == 0
    assert metrics[DAY, "voice_call", "p95_seconds"] == pytest.approx(9)
    assert metrics[DAY, "voice_call", "open_calls"] == 0


def test_the_total_is_rounded_once(platform: Platform) -> None:
    rounded = {0: 0, 499_999: 0, 500_000: 1, 1_499_999: 1, 1_500_000: 2}
    for microseconds, seconds in rounded.items():
        with rolled_back(platform) as connection:
            rows = Rows()
            for part in (microseconds // 2, microseconds - microseconds // 2):
                call(rows, NOON, NOON + timedelta(microseconds=part))
            rows.write(connection)
            assert found(connection)[DAY, "voice_call", "total_seconds"] == seconds


def test_a_call_that_ends_at_no_moment_has_not_ended(platform: Platform) -> None:
    rows = Rows()
    never, backwards = call(rows, NOON), call(rows, NOON)
    call(rows, NOON, NOON + timedelta(seconds=3))
    rows.write(platform)
    with platform.engine.begin() as connection:
        for log, ended in ((never, "infinity"), (backwards, "-infinity")):
            connection.execute(
                update(InteractionLog).where(InteractionLog.id == log).values(ended_at=text(f"'{ended}'"))
            )
    metrics = found(platform)
    assert metrics[DAY, "voice_call", "open_calls"] == 2
    assert metrics[DAY, "voice_call", "total_seconds"] == 3
    assert metrics[DAY, "voice_call", "p95_seconds"] == 3


# -- all of a day ---------------------------------------------------------------------------------------


def test_a_day_has_a_row_when_anything_happened_in_it(platform: Platform) -> None:
    rows, elsewhere = Rows(), START - timedelta(days=300)
    of = tie(rows, call(rows, elsewhere))
    where = room(rows, of)
    one, two, three = (START + timedelta(days=number) for number in range(3))
    call(rows, one)
    request(rows, of, two)
    message(rows, where, three)
    # Of no day.
    call(rows, None)
    request(rows, of, None)
    message(rows, where, None)
    rows.write(platform)
    metrics = found(platform, DAILY)
    nonzero = {day: [name for name in DAILY.metrics if metrics[day, name]] for day, name in metrics}
    assert nonzero == {
        one.date(): ["users_in_calls"],
        two.date(): ["requests", "requests_pending"],
        three.date(): ["messages", "senders"],
    }


def test_requests_are_counted_by_what_became_of_them(platform: Platform) -> None:
    rows = Rows()
    of = tie(rows, call(rows, None))
    for count, status in enumerate(["pending", "approved", "rejected", "expired", None], start=1):
        for _ in range(count):
            request(rows, of, NOON, status)
    for made in (START - INSTANT, midnight(NEXT)):
        request(rows, of, made)
    rows.write(platform)
    metrics = found(platform, DAILY)
    assert [metrics[DAY, name] for name in DAILY.metrics if "requests" in name] == [15, 1, 2, 3, 4]


def test_messages_are_all_and_senders_those_who_wrote(platform: Platform) -> None:
    rows = Rows()
    where = room(rows, tie(rows, call(rows, None)))
    ada, bob, eve, dan = (person(rows) for _ in range(4))
    message(rows, where, START, ada)
    message(rows, where, NOON, ada, is_deleted=True)
    message(rows, where, NOON, bob, is_deleted=None, message_type=None)
    # In whose name it is, and who writes nothing.
    message(rows, where, NOON, eve, message_type="system")
    message(rows, where, START - INSTANT, dan)
    message(rows, where, midnight(NEXT), dan)
    rows.write(platform)
    metrics = found(platform, DAILY)
    assert (metrics[DAY, "messages"], metrics[DAY, "senders"]) == (4, 2)
    assert (metrics[NEXT, "messages"], metrics[NEXT, "senders"]) == (1, 1)


# -- what they need -------------------------------------------------------------------------------------


def test_they_need_what_they_name() -> None:
    look = {"SELECT"}
    users = {"started_at", "user1_id", "user2_id"}
    assert needed(CALLS) == {
        "interaction_schema.interaction_logs": (
            {"id", "interaction_type", "outcome", "ended_at"} | users,
            look,
        ),
        "interaction_schema.connections": ({"interaction_log_id", "created_at"}, look),
    }
    assert needed(DAILY) == {
        "interaction_schema.interaction_logs": (users, look),
        "interaction_schema.video_requests": ({"requested_at", "status"}, look),
        "communication_schema.messages": ({"created_at", "sender_user_id", "message_type"}, look),
    }
