"""What is made sure of before work begins: the database answers, and our own schema is right.

What one application lacks keeps no worker from starting: its jobs alone are switched off
(`tasks/availability.py`). A database that is away, or read-only, is waited for: a worker that exits is only
started again.
"""

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count

import structlog
import typer
from rich.console import Console
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from commands import checks
from tasks import availability
from workers import telemetry
from workers.database_errors import is_transient
from workers.db import engine_for
from workers.inspection import Fault
from workers.settings import Settings

#: Pauses between two looks at a database that does not answer: doubled from the first to the last.
FIRST_SECONDS, LAST_SECONDS = 1.0, 30.0

log = structlog.get_logger(__name__)


def wait_until_ready(settings: Settings) -> None:
    """Return when the database answers and holds what all jobs need; log what single applications lack.

    Waits for as long as it takes; SIGTERM ends that in good order.

    Raises:
        typer.Exit: something is missing that no waiting brings; what, has been told.
    """
    # Not before: it takes Celery along, which other commands do not need.
    from workers.steps import touch_health_file

    found = availability.Faults([], {})

    def missing() -> Fault | None:
        nonlocal found
        touch_health_file()
        waits_for, found = look(settings)
        return waits_for

    def report(waits_for: Fault, pause: float) -> None:
        telemetry.setup(settings.log_format)
        log.warning(
            "worker.waiting_for_database",
            fault=waits_for.sentence,
            advice=waits_for.advice,
            again_in_seconds=pause,
        )

    _wait(missing, report)
    if found.platform:
        checks.print_faults(found.platform, Console(stderr=True))
        raise typer.Exit(1)
    if found.applications:
        telemetry.setup(settings.log_format)
    for app, faults in found.applications.items():
        availability.report(app, faults)


def wait_for_database(settings: Settings) -> None:
    """Return when the database answers and takes writes, or has an answer that no waiting mends.

    Waits for as long as it takes, and prints what for; SIGTERM ends that in good order.
    """
    console = Console(stderr=True, soft_wrap=True, highlight=False)

    def missing() -> Fault | None:
        try:
            with engine_for(settings) as engine, engine.begin() as connection:
                return next(iter(checks.writable(connection)), None)
        except DBAPIError as error:
            return checks.refusal(error) if is_transient(error) else None

    def report(waits_for: Fault, pause: float) -> None:
        console.print(
            f"Waiting for the database, again in {pause:.0f} s: {waits_for.sentence} {waits_for.advice}",
            markup=False,
        )

    _wait(missing, report)


def _wait(missing: Callable[[], Fault | None], report: Callable[[Fault, float], None]) -> None:
    with _ended_by_sigterm():
        for attempt in count():
            waits_for = missing()
            if waits_for is None:
                return
            pause = min(FIRST_SECONDS * 2**attempt, LAST_SECONDS) if attempt < 10 else LAST_SECONDS
            report(waits_for, pause)
            time.sleep(pause)


def look(settings: Settings) -> tuple[Fault | None, availability.Faults]:
    """Return why a worker has to wait, if it has; and otherwise what the database lacks."""
    try:
        with engine_for(settings) as engine, engine.begin() as connection:
            return _asked(connection, settings)
    except DBAPIError as error:
        fault = checks.refusal(error)
        return (
            (fault, availability.Faults([], {}))
            if is_transient(error)
            else (None, availability.Faults([fault], {}))
        )


def _asked(connection: Connection, settings: Settings) -> tuple[Fault | None, availability.Faults]:
    if faults := checks.writable(connection):
        return faults[0], availability.Faults([], {})
    if faults := checks.revision(connection):
        return None, availability.Faults(faults, {})
    return None, availability.find_faults(connection, settings)


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    # As the first process of a container this one would not even notice the signal.
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
