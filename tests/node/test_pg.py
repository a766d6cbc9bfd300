"""Node services with `pg`: both functions in a transaction with their own rows."""

import json
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from tests.delivery.people import Pern
from tests.docs.blocks import block
from tests.node.programs import HERE, Node
from tests.platform import Platform

pytestmark = pytest.mark.system

TRANSACTION = (HERE / "transaction.mjs").read_text()
ENQUEUE = "SELECT roomkeeper.enqueue('attachments.process', $1)"
RECORD = "SELECT roomkeeper.record_status('pern', $1)"


def status(**other: object) -> dict[str, Any]:
    ids = {"message_id": str(uuid4()), "user_id": str(uuid4())}
    return ids | {"status": "read", "at": "2026-01-31T23:59:59.123Z"} | other


def given(platform: Platform, end: str, payload: object, events: object) -> dict[str, Any]:
    """Return what `transaction.mjs` is to do, the JSON as texts."""
    return {
        "url": platform.environment["DATABASE_URL"],
        "insert": "INSERT INTO own VALUES ('mine')",
        "calls": [
            ["enqueue", ENQUEUE, [json.dumps(payload)]],
            ["record_status", RECORD, [json.dumps(events)]],
        ],
        "end": end,
    }


@pytest.fixture
def own(platform: Platform) -> Platform:
    """A platform in whose database the service has a table of its own."""
    platform.sql("CREATE TABLE own (word text)")
    return platform


def counts(platform: Platform) -> list[int]:
    """Return how many rows the service's table, the outbox and the inbox have."""
    tables = ("own", "roomkeeper.outbox", "roomkeeper.status_inbox")
    return [len(platform.sql(f"SELECT FROM {table}")) for table in tables]


def test_what_is_committed_is_there_together(own: Platform, node: Node) -> None:
    payload, events = (
        {"app": "openchat", "id": str(uuid4())},
        [status(), status(at="2026-01-31T23:59:59+01:00")],
    )
    output = node.run(TRANSACTION, given(own, "COMMIT", payload, events)).output
    assert counts(own) == [1, 1, 1]
    assert own.sql("SELECT task_id, payload FROM roomkeeper.outbox") == [(UUID(output["enqueue"]), payload)]
    # A bigint is a text in `pg`.
    assert own.sql("SELECT id, events FROM roomkeeper.status_inbox") == [
        (int(output["record_status"]), events)
    ]


def test_what_is_rolled_back_was_never_there(own: Platform, node: Node) -> None:
    payload = {"app": "openchat", "id": str(uuid4())}
    output = node.run(TRANSACTION, given(own, "ROLLBACK", payload, [status()])).output
    assert output.keys() == {"enqueue", "record_status"}
    assert counts(own) == [0, 0, 0]


@pytest.mark.parametrize(
    ("payload", "events", "message", "hint"),
    [
        (
            {"app": "openchat", "id": "secret"},
            [status()],
            "payload.id: not a UUID, but a string of 6 characters",
            "A UUID looks like 123e4567-e89b-42d3-a456-426614174000.",
        ),
        (
            {"app": "openchat", "id": str(uuid4())},
            [status(), status(status="secret")],
            "events[1].status: not a status, but a string of 6 characters",
            "Allowed: sent, delivered, read, failed.",
        ),
    ],
)
def test_an_error_arrives_with_message_and_hint_and_nothing_else_is_there(
    own: Platform, node: Node, payload: object, events: object, message: str, hint: str
) -> None:
    output = node.run(TRANSACTION, given(own, "COMMIT", payload, events)).output
    assert output["error"] == {"code": "22023", "message": message, "hint": hint}
    assert counts(own) == [0, 0, 0]


def copying(platform: Platform, table: str, row_id: UUID, **instead: str) -> str:
    """Return what follows `INSERT INTO table`, so that the new row is like that one but for these columns."""
    schema, _, name = table.partition(".")
    found = platform.sql(
        "SELECT column_name FROM information_schema.columns"
        " WHERE (table_schema, table_name) = (:schema, :name)",
        schema=schema,
        name=name,
    )
    columns = [row.column_name for row in found if row.column_name != "id" or "id" in instead]
    values = ", ".join(instead.get(column, f'"{column}"') for column in columns)
    names = ", ".join(f'"{column}"' for column in columns)
    return f"({names}) SELECT {values} FROM {table} WHERE id = '{row_id}'"


def test_the_piece_of_the_page_for_node(platform: Platform, node: Node) -> None:
    code = block("enqueue-node-pg")
    row_id = platform.openchat_attachment(b"Milk\n")
    insert = copying(platform, "openchat.attachment", row_id)
    for gap, filled in (("(…) VALUES (…)", insert.replace('"', '\\"')), ("[…]", "[]")):
        assert code.count(gap) == 1
        code = code.replace(gap, filled)
    assert "…" not in code
    names = {"url": platform.environment["DATABASE_URL"], "ids": [str(uuid4()), str(uuid4())]}
    before = 'import pg from "pg";\nconst pool = new pg.Pool({ connectionString: given.url });\n'
    before += "const [message_id, user_id] = given.ids;\n"
    outcome = node.run(before + code + "\nawait pool.end();", names)
    assert (outcome.code, outcome.err) == (0, "")
    ((new,),) = platform.sql(f"SELECT id FROM openchat.attachment WHERE id <> '{row_id}'")
    assert platform.sql("SELECT payload FROM roomkeeper.outbox") == [({"app": "openchat", "id": str(new)},)]
    ((app, (event,)),) = platform.sql("SELECT app, events FROM roomkeeper.status_inbox")
    assert (app, event["message_id"], event["user_id"]) == ("pern", *names["ids"])


def test_the_piece_of_the_page_for_python(platform: Platform) -> None:
    code = block("enqueue-python-psycopg")
    row_id = platform.pern_attachment(b"encrypted")
    insert = copying(
        platform, "pern.attachments", row_id, id="gen_random_uuid()", file_hash="repeat('0', 64)"
    )
    for gap, filled in (("(…) VALUES (…)", insert.replace('"', '\\"')), ('", …)', '")')):
        assert code.count(gap) == 1
        code = code.replace(gap, filled)
    assert "…" not in code
    with platform.engine.begin() as connection:
        people = Pern().people(connection, 1)
    names: dict[str, Any] = {"message_id": uuid4(), "user_id": people[0]}
    with psycopg.connect(platform.environment["DATABASE_URL"]) as service:
        exec(
            compile("from datetime import UTC, datetime\n" + code, "enqueue.md", "exec"),
            names | {"connection": service},
        )
    ((payload,),) = platform.sql("SELECT payload FROM roomkeeper.outbox")
    ((new,),) = platform.sql(f"SELECT id FROM pern.attachments WHERE id <> '{row_id}'")
    assert payload == {"app": "pern", "id": str(new)}
    assert len(platform.sql("SELECT FROM roomkeeper.status_inbox")) == 1
