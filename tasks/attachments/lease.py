"""Keeps a claim alive while its file is being worked on, however long a scan or a picture takes."""

import threading
from time import monotonic
from types import TracebackType
from typing import Self

import structlog
from sqlalchemy.exc import SQLAlchemyError

from tasks.attachments import attachment_work
from workers.database_errors import is_unavailable
from workers.db import transaction
from workers.settings import Settings

log = structlog.get_logger(__name__)


#: A phase that lasts longer than this is noted in the row. Most are over by then, and five updates for each
#: file would cost more than the rest of the work on a small one.
NOTED_AFTER_SECONDS = 0.25


class Lease:
    """Renews the claim's lease from a thread, thrice in its length, until the block ends.

    The thread also notes the phase, so that a death can say where it was.

    A process that is killed or frozen renews nothing, and the file goes to another. `check` tells the one
    that was frozen.
    """

    def __init__(self, claim: attachment_work.Claim, settings: Settings) -> None:
        self._claim = claim
        self._settings = settings
        self._over = threading.Event()
        self._lost = False
        self._error: SQLAlchemyError | None = None
        self._renewed = monotonic()
        self._phase: str | None = None
        self._noted: str | None = None
        self._entered = monotonic()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def enter(self, phase: str) -> None:
        """Say which phase begins; raises as `check`."""
        self.check()
        self._phase, self._entered = phase, monotonic()

    def confirm(self, phase: str) -> None:
        """Enter a phase that changes what others see, and make sure of the lease first.

        Raises:
            attachment_work.LeaseLostError: another holds the file by now.
        """
        self.enter(phase)
        self._renew(phase)

    def check(self) -> None:
        """Raise if another may hold the file by now.

        Raises:
            attachment_work.LeaseLostError: another does, or this process was frozen for too long.
            SQLAlchemyError: the database took no renewal, and most likely no other claim either.
        """
        overdue = monotonic() - self._renewed > self._settings.attachment_lease_seconds
        error = self._error
        if overdue and not self._lost and error is not None and is_unavailable(error):
            raise error
        if overdue or self._lost:
            raise attachment_work.LeaseLostError("the lease could not be renewed in time")

    def _keep(self) -> None:
        third = self._settings.attachment_lease_seconds / 3
        while not self._over.wait(min(third, NOTED_AFTER_SECONDS)):
            phase, now = self._phase, monotonic()
            new = phase != self._noted and now - self._entered > NOTED_AFTER_SECONDS
            # The margin is the pause between two looks.
            if not new and now - self._renewed < third - NOTED_AFTER_SECONDS:
                continue
            try:
                self._renew(phase)
            except attachment_work.LeaseLostError:
                self._lost = True
                return
            except SQLAlchemyError as error:
                # The database may be back before the lease runs out.
                self._error = error
                log.warning("lease.not_renewed", error=type(error).__name__)

    def _renew(self, phase: str | None) -> None:
        with transaction() as connection:
            attachment_work.renew(connection, self._claim, self._settings, phase)
        self._renewed, self._noted, self._error = monotonic(), phase, None
