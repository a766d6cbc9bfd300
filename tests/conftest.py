"""Real servers for every test that asks for them: started once a session, at the first use, never before."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any, TypeVar

import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from stack import signatures
from stack.clamd import Clamd
from stack.ports import free_port
from stack.postgres import Postgres
from stack.valkey import Valkey
from tests.servers import ClamdServer, PostgresServer, RunningServer, ValkeyServer
from workers.settings import Settings

_numbers = count(1)
_started: list[RunningServer[Any]] = []
_R = TypeVar("_R", bound=RunningServer[Any])


@contextmanager
def _running(make: Callable[[], _R]) -> Iterator[_R]:
    """Run the server that `make` describes; once more if another program took its port meanwhile."""
    server = make()
    try:
        server.start()
    except RuntimeError:
        server = make()
        server.start()
    _started.append(server)
    try:
        yield server
    finally:
        _started.remove(server)
        server.stop()


@pytest.fixture(autouse=True)
def _revive() -> Iterator[None]:
    """Whatever server a test stopped, killed or froze serves the next test again."""
    yield
    for server in _started:
        server.start()


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """PostgreSQL for the whole session. Most tests want `empty_database` instead."""
    directory = tmp_path_factory.mktemp("postgres")
    with _running(lambda: PostgresServer(Postgres(directory, free_port(), durable=False))) as server:
        yield server


@pytest.fixture
def empty_database(postgres: PostgresServer) -> Iterator[str]:
    """The URL of a fresh database that is dropped afterwards, whoever is still connected."""
    name = f"test_{next(_numbers)}"
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute(SQL("CREATE DATABASE {}").format(Identifier(name)))
    yield postgres.url(name)
    postgres.start()
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute(SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(Identifier(name)))


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    """Valkey for the whole session. Most tests want `broker_url` instead."""
    directory = tmp_path_factory.mktemp("valkey")
    with _running(lambda: ValkeyServer(Valkey(directory, free_port()))) as server:
        yield server


@pytest.fixture
def broker_url(valkey: ValkeyServer) -> str:
    """The URL of a broker that is empty."""
    valkey.flush()
    return valkey.url()


@pytest.fixture(scope="session")
def clamd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClamdServer]:
    """clamd with test signatures, for the whole session."""
    directory = tmp_path_factory.mktemp("clamd")
    own = signatures.choose(directory / "signatures", own_only=True)
    limit = Settings.model_fields["max_file_bytes"].default
    with _running(lambda: ClamdServer(Clamd(directory, own, limit))) as server:
        yield server
