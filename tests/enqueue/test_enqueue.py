"""`roomkeeper.enqueue`: in the caller's transaction or not at all; what is wrong is said to the caller."""

import json
from collections.abc import Callable
from typing import Any, get_args
from uuid import UUID, uuid4

import psycopg
import pytest
from alembic import command
from alembic.config import Config
from psycopg.types.json import Jsonb
from pydantic import BaseModel
from sqlalchemy import select

from models.platform import SqlTask
from tasks.analytics.payload import RecomputeRoom
from tasks.attachments.payload import WITH_ATTACHMENTS, ProcessAttachment
from tasks.delivery.events import WITH_STATUSES, Event, RecordStatus
from tasks.delivery.payload import WITH_COUNTERS, RecountConversation
from tests.enqueue.conftest import url_of
from tests.platform import Platform
from workers import migrate

Service = psycopg.Connection[tuple[Any, ...]]

GOOD: dict[str, Any] = {"app": "pern", "id": "0b0f7a1e-2f0c-4c6e-9f0a-8d9a1b2c3d4e"}
ROOM = {"app": "audiorooms", "room": "ABC123"}
TASKS = "The tasks are: analytics.room, attachments.process, delivery.recount."
FIELDS = "The fields of attachments.process are: app, id."
APPS = "Allowed: openchat, pern."
ROOMS = "A code is six capital letters and digits, like ABC123."
SHAPE = "A UUID looks like 123e4567-e89b-42d3-a456-426614174000."

#: What is handed over, and what is said of it: the message, and the hint.
WRONG: list[tuple[str | None, Any, str, str]] = [
    (None, GOOD, "task: must not be NULL", TASKS),
    ("attachments.proces", GOOD, "task: none is called 'attachments.proces'", TASKS),
    ("", GOOD, "task: none is called ''", TASKS),
    ("x" * 200, GOOD, f"task: none is called '{'x' * 100}'", TASKS),
    ("attachments.recover", GOOD, "task: none is called 'attachments.recover'", TASKS),
    (
        "delivery.record",
        GOOD,
        "task: delivery.record is not enqueued",
        "Call roomkeeper.record_status(app, events).",
    ),
    ("attachments.process", None, "payload: must not be NULL", FIELDS),
    ("attachments.process", "null", "payload: not an object, but null", FIELDS),
    ("attachments.process", "true", "payload: not an object, but a boolean", FIELDS),
    ("attachments.process", "5", "payload: not an object, but a number", FIELDS),
    ("attachments.process", '"häh"', "payload: not an object, but a string of 3 characters", FIELDS),
    ("attachments.process", [GOOD], "payload: not an object, but an array of 1 elements", FIELDS),
    ("attachments.process", {}, "payload.app: missing", FIELDS),
    ("attachments.process", {"app": "pern"}, "payload.id: missing", FIELDS),
    ("attachments.process", GOOD | {"size": 5}, "payload.size: no such field", FIELDS),
    ("attachments.process", GOOD | {"b": 1, "a": 1, "B": 1}, "payload.B: no such field", FIELDS),
    ("attachments.process", GOOD | {"k" * 300: 1}, f"payload.{'k' * 100}: no such field", FIELDS),
    *(
        (
            "attachments.process",
            GOOD | {"app": value},
            f"payload.app: not an application of attachments.process, but {shape}",
            APPS,
        )
        for value, shape in (
            ("connect", "a string of 7 characters"),
            ("Pern", "a string of 4 characters"),
            ("", "a string of 0 characters"),
            (None, "null"),
            (["pern"], "an array of 1 elements"),
            ({"pern": 1}, "an object"),
        )
    ),
    *(
        ("attachments.process", GOOD | {"id": value}, f"payload.id: not a UUID, but {shape}", SHAPE)
        for value, shape in (
            (7, "a number"),
            (False, "a boolean"),
            (None, "null"),
            ([GOOD["id"]], "an array of 1 elements"),
            ({"id": GOOD["id"]}, "an object"),
            ("", "a string of 0 characters"),
            (GOOD["id"][:-1], "a string of 35 characters"),
            (GOOD["id"] + "0", "a string of 37 characters"),
            (GOOD["id"] + "\n", "a string of 37 characters"),
            (GOOD["id"].replace("0", "g"), "a string of 36 characters"),
            (GOOD["id"].replace("-", "0"), "a string of 36 characters"),
            # Hyphens where there must be none, and all the others where they must be.
            (GOOD["id"].replace("7", "-"), "a string of 36 characters"),
            ("{" + GOOD["id"][1:-1] + "}", "a string of 36 characters"),
            (UUID(GOOD["id"]).hex, "a string of 32 characters"),
        )
    ),
    ("analytics.room", {}, "payload.app: missing", "The fields of analytics.room are: app, room."),
    (
        "delivery.recount",
        {"app": "pern", "conversation_id": GOOD["id"]},
        "payload.app: not an application of delivery.recount, but a string of 4 characters",
        "Allowed: openchat.",
    ),
    (
        "analytics.room",
        GOOD | ROOM,
        "payload.id: no such field",
        "The fields of analytics.room are: app, room.",
    ),
    (
        "analytics.room",
        ROOM | {"app": "echoroom"},
        "payload.app: not an application of analytics.room, but a string of 8 characters",
        "Allowed: audiorooms.",
    ),
    *(
        (
            "analytics.room",
            ROOM | {"room": value},
            f"payload.room: neither a UUID nor a code, but {shape}",
            ROOMS,
        )
        for value, shape in (
            ("abc123", "a string of 6 characters"),
            ("ABC12", "a string of 5 characters"),
            ("ABC1234", "a string of 7 characters"),
            ("ABC12\n", "a string of 6 characters"),
            ("ABC123\n", "a string of 7 characters"),
            ("ÄBC123", "a string of 6 characters"),
            ("", "a string of 0 characters"),
            # As a text it would be one.
            (123456, "a number"),
            (True, "a boolean"),
            (None, "null"),
            (["ABC123"], "an array of 1 elements"),
            ({"code": "ABC123"}, "an object"),
            (GOOD["id"][:-1], "a string of 35 characters"),
            (UUID(GOOD["id"]).hex, "a string of 32 characters"),
        )
    ),
]


def enqueue(service: Service, task: str | None, payload: Any) -> Any:
    """Call the function; return what it returns. A text is JSON as it stands."""
    given = payload if payload is None or isinstance(payload, str) else json.dumps(payload)
    (made,) = service.execute("SELECT roomkeeper.enqueue(%s, %s)", (task, given)).fetchone() or (None,)
    return made


def outbox(service: Service) -> list[tuple[Any, ...]]:
    columns = "task_id, task, payload, published_at"
    return service.execute(f"SELECT {columns} FROM roomkeeper.outbox ORDER BY id").fetchall()


def test_what_is_wrong_is_said_to_the_caller(service: Service) -> None:
    for task, payload, message, hint in WRONG:
        with pytest.raises(psycopg.errors.InvalidParameterValue) as caught:
            enqueue(service, task, payload)
        error = caught.value.diag
        assert (error.sqlstate, error.message_primary, error.message_hint) == ("22023", message, hint)
    assert outbox(service) == []


def test_what_is_right_is_kept_under_the_id_that_is_returned(service: Service) -> None:
    loud = GOOD | {"app": "openchat", "id": GOOD["id"].upper()}
    ids = [enqueue(service, "attachments.process", payload) for payload in (GOOD, loud, GOOD)]
    assert len(set(ids)) == 3
    assert outbox(service) == [
        (task_id, "attachments.process", payload, None)
        for task_id, payload in zip(ids, (GOOD, loud, GOOD), strict=True)
    ]


def test_names_of_arguments_are_what_rpc_sends(service: Service) -> None:
    service.execute(
        "SELECT roomkeeper.enqueue(payload => %s, task => %s)", (Jsonb(GOOD), "attachments.process")
    )
    assert len(outbox(service)) == 1


def test_there_is_nothing_when_the_caller_rolls_back(service: Service) -> None:
    with service.transaction(force_rollback=True):
        enqueue(service, "attachments.process", GOOD)
        assert len(outbox(service)) == 1
    assert outbox(service) == []


def test_the_callers_own_work_goes_with_what_is_refused(service: Service, platform: Platform) -> None:
    before = platform.everything()
    with pytest.raises(psycopg.errors.InvalidParameterValue), service.transaction():
        service.execute("INSERT INTO roomkeeper.checkpoints (job, app) VALUES ('a', 'b')")
        enqueue(service, "attachments.process", {})
    assert platform.everything() == before


def test_nothing_of_the_callers_session_is_trusted(service: Service) -> None:
    """Functions, operators and types of the caller's own stay out of it."""
    service.execute("CREATE SCHEMA evil")
    for name, arguments in (("char_length", "text"), ("jsonb_typeof", "jsonb"), ("left", "text, int")):
        service.execute(
            f"CREATE FUNCTION evil.{name}({arguments}) RETURNS text LANGUAGE plpgsql AS"
            " 'BEGIN RAISE EXCEPTION ''evil''; END'"
        )
    service.execute(
        "CREATE FUNCTION evil.same(text, text) RETURNS boolean LANGUAGE plpgsql AS"
        " 'BEGIN RAISE EXCEPTION ''evil''; END';"
        "CREATE OPERATOR evil.= (FUNCTION = evil.same, LEFTARG = text, RIGHTARG = text)"
    )
    service.execute("CREATE TEMP TABLE outbox (task text, payload jsonb)")
    service.execute("SET search_path = evil, pg_temp, pg_catalog")
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        enqueue(service, "attachments.process", '"x"')
    enqueue(service, "attachments.process", GOOD)
    assert len(outbox(service)) == 1


#: What a field's kind stands for in a payload's model.
KINDS: dict[str, Any] = {"uuid": UUID, "events": list[Event], "room": UUID | str}
WITH_ROOMS: tuple[str, ...] = get_args(RecomputeRoom.model_fields["app"].annotation)
MODELS: dict[str, tuple[type[BaseModel], tuple[str, ...]]] = {
    "attachments.process": (ProcessAttachment, WITH_ATTACHMENTS),
    "delivery.record": (RecordStatus, WITH_STATUSES),
    "delivery.recount": (RecountConversation, WITH_COUNTERS),
    "analytics.room": (RecomputeRoom, WITH_ROOMS),
}


def test_the_registry_says_what_the_payloads_models_say(platform: Platform) -> None:
    with platform.engine.begin() as connection:
        rows = connection.execute(select(*SqlTask.__table__.columns)).all()
    assert {row.task for row in rows} == set(MODELS)
    for row in rows:
        model, apps = MODELS[row.task]
        assert sorted(row.apps) == sorted(apps)
        assert row.fields["app"] == "app"
        assert {name: KINDS[kind] for name, kind in row.fields.items() if name != "app"} == {
            name: field.annotation for name, field in model.model_fields.items() if name != "app"
        }
        assert set(row.fields) == set(model.model_fields)
        assert all(field.is_required() for field in model.model_fields.values())


def test_what_is_accepted_the_task_accepts(service: Service) -> None:
    for app in WITH_ATTACHMENTS:
        enqueue(service, "attachments.process", {"app": app, "id": str(uuid4())})
    payloads = [ProcessAttachment.model_validate(payload) for _, _, payload, _ in outbox(service)]
    assert tuple(payload.app for payload in payloads) == WITH_ATTACHMENTS


def test_a_room_is_an_id_or_a_code(service: Service) -> None:
    given = [str(uuid4()), str(uuid4()).upper(), "ABC123", "000000", "ZZZZZZ"]
    for one in given:
        enqueue(service, "analytics.room", {"app": "audiorooms", "room": one})
    read = [RecomputeRoom.model_validate(payload) for _, _, payload, _ in outbox(service)]
    assert [str(one.room) for one in read] == [given[0], given[1].lower(), *given[2:]]


def test_what_was_granted_before_rooms_were_taken_is_granted_still(
    platform: Platform, role: Callable[[], str]
) -> None:
    name = role()
    with platform.engine.begin() as connection:
        command.downgrade(migrate._config(connection), "0005")
    platform.sql(f'GRANT USAGE ON SCHEMA roomkeeper TO "{name}"')
    platform.sql(f'GRANT EXECUTE ON FUNCTION roomkeeper.enqueue(text, jsonb) TO "{name}"')
    with psycopg.connect(url_of(platform.environment["DATABASE_URL"], name), autocommit=True) as service:
        with pytest.raises(psycopg.errors.InvalidParameterValue) as caught:
            enqueue(service, "analytics.room", ROOM)
        assert caught.value.diag.message_hint == "The tasks are: attachments.process."
        enqueue(service, "attachments.process", GOOD)
        migrate.upgrade(platform.engine)
        enqueue(service, "analytics.room", ROOM)
    assert len(platform.sql("SELECT FROM roomkeeper.outbox")) == 2


def test_the_way_back_leaves_the_function_as_it_was(platform: Platform) -> None:
    def function(way: Callable[[Config, str], None], revision: str) -> str:
        with platform.engine.begin() as connection:
            way(migrate._config(connection), revision)
        ((definition,),) = platform.sql(
            "SELECT pg_get_functiondef('roomkeeper.enqueue(text, jsonb)'::regprocedure)"
        )
        return str(definition)

    now = function(command.upgrade, "0006")
    function(command.downgrade, "0003")
    with platform.engine.begin() as connection:
        command.downgrade(migrate._config(connection), "0002")
    before = function(command.upgrade, "0005")
    assert function(command.upgrade, "0006") == now != before
    assert function(command.downgrade, "0005") == before
