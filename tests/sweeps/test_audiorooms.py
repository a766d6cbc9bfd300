"""The sweeps of `audiorooms`."""

import random
from datetime import datetime, timedelta
from itertools import count, permutations
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import insert

from models.audiorooms import AudioRoom, AuditLog, RoomParticipant
from tasks.apps import APPS, POLICIES
from tasks.policies.columns import table_of
from tests.examples import examples
from tests.platform import Platform
from tests.sweeps import audiorooms_model as model
from tests.sweeps.audiorooms_model import World
from tests.sweeps.sweeping import INSTANT, NOW, add, ago, others, rows, sweep

ROOMS, STAYS = "audiorooms.audio_rooms", "audiorooms.room_participants"
LONG_AGO = ago(days=2)
both = pytest.mark.parametrize("by_hand", [True, False], ids=["by hand", "as beat does"])
_codes = count()


def room(platform: Platform, **values: Any) -> UUID:
    stamps = {"created_at": LONG_AGO, "updated_at": LONG_AGO}
    return add(platform, AudioRoom, code=f"{next(_codes):06}", password_hash="x", **stamps | values)


def stay(platform: Platform, place: UUID | None, **values: Any) -> UUID:
    return add(platform, RoomParticipant, room_id=place, **{"joined_at": LONG_AGO} | values)


def swept(
    platform: Platform,
    name: str,
    stays: dict[UUID, dict[str, Any]],
    by_hand: bool,
    rooms: dict[UUID, dict[str, Any]] | None = None,
    count: int | None = None,
) -> None:
    """Run it: that is all that there is then of stays (and rooms); nothing changes the next time."""
    before = others(platform)
    due = sum(row != stays[key] for key, row in rows(platform, RoomParticipant).items())
    assert sweep(platform, name, by_hand=by_hand).rows == (due if count is None else count)
    assert rows(platform, RoomParticipant) == stays
    after = others(platform)
    if rooms is not None:
        assert rows(platform, AudioRoom) == rooms
        before[ROOMS] = after[ROOMS]
    assert {**before, STAYS: []} == {**after, STAYS: []}
    assert sweep(platform, name, by_hand=by_hand).rows == 0
    assert others(platform) == after


def left(at: datetime | None, seconds: int | None) -> dict[str, Any]:
    return {"left_at": at, "connection_duration": seconds}


@both
def test_people_leave_rooms_that_are_not_active(platform: Platform, by_hand: bool) -> None:
    ended = ago(hours=1)
    closed = room(platform, active=False, updated_at=ended)
    unknown = room(platform, active=None, updated_at=None)
    # Closed by us, but its stays were locked: the suspension is the end, not our closing.
    suspended = room(platform, active=False, updated_at=ended, suspended_until=ended - timedelta(hours=1))
    # Closed by its owner before.
    resumed = room(platform, active=False, updated_at=ended, suspended_until=ended + timedelta(days=9))
    half = room(platform, active=False, updated_at=None, suspended_until=ended)
    ahead = room(platform, active=False, updated_at=NOW + timedelta(hours=1))
    active = room(platform)
    due = room(platform, suspended_until=ago(days=1))
    before_end = ended - timedelta(hours=2)
    leaves = {
        stay(platform, closed, joined_at=before_end): left(ended, 7200),
        stay(platform, closed, joined_at=before_end, role="broadcaster"): left(ended, 7200),
        stay(platform, closed, joined_at=before_end, role=None): left(ended, 7200),
        stay(platform, closed, joined_at=ended - INSTANT): left(ended, 0),
        stay(platform, closed, joined_at=ended + INSTANT): left(ended + INSTANT, 0),
        stay(platform, closed, joined_at=NOW + timedelta(days=9)): left(NOW + timedelta(days=9), 0),
        stay(platform, closed, joined_at=None): left(ended, None),
        stay(platform, unknown, joined_at=before_end): left(before_end, 0),
        stay(platform, unknown, joined_at=None): left(NOW, None),
        stay(platform, suspended, joined_at=before_end): left(ended - timedelta(hours=1), 3600),
        stay(platform, resumed, joined_at=before_end): left(ended, 7200),
        stay(platform, half, joined_at=before_end): left(ended, 7200),
        stay(platform, ahead, joined_at=ended): left(NOW, 3600),
        stay(platform, None, joined_at=before_end): left(before_end, 0),
        stay(platform, None, joined_at=None): left(NOW, None),
    }
    for stays_as_it_is in (active, due):
        stay(platform, stays_as_it_is)
    stay(platform, closed, joined_at=before_end, left_at=before_end)
    before = rows(platform, RoomParticipant)
    expected = {key: {**row, **leaves.get(key, {})} for key, row in before.items()}
    swept(platform, "audiorooms.stays", expected, by_hand)


@both
@pytest.mark.parametrize("sign", ["updated_at", "joined_at", "left_at", "audit_log"])
def test_a_room_without_a_sign_of_life_has_lost_its_server(
    platform: Platform, sign: str, by_hand: bool
) -> None:
    early = ago(days=3)

    def crowd(at: datetime | None, **values: Any) -> list[UUID]:
        values = {"updated_at": at if sign == "updated_at" else early} | values
        place = room(platform, **values)
        if sign == "joined_at":
            stay(platform, place, joined_at=at, left_at=at)
        if sign == "left_at":
            stay(platform, place, joined_at=early, left_at=at)
        if sign == "audit_log" and at is not None:
            add(platform, AuditLog, event_type="room_joined", room_id=place, created_at=at)
        return [
            stay(platform, place, joined_at=early),
            stay(platform, place, joined_at=early, role="broadcaster"),
            stay(platform, place, joined_at=None),
        ]

    # What happens elsewhere is no sign of life.
    elsewhere = room(platform)
    stay(platform, elsewhere, joined_at=NOW, left_at=NOW)
    for of in (None, elsewhere):
        add(platform, AuditLog, event_type="room_joined", room_id=of, created_at=NOW)
    for at in (ago(hours=12), NOW, NOW + model.SKEW):
        crowd(at)
    crowd(ago(days=1), active=False)
    last = ago(hours=12, than=INSTANT)
    dead = crowd(last)
    # By a clock that is wrong they may be there: until that has been seen for long.
    astray = crowd(NOW + timedelta(hours=13)) + crowd(NOW + timedelta(days=400))
    suspended = crowd(last, suspended_until=early + timedelta(seconds=9))
    resumable = crowd(last, suspended_until=NOW + timedelta(days=1))
    until = (last - early) // timedelta(seconds=1)
    leaves: dict[UUID, dict[str, Any]] = {}
    for of_room, end, seconds in (
        (dead, last, until),
        (suspended, early + timedelta(seconds=9), 9),
        (resumable, last, until),
    ):
        leaves |= dict(zip(of_room, [left(end, seconds)] * 2 + [left(end, None)], strict=True))
    before = rows(platform, RoomParticipant)
    expected = {key: {**row, **leaves.get(key, {})} for key, row in before.items()}
    swept(platform, "audiorooms.dead", expected, by_hand)
    # All others have been silent since, too.
    later = NOW + timedelta(hours=12) + INSTANT
    sweep(platform, "audiorooms.dead", now=later)
    found = rows(platform, RoomParticipant)
    assert {found[key]["left_at"] for key in astray} <= {early, later}


@both
def test_joining_a_room_is_a_sign_of_life_of_all_who_are_in_it(platform: Platform, by_hand: bool) -> None:
    lives, dead = room(platform, updated_at=None), room(platform, updated_at=None)
    for joined in (LONG_AGO, None, ago(hours=12)):
        stay(platform, lives, joined_at=joined)
    last = ago(hours=12, than=INSTANT)
    leaves = {
        stay(platform, dead, joined_at=last - timedelta(minutes=1)): left(last, 60),
        stay(platform, dead, joined_at=last): left(last, 0),
        stay(platform, dead, joined_at=None): left(last, None),
        # Nothing at all is known.
        stay(platform, room(platform, updated_at=None), joined_at=None): left(NOW, None),
    }
    before = rows(platform, RoomParticipant)
    expected = {key: {**row, **leaves.get(key, {})} for key, row in before.items()}
    swept(platform, "audiorooms.dead", expected, by_hand)


def test_how_long_a_server_may_be_silent_is_a_setting(platform: Platform) -> None:
    place = room(platform, updated_at=ago(hours=3))
    stay(platform, place, joined_at=ago(hours=3))
    assert sweep(platform, "audiorooms.dead").rows == 0
    platform.set(sweep_after=f"audiorooms.dead={timedelta(hours=2).total_seconds()}")
    assert sweep(platform, "audiorooms.dead").rows == 1


@both
def test_of_several_open_stays_of_a_client_the_newest_is_kept(platform: Platform, by_hand: bool) -> None:
    place = room(platform)
    ids = [UUID(int=n) for n in range(1, 30)]
    one, two, three = (ago(hours=3 - n) for n in range(3))
    astray = NOW + model.SKEW + INSTANT

    def of(client: str | None, *joined: datetime | None, where: UUID | None = place) -> list[UUID]:
        values = {"client_id": client}
        return [stay(platform, where, id=ids.pop(0), joined_at=at, **values) for at in joined]

    # Those that are not duplicates.
    of("alone", one)
    of(None, one, two)
    of("nowhere", one, two, where=None)
    of("alone", two, where=room(platform))
    stay(platform, place, client_id="alone", joined_at=two, left_at=three)
    first, second, _ = of("ada", one, two, three)
    leaves = {first: left(two, 3600), second: left(three, 3600)}
    # As they come.
    _, second, first = of("bob", three, two, one)
    leaves |= {first: left(two, 3600), second: left(three, 3600)}
    # At the same time: the greater id.
    first, _ = of("cleo", one, one)
    leaves |= {first: left(one, 0)}
    # Unknown times are the oldest.
    _, first, second = of("dan", one, None, None)
    leaves |= {first: left(one, None), second: left(one, None)}
    first, _ = of("eve", None, None)
    leaves |= {first: left(NOW, None)}
    # Those of wrong clocks are as good as unknown.
    first, _ = of("fay", astray, one)
    leaves |= {first: left(astray, 0)}
    # Clocks that differ a little are believed, but no listener is credited with time to come.
    first, second, _ = of("gus", one, NOW + INSTANT, NOW + model.SKEW)
    leaves |= {first: left(NOW, 10800), second: left(NOW + INSTANT, 0)}
    # One in between that was left is the next one all the same.
    first, _ = of("hal", one, three)
    stay(platform, place, client_id="hal", joined_at=two, left_at=two)
    leaves |= {first: left(two, 3600)}
    before = rows(platform, RoomParticipant)
    expected = {key: {**row, **leaves.get(key, {})} for key, row in before.items()}
    swept(platform, "audiorooms.duplicates", expected, by_hand)


# -- random histories -----------------------------------------------------------------------------------


def _moment(chance: random.Random) -> datetime | None:
    """Return some moment; many are the same, or at the edge of something."""
    if chance.random() < 0.1:
        return None
    edge = chance.choice([NOW, NOW + model.SKEW, NOW - model.DEAD, ago(days=1), ago(days=3), ago(hours=1)])
    apart = [timedelta(0), INSTANT, -INSTANT, timedelta(hours=1), -timedelta(hours=1), timedelta(days=400)]
    return edge + chance.choices(apart, weights=[5, 3, 3, 5, 5, 1])[0]


def _history(platform: Platform, chance: random.Random) -> None:
    """Fill the tables anew."""
    few = {"k": chance.randint(1, 4)}
    places = [UUID(int=chance.getrandbits(128)) for _ in range(few["k"])]
    silent = chance.random() < 0.5

    def some(likely: float) -> datetime | None:
        at = _moment(chance) if chance.random() < likely else None
        # Half of the histories were over long ago, but for clocks that are wrong.
        return at - timedelta(days=5) if silent and at is not None and at < NOW + model.SKEW else at

    rooms = [
        {
            "id": place,
            "code": f"{n:06}",
            "password_hash": "x",
            "active": chance.choice([True, True, True, False, None]),
            "suspended_until": some(0.3),
            "created_at": LONG_AGO,
            "updated_at": some(0.9),
        }
        for n, place in enumerate(places)
    ]
    stays = [
        {
            "id": UUID(int=chance.getrandbits(128)),
            "room_id": chance.choice([*places, *places, None]),
            "client_id": chance.choice(["ada", "bob", "cleo", None]),
            "role": chance.choice(["listener", "broadcaster", None]),
            "joined_at": some(0.9),
            "left_at": some(0.3),
            "connection_duration": None,
        }
        for _ in range(chance.randint(0, 20))
    ]
    entries = [
        {
            "event_type": "room_joined",
            "room_id": chance.choice([*places, None]),
            "created_at": some(0.9),
        }
        for _ in range(chance.randint(0, 3))
    ]
    with platform.engine.begin() as connection:
        for emptied in (AuditLog, RoomParticipant, AudioRoom):
            connection.execute(table_of(emptied).delete())
        for table, values in ((AudioRoom, rooms), (RoomParticipant, stays), (AuditLog, entries)):
            if values:
                connection.execute(insert(table_of(table)), values)


def _credited(before: World, after: World) -> None:
    """See that no listener is credited with more than there is a sign of."""
    for key, row in after.stays.items():
        was, joined = before.stays[key], row["joined_at"]
        if was["left_at"] is not None or row["left_at"] is None:
            continue
        assert row["connection_duration"] is None if joined is None else row["connection_duration"] >= 0
        place = before.rooms.get(row["room_id"])
        known = [place["updated_at"], place["suspended_until"], *before.signs(place["id"])] if place else []
        last = model.latest(*known)
        if joined is not None:
            assert row["left_at"] <= max(joined, min(NOW, last) if last is not None else joined)


def check_any_order(platform: Platform, chance: random.Random) -> None:
    _history(platform, chance)
    first = World.of(platform)
    order = chance.choice(list(permutations(model.POLICIES)))
    for name in order:
        before = World.of(platform)
        expected = before.after(name)
        sweep(platform, name, by_hand=chance.random() < 0.5)
        world = World.of(platform)
        for key, row in world.rooms.items():
            if row["active"] is not before.rooms[key]["active"]:
                expected.rooms[key]["updated_at"] = row["updated_at"]
        assert world == expected, (name, order)
    for row in world.stays.values():
        if row["left_at"] is not None and row["joined_at"] is not None:
            assert row["left_at"] >= row["joined_at"]
    for row in world.open():
        # A listener in a room that is active, and lives, once.
        assert world.is_active(row)
        assert any(at >= NOW - model.DEAD for at in world.signs(row["room_id"]))
    clients = [(row["room_id"], row["client_id"]) for row in world.open() if row["client_id"] is not None]
    assert len(clients) == len(set(clients))
    _credited(first, world)
    for name in order:
        assert sweep(platform, name).rows == 0
    assert World.of(platform) == world


def test_any_order_ends_as_the_rules_say(platform: Platform) -> None:
    assert set(model.POLICIES) == {policy.name for policy in APPS["audiorooms"].cleanup}

    @examples(20)
    @given(chance=st.randoms(use_true_random=True))
    def check(chance: random.Random) -> None:
        check_any_order(platform, chance)

    check()


# -- what is told, and needed ---------------------------------------------------------------------------


def test_they_need_what_they_name() -> None:
    def needs(name: str) -> dict[str, tuple[set[str], set[str]]]:
        return {
            need.table.name: (set(need.columns), set(need.privileges))
            for need in POLICIES[f"audiorooms.{name}"].needs()
        }

    change, look = {"SELECT", "UPDATE"}, {"SELECT"}
    assert needs("suspended") == {
        "audio_rooms": ({"id", "code", "active", "suspended_until"}, change),
        "room_participants": ({"id", "room_id", "joined_at", "left_at"}, change),
    }
    assert needs("stays") == {
        "room_participants": ({"id", "room_id", "user_id", "client_id", "joined_at", "left_at"}, change),
        "audio_rooms": ({"id", "active", "suspended_until", "updated_at"}, look),
    }
    assert needs("dead") == {
        "room_participants": ({"id", "room_id", "joined_at", "left_at"}, change),
        "audio_rooms": ({"id", "active", "suspended_until", "updated_at"}, look),
        "audit_log": ({"room_id", "created_at"}, look),
    }
    assert needs("duplicates") == {
        "room_participants": ({"id", "room_id", "client_id", "joined_at", "left_at"}, change)
    }
    assert needs("backwards") == {
        "room_participants": ({"id", "joined_at", "left_at", "connection_duration"}, change)
    }
