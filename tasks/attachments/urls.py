"""`attachments.renew_urls`: signed URLs expire; those in the rows are renewed in time."""

from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy import Float, Row, Select, bindparam, func, select, update

from models.platform import AttachmentJob
from tasks.attachments import app_columns, objects
from tasks.attachments.objects import ObjectUrls
from tasks.availability import available
from tasks.policies.attachment import AttachmentTable
from tasks.policies.columns import table_of
from workers import job_history
from workers.app import task
from workers.db import transaction
from workers.queues import MAINTENANCE
from workers.settings import Settings, get_settings
from workers.storage import StoreError, store_for

log = structlog.get_logger(__name__)

JOB = "attachments.renew_urls"
#: How many rows one transaction renews, and how many transactions one run has for one application.
BATCH = 200
BATCHES = 50


@task(name=JOB, queue=MAINTENANCE, send_events=False)
def renew_urls() -> None:
    """Sign anew the URLs that have a third of their time left, the first to expire first.

    One that cannot be signed now is put off to the end of the queue, so that it does not block others.
    """
    settings = get_settings()
    apps = available(settings)
    with job_history.run(JOB) as run:
        if run is None:
            return
        for name, application in apps.items():
            if application.attachments is None:
                continue
            # Chosen once: where credentials end sooner than that third, what was just renewed is due again.
            due = _due(name, settings)
            for start in range(0, len(due), BATCH):
                run.rows += _renew(name, application.attachments, due[start : start + BATCH], settings)
            if len(due) == BATCH * BATCHES:
                run.outcome = "more"


def _due(name: str, settings: Settings) -> Sequence[UUID]:
    """Return the attachments whose turn it is, the first to expire first, as many as one run has time for."""
    with transaction() as connection:
        limit = BATCH * BATCHES
        return connection.scalars(_DUE, {"app": name, "left": _left(settings), "limit": limit}).all()


def _renew(name: str, table: AttachmentTable, ids: Sequence[UUID], settings: Settings) -> int:
    """Renew the URLs of these attachments. Return how many are done with."""
    wanted = {"app": name, "ids": ids, "left": _left(settings)}
    with transaction() as connection:
        described = connection.execute(_described(table), wanted).all()
    # Before anything is locked: credentials may have to be fetched first.
    signed: dict[UUID, ObjectUrls] = {}
    away: dict[UUID, str] = {}
    for job in described:
        try:
            if job.id is not None:
                signed[job.attachment_id] = _signed(job, settings)
        except StoreError as error:
            away[job.attachment_id] = str(error)
    before, renewed = {job.attachment_id: job for job in described}, 0
    locked = _described(table).with_for_update(skip_locked=True, of=_JOBS)
    with transaction() as connection:
        for job in connection.execute(locked, wanted).all():
            job_key = {"its_app": name, "its_id": job.attachment_id}
            if job != before.get(job.attachment_id):
                # Changed since: its turn comes with the next run.
                continue
            if job.id is None:
                # Deleted; the job that removes its objects removes our row.
                connection.execute(_EXPIRES, job_key | {"url_expires_at": None})
            elif fresh := signed.get(job.attachment_id):
                app_columns.renew_urls(connection, table, job.attachment_id, fresh)
                connection.execute(_EXPIRES, job_key | {"url_expires_at": fresh.expires_at})
            else:
                connection.execute(_PUT_OFF, job_key | {"left": wanted["left"]})
                continue
            renewed += 1
    for why, rows in Counter(away.values()).items():
        log.warning("urls.postponed", app=name, rows=rows, why=why)
    return renewed


def _signed(job: Row[Any], settings: Settings) -> ObjectUrls:
    store = store_for(job.provider, settings)
    keys = {"small": job.small_key, "large": job.large_key}
    drawn = {name: picture for name, picture in keys.items() if picture}
    media_type = objects.served_type(job.media_type, job.findings)
    return objects.object_urls(store, job.key, media_type, job.name, drawn)


def _left(settings: Settings) -> float:
    """Return how many seconds a URL has left when it is renewed."""
    return settings.s3_url_seconds / 3


@cache
def _described(table: AttachmentTable) -> Select[Any]:
    """Return the query for what signing needs to know of some attachments, but those withdrawn meanwhile."""
    return (
        select(
            _JOBS.c.attachment_id,
            _JOBS.c.small_key,
            _JOBS.c.large_key,
            _JOBS.c.findings,
            table.id.label("id"),
            table.key.label("key"),
            table.store_name().label("provider"),
            table.media_type.label("media_type"),
            table.name.label("name"),
        )
        .select_from(_JOBS.outerjoin(table_of(table.model), table.id == _JOBS.c.attachment_id))
        .where(*_IS_DUE, _JOBS.c.attachment_id == func.any(bindparam("ids")))
        .order_by(_JOBS.c.url_expires_at)
    )


_JOBS = table_of(AttachmentJob)
_SOON = func.now() + func.make_interval(0, 0, 0, 0, 0, 0, bindparam("left", type_=Float))
_IS_DUE = (
    _JOBS.c.app == bindparam("app"),
    _JOBS.c.outcome == "accepted",
    _JOBS.c.url_expires_at < _SOON,
)
_DUE = (
    select(_JOBS.c.attachment_id).where(*_IS_DUE).order_by(_JOBS.c.url_expires_at).limit(bindparam("limit"))
)
_THIS_JOB = (_JOBS.c.app == bindparam("its_app"), _JOBS.c.attachment_id == bindparam("its_id"))
_EXPIRES = update(_JOBS).where(*_THIS_JOB)
#: Behind all that are due now, and before those that will be: the next run tries it again, at the end.
_PUT_OFF = update(_JOBS).where(*_THIS_JOB).values(url_expires_at=_SOON)
