"""How often files are downloaded, as far as an application counts it: those are looked at again first."""

from sqlalchemy import Connection, case, func, select, update
from sqlalchemy.dialects.postgresql import insert

from models.platform import AttachmentJob as Job
from models.platform import Checkpoint
from tasks.policies.attachment import AttachmentTable

JOB = "attachments.popularity"
#: How many rows of an application's table one turn looks at.
STRETCH = 2_000
#: Downloads from which a file is popular, and very popular.
STEPS = (10, 100)


def note_popularity(connection: Connection, name: str, table: AttachmentTable) -> None:
    """Bring the next stretch of our rows up to date with the application's counter, if it has one."""
    if table.downloads is None:
        return
    start = connection.scalar(
        select(Checkpoint.position).where(Checkpoint.job == JOB, Checkpoint.app == name)
    )
    rows = select(table.id.label("id"), table.downloads.label("downloads")).order_by(table.id).limit(STRETCH)
    if start is not None:
        rows = rows.where(table.id > start)
    stretch = rows.cte("stretch")
    popularity = sum(
        (case((func.coalesce(stretch.c.downloads, 0) >= step, 1), else_=0) for step in STEPS[1:]),
        start=case((func.coalesce(stretch.c.downloads, 0) >= STEPS[0], 1), else_=0),
    )
    connection.execute(
        update(Job)
        .where(Job.app == name, Job.attachment_id == stretch.c.id, Job.popularity != popularity)
        .values(popularity=popularity)
    )
    end = connection.scalar(select(rows.subquery().c.id).order_by("id").offset(STRETCH - 1).limit(1))
    place = insert(Checkpoint).values(job=JOB, app=name, position=end)
    connection.execute(
        place.on_conflict_do_update(
            index_elements=[Checkpoint.job, Checkpoint.app], set_={"position": place.excluded.position}
        )
    )
