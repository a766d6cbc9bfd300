"""Wrong clocks of API services and of clients: what lies ahead, or before its message, does no harm."""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY
from sqlalchemy import text

from commands.policies import rule
from models import connect, echoroom, openchat
from stack.demo.rows import Fed, Feed, Stale, a_connection, a_room, ada, bea, cleo, is_changed, is_gone
from stack.demo.stale_rows import FEEDS
from tasks.apps import APPS, POLICIES
from tasks.attachments.history import EventLog
from tasks.delivery import drain as drains
from tasks.delivery import record as records
from tasks.delivery.arrival import MAX_AHEAD, arrive
from tasks.delivery.events import Event, RecordStatus, dumped
from tasks.delivery.merge import merge
from tasks.policies.retention import Retention
from tasks.policies.sweep import Sweep
from tasks.sweeps import eligible_rows
from tasks.sweeps import task as cleanup
from tests.delivery.people import DAY, Connect, Pern
from tests.delivery.world import OpenchatWorld
from tests.examples import examples
from tests.platform import Platform, eventually

HOUR, INSTANT = timedelta(hours=1), timedelta(microseconds=1)
QUICK = examples(10)


def clock(platform: Platform) -> datetime:
    """Return the platform's time, which is the database's."""
    ((now,),) = platform.sql("SELECT clock_timestamp()")
    assert isinstance(now, datetime)
    return now


def read(message: UUID, user: UUID, at: datetime) -> Event:
    return Event(message_id=message, user_id=user, status="read", at=at)


def call(events: Iterable[Event], app: str = "pern") -> dict[str, Any]:
    return {"app": app, "events": dumped(events)}


def by_broker(platform: Platform, events: Sequence[Event]) -> None:
    platform.send("delivery.record", call(events), queue="delivery")


def by_sql(platform: Platform, events: Sequence[Event]) -> None:
    platform.sql(
        "SELECT roomkeeper.record_status('pern', CAST(:events AS jsonb))", events=json.dumps(dumped(events))
    )
    platform.send("delivery.drain", queue="delivery-periodic")


def ahead(app: str, outcome: str) -> float:
    """Return how many events were counted in this process."""
    labels = {"app": app, "outcome": outcome}
    return REGISTRY.get_sample_value("roomkeeper_status_events_ahead_total", labels) or 0.0


# -- Events of message statuses ------------------------------------------------------------------------------


@pytest.mark.parametrize("hand_over", [by_broker, by_sql])
def test_one_call_of_a_thousand_of_which_some_are_ahead(
    platform: Platform, hand_over: Callable[[Platform, Sequence[Event]], None]
) -> None:
    """By a real worker: one event two days ahead is a dead letter, ten of an hour count as of now."""
    world = Pern()
    with platform.engine.begin() as connection:
        ada, bob = world.people(connection, 2)
        messages = world.messages(connection, ada, 1000)
    now = clock(platform)
    moments = dict.fromkeys(messages, DAY + HOUR)
    early, lost = messages[:10], messages[500]
    moments |= dict.fromkeys(early, now + HOUR) | {lost: now + timedelta(days=2)}
    platform.worker("delivery")
    hand_over(platform, [read(message, bob, at) for message, at in moments.items()])

    def merged() -> Any:
        with platform.engine.begin() as connection:
            return world.rows(connection, messages)

    eventually(lambda: len(merged()) == 999, what="999 events are recorded")
    rows = merged()
    (letter,) = platform.dead_letters()
    assert letter.task == "delivery.record"
    assert letter.payload == {"args": [call([read(lost, bob, moments[lost])])], "kwargs": {}}
    # It can be sent again, when its time has come.
    assert RecordStatus.model_validate(letter.payload["args"][0]).events == [read(lost, bob, moments[lost])]
    assert letter.reason.startswith(f"at: {moments[lost].isoformat()} is more than a day ahead")
    assert "Allowed: up to a day ahead" in letter.reason
    for message in messages:
        if message == lost:
            continue
        status, delivered_at, read_at = rows[message, bob]
        assert status == "read"
        assert delivered_at == read_at
        if message in early:
            assert now <= read_at <= clock(platform)
        else:
            assert read_at == moments[message]


def test_up_to_a_day_ahead_is_as_of_its_arrival(platform: Platform) -> None:
    user, message = uuid4(), uuid4()
    arrival = clock(platform)
    offsets = {
        -INSTANT: -INSTANT,
        timedelta(0): timedelta(0),
        INSTANT: timedelta(0),
        MAX_AHEAD: timedelta(0),
        MAX_AHEAD + INSTANT: None,
        timedelta(days=36500): None,
    }
    for offset, becomes in offsets.items():
        with platform.engine.begin() as connection:
            arrived = arrive(connection, "pern", [read(message, user, arrival + offset)], arrival)
        assert [event.at - arrival for event in arrived.events] == ([] if becomes is None else [becomes])
        assert (arrived.clamped, arrived.refused) == (
            offset > timedelta(0) and becomes == timedelta(0),
            becomes is None,
        )
    assert len(platform.dead_letters()) == 2


def test_events_ahead_are_counted_by_application(platform: Platform) -> None:
    world = Pern()
    with platform.engine.begin() as connection:
        ada, bob = world.people(connection, 2)
        messages = world.messages(connection, ada, 3)
    now = clock(platform)
    before = ahead("pern", "clamped"), ahead("pern", "refused")
    moments = (now, now + HOUR, now + 2 * MAX_AHEAD)
    events = [read(message, bob, at) for message, at in zip(messages, moments, strict=True)]
    result = records.record(RecordStatus(app="pern", events=events))
    assert result == "2 recorded, 1 refused, more than a day ahead"
    assert (ahead("pern", "clamped"), ahead("pern", "refused")) == (before[0] + 1, before[1] + 1)


def test_an_event_that_waits_is_as_of_its_arrival_and_not_of_its_merge(platform: Platform) -> None:
    """It waits in the inbox for its message: what it says does not depend on how long."""
    world = Pern()
    with platform.engine.begin() as connection:
        ada, bob = world.people(connection, 2)
    late = uuid4()
    event = read(late, bob, clock(platform) + HOUR)
    platform.sql(
        "SELECT roomkeeper.record_status('pern', CAST(:events AS jsonb))", events=json.dumps(dumped([event]))
    )
    ((arrival,),) = platform.sql("SELECT received_at FROM roomkeeper.status_inbox")
    drains.drain()
    assert records.record(RecordStatus(app="pern", events=[event])) == "0 recorded, 1 wait"
    for row in platform.sql("SELECT * FROM roomkeeper.status_inbox"):
        assert row.events == dumped([read(late, bob, row.received_at)])
    with platform.engine.begin() as connection:
        world.add(connection, ada, [late])
    platform.sql("UPDATE roomkeeper.status_inbox SET due_at = now()")
    drains.drain()
    with platform.engine.begin() as connection:
        assert world.rows(connection, [late]) == {(late, bob): ("read", arrival, arrival)}
    assert platform.sql("SELECT * FROM roomkeeper.status_inbox") == []


def test_a_call_in_a_long_transaction_arrives_when_it_is_made(platform: Platform) -> None:
    world = Pern()
    with platform.engine.begin() as connection:
        ada, bob = world.people(connection, 2)
        (message,) = world.messages(connection, ada, 1)
    with platform.engine.begin() as connection:
        connection.execute(text("SELECT now(), pg_sleep(0.05)"))
        at = connection.scalar(text("SELECT clock_timestamp()"))
        assert at is not None
        connection.execute(
            text("SELECT roomkeeper.record_status('pern', CAST(:events AS jsonb))"),
            {"events": json.dumps(dumped([read(message, bob, at)]))},
        )
    drains.drain()
    with platform.engine.begin() as connection:
        assert world.rows(connection, [message]) == {(message, bob): ("read", at, at)}


#: Clocks that were never set, and the ends of what there is.
ABSURD = ("0001-01-01T00:00:00+14:00", "1970-01-01T00:00:00Z", "2026-02-28T23:59:59Z")


@pytest.mark.parametrize("at", ABSURD)
def test_nothing_is_delivered_or_read_before_its_message(platform: Platform, at: str) -> None:
    for world in (Pern(), Connect()):
        with platform.engine.begin() as connection:
            ada, bob = world.people(connection, 2)
            (message,) = world.messages(connection, ada, 1)
        event = {"message_id": str(message), "user_id": str(bob), "status": "read", "at": at}
        platform.sql(
            "SELECT roomkeeper.record_status(:app, CAST(:events AS jsonb))",
            app=world.name,
            events=json.dumps([event]),
        )
        drains.drain()
        with platform.engine.begin() as connection:
            ((*_, read_at),) = world.rows(connection, [message]).values()
        assert read_at == DAY
    assert platform.dead_letters() == []


def test_a_status_that_was_sent_has_no_times(platform: Platform) -> None:
    world = Pern()
    with platform.engine.begin() as connection:
        ada, bob = world.people(connection, 2)
        (message,) = world.messages(connection, ada, 1)
        event = Event(message_id=message, user_id=bob, status="sent", at=DAY)
        assert merge(connection, APPS["pern"].delivery, [event]) == set()  # type: ignore[arg-type]
        assert world.rows(connection, [message]) == {(message, bob): ("sent", None, None)}


def test_absurd_times_merge_in_any_order(platform: Platform) -> None:
    """Before the message and after it, in rows and marks: the earliest that can be is what counts."""
    offsets = [timedelta(days=-9000), -HOUR, timedelta(0), HOUR, 2 * HOUR]

    @QUICK
    @given(
        st.lists(st.tuples(st.integers(0, 2), st.sampled_from(offsets)), min_size=1, max_size=8), st.randoms()
    )
    def check(chosen: list[tuple[int, timedelta]], chance: Random) -> None:
        for world in (Pern(), Connect()):
            with platform.engine.begin() as connection:
                ada, bob = world.people(connection, 2)
                messages = world.messages(connection, ada, 3)
            events = [read(messages[number], bob, DAY + offset) for number, offset in chosen]
            chance.shuffle(events)
            for event in events:
                with platform.engine.begin() as connection:
                    merge(connection, APPS[world.name].delivery, [event])  # type: ignore[arg-type]
            with platform.engine.begin() as connection:
                found = {message: row[-1] for (message, _), row in world.rows(connection, messages).items()}
            assert found == {
                messages[number]: max(DAY, min(DAY + offset for other, offset in chosen if other == number))
                for number, _ in chosen
            }

    check()


# -- Read pointers -------------------------------------------------------------------------------------------


class Talk:
    """A conversation of `openchat`: Ada writes, Bob reads."""

    def __init__(self, platform: Platform, **reader: Any) -> None:
        self.platform = platform
        self.world = OpenchatWorld()
        self.id = self.world.conversation()
        self.ada = self.world.participant(self.id)
        self.bob = self.world.participant(self.id, **reader)

    def says(self, at: datetime) -> UUID:
        return self.world.message(self.id, self.ada, 0, created_at=at.replace(tzinfo=None))

    def merge(self, *events: Event) -> None:
        with self.platform.engine.begin() as connection:
            self.world.save(connection)
            assert merge(connection, APPS["openchat"].delivery, events) == set()  # type: ignore[arg-type]

    def message(self, key: UUID) -> Any:
        return self.platform.row(openchat.Message, key)

    def reader(self) -> Any:
        (row,) = self.platform.sql(
            "SELECT * FROM openchat.conversation_participant WHERE user_id = :user", user=self.bob
        )
        return row


def naive(at: datetime) -> datetime:
    return at.replace(tzinfo=None)


def test_a_pointers_message_is_not_delivered_before_it_was_sent(platform: Platform) -> None:
    talk = Talk(platform)
    first, second = talk.says(DAY), talk.says(DAY + HOUR)
    talk.merge(read(second, talk.bob, datetime(1970, 1, 1, tzinfo=UTC)))
    assert (talk.message(first).delivered_at, talk.message(second).delivered_at) == (
        naive(DAY),
        naive(DAY + HOUR),
    )
    assert (talk.reader().last_read_message_id, talk.reader().last_read_at) == (second, naive(DAY + HOUR))


def test_a_message_of_the_future_delivers_none_of_today_in_the_future(platform: Platform) -> None:
    talk = Talk(platform)
    now = clock(platform)
    today, future = talk.says(now - HOUR), talk.says(now + timedelta(days=3650))
    talk.merge(read(future, talk.bob, now))
    assert talk.message(today).delivered_at == naive(now)
    assert talk.message(future).delivered_at == naive(now + timedelta(days=3650))
    assert talk.reader().last_read_at == naive(now)


@pytest.mark.parametrize("days", [2, 3650])
def test_a_time_of_reading_ahead_holds_up_no_later_reading(platform: Platform, days: int) -> None:
    """The application wrote it, by a wrong clock, and the message that its pointer named is gone."""
    now = clock(platform)
    talk = Talk(platform, last_read_message_id=uuid4(), last_read_at=naive(now) + timedelta(days=days))
    messages = [talk.says(now - HOUR + timedelta(minutes=minute)) for minute in range(3)]
    talk.merge(read(messages[-1], talk.bob, now))
    # From here on the pointer is that of a message, and the time is that of a reading.
    assert (talk.reader().last_read_message_id, talk.reader().last_read_at) == (messages[-1], naive(now))
    later = talk.says(now + timedelta(minutes=1))
    talk.merge(read(later, talk.bob, now + timedelta(minutes=2)))
    assert talk.message(later).read_by_count == 1
    assert talk.message(later).status == "read"
    assert talk.reader().last_read_message_id == later


def test_reading_in_any_order_with_absurd_times(platform: Platform) -> None:
    @QUICK
    @given(
        st.lists(
            st.tuples(st.integers(0, 3), st.sampled_from([-9000 * 24, -1, 0, 1, 5])), min_size=2, max_size=7
        ),
        st.randoms(),
    )
    def check(chosen: list[tuple[int, int]], chance: Random) -> None:
        outcomes = []
        for _ in range(2):
            talk = Talk(platform)
            # The last one is of the future.
            messages = [talk.says(DAY + number * HOUR) for number in range(3)]
            messages.append(talk.says(datetime(2090, 1, 1, tzinfo=UTC)))
            chance.shuffle(chosen)
            for number, hours in chosen:
                talk.merge(read(messages[number], talk.bob, DAY + hours * HOUR))
            rows = [talk.message(message) for message in messages]
            reader = talk.reader()
            outcomes.append(
                (
                    [(row.status, row.delivered_at, row.read_by_count) for row in rows],
                    messages.index(reader.last_read_message_id),
                    (reader.last_read_at, reader.unread_count),
                )
            )
            assert all(row.delivered_at is None or row.delivered_at >= row.created_at for row in rows)
        assert outcomes[0] == outcomes[1]

    check()


# -- Signs of life -------------------------------------------------------------------------------------------

#: Policies without a sign of life that could lie ahead, and what they go by instead.
BY_SOMETHING_ELSE = {
    "echoroom.counts": "rows that are counted",
    "openchat.sessions": "an expiry, which is ahead by its nature",
    "openchat.verifications": "an expiry",
    "openchat.mutes": "the end of a mute, which people choose",
    "openchat.attachments": "an expiry, which people choose",
    "connect.chat_rooms": "the state of another row",
    "pern.sessions": "an expiry; one that was revoked ahead of the clock goes when it expires",
    "pern.keys": "an expiry",
    "audiorooms.suspended": "the end of a suspension",
    "audiorooms.stays": "the state of another row",
    "audiorooms.duplicates": "the order of stays; times over a day ahead are the oldest",
    "audiorooms.backwards": "two times of one row",
    "roomkeeper.runs": "our own times, by the database's clock",
    "roomkeeper.future_timestamps": "our own times",
    "roomkeeper.echoroom_stays": "our own times",
    "roomkeeper.echoroom_speakers": "our own times",
    "roomkeeper.pern_facts": "times of deleted rows; those ahead stay until their day is closed",
    "roomkeeper.attachment_facts": "our own times",
}
SWEEPS = {name: policy for name, policy in POLICIES.items() if not isinstance(policy, Retention)}
WITH_SIGNS = {name: policy for name, policy in SWEEPS.items() if policy.ahead is not None}
#: Three hours are a wrong zone, two days a wrong date, ten years a clock that was set by hand.
AHEAD = [timedelta(hours=3), timedelta(days=2), timedelta(days=3653)]


@dataclass(frozen=True, slots=True)
class Ahead(Feed):
    """Feeds rows whose last sign of life lies ahead."""

    by: timedelta = timedelta(0)

    @property
    def once(self) -> datetime:
        return self.now + self.by


def _typing(feed: Feed) -> Fed:
    user = ada(feed, a_room(feed))
    key = feed.add(echoroom.TypingIndicator, username="Ada", expires_at=feed.once, **user)
    return Fed("it expires in hours", feed.soon, [is_gone(echoroom.TypingIndicator, key)], [])


def _session(feed: Feed) -> Fed:
    key = feed.add(connect.UserSession, user_id=cleo(feed), expires_at=None, updated_at=feed.once)
    return Fed("it has no expiry", feed.soon, [is_gone(connect.UserSession, key)], [])


def _request(feed: Feed) -> Fed:
    key, she, he = a_connection(feed)
    people = {"requester_user_id": he, "approver_user_id": she}
    request = feed.add(
        connect.VideoRequest, connection_id=key, expires_at=None, requested_at=feed.once, **people
    )
    stale = is_changed(connect.VideoRequest, request, status="expired")
    return Fed("it has no expiry", feed.soon, [stale], [])


#: Where what is fed for a policy goes by an expiry, and other rows of its table by a sign of life.
OF_A_SIGN: dict[str, Callable[[Feed], Fed]] = {
    "echoroom.typing": _typing,
    "connect.sessions": _session,
    "connect.video_requests": _request,
}


def test_each_policy_minds_signs_ahead_or_has_none() -> None:
    assert {*WITH_SIGNS} | {*BY_SOMETHING_ELSE} == {*SWEEPS}
    assert not {*WITH_SIGNS} & {*BY_SOMETHING_ELSE}


@pytest.mark.parametrize("by", AHEAD, ids=["hours", "days", "years"])
@pytest.mark.parametrize("by_hand", [True, False], ids=["by hand", "as beat does"])
def test_a_sign_of_life_ahead_counts_as_of_when_it_was_first_seen(
    platform: Platform, by: timedelta, by_hand: bool
) -> None:
    """Of each policy: no row is swept before its period, and none lives for longer than twice that."""
    now = clock(platform)

    def sweep(policy: Sweep, at: datetime) -> int:
        done = cleanup.run(policy, platform.settings, now=at, by_hand=by_hand)
        assert done is not None
        return done.rows

    for name, policy in WITH_SIGNS.items():
        assert policy.after is not None
        with platform.engine.begin() as connection:
            feed = Ahead(connection, now, policy.after, by)
            fed = OF_A_SIGN.get(name, FEEDS[name])(feed)
        stale = fed.stale[0]

        def swept(stale: Stale = stale) -> bool:
            with platform.engine.begin() as connection:
                return stale.swept(connection)

        # It is not shown as due while it waits.
        assert eligible_rows.eligible(policy, platform.settings, 10, now=now) == 0, name
        assert sweep(policy, now) == 0, name
        sweep(policy, now + policy.after)
        assert not swept(), name
        if by > policy.after:
            late = now + policy.after + INSTANT
            assert eligible_rows.eligible(policy, platform.settings, 10, now=late) >= 1, name
            assert sweep(policy, late) >= 1, name
        sweep(policy, now + 2 * max(policy.after, timedelta(minutes=1)) + policy.every)
        assert swept(), name


def test_what_becomes_of_times_ahead_is_shown(platform: Platform) -> None:
    for name, policy in SWEEPS.items():
        shown = rule(policy, platform.settings)
        assert ("times ahead count from when they are first seen" in shown) == (name in WITH_SIGNS)


def test_whoever_goes_on_to_give_signs_is_there_however_wrong_their_clock_is(platform: Platform) -> None:
    now = clock(platform)
    policy = POLICIES["openchat.presence"]
    with platform.engine.begin() as connection:
        feed = Feed(connection, now, timedelta(0))
        long_ago = naive(now - timedelta(days=9))
        user = bea(feed, is_online=True, status="online", last_seen_at=None, updated_at=long_ago)

    def minute(number: int, sign: datetime | None) -> str:
        if sign is not None:
            platform.sql('UPDATE openchat."user" SET last_seen_at = :at', at=naive(sign))
        assert cleanup.run(policy, platform.settings, now=now + timedelta(minutes=number)) is not None
        return str(platform.row(openchat.User, user).status)

    for number in range(12):
        assert minute(number, now + timedelta(minutes=number) + 3 * HOUR) == "online"
    # The clock is set right, by and by: a sign is one that differs from the last.
    for number in range(12, 15):
        assert minute(number, now + timedelta(minutes=number) + (15 - number) * HOUR) == "online"
    assert [minute(number, None) for number in (15, 19)] == ["online", "online"]
    assert minute(20, None) == "offline"


def notes(platform: Platform) -> list[str]:
    """Return the policies of the future timestamps that are noted."""
    found = platform.sql("SELECT policy FROM roomkeeper.future_timestamps ORDER BY policy")
    return [policy for (policy,) in found]


def test_the_note_of_a_future_timestamp_goes_with_its_row(platform: Platform) -> None:
    now, policy = clock(platform), POLICIES["echoroom.typing"]
    with platform.engine.begin() as connection:
        feed = Feed(connection, now, timedelta(0))
        for _ in range(3):
            future = {"expires_at": now + 3 * HOUR, "username": "Ada"}
            feed.add(echoroom.TypingIndicator, **future, **ada(feed, a_room(feed)))
    cleanup.run(policy, platform.settings, now=now)
    assert notes(platform) == [policy.name] * 3
    # The application deletes one itself; another sign of the second lies further ahead.
    platform.sql(
        "DELETE FROM echoroom.typing_indicators WHERE id = (SELECT min(id::text)::uuid"
        " FROM echoroom.typing_indicators)"
    )
    assert policy.after is not None
    done = cleanup.run(policy, platform.settings, now=now + policy.after + INSTANT)
    assert done is not None
    assert done.rows == 2
    assert notes(platform) == [policy.name]
    purge = POLICIES["roomkeeper.future_timestamps"]
    for later, left in ((HOUR, 1), (HOUR + 4 * policy.after, 0)):
        cleanup.run(purge, platform.settings, now=now + later)
        assert len(notes(platform)) == left


def test_a_note_lasts_as_long_as_the_policy_needs_it(platform: Platform) -> None:
    """The period is set to months, and the sweep looks once a week."""
    now, policy = clock(platform), POLICIES["openchat.presence"]
    period, purge = timedelta(days=90), POLICIES["roomkeeper.future_timestamps"]
    platform.set(
        sweep_after=f"{policy.name}={period.total_seconds()}", sweep_every=f"{policy.name}={7 * 86400}"
    )
    with platform.engine.begin() as connection:
        feed = Feed(connection, now, timedelta(0))
        long_ago = naive(now - timedelta(days=900))
        future = {"last_seen_at": naive(now + timedelta(days=3650)), "updated_at": long_ago}
        user = bea(feed, is_online=True, status="online", **future)
    for days, status in ((0, "online"), (41, "online"), (89, "online"), (96, "offline")):
        for job in (purge, policy):
            cleanup.run(job, platform.settings, now=now + timedelta(days=days))
        assert platform.row(openchat.User, user).status == status
    assert notes(platform) == []


def test_a_time_without_an_end_is_ahead_like_any_other(platform: Platform) -> None:
    platform.sql(
        """INSERT INTO openchat."user"
                       (name, email, email_verified, is_online, status, last_seen_at, updated_at)
           VALUES ('Bea', 'bea@example.org', true, true, 'online', 'infinity', '2020-01-01')"""
    )
    now, policy = clock(platform), POLICIES["openchat.presence"]
    for minutes, rows in ((0, 0), (5, 0), (6, 1)):
        done = cleanup.run(policy, platform.settings, now=now + timedelta(minutes=minutes))
        assert done is not None
        assert done.rows == rows


def test_a_ghost_is_not_kept_by_an_indicator_from_the_future(platform: Platform) -> None:
    """By a real worker: a user's clock was three hours ahead when they began to type, and crashed."""
    platform.set(sweep_after="echoroom.ghosts=1,echoroom.typing=1")
    with platform.engine.begin() as connection:
        now = connection.scalar(text("SELECT clock_timestamp()"))
        assert now is not None
        feed = Feed(connection, now, timedelta(0))
        person = ada(feed, a_room(feed))
        once = now - timedelta(days=1)
        ghost = feed.add(echoroom.SessionParticipant, joined_at=once, **person)
        feed.add(
            echoroom.TypingIndicator,
            username="Ada",
            started_at=now + 3 * HOUR,
            expires_at=now + 3 * HOUR + timedelta(seconds=10),
            **person,
        )
    platform.worker("maintenance")

    def over() -> bool:
        for name in ("echoroom.ghosts", "echoroom.typing"):
            platform.send(name, queue="cleanup")
        (left,) = platform.sql(
            "SELECT NOT is_active AS inactive, (SELECT count(*) FROM echoroom.typing_indicators) AS typing"
            " FROM echoroom.session_participants WHERE id = :id",
            id=ghost,
        )
        return bool(left.inactive and not left.typing)

    eventually(over, what="the ghost has left, and types no more")
    assert clock(platform) - now < HOUR


def test_many_rows_that_wait_do_not_hide_those_that_are_due(platform: Platform) -> None:
    platform.sql(
        """INSERT INTO openchat."user"
                       (name, email, email_verified, is_online, status, last_seen_at, updated_at)
           SELECT 'Bea', n || '@example.org', true, true, 'online',
                  CASE WHEN n <= 5050 THEN timezone('UTC', now()) + interval '10 years' END, '2020-01-01'
             FROM generate_series(1, 5100) AS n"""
    )
    assert cleanup.run(POLICIES["openchat.presence"], platform.settings) is not None
    (counted,) = platform.sql(
        """SELECT count(*) FILTER (WHERE status = 'offline') AS offline,
                  count(*) FILTER (WHERE status = 'online') AS online FROM openchat."user" """
    )
    assert tuple(counted) == (50, 5050)


# -- Our own clocks ------------------------------------------------------------------------------------------

#: Where a worker's own clock is read, and why that does no harm. All else goes by the database's.
OWN_CLOCK = {
    "workers/beat.py": "how far this host's clock has been moved, against its own monotonic one",
    "workers/broker_clock.py": "how far this host's clock differs from the broker's",
    "workers/state_metrics.py": "the age in days of signatures that others have dated",
    "workers/steps.py": "scores in the broker, where Celery keeps times of workers as well",
    "workers/storage/s3.py": "S3 wants each request signed with the time of who signs it",
}


def test_jobs_go_by_the_database_s_clock() -> None:
    readers = set()
    root = Path(cleanup.__file__).parent.parent
    for path in [*(root / "tasks").rglob("*.py"), *(root / "workers").rglob("*.py")]:
        if re.search(r"\b(datetime\.(now|utcnow|today)|date\.today|time\.time(_ns)?)\(", path.read_text()):
            readers.add(str(path.relative_to(root)))
    assert readers <= {*OWN_CLOCK}, "take the database's time, or say in OWN_CLOCK why not"


def test_the_history_of_an_attachment_is_told_by_the_database_s_clock(platform: Platform) -> None:
    story = EventLog("pern", uuid4(), 1, "worker")
    began = clock(platform)
    with story.phase("scan"):
        between = clock(platform)
    story.add("clean")
    with platform.engine.begin() as connection:
        story.write(connection)
    scan, clean = platform.sql("SELECT event, at FROM roomkeeper.attachment_events ORDER BY id")
    assert (scan.event, clean.event) == ("scan", "clean")
    # A statement's way to the database is the most that it is off.
    assert began <= scan.at <= between + timedelta(seconds=1)
    assert scan.at <= clean.at <= clock(platform)
