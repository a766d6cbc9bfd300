"""What happens to one attachment: fetch → identify → scan → draw → store.

Everything here may happen twice or be cut off anywhere. Objects are written under keys that follow from the
attachment's id, so that doing it again overwrites; rows are written once, at the end, by the latest claim.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep
from typing import Any
from uuid import UUID

import structlog
from celery.exceptions import SoftTimeLimitExceeded
from sqlalchemy.exc import OperationalError

from tasks.apps.spec import AttachmentTable
from tasks.attachments import draw, identify, jobs, policy, sandbox, scan
from tasks.attachments.lease import Lease
from tasks.attachments.mirror import Seen
from workers.db import transaction
from workers.scanner import Scanner, ScannerUnavailable, Version
from workers.settings import Settings
from workers.storage import ObjectMissing, ObjectStore, ObjectTooLarge, StoreError, UnknownProvider, store_for
from workers.storage.base import Fetched

#: Between two attempts to reach a database that was there a moment ago.
DATABASE_PAUSE_SECONDS = 0.5

log = structlog.get_logger(__name__)


class NotYetError(Exception):
    """The file waits, through no fault of its own: `reason` for machines, `detail` for people."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


class FailedError(NotYetError):
    """The attempt failed, perhaps through the file's fault: it counts."""


@dataclass(slots=True)
class Findings:
    """What is known of the file so far; `reason` says why it is not served."""

    outcome: str = "accepted"
    verdict: str | None = None
    reason: str | None = None
    detail: str | None = None
    fetched: Fetched | None = None
    media_type: str | None = None
    corrected: str | None = None
    signature: str | None = None
    version: Version | None = None
    pictures: dict[str, Path] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)

    def refuse(self, reason: str, detail: str, verdict: str | None = None) -> None:
        """Decide that the file is not served."""
        self.outcome, self.reason, self.detail = "refused", reason, detail
        self.verdict = verdict or self.verdict


def work(app: str, table: AttachmentTable, row_id: UUID, worker: str, settings: Settings) -> str:
    """Take one attachment through the pipeline, if it needs it; return how that ended, in a word.

    Raises:
        jobs.UnknownAttachmentError: the application has no such row.
    """
    with transaction() as connection:
        mine = jobs.claim(connection, app, table, row_id, worker, settings)
    if mine is None:
        return "nothing to do"
    try:
        return _attempt(mine, settings)
    except jobs.LeaseLostError as error:
        # Whoever took over does it all again.
        log.warning("attachment.lease_lost", app=app, id=str(row_id), error=str(error))
        return "taken over"


def _attempt(mine: jobs.Claim, settings: Settings) -> str:
    try:
        store = store_for(mine.provider, settings)
        with Lease(mine, settings) as lease, tempfile.TemporaryDirectory(prefix="roomkeeper-") as folder:
            found = _examine(mine, store, Path(folder), lease, settings)
            lease.check()
            outcome = _conclude(mine, store, found)
    except NotYetError as error:
        outcome = _put_off(mine, error, settings)
    except ObjectMissing as error:
        # The service stores the bytes before it inserts the row, so this is not a matter of waiting long.
        outcome = _put_off(mine, FailedError("object_missing", str(error)), settings)
    except UnknownProvider as error:
        outcome = _put_off(mine, FailedError("unknown_provider", str(error)), settings)
    except (StoreError, OSError) as error:
        # A store that is away, or a full disk: like a scanner that is away, not the file's fault.
        outcome = _put_off(mine, NotYetError("store_unavailable", str(error)), settings)
    except OperationalError as error:
        # The database is restarting, say. Given back, or the lease would run out and count as a dead worker.
        away = NotYetError("database_unavailable", type(error.orig).__name__)
        outcome = _put_off(mine, away, settings, patience_seconds=settings.attachment_lease_seconds)
    except SoftTimeLimitExceeded:
        late = FailedError("timed_out", f"took longer than {settings.task_soft_limit_seconds} s")
        outcome = _put_off(mine, late, settings)
    log.info("attachment.attempted", app=mine.app, id=str(mine.id), attempt=mine.attempt, outcome=outcome)
    return outcome


def _examine(
    mine: jobs.Claim, store: ObjectStore, folder: Path, lease: Lease, settings: Settings
) -> Findings:
    found = Findings()
    content = folder / "content"

    with _phase(lease, found, "fetch"):
        try:
            found.fetched = _fetch(mine, store, content, settings.max_file_bytes)
        except ObjectTooLarge as error:
            # Not scanned, so not clean: what is too large to look into is suspicious.
            found.refuse("too_large", str(error), "suspicious")
            return found
    _compare(mine, found, found.fetched)
    if found.reason or mine.encrypted:
        if not found.reason:
            found.verdict = "opaque"
        return found

    with _phase(lease, found, "identify"):
        found.media_type = identify.content_type(content)
        decision = policy.decide(found.media_type, mine.media_type, mine.name)

    # What the policy refuses is scanned all the same: malware under a false name belongs in quarantine.
    with _phase(lease, found, "scan"):
        _scan(content, found, settings)
    if found.verdict != "clean":
        return found
    if decision.reason:
        found.refuse(decision.reason, decision.detail or "")
        return found
    # Another spelling is no correction: it would cost a text its charset.
    if decision.media_type != policy.normal(mine.media_type):
        found.corrected = decision.media_type

    if decision.draw:
        with _phase(lease, found, "draw"):
            _draw(content, folder, found, settings)
        if not found.reason:
            with _phase(lease, found, "store"):
                for size, picture in found.pictures.items():
                    key = _picture_key(mine, size)
                    store.put(key, picture)
                    found.keys[size] = key
    return found


@contextmanager
def _phase(lease: Lease, found: Findings, name: str) -> Iterator[None]:
    lease.enter(name)
    began = monotonic()
    try:
        yield
    finally:
        found.timings[name] = round(monotonic() - began, 4)


def _picture_key(mine: jobs.Claim, size: str) -> str:
    return f"derived/{mine.app}/{mine.id}/{size}.webp"


def _quarantine_name(mine: jobs.Claim) -> str:
    return f"{mine.app}/{mine.id}"


def _fetch(mine: jobs.Claim, store: ObjectStore, content: Path, limit: int) -> Fetched:
    try:
        return store.fetch(mine.key, content, limit=limit)
    except ObjectMissing:
        # An attempt that died after it moved the object and before it could say so.
        return store.fetch_quarantined(_quarantine_name(mine), content, limit=limit)


def _compare(mine: jobs.Claim, found: Findings, fetched: Fetched) -> None:
    """Refuse an object that is not the one that the row describes."""
    if fetched.size == 0:
        found.refuse("empty", "the object has no bytes")
    elif fetched.size != mine.size:
        found.refuse("size_mismatch", f"the row says {mine.size} bytes, the object has {fetched.size}")
    elif mine.sha256 is not None and mine.sha256.strip().lower() != fetched.sha256:
        found.refuse("hash_mismatch", "the object's SHA-256 is not the one in the row")


def _scan(content: Path, found: Findings, settings: Settings) -> None:
    scanner = Scanner(settings.clamd, settings.scan_timeout_seconds)
    try:
        # Before the scan: signatures that arrive in between only make the file be scanned again.
        found.version = scanner.versions()
        verdict = scan.judge(scanner.scan_file(content))
    except ScannerUnavailable as error:
        raise NotYetError("scanner_unavailable", str(error)) from error
    found.verdict, found.signature = verdict.name, verdict.signature
    if verdict.reason:
        found.refuse(verdict.reason, verdict.signature or "")
    if verdict.name == "infected":
        found.outcome = "quarantined"


def _draw(content: Path, folder: Path, found: Findings, settings: Settings) -> None:
    try:
        drawing = draw.draw(content, folder, settings)
    except draw.DrawingFailedError as error:
        raise FailedError("drawing_failed", str(error)) from error
    if drawing.reason:
        found.refuse(drawing.reason, drawing.detail or "")
    found.pictures, found.metadata = drawing.pictures, drawing.metadata


def _conclude(mine: jobs.Claim, store: ObjectStore, found: Findings) -> str:
    """Write the outcome, and with it, in the same transaction's reach, move what is infected."""
    quarantined = found.outcome == "quarantined"
    fetched, version = found.fetched, found.version
    values = {
        "outcome": found.outcome,
        "verdict": found.verdict,
        "reason": found.reason,
        "detail": found.detail,
        "sha256": fetched.sha256 if fetched else None,
        "size_bytes": fetched.size if fetched else None,
        "media_type": found.media_type,
        "signature": found.signature,
        "engine_version": version.engine if version else None,
        "signature_version": version.signatures if version else None,
        "small_key": found.keys.get("small"),
        "large_key": found.keys.get("large"),
        "quarantine_key": _quarantine_name(mine) if quarantined else None,
        "timings": found.timings,
    }
    served = found.outcome == "accepted"
    seen = Seen(
        served=served,
        scanned=version is not None,
        verdict=found.verdict,
        error=f"{found.reason}: {found.detail}" if found.reason else None,
        details={
            "engine": f"ClamAV {version.engine}" if version else None,
            "signatures": version.signatures if version else None,
            "signature": found.signature,
            "sha256": fetched.sha256 if fetched else None,
            "type": found.media_type,
        },
        metadata=found.metadata,
        media_type=found.corrected,
        url=store.url(mine.key) if served else None,
        small_url=store.url(found.keys["small"]) if "small" in found.keys else None,
        large_url=store.url(found.keys["large"]) if "large" in found.keys else None,
        small_key=found.keys.get("small"),
    )
    with transaction() as connection:
        there = jobs.finish(connection, mine, values, seen)
        if quarantined:
            # While our row is locked, so that no other attempt looks for the object; before the commit, so
            # that a row that says "quarantined" tells the truth. The next attempt ends what a crash cuts.
            store.quarantine(mine.key, _quarantine_name(mine))
    if not (there and served):
        # Also those of an attempt that drew the pictures and died before it could say so.
        for size in sandbox.SIDES:
            store.delete(_picture_key(mine, size))
    if not there:
        return "vanished"
    return found.outcome if not found.reason else f"{found.outcome} ({found.reason})"


def _put_off(mine: jobs.Claim, error: NotYetError, settings: Settings, *, patience_seconds: float = 0) -> str:
    failed = isinstance(error, FailedError)
    deadline = monotonic() + patience_seconds
    while True:
        try:
            with transaction() as connection:
                state = jobs.wait(connection, mine, error.reason, error.detail, settings, failed=failed)
            return f"{state} ({error.reason})"
        except OperationalError:
            if monotonic() > deadline:
                raise
            sleep(DATABASE_PAUSE_SECONDS)
