"""`roomkeeper check` and the time zones by which defaults of columns without a zone are written."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from commands import checks
from tests.servers import PostgresServer
from workers.inspection import Fault
from workers.settings import load


@pytest.fixture
def name(database: str) -> str:
    """The database's name."""
    return str(conninfo_to_dict(database)["dbname"])


@pytest.fixture
def role(database: str) -> Iterator[str]:
    """A role of an API service that may write messages."""
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE ROLE chat_api LOGIN")
        connection.execute("GRANT INSERT (content) ON openchat.message TO chat_api")
        connection.execute("CREATE ROLE reporting LOGIN; GRANT SELECT ON openchat.message TO reporting")
        yield "chat_api"
        connection.execute("DROP OWNED BY chat_api, reporting; DROP ROLE chat_api, reporting")


def found(database: str, **settings: str) -> list[Fault]:
    given = {f"ROOMKEEPER_{name.upper()}": value for name, value in settings.items()}
    return checks.database(load({"DATABASE_URL": database, **given}))


def mended(database: str, fault: Fault) -> list[Fault]:
    """Run the statement of the advice; return what is found then."""
    match = re.search(r"Run: (ALTER [^;]+);", fault.advice)
    assert match is not None
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(match[1].encode())
    return found(database)


@contextmanager
def setting(database: str, statement: str) -> Iterator[None]:
    """Run `statement`, and with RESET at the end."""
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(statement.encode())
        try:
            yield
        finally:
            connection.execute(re.sub(r"SET TimeZone.*", "RESET TimeZone", statement).encode())


@pytest.mark.parametrize("zone", ["UTC", "Etc/GMT", "Africa/Abidjan"])
def test_a_zone_that_is_utc_by_another_name_is_right(database: str, name: str, zone: str) -> None:
    with setting(database, f"ALTER DATABASE {name} SET TimeZone = '{zone}'"):
        assert found(database) == []


@pytest.mark.parametrize("zone", ["Europe/Berlin", "Europe/London", "America/New_York", "WET"])
def test_the_database_is_named(database: str, name: str, role: str, zone: str) -> None:
    with setting(database, f"ALTER DATABASE {name} SET TimeZone = '{zone}'"):
        (fault,) = found(database)
        assert fault.sentence.startswith(f"The database sets the time zone {zone} for sessions of {role}")
        assert (fault.warning, "reporting" in fault.sentence) == (False, False)
        assert found(database, apps="pern,connect") == []
        assert mended(database, fault) == []


@pytest.mark.parametrize("where", ["", "IN DATABASE {name} "], ids=["", "in database"])
def test_a_role_is_named_and_its_own_setting_wins(database: str, name: str, role: str, where: str) -> None:
    within = f"ALTER ROLE {role} {where.format(name=name)}SET TimeZone = 'Asia/Kathmandu'"
    with setting(database, within):
        (fault,) = found(database)
        assert f"The role {role} for" in fault.sentence
        assert "+5.75 hours" in fault.sentence
        assert mended(database, fault) == []
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute(f"ALTER ROLE {role} IN DATABASE {name} RESET TimeZone".encode())


def test_the_configuration_of_the_server_is_named(database: str, name: str, postgres: PostgresServer) -> None:
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET TimeZone = 'Europe/Berlin'; ")
        connection.execute("SELECT pg_reload_conf()")
        try:
            (fault,) = found(database)
            assert fault.sentence.startswith(
                "The configuration of the server sets the time zone Europe/Berlin"
            )
            assert mended(database, fault) == []
        finally:
            connection.execute(f"ALTER DATABASE {name} RESET TimeZone".encode())
            connection.execute("ALTER SYSTEM RESET TimeZone")
            connection.execute("SELECT pg_reload_conf()")


def test_a_zone_that_cannot_be_seen_is_a_warning(
    database: str, role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGTZ", "Europe/Berlin")
    (fault,) = found(database)
    assert fault.warning
    assert "cannot be seen" in fault.sentence
