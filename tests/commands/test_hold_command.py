"""`roomkeeper hold`: legal holds are placed, listed and lifted; retention leaves alone what they name."""

from datetime import timedelta
from threading import Thread
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from syrupy.assertion import SnapshotAssertion

from commands import holds as command
from models.pern import Message
from tasks.retention.batch import HOLDS_LOCK
from tests.commands.cli import Outcome, on, refused, stable, timeless
from tests.platform import Platform, eventually
from tests.retention.pern_chats import conversation, message, person
from tests.retention.retaining import days
from tests.sweeps.sweeping import rows

LONG = timedelta(days=9000)


def placed(platform: Platform, entity: str, key: UUID, *more: str) -> Outcome:
    return on(platform, "hold", "add", "pern", entity, str(key), "--reason", "a [suit]", *more)


def test_a_hold_keeps_rows_until_it_is_lifted(platform: Platform, snapshot: SnapshotAssertion) -> None:
    days(platform, **{"pern.messages": 400})
    room, writer = conversation(platform), person(platform)
    held, free = message(platform, room, LONG, sender_id=writer), message(platform, room, LONG)
    outcome = placed(platform, "user", writer, "--actor", "ada")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith("Hold 1: ")
    assert stable(outcome, writer=writer) == snapshot(name="placed")
    assert on(platform, "run", "pern.messages").out.startswith("pern.messages: 1 row ")
    assert set(rows(platform, Message)) == {held} != {free}
    lifted = on(platform, "hold", "lift", "1", "--actor", "bob")
    assert (lifted.code, lifted.err) == (0, "")
    assert lifted.out == snapshot(name="lifted")
    assert on(platform, "run", "pern.messages").out.startswith("pern.messages: 1 row ")
    assert rows(platform, Message) == {}


def test_holds_are_listed(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, snapshot: SnapshotAssertion
) -> None:
    assert on(platform, "hold", "list").out == "None.\n"
    monkeypatch.setenv("SUDO_USER", "eve")
    writer, room = person(platform), conversation(platform)
    placed(platform, "user", writer)
    placed(platform, "conversation", room, "--actor", "ada")
    on(platform, "hold", "lift", "1")
    (line,) = on(platform, "hold", "list").out.splitlines()
    assert line.startswith("2 ")
    assert str(room) in line
    everything = on(platform, "hold", "list", "--all")
    assert everything.out.splitlines()[1] == line
    assert timeless(stable(everything, writer=writer, room=room)) == snapshot


@pytest.mark.parametrize(
    "arguments",
    [
        ("add", "prn", "user", "{id}", "--reason", "x"),
        ("add", "pern", "room", "{id}", "--reason", "x"),
        ("add", "pern", "user", "{id}", "--reason", "x"),
        ("add", "pern", "user", "{id}", "--reason", " "),
        ("lift", "7"),
    ],
    ids=" ".join,
)
def test_what_cannot_be_done_is_a_sentence(
    platform: Platform, arguments: tuple[str, ...], snapshot: SnapshotAssertion
) -> None:
    key = str(uuid4())
    before = platform.everything()
    outcome = on(platform, "hold", *(one.replace("{id}", key) for one in arguments))
    assert refused(outcome, id=key) == snapshot
    assert platform.everything() == before


def test_nobody_is_held_or_freed_twice(platform: Platform, snapshot: SnapshotAssertion) -> None:
    writer = person(platform)
    placed(platform, "user", writer)
    assert refused(placed(platform, "user", writer), " hold 1.", writer=writer) == snapshot
    on(platform, "hold", "lift", "1")
    assert on(platform, "hold", "lift", "1").code == 1
    assert placed(platform, "user", writer).out.startswith("Hold 2: ")


def test_who_is_not_ours_to_look_at_is_held_unseen(platform: Platform) -> None:
    """People of `audiorooms` are Supabase's."""
    outcome = on(platform, "hold", "add", "audiorooms", "user", str(uuid4()), "--reason", "a suit")
    assert outcome.code == 0


def test_an_application_that_is_not_enabled(platform: Platform, snapshot: SnapshotAssertion) -> None:
    platform.set(apps="connect")
    writer = person(platform)
    outcome = placed(platform, "user", writer)
    assert outcome.code == 0
    last = outcome.out.splitlines()[-1]
    assert "ROOMKEEPER_APPS" in last
    assert last == snapshot
    platform.sql("DROP SCHEMA pern CASCADE")
    outcome = placed(platform, "user", uuid4())
    assert outcome.code == 1
    ((sentence, _),) = outcome.faults
    assert "schema pern " in sentence


def test_a_database_that_will_not_do_is_a_sentence(platform: Platform) -> None:
    platform.sql("DROP SCHEMA roomkeeper CASCADE")
    for arguments in (("add", "pern", "user", str(uuid4()), "--reason", "x"), ("list",), ("lift", "1")):
        outcome = on(platform, "hold", *arguments)
        assert (outcome.code, outcome.out) == (1, "")
        ((_, advice),) = outcome.faults
        assert "roomkeeper db upgrade" in advice


@pytest.mark.parametrize("patience", [0.2, 60], ids=["short", "long"])
def test_batches_at_work_are_waited_for_and_that_is_said(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, patience: float, snapshot: SnapshotAssertion
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
    if patience < 1:
        assert outcome.err == snapshot
    else:
        assert outcome.err == ""
