"""Dead letters: what was refused or failed for good is kept with the reason; its content stays there."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery
from structlog.testing import capture_logs

from tests.platform import Platform, environment, eventually
from workers import dead_letters

#: What a user wrote: it may stand in the dead letters and nowhere else.
SECRET = "meet-me-at-midnight"
UNKNOWN_ID = "a2f3dd1e-7f2b-4c63-9d0e-1f0ad8f6b9aa"


@contextmanager
def events(platform: Platform) -> Iterator[list[dict[str, Any]]]:
    """Collect the events that workers send, as Flower gets them."""
    heard: list[dict[str, Any]] = []
    over = threading.Event()
    listening = threading.Event()
    with Celery("ear", broker=platform.environment["ROOMKEEPER_BROKER_URL"], set_as_current=False) as client:

        def hear() -> None:
            with client.connection_for_read() as connection:
                receiver = client.events.Receiver(connection, handlers={"*": heard.append})
                # One subscription for all of the time: what is sent in between two would be missed.
                with receiver.consumer_context(wakeup=False) as (subscribed, _channel, _consumers):
                    listening.set()
                    while not over.is_set():
                        with suppress(TimeoutError):
                            subscribed.drain_events(timeout=0.5)

        thread = threading.Thread(target=hear, daemon=True)
        thread.start()
        listening.wait(10)
        try:
            yield heard
        finally:
            over.set()
            thread.join(10)


def letters(platform: Platform) -> dict[str, str]:
    """Return the reason of each dead letter by its task's id."""
    return {letter.task_id: letter.reason for letter in platform.collected()}


def test_a_malformed_message_is_kept_with_the_reason_and_the_worker_goes_on(platform: Platform) -> None:
    good = {"app": "openchat", "id": UNKNOWN_ID}
    # Longer than the sixty of `eventually` would be by default.
    platform.set(worker_processes=4, row_wait_seconds=12)
    worker = platform.worker()
    with events(platform) as heard:
        late_id, never = uuid4(), platform.send("attachments.process", good)
        late = platform.send("attachments.process", {"app": "openchat", "id": str(late_id)})
        application = "app: must be an application with attachments: openchat, pern"
        bad: list[tuple[str, list[Any], dict[str, Any]]] = [
            (application, [good | {"app": SECRET}], {}),
            (application, [good | {"app": "echoroom"}], {}),
            ("id: Input should be a valid UUID", [good | {"id": SECRET}], {}),
            ("id: Field required", [{"app": "openchat"}], {}),
            ("content: Extra inputs are not permitted", [good | {"content": SECRET}], {}),
            ("TypeError: too many positional arguments", [good, SECRET], {}),
            ("TypeError: missing a required argument: 'request'", [], {}),
            ("TypeError: missing a required argument: 'request'", [], {"kwargs": good}),
            ("payload: Input should be a valid dictionary", [SECRET], {}),
            ("payload: Input should be a valid dictionary", [None], {}),
            ("payload: Input should be a valid dictionary", [[SECRET]], {}),
        ]
        refused = {
            platform.send("attachments.process", *arguments, **options): reason
            for reason, arguments, options in bad
        }
        eventually(lambda: f"{late}] retry" in worker.output(), what="the row that is not there is awaited")
        platform.openchat_attachment(b"Milk\n", "notes.txt", "text/plain", id=late_id)
        assert platform.finished(late_id).outcome == "accepted"

        row_id = platform.openchat_attachment(b"Bread\n", "notes.txt", "text/plain")
        platform.enqueue("openchat", row_id)
        assert platform.finished(row_id).outcome == "accepted"
        eventually(lambda: len(letters(platform)) >= len(refused) + 1, what="every letter is kept")
        eventually(
            lambda: any(event.get("uuid") == never and event["type"] == "task-failed" for event in heard)
        )

    kept = letters(platform)
    for task_id, reason in refused.items():
        assert kept.pop(task_id).startswith(reason)
    unknown = f"UnknownAttachmentError: openchat has no attachment {UNKNOWN_ID}; none appeared within 12 s: "
    assert kept.keys() == {never}
    assert kept[never].startswith(unknown)
    assert worker.process.poll() is None
    # Content is where it may be looked up, and nowhere else.
    assert SECRET in str(platform.dead_letters())
    assert SECRET not in worker.output()
    assert {event["type"] for event in heard} >= {"task-received", "task-failed", "task-retried"}

    assert not [event for event in heard if SECRET in str(event)]


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("a\0b", "a�b"),
        # The same letters, but no NUL.
        (r"a\u0000b", r"a\u0000b"),
        ("a\\\0b", "a\\�b"),
        ("half \ud83d of a character", "half ? of a character"),
        ("whole 😀", "whole 😀"),
    ],
)
def test_text_that_the_database_does_not_take_is_kept_all_the_same(
    platform: Platform, text: str, stored: str
) -> None:
    assert dead_letters.keep(task=text, task_id=text, payload={text: [text]}, reason=text)
    [letter] = platform.dead_letters()
    assert letter.payload == {stored: [stored]}
    assert (letter.task, letter.task_id, letter.reason) == (stored,) * 3


def test_numbers_that_are_none_are_kept_as_text(platform: Platform) -> None:
    dead_letters.keep(task="t", task_id="1", payload={"n": [float("nan"), float("-inf"), 1.5]}, reason="r")
    assert platform.dead_letters()[0].payload == {"n": ["NaN", "-Infinity", 1.5]}


def test_a_huge_letter_is_cut(platform: Platform) -> None:
    huge = "\0😀" * dead_letters.MAX_PAYLOAD_CHARS
    dead_letters.keep(task="t", task_id="1", payload={"args": [huge]}, reason=huge)
    [letter] = platform.dead_letters()
    assert len(letter.payload["cut"]) == dead_letters.MAX_PAYLOAD_CHARS
    assert len(letter.reason) == dead_letters.MAX_REASON_CHARS


def test_a_letter_at_the_limit_is_whole(platform: Platform) -> None:
    args = ["x" * (dead_letters.MAX_PAYLOAD_CHARS - len('{"args": [""]}'))]
    dead_letters.keep(task="t", task_id="1", payload={"args": args}, reason="r")
    assert platform.dead_letters()[0].payload == {"args": args}


def test_a_bottomless_letter_is_kept_without_its_payload(platform: Platform) -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    dead_letters.keep(task="t", task_id="1", payload={"args": deep}, reason="r")
    assert platform.dead_letters()[0].payload == {"cut": "nested too deeply"}
    while deep:
        deep = deep.pop()


def test_a_letter_that_cannot_be_written_leaves_a_line_without_its_content(platform: Platform) -> None:
    with environment({"DATABASE_URL": "postgresql://roomkeeper@127.0.0.1:1/none"}), capture_logs() as logs:
        kept = dead_letters.keep(task="t", task_id="7", payload={"args": [SECRET]}, reason="r")
    assert not kept
    assert logs == [
        {
            "event": "dead_letter.not_stored",
            "log_level": "error",
            "task": "t",
            "task_id": "7",
            "reason": "r",
            "error": "OperationalError",
        }
    ]
