"""A broker of a test's own, to be filled, demoted or locked, and the platform's programs on it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from celery import Celery
from kombu.exceptions import OperationalError
from redis import Redis

from stack.ports import free_port
from stack.processes import last_lines
from stack.servers.valkey import Valkey
from tests.platform import Platform, Program, eventually
from tests.servers import ValkeyServer


@dataclass(frozen=True)
class TunedValkey(Valkey):
    """Valkey with options beyond the usual."""

    options: tuple[str, ...] = ()

    @property
    def command(self) -> tuple[str, ...]:
        return (*super().command, *self.options)


@contextmanager
def own_broker(platform: Platform, directory: Path) -> Iterator[ValkeyServer]:
    """Start a Valkey of its own for the programs that `platform` starts from now on."""
    # Its directory may be changed while it runs: that is how its disk fails.
    options = ("--enable-protected-configs", "yes", "--busy-reply-threshold", "10")
    server = ValkeyServer(TunedValkey(directory / "own-broker", free_port(), options=options))
    server.start()
    platform.environment["ROOMKEEPER_BROKER_URL"] = server.url()
    try:
        yield server
    finally:
        # First its clients: they would complain into their logs.
        platform.close()
        server.stop()


def publish(server: ValkeyServer, task: str, payload: object, queue: str) -> bool:
    """Publish a task as an API service does; return whether the broker took it."""
    with Celery("service", broker=server.url(), set_as_current=False) as client:
        try:
            client.send_task(task, args=[payload], queue=queue, retry=False)
        except OperationalError:
            return False
    return True


def held(client: "Redis") -> tuple[int, int]:
    """Return how many messages are taken and not acknowledged, by their notes and by the index."""
    return int(client.hlen("unacked")), int(client.zcard("unacked_index"))


def alive(*programs: Program) -> None:
    """Fail unless the programs run."""
    for program in programs:
        assert program.process.poll() is None, last_lines(program.output())


def logged(program: Program, words: str, more_than: int = 0) -> Any:
    """Wait until a program has logged `words`, more often than so many times."""
    return eventually(lambda: program.output().count(words) > more_than, 30, f"{words!r} in {program.log}")
