"""A crowd of events: published in portions, within a time, and never all in memory at once."""

from collections.abc import Iterator
from uuid import UUID

import pytest
from redis import Redis
from redis.client import Pipeline
from structlog.testing import capture_logs

from tasks import socketio
from tasks.apps import POLICIES
from tests.servers import ValkeyServer
from tests.sweeps.test_socketio_events import Listener, stopped
from workers.settings import Settings, load

TYPING = POLICIES["echoroom.typing"]
CROWD = 20_000


@pytest.fixture
def settings(valkey: ValkeyServer) -> Iterator[Settings]:
    socketio._line.cache_clear()
    yield load({"DATABASE_URL": "postgresql://127.0.0.1:1/none", "ROOMKEEPER_SOCKETIO_URL": valkey.url(3)})
    socketio._line.cache_clear()


@pytest.fixture
def pipelines(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many commands each pipeline has sent to the real server."""
    sizes: list[int] = []
    real = Pipeline.execute

    def execute(pipeline: Pipeline, raise_on_error: bool = True) -> list[object]:
        sizes.append(len(pipeline.command_stack))
        return real(pipeline, raise_on_error)

    monkeypatch.setattr(Pipeline, "execute", execute)
    return sizes


def test_a_crowd_is_published_in_portions(
    settings: Settings, valkey: ValkeyServer, pipelines: list[int]
) -> None:
    with Redis.from_url(valkey.url()) as client:
        before = client.info("commandstats").get("cmdstat_publish", {}).get("calls", 0)
        socketio.emit(TYPING, [(UUID(int=1), UUID(int=one)) for one in range(CROWD)], settings)
        calls = client.info("commandstats")["cmdstat_publish"]["calls"] - before
    assert calls == CROWD
    assert max(pipelines) <= 500
    assert sum(pipelines) == CROWD


def test_all_are_heard_in_their_order(settings: Settings, valkey: ValkeyServer) -> None:
    listener = Listener(valkey.url())
    try:
        users = [UUID(int=one) for one in range(1_201)]
        socketio.emit(TYPING, [(UUID(int=1), user) for user in users], settings)
        assert listener.heard() == [stopped(UUID(int=1), user) for user in users]
    finally:
        listener.close()


def test_what_there_is_no_time_for_is_left_out_with_a_warning(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, pipelines: list[int]
) -> None:
    """A Redis that answers slowly must not hold up a sweep for a minute."""
    monkeypatch.setattr(socketio, "LONGEST_SECONDS", 0.0)
    with capture_logs() as logs:
        socketio.emit(TYPING, [(UUID(int=1), UUID(int=one)) for one in range(1_200)], settings)
    assert pipelines == [500]
    ((name, events),) = [(line["event"], line["events"]) for line in logs]
    assert (name, events) == ("socketio.emit_failed", 700)
    # And it is left alone for a while.
    socketio.emit(TYPING, [(UUID(int=1), UUID(int=1))], settings)
    assert pipelines == [500]
