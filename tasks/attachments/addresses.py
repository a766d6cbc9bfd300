"""`attachments.renew_addresses`: signed addresses expire; those in the rows are renewed in time."""

from datetime import timedelta

from sqlalchemy import func, select, update

from models.platform import AttachmentJob as Job
from tasks.apps import enabled
from tasks.apps.spec import AttachmentTable
from tasks.attachments import mirror, objects
from workers import ledger
from workers.app import task
from workers.db import transaction
from workers.queues import MAINTENANCE
from workers.settings import Settings, get_settings
from workers.storage import store_for

JOB = "attachments.renew_addresses"
#: How many rows one transaction renews, and how many transactions one run has.
BATCH = 200
BATCHES = 50


@task(name=JOB, queue=MAINTENANCE)
def renew_addresses() -> None:
    """Sign anew the addresses that have a third of their time left, the first to expire first."""
    settings = get_settings()
    with ledger.run(JOB) as run:
        if run is None:
            return
        for name, page in enabled(settings).items():
            if page.attachments is None:
                continue
            for _ in range(BATCHES):
                done = _batch(name, page.attachments, settings)
                run.rows += done
                if done < BATCH:
                    break
            else:
                run.outcome = "more"


def _batch(name: str, table: AttachmentTable, settings: Settings) -> int:
    soon = func.now() + timedelta(seconds=settings.s3_url_seconds / 3)
    with transaction() as connection:
        expiring = connection.execute(
            select(Job.attachment_id, Job.small_key, Job.large_key)
            .where(Job.app == name, Job.outcome == "accepted", Job.address_expires_at < soon)
            .order_by(Job.address_expires_at)
            .limit(BATCH)
            .with_for_update(skip_locked=True)
        ).all()
        for job in expiring:
            its = (Job.app == name) & (Job.attachment_id == job.attachment_id)
            row = connection.execute(
                select(table.key, table.store_name(), table.media_type, table.name).where(
                    table.id == job.attachment_id
                )
            ).one_or_none()
            if row is None:
                # Deleted; whoever removes its objects removes our row.
                connection.execute(update(Job).where(its).values(address_expires_at=None))
                continue
            key, provider, media_type, file_name = row
            store = store_for(provider, settings)
            keys = {"small": job.small_key, "large": job.large_key}
            drawn = {name: picture for name, picture in keys.items() if picture}
            fresh = objects.addresses(store, key, media_type, file_name, drawn)
            mirror.readdressed(connection, table, job.attachment_id, fresh)
            connection.execute(update(Job).where(its).values(address_expires_at=fresh.expires_at))
        return len(expiring)
