"""`delivery.drain`: merges what waits in the inbox, and takes it out in the same transaction."""

from collections.abc import Sequence
from math import ceil
from time import monotonic
from typing import Any

import structlog
from pydantic import TypeAdapter, ValidationError
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from tasks.apps import APPS
from tasks.availability import available
from tasks.delivery import inbox
from tasks.delivery.arrival import Arrived, arrive
from tasks.delivery.events import Event, dumped
from tasks.delivery.merge import merge
from workers import dead_letters, job_history
from workers.app import task
from workers.database_errors import ErrorKind, is_unavailable, kind_of
from workers.db import transaction
from workers.queues import PERIODIC
from workers.settings import Settings, get_settings

JOB = "delivery.drain"
#: A run ends after so long, and the next goes on: nothing else ends it sooner.
RUN_SECONDS = 20
#: A statement takes no longer than this here, so that a run has time for smaller portions afterwards.
STATEMENT_SECONDS = 4
#: A batch that fails is tried again in so many parts, and each of these that fails, down to one row.
PARTS = 8

log = structlog.get_logger(__name__)
_EVENTS = TypeAdapter(list[Event])
_BRIEF = text("SELECT set_config('statement_timeout', :milliseconds, true)")


# Not tried again by itself when the database is away: the next turn is a second ahead.
@task(name=JOB, queue=PERIODIC, autoretry_for=(), send_events=False)
def drain() -> None:
    """Merge what is due, batch after batch, until there is nothing left or the time is over.

    Rows of applications that are not enabled, or switched off, wait until the application is enabled again.
    """
    settings = get_settings()
    apps = [name for name, app in available(settings).items() if app.delivery]
    with job_history.run(JOB, quiet=True) as run:
        if run is None:
            return
        began = monotonic()
        for number, app in enumerate(apps, start=1):
            # Each has its share: one that is slow does not stop the others.
            if not _drain(app, run, settings, began + RUN_SECONDS * number / len(apps)):
                run.outcome = "more"


def _drain(app: str, run: job_history.RunEntry, settings: Settings, deadline: float) -> bool:
    """Merge what is due of one application; say whether that was all."""
    #: Parts of a batch that failed, by the ids of their rows; the next one is the last.
    parts: list[list[int]] = []
    while True:
        part = parts.pop() if parts else None
        taken: Sequence[Any] = ()
        try:
            with transaction() as connection:
                connection.execute(_BRIEF, {"milliseconds": str(STATEMENT_SECONDS * 1000)})
                taken = inbox.take(connection, app, part)
                arrived = _merge(connection, app, taken, settings)
        except DBAPIError as error:
            # No row is at fault when the database takes nothing at all.
            if is_unavailable(error) or not taken:
                raise
            log.warning("delivery.batch_failed", app=app, rows=len(taken), error=type(error.orig).__name__)
            if len(taken) > 1:
                # Whatever the time: a run that ended here would fail at the same rows each time.
                parts += _parts([row.id for row in taken])
                continue
            _set_aside(taken[0].id, error, settings)
            run.rows += 1
        else:
            for one in arrived:
                one.count()
                run.rows += len(one.events) + one.refused
        if part is None and not taken:
            return True
        if monotonic() >= deadline:
            return False


def _parts(ids: list[int]) -> list[list[int]]:
    """Return a batch in parts, the first one last: the row at fault is found in few steps."""
    size = ceil(len(ids) / PARTS)
    return [ids[start : start + size] for start in range(0, len(ids), size)][::-1]


def _set_aside(row_id: int, error: DBAPIError, settings: Settings) -> None:
    """Have a row wait; one that is slow or has a wrong value is halved first, until it is one event."""
    with transaction() as connection:
        for row in inbox.take_these(connection, [row_id]):
            if kind_of(error) in {ErrorKind.CONTENTION, ErrorKind.DATA}:
                half = len(row.events) // 2
                if half:
                    for some in (row.events[:half], row.events[half:]):
                        inbox.put(connection, row.app, some, row.received_at)
                    continue
            why = f"not merged, {type(error.orig).__name__},"
            inbox.put_back(connection, row.app, row.events, row.received_at, settings, why)


def _merge(connection: Connection, app: str, taken: Sequence[Any], settings: Settings) -> list[Arrived]:
    """Merge rows of the inbox, all at once; return their events."""
    rows: list[tuple[Any, Arrived]] = []
    for row in taken:
        try:
            events = _EVENTS.validate_python(row.events)
            rows.append((row, arrive(connection, app, events, row.received_at)))
        except ValidationError as error:
            # `record_status` lets nothing of the kind through: the row was inserted directly.
            inbox.give_up(connection, app, row.events, dead_letters.reason(error))
    events = [event for _, arrived in rows for event in arrived.events]
    table = APPS[app].delivery
    assert table is not None
    missing = merge(connection, table, events) if events else set()
    for row, arrived in rows:
        waiting = [event for event in arrived.events if event.pair in missing]
        if waiting:
            inbox.put_back(connection, app, dumped(waiting), row.received_at, settings)
    return [arrived for _, arrived in rows]
