"""What is told of sweeps: the messages themselves. `tests/node/test_socketio.py` has who gets them."""

import dataclasses
import json
import os
import socket
import socketserver
import threading
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from time import monotonic
from typing import Any
from uuid import UUID, uuid4

import msgpack
import pytest
from redis import Redis
from structlog.testing import capture_logs

from models.echoroom import ChatSession, TypingIndicator, User
from tasks import socketio
from tasks.apps import POLICIES
from tasks.policies.sweep import Event, Sweep
from tests.platform import Platform
from tests.servers import ValkeyServer
from tests.sweeps.sweeping import NOW, add, ago, rows, sweep
from workers.settings import Settings, load

TYPING = POLICIES["echoroom.typing"]
PAGE = Path(__file__).parents[2] / "docs" / "cleanup.md"


class Listener:
    """Hears every message of a Redis."""

    def __init__(self, url: str) -> None:
        self._client = Redis.from_url(url, socket_timeout=5)
        self._pubsub = self._client.pubsub()  # type: ignore[no-untyped-call]
        self._pubsub.psubscribe("*")
        assert self._pubsub.get_message(timeout=5)

    def heard(self) -> list[tuple[str, Any]]:
        """Return the channels and contents of all messages since the last time."""
        end = uuid4().bytes
        self._client.publish("end", end)
        found = []
        while (message := self._pubsub.get_message(timeout=5)) and message["data"] != end:
            found.append((message["channel"].decode(), msgpack.unpackb(message["data"])))
        assert message, "the end was not heard"
        return found

    def close(self) -> None:
        self._pubsub.close()
        self._client.close()


@pytest.fixture(autouse=True)
def _anew() -> Iterator[None]:
    """No test pauses for what another saw."""
    socketio._line.cache_clear()
    yield
    socketio._line.cache_clear()


@pytest.fixture
def listener(valkey: ValkeyServer) -> Iterator[Listener]:
    made = Listener(valkey.url())
    yield made
    made.close()


@pytest.fixture
def settings(valkey: ValkeyServer) -> Settings:
    """For what needs no database."""
    return load({"DATABASE_URL": "postgresql://127.0.0.1:1/none", "ROOMKEEPER_SOCKETIO_URL": valkey.url(3)})


@pytest.fixture
def telling(platform: Platform, valkey: ValkeyServer) -> Platform:
    """A platform that tells."""
    platform.set(socketio_url=valkey.url(3))
    return platform


def room(platform: Platform) -> UUID:
    return add(platform, ChatSession, category="Calm")


def typing(platform: Platform, place: UUID | None, name: str = "Ada", **values: Any) -> UUID:
    """Insert a user who has stopped typing there; return the user's id."""
    user = add(platform, User, username=name)
    indicator = {"session_id": place, "user_id": user, "username": name, "expires_at": ago(seconds=1)}
    add(platform, TypingIndicator, **indicator | values)
    return user


def message(place: UUID, event: str, **data: Any) -> tuple[str, Any]:
    """Return the channel and the content that the adapter understands."""
    packet = {"type": 2, "data": [event, data], "nsp": "/"}
    return f"socket.io#/#{place}#", ["roomkeeper", packet, {"rooms": [str(place)], "except": [], "flags": {}}]


def stopped(place: UUID, user: UUID | None) -> tuple[str, Any]:
    return message(place, "typing-stop", user_id=user and str(user))


def test_each_row_is_told_once_in_its_room(telling: Platform, listener: Listener) -> None:
    one, other = room(telling), room(telling)
    expected = [stopped(place, typing(telling, place)) for place in (one, other, one)]
    typing(telling, one, expires_at=NOW)
    assert sweep(telling, TYPING.name).rows == 3
    assert by_room(listener.heard()) == by_room(expected)
    assert sweep(telling, TYPING.name).rows == 0
    assert listener.heard() == []


def test_a_backlog_is_told_batch_by_batch(telling: Platform, listener: Listener) -> None:
    telling.sql(
        "INSERT INTO echoroom.chat_sessions (category) VALUES ('Calm');"
        "INSERT INTO echoroom.users (username) SELECT n FROM generate_series(1, 3000) AS n;"
        "INSERT INTO echoroom.typing_indicators (session_id, user_id, username, expires_at)"
        " SELECT chat_sessions.id, users.id, username, '2026-01-01Z'"
        " FROM echoroom.users, echoroom.chat_sessions"
    )
    ((place,),) = telling.sql("SELECT id FROM echoroom.chat_sessions")
    users = [user for (user,) in telling.sql("SELECT id FROM echoroom.users")]
    done = sweep(telling, TYPING.name)
    assert (done.rows, done.batches > 1) == (3000, True)
    assert by_room(listener.heard()) == by_room(stopped(place, user) for user in users)


def test_nothing_is_told_unless_it_is_switched_on(platform: Platform, listener: Listener) -> None:
    typing(platform, room(platform))
    assert not socketio.wanted(TYPING, platform.settings)
    assert sweep(platform, TYPING.name).rows == 1
    assert listener.heard() == []


def test_a_policy_without_an_event_tells_nothing(settings: Settings, listener: Listener) -> None:
    quiet = dataclasses.replace(TYPING, event=None)
    assert not socketio.wanted(quiet, settings)
    assert socketio.wanted(TYPING, settings)
    socketio.emit(quiet, [(uuid4(), uuid4())], settings)
    assert listener.heard() == []


def test_a_row_without_a_room_is_told_to_nobody(telling: Platform, listener: Listener) -> None:
    place = room(telling)
    typing(telling, None)
    user = typing(telling, place)
    assert sweep(telling, TYPING.name).rows == 2
    assert listener.heard() == [stopped(place, user)]


def test_what_is_rolled_back_is_not_told(telling: Platform, listener: Listener) -> None:
    place = room(telling)
    free = typing(telling, place)
    # At the commit, when all else is done.
    telling.sql(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN IF OLD.username = ''Held'' THEN RAISE EXCEPTION ''no''; END IF; RETURN NULL; END';"
        "CREATE CONSTRAINT TRIGGER refuse AFTER DELETE ON echoroom.typing_indicators"
        " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()"
    )
    typing(telling, place, "Held")
    done = sweep(telling, TYPING.name)
    assert (done.rows, done.remaining) == (1, 1)
    assert [row["username"] for row in rows(telling, TypingIndicator).values()] == ["Held"]
    assert listener.heard() == [stopped(place, free)]


def by_room(messages: Iterable[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Return messages in an order of their own: within a batch they have none."""
    return sorted(messages, key=repr)


# -- values -----------------------------------------------------------------------------------------------


def with_data(data: dict[str, Any]) -> Sweep:
    event = Event(name="typing-stop", room=TypingIndicator.session_id, data=data)
    return dataclasses.replace(TYPING, event=event)


def argument_sent(settings: Settings, listener: Listener, data: dict[str, Any], *values: Any) -> Any:
    """Return the event's argument for these values of columns."""
    place = uuid4()
    socketio.emit(with_data(data), [(place, *values)], settings)
    ((_, (_, packet, _)),) = listener.heard()
    return packet["data"][1]


@pytest.fixture
def far_from_utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine in Tokyo."""
    with monkeypatch.context() as patched:
        patched.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("far_from_utc")
@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, None),
        (True, True),
        (-1, -1),
        ("Ada ☺", "Ada ☺"),
        (UUID(int=10), "00000000-0000-0000-0000-00000000000a"),
        (datetime(2026, 3, 1, 12, 0, 0, 999, UTC), "2026-03-01T12:00:00.000Z"),
        (datetime(2026, 3, 1, 1, 0, tzinfo=timezone(timedelta(hours=2))), "2026-02-28T23:00:00.000Z"),
        # As `openchat` keeps them.
        (datetime(2026, 3, 1, 12, 0, 0, 123_000), "2026-03-01T12:00:00.123Z"),  # noqa: DTZ001
    ],
)
def test_values_are_what_clients_know(settings: Settings, listener: Listener, value: Any, shown: Any) -> None:
    assert argument_sent(settings, listener, {"it": TypingIndicator.username}, value) == {"it": shown}


def test_columns_and_plain_values_keep_their_places(settings: Settings, listener: Listener) -> None:
    data = {"a": 1, "b": TypingIndicator.username, "c": None, "d": TypingIndicator.user_id, "e": False}
    shown = argument_sent(settings, listener, data, "Ada", UUID(int=1))
    assert shown == {"a": 1, "b": "Ada", "c": None, "d": str(UUID(int=1)), "e": False}
    assert list(shown) == list(data)


def test_a_column_that_is_both_room_and_told(settings: Settings, listener: Listener) -> None:
    place = uuid4()
    policy = with_data({"session_id": TypingIndicator.session_id})
    socketio.emit(policy, [(place, place)], settings)
    assert listener.heard() == [message(place, "typing-stop", session_id=str(place))]


def test_a_room_may_be_anything_that_is_a_text(settings: Settings, listener: Listener) -> None:
    socketio.emit(TYPING, [(7, None), ("#ö#", None)], settings)
    channels = [(channel, options["rooms"]) for channel, (_, _, options) in listener.heard()]
    assert channels == [("socket.io#/#7#", ["7"]), ("socket.io#/##ö##", ["#ö#"])]


def test_what_clients_would_not_know_is_not_told(settings: Settings) -> None:
    with pytest.raises(TypeError, match="an event cannot tell a date"):
        socketio.emit(TYPING, [(uuid4(), date(2026, 3, 1))], settings)


# -- a Redis that is away ---------------------------------------------------------------------------------


@pytest.mark.parametrize("away", [ValkeyServer.kill, ValkeyServer.freeze])
def test_a_sweep_succeeds_without_it_and_tells_again_later(
    telling: Platform, valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch, away: Any
) -> None:
    place = room(telling)
    typing(telling, place)
    # It has a connection.
    assert sweep(telling, TYPING.name).rows == 1
    away(valkey)
    begun = monotonic()
    with capture_logs() as logs:
        for _ in range(3):
            typing(telling, place)
            assert sweep(telling, TYPING.name).rows == 1
    # One wait, then it is left alone.
    assert monotonic() - begun < 2 * socketio.TIMEOUT_SECONDS
    ((name, policy, events),) = [(line["event"], line["policy"], line["events"]) for line in logs]
    assert (name, policy, events) == ("socketio.emit_failed", TYPING.name, 1)
    assert rows(telling, TypingIndicator) == {}
    outcomes = telling.sql("SELECT outcome, rows FROM roomkeeper.job_runs WHERE job = :job", job=TYPING.name)
    assert outcomes == [("done", 1)] * 4
    valkey.start()
    listener = Listener(valkey.url())
    typing(telling, place)
    assert sweep(telling, TYPING.name).rows == 1
    assert listener.heard() == []
    # The pause is over.
    now = monotonic() + socketio.PAUSE_SECONDS
    monkeypatch.setattr("tasks.socketio.monotonic", lambda: now)
    user = typing(telling, place)
    assert sweep(telling, TYPING.name).rows == 1
    assert listener.heard() == [stopped(place, user)]
    listener.close()


def test_a_connection_that_was_closed_meanwhile_costs_no_event(
    settings: Settings, valkey: ValkeyServer, listener: Listener
) -> None:
    place = uuid4()
    socketio.emit(TYPING, [(place, None)], settings)
    with Redis.from_url(valkey.url()) as client:
        client.client_kill_filter(_type="normal", skipme=True)
        socketio.emit(TYPING, [(place, None)], settings)
    assert listener.heard() == [stopped(place, None)] * 2


@pytest.mark.parametrize("more", ["?nonsense=1", "?socket_timeout=soon"])
def test_an_address_that_makes_no_sense_is_like_one_that_is_away(telling: Platform, more: str) -> None:
    telling.set(socketio_url=f"redis://127.0.0.1:1/0{more}")
    typing(telling, room(telling))
    with capture_logs() as logs:
        assert sweep(telling, TYPING.name).rows == 1
    assert [line["event"] for line in logs] == ["socketio.emit_failed"]


def test_what_may_have_arrived_is_not_sent_again(valkey: ValkeyServer, listener: Listener) -> None:
    class HangsUp(socketserver.BaseRequestHandler):
        """Passes all on, and hangs up when something has been published, before the answer is heard."""

        def handle(self) -> None:
            with socket.create_connection(("127.0.0.1", valkey.server.port)) as upstream:
                while asked := self.request.recv(65536):
                    upstream.sendall(asked)
                    answer = upstream.recv(65536)
                    if b"PUBLISH" in asked:
                        return
                    self.request.sendall(answer)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), HangsUp) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, args=(0.02,))
        thread.start()
        url = f"redis://127.0.0.1:{proxy.server_address[1]}/0?retry_on_timeout=yes"
        settings = load({"DATABASE_URL": "postgresql://127.0.0.1:1/none", "ROOMKEEPER_SOCKETIO_URL": url})
        place = uuid4()
        with capture_logs() as logs:
            socketio.emit(TYPING, [(place, None)], settings)
        proxy.shutdown()
        thread.join()
    assert [line["event"] for line in logs] == ["socketio.emit_failed"]
    assert listener.heard() == [stopped(place, None)]


def test_a_forked_child_has_a_connection_of_its_own(
    settings: Settings, valkey: ValkeyServer, listener: Listener
) -> None:
    rooms = [uuid4() for _ in range(4)]
    socketio.emit(TYPING, [(rooms[0], None)], settings)
    with Redis.from_url(valkey.url()) as client:
        before = {one["id"] for one in client.client_list()}
        emitted, emits = os.pipe()
        stays, ends = os.pipe()
        child = os.fork()
        if not child:
            # Whatever happens, the child must not go on with the tests.
            try:
                socketio.emit(TYPING, [(rooms[1], None)], settings)
                os.write(emits, b"told")
                os.read(stays, 1)
            finally:
                os._exit(0)
        os.close(emits)
        try:
            assert os.read(emitted, 4) == b"told"
            socketio.emit(TYPING, [(rooms[2], None)], settings)
            after = {one["id"] for one in client.client_list()}
        finally:
            os.write(ends, b".")
            os.waitpid(child, 0)
            for end in (emitted, stays, ends):
                os.close(end)
    # The child opened its own connection; none was closed.
    assert before < after
    assert len(after) == len(before) + 1
    socketio.emit(TYPING, [(rooms[3], None)], settings)
    assert by_room(listener.heard()) == by_room(stopped(place, None) for place in rooms)


# -- the page ---------------------------------------------------------------------------------------------

#: What a client knows a column's values as. Nothing else can be told.
TYPES = {UUID: "uuid", datetime: "time", bool: "boolean", int: "number", str: "string"}
#: Events that a Socket.IO client would take for a broken connection.
RESERVED = {"connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener"}
EVENTS = {name: policy.event for name, policy in POLICIES.items() if policy.event is not None}


def table() -> str:
    """Return the page's table of all events."""
    lines = ["| policy | event | argument | room |", "| --- | --- | --- | --- |"]
    for name, event in EVENTS.items():
        data = ", ".join(f"{key}: {described(value)}" for key, value in event.data.items())
        where = f"{POLICIES[name].table.fullname}.{event.room.key}"
        lines.append(f"| `{name}` | `{event.name}` | `{{ {data} }}` | `{where}` |")
    return "\n".join(lines)


def described(value: Any) -> str:
    if not hasattr(value, "property"):
        return json.dumps(value)
    (column,) = value.property.columns
    return TYPES[column.type.python_type] + (" or null" if column.nullable else "")


def test_the_page_lists_all_events() -> None:
    shown = PAGE.read_text().partition("<!-- events -->\n")[2].partition("\n<!-- /events -->")[0]
    assert shown == table(), f"put this between the markers:\n{table()}"


@pytest.mark.parametrize("event", EVENTS.values(), ids=EVENTS)
def test_no_event_has_a_name_of_the_protocol(event: Event) -> None:
    assert event.name not in RESERVED
