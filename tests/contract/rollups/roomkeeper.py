"""Examples of the platform's own rollups."""

from models.analytics import AttachmentFact, AttachmentsDaily
from models.platform import AttachmentJob
from tasks.apps.platform import OWN_ROLLUPS
from tests.analytics.oracle_attachments import fact, job
from tests.contract.rollup_example import Example, Source

(ATTACHMENTS_DAILY,) = OWN_ROLLUPS

EXAMPLES = (
    Example(
        rollup=ATTACHMENTS_DAILY,
        sources=(
            Source(
                at=(AttachmentJob.created_at,),
                counts=(AttachmentsDaily.attachments,),
                add=job,
                key="attachment_id",
            ),
            Source(at=(AttachmentFact.at,), counts=(AttachmentsDaily.attachments,), add=fact),
        ),
    ),
)
