"""What the tests of enqueueing by SQL share."""

from collections.abc import Callable, Iterator
from itertools import count
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from tests.servers import PostgresServer

_numbers = count(1)


@pytest.fixture
def service(database: str) -> Iterator["psycopg.Connection[tuple[object, ...]]"]:
    """The connection of an API service, each statement a transaction of its own."""
    with psycopg.connect(database, autocommit=True) as connection:
        yield connection


@pytest.fixture
def role(postgres: PostgresServer, database: str) -> Iterator[Callable[[], str]]:
    """Make a role that may log in and nothing else; return its name. All are gone after the test."""
    made: list[str] = []

    def make() -> str:
        # A name that must be quoted.
        made.append(f"Api-{next(_numbers)}")
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute(SQL("CREATE ROLE {} LOGIN").format(Identifier(made[-1])))
        return made[-1]

    yield make
    with psycopg.connect(database, autocommit=True) as connection:
        for name in map(Identifier, made):
            connection.execute(SQL("REASSIGN OWNED BY {} TO CURRENT_USER").format(name))
            connection.execute(SQL("DROP OWNED BY {}").format(name))
            connection.execute(SQL("DROP ROLE {}").format(name))


def url_of(database: str, role: str) -> str:
    """Return the URL of the database for another role."""
    parts = urlsplit(database)
    return parts._replace(netloc=f"{role}@{parts.hostname}:{parts.port}").geturl()
