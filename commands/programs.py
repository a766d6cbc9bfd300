"""`roomkeeper worker|beat|flower`: the long-running programs, with the options that they must have."""

import os
from typing import Annotated

import typer
from rich.console import Console

from commands import checks
from tasks.apps import enabled
from workers.queues import KINDS
from workers.settings import Settings, SettingsError, get_settings, variable


def worker(kind: Annotated[str, typer.Argument(help=" or ".join(KINDS))]) -> None:
    """Run one kind of worker. It does not start on a database that lacks what its jobs need."""
    if kind not in KINDS:
        raise SettingsError(f"{kind!r} is not a kind of worker: {', '.join(KINDS)}.")
    settings = get_settings()
    enabled(settings)
    faults = checks.database(settings)
    if faults:
        checks.tell(faults, Console(stderr=True))
        raise typer.Exit(1)
    chosen = KINDS[kind]
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
    enabled(get_settings())
    _become("beat", "--loglevel=INFO", "--pidfile=")


def flower() -> None:
    """Run Flower, the operators' view of workers and tasks, behind a password."""
    settings = get_settings()
    # In the environment, not among the arguments: those are in everybody's process list.
    os.environ["FLOWER_BASIC_AUTH"] = f"{settings.flower_user}:{_password(settings)}"
    _become(
        "flower",
        f"--address={settings.flower_address}",
        f"--port={settings.flower_port}",
        "--loglevel=INFO",
    )


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
    from workers.app import app

    app.start([program, *options])
