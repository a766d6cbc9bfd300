"""Users in the rooms of a Socket.IO service receive the events of sweeps, as `docs/cleanup.md` shows."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from models.echoroom import ChatSession, SessionParticipant, TypingIndicator, User, VoiceStatus
from stack.ports import free_port
from tests.docs.blocks import block
from tests.node.programs import HERE, Node, Running
from tests.platform import Platform, eventually
from tests.servers import ValkeyServer
from tests.sweeps.sweeping import NOW, add, ago, sweep

pytestmark = pytest.mark.system

SHOWN = block("socketio-service")
PEOPLE = (HERE / "people.mjs").read_text()
ADDRESS, PORT = "redis://live:6379", "3000"

Open = Callable[[str], Running]


@pytest.fixture
def telling(platform: Platform, valkey: ValkeyServer) -> Platform:
    platform.set(socketio_url=valkey.url(3))
    return platform


@pytest.fixture
def rooms(telling: Platform) -> tuple[UUID, UUID]:
    """Ada's and Bob's."""
    ada, bob = (add(telling, ChatSession, category="Calm") for _ in range(2))
    return ada, bob


@pytest.fixture
def open_service(
    telling: Platform, valkey: ValkeyServer, node: Node, rooms: tuple[UUID, UUID]
) -> Iterator[Open]:
    """Start the service, with Ada and Bob in their rooms, who look into the database when they hear."""
    with ExitStack() as services:

        def start(look: str) -> Running:
            port = free_port()
            assert (SHOWN.count(ADDRESS), SHOWN.count(PORT)) == (1, 1)
            code = SHOWN.replace(ADDRESS, valkey.url(5)).replace(PORT, str(port))
            given = {
                "database": telling.environment["DATABASE_URL"],
                "look": look,
                "port": port,
                "people": dict(zip(("Ada", "Bob"), map(str, rooms), strict=True)),
            }
            running = services.enter_context(node.start(code + PEOPLE, given))
            assert heard(running, 0) == []
            return running

        yield start


def heard(running: Running, number: int) -> Any:
    """Wait until so much was heard; return what."""
    eventually(lambda: len(running.output()) > number, what=f"{number} events are heard")
    output = running.output()
    assert output[0] == "all there"
    return output[1:]


def test_a_worker_tells_the_room_and_only_the_room_after_its_commit(
    telling: Platform, rooms: tuple[UUID, UUID], open_service: Open
) -> None:
    # It takes its time to commit.
    telling.sql(
        "CREATE FUNCTION tarry() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN PERFORM pg_sleep(0.3); RETURN NULL; END';"
        "CREATE CONSTRAINT TRIGGER tarry AFTER DELETE ON echoroom.typing_indicators"
        " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION tarry()"
    )
    service = open_service("SELECT user_id AS seen FROM echoroom.typing_indicators")
    telling.set(worker_processes=1)
    telling.worker("maintenance")
    expected = []
    # Bob's is the mark: he has not heard of Ada's room if it is the first that he hears.
    for name, place in zip(("Ada", "Bob"), rooms, strict=True):
        user = add(telling, User, username=name)
        typing = {"username": name, "expires_at": NOW - timedelta(days=1)}
        add(telling, TypingIndicator, session_id=place, user_id=user, **typing)
        telling.send("echoroom.typing", queue="cleanup")
        expected.append([name, "typing-stop", {"user_id": str(user)}, []])
        assert heard(service, len(expected)) == expected


def test_who_left_is_told_and_how_many_are_there(
    telling: Platform, rooms: tuple[UUID, UUID], open_service: Open
) -> None:
    service = open_service("SELECT user_id AS seen FROM echoroom.session_participants WHERE is_active")
    users = [str(_ghost(telling, place)) for place in rooms]
    with telling.engine.begin() as connection:
        connection.execute(ChatSession.__table__.update().values(current_participants=7))  # type: ignore[attr-defined]
    assert sweep(telling, "echoroom.ghosts").rows == 2
    left = heard(service, 2)
    assert sorted(left) == [
        [name, "user-left", {"user_id": user}, []] for name, user in zip(("Ada", "Bob"), users, strict=True)
    ]
    assert sweep(telling, "echoroom.counts").rows == 2
    counted = heard(service, 4)[2:]
    assert sorted(counted) == [
        [name, "participant-count", {"session_id": str(place), "count": 0}, []]
        for name, place in zip(("Ada", "Bob"), rooms, strict=True)
    ]


def test_who_does_not_speak_any_more(telling: Platform, rooms: tuple[UUID, UUID], open_service: Open) -> None:
    service = open_service("SELECT user_id AS seen FROM echoroom.voice_status WHERE is_speaking")
    user = add(telling, User, username="Ada", last_active=None)
    speaking = {"is_speaking": True, "is_muted": None, "last_updated": ago(minutes=11)}
    add(telling, VoiceStatus, session_id=rooms[0], user_id=user, **speaking)
    assert sweep(telling, "echoroom.voice_speaking").rows == 1
    expected = {"user_id": str(user), "isSpeaking": False, "isMuted": None}
    assert heard(service, 1) == [["Ada", "voice-status", expected, []]]


def _ghost(platform: Platform, place: UUID) -> UUID:
    user = add(platform, User, username="Ada", last_active=None)
    add(platform, SessionParticipant, session_id=place, user_id=user, joined_at=ago(days=1))
    return user
