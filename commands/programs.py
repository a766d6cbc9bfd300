"""`roomkeeper worker|beat|flower|metrics`: the long-running programs, with the options that they need."""

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Annotated

import typer
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from commands import checks, rollup_status
from commands.startup import wait_until_ready
from tasks import availability
from tasks.apps import enabled, policies
from workers import telemetry
from workers.db import engine_for
from workers.queues import BEAT, KINDS, WorkerKind
from workers.settings import Settings, SettingsError, get_settings, variable
from workers.workdir import sweep, workdir

#: Tasks that Flower keeps, the latest: each takes 4 to 6 kB of its memory. Its own limit is 100,000.
FLOWER_TASKS = 10_000
#: So long after its last heartbeat a worker is no longer in Flower's list and metrics. Otherwise these count
#: one that was killed as online for ever: only a worker that ends in good order reports its end.
FLOWER_OFFLINE_SECONDS = 20


def worker(kind: Annotated[str, typer.Argument(help=" or ".join(KINDS))]) -> None:
    """Run one kind of worker. It waits for a database that is away, and starts on none without our schema.

    Of an application whose tables lack something the jobs are switched off until they do not.
    """
    if kind not in KINDS:
        raise SettingsError(f"{kind!r} is not a kind of worker: {', '.join(KINDS)}.")
    settings = get_settings()
    enabled(settings)
    wait_until_ready(settings)
    _refuse_foreign_broker(settings)
    chosen = KINDS[kind]
    # Untrusted files that a killed worker had under its hands.
    sweep(settings.work_root)
    if settings.worker_metrics_port is None:
        _become_worker(chosen, settings)
    else:
        # Its processes count into files of this directory; it goes with the worker, or is swept.
        with workdir() as folder:
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
            from workers import metrics as counts

            _listen(counts.serve, settings, "worker_metrics_port")
            _become_worker(chosen, settings)


def _become_worker(chosen: WorkerKind, settings: Settings) -> None:
    from celery.signals import worker_ready

    # Not before: its first children have been forked by then.
    worker_ready.connect(_heartbeat(chosen.name, settings), weak=False)
    _become(
        "worker",
        f"--queues={','.join(chosen.queues)}",
        f"--hostname={chosen.name}@%h",
        f"--concurrency={settings.worker_processes}",
        f"--max-memory-per-child={chosen.memory_mib * 1024}",
        "--task-events",
        # The two would chat over the broker with every other worker, all the time, for nothing that we use.
        "--without-gossip",
        "--without-mingle",
        "--loglevel=INFO",
    )


def beat() -> None:
    """Run the scheduler. Several may run: one holds the lock, the others stand by."""
    # Not before: no other program sends by it.
    from celery.signals import beat_init

    from beat_schedule import timetable
    from workers.app import app

    settings = get_settings()
    _refuse_foreign_broker(settings)
    app.conf.beat_schedule = timetable(settings)
    beat_init.connect(_heartbeat(BEAT, settings), weak=False)
    _become("beat", "--loglevel=INFO", "--pidfile=")


def _refuse_foreign_broker(settings: Settings) -> None:
    """Make sure that the broker is not another installation's, now and at each connection.

    Of a broker that is away now only the latter. Beat starts without a database, and does not look then.

    Raises:
        ForeignBroker: it is another's.
    """
    import redis

    from workers import installation

    with suppress(DBAPIError), engine_for(settings) as engine, engine.begin() as connection:
        installation.guard(installation.read(connection))
    url = settings.broker_url.get_secret_value()
    with (
        suppress(redis.RedisError),
        redis.Redis.from_url(url, socket_timeout=5, socket_connect_timeout=5) as client,
    ):
        installation.confirm(client)


def _heartbeat(kind: str, settings: Settings) -> Callable[..., None]:
    """Return what begins the heartbeats of this process."""
    from workers.heartbeat import Heartbeat

    return lambda **_: Heartbeat(kind, settings).start()


def flower() -> None:
    """Run Flower, the operators' view of workers and tasks, behind a password."""
    settings = get_settings()
    password = _password(settings)
    # Tried first: of a port that is taken Flower itself makes a traceback, seconds later.
    with _on("Flower", settings.flower_address, settings.flower_port, "flower_port") as place:
        family = socket.AF_INET6 if ":" in settings.flower_address else socket.AF_INET
        with socket.socket(family) as tried:
            # As Flower does: a port that was left a minute ago is not taken.
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(place)
    # In the environment, not among the arguments: those are in everybody's process list.
    os.environ["FLOWER_BASIC_AUTH"] = f"{settings.flower_user}:{password}"
    _become(
        "flower",
        f"--address={settings.flower_address}",
        f"--port={settings.flower_port}",
        f"--max_tasks={FLOWER_TASKS}",
        f"--purge_offline_workers={FLOWER_OFFLINE_SECONDS}",
        "--loglevel=INFO",
    )


def metrics() -> None:
    """Serve what the database, the broker and the scanner know as Prometheus metrics, until SIGTERM."""
    # Not before: a worker sets an environment variable before it is imported.
    from prometheus_client import CollectorRegistry, start_http_server

    from workers.state_metrics import State

    settings = get_settings()
    telemetry.setup(settings.log_format)
    registry = CollectorRegistry()
    registry.register(
        State(
            settings,
            checks.periods(settings),
            lambda connection: rollup_status.lags(connection, settings),
            lambda connection: _served(connection, settings),
            lambda: {app: app not in availability.available(settings) for app in settings.apps},
        )
    )
    _listen(lambda address, port: start_http_server(port, address, registry), settings, "metrics_port")
    # The server is a thread; this one has only to be there. A signal ends it.
    threading.Event().wait()


def _served(connection: Connection, settings: Settings) -> dict[str, bool]:
    """Return of each policy that runs and needs an index whether one serves it."""
    off = availability.disabled(settings)
    without = {one.policy for one in checks.without_index(connection, settings, off)}
    return {
        name: name not in without
        for name, policy in policies(settings).items()
        if policy.index_condition is not None and name.partition(".")[0] not in off
    }


def _listen(serve: Callable[[str, int], object], settings: Settings, field: str) -> None:
    with _on("Metrics", settings.metrics_address, getattr(settings, field), field) as (address, port):
        serve(address, port)


@contextmanager
def _on(what: str, address: str, port: int, field: str) -> Iterator[tuple[str, int]]:
    """Yield address and port; raise an error that says why a server cannot listen there."""
    try:
        yield address, port
    except OSError as error:
        raise SettingsError(
            f"{what} cannot be served on {address}:{port}: {error.strerror}; set {variable(field)}."
        ) from error


def _password(settings: Settings) -> str:
    password = settings.flower_password.get_secret_value() if settings.flower_password else ""
    if not password:
        raise SettingsError(
            f"{variable('flower_password')} is not set; Flower does not run without a password."
        )
    if "," in password + settings.flower_user:
        # Flower would take each part for a user with a password of his own.
        raise SettingsError(f"{variable('flower_user')} and its password must not contain a comma.")
    return password


def _become(program: str, *options: str) -> None:
    """Be Celery's program from here on, in this process: signals reach it, and nothing is imported twice."""
    # Not before: no other command needs it, and Flower reads its environment.
    from workers import installation
    from workers.app import app

    # Its annotation says that it never returns; it does, when the program has ended.
    start: Callable[[list[str]], object] = app.start
    start([program, *options])
    installation.raise_refusal()
