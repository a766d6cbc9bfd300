"""What happens to one attachment: fetch → identify → scan → strip → draw → store.

Everything here may happen twice or be cut off anywhere. Objects are written under keys that follow from the
attachment's id, so that doing it again overwrites; rows are written once, at the end, by the latest claim.
"""

import errno
from time import monotonic, sleep
from uuid import UUID

import structlog
from billiard.exceptions import SoftTimeLimitExceeded
from sqlalchemy.exc import SQLAlchemyError

from tasks.attachments import attachment_work, revival
from tasks.attachments.commit_outcome import clear_away, commit_outcome
from tasks.attachments.content.finding import phrase
from tasks.attachments.errors import FailedError, GivenUpError, NotYetError
from tasks.attachments.examine import AttemptContext, examine
from tasks.attachments.history import EventLog
from tasks.attachments.lease import Lease
from tasks.attachments.objects import delete_pictures
from tasks.policies.attachment import AttachmentTable
from workers import metrics
from workers.database_errors import is_transient
from workers.db import release_snapshot, transaction
from workers.settings import Settings
from workers.storage import ObjectChanged, ObjectMissing, StoreError, UnknownProvider, keys, store_for
from workers.workdir import workdir

#: Between two attempts to reach a database that was there a moment ago.
DATABASE_PAUSE_SECONDS = 0.5
#: How much of a task's time an attempt waits for that: a file that is given back has lost no attempt, and one
#: whose lease ran out has. Nothing else could be done meanwhile.
DATABASE_PATIENCE = 0.8
#: The shortest pause before the last look for an object that is late.
LAST_LOOK_SECONDS = 1.0

log = structlog.get_logger(__name__)


def work(app: str, table: AttachmentTable, row_id: UUID, worker: str, settings: Settings) -> str:
    """Take one attachment through the pipeline, if it needs it; return how that ended, in a word.

    Raises:
        attachment_work.UnknownAttachmentError: the application has no such row.
    """
    unserved = None
    with transaction() as connection:
        claim = attachment_work.claim(connection, app, table, row_id, worker, settings)
        if claim is None:
            unserved = revival.candidate(connection, app, table, row_id)
    if unserved is not None and revival.revive(app, table, row_id, unserved, settings):
        with transaction() as connection:
            claim = attachment_work.claim(connection, app, table, row_id, worker, settings)
    if claim is None:
        return "nothing to do"
    if claim.failed:
        _tidy(claim, settings)
        metrics.ATTEMPTS.labels(app, "failed", "", "worker_lost").inc()
        return "failed (worker_lost)"
    try:
        return _attempt(claim, settings)
    except attachment_work.LeaseLostError as error:
        # The worker that took over does it all again.
        log.warning("attachment.lease_lost", app=app, id=str(row_id), error=str(error))
        _clear_away(claim, settings)
        return "taken over"


def _attempt(claim: attachment_work.Claim, settings: Settings) -> str:
    event_log = EventLog(claim.app, claim.id, claim.attempt, claim.worker)
    deadline = monotonic() + DATABASE_PATIENCE * settings.task_soft_limit_seconds
    try:
        store = store_for(claim.provider, settings)
        with Lease(claim, settings) as lease, workdir(settings.work_root) as folder:
            context = AttemptContext(claim, store, folder, lease, event_log, settings)
            found = examine(context)
            lease.check()
            outcome = commit_outcome(context, found)
        metrics.ATTEMPTS.labels(claim.app, found.outcome, found.verdict or "", found.reason or "").inc()
        log.info(
            "attachment.attempted", app=claim.app, id=str(claim.id), attempt=claim.attempt, outcome=outcome
        )
        return outcome
    except NotYetError as error:
        why = error
    except ObjectMissing as error:
        why = _missing(claim, error, settings)
    except ObjectChanged as error:
        # The object is being overwritten: what was scanned is not what would be served.
        why = FailedError("object_changed", str(error))
    except UnknownProvider as error:
        why = FailedError("unknown_provider", str(error))
    except (StoreError, OSError) as error:
        # A store or a disk that is away: like a scanner that is away, not the file's fault.
        why = _away(error)
    except SoftTimeLimitExceeded:
        why = FailedError("timed_out", f"took longer than {settings.task_soft_limit_seconds} s")
    except attachment_work.LeaseLostError:
        raise
    except Exception as error:
        if is_transient(error):
            # The database is restarting, say. Given back, or the lease would count as that of a dead worker.
            why = NotYetError("database_unavailable", type(getattr(error, "orig", None) or error).__name__)
        else:
            # Told with its traceback; and the row says more than that a worker was lost.
            log.exception("attachment.internal_error", app=claim.app, id=str(claim.id))
            why = FailedError("internal_error", type(error).__name__)
    return _put_off(claim, why, event_log, settings, deadline)


def _missing(claim: attachment_work.Claim, error: ObjectMissing, settings: Settings) -> NotYetError:
    """Return how an attempt ends that found no object: the file waits for it, as long as it may.

    Uploads are often announced early: a signed URL that a client has yet to use, a multipart upload, a store
    that is replicated. The age of our row counts, not that of the application's: clocks of services differ.
    """
    found = [str(error), *keys.doubts(claim.key)]
    detail = f"{'; '.join(found)}: key {phrase(repr(claim.key))} in the store {claim.provider}"
    left = settings.attachment_missing_seconds - claim.known_seconds
    if left > 0:
        # The last look is at the end of the time, or a moment after it.
        return NotYetError("object_missing", detail, within=max(left, LAST_LOOK_SECONDS))
    # One that is known for long may have been there until now: it has as many looks as others have attempts.
    if claim.waits + 1 < settings.attachment_attempts:
        return NotYetError("object_missing", detail)
    return GivenUpError("object_missing", detail)


def _away(error: StoreError | OSError) -> NotYetError:
    """Return what is away. A full disk is reported as such: our own, or the local store's."""
    met = error.__cause__ if isinstance(error, StoreError) else error
    if isinstance(met, OSError) and met.errno in {errno.ENOSPC, errno.EDQUOT}:
        return NotYetError("disk_full", met.strerror or str(met))
    if isinstance(error, StoreError):
        return NotYetError("store_unavailable", str(error))
    return NotYetError("disk_unavailable", error.strerror or str(error))


def _put_off(
    claim: attachment_work.Claim, why: NotYetError, event_log: EventLog, settings: Settings, deadline: float
) -> str:
    """Give the file back, or park it. A database that is away is waited for until the deadline."""
    failed = isinstance(why, FailedError)
    given_up = isinstance(why, GivenUpError)
    event_log.add("failed" if failed or given_up else "put off", why=f"{why.reason}: {why.detail}")
    while True:
        try:
            with transaction() as connection:
                state = attachment_work.wait(
                    connection,
                    claim,
                    why.reason,
                    why.detail,
                    settings,
                    failed=failed,
                    given_up=given_up,
                    within=why.within,
                    judged_object=None if why.reason in revival.UNSEEN else event_log.judged_object,
                )
                if state == "failed":
                    event_log.add("given_up", why=f"{why.reason}: {why.detail}")
                event_log.write(connection)
            break
        except SQLAlchemyError as error:
            if not is_transient(error) or monotonic() > deadline:
                raise
            sleep(DATABASE_PAUSE_SECONDS)
    if state == "failed":
        _tidy(claim, settings)
    outcome = f"{state} ({why.reason})"
    metrics.ATTEMPTS.labels(claim.app, state, "", why.reason).inc()
    log.info("attachment.attempted", app=claim.app, id=str(claim.id), attempt=claim.attempt, outcome=outcome)
    return outcome


def _tidy(claim: attachment_work.Claim, settings: Settings) -> None:
    """Remove the pictures of a file that has failed: an attempt may have stored them before it failed.

    While our row is locked: an operator may want it served in a moment. After the commit that says so: the
    application's row is not locked while the store is asked.
    """
    try:
        with transaction() as connection:
            if attachment_work.has_failed(connection, claim):
                release_snapshot(connection)
                store = store_for(claim.provider, settings)
                delete_pictures(store, claim.app, claim.id)
                if claim.failed:
                    # The workers that could have said what they had fetched are dead.
                    attachment_work.note_object(connection, claim, store.fingerprint(claim.key))
    except (StoreError, OSError, SQLAlchemyError) as error:
        # No row links to them; a store that is away is no reason to try a failed file again.
        log.warning("attachment.pictures_left", app=claim.app, id=str(claim.id), error=str(error))


def _clear_away(claim: attachment_work.Claim, settings: Settings) -> None:
    try:
        clear_away(claim, store_for(claim.provider, settings))
    except (StoreError, OSError, SQLAlchemyError) as error:
        # Logged, for there is no row that would cause another attempt.
        log.error("attachment.objects_left", app=claim.app, id=str(claim.id), key=claim.key, error=str(error))
