"""`attachments.process`: takes one attachment through the pipeline."""

from tasks.apps import APPS
from tasks.attachments import attachment_work, pipeline
from tasks.attachments.payload import ProcessAttachment
from tasks.availability import available
from workers.app import task
from workers.queues import ATTACHMENTS
from workers.settings import get_settings
from workers.task import PlatformTask


@task(
    name="attachments.process",
    bind=True,
    queue=ATTACHMENTS,
    pydantic=True,
    # An id comes as JSON text, which strict validation would refuse for a UUID.
    pydantic_strict=False,
)
def process(self: PlatformTask, request: ProcessAttachment) -> str:
    """Identify, scan, draw and store one attachment; return how it ended, in a word or two.

    Safe to send twice, late or never: the row decides what is done, and `attachments.recover` finds it.
    """
    table = APPS[request.app].attachments
    assert table is not None
    settings = get_settings()
    if request.app not in available(settings):
        # Its row is found by `attachments.recover` once the application is there again.
        return f"waits: no job of {request.app} runs here"
    try:
        return pipeline.work(request.app, table, request.id, str(self.request.hostname), settings)
    except attachment_work.UnknownAttachmentError as error:
        self.not_there_yet(error)
