"""What a worker tells the outside about a task: ids that are ids, and how much is hidden."""

from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery
from kombu import Connection, Consumer, Producer, Queue

from tests.platform import environment
from workers.request import PlatformRequest, redact

ID = "0d5b4c3e-8f0b-4c56-9a65-1f7a5a0f0b11"


@pytest.fixture(autouse=True)
def _settings() -> Iterator[None]:
    with environment({"DATABASE_URL": "postgresql://db/chat", "ROOMKEEPER_APPS": "openchat,pern"}):
        yield


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ({"app": "openchat", "id": ID}, f"{{app: openchat, id: {ID}}}"),
        ({"app": "openchat", "id": ID, "text": "hello"}, f"{{app: openchat, id: {ID}, 1 hidden}}"),
        ({"id": ID.upper()}, f"{{id: {ID.upper()}}}"),
        # What is not an enabled application or an id may be anything that a stranger wrote.
        ({"app": "hunter2", "id": "hunter2"}, "{2 hidden}"),
        ({"app": "echoroom"}, "{1 hidden}"),
        ({"app": ["openchat"], "id": {"id": ID}}, "{2 hidden}"),
        ({"id": ID + "\nhello"}, "{1 hidden}"),
        ({"id": ID.replace("-", "")}, "{1 hidden}"),
        ({"text": "hello"}, "{1 hidden}"),
        ({}, "{}"),
        ("hello", "str"),
        (["hello", {"app": "pern"}], "list"),
        (5, "int"),
        (None, "NoneType"),
    ],
)
def test_only_ids_are_shown(value: object, shown: str) -> None:
    assert redact(value) == shown


def nothing(*_: object, **__: object) -> None:
    """Do nothing, with whatever is given."""


def request(args: list[Any], kwargs: dict[str, Any]) -> PlatformRequest:
    """Return the request that a worker makes of a message whose sender would show everything."""
    with Celery("test", broker="memory://", set_as_current=False) as app:
        # Not shared: other applications of this process would get it too.
        task = app.task(name="test", shared=False)(nothing)
        received: list[Any] = []
        with Connection("memory://") as connection, connection.channel() as channel:
            consumer = Consumer(channel, [Queue("test")], accept=["json"])
            consumer.register_callback(lambda _body, message: received.append(message))
            with consumer:
                Producer(channel).publish(
                    (args, kwargs, {}),
                    routing_key="test",
                    serializer="json",
                    headers={"id": "1", "task": "test", "argsrepr": repr(args), "kwargsrepr": repr(kwargs)},
                )
                connection.drain_events(timeout=5)
        return PlatformRequest(received[0], app=app, task=task)


def test_a_request_shows_ids_whatever_its_sender_would_show() -> None:
    made = request([{"app": "pern", "id": ID, "text": "hello"}, "hello"], {"text": "hello"})
    assert made.argsrepr == f"({{app: pern, id: {ID}, 1 hidden}}, str)"
    assert made.kwargsrepr == "{1 hidden}"
    assert "hello" not in repr(made) + str(made) + str(made.info(safe=True))
    # Its pool's process goes by these.
    assert (made.request_dict["argsrepr"], made.request_dict["kwargsrepr"]) == (
        made.argsrepr,
        made.kwargsrepr,
    )


def test_the_task_itself_gets_everything() -> None:
    made = request([{"text": "hello"}], {"more": 1})
    assert (made.args, made.kwargs) == ([{"text": "hello"}], {"more": 1})
