"""`attachments.rescan`: what is served is looked at again when the scanner's signatures are new.

The riskiest first (programs, archives, documents; the often downloaded; the recent), within a share of one
scanner thread's time. A clean file notices nothing. One that is not clean any more is withdrawn at once, with
every copy of it, and goes through the pipeline, which quarantines it.
"""

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from time import monotonic
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy import ColumnElement, Connection, func, literal, or_, select, update

from models.platform import AttachmentJob as Job
from models.platform import JobRun, ScanVerdict
from tasks.apps import APPS
from tasks.attachments import attachment_work, duplicates, history, scan, scanner_selftest, verdicts
from tasks.attachments.errors import NotYetError
from tasks.attachments.popularity import note_popularity
from tasks.availability import available
from workers import job_history, metrics, sandbox
from workers.app import task
from workers.db import transaction
from workers.queues import ATTACHMENTS
from workers.sandbox import SandboxFailure
from workers.scanner import Scanner, ScannerUnavailable, Version
from workers.settings import Settings, get_settings
from workers.storage import ObjectMissing, ObjectTooLarge, StoreError, UnknownProvider, store_for
from workers.workdir import sweep, workdir

JOB = "attachments.rescan"
#: How many candidates are read at once; the budget ends a run earlier or later.
BATCH = 100

#: Traits of files that the scanner does not open: a copy of theirs is scanned.
COPIED = ("known_password", "unpacked_copy")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A served file that was scanned with other signatures than today's."""

    app: str
    id: UUID
    attempt: int
    sha256: str | None
    #: The scanner does not open it: its open copy is scanned, too.
    copied: bool


@task(name=JOB, queue=ATTACHMENTS, send_events=False)
def rescan() -> None:
    """Look again at served files, for as long as the budget allows."""
    settings = get_settings()
    sweep(settings.work_root)
    apps = available(settings)
    with job_history.run(JOB) as run:
        if run is None:
            return
        # Whatever the budget: this costs next to nothing, and makes good what a crash has left.
        _withdraw_known()
        if not settings.rescan_share:
            return
        for name, application in apps.items():
            if application.attachments is not None:
                # On its own, like all that follows: the run's transaction only holds the job's lock.
                with transaction() as connection:
                    note_popularity(connection, name, application.attachments)
        if _in_debt(run.connection, settings):
            run.outcome = "more"
            return
        deadline = monotonic() + settings.rescan_share * settings.rescan_every_seconds
        scanner = Scanner(settings.clamd, settings.scan_timeout_seconds)
        try:
            version = scanner.versions()
            if not version.dated:
                return
            scanner_selftest.check(scanner, version, settings)
            put_off: set[UUID] = set()
            # One at least: a budget may be smaller than any file takes, and is paid back then.
            while batch := _candidates(version, settings, put_off):
                for candidate in batch:
                    try:
                        run.rows += _look_again(candidate, scanner, version, settings)
                    except NotYetError:
                        # Its store is away, or not set up any more: the others must not wait for that.
                        put_off.add(candidate.id)
                        run.outcome = "more"
                    if monotonic() >= deadline:
                        run.outcome = "more"
                        return
        except (ScannerUnavailable, NotYetError) as error:
            # The files wait for the next turn; a scanner that is away is told by others.
            log.warning("rescan.postponed", error=str(error))
            run.outcome = "more"


def _withdraw_known() -> None:
    """Withdraw served copies of content that is known to be bad: those that a crash left behind."""
    with transaction() as connection:
        bad = connection.execute(
            select(ScanVerdict.sha256, ScanVerdict.signature)
            .join(Job, Job.sha256 == ScanVerdict.sha256)
            .where(ScanVerdict.verdict == "infected", duplicates.served_jobs())
            .distinct()
            .limit(BATCH)
        ).all()
    for row in bad:
        duplicates.withdraw(row.sha256, f"infected with {row.signature}")


def _in_debt(connection: Connection, settings: Settings) -> bool:
    """Say whether the last run took so long, over one large file say, that its share is not over yet."""
    last = connection.execute(
        select(JobRun.started_at, JobRun.finished_at)
        .where(JobRun.job == JOB, JobRun.rows > 0)
        .order_by(JobRun.started_at.desc())
        .limit(1)
    ).one_or_none()
    if last is None:
        return False
    took = (last.finished_at - last.started_at).total_seconds()
    # A tenth less: runs begin a little early or late.
    pause = timedelta(seconds=0.9 * took / settings.rescan_share)
    return bool(connection.scalar(select(func.clock_timestamp() < last.started_at + pause)))


def _old_versions(connection: Connection, version: Version) -> list[str]:
    """Return the versions that served files were last scanned with, but for today's.

    Each is found by one step in the index, however many files have it.
    """
    served = (Job.outcome == "accepted") & (Job.verdict == "clean")
    found = select(func.min(Job.signature_version).label("version")).where(served).cte(recursive=True)
    after = select(func.min(Job.signature_version)).where(served, Job.signature_version > found.c.version)
    found = found.union_all(select(after.scalar_subquery()).where(found.c.version.is_not(None)))
    statement = select(found.c.version).where(found.c.version != version.signatures)
    return list(connection.scalars(statement))


def _candidates(version: Version, settings: Settings, put_off: set[UUID]) -> list[Candidate]:
    """Return the riskiest files that were scanned with other signatures, without those `put_off`."""
    found: list[Any] = []
    apps = list(available(settings))
    with transaction() as connection:
        for old in _old_versions(connection, version):
            found += connection.execute(
                select(
                    Job.app,
                    Job.attachment_id,
                    Job.attempt,
                    Job.sha256,
                    or_(*(literal(name) == func.any(Job.findings) for name in COPIED)).label("copied"),
                    (Job.risk + Job.popularity).label("risk"),
                    Job.finished_at,
                )
                .where(Job.outcome == "accepted", Job.verdict == "clean", Job.signature_version == old)
                .where(Job.app.in_(apps), Job.attachment_id.not_in(put_off))
                .order_by((Job.risk + Job.popularity).desc(), Job.finished_at.desc())
                .limit(BATCH)
            ).all()
    found.sort(key=lambda row: (row.risk, row.finished_at), reverse=True)
    return [
        Candidate(row.app, row.attachment_id, row.attempt, row.sha256, row.copied) for row in found[:BATCH]
    ]


def _look_again(candidate: Candidate, scanner: Scanner, version: Version, settings: Settings) -> bool:
    """Scan one file and write what that said. Return whether a file was looked at.

    Raises:
        ScannerUnavailable: no answer.
        NotYetError: the file cannot be had now.
    """
    table = APPS[candidate.app].attachments
    assert table is not None
    verdict = None
    with transaction() as connection:
        if candidate.sha256 and not candidate.copied:
            verdict = verdicts.known(connection, candidate.sha256, version)
        row = connection.execute(
            # A deleted row too: it may be restored, with its URLs.
            select(table.key, table.store_name()).where(table.id == candidate.id)
        ).one_or_none()
    if row is None:
        # It is not served.
        _note_clean(candidate, version)
        return False
    known, changed = verdict is not None, None
    if verdict is None:
        try:
            with workdir(settings.work_root) as folder:
                store = store_for(row[1], settings)
                fetched = store.fetch(row[0], folder / "content", limit=settings.max_file_bytes)
                if fetched.sha256 != candidate.sha256:
                    changed = "the object is not the one that was scanned"
                if candidate.copied:
                    # Leaves the open copy for the scanner.
                    _open(folder, settings)
                verdict = scan.scanned(scanner, folder / "content")
        except (ObjectMissing, ObjectTooLarge) as error:
            changed = str(error)
        except SandboxFailure as error:
            if error.reason == "sandbox_closed":
                raise NotYetError("sandbox_unavailable", error.detail) from error
            changed = str(error)
        except (StoreError, UnknownProvider, OSError) as error:
            log.warning("rescan.store_unavailable", app=candidate.app, id=str(candidate.id), error=str(error))
            raise NotYetError("store_unavailable", str(error)) from error
    if changed or verdict is None:
        # Replaced, grown beyond what is allowed or gone since. The pipeline decides what that means.
        metrics.RESCANS.labels("changed").inc()
        _reopen(candidate, "object_changed", changed or "")
        return True
    metrics.RESCANS.labels(verdict.name).inc()
    if not known and candidate.sha256:
        with transaction() as connection:
            verdicts.keep(connection, candidate.sha256, version, verdict)
    if verdict.name == "clean":
        _note_clean(candidate, version)
    elif verdict.name == "infected" and candidate.sha256:
        duplicates.withdraw(candidate.sha256, f"infected with {verdict.signature}")
    else:
        _reopen(candidate, "late_detection", f"{verdict.name}: {verdict.signature}")
    return True


def _open(folder: Path, settings: Settings) -> None:
    """Write the open copy of the content beside it."""
    sandbox.run(
        "tasks.attachments.identify:inspect",
        folder / "content",
        folder,
        {},
        seconds=settings.identify_timeout_seconds,
        memory_bytes=settings.draw_memory_bytes,
    )


def _unchanged(candidate: Candidate) -> tuple[ColumnElement[bool], ...]:
    # The attempt tells whether it was processed again since it was read.
    return (
        Job.app == candidate.app,
        Job.attachment_id == candidate.id,
        Job.attempt == candidate.attempt,
        Job.outcome == "accepted",
    )


def _note_clean(candidate: Candidate, version: Version) -> None:
    with transaction() as connection:
        connection.execute(
            update(Job)
            .where(*_unchanged(candidate))
            .values(
                signature_version=version.signatures,
                engine_version=version.engine,
                rescanned_at=func.now(),
            )
        )


def _reopen(candidate: Candidate, event: str, why: str) -> None:
    table = APPS[candidate.app].attachments
    assert table is not None
    with transaction() as connection:
        still = select(Job.attempt).where(*_unchanged(candidate)).with_for_update()
        if connection.execute(still).one_or_none() is not None:
            attachment_work.reopen(connection, candidate.app, table, candidate.id, f"{event}: {why}")
            history.note(connection, candidate.app, candidate.id, event, why=why)
