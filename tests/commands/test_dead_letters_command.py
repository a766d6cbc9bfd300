"""`roomkeeper dead-letters`: looked at, sent again, dropped."""

import re
from uuid import uuid4

import pytest
from syrupy.assertion import SnapshotAssertion

from tests.commands.cli import Outcome, on, refused
from tests.platform import Platform, environment, eventually
from tests.servers import ValkeyServer
from workers import dead_letters


def letters(platform: Platform, *arguments: str) -> Outcome:
    return on(platform, "dead-letters", *arguments)


def keep(task: str = "attachments.process", **payload: object) -> None:
    dead_letters.keep(
        task=task, task_id="7", payload=payload or {"args": [{"app": "openchat"}]}, reason="why not"
    )


def test_none(platform: Platform) -> None:
    assert letters(platform, "list").out == "None.\n"


def test_they_are_listed_the_latest_first(platform: Platform) -> None:
    for task in ("first.task", "second.task", "second.task"):
        keep(task)
    out = letters(platform, "list", "--limit", "2").out
    assert out.count("second.task") == 2
    assert "first.task" not in out
    assert "why not" in out
    assert re.findall(r"\d+", out.splitlines()[-1]) == ["2", "3"]
    assert letters(platform, "list", "--task", "first.task").out.count("first.task") == 1


def test_what_strangers_wrote_is_no_markup(platform: Platform) -> None:
    dead_letters.keep(task="[/b]", task_id="[/b]", payload={"args": ["[/b]"]}, reason="no field [/b]")
    assert "no field [/b]" in letters(platform, "list").out
    assert letters(platform, "show", str(platform.dead_letters()[0].id)).out.count("[/b]") == 4


def test_one_is_shown_whole(platform: Platform) -> None:
    keep(args=[{"app": "openchat", "id": "[bold]"}])
    number = platform.dead_letters()[0].id
    out = letters(platform, "show", str(number)).out
    assert "attachments.process" in out
    assert '"id": "[bold]"' in out


def test_they_are_dropped_by_number_and_by_task(platform: Platform) -> None:
    for task in ("a.task", "a.task", "b.task", "b.task"):
        keep(task)
    first = platform.dead_letters()[0].id
    assert letters(platform, "drop", str(first)).out == "1 dropped.\n"
    assert letters(platform, "drop", "--task", "b.task").out == "2 dropped.\n"
    assert [letter.task for letter in platform.dead_letters()] == ["a.task"]


@pytest.mark.parametrize("act", ["retry", "drop"])
def test_one_must_say_which(platform: Platform, act: str, snapshot: SnapshotAssertion) -> None:
    keep()
    number = str(platform.dead_letters()[0].id)
    for arguments in ([], [number, "--task", "attachments.process"]):
        assert refused(letters(platform, act, *arguments)) == snapshot(name="which")
    assert refused(letters(platform, act, number, "999999"), "999999") == snapshot(name="absent")
    assert len(platform.dead_letters()) == 1


def test_they_are_sent_again_and_forgotten(platform: Platform) -> None:
    row_id = platform.openchat_attachment(b"late\n", "a.txt")
    dead_letters.keep(
        task="attachments.process",
        task_id="7",
        payload={"args": [{"app": "openchat", "id": str(row_id)}], "kwargs": {}},
        reason="the database was away",
    )
    assert letters(platform, "retry", str(platform.dead_letters()[0].id)).out == "1 sent again.\n"
    assert platform.dead_letters() == []
    platform.worker()
    assert platform.finished(row_id).outcome == "accepted"


def test_what_cannot_be_sent_again_stays_and_holds_nobody_up(
    platform: Platform, snapshot: SnapshotAssertion
) -> None:
    keep("attachments.process", cut="…")
    row_id = platform.openchat_attachment(b"late\n", "a.txt")
    keep("attachments.process", args=[{"app": "openchat", "id": str(row_id)}], kwargs={})
    outcome = letters(platform, "retry", "--task", "attachments.process")
    assert (outcome.code, outcome.out) == (1, "1 sent again.\n")
    (left,) = platform.dead_letters()
    assert outcome.err.startswith(f"{left.id} ")
    assert re.sub(rf"\b{left.id}\b", "<id>", outcome.err) == snapshot


def test_a_task_that_is_no_more_cannot_be_sent(platform: Platform) -> None:
    keep("no.such.task")
    outcome = letters(platform, "retry", "--task", "no.such.task")
    assert (outcome.code, outcome.out) == (1, "0 sent again.\n")
    assert len(platform.dead_letters()) == 1


def test_while_the_broker_is_away_nothing_is_forgotten(platform: Platform, valkey: ValkeyServer) -> None:
    keep(args=[{"app": "openchat", "id": str(uuid4())}])
    valkey.stop()
    try:
        with environment(dict(platform.environment)):
            outcome = letters(platform, "retry", "--task", "attachments.process")
    finally:
        valkey.start()
    assert outcome.code == 1
    assert "broker" in outcome.err
    assert len(eventually(platform.dead_letters)) == 1
