"""`delivery.drain`: merges what waits in the inbox, and takes it out in the same transaction."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from time import monotonic
from typing import Any

import structlog
from psycopg.errors import QueryCanceled
from pydantic import TypeAdapter, ValidationError
from sqlalchemy import Connection
from sqlalchemy.exc import DataError, IntegrityError, OperationalError

from tasks.apps import APPS, enabled
from tasks.delivery import inbox
from tasks.delivery.events import Event
from tasks.delivery.merge import merge
from workers import dead_letters, ledger
from workers.app import task
from workers.db import transaction
from workers.queues import DELIVERY
from workers.settings import Settings, get_settings

JOB = "delivery.drain"
#: A run ends after so long, and the next goes on: nobody else can stop it sooner.
RUN_SECONDS = 20

log = structlog.get_logger(__name__)
_EVENTS = TypeAdapter(list[Event])


@task(name=JOB, queue=DELIVERY)
def drain() -> None:
    """Merge what is due, batch after batch, until there is nothing left or the time is over."""
    settings = get_settings()
    with ledger.run(JOB, quiet=True) as run:
        if run is None:
            return
        deadline = monotonic() + RUN_SECONDS
        rows = inbox.ROWS
        # Those of others wait until somebody is there for them.
        apps = [name for name, app in enabled(settings).items() if app.delivery]
        while monotonic() < deadline:
            try:
                with transaction() as connection:
                    taken = inbox.take(connection, apps, rows)
                    run.rows += _merge(connection, taken, settings)
            except IntegrityError as error:
                # A message or a person has gone away in this very moment; now that is known.
                log.info("delivery.again", error=type(error).__name__)
                continue
            except (DataError, OperationalError) as error:
                if isinstance(error, OperationalError) and not isinstance(error.orig, QueryCanceled):
                    raise
                log.warning("delivery.batch_failed", rows=rows, error=type(error.orig).__name__)
                if rows == 1:
                    _set_aside_first(apps, error, settings)
                # One at a time, then: the others must not wait for the one that is at fault, or slow.
                rows = 1
                continue
            if len(taken) < rows:
                return
        run.outcome = "more"


def _set_aside_first(apps: Sequence[str], error: Exception, settings: Settings) -> None:
    """Halve the first row if it takes too long, until it is one event, which waits; or give it up."""
    with transaction() as connection:
        for row in inbox.take(connection, apps, 1):
            if isinstance(error, DataError):
                inbox.give_up(connection, row.app, row.events, dead_letters.reason(error))
                continue
            events = _EVENTS.validate_python(row.events)
            if len(events) == 1:
                inbox.put_back(connection, row.app, events, row.received_at, settings, "still too slow")
                continue
            half = len(events) // 2
            for some in (events[:half], events[half:]):
                inbox.put(connection, row.app, some, row.received_at)


def _merge(connection: Connection, taken: Sequence[Any], settings: Settings) -> int:
    """Merge rows of the inbox, all of an application at once; return how many events."""
    events: dict[str, list[tuple[datetime, list[Event]]]] = defaultdict(list)
    for row in taken:
        try:
            events[row.app].append((row.received_at, _EVENTS.validate_python(row.events)))
        except ValidationError as error:
            # `record_status` lets nothing of the kind through; somebody has written to the table.
            inbox.give_up(connection, row.app, row.events, dead_letters.reason(error))
    for app, rows in events.items():
        table = APPS[app].delivery
        assert table is not None
        missing = merge(connection, table, [event for _, some in rows for event in some])
        for received_at, some in rows:
            waiting = [event for event in some if event.pair in missing]
            if waiting:
                inbox.put_back(connection, app, waiting, received_at, settings)
    return sum(len(some) for rows in events.values() for _, some in rows)
