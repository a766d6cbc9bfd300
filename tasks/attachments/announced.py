"""Files that the outbox has announced are noted, so that the recovery job does not announce them again."""

from collections import defaultdict
from collections.abc import Iterable
from uuid import UUID

import structlog
from pydantic import ValidationError
from sqlalchemy import Connection, func, literal, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DBAPIError

from models.platform import AttachmentJob as Job
from tasks.attachments import attachment_work
from tasks.attachments.payload import ProcessAttachment
from tasks.availability import available
from tasks.policies.attachment import AttachmentTable
from workers.db import transaction
from workers.settings import Settings

log = structlog.get_logger(__name__)

TASK = "attachments.process"


def note(payloads: Iterable[object], settings: Settings) -> None:
    """Note that messages with these payloads were published.

    A file without a job gets one, if it exists. One that is not noted is announced twice, which is harmless:
    so a database that does not take it is only logged.
    """
    apps = available(settings)
    files: dict[str, list[UUID]] = defaultdict(list)
    for payload in payloads:
        try:
            request = ProcessAttachment.model_validate(payload)
        except ValidationError:
            # Its worker makes a dead letter of it.
            continue
        files[request.app].append(request.id)
    for name, row_ids in files.items():
        table = apps[name].attachments if name in apps else None
        if table is None:
            continue
        try:
            with transaction() as connection:
                _note(connection, name, table, row_ids)
        except DBAPIError as error:
            log.warning("outbox.not_noted", app=name, error=type(error).__name__)


def _note(connection: Connection, name: str, table: AttachmentTable, row_ids: list[UUID]) -> None:
    waiting = (
        select(literal(name), table.id, literal("waiting"), func.now())
        .where(table.live, table.id.in_(row_ids))
        .order_by(table.id)
    )
    statement = insert(Job).from_select(["app", "attachment_id", "state", "enqueued_at"], waiting)
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=[Job.app, Job.attachment_id],
            set_={"enqueued_at": func.now()},
            where=attachment_work.due() & (Job.state == "waiting"),
        )
    )
