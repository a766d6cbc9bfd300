"""Deletes the objects of pending deletions, after the commit that deleted their rows.

The run that has deleted the rows calls `delete_objects` at once, and a recovery job
(`tasks/retention/object_deletions.py`) calls it for what a crash or an outage of the store has left.

Each batch is a transaction that locks the pending deletions, so that no other worker is at them, and then
looks once more: an object stays if a row names it by now, and so do the pictures of an attachment that is
there again. What fails waits, with the reason, and is tried again later.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import Any
from uuid import UUID

import structlog
from billiard.exceptions import SoftTimeLimitExceeded
from sqlalchemy import ColumnElement, Connection, Row, Text, bindparam, delete, func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DBAPIError

from models.platform import DeletionEvent
from tasks.apps import enabled
from tasks.attachments.objects import PICTURE_NAMES, picture_key
from tasks.attachments.tables import CannotAskError
from tasks.policies.columns import table_of
from tasks.retention.key_references import named
from tasks.retention.pending_deletions import BATCH, LOOK_SECONDS, PENDING, STORE_SECONDS, objects_of
from tasks.sweeps.batch import PARENT_PATIENCE_MS, Contested, Refused, begin, words
from tasks.sweeps.statements import any_of
from workers.db import release_snapshot, transaction
from workers.settings import Settings, variable
from workers.storage import ObjectMissing, ObjectStore, StoreError, store_for
from workers.storage.base import ObjectsKept

#: The pause after the first failed attempt; it doubles with each, up to the longest.
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 30.0, 600.0
_ERROR_CHARS = 200
#: A store that refuses some objects is asked about ever fewer of them, for so long.
_NARROW_SECONDS = 30.0
#: No row of an application is held meanwhile.
_IDLE = text(f"SELECT set_config('idle_in_transaction_session_timeout', '{STORE_SECONDS}s', true)")

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Deletions:
    """What became of pending deletions.

    Attributes:
        files: attachments whose objects are dealt with.
        objects: how many objects were deleted, without the pictures that the platform made.
        waiting: attachments whose objects still wait after a failed attempt.
        error: why the last failed attempt failed.
        away: stores that are not tried again, because they did not answer.
        more: whether time ran out before all were tried.
    """

    files: int = 0
    objects: int = 0
    waiting: int = 0
    error: str | None = None
    away: set[str] = field(default_factory=set)
    more: bool = False


def delete_objects(
    settings: Settings,
    done: Deletions,
    *,
    receipt: int | None = None,
    deadline: float | None = None,
) -> None:
    """Delete the objects of the pending deletions that are due, and that no other process works on.

    What fails is not raised: it waits, and `done.error` says why.

    Args:
        done: what became of them is added to it; stores that are `away` are left out.
        receipt: only those of this receipt.
        deadline: no batch is begun after that time of `time.monotonic`.

    Raises:
        SoftTimeLimitExceeded: the task's time is over.
    """
    due = _DUE if receipt is None else (*_DUE, PENDING.c.receipt == receipt)
    try:
        with transaction() as connection:
            stores = connection.execute(select(PENDING.c.store).where(*due).distinct()).scalars().all()
    except DBAPIError as error:
        done.error = _reason(error)
        return
    for store in sorted(stores):
        while store not in done.away:
            if deadline is not None and monotonic() > deadline:
                done.more = True
                return
            if not _delete_batch(store, due, settings, done):
                break


def _delete_batch(
    store: str, due: Sequence[ColumnElement[bool]], settings: Settings, done: Deletions
) -> bool:
    """Delete the objects of one batch of a store's pending deletions; return whether there were any."""
    batch = (
        select(PENDING)
        .where(*due, PENDING.c.store == store)
        .order_by(PENDING.c.not_before, PENDING.c.id)
        .limit(BATCH)
        .with_for_update(skip_locked=True)
    )
    rows: Sequence[Row[Any]] = []
    failed: list[tuple[Row[Any], str]] = []
    try:
        with begin(PARENT_PATIENCE_MS, _look_ms(settings)) as connection:
            connection.execute(_IDLE)
            rows = connection.execute(batch).all()
            if not rows:
                return False
            counts, failed = _delete(connection, store, rows, settings)
            over = {row.id for row in rows} - {row.id for row, _ in failed}
            _conclude(connection, over, counts)
            _put_off(connection, failed)
    except Exception as error:
        # Nothing was written. What is deleted already is deleted again, which changes nothing.
        done.away.add(store)
        counts, failed = Counter(), [(row, _reason(error)) for row in rows]
        done.error = _reason(error)
        with suppress(DBAPIError), transaction() as connection:
            _put_off(connection, failed)
        if isinstance(error, SoftTimeLimitExceeded):
            raise
        if not isinstance(error, _KNOWN):
            log.exception("retention.objects_not_deleted", store=store, files=len(rows))
    done.files += len(rows) - len(failed)
    done.objects += sum(number for (_, outcome), number in counts.items() if outcome == "deleted")
    done.waiting += len(failed)
    done.error = failed[-1][1] if failed else done.error
    return True


#: What can fail by itself; anything else is a fault of ours, whose traceback is wanted.
_KNOWN = (StoreError, CannotAskError, Contested, Refused, DBAPIError, OSError)


def _reason(error: Exception) -> str:
    """Return why an attempt failed, without the values of rows."""
    if isinstance(error, SoftTimeLimitExceeded):
        return "the task's time was over before the store had answered"
    if isinstance(error, DBAPIError):
        return words(error)
    if isinstance(error, Contested) and "QueryCanceled" in str(error):
        return f"no time to see whether rows name them (see: roomkeeper check): {error}"
    sentence = isinstance(error, _KNOWN) and not isinstance(error, OSError)
    return str(error) if sentence else f"{type(error).__name__}: {error}"


def _look_ms(settings: Settings) -> int:
    """Return how long a statement may take: without an index it reads whole tables of attachments."""
    return int(min(LOOK_SECONDS, settings.task_soft_limit_seconds / 2) * 1000)


def _delete(
    connection: Connection, provider: str, rows: Sequence[Row[Any]], settings: Settings
) -> tuple[Counter[tuple[int | None, str]], list[tuple[Row[Any], str]]]:
    """Delete what no row names by now.

    Returns:
        how many objects of each receipt were deleted, or kept; and what the store refused, with the reason.

    Raises:
        StoreError: the store did not answer; some objects may be deleted.
        CannotAskError: a table whose rows may name them cannot be read; nothing was deleted.
    """
    apps = enabled(settings)
    off = [(row, f"{variable('apps')} does not name {row.app}") for row in rows if row.app not in apps]
    rows = [row for row in rows if row.app in apps]
    store = store_for(provider, settings)
    wanted = {key for row in rows for key in objects_of(row)}
    stay = named(connection, provider, wanted, settings)
    there = {app: _there(connection, app, rows, settings) for app in {row.app for row in rows}}
    plans = [_Plan(row, stay, row.attachment_id in there[row.app]) for row in rows]
    release_snapshot(connection)
    refused = _delete_from(store, plans, monotonic() + _NARROW_SECONDS)
    counts: Counter[tuple[int | None, str]] = Counter()
    over = {row.id for row in rows} - {row.id for row, _ in refused}
    for row in rows:
        if row.id in over:
            counts.update((row.receipt, "kept" if key in stay else "deleted") for key in objects_of(row))
    return counts, [*off, *refused]


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is to be deleted for one pending deletion: what no row names.

    Attributes:
        stay: keys that rows name.
        there: whether the attachment is there again: then its pictures stay, and what is in quarantine.
    """

    row: Row[Any]
    stay: set[str]
    there: bool

    def objects(self) -> Iterator[str]:
        """Yield the keys of the objects."""
        yield from (key for key in objects_of(self.row) if key not in self.stay)
        if not self.there:
            yield from (picture_key(self.row.app, self.row.attachment_id, name) for name in PICTURE_NAMES)

    def quarantined(self) -> Iterator[str]:
        """Yield the name of the object in quarantine, if it is there."""
        if self.row.quarantine_key is not None and not self.there:
            yield self.row.quarantine_key


def _delete_from(store: ObjectStore, plans: Sequence[_Plan], deadline: float) -> list[tuple[Row[Any], str]]:
    """Delete the objects; return the pending deletions of which the store refused some, with the reason."""
    if not plans:
        return []
    try:
        _delete_keys(store, sorted({key for plan in plans for key in plan.objects()}))
        store.discard(sorted({name for plan in plans for name in plan.quarantined()}))
    except ObjectsKept as error:
        if len(plans) == 1 or monotonic() > deadline:
            return [(plan.row, str(error)) for plan in plans]
        # One object that the store does not give up must not keep all others waiting.
        half = len(plans) // 2
        return [
            *_delete_from(store, plans[:half], deadline),
            *_delete_from(store, plans[half:], deadline),
        ]
    return []


def _delete_keys(store: ObjectStore, found: Sequence[str]) -> None:
    try:
        store.delete_many(found)
    except ObjectMissing:
        # One of them leads to where no object of a row can be: the others are to go all the same.
        for key in found:
            with suppress(ObjectMissing):
                store.delete(key)


def _conclude(connection: Connection, over: set[int], counts: Counter[tuple[int | None, str]]) -> None:
    """Remove pending deletions that are dealt with, and write down what became of their objects."""
    if over:
        connection.execute(delete(PENDING).where(PENDING.c.id.in_(over)))
    events = [
        {"receipt": receipt, "outcome": outcome, "objects": number}
        for (receipt, outcome), number in counts.items()
        if receipt is not None
    ]
    if events:
        connection.execute(insert(table_of(DeletionEvent)), events)


def _put_off(connection: Connection, failed: Sequence[tuple[Row[Any], str]]) -> None:
    """Let pending deletions wait, longer with each attempt."""
    for why in {why for _, why in failed}:
        ids = [row.id for row, reason in failed if reason == why]
        connection.execute(_PUT_OFF.where(PENDING.c.id.in_(ids)), {"why": why[:_ERROR_CHARS]})


def _there(connection: Connection, app: str, rows: Sequence[Row[Any]], settings: Settings) -> set[UUID]:
    """Return which of an application's attachments are there."""
    table = enabled(settings)[app].attachments
    if table is None:
        return set()
    ids = [row.attachment_id for row in rows if row.app == app]
    return set(
        connection.execute(
            select(table.id).where(table.id == any_of(table.id, "ids")), {"ids": ids}
        ).scalars()
    )


_NOW = func.clock_timestamp()
_DUE = (PENDING.c.not_before <= _NOW,)
_PAUSE = func.least(
    FIRST_PAUSE_SECONDS * func.power(2.0, func.least(PENDING.c.attempts, 20)), LONGEST_PAUSE_SECONDS
)
_PUT_OFF = update(PENDING).values(
    attempts=PENDING.c.attempts + 1,
    error=bindparam("why", type_=Text()),
    failing_since=func.coalesce(PENDING.c.failing_since, _NOW),
    # Half of it spreads a crowd.
    not_before=_NOW + func.make_interval(0, 0, 0, 0, 0, 0, _PAUSE * (0.5 + func.random() / 2)),
)
