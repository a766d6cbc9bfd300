"""A change of zone: every row is counted once, in a day that is closed before the row may be deleted."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import delete, insert, select, update

from models.analytics import PernSecurityDaily, PernSessionsDaily, RollupState
from models.audiorooms import AudioRoom, RoomAnalytics, RoomParticipant
from models.pern import AuditLog, AuthSession
from tasks.analytics import rollup_guard
from tasks.analytics import task as analytics
from tasks.analytics.backfill import Backfill, FrozenError
from tasks.analytics.calendar import buckets, day_of
from tasks.analytics.engine import RollupProgress, RollupRun, differences
from tasks.analytics.state import NewerDefinitionError, OtherZoneError, State, frozen, state_of
from tasks.analytics.zones import ZoneChange, change_zone
from tasks.apps import POLICIES, ROLLUPS
from tasks.policies.columns import table_of
from tasks.policies.rollup import Rollup
from tasks.policies.sweep import NOW as MOMENT
from tasks.policies.sweep import Delete, Sweep
from tasks.sweeps import task as cleanup
from tasks.sweeps.batch import Batches
from tests.analytics.oracle_echoroom import Echoroom
from tests.examples import examples
from tests.platform import Platform, environment, eventually
from tests.retention.pern_chats import person
from workers.db import transaction

SESSIONS = ROLLUPS["pern.sessions_daily"]
EVENTS = replace(ROLLUPS["pern.security_daily"], recompute_for=timedelta(days=5))
ROOMS = ROLLUPS["audiorooms.room_analytics"]
FIRST = datetime(2026, 3, 1, tzinfo=UTC)
INSTANT = timedelta(microseconds=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


def at(**parts: float) -> datetime:
    return FIRST + timedelta(**parts)


def day_at(moment: datetime, zone: str) -> date:
    """Return the day that clocks show there."""
    return moment.astimezone(ZoneInfo(zone)).date()


def log(platform: Platform, moments: Iterable[datetime]) -> None:
    what = {"action": "x", "resource_type": "user", "ip_address": "::1", "user_agent": "x"}
    rows = [{"id": uuid4(), "created_at": moment, **what} for moment in moments]
    with platform.engine.begin() as connection:
        connection.execute(insert(table_of(AuditLog)), rows)


def sign_in(platform: Platform, user: UUID, moments: Iterable[datetime], lasts: timedelta) -> None:
    what = {"user_id": user, "device_info": "x", "ip_address": "::1"}
    rows = [
        {
            "id": uuid4(),
            "refresh_token_hash": uuid4().hex,
            "created_at": moment,
            "updated_at": moment,
            "expires_at": moment + lasts,
            **what,
        }
        for moment in moments
    ]
    with platform.engine.begin() as connection:
        connection.execute(insert(table_of(AuthSession)), rows)


def run(platform: Platform, rollup: Rollup, now: datetime, zone: str) -> None:
    # What PostgreSQL counts of writes comes up to a second later.
    with platform.engine.begin() as connection:
        connection.execute(update(RollupState).where(RollupState.name == rollup.name).values(probe=None))
    RollupRun(rollup, now, zone).go()


def counted(platform: Platform, rollup: Rollup) -> dict[date, int]:
    """Return the whole table of a rollup: how many rows each day has."""
    column = {SESSIONS.name: PernSessionsDaily.sessions, EVENTS.name: PernSecurityDaily.events}[rollup.name]
    with platform.engine.begin() as connection:
        rows = connection.execute(select(rollup.bucket, column)).all()
    assert len({row[0] for row in rows}) == len(rows)
    return {row[0]: row[1] for row in rows}


def by_day(platform: Platform, rollup: Rollup) -> list[int]:
    """Return the numbers of 1 March and the days after it."""
    found = counted(platform, rollup)
    days = [date(2026, 3, 1) + timedelta(days=number) for number in range(len(found))]
    assert sorted(found) == days
    return [found[day] for day in days]


def state(platform: Platform, rollup: Rollup) -> State:
    with platform.engine.begin() as connection:
        found = state_of(connection, rollup)
    assert found is not None
    return found


def changed(rollup: Rollup, zone: str, now: datetime) -> ZoneChange:
    change = change_zone(rollup, zone, now)
    assert change is not None
    return change


def wrong(platform: Platform, rollup: Rollup, now: datetime) -> list[Any]:
    """Return what an audit of all closed days that are not frozen finds."""
    at = state(platform, rollup)
    found: list[Any] = []
    for bucket in buckets(at.covered_from, at.watermark, rollup.grain, at.zone, at.seam):
        if not frozen(rollup, at, bucket):
            with platform.engine.begin() as connection:
                found += differences(connection, rollup, bucket, now)
    return found


# -- no row is lost, none is counted twice ---------------------------------------------------------------


def test_a_session_an_hour_is_counted_once_when_the_zone_changes_in_the_night(platform: Platform) -> None:
    user = person(platform)
    zone = "UTC"
    for hour in range(72):
        now = at(hours=hour)
        sign_in(platform, user, [now], lasts=30 * DAY)
        if now == at(days=1, hours=4):
            change = changed(SESSIONS, zone := "Asia/Kolkata", now)
            # The day that is closed stays; the first one of the new zone begins where it ends.
            assert change.after.watermark == at(days=1)
            assert [bucket.start for bucket in change.buckets] == [at(days=1)]
        run(platform, SESSIONS, now, zone)
    assert by_day(platform, SESSIONS) == [24, 19, 24, 5]
    run(platform, SESSIONS, at(days=5), zone)
    assert by_day(platform, SESSIONS) == [24, 19, 24, 5]


def test_cleanup_deletes_no_session_that_was_not_counted(platform: Platform) -> None:
    user = person(platform)
    platform.set(rollup_zones=f"{SESSIONS.name}=Asia/Kolkata")
    sign_in(platform, user, [at(hours=hour) for hour in range(72)], lasts=HOUR)
    run(platform, SESSIONS, at(days=1, hours=4), "UTC")
    changed(SESSIONS, "Asia/Kolkata", at(days=1, hours=4))
    for hour in range(28, 84):
        run(platform, SESSIONS, at(hours=hour), "Asia/Kolkata")
        cleanup.run(POLICIES["pern.sessions"], platform.settings, now=at(hours=hour), by_hand=True)
    assert by_day(platform, SESSIONS) == [24, 19, 24, 5]
    # All days up to the one that ends at 18:30 are closed, and no other.
    left = platform.sql("SELECT created_at FROM pern.auth_sessions ORDER BY created_at")
    assert [row.created_at for row in left] == [at(days=2, hours=hour) for hour in range(19, 24)]


@pytest.mark.parametrize(
    ("before", "zone", "numbers"),
    [
        ("UTC", "Asia/Kolkata", [24, 24, 19, 6]),
        ("UTC", "America/New_York", [24, 24, 25]),
        ("Asia/Kolkata", "UTC", [19, 24, 29, 1]),
        ("Asia/Kathmandu", "Asia/Kolkata", [19, 24, 24, 6]),
        ("Pacific/Kiritimati", "Pacific/Pago_Pago", [10, 24, 39]),
    ],
)
def test_at_the_seam_of_frozen_days_no_hour_is_lost_or_counted_twice(
    platform: Platform, before: str, zone: str, numbers: list[int]
) -> None:
    log(platform, [at(hours=hour) for hour in range(73)])
    now, lost = at(hours=73), at(hours=30)
    run(platform, EVENTS, now, before)
    with platform.engine.begin() as connection:
        connection.execute(update(RollupState).values(frozen_to=lost))
        connection.execute(delete(AuditLog).where(AuditLog.created_at <= lost))
    changed(EVENTS, zone, now)
    run(platform, EVENTS, now, zone)
    assert by_day(platform, EVENTS) == numbers
    assert sum(numbers) == 73
    assert wrong(platform, EVENTS, now) == []
    # Nor by a backfill of all days.
    later = at(days=10)
    run(platform, EVENTS, later, zone)
    at_last = state(platform, EVENTS)
    days = buckets(at_last.covered_from, later, EVENTS.grain, zone, at_last.seam)
    done = Backfill(EVENTS, later, zone).compute_all(days, 2)
    assert (done.frozen, done.buckets) == (sum(day.start <= lost for day in days), len(days) - done.frozen)
    assert by_day(platform, EVENTS) == numbers
    with pytest.raises(FrozenError):
        Backfill(EVENTS, later, zone).compute(next(day for day in days if day.end > lost))


def test_a_day_that_is_left_out_is_empty(platform: Platform) -> None:
    """From one side of the date line to the other one a day is lost: its hours are those of the next one."""
    log(platform, [at(hours=hour) for hour in range(73)])
    run(platform, EVENTS, at(hours=73), "Pacific/Pago_Pago")
    assert counted(platform, EVENTS)[date(2026, 3, 2)] == 24
    with platform.engine.begin() as connection:
        connection.execute(update(RollupState).values(frozen_to=at(hours=30)))
    changed(EVENTS, "Pacific/Kiritimati", at(hours=73))
    run(platform, EVENTS, at(hours=73), "Pacific/Kiritimati")
    assert counted(platform, EVENTS) == {
        date(2026, 2, 28): 11,
        date(2026, 3, 1): 24,
        date(2026, 3, 3): 23,
        date(2026, 3, 4): 15,
    }


def test_a_second_change_before_the_first_new_day_is_closed_keeps_the_days_that_were_closed(
    platform: Platform,
) -> None:
    user = person(platform)
    sign_in(platform, user, [at(hours=hour) for hour in range(72)], lasts=30 * DAY)
    run(platform, SESSIONS, at(days=1, hours=4), "UTC")
    for number, zone in enumerate(["America/New_York", "Pacific/Kiritimati", "Asia/Kolkata"]):
        changed(SESSIONS, zone, at(days=1, hours=4 + number))
        run(platform, SESSIONS, at(days=1, hours=4 + number), zone)
    assert state(platform, SESSIONS).zone_before == "UTC"
    run(platform, SESSIONS, at(days=5), "Asia/Kolkata")
    assert by_day(platform, SESSIONS) == [24, 19, 24, 5]


def test_a_long_day_that_has_lost_rows_is_frozen_after_another_change(platform: Platform) -> None:
    """Its end alone is a day of its zone, from which nothing is lost."""
    log(platform, [at(hours=hour) for hour in range(120)])
    now = at(hours=73)
    run(platform, EVENTS, now, "UTC")
    assert swept(platform, at(hours=1)) == 1
    changed(EVENTS, "America/New_York", now)
    run(platform, EVENTS, now, "America/New_York")
    assert by_day(platform, EVENTS)[:2] == [24, 29]
    platform.set(rollup_zones=f"{EVENTS.name}=America/New_York")
    # Of 2 March, only what is before the last 24 hours of its 29.
    assert swept(platform, at(hours=26)) == 25
    changed(EVENTS, "Asia/Kolkata", now)
    for days in range(3, 10):
        run(platform, EVENTS, at(days=days, hours=2), "Asia/Kolkata")
    assert by_day(platform, EVENTS)[:2] == [24, 29]
    assert sum(by_day(platform, EVENTS)) == 120
    assert wrong(platform, EVENTS, at(days=9)) == []


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_day_that_ended_by_older_rules_of_its_zone_stays(platform: Platform, hours: int) -> None:
    """Its rows are deleted; the next day begins where it ended."""
    user = person(platform)
    sign_in(platform, user, [at(hours=hour) for hour in range(72)], lasts=30 * DAY)
    run(platform, SESSIONS, at(days=1, hours=4), "UTC")
    midnight = at(days=1, hours=hours)
    with platform.engine.begin() as connection:
        connection.execute(update(RollupState).values(watermark=midnight))
        connection.execute(delete(AuthSession).where(AuthSession.created_at < midnight))
    run(platform, SESSIONS, at(days=5), "UTC")
    assert by_day(platform, SESSIONS) == [24, 24 - hours, 24]
    assert (state(platform, SESSIONS).zone_from, state(platform, SESSIONS).watermark) == (
        midnight,
        at(days=4),
    )


def test_days_that_have_lost_nothing_are_computed_again_as_a_whole(platform: Platform) -> None:
    log(platform, [at(hours=hour) for hour in range(73)])
    run(platform, EVENTS, at(hours=73), "UTC")
    change = changed(EVENTS, "Asia/Kolkata", at(hours=73))
    assert change.after.seam is None
    assert change.buckets[0].start == change.after.covered_from < FIRST
    run(platform, EVENTS, at(hours=73), "Asia/Kolkata")
    assert by_day(platform, EVENTS) == [19, 24, 24, 6]


def test_a_room_has_a_day_of_49_hours(platform: Platform) -> None:
    """Its moments are packed into numbers, with room for so many."""
    key = uuid4()
    with platform.engine.begin() as connection:
        room = {"id": key, "code": "ROOM01", "password_hash": "x", "updated_at": at(days=9)}
        connection.execute(insert(AudioRoom).values(**room))
        stays = [
            {"id": uuid4(), "room_id": key, "client_id": name, "joined_at": joined, "left_at": left}
            for name, joined, left in (
                ("a", at(hours=1), at(hours=2)),
                # From one end of the long day to the other.
                ("b", at(days=1, hours=10), at(days=3, hours=11)),
                ("c", at(days=3, hours=9), at(days=3, hours=10)),
            )
        ]
        connection.execute(insert(RoomParticipant), stays)
    run(platform, ROOMS, at(days=1, hours=13), "Pacific/Kiritimati")
    with platform.engine.begin() as connection:
        # As if all until then were gone.
        connection.execute(update(RollupState).values(frozen_to=at(days=1, hours=10) - INSTANT))
    changed(ROOMS, "Pacific/Pago_Pago", at(days=1, hours=13))
    run(platform, ROOMS, at(days=4), "Pacific/Pago_Pago")
    with platform.engine.begin() as connection:
        rows = connection.execute(select(RoomAnalytics).order_by(RoomAnalytics.date)).mappings().all()
    long = {row["date"]: row for row in rows}[date(2026, 3, 3)]
    assert (long["peak_listeners"], long["total_listeners"]) == (2, 2)
    assert long["total_listen_minutes"] == 49 * 60 + 60


# -- rows of statistics that no day of the new zone replaces ---------------------------------------------


def test_from_east_to_west_the_row_of_tomorrow_goes(platform: Platform) -> None:
    log(platform, [at(hours=1), at(hours=20)])
    run(platform, EVENTS, at(hours=21), "Asia/Kolkata")
    assert by_day(platform, EVENTS) == [1, 1]
    change = changed(EVENTS, "UTC", at(hours=21))
    assert change.rows == 1
    run(platform, EVENTS, at(hours=21), "UTC")
    assert by_day(platform, EVENTS) == [2]


def test_rows_of_the_application_itself_are_emptied_not_deleted(platform: Platform) -> None:
    one, early = uuid4(), date(2026, 2, 27)
    with platform.engine.begin() as connection:
        connection.execute(insert(AudioRoom).values(id=one, code="ROOM01", password_hash="x"))
        # Made by the application, before this rollup began.
        row = {"id": uuid4(), "room_id": one, "date": early, "total_listeners": 7}
        connection.execute(insert(RoomAnalytics).values(**row))
        stay = {"room_id": one, "client_id": "a", "joined_at": at(hours=1), "left_at": at(hours=21)}
        connection.execute(insert(RoomParticipant).values(id=uuid4(), **stay))
    run(platform, ROOMS, at(hours=21), "Asia/Kolkata")

    def listeners() -> dict[date, int | None]:
        with platform.engine.begin() as connection:
            rows = connection.execute(select(RoomAnalytics.date, RoomAnalytics.total_listeners)).all()
        return {row[0]: row[1] for row in rows}

    assert listeners() == {early: 7, date(2026, 3, 1): 1, date(2026, 3, 2): 1}
    changed(ROOMS, "America/New_York", at(hours=21))
    assert listeners() == {early: 7, date(2026, 3, 1): 1, date(2026, 3, 2): 0}
    run(platform, ROOMS, at(hours=21), "America/New_York")
    assert listeners() == {early: 7, date(2026, 3, 1): 1, date(2026, 3, 2): 0}


def test_the_days_that_the_application_made_itself_stay(platform: Platform) -> None:
    """The day before the first one of this rollup is the application's, also west of the first zone."""
    one, early = uuid4(), date(2026, 2, 28)
    with platform.engine.begin() as connection:
        connection.execute(insert(AudioRoom).values(id=one, code="ROOM01", password_hash="x"))
        row = {"id": uuid4(), "room_id": one, "date": early, "total_listeners": 7}
        connection.execute(insert(RoomAnalytics).values(**row))
        stay = {"room_id": one, "client_id": "a", "joined_at": at(hours=1), "left_at": at(hours=2)}
        connection.execute(insert(RoomParticipant).values(id=uuid4(), **stay))
    run(platform, ROOMS, at(hours=12), "UTC")
    changed(ROOMS, "America/New_York", at(hours=12))
    run(platform, ROOMS, at(days=3), "America/New_York")
    with platform.engine.begin() as connection:
        rows = connection.execute(select(RoomAnalytics.date, RoomAnalytics.total_listeners)).all()
    assert {row[0]: row[1] for row in rows} == {early: 7, date(2026, 3, 1): 1}


# -- what is open ----------------------------------------------------------------------------------------


def test_an_open_day_has_the_rows_that_were_written_before_it_began(platform: Platform) -> None:
    log(platform, [at(hours=5), at(days=1, hours=1)])
    now = at(hours=22)
    eventually(lambda: RollupRun(EVENTS, now, "UTC").go().buckets == 0)
    assert counted(platform, EVENTS) == {date(2026, 3, 1): 1}
    # Nothing has been written since.
    RollupRun(EVENTS, at(days=1), "UTC").go()
    assert counted(platform, EVENTS) == {date(2026, 3, 1): 1}
    RollupRun(EVENTS, at(days=1, minutes=15), "UTC").go()
    assert counted(platform, EVENTS) == {date(2026, 3, 1): 1, date(2026, 3, 2): 1}
    assert RollupRun(EVENTS, at(days=1, minutes=30), "UTC").go().buckets == 0


@pytest.mark.parametrize(
    ("zone", "midnight"),
    [
        ("Asia/Kolkata", at(days=1, hours=18.5)),
        ("Asia/Kathmandu", at(days=1, hours=18.25)),
        ("UTC", at(days=2)),
    ],
)
def test_who_speaks_counts_on_the_day_of_a_zone_with_half_hours(
    platform: Platform, zone: str, midnight: datetime
) -> None:
    hourly, daily = ROLLUPS["echoroom.hourly"], ROLLUPS["echoroom.daily"]
    room = uuid4()
    for before in (True, False):
        moment = midnight + (-1 if before else 1) * timedelta(minutes=5)
        with platform.engine.begin() as connection:
            app = Echoroom(connection)
            room, user = app.room() if before else room, app.user()
            app.join(room, user, moment, is_speaking=True)
        RollupRun(hourly, moment, "UTC").go()
        RollupRun(daily, moment, zone).go()
        with platform.engine.begin() as connection:
            Echoroom(connection).leave(room, user, moment, is_speaking=False)
    for rollup, of in ((daily, zone), (hourly, "UTC")):
        RollupRun(rollup, midnight + 2 * DAY, of).go()
    rows = platform.sql("SELECT day, speakers FROM roomkeeper.echoroom_daily ORDER BY day")
    label = day_at(midnight, zone)
    assert [(row.day, row.speakers) for row in rows] == [(label - DAY, 1), (label, 1)]
    # An hour of UTC has all people who spoke in it.
    rows = platform.sql("SELECT hour, speakers FROM roomkeeper.echoroom_hourly ORDER BY hour")
    wanted = Counter(
        (midnight + step).replace(minute=0) for step in (timedelta(minutes=-5), timedelta(minutes=5))
    )
    assert {row.hour: row.speakers for row in rows} == wanted


# -- one zone, one definition ----------------------------------------------------------------------------


def test_a_host_with_another_zone_computes_nothing(platform: Platform) -> None:
    log(platform, [at(hours=hour) for hour in range(30)])
    run(platform, EVENTS, at(hours=30), "UTC")
    before = platform.everything()
    other = RollupRun(EVENTS, at(hours=40), "Asia/Kolkata")
    for refused in (
        other.go,
        lambda: Backfill(EVENTS, at(hours=40), "Asia/Kolkata").compute(day_of(date(2026, 3, 1), "UTC")),
    ):
        with pytest.raises(OtherZoneError, match=r"UTC.*Asia/Kolkata") as error:
            refused()
        assert f"roomkeeper rollup zone {EVENTS.name} Asia/Kolkata" in str(error.value)
    assert platform.everything() == before


def test_a_run_notices_that_the_zone_changes_meanwhile(platform: Platform) -> None:
    log(platform, [at(hours=hour) for hour in range(0, 240, 24)])
    run(platform, EVENTS, at(hours=1), "UTC")

    def change(progress: RollupProgress) -> None:
        if progress.closed == 2:
            change_zone(EVENTS, "Asia/Kolkata", at(hours=240))

    with pytest.raises(OtherZoneError):
        RollupRun(EVENTS, at(hours=240), "UTC", watch=change).go()
    run(platform, EVENTS, at(hours=240), "Asia/Kolkata")
    assert by_day(platform, EVENTS) == [1] * 10
    assert wrong(platform, EVENTS, at(hours=240)) == []


def test_a_room_is_left_to_the_rollup_while_zones_differ(platform: Platform) -> None:
    with platform.engine.begin() as connection:
        connection.execute(insert(AudioRoom).values(id=uuid4(), code="ROOM01", password_hash="x"))
    run(platform, ROOMS, at(hours=12), "UTC")
    platform.set(rollup_zones=f"{ROOMS.name}=Asia/Kolkata")
    with pytest.raises(OtherZoneError):
        analytics.room("ROOM01", platform.settings, at(hours=13))
    with environment(platform.environment):
        answer = analytics.recompute_room.apply(args=({"app": "audiorooms", "room": "ROOM01"},))
    assert answer.state == "SUCCESS"
    assert str(answer.result).startswith("left to the rollup: ")


SWEEP = Sweep(
    name="pern.audit",
    model=AuditLog,
    rule="for a test alone",
    why="for a test alone",
    due=AuditLog.created_at < MOMENT,
    action=Delete(),
    every=DAY,
)


def swept(platform: Platform, now: datetime, policy: Sweep = SWEEP) -> int:
    """Delete the rows from before a moment that may go; return how many went."""
    with transaction() as connection:
        rolled = rollup_guard.ask(connection, [policy], platform.settings, now)
    taken = 0
    while rows := Batches(policy, now, None, closed=rolled).by_index(100).rows:
        taken += rows
    return taken


def test_nothing_leaves_while_its_bucket_is_not_closed_for_the_zone_that_is_set(platform: Platform) -> None:
    log(platform, [at(hours=hour) for hour in range(73)])
    now = at(hours=73)
    run(platform, EVENTS, now, "UTC")
    platform.set(rollup_zones=f"{EVENTS.name}=Asia/Kolkata")
    assert swept(platform, now) == 0
    changed(EVENTS, "Asia/Kolkata", now)
    assert swept(platform, now) == 0
    RollupRun(EVENTS, now, "Asia/Kolkata", seconds=0).go()
    # One day is closed.
    assert state(platform, EVENTS).watermark < FIRST
    run(platform, EVENTS, now, "Asia/Kolkata")
    assert swept(platform, now) == 19 + 24 + 24
    assert by_day(platform, EVENTS) == [19, 24, 24, 6]


def test_nothing_leaves_before_its_bucket_is_computed_by_the_new_definition(platform: Platform) -> None:
    log(platform, [at(hours=hour) for hour in range(73)])
    now = at(hours=73)
    run(platform, EVENTS, now, "UTC")
    with platform.engine.begin() as connection:
        # As an earlier version left them.
        connection.execute(update(PernSecurityDaily).values(events=1))
        connection.execute(update(RollupState).values(definition=EVENTS.definition - 1))
    assert swept(platform, now) == 0
    RollupRun(EVENTS, now, "UTC").go()
    assert by_day(platform, EVENTS) == [24, 24, 24, 1]
    assert swept(platform, now) == 48


def test_a_new_definition_leaves_the_days_that_have_lost_rows(platform: Platform) -> None:
    log(platform, [at(hours=hour) for hour in range(73)])
    now = at(hours=73)
    run(platform, EVENTS, now, "UTC")
    assert swept(platform, at(hours=30)) == 30
    with platform.engine.begin() as connection:
        connection.execute(update(PernSecurityDaily).values(events=1))
        connection.execute(update(RollupState).values(definition=EVENTS.definition - 1))
    RollupRun(EVENTS, now, "UTC").go()
    assert by_day(platform, EVENTS) == [1, 1, 24, 1]


def test_workers_of_an_earlier_version_compute_nothing_after_a_new_definition(platform: Platform) -> None:
    log(platform, [at(hours=hour) for hour in range(30)])
    run(platform, EVENTS, at(hours=30), "UTC")
    with platform.engine.begin() as connection:
        connection.execute(update(RollupState).values(definition=EVENTS.definition + 1))
    before = platform.everything()
    with pytest.raises(NewerDefinitionError, match=EVENTS.name):
        RollupRun(EVENTS, at(hours=40), "UTC").go()
    assert platform.everything() == before
    assert swept(platform, at(hours=40)) == 0


# -- an oracle -------------------------------------------------------------------------------------------

ZONES = [
    "UTC",
    "Europe/Berlin",
    "America/Havana",
    "America/St_Johns",
    "Australia/Lord_Howe",
    "Asia/Kolkata",
    "Pacific/Kiritimati",
    "Pacific/Pago_Pago",
]


STEP = timedelta(minutes=15)


@dataclass
class Oracle:
    """Which day each quarter of an hour counts in, one by one, without buckets.

    Days that cannot be computed again keep their quarters. Another quarter counts in the day that the clocks
    of the zone show, but in none up to the last one that is kept.

    Attributes:
        covered: the first quarter that counts.
    """

    zone: str
    begin: datetime
    days: dict[datetime, date] = field(default_factory=dict)
    covered: datetime = field(init=False)

    def __post_init__(self) -> None:
        quarters = (self.begin + number * STEP for number in range(-4 * 96, 72 * 96))
        self.days = {quarter: day_at(quarter, self.zone) for quarter in quarters}
        self.covered = self._beginning(self.begin)

    def _beginning(self, moment: datetime) -> datetime:
        return next(quarter for quarter, day in self.days.items() if day == self.day(moment))

    def day(self, moment: datetime) -> date:
        """Return the day that a moment counts in."""
        return self.days[self.begin + (moment - self.begin) // STEP * STEP]

    def closed(self, day: date, now: datetime) -> bool:
        """Return whether a day has ended, and its time for late rows, too."""
        return self.days[self.covered] <= day < self.day(now - EVENTS.grace)

    def change(self, zone: str, kept: date | None) -> None:
        """Count days of another zone, after the last one that is kept."""
        self.zone = zone
        for quarter, day in self.days.items():
            if kept is None:
                self.days[quarter] = day_at(quarter, zone)
            elif day > kept:
                self.days[quarter] = max(day_at(quarter, zone), kept + DAY)
        if kept is None:
            self.covered = self._beginning(self.covered)


@dataclass
class World:
    """Rows that are written, counted and deleted; the oracle watches."""

    platform: Platform
    rollup: Rollup
    oracle: Oracle
    chance: Random
    user: UUID
    now: datetime
    written: list[datetime] = field(default_factory=list)
    lost: set[datetime] = field(default_factory=set)

    @property
    def policy(self) -> Sweep:
        return SWEEP if self.rollup is EVENTS else SESSION_SWEEP

    def pass_time(self, until: datetime) -> None:
        """Write rows up to then, many of them on the edges of days, and compute."""
        rows, at = [], self.now
        while (at := at + self.chance.choice([INSTANT, STEP, 2 * STEP, HOUR, 5 * STEP, 10 * HOUR])) <= until:
            rows.append(at)
        if rows and self.rollup is EVENTS:
            log(self.platform, rows)
        elif rows:
            sign_in(self.platform, self.user, rows, lasts=90 * DAY)
        self.written += rows
        self.now = until
        run(self.platform, self.rollup, until, self.oracle.zone)

    def delete(self, older_than: timedelta) -> None:
        """Delete what is due: only rows of closed days leave, and all of these."""
        self.platform.set(rollup_zones=f"{self.rollup.name}={self.oracle.zone}")
        limit = self.now - older_than
        swept(self.platform, limit, self.policy)
        model: Any = self.policy.model
        with self.platform.engine.begin() as connection:
            left = set(connection.scalars(select(model.created_at)))
        lost = set(self.written) - left
        closed = {row for row in self.written if self.oracle.closed(self.oracle.day(row), self.now)}
        assert lost - self.lost == {row for row in closed - self.lost if row < limit}
        self.lost = lost

    def change(self, zone: str) -> None:
        """Change the zone."""
        change_zone(self.rollup, zone, self.now)
        kept = {self.oracle.day(row) for row in self.lost}
        if self.rollup.recompute_for is None:
            kept |= {day for day in self.oracle.days.values() if self.oracle.closed(day, self.now)}
        self.oracle.change(zone, max(kept, default=None))
        run(self.platform, self.rollup, self.now, zone)


SESSION_SWEEP = replace(SWEEP, model=AuthSession, due=AuthSession.created_at < MOMENT)
#: How many quarters of an hour pass; then the zone changes, or rows older than so many quarters are deleted.
STEPS = st.lists(
    st.tuples(st.integers(1, 800), st.one_of(st.sampled_from(ZONES), st.integers(0, 400))),
    min_size=3,
    max_size=12,
)


@pytest.mark.parametrize("rollup", [EVENTS, SESSIONS], ids=["computed again", "never computed again"])
@examples(4)
@given(steps=STEPS, zone=st.sampled_from(ZONES), quarter=st.integers(0, 95), seed=st.integers(0, 2**32))
def test_whatever_the_zones_each_row_is_counted_once_in_its_day(
    platform: Platform,
    rollup: Rollup,
    steps: list[tuple[int, str | int]],
    zone: str,
    quarter: int,
    seed: int,
) -> None:
    for table in ("rollups", "pern_security_daily", "pern_sessions_daily"):
        platform.sql(f"DELETE FROM roomkeeper.{table}")
    for table in ("audit_logs", "auth_sessions"):
        platform.sql(f"DELETE FROM pern.{table}")
    begin = FIRST + quarter * STEP
    world = World(platform, rollup, Oracle(zone, begin), Random(seed), person(platform), begin)
    world.pass_time(begin)
    for quarters, what in steps:
        world.pass_time(min(world.now + quarters * STEP, begin + 60 * DAY))
        if isinstance(what, int):
            world.delete(what * STEP)
        else:
            world.change(what)
    world.pass_time(world.now + 5 * DAY)
    assert counted(platform, rollup) == Counter(world.oracle.day(row) for row in world.written)
    assert wrong(platform, rollup, world.now) == []
