"""What is copied of `echoroom` before it overwrites it: stays of people, and who speaks."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, text

from models.echoroom import ChatSession, SessionParticipant, User
from tasks.apps.echoroom.rollups import ROLLUPS
from tests.analytics.oracle_echoroom import DAY, HOUR, INSTANT, Echoroom, Observer, quarter
from tests.examples import examples
from workers import db
from workers.settings import load

HOURLY, DAILY = ROLLUPS
#: When people come in tests, and when the first run looks.
BEGIN = datetime(2026, 3, 1, 12, 50, tzinfo=UTC)
NOW = BEGIN + timedelta(minutes=5)
MINUTE, QUARTER = timedelta(minutes=1), timedelta(minutes=15)
QUICK = examples(30)


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    made = db.create(load({"DATABASE_URL": database}))
    yield made
    made.dispose()


@pytest.fixture
def echoroom(engine: Engine) -> Iterator[Echoroom]:
    with engine.connect() as connection:
        yield Echoroom(connection)


@pytest.fixture
def place(echoroom: Echoroom) -> tuple[UUID, UUID]:
    """A room, and a user."""
    return echoroom.room(), echoroom.user()


def ended(echoroom: Echoroom) -> list[tuple[datetime, datetime | None]]:
    """Return when stays began and ended, in their order."""
    return sorted(((key[2], left) for key, left in echoroom.stays().items()), key=lambda stay: stay[0])


Place = tuple[UUID, UUID]


def test_who_comes_is_there_until_they_leave(echoroom: Echoroom, place: Place) -> None:
    echoroom.join(*place, BEGIN)
    echoroom.observe(HOURLY, NOW)
    assert echoroom.stays() == {(*place, BEGIN): None}
    echoroom.leave(*place, NOW + MINUTE)
    echoroom.observe(HOURLY, NOW + 2 * MINUTE)
    assert echoroom.stays() == {(*place, BEGIN): NOW + MINUTE}
    echoroom.join(*place, NOW + 3 * MINUTE)
    echoroom.observe(HOURLY, NOW + 4 * MINUTE)
    assert echoroom.stays() == {(*place, BEGIN): NOW + MINUTE, (*place, NOW + 3 * MINUTE): None}


@pytest.mark.parametrize(
    ("left_at", "is_active", "end"),
    [
        (NOW + MINUTE, False, NOW + MINUTE),
        (NOW + MINUTE, None, NOW + MINUTE),
        (BEGIN, False, BEGIN),
        # A clock that is behind, or ahead.
        (BEGIN - INSTANT, False, BEGIN),
        (NOW + 2 * MINUTE, False, NOW + 2 * MINUTE),
        (NOW + 2 * MINUTE + INSTANT, False, NOW + 2 * MINUTE),
        # The time is unknown.
        (None, False, NOW + 2 * MINUTE),
        (None, None, NOW + 2 * MINUTE),
        (None, True, None),
        # Left over from before, or still to come.
        (BEGIN - DAY, True, None),
        (BEGIN, True, None),
        (NOW + 2 * MINUTE + INSTANT, True, None),
    ],
)
def test_a_stay_ends_when_its_row_says_so(
    echoroom: Echoroom, place: Place, left_at: Any, is_active: Any, end: Any
) -> None:
    echoroom.join(*place, BEGIN)
    echoroom.observe(HOURLY, NOW)
    echoroom.put(*place, left_at=left_at, is_active=is_active)
    echoroom.observe(HOURLY, NOW + 2 * MINUTE)
    assert ended(echoroom) == [(BEGIN, end)]


@pytest.mark.parametrize(
    ("left_at", "is_active", "stays"),
    [
        (None, True, [(BEGIN, None)]),
        (NOW - MINUTE, False, [(BEGIN, NOW - MINUTE)]),
        (NOW + MINUTE, False, [(BEGIN, NOW)]),
        (BEGIN - MINUTE, False, [(BEGIN, BEGIN)]),
        # They were there; how long is unknown.
        (None, False, [(BEGIN, BEGIN)]),
        (None, None, [(BEGIN, BEGIN)]),
        # They left, and have come again without a word.
        (NOW - MINUTE, True, [(BEGIN, NOW - MINUTE), (NOW, None)]),
    ],
)
def test_who_came_between_two_runs(
    echoroom: Echoroom, place: Place, left_at: Any, is_active: Any, stays: Any
) -> None:
    echoroom.put(*place, joined_at=BEGIN, left_at=left_at, is_active=is_active)
    echoroom.observe(HOURLY, NOW)
    assert ended(echoroom) == stays


@pytest.mark.parametrize("joined_at", [None, NOW + MINUTE + INSTANT, NOW + 365 * DAY])
def test_who_does_not_say_since_when_is_there_since_they_were_seen(
    echoroom: Echoroom, place: Place, joined_at: Any
) -> None:
    echoroom.join(*place, joined_at)
    echoroom.observe(HOURLY, NOW)
    echoroom.observe(HOURLY, NOW)
    assert ended(echoroom) == [(NOW, None)]
    echoroom.leave(*place, None)
    echoroom.observe(HOURLY, NOW + MINUTE)
    assert ended(echoroom) == [(NOW, NOW + MINUTE)]


def test_a_clock_that_was_ahead_makes_no_gap(echoroom: Echoroom, place: Place) -> None:
    ahead = NOW + 2 * MINUTE
    echoroom.join(*place, ahead)
    for number in range(4):
        echoroom.observe(HOURLY, NOW + number * MINUTE)
    assert ended(echoroom) == [(NOW, ahead), (ahead, None)]


@pytest.mark.parametrize(
    ("again", "left_at", "end"),
    [
        # The row has forgotten when they left, or remembers.
        (NOW + MINUTE, None, NOW + MINUTE),
        (NOW + MINUTE, NOW, NOW),
        (NOW + MINUTE, BEGIN, BEGIN),
        (NOW + MINUTE, BEGIN - INSTANT, NOW + MINUTE),
        (NOW + MINUTE, NOW + MINUTE, NOW + MINUTE),
        (BEGIN + INSTANT, None, BEGIN + INSTANT),
    ],
)
def test_who_comes_again_has_left_before(
    echoroom: Echoroom, place: Place, again: datetime, left_at: Any, end: datetime
) -> None:
    echoroom.join(*place, BEGIN)
    echoroom.observe(HOURLY, NOW)
    echoroom.join(*place, again, left_at=left_at)
    echoroom.observe(HOURLY, NOW + MINUTE)
    assert ended(echoroom) == [(BEGIN, end), (again, None)]


def test_who_comes_again_without_a_word(echoroom: Echoroom, place: Place) -> None:
    """A service that only sets `is_active`."""
    echoroom.join(*place, BEGIN)
    echoroom.observe(HOURLY, NOW)
    echoroom.leave(*place, NOW + MINUTE)
    echoroom.observe(HOURLY, NOW + 2 * MINUTE)
    echoroom.put(*place, is_active=True)
    echoroom.observe(HOURLY, NOW + 4 * MINUTE)
    echoroom.observe(HOURLY, NOW + 5 * MINUTE)
    there = [(BEGIN, NOW + MINUTE), (NOW + 4 * MINUTE, None)]
    assert ended(echoroom) == there
    echoroom.leave(*place, NOW + 6 * MINUTE)
    echoroom.observe(HOURLY, NOW + 7 * MINUTE)
    assert ended(echoroom) == [there[0], (NOW + 4 * MINUTE, NOW + 6 * MINUTE)]


def test_who_left_and_came_again_between_two_runs_without_a_word(echoroom: Echoroom, place: Place) -> None:
    echoroom.join(*place, BEGIN)
    echoroom.observe(HOURLY, NOW)
    echoroom.leave(*place, NOW + MINUTE)
    echoroom.put(*place, is_active=True)
    for number in range(2, 5):
        echoroom.observe(HOURLY, NOW + number * MINUTE)
    assert ended(echoroom) == [(BEGIN, NOW + MINUTE), (NOW + 2 * MINUTE, None)]


@pytest.mark.parametrize("how", ["row", "user", "room"])
def test_who_is_gone_left_when_they_were_last_seen(echoroom: Echoroom, place: Place, how: str) -> None:
    room, user = place
    echoroom.join(room, user, BEGIN)
    for number in range(3):
        echoroom.observe(HOURLY, NOW + number * MINUTE)
    if how == "row":
        echoroom.vanish(room, user)
    else:
        echoroom.remove(User if how == "user" else ChatSession, user if how == "user" else room)
    echoroom.observe(HOURLY, NOW + HOUR)
    assert echoroom.stays() == {(*place, BEGIN): NOW + 2 * MINUTE}


def test_the_last_time_is_that_of_either_rollup(echoroom: Echoroom, place: Place) -> None:
    echoroom.join(*place, BEGIN)
    echoroom.observe(HOURLY, NOW)
    echoroom.observe(DAILY, NOW + MINUTE)
    echoroom.vanish(*place)
    echoroom.observe(HOURLY, NOW + 2 * MINUTE)
    assert ended(echoroom) == [(BEGIN, NOW + MINUTE)]


def test_a_run_that_ended_before_it_was_noted(echoroom: Echoroom, place: Place) -> None:
    """What it saw is there, and not that it ran."""
    echoroom.observe(HOURLY, BEGIN - DAY)
    echoroom.join(*place, BEGIN)
    for statement in HOURLY.snapshot:
        echoroom.connection.execute(statement, {"now": NOW, "since": None})
    echoroom.vanish(*place)
    echoroom.observe(HOURLY, NOW + HOUR)
    assert ended(echoroom) == [(BEGIN, NOW)]


def test_nobody_in_no_room(echoroom: Echoroom, place: Place) -> None:
    room, user = place
    some: list[dict[str, Any]] = [
        {"session_id": None, "user_id": user},
        {"session_id": room, "user_id": None},
    ]
    for whose in some:
        echoroom.add(SessionParticipant, joined_at=BEGIN, is_active=True, is_speaking=True, **whose)
    echoroom.observe(HOURLY, NOW)
    assert echoroom.stays() == {}
    assert echoroom.speakers() == set()


def test_nothing_is_written_when_nothing_has_changed(echoroom: Echoroom, place: Place) -> None:
    room, user = place
    silent, away, unknown = echoroom.user(), echoroom.user(), echoroom.user()
    echoroom.join(room, user, BEGIN, is_speaking=True)
    echoroom.speak(room, user, is_speaking=True, last_updated=NOW)
    echoroom.join(room, unknown, None)
    echoroom.join(room, silent, BEGIN - DAY, left_at=BEGIN)
    echoroom.join(room, away, BEGIN)
    echoroom.leave(room, away, NOW)
    written = """SELECT xmin::text, cmin::text, ctid::text FROM roomkeeper.echoroom_stays
                 UNION ALL SELECT xmin::text, cmin::text, ctid::text FROM roomkeeper.echoroom_speakers"""
    assert echoroom.observe(HOURLY, NOW) == 6
    before = echoroom.connection.execute(text(written)).all()
    # Again, by another, and later.
    for rollup, later in ((HOURLY, 0 * MINUTE), (DAILY, MINUTE), (HOURLY, 2 * MINUTE)):
        assert echoroom.observe(rollup, NOW + later) == 0
    assert echoroom.connection.execute(text(written)).all() == before


def test_a_run_that_comes_late_takes_nothing_back(echoroom: Echoroom, place: Place) -> None:
    """One that waited while another, of a later moment, looked."""
    echoroom.join(*place, NOW + MINUTE)
    echoroom.observe(HOURLY, NOW + 2 * MINUTE)
    echoroom.observe(DAILY, NOW)
    assert ended(echoroom) == [(NOW + MINUTE, None)]
    echoroom.leave(*place, NOW + 3 * MINUTE)
    echoroom.observe(HOURLY, NOW + 4 * MINUTE)
    echoroom.observe(DAILY, NOW)
    assert ended(echoroom) == [(NOW + MINUTE, NOW + 3 * MINUTE)]


@pytest.mark.parametrize(
    ("since_touched", "found"), [(timedelta(minutes=5), True), (5 * MINUTE + INSTANT, False)]
)
def test_rooms_in_which_nobody_came_or_went_are_not_looked_through(
    echoroom: Echoroom, place: Place, since_touched: timedelta, found: bool
) -> None:
    room, user = place
    echoroom.observe(HOURLY, NOW)
    echoroom.connection.execute(text("SET LOCAL session_replication_role = replica"))
    echoroom.put(room, user, joined_at=BEGIN, left_at=NOW, is_active=False)
    echoroom.connection.execute(
        text("UPDATE echoroom.chat_sessions SET updated_at = :at"), {"at": NOW - since_touched}
    )
    echoroom.observe(HOURLY, NOW + MINUTE)
    assert bool(echoroom.stays()) is found
    # Who is there is always found.
    echoroom.join(room, user, BEGIN + MINUTE)
    echoroom.observe(HOURLY, NOW + 2 * MINUTE)
    assert echoroom.stays()[(room, user, BEGIN + MINUTE)] is None


@pytest.mark.parametrize("pause", [timedelta(0), 10 * DAY])
@pytest.mark.parametrize(("over", "found"), [(3 * DAY, True), (3 * DAY + INSTANT, False)])
def test_what_was_long_over_at_the_last_run_is_not_copied(
    echoroom: Echoroom, place: Place, over: timedelta, found: bool, pause: timedelta
) -> None:
    if pause:
        echoroom.observe(HOURLY, NOW)
    echoroom.put(*place, joined_at=NOW - 40 * DAY, left_at=NOW - over, is_active=False)
    echoroom.observe(HOURLY, NOW + pause)
    assert bool(echoroom.stays()) is found


def test_who_stays_for_long_is_copied(echoroom: Echoroom, place: Place) -> None:
    echoroom.join(*place, NOW - 40 * DAY)
    echoroom.observe(HOURLY, NOW)
    assert ended(echoroom) == [(NOW - 40 * DAY, None)]


# -- who speaks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("is_active", "is_speaking", "found"),
    [
        (True, True, True),
        (True, False, False),
        (True, None, False),
        (False, True, False),
        (None, True, False),
    ],
)
def test_who_is_there_and_speaks(
    echoroom: Echoroom, place: Place, is_active: Any, is_speaking: Any, found: bool
) -> None:
    echoroom.put(*place, joined_at=BEGIN, is_active=is_active, is_speaking=is_speaking)
    echoroom.observe(HOURLY, NOW)
    assert echoroom.speakers() == ({(*place, quarter(NOW))} if found else set())


AT = datetime(2026, 3, 1, 13, 5, tzinfo=UTC)
THIRTEEN, BEFORE = quarter(AT), quarter(AT - QUARTER)


@pytest.mark.parametrize(
    ("last_updated", "hours"),
    [
        (AT, [THIRTEEN]),
        (THIRTEEN, [THIRTEEN]),
        (THIRTEEN - INSTANT, [BEFORE, THIRTEEN]),
        (AT - 10 * MINUTE, [BEFORE, THIRTEEN]),
        (AT - 10 * MINUTE - INSTANT, [BEFORE]),
        (AT - HOUR + INSTANT, [quarter(AT - HOUR + INSTANT)]),
        (AT - HOUR, []),
        (AT + DAY, [THIRTEEN]),
        (None, []),
    ],
)
def test_who_speaks_by_their_voice_status(
    echoroom: Echoroom, place: Place, last_updated: Any, hours: list[datetime]
) -> None:
    for speaking in (False, None):
        echoroom.speak(*place, is_speaking=speaking, last_updated=last_updated)
        echoroom.observe(HOURLY, AT)
    assert echoroom.speakers() == set()
    echoroom.speak(*place, is_speaking=True, last_updated=last_updated)
    echoroom.observe(HOURLY, AT)
    assert echoroom.speakers() == {(*place, at) for at in hours}


@pytest.mark.parametrize(("at", "of"), [(THIRTEEN, THIRTEEN), (THIRTEEN - INSTANT, BEFORE)])
def test_the_hour_begins_at_its_first_instant(
    echoroom: Echoroom, place: Place, at: datetime, of: datetime
) -> None:
    echoroom.join(*place, BEGIN, is_speaking=True)
    echoroom.observe(HOURLY, at)
    assert echoroom.speakers() == {(*place, of)}


# -- any history ----------------------------------------------------------------------------------------

PAUSES = [INSTANT, MINUTE, 4 * MINUTE, 11 * MINUTE, HOUR]
WHO = st.tuples(st.integers(0, 1), st.integers(0, 2))


def test_who_looks_after_each_change_knows_all(engine: Engine) -> None:
    """Of people who say when they come and go, all stays are known as they were."""

    @QUICK
    @given(st.lists(st.tuples(st.sampled_from(PAUSES), WHO, st.booleans()), max_size=20))
    def check(history: Any) -> None:
        with engine.connect() as connection:
            echoroom = Echoroom(connection)
            rooms, users = [echoroom.room() for _ in range(2)], [echoroom.user() for _ in range(3)]
            now, truth = BEGIN, dict[Any, datetime | None]()
            here: dict[Any, datetime] = {}
            for pause, (room, user), forgets in history:
                now += pause
                person = rooms[room], users[user]
                if person in here:
                    truth[(*person, here.pop(person))] = now
                    echoroom.leave(*person, now)
                else:
                    truth[(*person, now)] = None
                    here[person] = now
                    left: dict[str, Any] = {} if forgets else {"left_at": None}
                    echoroom.put(*person, joined_at=now, is_active=True, **left)
                echoroom.observe(HOURLY, now)
            assert echoroom.stays() == truth

    check()


SKEW = st.sampled_from([-DAY, -MINUTE, -INSTANT, timedelta(0), INSTANT, 2 * MINUTE, DAY])
MOMENT = st.none() | SKEW
FLAG = st.sampled_from([True, True, False, None])
#: (what, columns): times are given by how far they are from the moment of writing.
CHANGE: st.SearchStrategy[tuple[str, Any]] = st.one_of(
    st.tuples(st.just("join"), st.fixed_dictionaries({"joined_at": st.just(timedelta(0))})),
    st.tuples(st.just("leave"), st.fixed_dictionaries({"left_at": st.just(timedelta(0))})),
    st.tuples(
        st.just("put"),
        st.fixed_dictionaries(
            {}, optional={"joined_at": MOMENT, "left_at": MOMENT, "is_active": FLAG, "is_speaking": FLAG}
        ),
    ),
    st.tuples(st.just("speak"), st.fixed_dictionaries({"is_speaking": FLAG, "last_updated": MOMENT})),
    st.tuples(st.sampled_from(["vanish", "user", "room"]), st.just({})),
)
LOOK = st.tuples(st.just("look"), st.sampled_from([HOURLY, DAILY]))
HISTORY = st.lists(
    st.tuples(st.sampled_from([timedelta(0), *PAUSES]), WHO, st.one_of(CHANGE, LOOK)), max_size=30
)


def play(echoroom: Echoroom, observer: Observer, history: Any) -> datetime:
    """Let all this happen, observed by both; return when it ended."""
    rooms, users = [echoroom.room() for _ in range(2)], [echoroom.user() for _ in range(3)]
    now = BEGIN
    for pause, (number, who), (what, how) in history:
        now += pause
        if what == "look":
            echoroom.observe(how, now)
            observer.look(echoroom, now)
            assert echoroom.stays() == observer.table()
            assert echoroom.speakers() == observer.speakers
            continue
        person = rooms[number], users[who]
        values = {name: now + far if isinstance(far, timedelta) else far for name, far in how.items()}
        if what in ("join", "leave"):
            (at,) = values.values()
            getattr(echoroom, what)(*person, at)
        elif what == "put":
            # What is not given stays; of a row that is new `joined_at` is the clock's, long after all this.
            echoroom.put(*person, **({"is_active": True} | values))
        elif what == "speak":
            echoroom.speak(*person, **values)
        elif what == "vanish":
            echoroom.vanish(*person)
        elif what == "user":
            echoroom.remove(User, users[who])
            users[who] = echoroom.user()
        else:
            echoroom.remove(ChatSession, rooms[number])
            rooms[number] = echoroom.room()
    return now


def test_any_history_is_known_as_far_as_it_can_be(engine: Engine) -> None:
    @QUICK
    @given(HISTORY)
    def check(history: Any) -> None:
        with engine.connect() as connection:
            echoroom, observer = Echoroom(connection), Observer()
            now = play(echoroom, observer, history) + MINUTE
            for rollup in (HOURLY, DAILY, HOURLY):
                echoroom.observe(rollup, now)
                observer.look(echoroom, now)
                assert echoroom.stays() == observer.table()
                assert echoroom.speakers() == observer.speakers
            for (_, _, joined), left in echoroom.stays().items():
                assert joined <= now
                assert left is None or joined <= left <= now

    check()
