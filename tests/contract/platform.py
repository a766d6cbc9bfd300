"""Examples of the platform's own policies."""

from models.analytics import AttachmentFact, EchoroomSpeaker, EchoroomStay, PernFact
from models.platform import AttachmentEvent, AttachmentJob, DeadLetter, FutureTimestamp, JobRun, ScanVerdict
from tests.contract.example import Case, Example, Of, Row, refers
from tests.contract.scenario import LONG_AGO


def _job(attempt: int) -> tuple[Row, ...]:
    """Return the job of an event's attachment, which has been tried so often."""
    values = {
        AttachmentJob.app: Of(AttachmentEvent.app),
        AttachmentJob.attachment_id: Of(AttachmentEvent.attachment_id),
        AttachmentJob.state: "failed",
        AttachmentJob.attempt: attempt,
    }
    return (Row(model=AttachmentJob, values=values),)


EXAMPLES = (
    Example(policy="roomkeeper.runs", limits=(JobRun.started_at,)),
    Example(policy="roomkeeper.future_timestamps", limits=(FutureTimestamp.expires_at,)),
    Example(
        policy="roomkeeper.echoroom_stays",
        row={EchoroomStay.left_at: LONG_AGO},
        limits=(EchoroomStay.left_at,),
        null_stays=(EchoroomStay.left_at,),
    ),
    Example(policy="roomkeeper.echoroom_speakers", limits=(EchoroomSpeaker.hour,)),
    Example(
        policy="roomkeeper.pern_facts",
        row={PernFact.kind: "message"},
        limits=(PernFact.at,),
        null_due=(PernFact.key, PernFact.seconds),
    ),
    Example(
        policy="roomkeeper.attachment_facts",
        row={AttachmentFact.app: "pern"},
        limits=(AttachmentFact.at,),
        null_due=(AttachmentFact.verdict, AttachmentFact.size_bytes, AttachmentFact.seconds),
    ),
    Example(policy="roomkeeper.dead_letters", limits=(DeadLetter.created_at,)),
    Example(
        policy="roomkeeper.attachment_history",
        row={AttachmentEvent.app: "pern", AttachmentEvent.attempt: 2},
        limits=(AttachmentEvent.at,),
        due=(
            Case(beside=_job(3)),
            {AttachmentEvent.actor: "ada"},
            # Of no attempt: a late detection, say.
            Case(values={AttachmentEvent.attempt: 0}, beside=_job(3)),
        ),
        stays=(
            Case(beside=_job(2)),
            Case(beside=_job(1)),
            Case(values={AttachmentEvent.actor: "ada", AttachmentEvent.attempt: 0}, beside=_job(3)),
        ),
        null_due=(AttachmentEvent.actor,),
    ),
    Example(
        policy="roomkeeper.scan_verdicts",
        row={ScanVerdict.verdict: "clean"},
        limits=(ScanVerdict.scanned_at,),
        stays=tuple(
            {ScanVerdict.verdict: verdict, ScanVerdict.signature: "Eicar"}
            for verdict in ("infected", "suspicious")
        ),
        protected_by=(refers(AttachmentJob.sha256, {AttachmentJob.state: "failed"}),),
    ),
)
