"""All copies of some content, in every application: what one of them turns out to be, all are."""

from sqlalchemy import ColumnElement, or_, select

from models.platform import AttachmentJob as Job
from tasks.apps import APPS
from tasks.attachments import attachment_work, history
from tasks.attachments.scan import INFECTED
from tasks.availability import disabled
from workers.db import transaction
from workers.settings import get_settings


def served_jobs() -> ColumnElement[bool]:
    """Return the condition on the jobs whose file is served, unless an operator released it as infected.

    Those of applications that are switched off are left until they are there again.
    """
    served = (Job.outcome == "accepted") & or_(Job.override.is_(None), Job.override_reason != INFECTED)
    off = list(disabled(get_settings()))
    return served & Job.app.not_in(off) if off else served


#: How many rows one transaction withdraws.
BATCH = 200


def withdraw(sha256: str, why: str) -> int:
    """Withdraw every served copy of the content, and have each looked at again; return how many.

    Their URLs go at once, in batches; the pipeline then quarantines them, knowing the verdict already.
    Copies that an operator has released as infected stay.
    """
    count = 0
    while True:
        with transaction() as connection:
            served = connection.execute(
                select(Job.app, Job.attachment_id)
                .where(Job.sha256 == sha256, served_jobs())
                # Always in the same order, so that two transactions do not wait for each other.
                .order_by(Job.app, Job.attachment_id)
                .limit(BATCH)
                .with_for_update()
            ).all()
            for row in served:
                table = APPS[row.app].attachments
                assert table is not None
                attachment_work.reopen(
                    connection, row.app, table, row.attachment_id, f"late_detection: {why}"
                )
                history.note(connection, row.app, row.attachment_id, "late_detection", why=why)
        count += len(served)
        if len(served) < BATCH:
            return count
