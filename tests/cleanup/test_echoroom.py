"""The sweeps of `echoroom`."""

import random
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import delete, func, insert, select, update

from models.echoroom import ChatMessage, ChatSession, SessionParticipant, TypingIndicator, User, VoiceStatus
from tests.cleanup.sweeping import INSTANT, NOW, add, ago, changed, others, rows, sweep
from tests.platform import Platform


def room(platform: Platform, **values: Any) -> UUID:
    return add(platform, ChatSession, category="Calm", **values)


def person(platform: Platform, **values: Any) -> UUID:
    return add(platform, User, username="Ada", **{"last_active": None} | values)


def test_typing_stops(platform: Platform) -> None:
    place = room(platform)

    def typing(**values: Any) -> UUID:
        return add(
            platform,
            TypingIndicator,
            session_id=place,
            user_id=person(platform),
            username="Ada",
            **values,
        )

    gone = [
        typing(expires_at=NOW - INSTANT),
        typing(expires_at=None, started_at=ago(seconds=10, than=INSTANT)),
        typing(expires_at=None, started_at=None),
    ]
    stays = [
        typing(expires_at=NOW),
        typing(expires_at=NOW + INSTANT, started_at=None),
        typing(expires_at=None, started_at=ago(seconds=10)),
    ]
    before = rows(platform, TypingIndicator)
    assert sweep(platform, "echoroom.typing", by_hand=False).rows == len(gone)
    assert rows(platform, TypingIndicator) == {key: before[key] for key in stays}
    after = others(platform)
    assert sweep(platform, "echoroom.typing").rows == 0
    assert others(platform) == after


@pytest.mark.parametrize("sign", ["last_active", "message", "voice", "typing", "joined_at"])
def test_who_gave_a_sign_of_life_stays(platform: Platform, sign: str) -> None:
    place = room(platform)
    elsewhere = room(platform)

    def participant(at: Any) -> UUID:
        user = person(platform, last_active=at if sign == "last_active" else ago(days=1))
        both = {"session_id": place, "user_id": user}
        if sign == "message":
            add(platform, ChatMessage, sender_name="Ada", content="hi", created_at=at, **both)
        if sign == "voice":
            add(platform, VoiceStatus, last_updated=at, **both)
        if sign == "typing":
            add(platform, TypingIndicator, username="Ada", started_at=at, **both)
        # What somebody does elsewhere says nothing of here.
        there = {"session_id": elsewhere, "user_id": user}
        add(platform, ChatMessage, sender_name="Ada", content="hi", created_at=NOW, **there)
        joined = at if sign == "joined_at" else ago(days=1)
        return add(platform, SessionParticipant, joined_at=joined, is_speaking=True, is_muted=True, **both)

    stays = participant(ago(minutes=30))
    leaves = participant(ago(minutes=30, than=INSTANT))
    unknown = participant(None)
    before = rows(platform, SessionParticipant)
    assert rows(platform, ChatSession)[place]["current_participants"] == 3
    assert sweep(platform, "echoroom.ghosts", by_hand=False).rows == 2
    left = {"is_active": False, "left_at": NOW, "is_speaking": False, "is_muted": False}
    expected = changed(changed(before, leaves, **left), unknown, **left)
    assert rows(platform, SessionParticipant) == expected
    assert rows(platform, ChatSession)[place]["current_participants"] == 1
    assert {row["user_id"] for row in rows(platform, VoiceStatus).values()} <= {before[stays]["user_id"]}
    after = others(platform)
    assert sweep(platform, "echoroom.ghosts").rows == 0
    assert others(platform) == after


def test_the_period_is_a_setting(platform: Platform) -> None:
    place, user = room(platform), person(platform)
    add(platform, SessionParticipant, session_id=place, user_id=user, joined_at=ago(minutes=10))
    assert sweep(platform, "echoroom.ghosts").rows == 0
    platform.set(sweep_after=f"echoroom.ghosts={timedelta(minutes=9).total_seconds()}")
    assert sweep(platform, "echoroom.ghosts").rows == 1


def test_voice_status_of_people_who_are_not_there_goes(platform: Platform) -> None:
    place = room(platform)

    def voice(active: Any, at: Any) -> UUID:
        both = {"session_id": place, "user_id": person(platform)}
        if active is not ...:
            add(platform, SessionParticipant, is_active=active, **both)
        return add(platform, VoiceStatus, last_updated=at, is_speaking=True, **both)

    late, early = ago(minutes=1, than=INSTANT), ago(minutes=1)
    gone = [voice(state, at) for state in (False, None, ...) for at in (late, None)]
    gone.append(add(platform, VoiceStatus, session_id=None, user_id=person(platform), last_updated=late))
    stays = [voice(True, late), voice(True, None), voice(False, early), voice(..., early)]
    before = rows(platform, VoiceStatus)
    untouched = others(platform)
    assert sweep(platform, "echoroom.voice", by_hand=False).rows == len(gone)
    assert rows(platform, VoiceStatus) == {key: before[key] for key in stays}
    after = others(platform)
    assert {name: found for name, found in after.items() if name != "echoroom.voice_status"} == {
        name: found for name, found in untouched.items() if name != "echoroom.voice_status"
    }
    assert sweep(platform, "echoroom.voice").rows == 0
    assert others(platform) == after


def test_nobody_speaks_for_ever(platform: Platform) -> None:
    place = room(platform)

    def speaker(active: bool | None, at: Any, *, speaking: bool | None = True) -> UUID:
        both = {"session_id": place, "user_id": person(platform)}
        add(platform, VoiceStatus, last_updated=at, is_speaking=speaking, is_muted=None, **both)
        return add(
            platform,
            SessionParticipant,
            joined_at=ago(days=1),
            is_active=active,
            is_speaking=speaking,
            **both,
        )

    late, early = ago(minutes=10, than=INSTANT), ago(minutes=10)
    silenced = [speaker(True, late), speaker(True, None), speaker(False, NOW), speaker(None, NOW)]
    speaker(True, early)
    for speaking in (False, None):
        speaker(True, late, speaking=speaking)
    before = rows(platform, SessionParticipant)
    voices = rows(platform, VoiceStatus)
    assert sweep(platform, "echoroom.speaking", by_hand=False).rows == len(silenced)
    expected = before
    for one in silenced:
        expected = changed(expected, one, is_speaking=False)
    assert rows(platform, SessionParticipant) == expected
    # The other table has a policy of its own, which goes by its own time.
    assert rows(platform, VoiceStatus) == voices
    assert sweep(platform, "echoroom.voice_speaking", by_hand=False).rows == 2
    expected = voices
    for key, row in voices.items():
        if row["is_speaking"] and (row["last_updated"] is None or row["last_updated"] < early):
            expected = changed(expected, key, is_speaking=False)
    assert rows(platform, VoiceStatus) == expected
    after = others(platform)
    assert sweep(platform, "echoroom.speaking").rows == sweep(platform, "echoroom.voice_speaking").rows == 0
    assert others(platform) == after


@pytest.mark.parametrize("wrong", [-1, 0, 1, 3, 99, None])
def test_counts_are_what_there_is(platform: Platform, wrong: int | None) -> None:
    right = room(platform)
    place = room(platform, max_participants=1)
    empty = room(platform, is_active=False)
    for active in (True, True, False, None):
        add(platform, SessionParticipant, session_id=place, user_id=person(platform), is_active=active)
    add(platform, SessionParticipant, session_id=right, user_id=person(platform))
    with platform.engine.begin() as connection:
        for one in (place, empty):
            connection.execute(
                update(ChatSession).where(ChatSession.id == one).values(current_participants=wrong)
            )
    before = rows(platform, ChatSession)
    changes = sum((wrong != count) for count in (2, 0))
    assert sweep(platform, "echoroom.counts", by_hand=False).rows == changes
    after = rows(platform, ChatSession)
    assert {key: row["current_participants"] for key, row in after.items()} == {right: 1, place: 2, empty: 0}
    assert after[right] == before[right]
    for key in (place, empty):
        # The application's trigger dates a change, and there is nothing but that.
        dated = {"updated_at": after[key]["updated_at"], "current_participants": {place: 2, empty: 0}[key]}
        assert after[key] == {**before[key], **dated}
    everything = others(platform)
    assert sweep(platform, "echoroom.counts").rows == 0
    assert others(platform) == everything


def test_what_the_trigger_cannot_count_is_recounted(platform: Platform) -> None:
    """`is_active` through NULL goes below zero; a change of room leaves both rooms wrong."""
    one, other = room(platform), room(platform)
    first = add(platform, SessionParticipant, session_id=one, user_id=person(platform))
    add(platform, SessionParticipant, session_id=one, user_id=person(platform))
    for state in (None, True, False):
        with platform.engine.begin() as connection:
            connection.execute(
                update(SessionParticipant).where(SessionParticipant.id == first).values(is_active=state)
            )
    with platform.engine.begin() as connection:
        connection.execute(update(SessionParticipant).values(session_id=other))
    found = {key: row["current_participants"] for key, row in rows(platform, ChatSession).items()}
    assert found == {one: 1, other: 0}
    assert sweep(platform, "echoroom.counts").rows == 2
    found = {key: row["current_participants"] for key, row in rows(platform, ChatSession).items()}
    assert found == {one: 0, other: 1}


def random_rooms(platform: Platform, seed: int) -> None:
    """People in rooms, with every mixture of times and NULLs."""
    chance = random.Random(seed)
    limits = [None, ago(minutes=30), ago(minutes=30, than=INSTANT), ago(minutes=30) + INSTANT]
    times = [*limits, ago(days=1), ago(minutes=1), NOW]
    places = [room(platform) for _ in range(3)]
    for _ in range(60):
        who = person(platform, last_active=chance.choice(times))
        for place in chance.sample(places, chance.randint(1, 2)):
            both = {"session_id": place, "user_id": who}
            add(
                platform,
                SessionParticipant,
                joined_at=chance.choice(times),
                is_active=chance.choice([True, True, False, None]),
                is_speaking=chance.choice([True, False, None]),
                **both,
            )
            if chance.random() < 0.3:
                add(platform, VoiceStatus, last_updated=chance.choice(times), **both)
            if chance.random() < 0.3:
                at = chance.choice(times)
                add(platform, TypingIndicator, username="Ada", started_at=at, expires_at=at, **both)
            if chance.random() < 0.3:
                at = chance.choice(times)
                add(platform, ChatMessage, sender_name="Ada", content="hi", created_at=at, **both)


@pytest.mark.parametrize("seed", range(4))
def test_against_the_documented_functions(platform: Platform, seed: int) -> None:
    """Where they are right we end as they do; each difference has a reason, and no other is there."""
    random_rooms(platform, seed)
    participants, typing = rows(platform, SessionParticipant), rows(platform, TypingIndicator)
    last_active = {key: row["last_active"] for key, row in rows(platform, User).items()}
    voices, messages = rows(platform, VoiceStatus).values(), rows(platform, ChatMessage).values()
    # Both go by the transaction's time: everything is moved so that it is NOW.
    with platform.engine.connect() as connection, connection.begin() as trial:
        moment = connection.scalar(select(func.now()))
        assert moment is not None
        for model, columns in (
            (User, ["last_active"]),
            (SessionParticipant, ["joined_at"]),
            (TypingIndicator, ["started_at", "expires_at"]),
        ):
            table: Any = model.__table__
            moved = {name: table.c[name] + (moment - NOW) for name in columns}
            connection.execute(table.update().values(moved))
        connection.execute(select(func.echoroom.cleanup_inactive_participants()))
        connection.execute(select(func.echoroom.cleanup_expired_typing_indicators()))
        theirs = {
            row.id: row for row in connection.execute(select(*SessionParticipant.__table__.columns)).all()
        }
        theirs_typing = set(connection.execute(select(TypingIndicator.id)).scalars())
        trial.rollback()
    sweep(platform, "echoroom.typing")
    ours_typing = set(rows(platform, TypingIndicator))
    # Difference: one without an expiry lives ten seconds, and not for ever.
    forgotten = {
        key
        for key, row in typing.items()
        if row["expires_at"] is None and (row["started_at"] is None or row["started_at"] < ago(seconds=10))
    }
    assert theirs_typing - ours_typing == forgotten
    assert ours_typing <= theirs_typing
    # Typing is a sign of life even where its row is swept first: these are made again for the comparison.
    with platform.engine.begin() as connection:
        connection.execute(delete(TypingIndicator))
        if typing:
            connection.execute(insert(TypingIndicator.__table__), list(typing.values()))  # type: ignore[arg-type]
    sweep(platform, "echoroom.ghosts")
    since = ago(minutes=30)
    alive = {
        (row["session_id"], row["user_id"])
        for found, at in ((voices, "last_updated"), (messages, "created_at"), (typing.values(), "started_at"))
        for row in found
        if row[at] is not None and row[at] >= since
    }
    seen = set()
    for key, row in rows(platform, SessionParticipant).items():
        before = participants[key]
        active = last_active[before["user_id"]]
        other_sign = (before["session_id"], before["user_id"]) in alive or (
            before["joined_at"] is not None and before["joined_at"] >= since
        )
        if theirs[key].is_active == row["is_active"]:
            seen.add("same")
            if before["is_active"] and not row["is_active"]:
                # Difference: who leaves does not speak, and is not muted.
                assert (row["left_at"], row["is_speaking"], row["is_muted"]) == (NOW, False, False)
                assert theirs[key].is_speaking == before["is_speaking"]
            else:
                assert row == before
        elif row["is_active"]:
            # Difference: who talks, types or has just come is there, whatever `last_active` says.
            assert other_sign
            assert active is not None
            assert active < since
            seen.add("kept")
        else:
            # Difference: of whom nothing was ever heard, with a NULL there, is not kept for ever.
            assert active is None
            assert not other_sign
            seen.add("thrown out")
    assert seen == {"same", "kept", "thrown out"}
