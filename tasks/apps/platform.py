"""The platform's own definition: what it keeps for a while.

Published rows of the outbox are not here: `outbox.relay` removes them itself, beside publishing others.
"""

from datetime import timedelta

from sqlalchemy import BigInteger, Double, and_, case, cast, exists, extract, func, or_, select

from models.analytics import AttachmentsDaily, EchoroomSpeaker, EchoroomStay
from models.platform import AttachmentEvent, DeadLetter, FutureTimestamp, JobRun, ScanVerdict
from models.platform import AttachmentJob as Job
from tasks.policies.retention import Owners, Restrict, Retention
from tasks.policies.rollup import DAY, FROM, TO, Rollup, SourceTable, bucket_of
from tasks.policies.sweep import AFTER, NOW, Delete, Sweep

#: The platform's records of its own work have no owner. While an attachment is on hold its row and its job
#: stay, and with the job the latest of its event log.
_OWNERS: Owners = {DeadLetter: {}, AttachmentEvent: {}, ScanVerdict: {}}
_ITS_JOB = and_(Job.app == AttachmentEvent.app, Job.attachment_id == AttachmentEvent.attachment_id)

# One that goes through the pipeline once more keeps the time at which it was finished before.
_FINISHED = and_(Job.state == "finished", Job.finished_at.is_not(None))
_TOOK = cast(extract("epoch", func.greatest(Job.finished_at, Job.created_at) - Job.created_at), Double)
_SECONDS = case((_FINISHED, _TOOK))
_VERDICT = func.coalesce(Job.verdict, "none")
_OBSERVED = (
    "They are copied for the statistics of their hours and days, which are closed by then, and computed "
    "again for three days only."
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
            Job.app,
            _VERDICT.label("verdict"),
            func.count().label("attachments"),
            func.count(_SECONDS).label("finished"),
            func.coalesce(cast(func.sum(Job.size_bytes), BigInteger), 0).label("size_bytes"),
            func.percentile_cont(0.5).within_group(_SECONDS).label("processing_median_seconds"),
            func.percentile_cont(0.95).within_group(_SECONDS).label("processing_p95_seconds"),
        )
        .where(Job.created_at >= FROM, Job.created_at < TO)
        # By the column: each parameter would be another expression to PostgreSQL.
        .group_by(Job.app, Job.verdict),
        source_tables=(SourceTable(Job, (Job.created_at,)),),
    ),
)
