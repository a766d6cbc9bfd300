"""PgBouncer in front of a PostgreSQL server, from the operating system: transaction pooling."""

import shutil
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row
from sqlalchemy.engine import make_url

from stack.errors import StackError
from stack.processes import RunCommand, bound, run
from stack.servers.postgres import USER, as_ordinary_user

#: Debian's place for it is on the path of root only.
_SYSTEM_DIRECTORY = "/usr/sbin"


def system_binary() -> Path:
    """Return the installed PgBouncer.

    Raises:
        StackError: it is not installed; the message says what to type.
    """
    found = shutil.which("pgbouncer") or shutil.which("pgbouncer", path=_SYSTEM_DIRECTORY)
    if found is None:
        raise StackError("PgBouncer is missing; type: sudo apt-get install pgbouncer")
    return Path(found)


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
        return (*as_ordinary_user(), *bound(self.stop_signal), str(system_binary()), str(self._configuration))

    def prepare(self, run: RunCommand = run) -> None:  # noqa: ARG002 - nothing needs to be run
        """See `Server`."""
        system_binary()
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
