"""What an operator may do with one attachment: look at its story, retry, quarantine, release.

Each act is kept with who did it and why. It takes effect at once where that matters (addresses go in the same
transaction); the pipeline does the rest, as it would for any file.
"""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Row, select
from sqlalchemy.dialects.postgresql import insert

from models.platform import AttachmentEvent as Event
from models.platform import AttachmentJob as Job
from tasks.apps import APPS
from tasks.apps.spec import AttachmentTable
from tasks.attachments import history, jobs
from tasks.attachments.jobs import UnknownAttachmentError
from workers.db import transaction

#: act → what it sets on the job. Release and quarantine stand above the verdict; a retry changes neither.
ACTS: dict[str, dict[str, Any]] = {
    "retry": {},
    "quarantine": {"override": "quarantine"},
    "release": {"override": "release"},
}


def act(name: str, app: str, attachment_id: UUID, *, actor: str, reason: str) -> None:
    """Do `name`, one of `ACTS`, to an attachment, whatever its state.

    Raises:
        UnknownAttachmentError: the application has no such row, or has deleted it.
    """
    table = _table(app)
    with transaction() as connection:
        if connection.scalar(select(table.id).where(table.id == attachment_id, table.live)) is None:
            raise UnknownAttachmentError(f"{app} has no attachment {attachment_id}, or has deleted it")
        # One that nobody has worked on yet has no job to be told.
        new = insert(Job).values(app=app, attachment_id=attachment_id, state="waiting")
        connection.execute(new.on_conflict_do_nothing())
        attempt = jobs.reopen(connection, app, table, attachment_id, f"{name}: by an operator", **ACTS[name])
        history.note(connection, app, attachment_id, name, attempt=attempt or 0, actor=actor, reason=reason)


def look(app: str, attachment_id: UUID) -> tuple[Row[Any] | None, Sequence[Row[Any]]]:
    """Return the attachment's job, None if it has none, and its events in the order of their happening."""
    _table(app)
    with transaction() as connection:
        job = connection.execute(
            select(*Job.__table__.columns).where(Job.app == app, Job.attachment_id == attachment_id)
        ).one_or_none()
        events = connection.execute(
            select(*Event.__table__.columns)
            .where(Event.app == app, Event.attachment_id == attachment_id)
            .order_by(Event.at, Event.id)
        ).all()
        return job, events


def _table(app: str) -> AttachmentTable:
    page = APPS.get(app)
    if page is None or page.attachments is None:
        named = ", ".join(name for name, other in APPS.items() if other.attachments)
        raise UnknownAttachmentError(f"{app!r} is no application with attachments: {named}")
    return page.attachments


def find(
    *,
    app: str | None = None,
    state: str | None = None,
    outcome: str | None = None,
    reason: str | None = None,
    sha256: str | None = None,
    event: str | None = None,
    limit: int,
) -> Sequence[Row[Any]]:
    """Return the jobs that fit everything that is given, the latest first, at most `limit`.

    Args:
        app, state, outcome, reason, sha256: as the job's columns are.
        event: something that has ever happened to the attachment, 'late_detection' say.
    """
    wanted = {
        Job.app: app,
        Job.state: state,
        Job.outcome: outcome,
        Job.reason: reason,
        Job.sha256: sha256.lower() if sha256 else None,
    }
    statement = select(*Job.__table__.columns).order_by(Job.updated_at.desc()).limit(limit)
    for column, value in wanted.items():
        if value is not None:
            statement = statement.where(column == value)
    if event is not None:
        happened = (
            (Event.app == Job.app) & (Event.attachment_id == Job.attachment_id) & (Event.event == event)
        )
        statement = statement.where(select(Event.id).where(happened).exists())
    with transaction() as connection:
        return connection.execute(statement).all()
