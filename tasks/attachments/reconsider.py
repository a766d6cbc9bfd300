"""Files that were refused are examined again, when the rules are others by now; so many at a time.

Never malware, nor what an operator has quarantined. Each has an event with the reason that was given for it:
a second run for the same reason goes on where the first one ended.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from time import sleep
from typing import Any
from uuid import UUID

from redis.exceptions import RedisError
from sqlalchemy import ColumnElement, Connection, Row, func, or_, select

from models.platform import AttachmentEvent as Event
from models.platform import AttachmentJob as Job
from tasks.attachments import attachment_work, history
from tasks.availability import available
from tasks.policies.attachment import AttachmentTable
from workers import queue_lengths
from workers.db import transaction
from workers.queues import ATTACHMENTS
from workers.settings import Settings
from workers.storage import ObjectMissing, ObjectTooLarge, UnknownProvider, store_for
from workers.workdir import workdir

EVENT = "reconsidered"
#: Files that are looked up in one query.
BATCH = 50
#: Between two looks at a queue that is long.
PAUSE_SECONDS = 0.5
#: How old refusals are, in days: up to a day, a week, a month.
AGES = (1, 7, 30)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which refused files are meant.

    Attributes:
        apps: of these applications.
        refused_for: refused for one of these reasons; for any, if it is empty.
        reason: why they are examined again. Those that were before, for the same reason, are not meant.
    """

    apps: tuple[str, ...]
    refused_for: tuple[str, ...]
    reason: str

    def jobs(self, app: str, table: AttachmentTable) -> ColumnElement[bool]:
        """Return the condition on the jobs of an application, joined with its rows."""
        done = select(Event.id).where(
            Event.app == Job.app,
            Event.attachment_id == Job.attachment_id,
            Event.event == EVENT,
            Event.reason == self.reason,
        )
        found = (Job.app == app) & refused() & table.live & ~done.exists()
        return found & Job.reason.in_(self.refused_for) if self.refused_for else found


@dataclass(frozen=True, slots=True)
class Group:
    """Refused files of one application and reason; `ages` is how many are as old as `AGES`, and older."""

    app: str
    reason: str
    files: int
    size: int
    ages: tuple[int, ...]


@dataclass(slots=True)
class Progress:
    """What a run has done: files that are examined again, and those left because their object is missing."""

    reopened: int = 0
    missing: int = 0


def refused() -> ColumnElement[bool]:
    """Return the condition on jobs of refused files: not malware, nor what an operator has quarantined."""
    return (
        (Job.state == "finished")
        & (Job.outcome == "refused")
        & or_(Job.verdict.is_(None), Job.verdict != "infected")
        & or_(Job.override.is_(None), Job.override != "quarantine")
    )


def preview(wanted: Selection, settings: Settings) -> list[Group]:
    """Return how many files would be examined again, by application and reason."""
    limits = [func.now() - timedelta(days=days) for days in AGES]
    younger = [func.count().filter(Job.finished_at > limit) for limit in limits]
    found = []
    with transaction() as connection:
        for app, table in _tables(wanted, settings):
            rows = connection.execute(
                select(Job.reason, func.count(), func.coalesce(func.sum(Job.size_bytes), 0), *younger)
                .join(table.model, table.id == Job.attachment_id)
                .where(wanted.jobs(app, table))
                .group_by(Job.reason)
                .order_by(func.count().desc(), Job.reason)
            ).all()
            for reason, files, size, *upto in rows:
                steps = zip([*upto, files], [0, *upto], strict=True)
                ages = tuple(older - newer for older, newer in steps)
                found.append(Group(app, str(reason), files, int(size or 0), ages))
    return found


def reconsider(
    wanted: Selection,
    settings: Settings,
    progress: Progress,
    *,
    actor: str,
    at_once: int,
    limit: int | None,
    watch: Callable[[str], None],
) -> None:
    """Have the files go through the pipeline once more; `progress` is kept up to date.

    The recovery job announces them. While `at_once` files wait or are worked on, whosever they are, no more
    are added.

    Raises:
        StoreError: a store is away; what was done before stays done.
    """
    for app, table in _tables(wanted, settings):
        after: UUID | None = None
        while limit is None or progress.reopened < limit:
            while (room := at_once - _backlog(settings)) <= 0:
                watch(f"{progress.reopened:,} files; waiting for the queue")
                sleep(PAUSE_SECONDS)
            most = min(room, BATCH, BATCH if limit is None else limit - progress.reopened)
            batch = _next(wanted, app, table, after, most)
            if not batch:
                break
            for row in batch:
                after = row.attachment_id
                if not _is_there(row, settings):
                    progress.missing += 1
                elif _reopen(wanted, row, table, actor):
                    progress.reopened += 1
            watch(f"{progress.reopened:,} files")


def _tables(wanted: Selection, settings: Settings) -> Iterator[tuple[str, AttachmentTable]]:
    for app, application in available(settings).items():
        if application.attachments is not None and app in wanted.apps:
            yield app, application.attachments


def _backlog(settings: Settings) -> int:
    """Return how many files wait for a worker or have one."""
    with transaction() as connection:
        condition = or_(attachment_work.due(), Job.state == "running")
        known = connection.scalar(select(func.count()).select_from(Job).where(condition)) or 0
    try:
        # Those that services have published are no rows of ours yet.
        return max(known, queue_lengths.read(settings)[ATTACHMENTS])
    except RedisError:
        return known


def _next(
    wanted: Selection, app: str, table: AttachmentTable, after: UUID | None, most: int
) -> Sequence[Row[Any]]:
    statement = (
        select(
            *(Job.app, Job.attachment_id, Job.attempt, Job.reason, Job.quarantine_key),
            table.key.label("key"),
            table.store_name().label("provider"),
        )
        .join(table.model, table.id == Job.attachment_id)
        .where(wanted.jobs(app, table))
        .order_by(Job.attachment_id)
        .limit(most)
    )
    if after is not None:
        statement = statement.where(Job.attachment_id > after)
    with transaction() as connection:
        return connection.execute(statement).all()


def _is_there(row: Row[Any], settings: Settings) -> bool:
    """Return whether the object is in its place or in quarantine: without it the file would only wait."""
    try:
        store = store_for(row.provider, settings)
        if store.fingerprint(row.key) is not None:
            return True
        if row.quarantine_key is None:
            return False
        with workdir(settings.work_root) as folder:
            # No byte of it is wanted.
            store.fetch_quarantined(row.quarantine_key, folder / "content", limit=0)
    except ObjectTooLarge:
        return True
    except (ObjectMissing, UnknownProvider):
        return False
    return True


def _reopen(wanted: Selection, row: Row[Any], table: AttachmentTable, actor: str) -> bool:
    with transaction() as connection:
        if not _still(connection, row):
            return False
        attempt = attachment_work.reopen(
            connection, row.app, table, row.attachment_id, f"{EVENT}: {row.reason}"
        )
        history.note(
            connection,
            row.app,
            row.attachment_id,
            EVENT,
            attempt=attempt or 0,
            actor=actor,
            reason=wanted.reason,
            refused_for=row.reason,
        )
        return True


def _still(connection: Connection, row: Row[Any]) -> bool:
    """Lock the job, unless it was processed, or an operator has acted on it, since it was read."""
    same = (Job.app == row.app) & (Job.attachment_id == row.attachment_id) & (Job.attempt == row.attempt)
    return (
        connection.execute(select(Job.attempt).where(same, refused()).with_for_update()).first() is not None
    )
