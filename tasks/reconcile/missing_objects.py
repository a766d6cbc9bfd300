"""Rows whose object is gone: counted, and given back to the pipeline, which withdraws and parks them.

The listing only says where to look: each object is asked for before its row counts, and again before it is
reopened.
"""

import os
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Select, false, func, or_, select

from models.platform import AttachmentJob as Job
from models.platform import ListedObject
from tasks.attachments import attachment_work, history
from tasks.attachments.objects import quarantine_name
from tasks.policies.attachment import AttachmentTable
from tasks.policies.columns import table_of
from tasks.reconcile.listing import unhurried
from tasks.reconcile.referenced_keys import normal
from tasks.reconcile.result import SAMPLES, Result, most
from tasks.reconcile.spool import spooled
from workers.db import transaction
from workers.storage import ObjectChanged, ObjectMissing, ObjectStore, ObjectTooLarge

#: What the pipeline calls it too.
REASON = "object_missing"

_LISTED = table_of(ListedObject).c


@dataclass(frozen=True, slots=True)
class MissingObject:
    """A row that names an object which was not listed; `attempt` tells whether it was worked on since."""

    app: str
    id: UUID
    key: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Look:
    """Which rows are looked at: those of the tables `asked`, served since before `began`, with their object
    below the `prefixes`."""

    asked: Mapping[str, AttachmentTable]
    began: datetime
    prefixes: tuple[str, ...]

    def served(self, app: str, store: str) -> Select[Any, Any, int]:
        """Return the query for an application's rows that name an object in the store, and are served."""
        table = self.asked[app]
        return (
            select(table.id.label("id"), table.key.label("key"), Job.attempt.label("attempt"))
            .join(Job, (Job.app == app) & (Job.attachment_id == table.id))
            .where(table.live, table.store_name() == store)
            .where(Job.state == "finished", Job.outcome == "accepted", Job.finished_at < self.began)
        )

    def rows(self, app: str, store: str) -> Select[Any, Any, int]:
        """Return the query for the rows that are looked at."""
        return self.served(app, store).where(self._below(normal(self.asked[app].key)))

    def missing(self, app: str, store: str) -> Generator[MissingObject, None, None]:
        """Yield those of them whose object was not listed."""
        same = normal(_LISTED.key) == normal(self.asked[app].key)
        listed = select(1).where(_LISTED.store == store, same).exists()
        with closing(spooled(self.rows(app, store).where(~listed))) as unlisted:
            for row_id, key, attempt in unlisted:
                yield MissingObject(app, UUID(row_id), key, attempt)

    def expected(self, store: str) -> bool:
        """Say whether rows name objects below the prefixes, originals or pictures."""
        with transaction() as connection:
            unhurried(connection)
            for app, table in self.asked.items():
                named = or_(*map(self._below, (normal(table.key), Job.small_key, Job.large_key)))
                if connection.execute(self.served(app, store).where(named).limit(1)).first():
                    return True
        return False

    def _below(self, key: Any) -> ColumnElement[bool]:
        return or_(false(), *(func.starts_with(key, prefix) for prefix in self.prefixes))


def count(found: Result, look: Look, store: ObjectStore, share: float, watch: Callable[[str], None]) -> None:
    """Find out how many rows there are, and whose object is gone; no more of these than are too many.

    Raises:
        StoreError.
    """
    with transaction() as connection:
        unhurried(connection)
        for app in look.asked:
            rows = look.rows(app, found.store).subquery()
            found.rows += connection.scalar(select(func.count()).select_from(rows)) or 0
    limit = most(found.rows, share)
    for app in look.asked:
        with closing(look.missing(app, found.store)) as missing:
            for one in missing:
                if _is_gone(one, store):
                    found.missing += 1
                    found.ids += [f"{one.app} {one.id}"] * (len(found.ids) < SAMPLES)
                    watch(f"{found.store}: {found.missing:,} rows without their object")
                if found.missing > limit:
                    return


def reopen(
    found: Result,
    look: Look,
    store: ObjectStore,
    share: float,
    actor: str,
    reason: str,
    watch: Callable[[str], None],
) -> None:
    """Give the rows whose object is gone back to the pipeline.

    Raises:
        StoreError: the store is away; what was reopened is counted.
    """
    limit = most(found.rows, share)
    for app in look.asked:
        with closing(look.missing(app, found.store)) as missing:
            for one in missing:
                if not _is_gone(one, store):
                    continue
                if found.reopened >= limit:
                    found.stopped = f"{found.store}: the objects of more than {limit:,} rows are gone by now"
                    return
                found.reopened += _reopen(one, look.asked[app], actor, reason)
                watch(f"{found.store}: {found.reopened:,} of {found.missing:,} rows reopened")


def _is_gone(one: MissingObject, store: ObjectStore) -> bool:
    """Ask the store itself: it may have been listed wrongly, or lie in quarantine."""
    nowhere = Path(os.devnull)
    for ask, name in (
        (store.fetch, one.key),
        (store.fetch_quarantined, quarantine_name(one.app, one.id)),
    ):
        try:
            # No byte of it is wanted.
            ask(name, nowhere, limit=0)
        except (ObjectTooLarge, ObjectChanged):
            return False
        except ObjectMissing:
            continue
        return False
    return True


def _reopen(one: MissingObject, table: AttachmentTable, actor: str, reason: str) -> bool:
    with transaction() as connection:
        # Unless it was processed since.
        still = select(Job.attempt).where(
            Job.app == one.app,
            Job.attachment_id == one.id,
            Job.attempt == one.attempt,
            Job.outcome == "accepted",
        )
        if connection.execute(still.with_for_update()).one_or_none() is None:
            return False
        attempt = attachment_work.reopen(connection, one.app, table, one.id, REASON)
        history.note(
            connection,
            one.app,
            one.id,
            REASON,
            attempt=attempt or 0,
            actor=actor or None,
            reason=reason or None,
        )
        return True
