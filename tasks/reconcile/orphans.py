"""Objects that no row names: counted, and removed in batches, each asked about once more right before."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Select, case, func, not_, select, true

from models.platform import ListedObject
from tasks.policies.attachment import AttachmentTable
from tasks.policies.columns import table_of
from tasks.reconcile.listing import unhurried
from tasks.reconcile.referenced_keys import below, foreign, named, normal, still_named
from tasks.reconcile.result import SAMPLES, Result, most
from tasks.reconcile.spool import spooled
from tasks.retention import receipts
from workers.db import transaction
from workers.storage import ObjectStore
from workers.storage.base import ObjectsKept

#: So many are removed at once: what S3 takes in one request.
BATCH = 1_000
#: The receipts' name for it.
POLICY = "storage.reconcile"

_LISTED = table_of(ListedObject).c


class _Orphan(NamedTuple):
    key: str
    normal: str
    size: int


@dataclass(frozen=True, slots=True)
class Cut:
    """Which objects may be orphans.

    Attributes:
        asked: the tables whose rows name objects, by application.
        before: written before that.
        app: only this application's pictures; None for everything.
    """

    asked: Mapping[str, AttachmentTable]
    before: datetime
    app: str | None

    def unnamed(self, store: str) -> Select[Any]:
        """Return the query for what no row names, and whether it is an `orphan` for that."""
        names, key = named(self.asked, store), normal(_LISTED.key)
        own = not_(foreign(key, self.asked))
        return select(
            _LISTED.key,
            key.label("normal"),
            _LISTED.size_bytes.label("size"),
            _LISTED.modified_at.label("modified"),
            own.label("own"),
            (own & (_LISTED.modified_at < self.before)).label("orphan"),
        ).where(self.whose(store), ~select(1).where(names.c.key == key).exists())

    def whose(self, store: str) -> "ColumnElement[bool]":
        """Return the condition on the listed objects that are looked at."""
        app = true() if self.app is None else below(normal(_LISTED.key), self.app)
        return (_LISTED.store == store) & app


def count(found: Result, cut: Cut) -> None:
    """Find out how many objects there are, and how many are orphans."""
    listed = select(func.count(), func.coalesce(func.sum(_LISTED.size_bytes), 0)).where(
        cut.whose(found.store)
    )
    with transaction() as connection:
        unhurried(connection)
        found.listed, found.listed_bytes = map(int, connection.execute(listed).one())
        # Once: it is asked four times.
        unnamed = cut.unnamed(found.store).cte("unnamed").prefix_with("MATERIALIZED", dialect="postgresql")
        orphans = select(unnamed.c.key).where(unnamed.c.orphan)
        few = orphans.order_by(unnamed.c.modified, unnamed.c.key).limit(SAMPLES).subquery()
        size = case((unnamed.c.orphan, unnamed.c.size), else_=0)
        row = connection.execute(
            select(
                func.count().label("unnamed"),
                func.count().filter(unnamed.c.orphan).label("orphans"),
                func.count().filter(not_(unnamed.c.own)).label("foreign"),
                func.coalesce(func.sum(size), 0).label("bytes"),
                func.min(unnamed.c.modified).filter(unnamed.c.orphan).label("oldest"),
                select(func.array_agg(few.c.key)).scalar_subquery().label("keys"),
            ).select_from(unnamed)
        ).one()
    found.named = found.listed - row.unnamed
    found.orphans, found.orphan_bytes, found.oldest = row.orphans, int(row.bytes), row.oldest
    found.foreign = row.foreign
    found.young = row.unnamed - row.orphans - row.foreign
    found.keys = row.keys or []


def delete(
    found: Result,
    cut: Cut,
    store: ObjectStore,
    share: float,
    receipt: "Receipt",
    watch: Callable[[str], None],
) -> None:
    """Remove the orphans.

    Raises:
        StoreError: the store is away; what was removed is counted.
    """
    limit = most(found.listed, share)
    unnamed = cut.unnamed(found.store).subquery()
    orphans = select(unnamed.c.key, unnamed.c.normal, unnamed.c.size).where(unnamed.c.orphan)
    # More of them are too many.
    with closing(spooled(orphans.limit(limit + 1))) as rows:
        while batch := [_Orphan(*row) for row in islice(rows, BATCH)]:
            if found.deleted + len(batch) > limit:
                # Rows have gone since they were counted, all at once.
                found.stopped = f"{found.store}: more than {limit:,} objects are named by no row by now"
                return
            _delete(found, cut, batch, store, receipt)
            watch(f"{found.store}: {found.deleted:,} of {found.orphans:,} orphans removed")


def _delete(
    found: Result, cut: Cut, batch: Sequence[_Orphan], store: ObjectStore, receipt: "Receipt"
) -> None:
    with transaction() as connection:
        unhurried(connection)
        query = still_named(cut.asked, found.store)
        saved = set(connection.scalars(query, {"keys": [row.normal for row in batch]}))
        orphans = [row for row in batch if row.normal not in saved]
        found.spared += len(batch) - len(orphans)
        if not orphans:
            return
        _receipt(connection, receipt, found.store, orphans)
    # Nothing goes without a trace: after a crash a receipt may tell of objects that the next run removes.
    try:
        store.delete_many([row.key for row in orphans])
    except ObjectsKept as error:
        found.kept += error.count
        found.deleted -= error.count
        found.error = found.error or str(error)
    found.deleted += len(orphans)


@dataclass(frozen=True, slots=True)
class Receipt:
    """What the receipts of one run have in common: its id, and who wanted it and why."""

    run: UUID
    actor: str
    reason: str
    before: datetime


def _receipt(connection: Connection, receipt: Receipt, store: str, orphans: Any) -> None:
    """Write down that these objects go. Not their keys, which may name people: receipts stay."""
    keys = sorted(row.key for row in orphans)
    content = {
        "store": store,
        "actor": receipt.actor,
        "reason": receipt.reason,
        "before": receipt.before.isoformat(),
        "bytes": sum(row.size for row in orphans),
        "keys_sha256": hashlib.sha256("\n".join(keys).encode()).hexdigest(),
    }
    receipts.append(
        connection, kind="reconciled", policy=POLICY, run=receipt.run, rows=len(keys), content=content
    )
