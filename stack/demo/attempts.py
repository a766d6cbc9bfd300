"""Whether the jobs that the demonstration waits for are at work, by what they have written down."""

from collections.abc import Collection
from datetime import datetime
from uuid import UUID

from sqlalchemy import Engine, func, select

from models.platform import AttachmentJob, JobRun

#: What a job has not done in so many runs it will not do in another.
_RUNS = 5


def tries(
    engine: Engine, jobs: Collection[str], files: Collection[UUID], since: datetime
) -> tuple[int, datetime | None]:
    """Return something that changes as long as the jobs, or the work on the files, may still succeed.

    Args:
        jobs: names of periodic jobs; runs of each count, as many as it may need.
        files: ids of attachments; each change of one's state counts.
        since: runs before do not count.
    """
    runs = (
        select(func.count().label("number"))
        .where(JobRun.job.in_(jobs), JobRun.started_at > since)
        .group_by(JobRun.job)
        .subquery()
    )
    counted = select(func.coalesce(func.sum(func.least(runs.c.number, _RUNS)), 0))
    changed = select(func.max(AttachmentJob.updated_at)).where(AttachmentJob.attachment_id.in_(files))
    with engine.begin() as connection:
        return int(connection.scalar(counted) or 0), connection.scalar(changed)
