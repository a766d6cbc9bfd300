"""Pending deletions: objects of deleted rows, noted in the transaction that deletes the rows.

`held_back`, `prepare` and `note` belong to that transaction: a crash before its commit leaves the rows and
their objects as they were. After the commit the objects are deleted (`tasks/retention/object_deleter.py`).
`lock` and `cancel` belong to the transaction that restores the rows: what still waits to be deleted stays.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any
from uuid import UUID

from psycopg.errors import LockNotAvailable
from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Connection,
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
from sqlalchemy.exc import OperationalError

from models.platform import AttachmentJob as Job
from models.platform import DeletionEvent, PendingDeletion
from tasks.apps import attachments_of
from tasks.policies.columns import table_of
from tasks.retention.cascade import Files, leased
from tasks.sweeps.batch import Contested, Refused
from workers.settings import Settings
from workers.storage import ObjectMissing, UnknownProvider, keys, store_for

if TYPE_CHECKING:
    import pyarrow as pa

#: So many attachments at once: with their pictures, what S3 deletes in one request.
BATCH = 333
#: How long a process that deletes objects may hold their pending deletions: to look whether rows name them,
#: and to wait for the store.
LOOK_SECONDS, STORE_SECONDS = 300, 300
LONGEST_SECONDS = LOOK_SECONDS + STORE_SECONDS + 60

PENDING = table_of(PendingDeletion)
_NOTED: dict[str, ARRAY[Any]] = {
    "attachment_id": ARRAY(Uuid()),
    **{name: ARRAY(Text()) for name in ("store", "key", "quarantine_key", "small_key")},
}


def is_original(key: str) -> bool:
    """Return whether there can be an original under a key: a stranger may have written it."""
    try:
        keys.check_original(key)
    except ObjectMissing:
        return False
    # By another spelling of a key rows may name an object that goes, and stays, as another one.
    return key == "/".join(keys.parts(key))


def objects_of(row: Any) -> list[str]:
    """Return the keys of a pending deletion's objects, without the pictures that the platform made.

    Those that were noted before migration 0007 may be any text.
    """
    return [key for key in (row.key, row.small_key) if key is not None and is_original(key)]


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


def prepare(connection: Connection, files: Files, deleted: Iterable["pa.Table"]) -> list[dict[str, Any]]:
    """Return the pending deletions of attachments whose rows were just deleted, and delete their jobs.

    An object is named once. Whether other rows name it is asked right before it is deleted: rows that another
    transaction is deleting at this moment still look as if they stayed.

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
    noted: set[tuple[str, str]] = set()
    for one in found:
        for name in ("key", "small_key"):
            place = one["store"], one[name]
            if one[name] is None or place in noted or not is_original(one[name]):
                one[name] = None
            else:
                noted.add(place)
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


_A_SECOND = text("SELECT set_config('lock_timeout', '1s', true)")
_GIVEN = func.unnest(*(bindparam(name, type_=kind) for name, kind in _NOTED.items()))
_NOTE = insert(PENDING).from_select(
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
    every = zip(texts(table.id), stores, texts(table.key), texts(table.app_columns.small_key), strict=True)
    for its_id, store, key, small_key in every:
        yield {"attachment_id": UUID(its_id), "store": store, "key": key, "small_key": small_key}


def _end_jobs(connection: Connection, app: str, ids: Sequence[UUID]) -> dict[UUID, str]:
    """Delete the jobs of deleted attachments; return the names of those that are in quarantine."""
    own_jobs = jobs_of(app, ids)
    columns = (Job.attachment_id, Job.quarantine_key, leased().label("leased"))
    jobs = connection.execute(select(*columns).where(own_jobs).with_for_update(nowait=True)).all()
    if any(job.leased for job in jobs):
        raise Refused("a worker has begun to process one of the attachments")
    connection.execute(delete(Job).where(own_jobs, Job.override.is_(None)))
    # What an operator has said of a file is not forgotten.
    kept = {"state": "failed", "lease_until": None, "outcome": None, "reason": "row_deleted"}
    connection.execute(update(Job).where(own_jobs).values(**kept, quarantine_key=None))
    return {job.attachment_id: job.quarantine_key for job in jobs if job.quarantine_key is not None}


def jobs_of(app: str, ids: Sequence[UUID]) -> ColumnElement[bool]:
    """Return the condition on the jobs of these attachments."""
    return (Job.app == app) & Job.attachment_id.in_(ids)


# -- restored rows --------------------------------------------------------------------------------------


def lock(connection: Connection, receipt: int, waiting: Callable[[float], None]) -> None:
    """Keep a receipt's pending deletions as they are for this transaction; wait for those being deleted.

    It leaves a lock timeout of a second.

    Args:
        waiting: is called about once a second while that takes, with the seconds so far.

    Raises:
        Contested: another transaction holds some of them for longer than a deletion takes.
    """
    _lock(connection, PENDING.c.receipt == receipt, waiting)


def lock_keys(connection: Connection, names: Collection[str], waiting: Callable[[float], None]) -> None:
    """As `lock`, of the pending deletions of these keys: once rows are there again, their objects stay."""
    any_key = func.any(bindparam("names", list(names), type_=ARRAY(Text())))
    _lock(connection, or_(PENDING.c.key == any_key, PENDING.c.small_key == any_key), waiting)


def _lock(connection: Connection, where: ColumnElement[bool], waiting: Callable[[float], None]) -> None:
    those = select(PENDING.c.id).where(where)
    began = monotonic()
    connection.execute(_A_SECOND)
    while True:
        # So that no deletion of these begins while the others are waited for.
        connection.execute(those.with_for_update(skip_locked=True)).all()
        try:
            with connection.begin_nested():
                connection.execute(those.with_for_update()).all()
            return
        except OperationalError as error:
            if not isinstance(error.orig, LockNotAvailable):
                raise
        waited = monotonic() - began
        if waited > LONGEST_SECONDS:
            raise Contested(f"another process has been deleting its objects for {waited:.0f} seconds")
        waiting(waited)


def keys_in(app: str, table: str, rows: "pa.Table") -> set[str]:
    """Return the keys of objects that archived rows of a table name."""
    attachments = attachments_of(app)
    if attachments is None or table_of(attachments.model).fullname != table:
        return set()
    columns = filter(None, (attachments.key, attachments.app_columns.small_key))
    names = {column.property.columns[0].name for column in columns} & {*rows.column_names}
    return {key for name in names for key in rows[name].to_pylist() if key is not None}


def cancel(connection: Connection, receipt: int, app: str) -> int:
    """Cancel a receipt's pending deletions of attachments that are there again.

    Returns:
        how many objects stay because of it.
    """
    table = attachments_of(app)
    if table is None:
        return 0
    there = (PENDING.c.attachment_id == table.id) & or_(PENDING.c.key.is_(None), PENDING.c.key == table.key)
    cancelled = connection.execute(
        delete(PENDING)
        .where(PENDING.c.receipt == receipt, PENDING.c.app == app, there)
        .returning(PENDING.c.key, PENDING.c.small_key)
    ).all()
    number = sum(len(objects_of(row)) for row in cancelled)
    if number:
        event = {"receipt": receipt, "outcome": "cancelled", "objects": number}
        connection.execute(insert(table_of(DeletionEvent)), event)
    return number
