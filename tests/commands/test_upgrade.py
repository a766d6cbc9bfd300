"""`roomkeeper db` as a role without CREATE on the database, which is how production hands schemas out."""

from collections.abc import Iterator

import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from models.platform import SCHEMA
from tasks.apps import APPS
from tests.commands.cli import roomkeeper
from tests.platform import environment
from workers import revision

SCHEMAS = [SCHEMA, "auth", *(schema for app in APPS.values() for schema in app.models.SCHEMAS)]


@pytest.fixture
def owner(empty_database: str) -> Iterator[str]:
    """The URL of a role that owns all schemas, empty ones, and may create no other."""
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute("CREATE ROLE owner_of_schemas LOGIN")
        for name in SCHEMAS:
            connection.execute(
                SQL("CREATE SCHEMA {} AUTHORIZATION owner_of_schemas").format(Identifier(name))
            )
        url = empty_database.replace("roomkeeper@", "owner_of_schemas@")
        with environment({"DATABASE_URL": url}):
            yield url
        connection.execute("DROP OWNED BY owner_of_schemas")
        connection.execute("DROP ROLE owner_of_schemas")


def test_the_owner_of_the_schemas_needs_no_create_on_the_database(owner: str) -> None:
    with (
        psycopg.connect(owner, autocommit=True) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute("CREATE SCHEMA another")
    for _ in range(2):
        for command in ("upgrade", "bootstrap"):
            outcome = roomkeeper("db", command)
            assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.splitlines() == [f"{name}: is there" for name in APPS]
    assert roomkeeper("db", "upgrade").out == f"roomkeeper: at {revision.newest()}\n"
