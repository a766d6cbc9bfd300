"""`delivery.record` and `delivery.drain`: what waits, for how long, and that nothing is lost or doubled."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
from pydantic import ValidationError
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

# Modules, not tasks: pytest looks at what it finds here before there are settings.
from tasks.delivery import drain as drains
from tasks.delivery import inbox
from tasks.delivery import record as records
from tasks.delivery.events import MAX_EVENTS, RecordStatus, dumped
from tasks.delivery.merge import merge
from tests.delivery.people import Pern, at, event
from tests.platform import Platform, ago, environment, eventually
from workers.settings import load

WORLD = Pern()


@pytest.fixture
def room(platform: Platform) -> tuple[list[UUID], list[UUID]]:
    """Two people, and three messages of the first."""
    with platform.engine.begin() as connection:
        people = WORLD.people(connection, 2)
        return people, WORLD.messages(connection, people[0], 3)


def payload(*events: Any, app: str = "pern") -> RecordStatus:
    return RecordStatus(app=app, events=list(events))


def rows(platform: Platform, *messages: UUID) -> Any:
    with platform.engine.begin() as connection:
        return WORLD.rows(connection, messages)


def waiting(platform: Platform) -> list[Any]:
    """Return all rows of the inbox."""
    return list(platform.sql("SELECT * FROM roomkeeper.status_inbox ORDER BY id"))


def put(platform: Platform, *events: Any, app: str = "pern", received_at: datetime | None = None) -> None:
    """Put events into the inbox as `record_status` does."""
    platform.sql(
        "INSERT INTO roomkeeper.status_inbox (app, events, received_at)"
        " VALUES (:app, CAST(:events AS jsonb), coalesce(:received_at, now()))",
        app=app,
        events=json.dumps(dumped(events)),
        received_at=received_at,
    )


def due_now(platform: Platform) -> None:
    platform.sql("UPDATE roomkeeper.status_inbox SET due_at = now()")


def test_what_is_there_is_recorded(platform: Platform, room: Any) -> None:
    (_, bob), messages = room
    assert records.record(payload(*(event(message, bob, "read", 1) for message in messages))) == "3 recorded"
    assert rows(platform, *messages) == {(message, bob): ("read", at(1), at(1)) for message in messages}
    assert waiting(platform) == []


def test_what_is_not_there_yet_waits_and_does_not_hold_up_the_rest(platform: Platform, room: Any) -> None:
    (ada, bob), (first, *_) = room
    late = uuid4()
    events = [event(late, bob, "delivered", 1), event(first, bob, "read", 2), event(late, bob, "read", 3)]
    assert records.record(payload(*events)) == "1 recorded, 2 wait"
    (row,) = waiting(platform)
    assert (row.app, row.events) == ("pern", dumped([events[0], events[2]]))
    assert 0.5 < (row.due_at - row.received_at).total_seconds() < 1.5
    assert rows(platform, first).keys() == {(first, bob)}
    # Not before its time.
    drains.drain()
    assert len(waiting(platform)) == 1
    with platform.engine.begin() as connection:
        WORLD.add(connection, ada, [late])
    due_now(platform)
    drains.drain()
    assert waiting(platform) == []
    assert rows(platform, late) == {(late, bob): ("read", at(1), at(3))}
    assert platform.dead_letters() == []


@pytest.mark.parametrize(("age", "pause"), [(1, 1), (10, 5), (200, 30)])
def test_pauses_are_half_of_the_age(platform: Platform, room: Any, age: float, pause: float) -> None:
    (_, bob), _ = room
    put(platform, event(uuid4(), bob, "read", 1), received_at=ago(age))
    drains.drain()
    (row,) = waiting(platform)
    assert abs((row.due_at - datetime.now(UTC)).total_seconds() - pause) < 2
    # It is as old as it was.
    assert abs((datetime.now(UTC) - row.received_at).total_seconds() - age) < 2


@pytest.mark.parametrize(("age", "over"), [(295, False), (301, True)])
def test_what_never_comes_is_a_dead_letter_at_last(
    platform: Platform, room: Any, age: float, over: bool
) -> None:
    (_, bob), (first, *_) = room
    lost = event(uuid4(), bob, "read", 1)
    put(platform, lost, event(first, bob, "read", 2), received_at=ago(age))
    drains.drain()
    assert rows(platform, first).keys() == {(first, bob)}
    letters = platform.dead_letters()
    assert len(waiting(platform)) == (not over)
    assert len(letters) == over
    if over:
        (letter,) = letters
        assert letter.task == "delivery.record"
        assert letter.payload == {"args": [{"app": "pern", "events": dumped([lost])}], "kwargs": {}}
        assert letter.reason.startswith("message or user not there after 30")


def test_how_long_one_waits_is_a_setting(platform: Platform, room: Any) -> None:
    (_, bob), _ = room
    platform.set(delivery_wait_seconds=5)
    put(platform, event(uuid4(), bob, "read", 1), received_at=ago(6))
    with_settings(platform, drains.drain)
    assert waiting(platform) == []
    assert len(platform.dead_letters()) == 1


def with_settings(platform: Platform, run: Callable[[], object]) -> None:
    with environment(dict(platform.environment)):
        run()


def test_a_thousand_dead_events_can_be_sent_again(platform: Platform, room: Any) -> None:
    (_, bob), _ = room
    put(platform, *(event(uuid4(), bob, "read", 1) for _ in range(MAX_EVENTS)), received_at=ago(400))
    drains.drain()
    (letter,) = platform.dead_letters()
    assert len(RecordStatus.model_validate(letter.payload["args"][0]).events) == MAX_EVENTS


def test_the_inbox_is_drained_to_its_end_and_once(platform: Platform, room: Any) -> None:
    (_, bob), messages = room
    for number in range(inbox.ROWS + 1):
        put(platform, event(messages[number % 3], bob, "read", number))
    drains.drain()
    assert waiting(platform) == []
    assert rows(platform, *messages) == {
        (message, bob): ("read", at(number), at(number)) for number, message in enumerate(messages)
    }
    (run,) = platform.sql("SELECT * FROM roomkeeper.job_runs WHERE job = 'delivery.drain'")
    assert (run.rows, run.outcome) == (inbox.ROWS + 1, "done")
    # And one that has nothing to do leaves no trace.
    drains.drain()
    assert len(platform.sql("SELECT * FROM roomkeeper.job_runs WHERE job = 'delivery.drain'")) == 1


def test_what_fails_midway_is_still_there(
    platform: Platform, room: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Merged and taken out in one transaction: a crash in between undoes both."""
    (_, bob), (first, *_) = room
    put(platform, event(first, bob, "read", 1))

    def crash(*arguments: Any) -> Any:
        merge(*arguments)
        raise RuntimeError

    monkeypatch.setattr(drains, "merge", crash)
    with pytest.raises(RuntimeError):
        drains.drain()
    assert len(waiting(platform)) == 1
    assert rows(platform, first) == {}
    monkeypatch.undo()


def test_what_a_failed_run_had_merged_is_told(
    platform: Platform, room: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (_, bob), messages = room
    for message in messages:
        put(platform, event(message, bob, "read", 1))

    def crash(connection: Any, table: Any, some: Any) -> Any:
        if some[0].message_id == messages[2]:
            raise RuntimeError
        return merge(connection, table, some)

    monkeypatch.setattr(drains, "merge", crash)
    monkeypatch.setattr(inbox, "ROWS", 1)
    with pytest.raises(RuntimeError):
        drains.drain()
    (run,) = platform.sql("SELECT * FROM roomkeeper.job_runs WHERE job = 'delivery.drain'")
    assert (run.outcome, run.rows) == ("failed", 2)


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT '300'::smallint * 300::smallint",
        "DO $$ BEGIN RAISE EXCEPTION 'by a trigger of the application'; END $$",
        "SELECT * FROM pern.no_such_table",
        "INSERT INTO pern.message_statuses SELECT (jsonb_populate_record(s, '{\"status\": null}')).* FROM"
        " (SELECT NULL::pern.message_statuses AS s)",
    ],
)
def test_one_bad_row_does_not_hold_up_the_others(
    platform: Platform, room: Any, monkeypatch: pytest.MonkeyPatch, statement: str
) -> None:
    (_, bob), (first, second, third) = room
    for message in (first, second, third):
        put(platform, event(message, bob, "read", 1))

    def fails(connection: Any, table: Any, events: Any) -> Any:
        if any(one.message_id == second for one in events):
            connection.execute(text(statement))
        return merge(connection, table, events)

    monkeypatch.setattr(drains, "merge", fails)
    for _ in range(2):
        drains.drain()
    assert rows(platform, first, second, third).keys() == {(first, bob), (third, bob)}
    (row,) = waiting(platform)
    assert row.events[0]["message_id"] == str(second)
    assert row.due_at > datetime.now(UTC)
    platform.sql("UPDATE roomkeeper.status_inbox SET due_at = now(), received_at = now() - interval '1 hour'")
    drains.drain()
    (letter,) = platform.dead_letters()
    assert letter.payload["args"][0]["events"][0]["message_id"] == str(second)
    assert letter.reason.startswith("not merged, ")
    assert waiting(platform) == []


def test_what_takes_too_long_is_merged_in_smaller_portions(
    platform: Platform, room: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (_, bob), messages = room
    lost = uuid4()
    events = [event(message, bob, "read", 1) for message in (*messages, lost)]

    def slow(connection: Any, table: Any, some: Any) -> Any:
        # As when a conversation is large: not more than two at once, and one not at all.
        if len(some) > 2 or any(one.message_id == lost for one in some):
            connection.execute(text("SET LOCAL statement_timeout = '10ms'"))
            connection.execute(text("SELECT pg_sleep(10)"))
        return merge(connection, table, some)

    for module in (drains, records):
        monkeypatch.setattr(module, "merge", slow)
    assert records.record(payload(*events)) == "4 wait"
    for _ in range(3):
        drains.drain()
    assert rows(platform, *messages).keys() == {(message, bob) for message in messages}
    (row,) = waiting(platform)
    assert row.events == dumped(events[3:])
    assert row.due_at > datetime.now(UTC)
    platform.sql("UPDATE roomkeeper.status_inbox SET due_at = now(), received_at = now() - interval '1 hour'")
    drains.drain()
    (letter,) = platform.dead_letters()
    assert letter.reason == "not merged, QueryCanceled, after 3600 s"


def test_a_message_that_goes_away_in_this_moment_is_looked_for_again(
    platform: Platform, room: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (_, bob), (first, *_) = room
    real, calls = merge, []

    def failing_merge(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) < 3:
            raise IntegrityError("statement", {}, Exception("foreign key"))
        return real(*arguments)

    for module in (drains, records):
        monkeypatch.setattr(module, "merge", failing_merge)
    assert records.record(payload(event(first, bob, "read", 1))) == "1 wait"
    drains.drain()
    assert len(waiting(platform)) == 1
    due_now(platform)
    drains.drain()
    assert waiting(platform) == []
    assert rows(platform, first).keys() == {(first, bob)}
    assert platform.dead_letters() == []


def test_rows_that_are_locked_do_not_hold_up_the_others(platform: Platform, room: Any) -> None:
    (_, bob), (first, second, _) = room
    records.record(payload(event(first, bob, "delivered", 1)))
    for message in (first, second):
        put(platform, event(message, bob, "read", 2))
    platform.set(lock_timeout_ms=200)
    with platform.engine.begin() as holder:
        holder.execute(text("SELECT * FROM pern.message_statuses FOR UPDATE")).all()
        with_settings(platform, drains.drain)
    assert rows(platform, second).keys() == {(second, bob)}
    (row,) = waiting(platform)
    assert row.events[0]["message_id"] == str(first)


def test_rows_of_the_inbox_that_are_locked_do_not_hold_up_the_others(platform: Platform, room: Any) -> None:
    (_, bob), (first, second, _) = room
    for message in (first, second):
        put(platform, event(message, bob, "read", 2))
    platform.set(lock_timeout_ms=200)
    with platform.engine.begin() as holder:
        holder.execute(text("SELECT FROM roomkeeper.status_inbox ORDER BY id LIMIT 1 FOR UPDATE")).all()
        with_settings(platform, drains.drain)
        assert rows(platform, first, second).keys() == {(second, bob)}
    with_settings(platform, drains.drain)
    assert rows(platform, first, second).keys() == {(first, bob), (second, bob)}


def test_a_run_has_time_for_smaller_portions_after_a_statement_that_is_too_slow() -> None:
    """With the times as they are, and for three applications."""
    assert 3 * drains.STATEMENT_SECONDS < drains.RUN_SECONDS
    assert (
        load({"DATABASE_URL": "postgresql://"}).task_soft_limit_seconds
        > drains.RUN_SECONDS + 4 * drains.STATEMENT_SECONDS
    )


def test_after_a_failure_one_row_is_tried_whatever_the_time(
    platform: Platform, room: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (_, bob), (first, second, _) = room
    for message in (first, second):
        put(platform, event(message, bob, "read", 1))

    def slow(connection: Any, table: Any, some: Any) -> Any:
        if len(some) > 1:
            connection.execute(text("SELECT pg_sleep(10)"))
        return merge(connection, table, some)

    monkeypatch.setattr(drains, "merge", slow)
    monkeypatch.setattr(drains, "STATEMENT_SECONDS", 0.2)
    monkeypatch.setattr(drains, "RUN_SECONDS", 0.1)
    for _ in range(2):
        drains.drain()
    assert waiting(platform) == []


def test_a_batch_ends_after_so_many_bytes(
    platform: Platform, room: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (_, bob), messages = room
    for message in messages:
        put(platform, event(message, bob, "read", 1))
    sizes: list[int] = []

    def counted(connection: Any, table: Any, some: Any) -> Any:
        sizes.append(len(some))
        return merge(connection, table, some)

    monkeypatch.setattr(drains, "merge", counted)
    monkeypatch.setattr(inbox, "BYTES", 1)
    drains.drain()
    assert sizes == [1, 1, 1]


def test_what_cannot_be_merged_at_once_waits_where_its_application_is_not_enabled(
    platform: Platform, room: Any
) -> None:
    (_, bob), (first, *_) = room
    platform.set(apps="openchat")
    with_settings(platform, lambda: records.record(payload(event(first, bob, "read", 1))))
    assert rows(platform, first) == {}
    assert len(waiting(platform)) == 1


@pytest.mark.parametrize("events", ["5", "null", '{"a": 1}', "{}", "[]", '[{"status": "eaten"}]'])
def test_rows_that_nobody_could_have_put_there_are_dead_letters(
    platform: Platform, room: Any, events: str
) -> None:
    (_, bob), (first, *_) = room
    platform.sql(
        "INSERT INTO roomkeeper.status_inbox (app, events) VALUES ('pern', CAST(:events AS jsonb))",
        events=events,
    )
    put(platform, event(first, bob, "read", 1))
    drains.drain()
    assert waiting(platform) == []
    assert rows(platform, first).keys() == {(first, bob)}
    letters = platform.dead_letters()
    assert len(letters) == (events != "[]")
    if "eaten" in events:
        assert "0.status: Input should be 'sent', 'delivered', 'read' or 'failed'" in letters[0].reason


def test_rows_of_an_application_that_is_not_enabled_wait(platform: Platform, room: Any) -> None:
    (_, bob), (first, *_) = room
    put(platform, event(first, bob, "read", 1))
    platform.set(apps="openchat")
    with_settings(platform, drains.drain)
    assert len(waiting(platform)) == 1


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no events": ({"events": []}, "events"),
    "too many": ({"events": [event(uuid4(), uuid4(), "read", 1)] * (MAX_EVENTS + 1)}, "events"),
    "no such app": ({"app": "audiorooms"}, "app"),
    "more fields": ({"more": 1}, "more"),
    "no id": ({"message_id": "1"}, "events.0.message_id"),
    "no status": ({"status": "reacted"}, "events.0.status"),
    "no offset": ({"at": "2026-03-01T10:00:00"}, "events.0.at"),
    "no time": ({"at": "yesterday"}, "events.0.at"),
    "no such year": ({"at": "0000-01-01T00:00:00Z"}, "events.0.at"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_payload_that_is_wrong_is_refused_by_field(case: str) -> None:
    change, field = BAD[case]
    one = {
        "message_id": str(uuid4()),
        "user_id": str(uuid4()),
        "status": "read",
        "at": "2026-03-01T10:00:00+01:00",
    }
    body: dict[str, Any] = {"app": "pern", "events": [one]}
    (name,) = change
    (one if name in one else body).update(change)
    with pytest.raises(ValidationError) as caught:
        RecordStatus.model_validate(body)
    (fault,) = caught.value.errors()
    assert ".".join(map(str, fault["loc"])) == field


@pytest.mark.parametrize(
    ("moment", "at"),
    [
        ("0001-01-01T00:00:00Z", datetime.min.replace(tzinfo=UTC)),
        ("0001-01-01T00:00:00+14:00", datetime.min.replace(tzinfo=UTC)),
        ("1970-01-01T00:00:00Z", datetime(1970, 1, 1, tzinfo=UTC)),
        ("9999-12-31T23:59:59.999999Z", datetime.max.replace(tzinfo=UTC)),
        ("9999-12-31T23:59:59-14:00", datetime.max.replace(tzinfo=UTC)),
    ],
)
def test_any_moment_is_taken(moment: str, at: datetime) -> None:
    body = {"message_id": str(uuid4()), "user_id": str(uuid4()), "status": "read", "at": moment}
    (event,) = RecordStatus.model_validate({"app": "pern", "events": [body]}).events
    assert event.at == at


def test_end_to_end_a_status_overtakes_its_message(platform: Platform, room: Any) -> None:
    """A real worker is told that a message was read before the message's own transaction has committed."""
    (ada, bob), _ = room
    late = uuid4()
    platform.worker("delivery")
    with platform.engine.begin() as connection:
        WORLD.add(connection, ada, [late])
        platform.send(
            "delivery.record",
            {"app": "pern", "events": dumped([event(late, bob, "read", 1)])},
            queue="delivery",
        )
        eventually(lambda: waiting(platform), what="the event waits")
    platform.send("delivery.record", {"app": "pern", "events": [{"status": "eaten"}]}, queue="delivery")
    due_now(platform)
    platform.send("delivery.drain", queue="delivery-periodic")
    eventually(lambda: rows(platform, late), what="the event is recorded")
    assert waiting(platform) == []
    (letter,) = eventually(platform.dead_letters)
    assert "events.0.message_id" in letter.reason
