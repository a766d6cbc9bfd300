"""The statistics of `pern`."""

import random
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import delete, text, update

from models.pern import AuditLog, AuthSession, Message, MessageStatus
from tasks.apps import APPS
from tests.analytics import oracle_pern as oracle
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
from tests.analytics.oracle_pern import (
    LONG_AGO,
    conversation,
    entry,
    message,
    person,
    session,
    status,
)
from tests.examples import examples
from tests.platform import Platform

DAILY, SESSIONS, SECURITY = APPS["pern"].rollups
DAY = LEAPS["UTC"]
BEFORE, NEXT = DAY - timedelta(days=1), DAY + timedelta(days=1)
START = midnight(DAY)
NOON = START + timedelta(hours=12)


def found(platform: Database, rollup: Any = DAILY, zone: str = "UTC") -> dict[Place, Any]:
    """Compute all days that a test may touch; return all statistics."""
    day = LEAPS[zone]
    return computed(platform, rollup, day - timedelta(days=2), day + timedelta(days=3), zone)


def after(platform: Platform, statement: Any, rollup: Any = DAILY) -> dict[Place, Any]:
    """Return the statistics after a statement."""
    with platform.engine.begin() as connection:
        connection.execute(statement)
    return found(platform, rollup)


def test_the_figures_are_the_oracles(platform: Platform) -> None:
    @examples(16)
    @given(chance=st.randoms(use_true_random=True), zone=st.sampled_from(list(LEAPS)))
    def check(chance: random.Random, zone: str) -> None:
        rows = oracle.history(chance, zone)
        with rolled_back(platform) as connection:
            rows.write(connection)
            # What is of another year is not computed here.
            wanted = {key: row for key, row in oracle.daily(rows, zone).items() if key[0] > LONG_AGO.date()}
            agree(found(connection, DAILY, zone), flat(wanted))
            agree(found(connection, SESSIONS, zone), flat(oracle.sessions_daily(rows, zone)))
            agree(found(connection, SECURITY, zone), flat(oracle.security_daily(rows, zone)))

    check()


# -- messages -------------------------------------------------------------------------------------------


def test_latencies_are_from_the_message_on(platform: Platform) -> None:
    for count in (1, 2, 3, 20, 21, 22, 41):
        with rolled_back(platform) as connection:
            rows, chance = Rows(), random.Random(count)
            where = conversation(rows)
            took = [timedelta(microseconds=chance.randrange(60_000_000)) for _ in range(count)]
            for length in took:
                # Delivered that day, sent at another time each; read an hour after.
                sent = NOON - timedelta(days=chance.randrange(9)) - length
                message_id = message(rows, where, sent)
                status(rows, message_id, delivered=sent + length, read=sent + length + timedelta(hours=1))
            status(rows, message(rows, where, NOON))
            rows.write(connection)
            metrics = found(connection)
            wanted = flat(oracle.daily(rows, "UTC"))
            agree(
                {key: value for key, value in metrics.items() if key[0] == DAY},
                {key: value for key, value in wanted.items() if key[0] == DAY},
            )


def test_nothing_is_delivered_before_it_was_sent(platform: Platform) -> None:
    rows = Rows()
    message_id = message(rows, conversation(rows), NOON)
    for length in (-3600, 0, 10):
        status(
            rows,
            message_id,
            delivered=NOON + timedelta(seconds=length),
            read=NOON + timedelta(seconds=length),
        )
    rows.write(platform)
    metrics = found(platform)
    for name in ("delivery", "read"):
        assert metrics[DAY, f"{name}_median_seconds"] == 0
        assert metrics[DAY, f"{name}_p95_seconds"] == pytest.approx(9)


@pytest.mark.parametrize("never", ["infinity", "-infinity"])
def test_what_has_no_moment_stops_nothing(platform: Platform, never: str) -> None:
    rows = Rows()
    where = conversation(rows)
    first, second = message(rows, where, NOON), message(rows, where, NOON)
    status(rows, first, delivered=NOON + timedelta(seconds=2))
    status(rows, second, delivered=NOON, read=NOON)
    lost = status(rows, first, delivered=NOON)
    rows.write(platform)
    value = text(f"'{never}'")
    with platform.engine.begin() as connection:
        connection.execute(update(Message).where(Message.id == second).values(created_at=value))
        change = update(MessageStatus).where(MessageStatus.id == lost)
        connection.execute(change.values(delivered_at=value, read_at=value))
    metrics = found(platform)
    # It was delivered; how long that took is unknown.
    assert [metrics[DAY, name] for name in ("messages", "deliveries", "reads")] == [1, 2, 1]
    assert metrics[DAY, "delivery_median_seconds"] == metrics[DAY, "delivery_p95_seconds"] == 2
    assert metrics[DAY, "read_median_seconds"] is None


def test_active_are_those_who_wrote_or_read(platform: Platform) -> None:
    rows = Rows()
    here, there = conversation(rows), conversation(rows)
    ada, bob, eve, dan, kim = (person(rows) for _ in range(5))
    first = message(rows, here, NOON, ada)
    message(rows, here, NOON, ada, is_deleted=True)
    # In whose name something is told, and who writes nothing.
    second = message(rows, there, NOON, eve, message_type="system")
    status(rows, first, ada, read=NOON)
    status(rows, first, bob, read=NOON, status="reacted")
    status(rows, second, bob, read=NOON)
    # To whom something was delivered need not be there.
    status(rows, first, dan, delivered=NOON)
    status(rows, first, kim, read=midnight(NEXT))
    rows.write(platform)
    metrics = found(platform)
    names = ("messages", "conversations", "active_users", "deliveries", "reads")
    assert [metrics[DAY, name] for name in names] == [3, 2, 2, 1, 3]
    assert [metrics[NEXT, name] for name in names] == [0, 0, 1, 0, 1]


def test_a_day_has_a_row_when_anything_happened_in_it(platform: Platform) -> None:
    rows = Rows()
    where = conversation(rows)
    old = message(rows, where, LONG_AGO)
    one, two, three = (START + timedelta(days=number) for number in range(3))
    message(rows, where, one, message_type="system")
    status(rows, old, delivered=two)
    status(rows, old, read=three)
    status(rows, old)
    rows.write(platform)
    metrics = found(platform)
    nonzero = {day: [name for name in DAILY.metrics if metrics[day, name]] for day, name in metrics}
    took = ["delivery_median_seconds", "delivery_p95_seconds"], ["read_median_seconds", "read_p95_seconds"]
    assert nonzero == {
        one.date(): ["messages", "conversations"],
        two.date(): ["deliveries", *took[0]],
        three.date(): ["active_users", "reads", *took[1]],
    }


# -- sessions and security ------------------------------------------------------------------------------


def test_sessions_are_counted_when_they_begin(platform: Platform) -> None:
    rows = Rows()
    ada = person(rows)
    session(rows, NOON, ada)
    session(rows, NOON, ada, revoked_at=NOON)
    session(rows, NOON, expires_at=NOON)
    # It goes on, and began before.
    session(rows, START - INSTANT, expires_at=midnight(NEXT), revoked_at=NOON)
    rows.write(platform)
    metrics = found(platform, SESSIONS)
    assert (metrics[DAY, "sessions"], metrics[DAY, "users"]) == (3, 2)
    assert (metrics[BEFORE, "sessions"], metrics[BEFORE, "users"]) == (1, 1)
    assert after(platform, delete(AuthSession), SESSIONS) == {}


def test_entries_are_counted_by_severity(platform: Platform) -> None:
    rows = Rows()
    ada, bob = person(rows), person(rows)
    for count, severity in enumerate(oracle.SEVERITIES, start=1):
        for number in range(count):
            entry(rows, NOON, severity, [ada, bob, None][number % 3])
    entry(rows, NOON + timedelta(days=1), "security")
    rows.write(platform)
    assert found(platform, SECURITY) == flat(
        {
            (DAY, "info"): {"events": 1, "users": 1},
            (DAY, "warning"): {"events": 2, "users": 2},
            (DAY, "error"): {"events": 3, "users": 2},
            (DAY, "critical"): {"events": 4, "users": 2},
            (DAY, "security"): {"events": 5, "users": 2},
            # Without a user.
            (NEXT, "security"): {"events": 1, "users": 0},
        }
    )
    assert after(platform, delete(AuditLog), SECURITY) == {}


# -- what they need -------------------------------------------------------------------------------------


def test_they_need_what_they_name() -> None:
    look = {"SELECT"}
    assert needed(DAILY) == {
        "pern.messages": ({"id", "conversation_id", "sender_id", "message_type", "created_at"}, look),
        "pern.message_statuses": ({"message_id", "user_id", "delivered_at", "read_at"}, look),
        "pern.conversations": ({"id"}, look),
        "roomkeeper.pern_facts": ({"at", "kind", "key", "seconds"}, look),
    }
    assert needed(SESSIONS) == {"pern.auth_sessions": ({"user_id", "created_at"}, look)}
    assert needed(SECURITY) == {"pern.audit_logs": ({"user_id", "severity", "created_at"}, look)}
