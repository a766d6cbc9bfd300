"""The statistics of `audiorooms`, against a brute-force oracle: random histories, increments and crashes."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, delete, event, insert, text, update

from models.analytics import AudioroomsLongStay, RollupLive, RollupState
from models.audiorooms import AudioRoom, AuditLog, RoomAnalytics, RoomParticipant
from models.supabase import User
from tasks.analytics import task as analytics
from tasks.analytics.calendar import Bucket, bucket_at, buckets, day_of
from tasks.analytics.engine import RollupProgress, RollupRun
from tasks.apps import ROLLUPS
from tasks.policies.columns import table_of
from tests.analytics.oracle_audiorooms import Statistics, expected, statistics
from tests.examples import examples
from tests.platform import Platform, eventually
from workers.db import get_engine

ROLLUP = ROLLUPS["audiorooms.room_analytics"]
#: The same, with fewer days to look at again.
SHORT = replace(ROLLUP, recompute_for=timedelta(days=12))
DAY0, DAY1, DAY2 = date(2026, 3, 27), date(2026, 3, 28), date(2026, 3, 29)
MIDNIGHT = datetime(2026, 3, 28, tzinfo=UTC)
INSTANT = timedelta(microseconds=1)
#: The most at once, minutes, and how many people.
Day = tuple[int, int, int]


def room(platform: Platform, code: str = "ROOM01", **values: Any) -> UUID:
    key: UUID = values.pop("id", None) or uuid4()
    # Alive: else the policies' rules for dead rooms hold.
    times = {"created_at": MIDNIGHT - timedelta(days=9), "updated_at": MIDNIGHT + timedelta(days=9)}
    with platform.engine.begin() as connection:
        row = {"id": key, "code": code, "password_hash": "x", **times, **values}
        connection.execute(insert(table_of(AudioRoom)).values(row))
    return key


def stay(
    platform: Platform, of: UUID | None, joined: datetime | None, left: datetime | None = None, **values: Any
) -> UUID:
    key = uuid4()
    row = {"id": key, "room_id": of, "client_id": str(key), "joined_at": joined, "left_at": left, **values}
    with platform.engine.begin() as connection:
        connection.execute(insert(table_of(RoomParticipant)).values(row))
    return key


def user(platform: Platform) -> UUID:
    key = uuid4()
    with platform.engine.begin() as connection:
        connection.execute(insert(table_of(User)).values(id=key))
    return key


def tick(now: datetime, zone: str = "UTC") -> RollupProgress:
    return RollupRun(SHORT, now, zone).go()


def of_day(platform: Platform) -> dict[UUID, tuple[int, int, int]]:
    """Return the statistics of a day by room, after a run that closes it; all is as the oracle says."""
    now = MIDNIGHT + timedelta(days=3)
    tick(now)
    with platform.engine.begin() as connection:
        found = statistics(connection)
        assert found == expected(connection, days(now), now)
    return {key[0]: value for key, value in found.items() if key[1] == DAY1}


def days(now: datetime, zone: str = "UTC") -> list[Bucket]:
    return buckets(MIDNIGHT - timedelta(days=9), now, SHORT.grain, zone)


def at(**parts: float) -> datetime:
    return MIDNIGHT + timedelta(**parts)


# -- rule by rule ----------------------------------------------------------------------------------------


def test_the_peak_is_the_most_people_at_once(platform: Platform) -> None:
    one = room(platform)
    for first, last in ((8, 12), (9, 11), (10, 13), (14, 15), (14, 16)):
        stay(platform, one, at(hours=first), at(hours=last))
    assert of_day(platform) == {one: (3, 720, 5)}


def test_who_leaves_as_another_joins_was_not_there_with_them(platform: Platform) -> None:
    touching, overlapping = room(platform, "TOUCH1"), room(platform, "OVERL1")
    for of, late in ((touching, timedelta(0)), (overlapping, INSTANT)):
        stay(platform, of, at(hours=8), at(hours=9) + late)
        stay(platform, of, at(hours=9), at(hours=10))
    assert of_day(platform) == {touching: (1, 120, 2), overlapping: (2, 120, 2)}


def test_a_stay_of_no_time_is_a_person_and_nothing_else(platform: Platform) -> None:
    one = room(platform)
    stay(platform, one, at(hours=8), at(hours=8))
    stay(platform, one, at(hours=9), at(hours=8))
    assert of_day(platform) == {one: (0, 0, 2)}


def test_stays_are_cut_at_midnight(platform: Platform) -> None:
    # When a listener joined and left, and the statistics of the day before midnight, and of the day after.
    stays: list[tuple[datetime, datetime, Day | None, Day | None]] = [
        (at(hours=-1), at(hours=1), (1, 60, 1), (1, 60, 1)),
        (at(hours=-1), at(), (1, 60, 1), None),
        (at(hours=-1), at() + INSTANT, (1, 60, 1), (1, 0, 1)),
        (at(), at(hours=1), None, (1, 60, 1)),
        (at() - INSTANT, at(hours=1), (1, 0, 1), (1, 60, 1)),
        (at(hours=-24), at(hours=24), (1, 1440, 1), (1, 1440, 1)),
    ]
    rooms = [room(platform, f"ROOM{number:02}") for number in range(len(stays))]
    for of, (joined, left, _, _) in zip(rooms, stays, strict=True):
        stay(platform, of, joined, left)
    found = of_day(platform)
    with platform.engine.begin() as connection:
        everything = statistics(connection)
    assert [(everything.get((of, DAY0)), found.get(of)) for of in rooms] == [
        (before, after) for _, _, before, after in stays
    ]


def test_minutes_are_rounded_half_up(platform: Platform) -> None:
    rounded = {29.999999: 0, 30: 1, 89.999999: 1, 90: 2}
    rooms = {length: room(platform, f"ROOM{number:02}") for number, length in enumerate(rounded)}
    for length, of in rooms.items():
        stay(platform, of, at(hours=8), at(hours=8, seconds=length))
    assert of_day(platform) == {rooms[length]: (1, minutes, 1) for length, minutes in rounded.items()}


def test_a_person_is_a_user_else_a_client_and_listens_once_at_a_time(platform: Platform) -> None:
    one, ada = room(platform), user(platform)
    # The same user on two devices, a client that reconnects twice, and two of whom nothing is known.
    stay(platform, one, at(hours=8), at(hours=10), user_id=ada)
    stay(platform, one, at(hours=9), at(hours=11), user_id=ada)
    for hour in (8, 9, 10):
        stay(platform, one, at(hours=hour), at(hours=hour + 1, minutes=30), client_id="phone")
    for _ in range(2):
        stay(platform, one, at(hours=20), at(hours=21), client_id=None)
    assert of_day(platform) == {one: (2, 180 + 210 + 120, 4)}


def test_a_client_called_like_a_user_is_another_person(platform: Platform) -> None:
    one, ada = room(platform), user(platform)
    stay(platform, one, at(hours=8), at(hours=9), user_id=ada)
    stay(platform, one, at(hours=8), at(hours=9), client_id=str(ada))
    stay(platform, one, at(hours=8), at(hours=9), client_id=f"#{ada}")
    assert of_day(platform) == {one: (3, 180, 3)}


def test_only_listeners_count(platform: Platform) -> None:
    one, other = room(platform), room(platform, "OTHER1")
    stay(platform, one, at(hours=8), at(hours=9), role=None)
    stay(platform, one, at(hours=8), at(hours=9), role="broadcaster")
    stay(platform, other, at(hours=8), at(hours=9), role="broadcaster")
    stay(platform, None, at(hours=8), at(hours=9))
    stay(platform, one, None, at(hours=9))
    assert of_day(platform) == {one: (1, 60, 1)}


def test_a_stay_of_many_days_is_in_each_of_them(platform: Platform) -> None:
    one = room(platform)
    stay(platform, one, at(days=-3, hours=6), at(hours=1))
    of_day(platform)
    with platform.engine.begin() as connection:
        found = statistics(connection)
    assert {key[1].day: value[1] for key, value in found.items()} == {25: 1080, 26: 1440, 27: 1440, 28: 60}


def test_who_is_still_there_counts_up_to_now(platform: Platform) -> None:
    one = room(platform, updated_at=at(hours=20))
    stay(platform, one, at(hours=1))
    for hours, listened in ((2, 60), (3, 120), (23, 1320)):
        tick(at(hours=hours))
        with platform.engine.begin() as connection:
            assert statistics(connection) == {(one, DAY1): (1, listened, 1)}
    # A new day, which begins with them.
    tick(at(days=1, minutes=1))
    with platform.engine.begin() as connection:
        assert statistics(connection) == {
            (one, DAY1): (1, 1380, 1),
            (one, DAY2): (1, 1, 1),
        }


def test_up_to_the_last_sign_of_life(platform: Platform) -> None:
    rooms: list[tuple[dict[str, Any], int]] = [
        # Its server has crashed: up to the last sign of life.
        ({"updated_at": at(hours=5)}, 240),
        ({"updated_at": at(hours=12)}, 1380),
        ({"updated_at": at(hours=12) - INSTANT}, 660),
        ({"updated_at": at(hours=5), "active": False}, 240),
        ({"updated_at": None, "active": False, "suspended_until": at(hours=4)}, 180),
        ({"updated_at": at(hours=20), "suspended_until": at(hours=6)}, 300),
        ({"updated_at": at(hours=20), "suspended_until": at(days=3)}, 1380),
        ({"updated_at": None, "active": None}, 1380),
    ]
    listened = {}
    for number, (of_room, minutes) in enumerate(rooms):
        one = room(platform, f"ROOM{number:02}", **of_room)
        stay(platform, one, at(hours=1))
        listened[one, DAY1] = (1, minutes, 1)
    now = at(days=1)
    tick(now)
    with platform.engine.begin() as connection:
        assert statistics(connection) == listened
        assert statistics(connection) == expected(connection, days(now), now)


def test_a_room_that_had_listeners_keeps_its_row_and_what_is_not_ours(platform: Platform) -> None:
    one, never = room(platform), room(platform, "NEVER1")
    stay(platform, one, at(hours=1), at(hours=2))
    with platform.engine.begin() as connection:
        row = {"room_id": one, "date": DAY1, "avg_latency_ms": 40, "total_packets_sent": 7}
        connection.execute(insert(table_of(RoomAnalytics)).values(row))
        row = {"room_id": never, "date": DAY1, "avg_latency_ms": 50, "peak_listeners": None}
        connection.execute(insert(table_of(RoomAnalytics)).values(row))
        # Of a deleted room: it cannot be computed again.
        row = {"room_id": None, "date": DAY1, "peak_listeners": 9, "total_listeners": 10}
        connection.execute(insert(table_of(RoomAnalytics)).values(row))
    now = at(days=2)
    tick(now)
    with platform.engine.begin() as connection:
        connection.execute(delete(table_of(RoomParticipant)))
        assert statistics(connection)[one, DAY1] == (1, 60, 1)
    tick(now + timedelta(days=1))
    with platform.engine.begin() as connection:
        rows = connection.execute(
            text(
                "SELECT room_id, peak_listeners, total_listen_minutes, total_listeners, avg_latency_ms,"
                " total_packets_sent FROM audiorooms.room_analytics ORDER BY avg_latency_ms"
            )
        ).all()
    assert [tuple(row) for row in rows] == [
        (one, 0, 0, 0, 40, 7),
        (never, 0, 0, 0, 50, 0),
        (None, 9, 0, 10, None, 0),
    ]


def test_a_room_is_computed_at_once(platform: Platform) -> None:
    one, other = room(platform), room(platform, "OTHER1")
    begun(platform, "UTC", at(days=-2))
    tick(at(hours=1))
    for of in (one, other):
        stay(platform, of, at(days=-1, hours=2), at(hours=1))
    assert analytics.room("ROOM01", platform.settings, at(hours=2)) == 2
    with platform.engine.begin() as connection:
        assert statistics(connection) == {
            (one, DAY0): (1, 1320, 1),
            (one, DAY1): (1, 60, 1),
        }
    assert analytics.room(one, platform.settings, at(hours=2)) == 0
    with pytest.raises(analytics.UnknownRoomError):
        analytics.room(uuid4(), platform.settings)


def test_figures_of_before_there_was_anything_to_count_are_left(platform: Platform) -> None:
    """The application may have made them of rows that it deleted itself."""
    one = room(platform)
    stay(platform, one, at(hours=1), at(hours=2))
    with platform.engine.begin() as connection:
        row = {"room_id": one, "date": date(2026, 3, 10), "peak_listeners": 50, "total_listeners": 70}
        connection.execute(insert(table_of(RoomAnalytics)).values(**row, total_listen_minutes=600))
    tick(at(days=2))
    with platform.engine.begin() as connection:
        assert statistics(connection) == {(one, date(2026, 3, 10)): (50, 600, 70), (one, DAY1): (1, 60, 1)}


def test_a_clock_that_is_ahead_says_that_they_have_left_already(platform: Platform) -> None:
    one = room(platform, updated_at=at(hours=10))
    stay(platform, one, at(hours=10), at(hours=11))
    for minutes, listened in ((5, 5), (30, 30), (59, 59), (120, 60)):
        tick(at(hours=10, minutes=minutes))
        with platform.engine.begin() as connection:
            assert statistics(connection) == {(one, DAY1): (1, listened, 1)}


def test_clocks_that_are_out_of_their_mind_count_for_nothing(platform: Platform) -> None:
    one = room(platform, updated_at=at(hours=20))
    stay(platform, one, at(hours=8), at(hours=9))
    rooms = [one]
    for number, moment in enumerate(
        ["-infinity", "infinity", "1970-01-01Z", "0044-03-15 BC", "294276-12-31Z"], start=2
    ):
        other = room(platform, f"ROOM{number:02}", updated_at=at(hours=20))
        rooms.append(other)
        with platform.engine.begin() as connection:
            for of in (one, other):
                values = {"room": of, "moment": moment}
                joined = "INSERT INTO audiorooms.room_participants (room_id, client_id, joined_at, left_at) "
                # Who joined then; who left then; both.
                for row in ("(:room, 'a', :moment, NULL)", "(:room, 'b', :moment, :moment)"):
                    connection.execute(text(f"{joined} VALUES {row}"), values)
    for hours in (10, 11):
        tick(at(hours=hours))
        for of in rooms:
            analytics.room(of, platform.settings, at(hours=hours))
        with platform.engine.begin() as connection:
            assert statistics(connection) == {(one, DAY1): (1, 60, 1)}


def test_a_room_that_goes_while_its_day_is_computed(platform: Platform) -> None:
    one, other = room(platform), room(platform, "OTHER1")
    for of in (one, other):
        stay(platform, of, at(hours=8), at(hours=9))
    begun(platform, "UTC", at())
    with platform.engine.connect() as connection:
        connection.execute(delete(table_of(AudioRoom)).where(table_of(AudioRoom).c.id == one))
        with ThreadPoolExecutor(1) as threads:
            running = threads.submit(tick, at(hours=12))
            eventually(lambda: waiting(platform))
            connection.commit()
            running.result()
    with platform.engine.begin() as connection:
        assert statistics(connection) == {(other, DAY1): (1, 60, 1)}


def waiting(platform: Platform) -> bool:
    """Return whether a transaction waits for a lock."""
    with platform.engine.begin() as connection:
        asked = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
        return bool(connection.execute(asked).scalar_one())


@pytest.mark.parametrize(("most", "mended"), [(4, False), (3, True)])
def test_many_rooms_are_computed_as_a_whole(platform: Platform, most: int, mended: bool) -> None:
    *rooms, quiet = [room(platform, f"ROOM0{number}") for number in range(5)]
    begun(platform, "UTC", at())
    stay(platform, quiet, at(minutes=1), at(minutes=31))
    tick(at(hours=1))
    with platform.engine.begin() as connection:
        # So that it is seen whether it is looked at.
        connection.execute(update(table_of(RoomAnalytics)).values(total_listeners=9))
    for number, of in enumerate(rooms):
        stay(platform, of, at(hours=1), at(hours=2 + number))
    assert SHORT.keyed is not None
    RollupRun(replace(SHORT, keyed=replace(SHORT.keyed, most=most)), at(hours=12), "UTC").go()
    with platform.engine.begin() as connection:
        found = statistics(connection)
    assert found.pop((quiet, DAY1)) == (1, 30, 1 if mended else 9)
    assert found == {(of, DAY1): (1, 60 * (1 + number), 1) for number, of in enumerate(rooms)}


# -- any history -----------------------------------------------------------------------------------------


class Crash(BaseException):
    """The process dies here."""


@contextmanager
def dying(engine: Engine, after: int | None) -> Iterator[None]:
    """Die before the statement of this number; None for not."""
    count = 0

    def execute(*_: object) -> None:
        nonlocal count
        count += 1
        if after is not None and count > after:
            raise Crash

    event.listen(engine, "before_cursor_execute", execute)
    try:
        yield
    except Crash:
        pass
    finally:
        event.remove(engine, "before_cursor_execute", execute)


def moment(chance: Random, now: datetime) -> datetime:
    """Return a time: around a midnight, or anywhere in some days before it."""
    if chance.random() < 0.4:
        edge = day_of((now - timedelta(days=chance.randrange(4))).date(), ZONE.get(chance, "UTC")).start
        return edge + chance.choice(
            [-INSTANT, timedelta(0), INSTANT, timedelta(minutes=chance.randrange(90))]
        )
    return now - timedelta(seconds=chance.randrange(4 * 86_400), microseconds=chance.choice([0, 0, 500_000]))


ZONE: dict[Random, str] = {}
PEOPLE = ["a", "b", "c", None]


def happen(platform: Platform, chance: Random, rooms: list[UUID], users: list[UUID], now: datetime) -> None:
    """Let something happen: people join and leave, rows come late, are corrected or deleted, rooms close."""
    stays = table_of(RoomParticipant)
    with platform.engine.begin() as connection:
        for _ in range(chance.randrange(1, 6)):
            joined = moment(chance, now)
            left = chance.choice([None, joined, joined + timedelta(seconds=chance.randrange(-60, 200_000))])
            if left is not None and chance.random() < 0.3:
                left = moment(chance, now)
            row = {
                "id": uuid4(),
                "room_id": chance.choice(rooms),
                "user_id": chance.choice([None, None, *users]),
                "client_id": chance.choice(PEOPLE),
                "role": chance.choice(["listener", "listener", "listener", None, "broadcaster"]),
                "joined_at": None if chance.random() < 0.05 else joined,
                "left_at": left,
            }
            connection.execute(insert(stays).values(row))
        some = connection.execute(text("SELECT id FROM audiorooms.room_participants")).scalars().all()
        for key in chance.sample(list(some), k=min(len(some), 3)):
            condition = stays.c.id == key
            what = chance.random()
            if what < 0.4:
                late = text("greatest(joined_at, :at)").bindparams(at=moment(chance, now))
                connection.execute(
                    update(stays).where(condition, stays.c.left_at.is_(None)).values(left_at=late)
                )
            elif what < 0.6:
                connection.execute(update(stays).where(condition).values(joined_at=moment(chance, now)))
            elif what < 0.75:
                connection.execute(delete(stays).where(condition))
            elif what < 0.8:
                connection.execute(update(stays).where(condition).values(user_id=None))
        if chance.random() < 0.15:
            one = table_of(AudioRoom).c.id == chance.choice(rooms)
            connection.execute(update(table_of(AudioRoom)).where(one).values(active=chance.random() < 0.5))
        if chance.random() < 0.1:
            one = table_of(AudioRoom).c.id == chance.choice(rooms)
            until = chance.choice([None, moment(chance, now), now + timedelta(hours=3)])
            connection.execute(update(table_of(AudioRoom)).where(one).values(suspended_until=until))


def clear(platform: Platform) -> None:
    models = (RoomAnalytics, RoomParticipant, AuditLog, AudioRoom, User, RollupState, RollupLive)
    named = ", ".join(table_of(model).fullname for model in (*models, AudioroomsLongStay))
    with platform.engine.begin() as connection:
        connection.execute(text(f"TRUNCATE {named} CASCADE"))


def begun(platform: Platform, zone: str, moment: datetime) -> None:
    """Have all days counted from this one on."""
    start = bucket_at(moment, SHORT.grain, zone).start
    values = {"name": SHORT.name, "zone": zone, "watermark": start, "covered_from": start}
    with platform.engine.begin() as connection:
        connection.execute(insert(table_of(RollupState)).values(values))


def same(found: Statistics, wanted: Statistics) -> bool:
    """Return whether they say the same: a room that had listeners may have a row of zeros."""
    return {key: value for key, value in found.items() if value != (0, 0, 0)} == {
        key: value for key, value in wanted.items() if value != (0, 0, 0)
    }


def test_any_history_in_any_increments_with_any_crashes_ends_in_the_oracles_figures(
    platform: Platform,
) -> None:
    @examples(12)
    @given(
        chance=st.randoms(use_true_random=True),
        zone=st.sampled_from(["UTC", "Europe/Berlin", "America/Havana", "Asia/Kolkata"]),
    )
    def check(chance: Random, zone: str) -> None:
        # Clocks change within these days in Berlin (2026-03-29); in Havana at midnight (2026-03-08).
        begin = datetime(2026, 3, 6 if zone == "America/Havana" else 27, 12, tzinfo=UTC)
        clear(platform)
        ZONE.clear()
        ZONE[chance] = zone
        # Listeners join four days before now at the earliest.
        first = bucket_at(begin - timedelta(days=4), SHORT.grain, zone).start
        begun(platform, zone, first)
        rooms = [room(platform, f"ROOM0{number}") for number in range(3)]
        users = [user(platform) for _ in range(2)]
        now = begin
        for _ in range(chance.randrange(2, 7)):
            now += chance.choice(
                [timedelta(minutes=5), timedelta(hours=chance.randrange(1, 15)), timedelta(days=1)]
            )
            happen(platform, chance, rooms, users, now)
            if chance.random() < 0.8:
                with dying(get_engine(), chance.choice([None, None, chance.randrange(1, 40)])):
                    tick(now, zone)
        # A round later everything has been looked at again; once more changes nothing.
        now += timedelta(days=1, minutes=chance.randrange(90))
        tick(now, zone)
        with platform.engine.begin() as connection:
            found = statistics(connection)
            wanted = expected(connection, buckets(first, now, SHORT.grain, zone), now)
        assert same(found, wanted), difference(found, wanted)
        again = tick(now, zone)
        assert again.rows == 0

    check()


def difference(found: Statistics, wanted: Statistics) -> dict[Any, Any]:
    keys = {*found, *wanted}
    return {key: (found.get(key), wanted.get(key)) for key in keys if found.get(key) != wanted.get(key)}
