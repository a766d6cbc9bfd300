"""Flower: behind a password, and it learns ids only."""

import base64
import json
from http.client import HTTPConnection
from typing import Any

import pytest

from commands.programs import flower
from stack.ports import free_port
from tests.platform import Platform, environment, eventually
from workers.settings import SettingsError

pytestmark = pytest.mark.system

SECRET = "meet-me-at-midnight"
PASSWORD = "correct horse"


class Visitor:
    """An HTTP client of Flower."""

    def __init__(self, port: int) -> None:
        self.port = port

    def ask(self, path: str, password: str | None = PASSWORD, method: str = "GET") -> tuple[int, str]:
        """Return status and body; 0 as long as no server listens."""
        headers = {}
        if password is not None:
            token = base64.b64encode(f"operator:{password}".encode()).decode()
            headers["Authorization"] = f"Basic {token}"
        client = HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            client.request(method, path, headers=headers)
            answer = client.getresponse()
            return answer.status, answer.read().decode()
        except OSError:
            return 0, ""
        finally:
            client.close()


def test_flower_asks_for_the_password_and_shows_ids_only(platform: Platform) -> None:
    visitor = Visitor(free_port())
    platform.set(flower_port=visitor.port, flower_password=PASSWORD, worker_processes=1)
    program = platform.start("flower")
    platform.worker()
    eventually(lambda: visitor.ask("/healthcheck", None)[0] == 200, what="Flower serves")
    eventually(lambda: "attachments@" in visitor.ask("/api/workers?refresh=1")[1], what="it knows the worker")

    for method, path in (
        ("GET", "/"),
        ("GET", "/workers"),
        ("GET", "/tasks"),
        ("GET", "/broker"),
        ("GET", "/api/workers"),
        ("GET", "/api/tasks"),
        ("GET", "/api/queues/length"),
        ("POST", "/api/task/send-task/attachments.process"),
        ("POST", "/api/task/async-apply/attachments.process"),
        ("POST", "/api/worker/shutdown/attachments"),
    ):
        for password in None, "", "wrong", PASSWORD + "x":
            assert visitor.ask(path, password, method)[0] == 401, (method, path, password)
    assert visitor.ask("/api/workers")[0] == 200
    # Flower finds the queues of the broker.
    assert visitor.ask("/broker")[0] == 200
    assert visitor.ask("/api/queues/length")[0] == 200

    row_id = platform.openchat_attachment(b"Milk\n", "notes.txt", "text/plain")
    good = platform.enqueue("openchat", row_id)
    shown = {"argsrepr": SECRET, "kwargsrepr": SECRET}
    bad = platform.send("attachments.process", {"app": "pern", "text": SECRET}, **shown)
    worse = platform.send("attachments.process", SECRET, kwargs={"text": SECRET}, **shown)

    def seen() -> dict[str, Any]:
        tasks: dict[str, Any] = json.loads(visitor.ask("/api/tasks")[1])
        ended = {name for name, task in tasks.items() if task["state"] in {"SUCCESS", "FAILURE"}}
        return tasks if ended >= {good, bad, worse} else {}

    tasks = eventually(seen, what="Flower has heard how they ended")
    assert tasks[good]["args"] == f"({{app: openchat, id: {row_id}}})"
    assert tasks[bad]["args"] == "({app: pern, 1 hidden})"
    assert (tasks[worse]["args"], tasks[worse]["kwargs"]) == ("(str)", "{1 hidden}")
    assert tasks[bad]["state"] == "FAILURE"
    assert SECRET not in json.dumps(tasks)
    for page in "/tasks", f"/task/{bad}", f"/api/task/info/{bad}", f"/task/{worse}":
        status, body = visitor.ask(page)
        assert (status, SECRET in body) == (200, False), page
    assert PASSWORD not in program.output()
    assert SECRET not in program.output()


@pytest.mark.parametrize(
    ("password", "piece"),
    [
        (None, "ROOMKEEPER_FLOWER_PASSWORD is not set; Flower does not run without a password."),
        ("", "ROOMKEEPER_FLOWER_PASSWORD is not set; Flower does not run without a password."),
        # Flower reads it as a list of users, each with a password of his own.
        ("one,two", "must not contain a comma"),
    ],
)
def test_flower_does_not_start_without_a_password(password: str | None, piece: str) -> None:
    values = {"DATABASE_URL": "postgresql://db/chat"}
    if password is not None:
        values["ROOMKEEPER_FLOWER_PASSWORD"] = password
    with environment(values), pytest.raises(SettingsError, match=piece):
        flower()
