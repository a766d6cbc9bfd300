"""PgBouncer in front of a PostgreSQL server that tests have started."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy.engine import make_url

from stack.ports import free_port
from stack.servers.pgbouncer import PgBouncer
from tests.servers import RunningServer


@contextmanager
def pooled(directory: Path, database: str, **options: str) -> Iterator[PgBouncer]:
    """Run a pooler in front of the server of the URL `database`."""
    port = make_url(database).port
    assert port is not None
    server = RunningServer(PgBouncer(directory, free_port(), port, options))
    server.start()
    try:
        yield server.server
    finally:
        server.stop()
