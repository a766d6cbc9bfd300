"""The statistics of `echoroom`, of what was observed and of what is still there."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, insert, text

from models.analytics import EchoroomSpeaker, EchoroomStay, RollupState
from models.echoroom import ChatSession, User
from tasks.analytics.calendar import bucket_at
from tasks.analytics.engine import RollupRun
from tasks.apps.echoroom.rollups import ROLLUPS
from tasks.policies.columns import table_of
from tasks.policies.rollup import Rollup
from tests.analytics.oracle_echoroom import (
    DAY,
    HOUR,
    INSTANT,
    NOTHING,
    Echoroom,
    Metrics,
    Observer,
    Stay,
    Table,
    metrics,
    quarter,
    spanning,
)
from tests.examples import examples
from tests.platform import environment
from workers import db
from workers.settings import load

HOURLY, DAILY = ROLLUPS
MINUTE = timedelta(minutes=1)
PLATFORM_TABLES = (
    "rollups",
    "rollup_live",
    "echoroom_hourly",
    "echoroom_daily",
    "echoroom_stays",
    "echoroom_speakers",
)
#: All tables that a history writes to, with those that refer to them.
USED = (*(f"roomkeeper.{name}" for name in PLATFORM_TABLES), "echoroom.chat_sessions", "echoroom.users")
#: The last hour of a day, and long after it.
START = datetime(2026, 3, 1, 23, tzinfo=UTC)
MIDNIGHT = START + HOUR
LATER = MIDNIGHT + 10 * DAY
QUICK = examples(10)


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    made = db.create(load({"DATABASE_URL": database}))
    yield made
    made.dispose()


@pytest.fixture
def echoroom(engine: Engine) -> Iterator[Echoroom]:
    with engine.connect() as connection:
        yield Echoroom(connection)


def stay(echoroom: Echoroom, room: UUID, user: UUID, joined: datetime, left: datetime | None) -> None:
    values = {"room_id": room, "user_id": user, "joined_at": joined, "left_at": left, "seen_at": joined}
    echoroom.connection.execute(insert(table_of(EchoroomStay)).values(values))


def hours(echoroom: Echoroom, now: datetime = LATER) -> dict[int, Metrics]:
    """Compute the hour before midnight and that after it; return their statistics, of one room."""
    echoroom.compute(HOURLY, spanning(HOURLY, START, MIDNIGHT), now)
    found = echoroom.metrics(HOURLY)
    assert len({room for room, _ in found}) <= 1
    return {at.hour: values for (_, at), values in found.items()}


def just(**given: int) -> Metrics:
    return NOTHING | given


ONE = just(participants=1, peak_participants=1)

# -- people ---------------------------------------------------------------------------------------------


def test_a_stay_counts_where_it_touches(echoroom: Echoroom) -> None:
    # When a user came and left, and in which of the two hours that counts.
    stays = [
        (START, MIDNIGHT - INSTANT, [START]),
        (START, MIDNIGHT, [START]),
        (START, MIDNIGHT + INSTANT, [START, MIDNIGHT]),
        (MIDNIGHT - INSTANT, MIDNIGHT, [START]),
        (MIDNIGHT, MIDNIGHT + INSTANT, [MIDNIGHT]),
        (START - DAY, MIDNIGHT + DAY, [START, MIDNIGHT]),
        (START - DAY, START, []),
        (START - DAY, START + INSTANT, [START]),
        (MIDNIGHT + HOUR, MIDNIGHT + DAY, []),
        (MIDNIGHT + HOUR - INSTANT, MIDNIGHT + DAY, [MIDNIGHT]),
    ]
    wanted: Table = {}
    for joined, left, touched in stays:
        room = echoroom.room()
        stay(echoroom, room, echoroom.user(), joined, left)
        wanted |= {(room, at): ONE for at in touched}
    echoroom.compute(HOURLY, spanning(HOURLY, START, MIDNIGHT), LATER)
    assert echoroom.metrics(HOURLY) == wanted


def test_who_was_there_for_no_time_took_no_place(echoroom: Echoroom) -> None:
    stay(echoroom, echoroom.room(), echoroom.user(), MIDNIGHT, MIDNIGHT)
    assert hours(echoroom) == {0: just(participants=1)}


@pytest.mark.parametrize(
    ("now", "peaks"),
    [
        (START, {23: 0}),
        (START + INSTANT, {23: 1}),
        (MIDNIGHT, {23: 1}),
        (MIDNIGHT + INSTANT, {23: 1, 0: 1}),
    ],
)
def test_open_stays_last_until_now(echoroom: Echoroom, now: datetime, peaks: dict[int, int]) -> None:
    stay(echoroom, echoroom.room(), echoroom.user(), START, None)
    assert {at: found["peak_participants"] for at, found in hours(echoroom, now).items()} == peaks


@pytest.mark.parametrize(("gap", "peak"), [(timedelta(0), 1), (INSTANT, 1), (-INSTANT, 2)])
def test_who_comes_as_another_leaves_is_not_there_with_them(
    echoroom: Echoroom, gap: timedelta, peak: int
) -> None:
    room = echoroom.room()
    stay(echoroom, room, echoroom.user(), START, START + MINUTE)
    stay(echoroom, room, echoroom.user(), START + MINUTE + gap, START + 2 * MINUTE)
    assert hours(echoroom) == {23: just(participants=2, peak_participants=peak)}


@pytest.mark.parametrize("second", [-MINUTE, timedelta(0), MINUTE, 5 * MINUTE, 6 * MINUTE])
def test_a_person_is_one_however_often_they_are_there(echoroom: Echoroom, second: timedelta) -> None:
    room, user = echoroom.room(), echoroom.user()
    stay(echoroom, room, user, START + 10 * MINUTE, START + 15 * MINUTE)
    if second:
        stay(echoroom, room, user, START + 10 * MINUTE + second, START + 20 * MINUTE)
    assert hours(echoroom) == {23: ONE}


def test_a_stay_within_others_adds_nobody(echoroom: Echoroom) -> None:
    room, user = echoroom.room(), echoroom.user()
    for joined, left in [(0, 30), (5, 10), (12, 20), (12, 13), (25, 30)]:
        stay(echoroom, room, user, START + joined * MINUTE + left * INSTANT, START + left * MINUTE)
    assert hours(echoroom) == {23: ONE}


def test_the_most_at_once_is_of_the_whole_bucket(echoroom: Echoroom) -> None:
    """Who stays from before counts with those who come, and who comes after others have left does not."""
    room = echoroom.room()
    for joined, left in [(-1, 61), (0, 10), (5, 20), (10, 30), (20, 40), (21, 22), (45, 59)]:
        stay(echoroom, room, echoroom.user(), START + joined * MINUTE, START + left * MINUTE)
    assert hours(echoroom) == {23: just(participants=7, peak_participants=4), 0: ONE}


def test_a_day_counts_each_person_once(echoroom: Echoroom) -> None:
    room, user = echoroom.room(), echoroom.user()
    for number in range(3):
        at = START - number * 2 * HOUR
        stay(echoroom, room, user, at, at + MINUTE)
        echoroom.connection.execute(
            insert(table_of(EchoroomSpeaker)).values(room_id=room, user_id=user, hour=at)
        )
    echoroom.compute(DAILY, spanning(DAILY, START, START), LATER)
    assert echoroom.metrics(DAILY) == {(room, START.date()): ONE | {"speakers": 1}}


# -- messages and reactions -----------------------------------------------------------------------------


def test_messages_by_type(echoroom: Echoroom) -> None:
    room = echoroom.room()
    for number, kind in enumerate(["text", "system", "ai-prompt", "mood-check", None], 1):
        for _ in range(number):
            echoroom.say(room, START, kind)
    # In no room, and at no time.
    echoroom.say(None, START)
    echoroom.say(room, None)
    found = just(messages=15, messages_text=1, messages_system=2, messages_ai_prompt=3, messages_mood_check=4)
    assert hours(echoroom) == {23: found}


@pytest.mark.parametrize(
    ("after", "counts"),
    [(timedelta(0), True), (DAY - INSTANT, True), (DAY, False), (-INSTANT, False), (None, False)],
)
def test_reactions_to_messages_of_the_day_before(
    echoroom: Echoroom, after: timedelta | None, counts: bool
) -> None:
    sent = START + MINUTE - (after or timedelta(0))
    made = None if after is None else START + MINUTE
    echoroom.react(echoroom.say(echoroom.room(), sent, "system"), echoroom.user(), made)
    found = hours(echoroom)
    assert sum(row["reactions"] for row in found.values()) == counts


def test_reactions_to_nothing(echoroom: Echoroom) -> None:
    user = echoroom.user()
    echoroom.react(None, user, START)
    echoroom.react(echoroom.say(None, START), user, START)
    echoroom.react(echoroom.say(echoroom.room(), None), user, START)
    assert hours(echoroom) == {}


# -- rooms that are gone --------------------------------------------------------------------------------


def test_a_room_that_is_deleted_keeps_its_figures(echoroom: Echoroom) -> None:
    room, user = echoroom.room(), echoroom.user()
    echoroom.react(echoroom.say(room, START), user, START)
    stay(echoroom, room, user, START, START + MINUTE)
    found = {23: ONE | {"messages": 1, "messages_text": 1, "reactions": 1}}
    assert hours(echoroom) == found
    echoroom.remove(ChatSession, room)
    for keys in (None, [room], [uuid4()], []):
        assert echoroom.compute(HOURLY, spanning(HOURLY, START, MIDNIGHT), LATER, keys) == 0
    assert hours(echoroom) == found


def test_what_was_observed_of_a_room_that_is_deleted_counts_still(echoroom: Echoroom) -> None:
    room, user = echoroom.room(), echoroom.user()
    echoroom.say(room, START)
    stay(echoroom, room, user, START, START + MINUTE)
    assert hours(echoroom)[23]["participants"] == 1
    stay(echoroom, room, echoroom.user(), START, MIDNIGHT + MINUTE)
    echoroom.remove(ChatSession, room)
    both = {"messages": 1, "messages_text": 1}
    assert hours(echoroom) == {23: just(participants=2, peak_participants=2) | both, 0: ONE}


def test_a_person_who_is_deleted_was_there(echoroom: Echoroom) -> None:
    room, user = echoroom.room(), echoroom.user()
    stay(echoroom, room, user, START, START + MINUTE)
    echoroom.remove(User, user)
    assert hours(echoroom) == {23: ONE}


# -- any rows -------------------------------------------------------------------------------------------

EDGES = [START - DAY, START, START + 30 * MINUTE, MIDNIGHT, MIDNIGHT + HOUR, MIDNIGHT + DAY]
NEAR = [timedelta(0), INSTANT, -INSTANT, MINUTE, -MINUTE, 7 * HOUR]
MOMENT = st.builds(lambda edge, far: edge + far, st.sampled_from(EDGES), st.sampled_from(NEAR))
ROOM, USER = st.integers(0, 2), st.integers(0, 3)
KIND = st.sampled_from(["text", "system", "ai-prompt", "mood-check", None])
STAYS = st.lists(
    st.tuples(ROOM, USER, MOMENT, st.none() | MOMENT), max_size=20, unique_by=lambda given: given[:3]
)
MESSAGES = st.lists(st.tuples(st.none() | ROOM, st.none() | MOMENT, KIND), max_size=12)
REACTIONS = st.lists(st.tuples(st.integers(0, 11), st.none() | MOMENT), max_size=12)
SPEAKERS = st.sets(st.tuples(ROOM, USER, MOMENT.map(quarter)), max_size=8)


def check_all(echoroom: Echoroom, observer: Observer, now: datetime, kept: dict[str, Table]) -> None:
    """Compute all buckets by the hour and by the day: they are as the oracle has them, also the next time."""
    for rollup, start, end in ((HOURLY, START - HOUR, MIDNIGHT + HOUR), (DAILY, START - DAY, now)):
        found = spanning(rollup, start, end)
        echoroom.compute(rollup, found, now)
        assert echoroom.metrics(rollup) == metrics(echoroom, observer, found, now, kept.get(rollup.name))
        assert echoroom.compute(rollup, found, now) == 0
        rooms = {room for room, _ in echoroom.metrics(rollup)}
        assert echoroom.compute(rollup, found, now, [*rooms, uuid4()]) == 0


def test_figures_are_those_of_plain_python(engine: Engine) -> None:
    @QUICK
    @given(STAYS, MESSAGES, REACTIONS, SPEAKERS, st.sets(ROOM, max_size=1))
    def check(stays: Any, messages: Any, reactions: Any, speakers: Any, deleted: Any) -> None:
        with engine.connect() as connection:
            echoroom, observer = Echoroom(connection), Observer()
            rooms, users = [echoroom.room() for _ in range(3)], [echoroom.user() for _ in range(4)]
            for room, user, joined, end in stays:
                left = None if end is None else max(joined, end)
                stay(echoroom, rooms[room], users[user], joined, left)
                observer.stays.setdefault((rooms[room], users[user]), []).append(Stay(joined, left, joined))
            for room, user, at in speakers:
                values = {"room_id": rooms[room], "user_id": users[user], "hour": at}
                connection.execute(insert(table_of(EchoroomSpeaker)).values(values))
                observer.speakers.add((rooms[room], users[user], at))
            sent = [
                echoroom.say(None if room is None else rooms[room], at, kind) for room, at, kind in messages
            ]
            for number, at in reactions:
                echoroom.react(sent[number] if number < len(sent) else None, users[0], at)
            now = MIDNIGHT + DAY + 8 * HOUR
            check_all(echoroom, observer, now, {})
            kept = {rollup.name: echoroom.metrics(rollup) for rollup in ROLLUPS}
            for room in deleted:
                echoroom.remove(ChatSession, rooms[room])
            check_all(echoroom, observer, now + HOUR, kept)

    check()


# -- run by run -----------------------------------------------------------------------------------------


def tick(echoroom: Echoroom, rollup: Rollup, now: datetime, live: dict[str, dict[UUID, datetime]]) -> None:
    """Do what the engine does with open buckets: compute the keys in which there was something."""
    since = echoroom.ticked_at(rollup)
    echoroom.observe(rollup, now)
    keyed = rollup.keyed
    assert keyed is not None
    # Transactions that were under way at the last run may have written since.
    given = {"now": now, "since": None if since is None else since - 10 * MINUTE}
    found = dict(map(tuple, echoroom.connection.execute(keyed.live, given).all()))
    todo: dict[UUID, datetime] = {}
    for known in (
        dict(map(tuple, echoroom.connection.execute(keyed.changed, given).all())),
        found,
        live.get(rollup.name, {}),
    ):
        for key, at in known.items():
            todo[key] = min(at, todo.get(key, at))
    live[rollup.name] = found
    for bucket in spanning(rollup, min(todo.values(), default=now), now):
        echoroom.compute(rollup, [bucket], now, [key for key, at in todo.items() if at < bucket.end])


PAUSES = [INSTANT, MINUTE, 4 * MINUTE, 7 * MINUTE, 26 * MINUTE, HOUR]
AHEAD = st.sampled_from([timedelta(0), timedelta(0), -MINUTE, 2 * MINUTE])
STEP = st.one_of(
    st.tuples(st.just("join"), AHEAD),
    st.tuples(st.just("leave"), AHEAD),
    st.tuples(st.just("silent"), st.none()),
    st.tuples(st.just("vanish"), st.none()),
    st.tuples(st.just("say"), st.sampled_from([timedelta(0), -4 * MINUTE])),
    st.tuples(st.just("speak"), st.booleans()),
    st.tuples(st.just("tick"), st.sampled_from(ROLLUPS)),
)
STEPS = st.lists(st.tuples(st.sampled_from(PAUSES), st.integers(0, 1), st.integers(0, 2), STEP), max_size=25)


def test_run_by_run_ends_in_the_same_figures(engine: Engine) -> None:
    """Only rooms in which something has changed, or goes on, are computed: the whole has nothing to add."""

    @QUICK
    @given(STEPS)
    def check(steps: Any) -> None:
        with engine.connect() as connection:
            echoroom, live = Echoroom(connection), dict[str, dict[UUID, datetime]]()
            rooms, users = [echoroom.room() for _ in range(2)], [echoroom.user() for _ in range(3)]
            now = START + 30 * MINUTE
            for rollup in ROLLUPS:
                tick(echoroom, rollup, now, live)
            for pause, room, user, (what, how) in steps:
                now += pause
                person = rooms[room], users[user]
                if what in ("join", "leave"):
                    getattr(echoroom, what)(*person, now + how)
                elif what == "silent":
                    echoroom.put(*person, is_active=True)
                elif what == "vanish":
                    echoroom.vanish(*person)
                elif what == "say":
                    echoroom.say(rooms[room], now + how)
                elif what == "speak":
                    echoroom.speak(*person, is_speaking=how, last_updated=now)
                else:
                    tick(echoroom, how, now, live)
            now += MINUTE
            for rollup in (*ROLLUPS, *ROLLUPS):
                tick(echoroom, rollup, now, live)
            for rollup in ROLLUPS:
                found = spanning(rollup, START - DAY, now)
                assert echoroom.compute(rollup, found, now) == 0

    check()


def test_the_engine_ends_in_the_figures_of_plain_python(database: str) -> None:
    """Run by run, whenever they run, until all is closed."""
    step = st.one_of(STEP, st.tuples(st.just("react"), st.none()))
    steps = st.lists(
        st.tuples(st.sampled_from(PAUSES), st.integers(0, 1), st.integers(0, 2), step), max_size=25
    )

    @examples(6)
    @given(steps)
    def check(steps: Any) -> None:
        observer, written = Observer(), list[UUID]()
        with db.transaction() as connection:
            connection.execute(text(f"TRUNCATE {', '.join(USED)} CASCADE"))
            echoroom = Echoroom(connection)
            rooms, users = [echoroom.room() for _ in range(2)], [echoroom.user() for _ in range(3)]
            # Or each example would close three days of hours before it.
            for rollup in ROLLUPS:
                first = bucket_at(START, rollup.grain, rollup.zone).start
                begun = {"zone": rollup.zone, "watermark": first, "covered_from": first}
                connection.execute(insert(table_of(RollupState)).values(name=rollup.name, **begun))

        def run(rollup: Rollup, now: datetime) -> None:
            with db.transaction() as connection:
                observer.look(Echoroom(connection), now)
            RollupRun(rollup, now, rollup.zone).go()

        now = START + 30 * MINUTE
        for rollup in ROLLUPS:
            run(rollup, now)
        for pause, room, user, (what, how) in steps:
            now += pause
            person = rooms[room], users[user]
            if what == "tick":
                run(how, now)
                continue
            with db.transaction() as connection:
                echoroom = Echoroom(connection)
                if what in ("join", "leave"):
                    getattr(echoroom, what)(*person, now + how)
                elif what == "silent":
                    echoroom.put(*person, is_active=True)
                elif what == "vanish":
                    echoroom.vanish(*person)
                elif what == "say":
                    written.append(echoroom.say(rooms[room], now + how))
                elif what == "speak":
                    echoroom.speak(*person, is_speaking=how, last_updated=now)
                elif written:
                    echoroom.react(written[-1], users[user], now)
        now += DAY + HOUR
        for rollup in ROLLUPS:
            run(rollup, now)
        with db.transaction() as connection:
            echoroom = Echoroom(connection)
            assert echoroom.stays() == observer.table()
            for rollup in ROLLUPS:
                found = spanning(rollup, START - DAY, now)
                assert echoroom.metrics(rollup) == metrics(echoroom, observer, found, now)

    with environment({"DATABASE_URL": database}):
        check()


def test_what_has_changed(echoroom: Echoroom) -> None:
    keyed = HOURLY.keyed
    assert keyed is not None

    def changed(since: datetime) -> dict[UUID, datetime]:
        given = {"now": LATER, "since": since}
        return dict(map(tuple, echoroom.connection.execute(keyed.changed, given).all()))

    spoke, came, wrote = echoroom.room(), echoroom.room(), echoroom.room()
    echoroom.connection.execute(
        insert(table_of(EchoroomSpeaker)).values(room_id=spoke, user_id=uuid4(), hour=START)
    )
    stay(echoroom, came, uuid4(), START - DAY, START)
    echoroom.connection.execute(table_of(EchoroomStay).update().values(seen_at=START))
    for number in range(3):
        echoroom.say(wrote, START + number * MINUTE)
    assert changed(START) == {spoke: START, came: START - DAY, wrote: START}
    assert changed(START + INSTANT) == {spoke: START, wrote: START + MINUTE}
    assert changed(MIDNIGHT - INSTANT) == {spoke: START}
    assert changed(MIDNIGHT) == {}


def test_what_goes_on(echoroom: Echoroom) -> None:
    keyed = HOURLY.keyed
    assert keyed is not None
    room, other = echoroom.room(), echoroom.room()
    for minutes in (3, 1, 2):
        stay(echoroom, room, uuid4(), START + minutes * MINUTE, None)
    stay(echoroom, room, uuid4(), START, START + MINUTE)
    stay(echoroom, other, uuid4(), START, START + MINUTE)
    assert echoroom.connection.execute(keyed.live, {"now": LATER}).all() == [(room, START + MINUTE)]


def test_rollups_say_what_they_need() -> None:
    for rollup in ROLLUPS:
        needs = {need.table.fullname: set(need.columns) for need in rollup.needs()}
        del needs[rollup.table.fullname]
        assert needs == {
            "echoroom.chat_sessions": {"id", "updated_at"},
            "echoroom.chat_messages": {"id", "session_id", "created_at", "message_type"},
            "echoroom.message_reactions": {"message_id", "created_at"},
            "echoroom.session_participants": {
                "session_id",
                "user_id",
                "joined_at",
                "left_at",
                "is_active",
                "is_speaking",
            },
            "echoroom.voice_status": {"session_id", "user_id", "is_speaking", "last_updated"},
            "roomkeeper.echoroom_stays": {"id", "room_id", "user_id", "joined_at", "left_at", "seen_at"},
            "roomkeeper.echoroom_speakers": {"id", "room_id", "user_id", "hour"},
            "roomkeeper.rollups": {"name", "ticked_at"},
        }
