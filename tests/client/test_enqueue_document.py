"""The Python code of `docs/enqueue.md` runs, and does what the text says."""

from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from models import openchat
from roomkeeper import payloads
from tasks.delivery.events import Event, RecordStatus
from tests.client.snippets import BROKER, rows
from tests.client.studio import CODE, studio
from tests.delivery.people import Pern
from tests.docs.blocks import block
from tests.platform import Platform, eventually

#: Days are counted back from today.
pytestmark = [pytest.mark.system, pytest.mark.usefixtures("same_day")]


@pytest.fixture
def world(platform: Platform) -> tuple[UUID, UUID, UUID]:
    """An attachment of openchat, a message of pern, and who reads it."""
    row_id = platform.openchat_attachment(b"Milk\n", "notes.txt", "text/plain")
    with platform.engine.begin() as connection:
        people = Pern().people(connection, 2)
        (message,) = Pern().messages(connection, people[0], 1)
    return row_id, message, people[1]


def run(code: str, world: tuple[UUID, UUID, UUID], **names: object) -> dict[str, Any]:
    """Run a code block with these names; return all names that there are then."""
    row_id, message, user = world
    names |= {"attachment_id": row_id, "message_id": message, "user_id": user, "conversation_id": message}
    exec(compile(code, "enqueue.md", "exec"), names)
    return names


def test_the_package_in_sql(platform: Platform, world: tuple[UUID, UUID, UUID]) -> None:
    code = block("enqueue-package-sql")
    with psycopg.connect(platform.environment["DATABASE_URL"]) as connection:
        run(code, world, connection=connection)
    row_id, message, user = world
    assert platform.sql("SELECT task, payload FROM roomkeeper.outbox ORDER BY id") == [
        ("attachments.process", {"app": "openchat", "id": str(row_id)}),
        ("delivery.recount", {"app": "openchat", "conversation_id": str(message)}),
        ("analytics.room", {"app": "audiorooms", "room": CODE}),
    ]
    ((app, events),) = platform.sql("SELECT app, events FROM roomkeeper.status_inbox")
    (event,) = RecordStatus(app=app, events=events).events
    assert (app, event.message_id, event.user_id, event.status) == ("pern", message, user, "read")


def test_the_package_with_a_broker(platform: Platform, world: tuple[UUID, UUID, UUID]) -> None:
    code = block("enqueue-package-broker")
    assert code.count(BROKER) == 1
    platform.set(worker_processes=1)
    platform.worker("attachments")
    platform.worker("delivery")
    platform.worker("maintenance")
    room = studio(platform)
    room.close()
    names = run(code.replace(BROKER, platform.environment["ROOMKEEPER_BROKER_URL"]), world)
    names["producer"].close()
    row_id, message, user = world
    assert platform.finished(row_id).state == "finished"
    assert platform.row(openchat.Attachment, row_id).processing_status == "completed"

    def merged() -> Any:
        with platform.engine.begin() as connection:
            return Pern().rows(connection, [message])

    assert eventually(merged).keys() == {(message, user)}
    room.are_right()


def test_the_table_has_every_task_and_its_queue() -> None:
    table = rows("Celery clients in other languages")[1:]
    assert {task.strip("`"): queue.strip("`") for task, queue, _ in table} == payloads.QUEUES
    (attachment,) = (what for task, _, what in table if "process" in task)
    (statuses,) = (what for task, _, what in table if "record" in task)
    (rooms,) = (what for task, _, what in table if "room" in task)
    assert all(f'"{app}"' in attachment for app in payloads.WITH_ATTACHMENTS)
    assert all(f'"{app}"' in rooms for app in payloads.WITH_ROOMS)
    assert all(f'"{app}"' in statuses for app in payloads.WITH_STATUSES)
    assert f"{payloads.MAX_EVENTS:,}" in statuses


def test_the_page_says_which_tasks_sql_takes(platform: Platform) -> None:
    table = {row[0].strip("`"): row[-1] for row in rows("SQL") if "." in row[0] and "(" not in row[0]}
    found = platform.sql("SELECT task, fields, apps FROM roomkeeper.sql_tasks WHERE NOT fields ? 'events'")
    assert table.keys() == {row.task for row in found}
    for row in found:
        assert all(f'"{name}"' in table[row.task] for name in (*row.fields, *row.apps))


def test_the_event_of_the_page_is_one() -> None:
    # Its ids are cut.
    piece = block("enqueue-event")
    whole = piece.replace("123e4567-…", str(uuid4())).replace("9f0a8d9a-…", str(uuid4()))
    assert Event.model_validate_json(whole).status == "read"
