"""What programs and commands leave of the database's errors, where an application's triggers cause them."""

import threading
from typing import Any

import pytest
from celery import Celery

from models.echoroom import ChatSession, TypingIndicator, User
from models.platform import SCHEMA
from tests.platform import Platform, Program, ago, eventually
from tests.sweeps.sweeping import add

pytestmark = pytest.mark.system

SECRET = "meet-me@midnight"
#: What a trigger does with a row's value, by the end of the row's name: each fails on the value.
FAILURES = {
    "unique": "INSERT INTO public.seen SELECT NEW_NAME FROM generate_series(1, 2);",
    "check": "INSERT INTO public.checked VALUES (NEW_NAME);",
    "uuid": "PERFORM CAST(NEW_NAME AS uuid);",
    "json": "PERFORM * FROM json_to_record(json_build_object('a', NEW_NAME)) x(a int);",
    "raise": "RAISE EXCEPTION 'not %', NEW_NAME USING DETAIL = NEW_NAME, HINT = NEW_NAME;",
}


def fail_on(platform: Platform, table: str, column: str, event: str, row: str = "NEW") -> None:
    """Let every change of a row fail on the value of a column, in the way that the value names."""
    name = f"{row}.{column}"
    branches = "".join(
        f"IF {name} LIKE '%{kind}' THEN {statement.replace('NEW_NAME', name)} END IF;"
        for kind, statement in FAILURES.items()
    )
    function = table.replace(".", "_")
    platform.sql("CREATE TABLE IF NOT EXISTS public.seen (name text PRIMARY KEY)")
    platform.sql("CREATE TABLE IF NOT EXISTS public.checked (name text CHECK (name !~ 'midnight'))")
    platform.sql(
        f"CREATE FUNCTION public.{function}() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN {branches} RETURN {row}; END $$".replace(":", "\\:")
    )
    platform.sql(
        f"CREATE TRIGGER fail BEFORE {event} ON {table} FOR EACH ROW EXECUTE FUNCTION public.{function}()"
    )


def ended(program: Program) -> str:
    """Wait for the end of a command; return what it printed."""
    program.process.wait(60)
    return program.output()


def stored(platform: Platform) -> dict[str, str]:
    """Return all that is in our tables, and what the application reads of errors."""
    tables = platform.sql("SELECT relname FROM pg_stat_user_tables WHERE schemaname = :schema", schema=SCHEMA)
    found = {
        table.relname: str(platform.sql(f'SELECT to_jsonb(t) FROM {SCHEMA}."{table.relname}" t'))
        for table in tables
    }
    columns = platform.sql("SELECT processing_error, scan_result, scan_details FROM openchat.attachment")
    return found | {"openchat.attachment": str(columns)}


def test_no_program_or_command_repeats_a_value_of_a_row(platform: Platform) -> None:
    platform.set(worker_processes=1)
    fail_on(platform, "openchat.attachment", "original_filename", "UPDATE")
    fail_on(platform, "echoroom.typing_indicators", "username", "DELETE", "OLD")
    room = add(platform, ChatSession, category="Calm")
    for kind in FAILURES:
        user = add(platform, User, username="Ada")
        values = {"session_id": room, "user_id": user, "expires_at": ago(60)}
        add(platform, TypingIndicator, username=f"{SECRET} {kind}", **values)
    events: list[Any] = []
    with Celery(
        "listener", broker=platform.environment["ROOMKEEPER_BROKER_URL"], set_as_current=False
    ) as app:
        connection = app.connection()
        receiver = app.events.Receiver(connection, handlers={"task-failed": events.append})
        listening = threading.Thread(target=receiver.capture, kwargs={"limit": None}, daemon=True)
        listening.start()
        worker = platform.worker()
        ids = {
            kind: platform.openchat_attachment(b"Milk", original_filename=f"{SECRET} {kind}")
            for kind in FAILURES
        }
        for one in ids.values():
            platform.enqueue("openchat", one)
        eventually(lambda: len(platform.dead_letters()) == len(FAILURES), what="each has failed")
        eventually(lambda: len(events) == len(FAILURES), what="Flower has heard of each")
        receiver.should_stop = True
        listening.join(10)
        connection.release()
    printed = {
        "worker": worker.output(),
        "run": ended(platform.start("run", "echoroom.typing")),
        "events": str(events),
        **{
            kind: ended(platform.start("attachments", "retry", "openchat", str(one), "--reason", "why not"))
            for kind, one in ids.items()
            if kind in {"unique", "uuid"}
        },
    }
    assert {name for name, text in printed.items() if SECRET in text} == set()
    assert {name for name, text in stored(platform).items() if SECRET in text} == set()
    # They have failed, and say by what.
    reasons = " ".join(letter.reason for letter in platform.dead_letters())
    for name in ("UniqueViolation", "CheckViolation", "InvalidTextRepresentation", "RaiseException"):
        assert name in reasons
        assert name in printed["worker"]
        assert name in printed["events"]
    assert "5 rows are due still" in printed["run"]
