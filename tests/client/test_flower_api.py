"""Enqueueing over Flower's HTTP API: what `docs/enqueue.md` says of it."""

import base64
import json
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any
from uuid import UUID, uuid4

import pytest
from redis import Redis

from stack.ports import free_port
from tests.client.snippets import FLOWER, rows
from tests.docs.blocks import block
from tests.platform import Platform, eventually
from tests.servers import ValkeyServer
from workers.queues import UNKNOWN

pytestmark = pytest.mark.system

PASSWORD = "correct horse"
PROCESS = "/api/task/async-apply/attachments.process"


@dataclass(frozen=True)
class Flower:
    """A running Flower, as a script sees it."""

    port: int

    def post(
        self, path: str, body: object, password: str | None = PASSWORD, user: str = "operator"
    ) -> tuple[int, str]:
        """Send a body, as JSON unless it is a text; return status and answer; 0 while no server listens."""
        text = body if isinstance(body, str) else json.dumps(body)
        token = base64.b64encode(f"{user}:{password}".encode()).decode()
        headers = {} if password is None else {"Authorization": f"Basic {token}"}
        client = HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            client.request("POST", path, text, headers)
            answer = client.getresponse()
            return answer.status, answer.read().decode()
        except OSError:
            return 0, ""
        finally:
            client.close()

    def sent(self, path: str, body: object) -> str:
        """Send what Flower must take; return the task's id."""
        status, answer = self.post(path, body)
        assert status == 200, answer
        reply: dict[str, str] = json.loads(answer)
        assert reply.keys() == {"task-id"}
        return reply["task-id"]


@pytest.fixture
def flower(platform: Platform) -> Flower:
    """A Flower, and no worker yet."""
    made = Flower(free_port())
    platform.set(flower_port=made.port, flower_password=PASSWORD, worker_processes=1)
    platform.start("flower")
    eventually(lambda: made.post("/api/nothing", {}, None)[0], what="Flower serves")
    return made


def notes(platform: Platform) -> UUID:
    return platform.openchat_attachment(b"Milk\n", "notes.txt", "text/plain")


def body(row_id: UUID) -> dict[str, Any]:
    return {"args": [{"app": "openchat", "id": str(row_id)}]}


def test_it_hands_work_over_with_the_password_only(platform: Platform, flower: Flower) -> None:
    platform.worker("attachments")
    refused, taken = notes(platform), notes(platform)
    for password in (None, "", "wrong", PASSWORD + "x"):
        assert flower.post(PROCESS, body(refused), password)[0] == 401
    assert flower.post(PROCESS, body(refused), user="Operator")[0] == 401
    flower.sent(PROCESS, body(taken))
    assert platform.finished(taken).state == "finished"
    # Had it been sent, it would have been done before.
    assert platform.job(refused) is None


def test_the_piece_of_the_page(platform: Platform, flower: Flower) -> None:
    code = block("enqueue-flower")
    *curl, credentials, address, flag, data = shlex.split(code.replace("\\\n", " "))
    assert (curl, flag) == (["curl", "-fsS", "-u"], "-d")
    user, password = credentials.split(":")
    assert password == "$FLOWER_PASSWORD"
    row_id = notes(platform)
    (shown,) = json.loads(data)["args"]
    data = data.replace(shown["id"], str(row_id))
    status, answer = flower.post(address.removeprefix(FLOWER), data, user=user)
    assert status == 200, answer
    platform.worker("attachments")
    assert platform.finished(row_id).state == "finished"


def test_an_id_that_is_given_is_the_tasks(flower: Flower) -> None:
    fixed = str(uuid4())
    assert flower.sent(PROCESS, body(uuid4()) | {"task_id": fixed}) == fixed


def test_what_it_refuses_itself(platform: Platform, flower: Flower) -> None:
    good = body(uuid4())
    for path, given, status in (
        (PROCESS, "{", 400),
        (PROCESS, [], 400),
        (PROCESS, {"args": {"app": "openchat"}}, 400),
        ("/api/task/async-apply/attachments.proces", good, 404),
        (PROCESS, good | {"queue": "attachment"}, 500),
        ("/api/task/send-task/attachments.process", good | {"queue": "attachment"}, 500),
    ):
        assert flower.post(path, given)[0] == status, (path, given)
    # All of it is on the page.
    answers = {row[0].split()[0] for row in rows("HTTP: Flower")[1:]}
    assert answers == {"200", "400", "401", "404", "500", "503"}


def test_what_only_a_worker_refuses_is_a_dead_letter(platform: Platform, flower: Flower) -> None:
    platform.worker("attachments")
    platform.worker("maintenance")
    row_id = notes(platform)
    reasons = {
        flower.sent(PROCESS, {"args": [{"app": "openchat"}]}): "id: Field required",
        flower.sent(PROCESS, {"app": "openchat"}): "missing a required argument",
    }
    eventually(lambda: len(platform.collected()) == len(reasons), what="all are dead letters")
    for letter in platform.dead_letters():
        assert reasons[letter.task_id] in letter.reason
    # A name that no worker knows may be one of a newer version: it waits for a day.
    flower.sent("/api/task/send-task/attachments.proces", body(row_id))
    with Redis.from_url(platform.environment["ROOMKEEPER_BROKER_URL"]) as client:
        eventually(lambda: client.llen(UNKNOWN) == 1)
    # By `send-task` a task goes to the queue for what names none, and is done all the same.
    flower.sent("/api/task/send-task/attachments.process", body(row_id))
    assert platform.finished(row_id).state == "finished"


def test_apply_sends_the_task_and_answers_as_if_it_had_not(platform: Platform, flower: Flower) -> None:
    row_id = notes(platform)
    assert flower.post("/api/task/apply/attachments.process", body(row_id))[0] == 500
    platform.worker("attachments")
    assert platform.finished(row_id).state == "finished"


@pytest.mark.parametrize("how", [ValkeyServer.freeze, ValkeyServer.kill])
def test_a_broker_that_does_not_answer(
    flower: Flower, valkey: ValkeyServer, how: Callable[[ValkeyServer], None]
) -> None:
    how(valkey)
    begun = time.monotonic()
    assert flower.post(PROCESS, body(uuid4())) == (503, "Broker or result backend unavailable")
    assert time.monotonic() - begun < 20
