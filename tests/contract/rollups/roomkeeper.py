"""Examples of the platform's own rollups."""

from models.analytics import AttachmentsDaily
from models.platform import AttachmentJob
from tasks.apps.platform import OWN_ROLLUPS
from tests.analytics.oracle_attachments import job
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
        ),
    ),
)
