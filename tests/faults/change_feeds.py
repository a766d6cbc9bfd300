"""A real publisher and a real subscriber: two PostgreSQL servers, and logical replication between them."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
from psycopg.sql import SQL, Identifier

from stack.ports import free_port
from stack.servers.postgres import USER, Postgres
from tasks.apps import APPS
from tests.platform import eventually
from tests.servers import PostgresServer
from workers import migrate
from workers.bootstrap import bootstrap
from workers.db import create
from workers.settings import load

TEMPLATE = "template_platform"
SUBSCRIPTION = "feed"
#: A change is at the subscriber within fractions of a second.
PATIENCE_SECONDS = 20.0
_numbers = count(1)


@contextmanager
def publisher_and_subscriber(directory: Path) -> Iterator[tuple[PostgresServer, PostgresServer]]:
    """Run both, each with a template database that has the tables of `pern` and of the platform.

    `pern.marks` is a table more, by which a test knows how far the subscriber has come.
    """
    servers = [
        PostgresServer(Postgres(directory / name, free_port(), durable=False))
        for name in ("publisher", "subscriber")
    ]
    try:
        for server in servers:
            server.server.prepare()
            with (server.server.directory / "data" / "postgresql.auto.conf").open("a") as file:
                file.write("wal_level = logical\nautovacuum = off\nwal_retrieve_retry_interval = '100ms'\n")
            server.start()
            execute(server.url(), f"CREATE DATABASE {TEMPLATE}")
            url = server.url(TEMPLATE)
            engine = create(load({"DATABASE_URL": url, "ROOMKEEPER_APPS": "pern"}))
            bootstrap(engine, [APPS["pern"].models])
            migrate.upgrade(engine)
            engine.dispose()
            execute(url, "CREATE TABLE pern.marks (id bigint PRIMARY KEY)")
        yield servers[0], servers[1]
    finally:
        for server in servers:
            server.stop()


def execute(url: str, *statements: str) -> list[tuple[Any, ...]]:
    """Run statements, each in a transaction of its own; return the rows of the last one."""
    rows: list[tuple[Any, ...]] = []
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            cursor = connection.execute(statement.encode())
            rows = cursor.fetchall() if cursor.description else []
    return rows


@dataclass
class ChangeFeed:
    """A database of the publisher, and one of the subscriber, alike and without rows."""

    publisher: str
    subscriber: str
    _marks: Iterator[int] = field(default_factory=lambda: count(1))

    def publish(self, *statements: str) -> list[tuple[Any, ...]]:
        """Run statements on the publisher."""
        return execute(self.publisher, *statements)

    def receive(self, *statements: str) -> list[tuple[Any, ...]]:
        """Run statements on the subscriber."""
        return execute(self.subscriber, *statements)

    def subscribe(self, *publications: str) -> None:
        """Subscribe to publications; rows that are there already are not copied."""
        address = psycopg.conninfo.conninfo_to_dict(self.publisher)
        place = f"host={address['host']} port={address['port']} user={USER} dbname={address['dbname']}"
        self.receive(
            f"CREATE SUBSCRIPTION {SUBSCRIPTION} CONNECTION '{place}' PUBLICATION {', '.join(publications)}"
            f" WITH (copy_data = false, slot_name = '{address['dbname']}')"
        )

    def caught_up(self) -> None:
        """Wait until the subscriber has applied all that was committed before."""
        mark = next(self._marks)
        self.publish(f"INSERT INTO pern.marks VALUES ({mark})")
        seen = f"SELECT 1 FROM pern.marks WHERE id = {mark}"
        eventually(lambda: self.receive(seen), PATIENCE_SECONDS, "the subscriber applies changes")

    def both(self, query: str) -> tuple[list[Any], list[Any]]:
        """Return what a query returns on the publisher, and on the subscriber once it has caught up."""
        self.caught_up()
        return sorted(self.publish(query)), sorted(self.receive(query))

    def end(self) -> None:
        """End the subscription, so that the servers have room for the next one."""
        with suppress(psycopg.errors.UndefinedObject):
            self.receive(f"DROP SUBSCRIPTION {SUBSCRIPTION}")


def change_feed(servers: tuple[PostgresServer, PostgresServer]) -> ChangeFeed:
    """Return new databases, a publisher and a subscriber without publication and subscription."""
    name = f"feed_{next(_numbers)}"
    for server in servers:
        with psycopg.connect(server.url(), autocommit=True) as connection:
            copy = SQL("CREATE DATABASE {} TEMPLATE {}").format(Identifier(name), Identifier(TEMPLATE))
            connection.execute(copy)
    publisher, subscriber = servers
    return ChangeFeed(publisher.url(name), subscriber.url(name))
