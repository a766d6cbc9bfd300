"""What an operator may do with one attachment: look at its event log, retry, quarantine, release.

Each act is kept with who did it and why. It takes effect at once where that matters (URLs go in the same
transaction); the pipeline does the rest, as it would for any file.
"""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Row, func, select, true
from sqlalchemy.dialects.postgresql import insert

from models.platform import AttachmentEvent as Event
from models.platform import AttachmentJob as Job
from tasks.apps import APPS, attachments_of, enabled
from tasks.attachments import attachment_work, history
from tasks.attachments.attachment_work import UnknownAttachmentError
from tasks.availability import available
from tasks.policies.attachment import AttachmentTable
from workers.db import transaction
from workers.settings import get_settings, variable

#: What a job may be asked for by.
WITH_ATTACHMENTS = tuple(name for name, application in APPS.items() if application.attachments)
STATES = ("waiting", "running", "finished", "failed")
OUTCOMES = ("accepted", "refused", "quarantined")

#: act → what it sets on the job. Release and quarantine stand above the verdict; a retry changes neither.
#: A release holds for the content that was judged, and for the reason that it was refused for: what was
#: released in spite of its name is not released in spite of the malware that replaced it.
ACTS: dict[str, dict[str, Any]] = {
    "retry": {},
    "quarantine": {"override": "quarantine", "override_sha256": None, "override_reason": None},
    "release": {
        "override": "release",
        "override_sha256": Job.sha256,
        "override_reason": func.coalesce(Job.reason, Job.override_reason),
    },
}
#: Reasons that a release does not stand above, and what helps instead.
UNRELEASABLE = {
    "empty": "there is nothing to serve; have the object stored once more, and retry",
    "too_large": f"it was never examined; raise {variable('max_file_bytes')}, and retry",
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
        # An attachment that was never processed has no job yet.
        new = insert(Job).values(app=app, attachment_id=attachment_id, state="waiting")
        connection.execute(new.on_conflict_do_nothing())
        attempt = attachment_work.reopen(
            connection, app, table, attachment_id, f"{name}: by an operator", **ACTS[name]
        )
        history.note(connection, app, attachment_id, name, attempt=attempt or 0, actor=actor, reason=reason)


def elsewhere(app: str, attachment_id: UUID) -> list[str]:
    """Return the other enabled applications that have an attachment of that id."""
    others = {
        name: application.attachments
        for name, application in available(get_settings()).items()
        if name != app
    }
    with transaction() as connection:
        return [
            name
            for name, table in others.items()
            if table and connection.scalar(select(table.id).where(table.id == attachment_id)) is not None
        ]


def why_idle(app: str, attachment_id: UUID) -> str:
    """Return why an attachment was never processed: a sentence without its full stop.

    Raises:
        UnknownAttachmentError: the application has no such row.
    """
    table, settings = _table(app), get_settings()
    unprocessed = table.unprocessed if table.unprocessed is not None else true()
    with transaction() as connection:
        row = connection.execute(
            select(table.live.label("live"), unprocessed.label("unprocessed")).where(
                table.id == attachment_id
            )
        ).one_or_none()
    if row is None:
        raise UnknownAttachmentError(f"{app} has no attachment {attachment_id}")
    if not row.live:
        return f"{app} has deleted it"
    if app not in enabled(settings):
        return f"it is in the table, but {variable('apps')} does not name {app}"
    if not row.unprocessed:
        return "its row says that it is done, so the recovery job passes over it; retry has it looked at"
    if table.unprocessed is None:
        return "it is in the table; the recovery job takes it up when its round comes to that row"
    seconds = settings.attachment_grace_seconds + settings.recover_every_seconds
    return f"it is in the table; the recovery job takes it up within {seconds:g} s"


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
    table = attachments_of(app)
    if table is None:
        named = ", ".join(WITH_ATTACHMENTS)
        raise UnknownAttachmentError(f"{app!r} is no application with attachments: {named}")
    return table


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


def file_names(rows: Sequence[Row[Any]]) -> dict[tuple[str, UUID], str]:
    """Return what the attachments of these jobs are called, by application and id, if they are still there.

    The names come from outside.
    """
    found: dict[tuple[str, UUID], str] = {}
    apps = available(get_settings())
    with transaction() as connection:
        for name, application in apps.items():
            ids = [row.attachment_id for row in rows if row.app == name]
            if application.attachments and ids:
                table = application.attachments
                named = connection.execute(select(table.id, table.name).where(table.id.in_(ids)))
                found.update({(name, row_id): file_name for row_id, file_name in named})
    return found
