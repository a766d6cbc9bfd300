"""Keeps a claim alive while its file is being worked on, however long a scan or a picture takes."""

import threading
from time import monotonic
from types import TracebackType
from typing import Self

import structlog
from sqlalchemy.exc import SQLAlchemyError

from tasks.attachments import jobs
from workers.db import transaction
from workers.settings import Settings

log = structlog.get_logger(__name__)


class Lease:
    """Renews the claim's lease from a thread, thrice in its length, until the block ends.

    A process that is killed or frozen renews nothing, and the file goes to another. `check` tells the one
    that was frozen.
    """

    def __init__(self, mine: jobs.Claim, settings: Settings) -> None:
        self._claim = mine
        self._settings = settings
        self._over = threading.Event()
        self._lost = False
        self._renewed = monotonic()
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
        """Note the phase that begins, so that a death can say where it was.

        Raises:
            jobs.LeaseLostError: another holds the file by now.
        """
        self.check()
        with transaction() as connection:
            jobs.renew(connection, self._claim, self._settings, phase)
        self._renewed = monotonic()

    def check(self) -> None:
        """Raise `jobs.LeaseLostError` if another may hold the file by now."""
        if self._lost or monotonic() - self._renewed > self._settings.attachment_lease_seconds:
            raise jobs.LeaseLostError("the lease could not be renewed in time")

    def _keep(self) -> None:
        while not self._over.wait(self._settings.attachment_lease_seconds / 3):
            try:
                with transaction() as connection:
                    jobs.renew(connection, self._claim, self._settings)
                self._renewed = monotonic()
            except jobs.LeaseLostError:
                self._lost = True
                return
            except SQLAlchemyError as error:
                # The database may be back before the lease runs out.
                log.warning("lease.not_renewed", error=type(error).__name__)
