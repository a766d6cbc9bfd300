"""Rows that name the same object: what one of them has moved into quarantine, the others find there.

A service may let several rows name one object, as when a message is forwarded; with the local store even
rows of several applications.
"""

from sqlalchemy import Connection, or_, select

from models.platform import AttachmentJob as Job
from tasks.attachments.attachment_work import Claim
from tasks.availability import available
from workers.settings import Settings


def quarantined_name(connection: Connection, claim: Claim, settings: Settings) -> str | None:
    """Return where the object of a claim lies in quarantine, if it is malware and another row had it moved.

    What an operator has quarantined is not looked into for another row.
    """
    for name, application in available(settings).items():
        table = application.attachments
        if table is None:
            continue
        # By the jobs, of which few are in quarantine: no index need have the keys.
        found: str | None = connection.scalar(
            select(Job.quarantine_key)
            .join(table.model, table.id == Job.attachment_id)
            .where(Job.app == name, Job.quarantine_key.is_not(None), Job.verdict == "infected")
            .where(or_(Job.override.is_(None), Job.override != "quarantine"))
            .where(table.key == claim.key, table.store_name() == claim.provider)
            .order_by(Job.finished_at.desc())
            .limit(1)
        )
        if found is not None:
            return found
    return None
