"""Pending deletions: objects of deleted rows, noted in the rows' transaction and deleted after its commit.

1. `held_back`, `prepare` and `note` belong to the transaction that deletes rows. A crash before its commit
   leaves the rows and their objects as they were.
2. `delete_objects` comes after the commit: the same run calls it at once, and a recovery job
   (`tasks/object_deletions.py`) for what a crash or an outage of the store has left.

Each deletion is a transaction that locks the pending deletions, so that no other worker is at them, and then
looks once more: an object stays if a row names it by now, and so do the pictures of an attachment that is
there again. `restore` cancels what still waits.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, Any
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Connection,
    Row,
    Text,
    Uuid,
    bindparam,
    delete,
    func,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import insert

from models.platform import AttachmentJob as Job
from models.platform import DeletionEvent, PendingDeletion
from tasks.apps import APPS, enabled
from tasks.apps.columns import table_of
from tasks.attachments.draw import NAMES
from tasks.attachments.objects import picture_key
from tasks.engines.batch import CHANGE_MS, PARENT_PATIENCE_MS, Contested, Refused, begin
from tasks.engines.families import Files, leased
from tasks.engines.statements import any_of
from workers.db import transaction
from workers.settings import Settings, variable
from workers.storage import ObjectMissing, ObjectStore, StoreError, UnknownProvider, keys, store_for
from workers.storage.base import ObjectsKept

if TYPE_CHECKING:
    import pyarrow as pa

#: How long a transaction may wait for the store: it holds pending deletions, and no row of an application.
_STORE_SECONDS = 300
#: So many attachments at once: with their pictures, what S3 deletes in one request.
BATCH = 333
#: The pause after the first failed attempt; it doubles with each, up to the longest.
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 30.0, 600.0
_ERROR_CHARS = 200
#: A store that refuses some objects is asked about ever fewer of them, for so long.
_NARROW_SECONDS = 30.0

_PENDING = table_of(PendingDeletion)
_IDLE = text(f"SELECT set_config('idle_in_transaction_session_timeout', '{_STORE_SECONDS}s', true)")
_NOTED: dict[str, ARRAY[Any]] = {
    "attachment_id": ARRAY(Uuid()),
    **{name: ARRAY(Text()) for name in ("store", "key", "quarantine_key", "small_key")},
}


# -- in the transaction that deletes the rows -----------------------------------------------------------


def held_back(
    connection: Connection, files: Files, rows: Sequence[Any], settings: Settings
) -> tuple[set[Any], str | None]:
    """Return which of the policy's rows must stay for now, and why, if there is a reason to report.

    Those stay of whose attachments a worker processes one at the moment, or one is in a store that is not
    set up.
    """
    stay = set(connection.execute(files.busy, {"keys": rows}).scalars())
    found = connection.execute(files.stores, {"keys": rows}).all()
    why = None
    for provider in {row.store for row in found}:
        try:
            store_for(provider, settings)
        except UnknownProvider as error:
            why = str(error)
            stay |= {row.root for row in found if row.store == provider}
    return stay, why


def prepare(
    connection: Connection, files: Files, deleted: Iterable["pa.Table"], settings: Settings
) -> list[dict[str, Any]]:
    """Return the pending deletions of attachments whose rows were just deleted, and delete their jobs.

    An object is named once, and not at all if a row that stays names it too.

    Raises:
        Refused: a worker has begun to process one of them.
        Contested: a worker is about to.
    """
    found = [one for rows in deleted for one in _attachments(files, rows)]
    if not found:
        return []
    ids = [one["attachment_id"] for one in found]
    quarantined = _end_jobs(connection, files.app, ids)
    for one in found:
        one["quarantine_key"] = quarantined.get(one["attachment_id"])
    taken: set[tuple[str, str]] = set()
    for provider in {one["store"] for one in found}:
        its = [one for one in found if one["store"] == provider]
        wanted = {key for one in its for key in (one["key"], one["small_key"]) if key and _original(key)}
        wanted -= _named(connection, provider, wanted, settings)
        for one in its:
            for name in ("key", "small_key"):
                place = provider, one[name]
                if one[name] not in wanted or place in taken:
                    one[name] = None
                else:
                    taken.add(place)
    return found


def number_of(pending: Sequence[dict[str, Any]]) -> int:
    """Return how many objects are to be deleted, without the pictures that the platform made."""
    return sum((one["key"] is not None) + (one["small_key"] is not None) for one in pending)


def note(
    connection: Connection, pending: Sequence[dict[str, Any]], *, app: str, policy: str, receipt: int
) -> None:
    """Write pending deletions down, in the transaction that deletes the rows."""
    if pending:
        values = {name: [one[name] for one in pending] for name in _NOTED}
        connection.execute(_NOTE, {**values, "app": app, "policy": policy, "receipt": receipt})


_GIVEN = func.unnest(*(bindparam(name, type_=kind) for name, kind in _NOTED.items()))
_NOTE = insert(_PENDING).from_select(
    [*_NOTED, "app", "policy", "receipt"],
    select(
        _GIVEN.table_valued(*_NOTED).render_derived(name="given"),
        bindparam("app", type_=Text()),
        bindparam("policy", type_=Text()),
        bindparam("receipt", type_=BigInteger()),
    ),
)


def _attachments(files: Files, rows: "pa.Table") -> Iterator[dict[str, Any]]:
    """Yield what deleted rows say of their objects, under the columns' real names."""
    table = files.attachments

    def texts(column: Any) -> list[str | None]:
        found: list[str | None] = [None] * rows.num_rows
        if column is not None:
            found = rows[column.property.columns[0].name].to_pylist()
        return found

    stores = ["local"] * rows.num_rows if table.provider is None else texts(table.provider)
    every = zip(texts(table.id), stores, texts(table.key), texts(table.mirror.small_key), strict=True)
    for its_id, store, key, small_key in every:
        yield {"attachment_id": UUID(its_id), "store": store, "key": key, "small_key": small_key}


def _end_jobs(connection: Connection, app: str, ids: Sequence[UUID]) -> dict[UUID, str]:
    """Delete the jobs of deleted attachments; return the names of those that are in quarantine."""
    its = jobs_of(app, ids)
    columns = (Job.attachment_id, Job.quarantine_key, leased().label("leased"))
    jobs = connection.execute(select(*columns).where(its).with_for_update(nowait=True)).all()
    if any(job.leased for job in jobs):
        raise Refused("a worker has begun to process one of the attachments")
    connection.execute(delete(Job).where(its, Job.override.is_(None)))
    # What an operator has said of a file is not forgotten.
    kept = {"state": "parked", "lease_until": None, "outcome": None, "reason": "row_deleted"}
    connection.execute(update(Job).where(its).values(**kept, quarantine_key=None))
    return {job.attachment_id: job.quarantine_key for job in jobs if job.quarantine_key is not None}


def jobs_of(app: str, ids: Sequence[UUID]) -> ColumnElement[bool]:
    """Return the condition on the jobs of these attachments."""
    return (Job.app == app) & Job.attachment_id.in_(ids)


# -- after the commit -----------------------------------------------------------------------------------


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
    """Delete the objects of the pending deletions that are due, and that nobody else is at.

    Args:
        done: what became of them is added to it; stores that are `away` are left out.
        receipt: only those of this receipt.
        deadline: no batch is begun after that time of `time.monotonic`.
    """
    its = _DUE if receipt is None else (*_DUE, _PENDING.c.receipt == receipt)
    with transaction() as connection:
        stores = connection.execute(select(_PENDING.c.store).where(*its).distinct()).scalars().all()
    for store in sorted(stores):
        while store not in done.away:
            if deadline is not None and monotonic() > deadline:
                done.more = True
                return
            if not _delete_batch(store, its, settings, done):
                break


def _delete_batch(
    store: str, its: Sequence[ColumnElement[bool]], settings: Settings, done: Deletions
) -> bool:
    """Delete the objects of one batch of a store's pending deletions; return whether there were any."""
    batch = (
        select(_PENDING)
        .where(*its, _PENDING.c.store == store)
        .order_by(_PENDING.c.not_before, _PENDING.c.id)
        .limit(BATCH)
        .with_for_update(skip_locked=True)
    )
    rows: Sequence[Row[Any]] = []
    failed: list[tuple[Row[Any], str]] = []
    try:
        with begin(PARENT_PATIENCE_MS, CHANGE_MS) as connection:
            connection.execute(_IDLE)
            rows = connection.execute(batch).all()
            if not rows:
                return False
            try:
                counts, failed = _delete(connection, store, rows, settings)
            except StoreError as error:
                counts, failed = Counter(), [(row, str(error)) for row in rows]
                done.away.add(store)
            over = {row.id for row in rows} - {row.id for row, _ in failed}
            _conclude(connection, over, counts)
            _put_off(connection, failed)
    except (Contested, Refused) as error:
        # The look at the rows that may name them takes too long: nothing was deleted, or it is deleted again.
        counts, failed = Counter(), [(row, str(error)) for row in rows]
        done.away.add(store)
        with transaction() as connection:
            _put_off(connection, failed)
    done.files += len(rows) - len(failed)
    done.objects += sum(number for (_, outcome), number in counts.items() if outcome == "deleted")
    done.waiting += len(failed)
    done.error = failed[-1][1] if failed else done.error
    return True


def _delete(
    connection: Connection, provider: str, rows: Sequence[Row[Any]], settings: Settings
) -> tuple[Counter[tuple[int | None, str]], list[tuple[Row[Any], str]]]:
    """Delete what no row names by now.

    Returns:
        how many objects of each receipt were deleted, or kept; and what the store refused, with the reason.

    Raises:
        StoreError: the store did not answer; some objects may be deleted.
    """
    apps = enabled(settings)
    off = [(row, f"{variable('apps')} does not name {row.app}") for row in rows if row.app not in apps]
    rows = [row for row in rows if row.app in apps]
    store = store_for(provider, settings)
    wanted = {key for row in rows for key in _objects(row)}
    stay = _named(connection, provider, wanted, settings)
    there = {app: _there(connection, app, rows, settings) for app in {row.app for row in rows}}
    plans = [_Plan(row, stay, row.attachment_id in there[row.app]) for row in rows]
    refused = _delete_from(store, plans, monotonic() + _NARROW_SECONDS)
    counts: Counter[tuple[int | None, str]] = Counter()
    over = {row.id for row in rows} - {row.id for row, _ in refused}
    for row in rows:
        if row.id in over:
            counts.update((row.receipt, "kept" if key in stay else "deleted") for key in _objects(row))
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
        yield from (key for key in _objects(self.row) if key not in self.stay)
        if not self.there:
            yield from (picture_key(self.row.app, self.row.attachment_id, name) for name in NAMES)

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


def _objects(row: Any) -> list[str]:
    return [key for key in (row.key, row.small_key) if key is not None]


def _conclude(connection: Connection, over: set[int], counts: Counter[tuple[int | None, str]]) -> None:
    """Remove pending deletions that are dealt with, and write down what became of their objects."""
    if over:
        connection.execute(delete(_PENDING).where(_PENDING.c.id.in_(over)))
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
        connection.execute(_PUT_OFF.where(_PENDING.c.id.in_(ids)), {"why": why[:_ERROR_CHARS]})


_NOW = func.clock_timestamp()
_DUE = (_PENDING.c.not_before <= _NOW,)
_PAUSE = func.least(
    FIRST_PAUSE_SECONDS * func.power(2.0, func.least(_PENDING.c.attempts, 20)), LONGEST_PAUSE_SECONDS
)
_PUT_OFF = update(_PENDING).values(
    attempts=_PENDING.c.attempts + 1,
    error=bindparam("why", type_=Text()),
    failing_since=func.coalesce(_PENDING.c.failing_since, _NOW),
    # Half of it spreads a crowd.
    not_before=_NOW + func.make_interval(0, 0, 0, 0, 0, 0, _PAUSE * (0.5 + func.random() / 2)),
)


# -- restored rows --------------------------------------------------------------------------------------


def lock(connection: Connection, receipt: int) -> None:
    """Keep a receipt's pending deletions as they are for this transaction, once nobody else is at them."""
    connection.execute(select(_PENDING.c.id).where(_PENDING.c.receipt == receipt).with_for_update()).all()


def cancel(connection: Connection, receipt: int, app: str) -> int:
    """Cancel a receipt's pending deletions of attachments that are there again.

    Returns:
        how many objects stay because of it.
    """
    page = APPS.get(app)
    if page is None or page.attachments is None:
        return 0
    table = page.attachments
    there = (_PENDING.c.attachment_id == table.id) & or_(
        _PENDING.c.key.is_(None), _PENDING.c.key == table.key
    )
    cancelled = connection.execute(
        delete(_PENDING)
        .where(_PENDING.c.receipt == receipt, _PENDING.c.app == app, there)
        .returning(_PENDING.c.key, _PENDING.c.small_key)
    ).all()
    number = sum(len(_objects(row)) for row in cancelled)
    if number:
        event = {"receipt": receipt, "outcome": "cancelled", "objects": number}
        connection.execute(insert(table_of(DeletionEvent)), event)
    return number


# -- who names an object --------------------------------------------------------------------------------


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


def _original(key: str) -> bool:
    """Return whether there can be an original under a key: a stranger may have written it."""
    try:
        keys.check_original(key)
    except ObjectMissing:
        return False
    # By another spelling of a key rows may name an object that goes, and stays, as another one.
    return key == "/".join(keys.parts(key))


def _named(connection: Connection, provider: str, found: Iterable[str], settings: Settings) -> set[str]:
    """Return which of the keys rows name: of any application, deleted softly or not."""
    spelt = {spelling: key for key in found for spelling in _spellings(key)}
    named: set[str] = set()
    if not spelt:
        return named
    for page in enabled(settings).values():
        table = page.attachments
        if table is None:
            continue
        for column in filter(None, (table.key, table.mirror.small_key)):
            here = select(column).where(column == any_of(column, "spelt"), table.store_name() == provider)
            rows = connection.execute(here, {"spelt": list(spelt)}).scalars()
            named.update(spelt[spelling] for spelling in rows)
    return named


def _spellings(key: str) -> set[str]:
    """Return the ways to write a key that a store may take for the same.

    Those that an index finds: a condition on all that can be written would read the whole table.
    """
    parts = key.split("/")
    doubled = {"/".join((*parts[:at], "", *parts[at:])) for at in range(len(parts) + 1)}
    return {key, key.replace("/", "//"), key.replace("/", "\\"), *doubled}
