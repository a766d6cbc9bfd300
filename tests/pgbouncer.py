"""PgBouncer in front of a PostgreSQL server, for tests: transaction pooling, as it is mostly run."""

import shutil
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row
from sqlalchemy.engine import make_url

from stack.ports import free_port
from stack.processes import RunCommand, bound, run
from stack.servers.postgres import USER, as_ordinary_user
from tests.servers import RunningServer

#: Debian's place for it is on the path of root only.
PROGRAM = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin") or "pgbouncer"


@dataclass(frozen=True)
class PgBouncer:
    """A pooler on 127.0.0.1 for the PostgreSQL server on `server_port`; everyone may connect, as there.

    Attributes:
        options: further lines of its configuration, such as the pool's size.
    """

    directory: Path
    port: int
    server_port: int
    options: Mapping[str, str] = field(default_factory=dict)

    name = "pgbouncer"
    #: Ends at once; SIGINT would wait for the clients.
    stop_signal = signal.SIGTERM

    @property
    def address(self) -> str:
        """The URL of its own console."""
        return f"postgresql://{USER}@127.0.0.1:{self.port}/pgbouncer"

    @property
    def command(self) -> tuple[str, ...]:
        """See `Server`. It refuses to be root, as PostgreSQL does."""
        return (*as_ordinary_user(), *bound(self.stop_signal), PROGRAM, str(self._configuration))

    def prepare(self, run: RunCommand = run) -> None:
        """See `Server`."""
        self.directory.mkdir(parents=True, exist_ok=True)
        users = self.directory / "users.txt"
        users.write_text(f'"{USER}" ""\n')
        options = {
            "listen_addr": "127.0.0.1",
            "listen_port": str(self.port),
            "unix_socket_dir": "",
            "auth_type": "trust",
            "auth_file": str(users),
            "admin_users": USER,
            "pool_mode": "transaction",
            **self.options,
        }
        lines = "\n".join(f"{name} = {value}" for name, value in options.items())
        self._configuration.write_text(
            f"[databases]\n* = host=127.0.0.1 port={self.server_port}\n\n[pgbouncer]\n{lines}\n"
        )

    def ready(self) -> bool:
        """See `Server`."""
        try:
            self.ask("SHOW VERSION")
        except psycopg.OperationalError:
            return False
        return True

    def ask(self, command: str) -> list[dict[str, Any]]:
        """Return what its console answers, `SHOW POOLS` say."""
        with psycopg.connect(
            self.address, autocommit=True, connect_timeout=2, row_factory=dict_row
        ) as console:
            # The console knows the simple protocol only.
            cursor = psycopg.ClientCursor(console)
            cursor.row_factory = dict_row
            return list(cursor.execute(command.encode()).fetchall())

    def url(self, behind: str) -> str:
        """Return the URL of the database that `behind` names, through the pooler."""
        return make_url(behind).set(port=self.port).render_as_string(hide_password=False)

    @property
    def _configuration(self) -> Path:
        return self.directory / "pgbouncer.ini"


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
