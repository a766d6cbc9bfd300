"""The platform's own programs, as the local stack runs them; `docker-compose.yml` runs the same."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from celery import Celery

from stack.clock import Clocks
from stack.processes import bound
from stack.supervise import Program
from tasks.apps import enabled
from workers.bootstrap import bootstrap
from workers.broker_errors import BROKER_AWAY
from workers.db import create
from workers.migrate import upgrade
from workers.settings import Settings, variable

Probe = Callable[[], bool]

#: name → what follows `roomkeeper` on the command line.
PROGRAMS: dict[str, tuple[str, ...]] = {
    "attachments": ("worker", "attachments"),
    "delivery": ("worker", "delivery"),
    "maintenance": ("worker", "maintenance"),
    "beat": ("beat",),
    "flower": ("flower",),
    "metrics": ("metrics",),
}

#: Beyond what a worker may finish: handing the rest back to the queue, and saying goodbye.
_GOODBYE_SECONDS = 10


def roomkeeper(arguments: tuple[str, ...]) -> tuple[str, ...]:
    """Return the command line `roomkeeper ARGUMENTS` of this environment."""
    return (str(Path(sys.executable).with_name("roomkeeper")), *arguments)


def set_up(settings: Settings) -> None:
    """Do what `roomkeeper db bootstrap` and `roomkeeper db upgrade` do; doing it again changes nothing.

    Here and not by command, for half of a quick start would go into importing everything twice more.

    Raises:
        BootstrapError: the database holds tables that are in the way.
    """
    engine = create(settings)
    try:
        bootstrap(engine, [page.models for page in enabled(settings).values()])
        upgrade(engine)
    finally:
        engine.dispose()


def supervised(settings: Settings, counts_port: int, clocks: Clocks | None = None) -> list[Program]:
    """Return the programs as they are to be supervised; one worker serves its counts on `counts_port`.

    Args:
        clocks: gives each program a wall clock of its own.
    """
    seconds = settings.shutdown_seconds + _GOODBYE_SECONDS
    # For one program alone: two on one machine cannot have the same.
    counting = {variable("worker_metrics_port"): str(counts_port)}

    def environment(name: str) -> tuple[str, ...]:
        own = counting if name == "attachments" else {}
        own = own | (clocks.environment(name) if clocks is not None else {})
        return ("env", *(f"{key}={value}" for key, value in own.items())) if own else ()

    return [
        Program(
            name,
            (
                *environment(name),
                *bound(signal.SIGTERM),
                *roomkeeper(arguments),
            ),
            stop_seconds=seconds,
        )
        for name, arguments in PROGRAMS.items()
    ]


def ready_probes(settings: Settings) -> Iterator[tuple[str, list[str], Probe]]:
    """Yield what tells that the programs serve: what to call them, their names, a question of about a second.

    Beat has none: what it does first is seen in the workers.
    """
    workers = [name for name, arguments in PROGRAMS.items() if arguments[0] == "worker"]
    broker = settings.broker_url.get_secret_value()
    # All are asked at once, and on a busy machine hardly ever all answer the same question in time.
    answered: set[str] = set()

    def answers(worker: str) -> bool:
        if worker not in answered:
            answered.update(_answering(broker, len(workers)))
        return worker in answered

    # One by one: while one hangs, the others' work would be taken for its progress.
    for worker in workers:
        yield f"{worker} worker", [worker], partial(answers, worker)
    if "flower" in PROGRAMS:
        yield "flower", ["flower"], lambda: _serves(settings.flower_port, "/healthcheck")
    if "metrics" in PROGRAMS:
        yield "metrics", ["metrics"], lambda: _serves(settings.metrics_port, "/metrics")


def _answering(broker_url: str, limit: int) -> set[str]:
    """Return the names, without their hosts, of the workers that answer over the broker."""
    with closing(Celery("stack", broker=broker_url, set_as_current=False)) as app:
        try:
            answers = app.control.ping(timeout=0.5, limit=limit) or []
        except BROKER_AWAY:
            return set()
    return {name.partition("@")[0] for answer in answers for name in answer}


def _serves(port: int, path: str) -> bool:
    with closing(HTTPConnection("127.0.0.1", port, timeout=1)) as client:
        try:
            client.request("GET", path)
            return client.getresponse().status == 200
        except (OSError, HTTPException):
            return False
