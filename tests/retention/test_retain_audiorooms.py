"""Retention of `audiorooms`: the audit log, stays that statistics count, closed rooms but not statistics."""

from datetime import UTC, date, datetime, timedelta
from itertools import count
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import insert

from models.audiorooms import AudioRoom, RoomAnalytics, RoomParticipant
from models.supabase import User
from tasks.apps import enabled, policies
from tasks.retention import holds
from tasks.retention.batch import RetentionBatches
from tasks.sweeps.batch import Seen, Taken
from tests.platform import Platform
from tests.retention.proving import proven
from tests.retention.retaining import days, retain
from tests.sweeps.sweeping import INSTANT, NOW, add, ago, rolled_up, rows
from tests.sweeps.test_engine import held
from workers.settings import SettingsError, load

AUDIT, STAYS, ROOMS = "audiorooms.audit_log", "audiorooms.participants", "audiorooms.rooms"
STATISTICS = "audiorooms.room_analytics"
MONTH = timedelta(days=30)
#: The last moment that is past a month.
DUE = NOW - MONTH - INSTANT
_codes = count()


def room(platform: Platform, **values: Any) -> UUID:
    """Return a room that closed in time to be due."""
    given = {"code": f"{next(_codes):06}", "password_hash": "x", "active": False}
    return add(platform, AudioRoom, **{**given, "created_at": ago(days=100), "updated_at": DUE, **values})


def stay(platform: Platform, place: UUID | None, **values: Any) -> UUID:
    """Return a stay of an hour that ended in time to be due."""
    given = {"joined_at": DUE - timedelta(hours=1), "left_at": DUE, "role": "listener"}
    return add(platform, RoomParticipant, room_id=place, **{**given, **values})


def statistics(platform: Platform, place: UUID | None, *whens: datetime, **values: Any) -> list[UUID]:
    """Insert the statistics of these moments' days."""
    return [
        add(platform, RoomAnalytics, room_id=place, date=day, **values)
        for day in sorted({when.astimezone(UTC).date() for when in whens})
    ]


def without_room(keys: list[UUID]) -> dict[UUID, dict[str, None]]:
    return {key: {"room_id": None} for key in keys}


def test_the_audit_log_never_goes_without_an_archive() -> None:
    with pytest.raises(SettingsError, match="may do without an archive"):
        enabled(load({"DATABASE_URL": "postgresql://", "ROOMKEEPER_ARCHIVE_OFF": AUDIT}))


def test_the_room_s_end_is_that_of_stays_without_one(platform: Platform) -> None:
    days(platform, **{STAYS: 30})
    place = room(platform)
    expired = {stay(platform, place, left_at=None)}
    early = room(platform, updated_at=NOW, suspended_until=DUE)
    expired.add(stay(platform, early, left_at=None))
    for values in (
        {"updated_at": NOW - MONTH},
        {"updated_at": NOW},
        {"updated_at": None},
        {"updated_at": None, "suspended_until": NOW - MONTH},
    ):
        later = room(platform, **values)
        stay(platform, later, left_at=None)
    proven(platform, STAYS, deleted={RoomParticipant: expired})


MIDNIGHT = datetime(2026, 1, 10, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.mark.parametrize(
    ("joined", "left", "goes"),
    [
        # What lies before the end of the last closed day; the next one's first instant is of the next one.
        (MIDNIGHT - DAY, MIDNIGHT - INSTANT, True),
        (MIDNIGHT - DAY, MIDNIGHT, False),
        (MIDNIGHT, MIDNIGHT, False),
        (MIDNIGHT - 9 * DAY, MIDNIGHT + 2 * DAY, False),
        # It ends with its room; by a wrong clock, too.
        (MIDNIGHT - 2 * DAY, None, False),
        (MIDNIGHT - 2 * DAY, NOW + 365 * DAY, False),
        # What began before the first of the statistics was never counted.
        (MIDNIGHT - 20 * DAY, MIDNIGHT - DAY, True),
        (MIDNIGHT - 20 * DAY - INSTANT, MIDNIGHT - DAY, False),
    ],
)
def test_each_day_of_a_stay_must_be_closed(
    platform: Platform, joined: datetime, left: datetime | None, goes: bool
) -> None:
    days(platform, **{STAYS: 30})
    rolled_up(platform, STATISTICS, watermark=MIDNIGHT, covered_from=MIDNIGHT - 20 * DAY)
    place = room(platform, updated_at=MIDNIGHT)
    wanted = stay(platform, place, joined_at=joined, left_at=left)
    # The room's last day is not closed; of others it does not matter.
    other = stay(platform, place, joined_at=MIDNIGHT - DAY, left_at=MIDNIGHT - DAY)
    proven(platform, STAYS, deleted={RoomParticipant: [other, *([wanted] if goes else [])]}, restored=False)
    (frozen,) = platform.sql("SELECT frozen_to FROM roomkeeper.rollups WHERE name = :name", name=STATISTICS)
    assert frozen.frozen_to == (left if goes else MIDNIGHT - DAY)


def test_a_stay_without_an_end_freezes_the_days_until_its_room_s(platform: Platform) -> None:
    days(platform, **{STAYS: 30})
    place = room(platform, updated_at=MIDNIGHT)
    expired = stay(platform, place, joined_at=MIDNIGHT - 9 * DAY, left_at=None)
    proven(platform, STAYS, deleted={RoomParticipant: [expired]}, restored=False)
    (frozen,) = platform.sql("SELECT frozen_to FROM roomkeeper.rollups WHERE name = :name", name=STATISTICS)
    assert frozen.frozen_to == MIDNIGHT


@pytest.mark.parametrize("column", ["joined_at", "left_at"])
@pytest.mark.parametrize("moment", ["infinity", "-infinity", "4713-01-01 BC", "0001-01-01"])
def test_no_clock_is_so_wrong_that_others_stay(platform: Platform, column: str, moment: str) -> None:
    days(platform, **{STAYS: 30})
    # A beginning that no statistics have; an end there is no end.
    rolled_up(platform, STATISTICS, watermark=NOW, covered_from=ago(days=60))
    place = room(platform)
    wrong = stay(platform, place)
    platform.sql(
        f"UPDATE audiorooms.room_participants SET {column} = CAST(:moment AS timestamptz) WHERE id = :wrong",
        moment=moment,
        wrong=wrong,
    )
    fine = stay(platform, place)
    assert retain(platform, STAYS).error is None
    left = {row.id for row in platform.sql("SELECT id FROM audiorooms.room_participants")}
    assert fine not in left
    assert left == set()


def test_a_room_stays_until_its_stays_have_gone(platform: Platform) -> None:
    days(platform, **{ROOMS: 30, STAYS: 30})
    empty, place = room(platform), room(platform)
    of = stay(platform, place)
    proven(platform, ROOMS, deleted={AudioRoom: [empty]}, restored=False)
    # Not in the statistics yet: neither goes.
    rolled_up(platform, STATISTICS, watermark=DUE)
    proven(platform, STAYS, deleted={RoomParticipant: []})
    rolled_up(platform, STATISTICS, watermark=DUE + INSTANT)
    kept = statistics(platform, place, DUE)
    proven(platform, STAYS, deleted={RoomParticipant: [of]}, restored=False)
    proven(
        platform,
        ROOMS,
        deleted={AudioRoom: [place]},
        changed={RoomAnalytics: without_room(kept)},
    )


def test_figures_that_are_being_written_are_not_taken_along(platform: Platform) -> None:
    days(platform, **{ROOMS: 30})
    place = room(platform)
    values = {"room_id": place, "date": date(2026, 1, 1)}
    with held(platform, insert(RoomAnalytics).values(values)):
        done = retain(platform, ROOMS)
        assert (done.rows, done.remaining) == (0, 1)
    assert retain(platform, ROOMS).rows == 1
    assert [row["room_id"] for row in rows(platform, RoomAnalytics).values()] == [None]


@pytest.mark.parametrize("what", ["opens again", "a user joins"])
def test_a_room_that_comes_to_life_between_look_and_lock_stays(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    days(platform, **{ROOMS: 30})
    place = room(platform)
    take = RetentionBatches.take

    def late(self: RetentionBatches, seen: Seen) -> Taken:
        if what == "opens again":
            platform.sql("UPDATE audiorooms.audio_rooms SET active = true")
        else:
            stay(platform, place, joined_at=NOW, left_at=None)
        return take(self, seen)

    monkeypatch.setattr(RetentionBatches, "take", late)
    assert retain(platform, ROOMS).rows == 0
    assert set(rows(platform, AudioRoom)) == {place}


def test_no_period_is_theirs_until_it_is_set(platform: Platform) -> None:
    assert not {AUDIT, STAYS, ROOMS} & set(policies(platform.settings))


def test_people_are_not_ours_to_look_at(platform: Platform) -> None:
    """`auth.users` is Supabase's: a hold on a user can be placed without it."""
    holds.place(
        "audiorooms",
        "user",
        add(platform, AudioRoom, code="ABCDEF", password_hash="x"),
        reason="x",
        actor="ada",
    )
    with pytest.raises(holds.HoldError, match="has no room"):
        holds.place("audiorooms", "room", add(platform, User), reason="x", actor="ada")
