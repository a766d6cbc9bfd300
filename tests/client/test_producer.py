"""`roomkeeper.Producer`: real workers do what it hands over; a broker that is away is an error, and soon."""

import base64
import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
from redis import Redis

from models import openchat
from roomkeeper import InvalidPayload, Producer, PublishFailed, Status
from tests.client.firewall import firewall
from tests.delivery.people import Pern, at
from tests.platform import Platform, eventually
from tests.servers import ValkeyServer

AT = datetime(2026, 1, 31, tzinfo=UTC)
#: The longest that a call may take when the broker does not answer; one answer is waited for this long.
SOON_SECONDS, TIMEOUT_SECONDS = 5.0, 1.0


@pytest.fixture
def producer(broker_url: str) -> Iterator[Producer]:
    with Producer(broker_url, timeout_seconds=TIMEOUT_SECONDS) as made:
        yield made


@dataclass(frozen=True)
class Message:
    """What a worker would get."""

    id: UUID
    task: str
    payload: Any


def sent(broker_url: str, queue: str) -> list[Message]:
    """Return what is in a queue, the first to be taken first."""
    with Redis.from_url(broker_url) as client:
        raw = client.lrange(queue, 0, -1)
    messages = []
    for one in map(json.loads, reversed(raw)):
        (payload,), kwargs, _ = json.loads(base64.b64decode(one["body"]))
        assert kwargs == {}
        messages.append(Message(UUID(one["headers"]["id"]), one["headers"]["task"], payload))
    return messages


def test_workers_do_what_is_handed_over(platform: Platform, producer: Producer) -> None:
    platform.set(worker_processes=1)
    platform.worker("attachments")
    platform.worker("delivery")
    row_id = platform.openchat_attachment(b"Milk\n", "notes.txt", "text/plain")
    producer.process_attachment("openchat", row_id)
    world = Pern()
    with platform.engine.begin() as connection:
        people = world.people(connection, 2)
        messages = world.messages(connection, people[0], 1001)
    statuses = [Status(message, people[1], "read", at(5)) for message in messages]
    assert len(producer.record_status("pern", statuses)) == 2

    def read() -> int:
        with platform.engine.begin() as connection:
            return len(world.rows(connection, messages))

    eventually(lambda: read() == len(messages), what="all statuses are merged")
    with platform.engine.begin() as connection:
        assert set(world.rows(connection, messages).values()) == {("read", at(5), at(5))}
    assert platform.finished(row_id).state == "finished"
    assert platform.row(openchat.Attachment, row_id).processing_status == "completed"
    assert not platform.dead_letters()


def test_a_task_is_in_its_own_queue_under_the_returned_id(broker_url: str, producer: Producer) -> None:
    row_id = uuid4()
    task_id = producer.process_attachment("pern", row_id)
    expected = Message(task_id, "attachments.process", {"app": "pern", "id": str(row_id)})
    assert sent(broker_url, "attachments") == [expected]
    statuses = [Status(uuid4(), uuid4(), "sent", AT) for _ in range(2500)]
    ids = producer.record_status("connect", statuses)
    found = sent(broker_url, "delivery")
    assert [message.id for message in found] == ids
    assert {message.task for message in found} == {"delivery.record"}
    assert [len(message.payload["events"]) for message in found] == [1000, 1000, 500]
    assert [event for one in found for event in one.payload["events"]] == [one.event() for one in statuses]
    assert producer.record_status("connect", []) == []
    assert len(sent(broker_url, "delivery")) == 3
    conversation, row_id = uuid4(), uuid4()
    conversation = producer.recount_conversation("openchat", row_id, task_id=conversation)
    payload = {"app": "openchat", "conversation_id": str(row_id)}
    assert sent(broker_url, "delivery")[3:] == [Message(conversation, "delivery.recount", payload)]
    room_id = producer.recompute_room("audiorooms", "ABC123")
    room = Message(room_id, "analytics.room", {"app": "audiorooms", "room": "ABC123"})
    assert sent(broker_url, "maintenance") == [room]


def test_the_same_id_is_the_same_task(broker_url: str, producer: Producer) -> None:
    fixed = uuid4()
    statuses = [Status(uuid4(), uuid4(), "sent", AT) for _ in range(1500)]
    assert producer.process_attachment("pern", uuid4(), task_id=fixed) == fixed
    first, second = producer.record_status("pern", statuses, task_id=fixed)
    assert (first, second) == tuple(producer.record_status("pern", statuses, task_id=fixed))
    assert first == fixed != second
    assert producer.recompute_room("audiorooms", uuid4(), task_id=fixed) == fixed
    # Without one, each call is another.
    assert not {first, second} & {*producer.record_status("pern", statuses)}
    with pytest.raises(InvalidPayload, match=r"^task_id: not a uuid\.UUID, but a value of type str\.$"):
        producer.process_attachment("pern", uuid4(), task_id=str(fixed))  # type: ignore[arg-type]


def test_nothing_is_sent_if_anything_is_wrong(broker_url: str, producer: Producer) -> None:
    good = Status(uuid4(), uuid4(), "sent", AT)
    with pytest.raises(InvalidPayload, match=r"^statuses\[1500\]: not a Status"):
        producer.record_status("pern", [*[good] * 1500, "read"])  # type: ignore[list-item]
    with pytest.raises(InvalidPayload, match=r"^app: not an application with attachments"):
        producer.process_attachment("connect", uuid4())
    with pytest.raises(InvalidPayload, match=r"^app: not an application with counters"):
        producer.recount_conversation("pern", uuid4())
    with pytest.raises(InvalidPayload, match=r"^conversation_id: not a UUID"):
        producer.recount_conversation("openchat", "general")
    with pytest.raises(InvalidPayload, match=r"^room: neither a UUID nor a code"):
        producer.recompute_room("audiorooms", "abc123")
    queues = ("delivery", "attachments", "maintenance")
    assert [message for queue in queues for message in sent(broker_url, queue)] == []


@pytest.mark.parametrize("how", ["frozen", "killed"])
@pytest.mark.parametrize("before", ["connected before", "new"])
def test_a_broker_that_does_not_answer_is_an_error_soon(
    valkey: ValkeyServer, producer: Producer, how: str, before: str
) -> None:
    if before == "connected before":
        producer.process_attachment("pern", uuid4())
    valkey.freeze() if how == "frozen" else valkey.kill()
    begun = time.monotonic()
    with pytest.raises(PublishFailed) as caught:
        producer.process_attachment("pern", uuid4())
    assert time.monotonic() - begun < SOON_SECONDS
    kind = "TimeoutError" if how == "frozen" else "ConnectionError"
    assert str(caught.value) == (
        f"attachments.process: the broker did not confirm it ({kind}). The task may or may not have arrived. "
        f"Call again with task_id {caught.value.task_id}, and it is the same task."
    )
    with pytest.raises(PublishFailed):
        producer.record_status("pern", [Status(uuid4(), uuid4(), "sent", AT)])
    # And once it is back, the same producer goes on.
    valkey.start()
    producer.process_attachment("pern", uuid4())


def test_what_failed_is_repeated_as_the_same_task(valkey: ValkeyServer, producer: Producer) -> None:
    url, row_id = valkey.url(), uuid4()
    producer.process_attachment("pern", uuid4())
    valkey.freeze()
    with pytest.raises(PublishFailed) as caught:
        producer.process_attachment("pern", row_id)
    valkey.start()
    producer.process_attachment("pern", row_id, task_id=caught.value.task_id)
    # What a frozen broker was sent it takes once it goes on.
    published = [message for message in sent(url, "attachments") if message.payload["id"] == str(row_id)]
    assert len(published) >= 1
    assert {message.id for message in published} == {caught.value.task_id}


def test_of_several_tasks_all_are_repeated_as_the_same(
    broker_url: str, producer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("roomkeeper.payloads.MAX_EVENTS", 1)
    statuses = [Status(uuid4(), uuid4(), "sent", AT) for _ in range(1000)]
    with Redis.from_url(broker_url) as client:
        # Room for some of them.
        client.config_set("maxmemory", client.info("memory")["used_memory"] + 400_000)
        try:
            with pytest.raises(PublishFailed) as caught:
                producer.record_status("pern", statuses)
        finally:
            client.config_set("maxmemory", 0)
    arrived = [message.id for message in sent(broker_url, "delivery")]
    assert 1 < len(arrived) < len(statuses)
    assert caught.value.task_id == arrived[0]
    ids = producer.record_status("pern", statuses, task_id=caught.value.task_id)
    assert ids[: len(arrived)] == arrived
    assert len({*ids}) == len(statuses)


def test_a_broker_that_is_full_is_an_error_too(broker_url: str, producer: Producer) -> None:
    with Redis.from_url(broker_url) as client:
        client.config_set("maxmemory", 1)
        try:
            with pytest.raises(PublishFailed, match=r"\(OutOfMemoryError\)"):
                producer.process_attachment("pern", uuid4())
        finally:
            client.config_set("maxmemory", 0)


def test_a_broker_that_was_restarted_is_none(valkey: ValkeyServer, producer: Producer) -> None:
    producer.process_attachment("pern", uuid4())
    valkey.stop()
    valkey.start()
    producer.process_attachment("pern", uuid4())


def test_a_connection_that_a_firewall_forgot_is_none_either(valkey: ValkeyServer, broker_url: str) -> None:
    with firewall(valkey.server.port) as between:
        url = f"redis://127.0.0.1:{between.port}/0"
        with Producer(url, timeout_seconds=TIMEOUT_SECONDS) as producer:
            producer.process_attachment("pern", uuid4())
            between.forget()
            producer.process_attachment("pern", uuid4())
    assert len(sent(broker_url, "attachments")) == 2


def test_the_services_own_celery_is_left_alone(broker_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from celery._state import get_current_app

    # What a service sets for its own.
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("CELERY_BROKER_WRITE_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "service.settings")
    own = get_current_app()
    with Producer(broker_url) as producer:
        producer.process_attachment("pern", uuid4())
        assert get_current_app() is own
    assert len(sent(broker_url, "attachments")) == 1


def test_threads_share_it(broker_url: str, producer: Producer) -> None:
    threads = [
        threading.Thread(target=lambda: [producer.process_attachment("pern", uuid4()) for _ in range(20)])
        for _ in range(15)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({message.id for message in sent(broker_url, "attachments")}) == 300


def test_a_forked_process_has_connections_of_its_own(broker_url: str, producer: Producer) -> None:
    producer.process_attachment("pern", uuid4())
    child = os.fork()
    if not child:
        code = 1
        try:
            for _ in range(50):
                producer.process_attachment("pern", uuid4())
            code = 0
        finally:
            os._exit(code)
    for _ in range(50):
        producer.process_attachment("pern", uuid4())
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len({message.id for message in sent(broker_url, "attachments")}) == 101


def test_closing_ends_its_connections(broker_url: str) -> None:
    with Redis.from_url(broker_url) as client:
        before = len(client.client_list())
        with Producer(broker_url) as producer:
            producer.process_attachment("pern", uuid4())
            assert len(client.client_list()) > before
        eventually(lambda: len(client.client_list()) == before, what="its connections are closed")


@pytest.mark.parametrize("url", ["amqp://me:secret@broker", "redis:/broker", "", None, 5])
def test_an_address_of_another_kind(url: Any) -> None:
    with pytest.raises(ValueError, match=r"^broker_url: must begin with redis:// or rediss://\.$"):
        Producer(url)
