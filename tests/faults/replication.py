"""A real PostgreSQL primary with a streaming replica, and what operators do to them."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from psycopg.sql import SQL, Identifier

from stack.ports import free_port
from stack.servers.postgres import USER, Postgres, as_ordinary_user, binaries
from tests.platform import eventually
from tests.servers import PostgresServer


@contextmanager
def primary_and_replica(directory: Path) -> Iterator[tuple[PostgresServer, PostgresServer]]:
    """Run a primary, and a replica that streams from it."""
    servers: list[PostgresServer] = []
    try:
        primary = _started(servers, Postgres(directory / "primary", free_port(), durable=False))
        replica = Postgres(directory / "replica", free_port(), durable=False)
        _copy(primary, replica.directory)
        yield primary, _started(servers, replica)
    finally:
        for server in servers:
            server.stop()


def _started(servers: list[PostgresServer], server: Postgres) -> PostgresServer:
    servers.append(PostgresServer(server))
    servers[-1].start()
    return servers[-1]


def _copy(primary: PostgresServer, directory: Path) -> None:
    directory.mkdir(parents=True)
    command = [str(binaries() / "pg_basebackup"), "-D", str(directory / "data"), "-h", "127.0.0.1"]
    options = ["-p", str(primary.server.port), "-U", USER, "-R", "--checkpoint=fast", "--no-sync"]
    subprocess.run([*as_ordinary_user(), *command, *options], check=True, capture_output=True, timeout=60)


def multi_host_url(*servers: PostgresServer, database: str = "postgres") -> str:
    """Return libpq's URL of several servers."""
    hosts = ",".join(f"127.0.0.1:{server.server.port}" for server in servers)
    return f"postgresql://{USER}@{hosts}/{database}"


def run(server: PostgresServer, statement: str) -> Any:
    """Run a statement as the operator; return the first value, if there is one."""
    with psycopg.connect(server.url(), autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        row = cursor.fetchone() if cursor.description else None
        return row[0] if row else None


def refuse_writes(server: PostgresServer, *, on: bool = True) -> None:
    """Make every new transaction of a server read-only, those of open connections too."""
    run(server, f"ALTER SYSTEM SET default_transaction_read_only = {'on' if on else 'off'}")
    run(server, "SELECT pg_reload_conf()")
    eventually(lambda: run(server, "SHOW default_transaction_read_only") == ("on" if on else "off"))


def promote(primary: PostgresServer, replica: PostgresServer) -> None:
    """Stop the primary in good order, and make its replica the primary."""
    # A primary that is stopped so sends all that it has written to its replicas first.
    primary.stop()
    assert run(replica, "SELECT pg_promote()")


def follow(replica: PostgresServer, primary: PostgresServer) -> None:
    """Start a stopped server as a replica of another."""
    data = replica.server.directory / "data"
    (data / "standby.signal").touch()
    with (data / "postgresql.auto.conf").open("a") as file:
        place = f"host=127.0.0.1 port={primary.server.port} user={USER}"
        file.write(f"default_transaction_read_only = off\nprimary_conninfo = '{place}'\n")
    replica.start()
    assert run(replica, "SELECT pg_is_in_recovery()")


@contextmanager
def database_refuses_writes(server: PostgresServer, database: str) -> Iterator[None]:
    """Make one database read-only; the platform's sessions are ended, for they would not notice."""
    name = Identifier(database)
    with psycopg.connect(server.url(), autocommit=True) as connection:
        try:
            connection.execute(SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(name))
            _end_sessions(connection, database)
            yield
        finally:
            connection.execute(SQL("ALTER DATABASE {} RESET default_transaction_read_only").format(name))
            _end_sessions(connection, database)


def _end_sessions(connection: psycopg.Connection[Any], database: str) -> None:
    connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = %s AND application_name = 'roomkeeper'",
        [database],
    )
