"""README.md is short, and its SQL and its operators' commands work on a real platform."""

import re
from uuid import UUID, uuid4

import psycopg
import pytest
from sqlalchemy import insert, select

from models.openchat import Attachment, ConversationParticipant, Message, User
from tests.commands.cli import on
from tests.delivery.people import Pern
from tests.docs.blocks import ROOT, blocks, statements
from tests.platform import Platform, eventually

README = (ROOT / "README.md").read_text()


@pytest.fixture
def chat(platform: Platform) -> dict[str, UUID]:
    """A message of openchat with a reader, as psql's variables."""
    attachment = platform.row(Attachment, platform.openchat_attachment(b"Milk\n"))
    message = platform.row(Message, attachment.message_id)
    with platform.engine.begin() as connection:
        bob = insert(User).values(name="Bob", email=f"{uuid4()}@x.org", email_verified=True)
        reader = connection.execute(bob.returning(User.id)).scalar_one()
        for user in (message.sender_id, reader):
            values = {"conversation_id": message.conversation_id, "user_id": user}
            connection.execute(insert(ConversationParticipant).values(values))
    platform.put(b"Milk\n", "uploads/notes.txt")
    return {"message_id": message.id, "user_id": message.sender_id, "reader_id": reader}


def test_it_is_read_in_three_minutes() -> None:
    assert len(README.splitlines()) <= 110
    assert max(map(len, README.splitlines())) <= 180


def test_it_names_the_commands_of_ci() -> None:
    first = (ROOT / ".ci/run").read_text().splitlines()
    assert "make test" in first
    assert re.search(r"^make test\b", README, re.MULTILINE)


def run(connection: "psycopg.Connection[tuple[object, ...]]", **values: object) -> UUID:
    """Run the SQL as an API service, each statement a transaction; return the attachment's id."""
    enqueue, record, _ = statements("readme-sql", **values, attachment_id=uuid4())
    row = connection.execute(enqueue.encode()).fetchone()
    assert row is not None
    connection.execute(record.encode())
    assert isinstance(row[0], UUID)
    return row[0]


def test_its_sql_enqueues_and_reports(platform: Platform, chat: dict[str, UUID]) -> None:
    with psycopg.connect(platform.environment["DATABASE_URL"], autocommit=True) as connection:
        row_id = run(connection, **chat)
    assert platform.sql("SELECT task, payload FROM roomkeeper.outbox") == [
        ("attachments.process", {"app": "openchat", "id": str(row_id)})
    ]
    ((app, (event,)),) = platform.sql("SELECT app, events FROM roomkeeper.status_inbox")
    assert (app, event["message_id"], event["user_id"], event["status"]) == (
        "openchat",
        str(chat["message_id"]),
        str(chat["reader_id"]),
        "read",
    )


def test_sql_of_the_documents(platform: Platform, chat: dict[str, UUID]) -> None:
    row_id = platform.openchat_attachment(b"Milk\n")
    with platform.engine.begin() as connection:
        people = Pern().people(connection, 2)
        (message,) = Pern().messages(connection, people[0], 1)
    with psycopg.connect(platform.environment["DATABASE_URL"], autocommit=True) as connection:
        for statement in (
            *statements("attachments-enqueue", attachment_id=row_id),
            *statements("delivery-record", message_id=message, user_id=people[1]),
            *statements("analytics-week"),
        ):
            assert connection.execute(statement.encode()).fetchone()
    assert platform.sql("SELECT app FROM roomkeeper.status_inbox") == [("pern",)]
    assert platform.sql("SELECT payload ->> 'id' FROM roomkeeper.outbox") == [(str(row_id),)]


@pytest.mark.system
def test_workers_do_what_it_promises(platform: Platform, chat: dict[str, UUID]) -> None:
    platform.set(worker_processes=1)
    platform.worker("attachments")
    platform.worker("delivery")
    with psycopg.connect(platform.environment["DATABASE_URL"], autocommit=True) as connection:
        row_id = run(connection, **chat)
        platform.send("outbox.relay", queue="delivery-periodic")
        platform.send("delivery.drain", queue="delivery-periodic")
        platform.finished(row_id)
        *_, ask = statements("readme-sql", **chat, attachment_id=row_id)
        answer = connection.execute(ask.encode()).fetchone()
    assert answer is not None
    status, error, verdict, url, _thumbnail = answer
    assert (status, error, verdict) == ("completed", None, "clean")
    assert url

    def pointer() -> object:
        with platform.engine.connect() as connection:
            of = ConversationParticipant.user_id == chat["reader_id"]
            return connection.execute(select(ConversationParticipant.last_read_message_id).where(of)).scalar()

    eventually(lambda: pointer() == chat["message_id"], what="the status is merged")
    # Its commands, as an operator types them.
    (commands,) = [
        each for each in blocks() if each.place.startswith("README.md") and "roomkeeper check" in each.text
    ]
    for line in commands.text.splitlines():
        _, *arguments = line.partition("#")[0].replace("$ID", str(row_id)).split()
        outcome = on(platform, *arguments)
        assert outcome.out, line
        # This platform has no place for archives, and nothing has run: that is a fault.
        assert outcome.code == (1 if arguments == ["check"] else 0), outcome.out + outcome.err
