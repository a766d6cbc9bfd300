"""The inbox: statuses, as JSON has them, that wait for their turn or for their message to be there."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ARRAY, BigInteger, Connection, bindparam, delete, func, insert, select

from models.platform import StatusInbox
from tasks.delivery.events import MAX_EVENTS
from tasks.policies.columns import table_of
from workers import dead_letters
from workers.settings import Settings

TASK = "delivery.record"
#: How many rows one transaction takes, and after how many bytes it takes no more: some thousand events.
ROWS, BYTES = 200, 400_000
#: Pauses between two looks for a message that is not there: half of the age, within these.
SHORTEST_SECONDS, LONGEST_SECONDS = 1, 30

_INBOX = table_of(StatusInbox)
_PUT = insert(_INBOX)
_AGE = func.extract("epoch", func.now() - bindparam("since", type_=_INBOX.c.received_at.type))
_PAUSE = func.least(func.greatest(_AGE / 2, SHORTEST_SECONDS), LONGEST_SECONDS)
_WAIT = _PUT.values(due_at=func.now() + func.make_interval(0, 0, 0, 0, 0, 0, _PAUSE))
_DUE = (
    select(_INBOX.c.id, func.pg_column_size(_INBOX.c.events).label("bytes"))
    .where(_INBOX.c.due_at <= func.now(), _INBOX.c.app == bindparam("app"))
    .order_by(_INBOX.c.due_at, _INBOX.c.id)
    .limit(bindparam("rows"))
    .with_for_update(skip_locked=True)
)
_DUE_AMONG = _DUE.where(_INBOX.c.id == func.any(bindparam("among", type_=ARRAY(BigInteger))))
_TAKE = (
    delete(_INBOX)
    .where(_INBOX.c.id == func.any(bindparam("ids", type_=ARRAY(BigInteger))))
    .returning(_INBOX.c.id, _INBOX.c.app, _INBOX.c.events, _INBOX.c.received_at)
)


def take(connection: Connection, app: str, among: Sequence[int] | None = None) -> Sequence[Any]:
    """Take rows of an application that are due out of the inbox, those first that are due longest.

    Args:
        among: their ids; None for all.
    """
    ids: list[int] = []
    total = 0
    due, some = (_DUE, {}) if among is None else (_DUE_AMONG, {"among": list(among)})
    for row in connection.execute(due, {"app": app, "rows": ROWS, **some}).all():
        total += row.bytes
        if ids and total > BYTES:
            break
        ids.append(row.id)
    return take_these(connection, ids)


def take_these(connection: Connection, ids: list[int]) -> Sequence[Any]:
    """Take rows out of the inbox, if they are still there."""
    return sorted(connection.execute(_TAKE, {"ids": ids}).all(), key=lambda row: row.id) if ids else []


def put(connection: Connection, app: str, events: Sequence[Any], received_at: datetime) -> None:
    """Have events merged at the next turn; `received_at` is when they came first."""
    connection.execute(_PUT, {"app": app, "events": events, "received_at": received_at})


def put_back(
    connection: Connection,
    app: str,
    events: Sequence[Any],
    received_at: datetime,
    settings: Settings,
    why: str = "message or user not there",
) -> None:
    """Have events wait that cannot be merged now, or end them as a dead letter.

    Args:
        received_at: when they came first.
        why: for the dead letter.
    """
    age = connection.execute(select(_AGE), {"since": received_at}).scalar_one()
    if age >= settings.delivery_wait_seconds:
        give_up(connection, app, events, f"{why} after {age:.0f} s")
        return
    row = {"app": app, "events": events, "received_at": received_at, "since": received_at}
    connection.execute(_WAIT, row)


def give_up(connection: Connection, app: str, events: Any, reason: str) -> None:
    """Keep events in dead letters from which they can be sent again; what is no list of events, as it is."""
    parts = [events]
    if isinstance(events, list) and events:
        parts = [events[start : start + MAX_EVENTS] for start in range(0, len(events), MAX_EVENTS)]
    for part in parts:
        payload = {"args": [{"app": app, "events": part}], "kwargs": {}}
        dead_letters.keep_within(connection, task=TASK, task_id="", payload=payload, reason=reason)
