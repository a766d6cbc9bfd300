"""`roomkeeper hold`: legal holds are placed, listed and lifted; retention leaves alone what they name."""

import re
from datetime import timedelta
from threading import Thread
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from commands import holds as command
from models.pern import Message
from tasks.retention.batch import HOLDS_LOCK
from tests.commands.cli import Outcome, on
from tests.platform import Platform, eventually
from tests.retention.pern_chats import conversation, message, person
from tests.retention.retaining import days
from tests.sweeps.sweeping import rows

LONG = timedelta(days=9000)


def placed(platform: Platform, entity: str, key: UUID, *more: str) -> Outcome:
    return on(platform, "hold", "add", "pern", entity, str(key), "--reason", "a [suit]", *more)


def test_a_hold_keeps_rows_until_it_is_lifted(platform: Platform) -> None:
    days(platform, **{"pern.messages": 400})
    room, writer = conversation(platform), person(platform)
    held, free = message(platform, room, LONG, sender_id=writer), message(platform, room, LONG)
    outcome = placed(platform, "user", writer, "--actor", "ada")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith(
        f"Hold 1: retention takes no rows of pern user {writer} until it is lifted. "
    )
    assert on(platform, "run", "pern.messages").out.startswith("pern.messages: 1 row deleted in 1 batch, ")
    assert set(rows(platform, Message)) == {held} != {free}
    lifted = on(platform, "hold", "lift", "1", "--actor", "bob")
    assert (lifted.code, lifted.err) == (0, "")
    assert lifted.out == ("Hold 1 is lifted: what it has kept, and is old enough, goes with the next runs.\n")
    assert on(platform, "run", "pern.messages").out.startswith("pern.messages: 1 row deleted in 1 batch, ")
    assert rows(platform, Message) == {}


def test_holds_are_listed(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    assert on(platform, "hold", "list").out == "None.\n"
    monkeypatch.setenv("SUDO_USER", "eve")
    writer, room = person(platform), conversation(platform)
    placed(platform, "user", writer)
    placed(platform, "conversation", room, "--actor", "ada")
    on(platform, "hold", "lift", "1")
    (line,) = on(platform, "hold", "list").out.splitlines()
    when = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
    assert re.fullmatch(rf"2  {when}  pern conversation {room}  ada: a \[suit\]", line)
    first, second = on(platform, "hold", "list", "--all").out.splitlines()
    assert re.fullmatch(rf"1  {when}  pern user {writer}  eve: a \[suit\]; lifted {when} by eve", first)
    assert second == line


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ("add", "prn", "user", "{id}", "--reason", "x"),
            "'prn' is not an application: echoroom, openchat, connect, pern, audiorooms.",
        ),
        (
            ("add", "pern", "room", "{id}", "--reason", "x"),
            "pern has no 'room' to put on hold: user, conversation.",
        ),
        (("add", "pern", "user", "{id}", "--reason", "x"), "pern has no user {id}."),
        (("add", "pern", "user", "{id}", "--reason", " "), "--reason must say why, in a few words."),
        (("lift", "7"), "There is no hold 7 in force; see: roomkeeper hold list"),
    ],
)
def test_what_cannot_be_done_is_a_sentence(
    platform: Platform, arguments: tuple[str, ...], sentence: str
) -> None:
    key = str(uuid4())
    before = platform.everything()
    outcome = on(platform, "hold", *(one.replace("{id}", key) for one in arguments))
    assert (outcome.code, outcome.out, outcome.err) == (1, "", f"{sentence.replace('{id}', key)}\n")
    assert platform.everything() == before


def test_nobody_is_held_or_freed_twice(platform: Platform) -> None:
    writer = person(platform)
    placed(platform, "user", writer)
    assert placed(platform, "user", writer).err == f"pern user {writer} is on hold already, by hold 1.\n"
    on(platform, "hold", "lift", "1")
    assert on(platform, "hold", "lift", "1").code == 1
    assert placed(platform, "user", writer).out.startswith("Hold 2: ")


def test_who_is_not_ours_to_look_at_is_held_unseen(platform: Platform) -> None:
    """People of `audiorooms` are Supabase's."""
    outcome = on(platform, "hold", "add", "audiorooms", "user", str(uuid4()), "--reason", "a suit")
    assert outcome.code == 0


def test_an_application_that_is_not_enabled(platform: Platform) -> None:
    platform.set(apps="connect")
    writer = person(platform)
    outcome = placed(platform, "user", writer)
    assert outcome.code == 0
    assert outcome.out.endswith("pern is not in ROOMKEEPER_APPS: retention takes nothing of it anyway.\n")
    platform.sql("DROP SCHEMA pern CASCADE")
    outcome = placed(platform, "user", uuid4())
    assert outcome.code == 1
    assert [sentence for sentence, _ in outcome.faults] == ["The schema pern does not exist."]


def test_a_database_that_will_not_do_is_a_sentence(platform: Platform) -> None:
    platform.sql("DROP SCHEMA roomkeeper CASCADE")
    for arguments in (("add", "pern", "user", str(uuid4()), "--reason", "x"), ("list",), ("lift", "1")):
        outcome = on(platform, "hold", *arguments)
        assert (outcome.code, outcome.out) == (1, "")
        assert [advice for _, advice in outcome.faults] == ["Run: roomkeeper db upgrade"]


@pytest.mark.parametrize("patience", [0.2, 60])
def test_batches_at_work_are_waited_for_and_that_is_said(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, patience: float
) -> None:
    monkeypatch.setattr(command, "PATIENCE_SECONDS", patience)
    writer = person(platform)
    done: list[Outcome] = []
    adding = Thread(target=lambda: done.append(placed(platform, "user", writer)))
    with platform.engine.begin() as batch:
        batch.execute(
            text("SELECT pg_advisory_xact_lock_shared(hashtextextended(:name, 0))"), {"name": HOLDS_LOCK}
        )
        adding.start()
        waits = (
            "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'advisory' AND now() - query_start > '400 ms'"
        )
        eventually(lambda: platform.sql(waits), what="it waits")
        assert platform.sql("SELECT * FROM roomkeeper.holds") == []
    adding.join(30)
    ((outcome),) = done
    assert outcome.code == 0
    said = "Waiting for what retention is taking at this moment…\n"
    assert outcome.err == (said if patience < 1 else "")
