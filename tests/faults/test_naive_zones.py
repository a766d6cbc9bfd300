"""A database whose sessions were not in UTC: default times in columns without a time zone are read right."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import DateTime, cast, literal, select, text

from commands import checks
from models.openchat import Conversation, Message, User
from stack.demo.rollups import RollupDemo
from stack.demo.rows import SOON
from stack.demo.stale_rows import Ephemera
from tasks.analytics import task as analytics
from tasks.apps import APPS, POLICIES, policies, rollups
from tasks.attachments.recover import recover
from tasks.delivery.audit import audit
from tasks.policies.naive import before, moment_of, since, stored
from tasks.policies.retention import Retention
from tasks.retention import task as retention
from tasks.sweeps import task as cleanup
from tests.platform import Platform, environment
from workers.app import app as celery
from workers.db import clock
from workers.settings import load

ZONES = ("Europe/Berlin", "America/New_York")
zones = pytest.mark.parametrize("zone", ZONES)


def translate(platform: Platform, zone: str) -> None:
    """Make all default times what sessions in another zone would have written."""
    tables: dict[str, list[str]] = {}
    for column in APPS["openchat"].naive_columns():
        tables.setdefault(column.table.name, []).append(column.name)
    local = "{0} AT TIME ZONE 'UTC' AT TIME ZONE '{1}'"
    for table, names in tables.items():
        values = [f"{name} = {local.format(name, zone)}" for name in names if name != "updated_at"]
        if "updated_at" in names:
            values.append(
                f"updated_at = CASE WHEN updated_at = created_at THEN {local.format('updated_at', zone)}"
                " ELSE updated_at END"
            )
        platform.sql(f'UPDATE openchat."{table}" SET {", ".join(values)}')


@contextmanager
def declared(platform: Platform, zone: str) -> Iterator[None]:
    """Say so in the settings, of this process too."""
    platform.set(naive_zones=f"openchat={zone}", apps="openchat")
    with environment(platform.environment):
        yield


@pytest.fixture
def local(platform: Platform) -> Iterator[psycopg.Connection[Any]]:
    """A session of the application, whose zone the test sets."""
    with psycopg.connect(platform.environment["DATABASE_URL"], autocommit=True) as connection:
        yield connection


def run(platform: Platform, name: str) -> None:
    policy, moment = POLICIES[name], clock() + SOON
    if isinstance(policy, Retention):
        assert retention.run(policy, platform.settings, now=moment) is not None
    else:
        assert cleanup.run(policy, platform.settings, now=moment, by_hand=True) is not None


# -- the jobs --------------------------------------------------------------------------------------------


@zones
def test_sweeps_and_retention(platform: Platform, zone: str) -> None:
    names = [name for name, one in POLICIES.items() if isinstance(one, Retention) and one.off_until_set]
    platform.set(
        apps="openchat",
        retention_days=",".join(f"{name}=30" for name in names if name.startswith("openchat.")),
        archive_root=platform.folder / "archive",
    )
    with declared(platform, zone):
        RollupDemo().furnish(platform.settings)
        ephemera = Ephemera(platform.engine, platform.settings)
        ephemera.feed()
        translate(platform, zone)
        cases = ephemera.waiting
        for name in policies(platform.settings):
            run(platform, name)
        ephemera.look()
        assert [case.policy.name for case in ephemera.waiting] == []
        # Each was translated: compared is only whether it is there.
        with platform.engine.begin() as connection:
            missing = [
                case.policy.name
                for case in cases
                for place in case.fed.stays
                if place.row(connection) is None
            ]
        assert missing == []


def written(platform: Platform, local: psycopg.Connection[Any], zone: str, ago: timedelta) -> Any:
    """Have a session in a zone write a message by its defaults, some time ago; return the sender's id."""
    local.execute("SELECT set_config('TimeZone', %s, false)", [zone])
    (user,) = local.execute(
        """INSERT INTO openchat."user"
                  (name, email, email_verified, is_online, status, created_at, updated_at)
           VALUES ('Ada', gen_random_uuid(), true, true, 'online', now() - interval '30 days',
                   now() - interval '30 days') RETURNING id"""
    ).fetchone() or [None]
    (room,) = local.execute(
        "INSERT INTO openchat.conversation (created_by) VALUES (%s) RETURNING id", [user]
    ).fetchone() or [None]
    local.execute(
        "INSERT INTO openchat.conversation_participant (conversation_id, user_id) VALUES (%s, %s)",
        [room, user],
    )
    local.execute(
        """INSERT INTO openchat.message (conversation_id, sender_id, content, created_at, updated_at)
           VALUES (%s, %s, 'x', now() - %s, now() - %s)""",
        [room, user, ago, ago],
    )
    return user


@zones
@pytest.mark.parametrize(("minutes", "online"), [(0, True), (4, True), (6, False)])
def test_who_has_just_written_is_online(
    platform: Platform, local: psycopg.Connection[Any], zone: str, minutes: int, online: bool
) -> None:
    user = written(platform, local, zone, timedelta(minutes=minutes))
    with declared(platform, zone):
        assert cleanup.run(POLICIES["openchat.presence"], platform.settings, by_hand=True) is not None
    assert platform.row(User, user).is_online is online


@zones
@pytest.mark.parametrize(("minutes", "adopted"), [(9, False), (11, True)])
def test_the_recovery_job_waits_for_the_grace(
    platform: Platform, zone: str, minutes: int, adopted: bool
) -> None:
    at = datetime.now(ZoneInfo(zone)).replace(tzinfo=None) - timedelta(minutes=minutes)
    row_id = platform.openchat_attachment(b"x", created_at=at, updated_at=at)
    platform.set(attachment_grace_seconds=600)
    with declared(platform, zone):
        recover()
    assert (platform.job(row_id) is not None) is adopted


def statistics(platform: Platform) -> dict[str, Any]:
    names = ("openchat_daily", "openchat_messages_daily")
    return {
        name: sorted(
            map(tuple, platform.sql(f"SELECT to_jsonb(t) - 'computed_at' FROM roomkeeper.{name} t")), key=str
        )
        for name in names
    }


@zones
def test_rollups_count_the_same(platform: Platform, local: psycopg.Connection[Any], zone: str) -> None:
    user = written(platform, local, "UTC", timedelta(0))
    # On both sides of each midnight, delivered two minutes later.
    platform.sql(
        """INSERT INTO openchat.message
                  (conversation_id, sender_id, content, created_at, updated_at, delivered_at)
           SELECT m.conversation_id, :user, 'x', at, at, at + interval '2 minutes'
             FROM openchat.message AS m, generate_series(
                  date_trunc('day', now()::timestamp) - interval '8 days 17 minutes', now()::timestamp,
                  interval '3 hours') AS at""",
        user=user,
    )
    platform.set(apps="openchat")
    with environment(platform.environment):
        for rollup in rollups(platform.settings).values():
            if rollup.name.startswith("openchat."):
                analytics.run(rollup, platform.settings, by_hand=True)
    expected = statistics(platform)
    assert expected["openchat_daily"]
    platform.sql(
        "DELETE FROM roomkeeper.openchat_daily; DELETE FROM roomkeeper.openchat_messages_daily;"
        " DELETE FROM roomkeeper.rollups"
    )
    translate(platform, zone)
    with declared(platform, zone):
        for rollup in rollups(platform.settings).values():
            if rollup.name.startswith("openchat."):
                analytics.run(rollup, platform.settings, by_hand=True)
    assert statistics(platform) == expected


@zones
def test_reading_and_the_audit_of_conversations(
    platform: Platform, local: psycopg.Connection[Any], zone: str
) -> None:
    user = written(platform, local, zone, timedelta(minutes=10))
    (message,) = platform.sql("SELECT id, conversation_id FROM openchat.message")
    reader = platform.sql(
        """INSERT INTO openchat."user" (name, email, email_verified) VALUES ('Bob', 'b@x.org', true)
           RETURNING id"""
    )[0].id
    platform.sql(
        "INSERT INTO openchat.conversation_participant (conversation_id, user_id) VALUES (:room, :reader)",
        room=message.conversation_id,
        reader=reader,
    )
    now = clock()
    event = {
        "message_id": str(message.id),
        "user_id": str(reader),
        "status": "read",
        "at": (now - timedelta(minutes=1)).isoformat(),
    }
    with declared(platform, zone):
        celery.tasks["delivery.record"]({"app": "openchat", "events": [event]})
        audit()
    read = (now - timedelta(minutes=1)).replace(tzinfo=None)
    assert platform.row(Message, message.id).delivered_at == read
    (member,) = platform.sql(
        "SELECT last_read_at, unread_count FROM openchat.conversation_participant WHERE user_id = :id",
        id=reader,
    )
    assert tuple(member) == (read, 0)
    last = platform.row(Conversation, message.conversation_id).last_message_at
    assert abs(now.replace(tzinfo=None) - timedelta(minutes=10) - last) < timedelta(minutes=1)
    assert user is not None


def test_an_index_finds_messages_of_a_time(platform: Platform, local: psycopg.Connection[Any]) -> None:
    written(platform, local, "UTC", timedelta(0))
    now = cast(literal("2026-03-01"), DateTime())
    room = select(Conversation.id).limit(1).scalar_subquery()
    query = select(Message.id).where(
        Message.conversation_id == room, since(Message.created_at, now), before(Message.created_at, now)
    )
    with declared(platform, ZONES[0]), platform.engine.begin() as connection:
        connection.execute(text("SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off"))
        compiled = query.compile(connection, compile_kwargs={"literal_binds": True})
        plan = "\n".join(connection.exec_driver_sql(f"EXPLAIN {compiled}".replace("%", "%%")).scalars())
    condition = next(line for line in plan.splitlines() if "Index Cond" in line)
    assert condition.count("created_at") == 2


# -- the translation -------------------------------------------------------------------------------------

#: Both ends of summer time in both zones, and an end of the setting between them.
AROUND = [
    datetime(2026, month, day, hour, tzinfo=UTC)
    for month, day, hour in ((3, 8, 7), (3, 29, 1), (10, 25, 1), (11, 1, 6), (7, 1, 0))
]
UNTIL = datetime(2026, 7, 1, tzinfo=UTC)
moments = st.builds(
    lambda near, minutes: near + timedelta(minutes=minutes), st.sampled_from(AROUND), st.integers(-900, 900)
)


def raw(moment: datetime, zone: str, until: datetime | None) -> datetime:
    """Return what a session has written at a moment: local time, and UTC since the setting has ended."""
    ended = until is not None and moment >= until
    return moment.astimezone(UTC if ended else ZoneInfo(zone)).replace(tzinfo=None)


def could_be(value: datetime, zone: str, until: datetime | None) -> list[datetime]:
    """Return all moments at which a value may have been written: each minute of a day around it is tried."""
    there = value.replace(tzinfo=UTC)
    tried = [there + timedelta(minutes=minutes) for minutes in range(-15 * 60, 15 * 60)]
    return [moment for moment in tried if raw(moment, zone, until) == value]


@given(moment=moments, low=moments, zone=st.sampled_from(ZONES), ends=st.booleans())
def test_a_value_is_the_latest_moment_that_it_may_be(
    shared_connection: Any, moment: datetime, low: datetime, zone: str, ends: bool
) -> None:
    until = UNTIL if ends else None
    value = raw(moment, zone, until)
    expected = max(could_be(value, zone, until)).replace(tzinfo=None)
    assert expected >= moment.replace(tzinfo=None)
    column, bound = cast(literal(value), DateTime()), literal(low.replace(tzinfo=None), DateTime())
    ending = f" until {UNTIL.isoformat()}" if ends else ""
    with shared_connection(f"openchat={zone}{ending}") as connection:
        found = connection.execute(
            select(
                moment_of(Message.created_at, column),
                since(Message.created_at, bound, column),
                before(Message.created_at, bound, column),
                stored(Message.created_at, moment_of(Message.created_at, column)),
            )
        ).one()
    assert tuple(found) == (
        expected,
        expected >= low.replace(tzinfo=None),
        expected < low.replace(tzinfo=None),
        value,
    )


@pytest.fixture
def shared_connection(platform: Platform) -> Any:
    """Open a transaction under a setting of zones."""

    @contextmanager
    def under(setting: str) -> Iterator[Any]:
        with (
            environment(
                {"DATABASE_URL": platform.environment["DATABASE_URL"], "ROOMKEEPER_NAIVE_ZONES": setting}
            ),
            platform.engine.begin() as connection,
        ):
            yield connection

    return under


# -- check -----------------------------------------------------------------------------------------------


def test_check_expects_the_zone_that_is_set_until_its_end(database: str) -> None:
    name = str(conninfo_to_dict(database)["dbname"])

    def found(setting: str) -> list[str]:
        settings = load({"DATABASE_URL": database, "ROOMKEEPER_NAIVE_ZONES": setting})
        return [f"{fault.sentence} {fault.advice}" for fault in checks.database(settings)]

    past, ahead = (f"{datetime.now(UTC) + timedelta(days=days):%Y-%m-%dT%H:%MZ}" for days in (-1, 1))
    (fault,) = found("openchat=Europe/Berlin")
    assert "openchat=Europe/Berlin until MOMENT" in fault
    assert found(f"openchat=Europe/Berlin until {past}") == []
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} SET TimeZone = 'Europe/Berlin'".encode())
    assert found("openchat=Europe/Berlin") == []
    assert found(f"openchat=Europe/Berlin until {ahead}") == []
    assert len(found(f"openchat=Europe/Berlin until {past}")) == 1
