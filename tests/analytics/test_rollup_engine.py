"""The rollup engine: watermark, open buckets, late rows, downtime, crashes, two at once."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from random import Random
from subprocess import PIPE
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import delete, insert, select, text, update

from models.analytics import PernSecurityDaily, RollupLive, RollupState
from models.audiorooms import AudioRoom, RoomParticipant
from models.pern import AuditLog
from models.platform import JobRun
from tasks.analytics import task as analytics
from tasks.analytics.backfill import Backfill, FrozenError
from tasks.analytics.calendar import buckets, day_of
from tasks.analytics.engine import RollupProgress, RollupRun
from tasks.analytics.state import State, lag, state_of
from tasks.apps import ROLLUPS
from tasks.policies.columns import table_of
from tests.analytics.oracle_audiorooms import expected, statistics
from tests.platform import Platform, environment, eventually
from workers.db import get_engine

ROOMS = ROLLUPS["audiorooms.room_analytics"]
#: One without keys, of one table.
EVENTS = replace(ROLLUPS["pern.security_daily"], recompute_for=timedelta(days=5), grace=timedelta(hours=2))
TODAY = date(2026, 3, 28)
MIDNIGHT = datetime(2026, 3, 28, tzinfo=UTC)
INSTANT = timedelta(microseconds=1)


def at(**parts: float) -> datetime:
    return MIDNIGHT + timedelta(**parts)


def log(platform: Platform, *moments: datetime) -> list[UUID]:
    keys = [uuid4() for _ in moments]
    what = {"action": "sign in", "resource_type": "user", "ip_address": "10.0.0.1", "user_agent": "x"}
    rows = [{"id": key, "created_at": moment, **what} for key, moment in zip(keys, moments, strict=True)]
    with platform.engine.begin() as connection:
        connection.execute(insert(table_of(AuditLog)), rows)
    return keys


def tick(now: datetime, **options: Any) -> RollupProgress:
    return RollupRun(EVENTS, now, options.pop("zone", "UTC"), **options).go()


def events(platform: Platform) -> dict[date, int]:
    """Return the whole table."""
    with platform.engine.begin() as connection:
        rows = connection.execute(select(PernSecurityDaily.day, PernSecurityDaily.events)).all()
    return {row[0]: row[1] for row in rows}


def state(platform: Platform) -> State:
    with platform.engine.begin() as connection:
        found = state_of(connection, EVENTS)
    assert found is not None
    return found


def freeze(platform: Platform, moment: datetime, name: str = EVENTS.name) -> None:
    with platform.engine.begin() as connection:
        condition = RollupState.name == name
        connection.execute(update(RollupState).where(condition).values(frozen_to=moment))


# -- closing ---------------------------------------------------------------------------------------------


def test_the_first_run_begins_with_the_first_row(platform: Platform) -> None:
    log(platform, at(days=-20, hours=5), at())
    done = tick(at(hours=12))
    assert (done.closed, events(platform)) == (20, {date(2026, 3, 8): 1, TODAY: 1})
    assert state(platform).covered_from == at(days=-20)
    assert state(platform).watermark == at()


def test_with_no_rows_it_begins_with_the_days_that_late_rows_may_be_of(platform: Platform) -> None:
    tick(at(hours=12))
    assert state(platform).covered_from == at(days=-5)
    assert events(platform) == {}


def test_a_clock_that_was_never_set_does_not_make_sixty_years_of_days(platform: Platform) -> None:
    log(platform, datetime(1970, 1, 1, tzinfo=UTC), at(days=-6))
    assert tick(at(hours=12)).closed == 6


@pytest.mark.parametrize(("before", "closed"), [(INSTANT, at(days=-1)), (timedelta(0), at())])
def test_a_day_is_closed_when_its_time_to_settle_is_over(
    platform: Platform, before: timedelta, closed: datetime
) -> None:
    tick(at(hours=2) - before)
    assert state(platform).watermark == closed


def test_ten_days_of_downtime_are_caught_up_step_by_step(platform: Platform) -> None:
    tick(at())
    log(platform, *(at(days=day, hours=hour) for day in range(11) for hour in range(day + 1)))
    back = at(days=11)
    marks = []
    while tick(back, seconds=0).more:
        marks.append(state(platform).watermark)
    assert marks == [at(days=day) for day in range(len(marks))]
    assert len(marks) == 10
    assert state(platform).watermark == at(days=10)
    # The last day is open, and its rows are told of up to a second later.
    wanted = {TODAY + timedelta(days=day): day + 1 for day in range(11)}
    eventually(lambda: tick(back) and events(platform) == wanted)
    assert tick(back).rows == 0


def test_a_day_that_takes_longer_than_a_run_is_closed_all_the_same(platform: Platform) -> None:
    log(platform, at(days=-9))
    assert tick(at(hours=12), seconds=0).closed == 1


# -- open days -------------------------------------------------------------------------------------------


def test_an_open_day_follows_its_rows(platform: Platform) -> None:
    def shows(wanted: dict[date, int]) -> None:
        # The counters of what was written come up to a second later.
        eventually(lambda: tick(at(hours=6)) and events(platform) == wanted)

    (key, _) = log(platform, at(hours=1), at(hours=1))
    shows({TODAY: 2})
    log(platform, at(hours=2))
    shows({TODAY: 3})
    with platform.engine.begin() as connection:
        connection.execute(delete(AuditLog).where(AuditLog.id != key))
    shows({TODAY: 1})
    with platform.engine.begin() as connection:
        connection.execute(delete(AuditLog))
    shows({})


def test_where_nothing_was_written_nothing_is_computed(platform: Platform) -> None:
    log(platform, at(hours=1))
    eventually(lambda: tick(at(hours=3)).buckets == 0)
    assert events(platform) == {TODAY: 1}
    log(platform, at(hours=2))
    eventually(lambda: tick(at(hours=3)).buckets == 1)
    assert events(platform) == {TODAY: 2}


def test_counters_that_nobody_keeps_say_nothing(platform: Platform) -> None:
    with platform.engine.begin() as connection:
        name = connection.execute(text("SELECT current_database()")).scalar_one()
        connection.execute(text(f'ALTER DATABASE "{name}" SET track_counts = off'))
    platform.engine.dispose()
    with platform.engine.begin() as connection:
        connection.execute(text("SET track_counts = off"))
    get_engine().dispose()
    for hour in (1, 2, 3):
        log(platform, at(hours=hour))
        tick(at(hours=4))
        assert events(platform) == {TODAY: hour}


def test_the_tables_may_lie_in_another_schema(platform: Platform) -> None:
    with platform.engine.begin() as connection:
        connection.execute(text('ALTER SCHEMA pern RENAME TO "Chat-1"'))
    platform.set(schemas="pern=Chat-1")
    with environment(platform.environment):
        tick(at(hours=3))
        with get_engine().begin() as connection:
            row = {"id": uuid4(), "created_at": at(hours=1), "action": "a", "resource_type": "b"}
            connection.execute(insert(table_of(AuditLog)).values(**row, ip_address="::1", user_agent="x"))
        eventually(lambda: tick(at(hours=4)) and events(platform) == {TODAY: 1})


# -- what comes late -------------------------------------------------------------------------------------


def test_late_corrected_and_deleted_rows_of_closed_days_are_found_within_a_day(platform: Platform) -> None:
    first, second, third = log(platform, at(days=-4), at(days=-3), at(days=-2))
    tick(at(hours=12))
    before = events(platform)
    log(platform, at(days=-4), at(days=-1))
    with platform.engine.begin() as connection:
        connection.execute(update(AuditLog).where(AuditLog.id == second).values(created_at=at(days=-2)))
        connection.execute(delete(AuditLog).where(AuditLog.id == third))
    # A run each hour: not all days at each.
    seen = [events(platform)]
    for hour in range(13, 13 + 25):
        tick(at(hours=hour))
        seen.append(events(platform))
    assert before == {date(2026, 3, 24): 1, date(2026, 3, 25): 1, date(2026, 3, 26): 1}
    assert seen[-1] == {date(2026, 3, 24): 2, date(2026, 3, 26): 1, date(2026, 3, 27): 1}
    assert len({str(one) for one in seen}) > 2
    assert first


def test_closed_days_are_looked_at_once_a_day_each(platform: Platform) -> None:
    tick(at(hours=12))
    looks = sum(tick(at(hours=12, minutes=15 * turn)).revisited for turn in range(4 * 24 * 3))
    # Five days of each, three times.
    assert 14 <= looks <= 16


def test_days_before_the_window_are_not_looked_at(platform: Platform) -> None:
    log(platform, at(days=-9))
    tick(at(hours=12))
    log(platform, at(days=-9), at(days=-5, hours=23), at(days=-4))
    tick(at(days=1, hours=11))
    assert events(platform) == {date(2026, 3, 19): 1, date(2026, 3, 24): 1}


def test_days_whose_rows_go_soon_are_never_computed_again(platform: Platform) -> None:
    once = replace(EVENTS, recompute_for=None)
    log(platform, at(days=-1))
    RollupRun(once, at(hours=12), "UTC").go()
    with platform.engine.begin() as connection:
        connection.execute(delete(AuditLog))
    RollupRun(once, at(days=2), "UTC").go()
    assert events(platform) == {date(2026, 3, 27): 1}
    with pytest.raises(FrozenError):
        Backfill(once, at(days=2), "UTC").compute(day_of(date(2026, 3, 27), "UTC"))


# -- what is gone ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("to", "stays"), [(at(days=-2) - INSTANT, False), (at(days=-2), True)])
def test_a_day_that_lost_rows_is_frozen(platform: Platform, to: datetime, stays: bool) -> None:
    log(platform, at(days=-2, hours=5))
    tick(at(hours=12))
    freeze(platform, to)
    with platform.engine.begin() as connection:
        connection.execute(delete(AuditLog))
    tick(at(days=1, hours=13))
    assert events(platform) == ({date(2026, 3, 26): 1} if stays else {})
    if stays:
        with pytest.raises(FrozenError):
            Backfill(EVENTS, at(days=2), "UTC").compute(day_of(date(2026, 3, 26), "UTC"))
        assert events(platform) == {date(2026, 3, 26): 1}


def test_a_room_does_not_lose_days_that_are_frozen(platform: Platform) -> None:
    one = uuid4()
    with platform.engine.begin() as connection:
        connection.execute(insert(AudioRoom).values(id=one, code="ROOM01", password_hash="x"))
        stay = {"room_id": one, "client_id": "a", "joined_at": at(days=-2), "left_at": at(hours=1)}
        connection.execute(insert(RoomParticipant).values(id=uuid4(), **stay))
    RollupRun(ROOMS, at(hours=12), "UTC").go()
    with platform.engine.begin() as connection:
        before = statistics(connection)
        connection.execute(update(RoomParticipant).values(left_at=at(days=-2, hours=1)))
    freeze(platform, at(days=-1), ROOMS.name)
    analytics.room(one, platform.settings, at(hours=12))
    with platform.engine.begin() as connection:
        assert statistics(connection) == {
            (one, date(2026, 3, 26)): before[one, date(2026, 3, 26)],
            (one, date(2026, 3, 27)): before[one, date(2026, 3, 27)],
            (one, TODAY): (0, 0, 0),
        }


# -- a state that does not hold ---------------------------------------------------------------------------


def test_a_watermark_within_a_day_goes_back_to_its_beginning(platform: Platform) -> None:
    """As after the rules of a zone have changed."""
    log(platform, at(days=-1, hours=5), at(hours=5))
    tick(at(hours=12))
    with platform.engine.begin() as connection:
        connection.execute(update(RollupState).values(watermark=at(days=-1, hours=7), probe=None))
    tick(at(days=3), seconds=60)
    assert state(platform).watermark == at(days=2)
    assert events(platform) == {date(2026, 3, 27): 1, TODAY: 1}


def test_a_clock_that_was_ahead_does_not_stop_the_figures(platform: Platform) -> None:
    tick(at(hours=12))
    tick(at(days=30))
    log(platform, at(hours=13), at(days=-2))
    eventually(lambda: tick(at(hours=14)) and events(platform) == {TODAY: 1})
    assert state(platform).watermark == at()
    log(platform, at(days=1, hours=1))
    found = {date(2026, 3, 26): 1, TODAY: 1, date(2026, 3, 29): 1}
    eventually(lambda: tick(at(days=1, hours=14)) and events(platform) == found)


def test_today_comes_first(platform: Platform) -> None:
    log(platform, at(days=-60), at(hours=1))
    done = tick(at(hours=12), seconds=0)
    assert (done.closed, done.more) == (1, True)
    assert events(platform)[TODAY] == 1


# -- zones -----------------------------------------------------------------------------------------------


def test_days_are_those_of_the_zone_that_is_set(platform: Platform) -> None:
    # Clocks leap from two to three in the night to the 29th: that day has 23 hours.
    log(
        platform,
        at(hours=22, minutes=59),
        at(hours=23),
        at(days=1, hours=21, minutes=59),
        at(days=1, hours=22),
    )
    tick(at(days=3), zone="Europe/Berlin")
    assert events(platform) == {TODAY: 1, date(2026, 3, 29): 2, date(2026, 3, 30): 1}


def test_the_zone_is_a_setting(platform: Platform) -> None:
    platform.set(rollup_zones="pern.security_daily=Europe/Berlin")
    log(platform, at(hours=-1), at(hours=1))
    analytics.run(ROLLUPS["pern.security_daily"], platform.settings, now=at(days=2), by_hand=True)
    assert events(platform) == {TODAY: 2}


# -- how it gets on --------------------------------------------------------------------------------------


def test_the_lag_counts_from_when_a_day_should_have_been_closed(platform: Platform) -> None:
    tick(at(hours=12))
    found = state(platform)
    assert lag(EVENTS, found, at(days=1, hours=2)) == timedelta(0)
    assert lag(EVENTS, found, at(days=1, hours=2) + INSTANT) == INSTANT
    assert lag(EVENTS, found, at(days=3)) == timedelta(hours=46)


def test_a_run_is_in_the_ledger(platform: Platform) -> None:
    rollup = ROLLUPS["pern.security_daily"]
    log(platform, at(days=-40), at())
    done = analytics.run(rollup, platform.settings, now=at(hours=12), by_hand=True)
    assert done is not None
    with platform.engine.begin() as connection:
        (row,) = connection.execute(select(JobRun)).all()
    assert (row.job, row.outcome, row.rows, row.batches) == (rollup.name, "done", 2, done.buckets)
    assert done.closed == 40


def test_one_that_fails_says_so_and_has_closed_what_it_closed(platform: Platform) -> None:
    rollup = ROLLUPS["pern.security_daily"]
    log(platform, at(days=-40))
    seen = 0

    def watch(_: RollupProgress) -> None:
        nonlocal seen
        seen += 1
        if seen == 3:
            raise RuntimeError("no more")

    with pytest.raises(RuntimeError):
        analytics.run(rollup, platform.settings, now=at(hours=12), by_hand=True, watch=watch)
    with platform.engine.begin() as connection:
        (row,) = connection.execute(select(JobRun)).all()
    assert (row.outcome, row.rows) == ("failed", 1)
    # Today came first.
    assert state(platform).watermark == at(days=-38)


def test_it_does_not_overlap_with_itself(platform: Platform) -> None:
    rollup = ROLLUPS["pern.security_daily"]
    begun, go_on = threading.Event(), threading.Event()

    def wait(_: RollupProgress) -> None:
        begun.set()
        assert go_on.wait(60)

    options: dict[str, Any] = {"now": at(hours=12), "by_hand": True}
    first = threading.Thread(
        target=analytics.run, args=(rollup, platform.settings), kwargs={**options, "watch": wait}
    )
    first.start()
    assert begun.wait(60)
    assert analytics.run(rollup, platform.settings, **options) is None
    go_on.set()
    first.join()


def test_two_at_once_that_know_nothing_of_each_other_count_nothing_twice(platform: Platform) -> None:
    """As after a lost connection to the job history: the state's row alone keeps them in order."""
    log(platform, *(at(days=-day, hours=hour) for day in range(30) for hour in range(3)))
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(tick, [at(hours=12, minutes=number) for number in range(3)]))
    assert events(platform) == {TODAY - timedelta(days=day): 3 for day in range(30)}
    assert state(platform).watermark == at()


# -- killed ----------------------------------------------------------------------------------------------


def fill(platform: Platform, days: int) -> None:
    """Make rooms and stays of so many days before now, with some that are still there."""
    chance = Random(7)
    with platform.engine.begin() as connection:
        now: datetime = connection.execute(text("SELECT date_trunc('second', now())")).scalar_one()
        rooms = [uuid4() for _ in range(5)]
        for number, key in enumerate(rooms):
            row = {"id": key, "code": f"ROOM0{number}", "password_hash": "x", "updated_at": now}
            connection.execute(insert(AudioRoom).values(**row))
        stays = []
        for number in range(days * 20):
            joined = now - timedelta(seconds=chance.randrange(days * 86_400))
            left = min(now, joined + timedelta(seconds=chance.randrange(100_000)))
            row = {"id": uuid4(), "room_id": chance.choice(rooms), "client_id": str(number % 40)}
            stays.append({**row, "joined_at": joined, "left_at": left})
        connection.execute(insert(RoomParticipant), stays)


@contextmanager
def runs(platform: Platform) -> Iterator[Callable[[], int]]:
    """Yield what begins a run of `ROOMS` in a process of its own, and returns its id."""
    command = [sys.executable, "-m", "tests.analytics.forked"]
    with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True, env=platform.environment) as program:
        names, processes = program.stdin, program.stdout
        assert names is not None
        assert processes is not None

        def begin() -> int:
            names.write(f"{ROOMS.name}\n")
            names.flush()
            return int(processes.readline())

        yield begin


def is_there(process: int) -> bool:
    """Return whether the process still runs."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_killed_again_and_again_it_ends_in_the_same_figures(platform: Platform) -> None:
    fill(platform, 40)
    marks: list[datetime] = []
    chance = Random(11)

    def mark() -> datetime | None:
        with platform.engine.begin() as connection:
            found = state_of(connection, ROOMS)
        return None if found is None else found.watermark

    with runs(platform) as begin:
        for _ in range(4):
            goal = timedelta(days=chance.randrange(2, 8))
            start = marks[-1] if marks else None
            process = begin()
            eventually(
                lambda start=start, goal=goal, process=process: (  # type: ignore[misc]
                    not is_there(process)
                    or ((now := mark()) is not None and (start is None or now > start + goal))
                )
            )
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
            eventually(lambda process=process: not is_there(process))  # type: ignore[misc]
            marks.append(closed_are_sound(platform))
    assert marks == sorted(marks)
    assert marks[0] < marks[-1], "no run was killed before its end"
    done = analytics.run(ROOMS, platform.settings, by_hand=True)
    assert done is not None
    with platform.engine.begin() as connection:
        moment = connection.execute(text("SELECT now()")).scalar_one()
        days = buckets(moment - timedelta(days=41), moment, ROOMS.grain, "UTC")
        assert statistics(connection) == expected(connection, days, moment)
        assert connection.execute(select(RollupLive)).all() == []


def closed_are_sound(platform: Platform) -> datetime:
    """Return the watermark. What is closed is as it must be, and of what is not there is nothing."""
    with platform.engine.connect() as connection:
        # A server process whose client was killed may end what it does: all is to be of one moment.
        connection = connection.execution_options(isolation_level="REPEATABLE READ")
        moment = connection.execute(text("SELECT now()")).scalar_one()
        state = state_of(connection, ROOMS)
        assert state is not None
        found = state.watermark
        wanted = expected(connection, buckets(state.covered_from, found, ROOMS.grain, "UTC"), moment)
        closed = {key: row for key, row in statistics(connection).items() if key[1] < found.date()}
        assert closed == wanted
    return found
