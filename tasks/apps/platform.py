"""The platform's own definition: what it keeps for a while.

Published rows of the outbox are not here: `outbox.relay` removes them itself, beside publishing others.
"""

from datetime import timedelta

from sqlalchemy import (
    BigInteger,
    Double,
    Insert,
    and_,
    case,
    cast,
    exists,
    extract,
    func,
    insert,
    or_,
    select,
    union_all,
)

from models.analytics import (
    AttachmentFact,
    AttachmentsDaily,
    EchoroomSpeaker,
    EchoroomStay,
    PernFact,
    RollupState,
)
from models.platform import AttachmentEvent, DeadLetter, FutureTimestamp, JobRun, ScanVerdict
from models.platform import AttachmentJob as Job
from tasks.policies.columns import table_of
from tasks.policies.retention import FACTS_FROM, GOING, Owners, Restrict, Retention
from tasks.policies.rollup import DAY, FROM, TO, Rollup, SourceTable, bucket_of, quarter_of
from tasks.policies.sweep import AFTER, NOW, Delete, Sweep

#: The platform's records of its own work have no owner. While an attachment is on hold its row and its job
#: stay, and with the job the latest of its event log.
_OWNERS: Owners = {DeadLetter: {}, AttachmentEvent: {}, ScanVerdict: {}}
_ITS_JOB = and_(Job.app == AttachmentEvent.app, Job.attachment_id == AttachmentEvent.attachment_id)

# One that goes through the pipeline once more keeps the time at which it was finished before.
_FINISHED = and_(Job.state == "finished", Job.finished_at.is_not(None))
_TOOK = cast(extract("epoch", func.greatest(Job.finished_at, Job.created_at) - Job.created_at), Double)
_SECONDS = case((_FINISHED, _TOOK))
_OBSERVED = (
    "They are copied for the statistics of their hours and days, which are closed by then, and computed "
    "again for three days only."
)


def job_facts(app: str) -> Insert:
    """Return what keeps the facts of the jobs of an application's attachments that are deleted.

    A job that an operator has overridden is not deleted with its attachment.
    """
    kept = (
        select(quarter_of(Job.created_at), Job.app, Job.verdict, Job.size_bytes, _SECONDS)
        .where(Job.app == app, Job.attachment_id == func.any(GOING), Job.override.is_(None))
        .where(Job.created_at >= FACTS_FROM, func.isfinite(Job.created_at))
        .with_for_update()
    )
    return insert(table_of(AttachmentFact)).from_select(
        ["at", "app", "verdict", "size_bytes", "seconds"], kept
    )


def _facts(model: type[PernFact] | type[AttachmentFact], what: str, rollup: str) -> Sweep:
    frozen_to = select(RollupState.frozen_to).where(RollupState.name == rollup).scalar_subquery()
    return Sweep(
        name=f"roomkeeper.{table_of(model).name}",
        model=model,
        rule=f"facts of deleted {what} are deleted when they are older than {{after}}, or their days are "
        "frozen",
        why="A conversation's own limit may delete rows before their days are final: until then, statistics "
        "need facts of them. When facts are deleted, their days are frozen.",
        due=model.at < func.greatest(NOW - AFTER, frozen_to),
        action=Delete(),
        every=timedelta(hours=1),
        after=timedelta(days=40),
    )


OWN = (
    Sweep(
        name="roomkeeper.runs",
        model=JobRun,
        rule="runs in the job history older than {after} are deleted",
        why="Some policies run every few seconds; what is older is seen in metrics.",
        due=JobRun.started_at < NOW - AFTER,
        action=Delete(),
        every=timedelta(hours=1),
        after=timedelta(days=7),
    ),
    Sweep(
        name="roomkeeper.future_timestamps",
        model=FutureTimestamp,
        rule="notes of signs of life with a time in the future are deleted past expires_at",
        why="A note goes with its row when that is swept. These are left of rows that the application has "
        "deleted, or that have given another sign.",
        due=FutureTimestamp.expires_at < NOW,
        action=Delete(),
        every=timedelta(minutes=10),
    ),
    Sweep(
        name="roomkeeper.echoroom_stays",
        model=EchoroomStay,
        rule="observed stays of `echoroom` that ended more than {after} ago are deleted",
        why=_OBSERVED,
        due=EchoroomStay.left_at < NOW - AFTER,
        action=Delete(),
        every=timedelta(hours=1),
        after=timedelta(days=40),
    ),
    Sweep(
        name="roomkeeper.echoroom_speakers",
        model=EchoroomSpeaker,
        rule="who was seen speaking in `echoroom` more than {after} ago is forgotten",
        why=_OBSERVED,
        due=EchoroomSpeaker.hour < NOW - AFTER,
        action=Delete(),
        every=timedelta(hours=1),
        after=timedelta(days=40),
    ),
    _facts(PernFact, "messages and statuses of `pern`", "pern.daily"),
    _facts(AttachmentFact, "files", "roomkeeper.attachments_daily"),
    Retention(
        name="roomkeeper.dead_letters",
        model=DeadLetter,
        rule="dead letters older than {after} are deleted",
        why="Each may be work that was never done: an operator must have looked before they go.",
        age=DeadLetter.created_at,
        owners=_OWNERS,
    ),
    Retention(
        name="roomkeeper.attachment_history",
        model=AttachmentEvent,
        rule="what happened to an attachment more than {after} ago is deleted, but for its latest attempt, "
        "and what operators did to it, while it is there",
        why="Why a file is served, or not, must be told for as long as it is there; how earlier attempts "
        "went, only for a while.",
        age=AttachmentEvent.at,
        # What belongs to no attempt has the number 0: a late detection is told by the attempt after it.
        where=~exists().where(
            _ITS_JOB,
            or_(AttachmentEvent.actor.is_not(None), AttachmentEvent.attempt >= Job.attempt),
        ),
        owners=_OWNERS,
        # No index has their times.
        full_pass_every=timedelta(days=1),
    ),
    Retention(
        name="roomkeeper.scan_verdicts",
        model=ScanVerdict,
        rule="clean verdicts that were reached more than {after} ago, on content that no attachment has, are "
        "forgotten",
        why="They save a scan of the same bytes with the same signatures, which are newer by then. What was "
        "ever called infected or suspicious is remembered.",
        age=ScanVerdict.scanned_at,
        where=ScanVerdict.verdict == "clean",
        refers=(
            Restrict(
                Job.sha256,
                "no foreign key: an attachment has this content",
                to=ScanVerdict.sha256,
            ),
        ),
        owners=_OWNERS,
        # Nothing that a scan would not tell again.
        archive=False,
        full_pass_every=timedelta(days=1),
    ),
)

#: Files whose jobs are there, and those of which only facts are left.
_files = union_all(
    select(Job.app, Job.verdict, Job.size_bytes, _SECONDS.label("seconds")).where(
        Job.created_at >= FROM, Job.created_at < TO
    ),
    select(
        AttachmentFact.app, AttachmentFact.verdict, AttachmentFact.size_bytes, AttachmentFact.seconds
    ).where(AttachmentFact.at >= FROM, AttachmentFact.at < TO),
).subquery("files")

OWN_ROLLUPS = (
    Rollup(
        name="roomkeeper.attachments_daily",
        model=AttachmentsDaily,
        rule="files taken up that day, by application and verdict as it stands ('none' where there is none); "
        "their bytes; those that are finished, and in how many seconds, up to the last time that they were",
        why="What people upload, what is found in it and how long they wait for it; one that was looked at "
        "once more is told by its latest verdict.",
        grain=DAY,
        bucket=AttachmentsDaily.day,
        key=(AttachmentsDaily.app, AttachmentsDaily.verdict),
        select=select(
            bucket_of(AttachmentsDaily.day),
            _files.c.app,
            func.coalesce(_files.c.verdict, "none").label("verdict"),
            func.count().label("attachments"),
            func.count(_files.c.seconds).label("finished"),
            func.coalesce(cast(func.sum(_files.c.size_bytes), BigInteger), 0).label("size_bytes"),
            func.percentile_cont(0.5).within_group(_files.c.seconds).label("processing_median_seconds"),
            func.percentile_cont(0.95).within_group(_files.c.seconds).label("processing_p95_seconds"),
        )
        # By the column: each parameter would be another expression to PostgreSQL.
        .group_by(_files.c.app, _files.c.verdict),
        source_tables=(
            SourceTable(Job, (Job.created_at,)),
            SourceTable(AttachmentFact, (AttachmentFact.at,)),
        ),
        # 2: facts of deleted files count, too.
        definition=2,
    ),
)
