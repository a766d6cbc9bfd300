"""The inbox: statuses that wait for their turn, or for their message to be there."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, delete, func, insert, select

from models.platform import StatusInbox
from tasks.apps.columns import table_of
from tasks.delivery.events import MAX_EVENTS, Event, dumped
from workers import dead_letters
from workers.settings import Settings

TASK = "delivery.record"
#: How many rows one transaction takes, and at most how many events it merges (a single row may hold more).
ROWS = 200
#: Pauses between two looks for a message that is not there: half of the age, within these.
SHORTEST_SECONDS, LONGEST_SECONDS = 1, 30

_INBOX = table_of(StatusInbox)
_PUT = insert(_INBOX)
_AGE = func.extract("epoch", func.now() - bindparam("since", type_=_INBOX.c.received_at.type))
_PAUSE = func.least(func.greatest(_AGE / 2, SHORTEST_SECONDS), LONGEST_SECONDS)
_WAIT = _PUT.values(due_at=func.now() + func.make_interval(0, 0, 0, 0, 0, 0, _PAUSE))
_TAKE = (
    delete(_INBOX)
    .where(
        _INBOX.c.id.in_(
            select(_INBOX.c.id)
            .where(_INBOX.c.due_at <= func.now(), _INBOX.c.app.in_(bindparam("apps", expanding=True)))
            .order_by(_INBOX.c.due_at, _INBOX.c.id)
            .limit(bindparam("rows"))
            .with_for_update(skip_locked=True)
            # Once, or a subquery might run again for each row that it is compared with.
            .cte("due")
            .select()
        )
    )
    .returning(_INBOX.c.id, _INBOX.c.app, _INBOX.c.events, _INBOX.c.received_at)
)


def take(connection: Connection, apps: Sequence[str], rows: int = ROWS) -> Sequence[Any]:
    """Take rows of these applications that are due out of the inbox, those first that are due longest."""
    taken = connection.execute(_TAKE, {"rows": rows, "apps": list(apps)}).all()
    return sorted(taken, key=lambda row: row.id)


def put(connection: Connection, app: str, events: Sequence[Event], received_at: datetime) -> None:
    """Have events merged at the next turn; `received_at` is when they came first."""
    connection.execute(_PUT, {"app": app, "events": dumped(events), "received_at": received_at})


def put_back(
    connection: Connection,
    app: str,
    events: Sequence[Event],
    received_at: datetime,
    settings: Settings,
    why: str = "message or user not there",
) -> None:
    """Have events wait that can not be merged now, or end them as a dead letter.

    Args:
        received_at: when they came first.
        why: for the dead letter.
    """
    age = connection.execute(select(_AGE), {"since": received_at}).scalar_one()
    if age >= settings.delivery_wait_seconds:
        give_up(connection, app, dumped(events), f"{why} after {age:.0f} s")
        return
    row = {"app": app, "events": dumped(events), "received_at": received_at, "since": received_at}
    connection.execute(_WAIT, row)


def give_up(connection: Connection, app: str, events: Sequence[Any], reason: str) -> None:
    """Keep events, as JSON has them, in dead letters from which they can be sent again."""
    for start in range(0, len(events), MAX_EVENTS):
        payload = {"args": [{"app": app, "events": list(events[start : start + MAX_EVENTS])}], "kwargs": {}}
        dead_letters.keep_within(connection, task=TASK, task_id="", payload=payload, reason=reason)
