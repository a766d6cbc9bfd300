"""The sweeps of `echoroom`."""

import random
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import delete, func, insert, select, update

from models.echoroom import ChatMessage, ChatSession, SessionParticipant, TypingIndicator, User, VoiceStatus
from tests.platform import Platform
from tests.sweeps.sweeping import INSTANT, NOW, add, ago, rows, sweep


def room(platform: Platform, **values: Any) -> UUID:
    return add(platform, ChatSession, category="Calm", **values)


def person(platform: Platform, **values: Any) -> UUID:
    return add(platform, User, username="Ada", **{"last_active": None} | values)


def test_the_period_is_a_setting(platform: Platform) -> None:
    place, user = room(platform), person(platform)
    add(platform, SessionParticipant, session_id=place, user_id=user, joined_at=ago(minutes=10))
    assert sweep(platform, "echoroom.ghosts").rows == 0
    platform.set(sweep_after=f"echoroom.ghosts={timedelta(minutes=9).total_seconds()}")
    assert sweep(platform, "echoroom.ghosts").rows == 1


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
        documented = {
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
        if documented[key].is_active == row["is_active"]:
            seen.add("same")
            if before["is_active"] and not row["is_active"]:
                # Difference: who leaves does not speak, and is not muted.
                assert (row["left_at"], row["is_speaking"], row["is_muted"]) == (NOW, False, False)
                assert documented[key].is_speaking == before["is_speaking"]
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
