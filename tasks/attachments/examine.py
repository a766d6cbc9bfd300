"""Finds out about one file: fetch → identify → scan → strip → draw. Changes nothing outside its directory."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from hashlib import file_digest
from pathlib import Path
from shutil import disk_usage
from typing import Any

import structlog
from sqlalchemy import select

from tasks.attachments import (
    attachment_work,
    draw,
    identify,
    policy,
    scan,
    scanner_selftest,
    shared_objects,
    verdicts,
)
from tasks.attachments.content.finding import phrase
from tasks.attachments.errors import FailedError, NotYetError
from tasks.attachments.history import EventLog
from tasks.attachments.lease import Lease
from tasks.attachments.objects import quarantine_name
from tasks.attachments.scan import Verdict
from workers import metrics, sandbox
from workers.db import transaction
from workers.sandbox import SandboxFailure
from workers.scanner import Scanner, ScannerUnavailable, Version
from workers.settings import Settings
from workers.storage import ObjectMissing, ObjectStore, ObjectTooLarge
from workers.storage.base import Fetched
from workers.workdir import FULL_BYTES

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Stripped:
    """The original without its personal metadata; not stored yet."""

    path: Path
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Findings:
    """What is known of the file; `reason` says why it is not served.

    Each step returns what it found, and `examine` puts that together.
    """

    outcome: str = "accepted"
    verdict: str | None = None
    reason: str | None = None
    detail: str | None = None
    fetched: Fetched | None = None
    in_quarantine: bool = False
    #: What tells the object under the file's key from any other; None if it is not there.
    judged_object: str | None = None
    #: It lies in quarantine, for another row that names the same object.
    shared: bool = False
    media_type: str | None = None
    corrected: str | None = None
    traits: tuple[str, ...] = ()
    risk: int = 0
    signature: str | None = None
    version: Version | None = None
    fresh_verdict: Verdict | None = None
    stripped: Stripped | None = None
    pictures: dict[str, Path] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)

    def refused(self, reason: str, detail: str, verdict: str | None = None) -> "Findings":
        """Return the findings of a file that is not served."""
        return replace(self, outcome="refused", reason=reason, detail=detail, verdict=verdict or self.verdict)

    def accepted(self) -> "Findings":
        """Return the findings of a file that is served, whatever was found against it."""
        return replace(self, outcome="accepted", reason=None, detail=None)

    def judged(self, verdict: Verdict) -> "Findings":
        """Return the findings with the scanner's verdict, whatever it is."""
        found = replace(self, verdict=verdict.name, signature=verdict.signature)
        if verdict.reason:
            found = found.refused(verdict.reason, verdict.signature or "")
        if verdict.name == "infected":
            found = replace(found, outcome="quarantined")
        return found


@dataclass(frozen=True, slots=True)
class Scanned:
    """The scanner's verdict, by which version; `known` if that version had judged the content before."""

    verdict: Verdict
    version: Version
    known: bool


@dataclass(frozen=True, slots=True)
class Stripping:
    """What came of stripping: the stripped original, or why the file is not served, or neither.

    Attributes:
        event: for the attempt's event log.
        verdict: of the scanner, where that is the reason.
    """

    event: dict[str, Any]
    stripped: Stripped | None = None
    reason: str | None = None
    detail: str = ""
    verdict: str | None = None


@dataclass(frozen=True, slots=True)
class AttemptContext:
    """What an examination works with."""

    claim: attachment_work.Claim
    store: ObjectStore
    folder: Path
    lease: Lease
    event_log: EventLog
    settings: Settings

    @property
    def content(self) -> Path:
        """Where the object is once it was fetched."""
        return self.folder / "content"

    @contextmanager
    def phase(self, name: str) -> Iterator[dict[str, Any]]:
        """Enter a phase: the lease is checked and says where we are, the event log takes what is found."""
        self.lease.enter(name)
        with self.event_log.phase(name) as detail, metrics.PHASES.labels(name).time():
            yield detail


def examine(context: AttemptContext) -> Findings:
    """Return what is to become of the file.

    Raises:
        NotYetError, attachment_work.LeaseLostError, StoreError, OSError.
    """
    claim = context.claim
    content = context.content

    with context.phase("fetch") as detail:
        try:
            found = _fetch(context, content)
        except ObjectTooLarge as error:
            # Not scanned, so not clean: what is too large to look into is suspicious.
            found = Findings(judged_object=error.fingerprint)
            return _overridden(context, found.refused("too_large", str(error), "suspicious"))
        fetched = found.fetched
        assert fetched is not None
        detail |= {"bytes": fetched.size, "sha256": fetched.sha256}
    metrics.BYTES.labels(claim.app).inc(fetched.size)
    if claim.override != "quarantine":
        found = _look_into(context, content, fetched, found)
    return _overridden(context, found)


def _overridden(context: AttemptContext, found: Findings) -> Findings:
    """Do what an operator has said, in spite of what was found."""
    claim = context.claim
    if claim.override == "quarantine":
        refused = found.refused("operator", "quarantined by an operator", "suspicious")
        return replace(refused, outcome="quarantined")
    if _released(context, found):
        # Without a verdict the file was not looked into.
        return replace(found.accepted(), verdict=found.verdict or "opaque")
    return found


def _released(context: AttemptContext, found: Findings) -> bool:
    """Say whether an operator wants the file served, knowing this content and this reason against it."""
    claim = context.claim
    if claim.override != "release" or not found.reason or not (found.fetched and found.fetched.size):
        return False
    same = claim.override_sha256 == found.fetched.sha256 and claim.override_reason == found.reason
    context.event_log.add(
        "released" if same else "release_void", in_spite_of=f"{found.reason}: {found.detail}"
    )
    return same


def _look_into(context: AttemptContext, content: Path, fetched: Fetched, found: Findings) -> Findings:
    """Find out whether the file may be served, and what is to be shown of it."""
    claim = context.claim
    if fetched.size == 0:
        return found.refused("empty", "the object has no bytes")
    mismatch = _mismatch(claim, fetched)
    if claim.encrypted:
        with transaction() as connection:
            known_bad = verdicts.infected(connection, fetched.sha256)
        if known_bad:
            # Not what its row says, then: the same bytes were uploaded elsewhere.
            return found.judged(known_bad)
        return found.refused(*mismatch) if mismatch else replace(found, verdict="opaque")

    with context.phase("identify") as detail:
        actual, decision, unopened = _identify(context, content)
        found = replace(found, media_type=actual, traits=decision.findings, risk=decision.risk)
        detail |= {"type": found.media_type, "traits": list(found.traits)}

    # What will be refused is scanned all the same: malware under a false name belongs in quarantine.
    with context.phase("scan") as detail:
        scanned = _scan(content, fetched.sha256, context.settings)
        fresh = None if scanned.known else scanned.verdict
        found = replace(found, version=scanned.version, fresh_verdict=fresh).judged(scanned.verdict)
        detail |= {"verdict": found.verdict, "signature": found.signature, "known": scanned.known}
    if found.verdict == "suspicious" and decision.verdict == "suspicious":
        # The scanner only says that it could not look; ours may say why.
        found = found.refused(decision.reason or "", decision.detail or "")
    if found.verdict == "clean" and mismatch:
        found = found.refused(*mismatch)
    elif found.verdict == "clean" and decision.reason:
        found = found.refused(decision.reason, decision.detail or "", decision.verdict)
    if _released(context, found):
        found = found.accepted()
    if found.reason or found.verdict != "clean":
        return found
    # Another spelling is no correction: it would cost a text its charset.
    if decision.media_type != policy.normal(claim.media_type):
        found = replace(found, corrected=decision.media_type)

    if claim.app in context.settings.strip_originals:
        with context.phase("strip") as detail:
            # A raw photo that looks like a TIFF is none: the tags that it is developed by would go.
            known_as = decision.media_type if decision.draw == "raw" else actual
            stripping = _strip(context, content, known_as)
            detail |= stripping.event
        if stripping.reason:
            return found.refused(stripping.reason, stripping.detail, stripping.verdict)
        found = replace(found, stripped=stripping.stripped)
    if decision.draw:
        with context.phase("draw") as detail:
            drawing = _draw(content, decision.draw, context)
            detail["pictures"] = sorted(drawing.pictures)
        return _with_drawing(context, found, decision.draw, drawing)
    if unopened:
        drawing = draw.Drawing({}, {}, "undecodable", "no film or sound that the decoder opens")
        return _with_drawing(context, found, unopened, drawing)
    return found


def _with_drawing(
    context: AttemptContext, found: Findings, kind: policy.Kind, drawing: draw.Drawing
) -> Findings:
    """Return the findings with what was drawn. No preview is no reason to refuse a clean file."""
    metrics.PREVIEWS.labels(kind, drawing.reason or "").inc()
    if drawing.reason:
        context.event_log.add("no_preview", reason=drawing.reason, detail=drawing.detail)
    return replace(found, pictures=drawing.pictures, metadata=drawing.row_metadata())


def _fetch(context: AttemptContext, content: Path) -> Findings:
    """Fetch the object from where it is; return what is known by that."""
    claim, limit = context.claim, context.settings.max_file_bytes
    try:
        fetched = context.store.fetch(claim.key, content, limit=limit)
        context.event_log.judged_object = fetched.fingerprint
        return Findings(fetched=fetched, judged_object=fetched.fingerprint)
    except ObjectMissing as missing:
        # An attempt that died after it moved the object and before it could say so, or a second look.
        name = quarantine_name(claim.app, claim.id)
        try:
            fetched = context.store.fetch_quarantined(name, content, limit=limit)
            return Findings(fetched=fetched, in_quarantine=True)
        except ObjectMissing:
            pass
        with transaction() as connection:
            other = shared_objects.quarantined_name(connection, claim, context.settings)
        if other is None:
            # Why there is none under its key; the quarantine's answer says nothing of that.
            raise missing from None
        return Findings(fetched=context.store.fetch_quarantined(other, content, limit=limit), shared=True)


def _mismatch(claim: attachment_work.Claim, fetched: Fetched) -> tuple[str, str] | None:
    """Return why the object is not the one that the row describes, or None."""
    if claim.rewritten_sha256 == fetched.sha256:
        # An attempt that died after it had stripped the original, and before it could tell the row.
        return None
    if fetched.size != claim.size:
        return "size_mismatch", f"the row says {claim.size} bytes, the object has {fetched.size}"
    if claim.sha256 is not None and claim.sha256.strip().lower() != fetched.sha256:
        return "hash_mismatch", "the object's SHA-256 is not the one in the row"
    return None


def _identify(context: AttemptContext, content: Path) -> tuple[str, policy.Decision, policy.Kind | None]:
    """Return the media type of the content, and what the policy says of it.

    And as what, film or sound, the file was handed to the decoder if the decoder did not open it.
    """
    try:
        hosts = list(context.settings.external_template_hosts)
        answer = _in_sandbox("tasks.attachments.identify:inspect", content, context, template_hosts=hosts)
        seen = identify.parse(answer)
    except (SandboxFailure, ValueError) as error:
        raise _failed("identify_failed", error, context) from error
    claim = context.claim
    media_type = policy.media_claim(seen.media_type, claim.media_type, claim.name)
    unopened: policy.Kind | None = None
    if media_type is not None and _opens(context, content):
        # A film or a sound is what the decoder opens.
        seen = replace(seen, media_type=media_type)
    elif media_type is not None:
        unopened = "audio" if media_type.startswith("audio/") else "video"
    decision = policy.decide(seen, claim.media_type, claim.name, claim.table.rules)
    return seen.media_type, decision, unopened


def _opens(context: AttemptContext, content: Path) -> bool:
    """Return whether the decoder of films and sounds opens the file; one that crashes does not."""
    try:
        return _in_sandbox("tasks.attachments.drawing.container:probe", content, context).get("opens") is True
    except SandboxFailure as error:
        failed = _failed("identify_failed", error, context)
        if not isinstance(failed, FailedError):
            raise failed from error
        return False


def _in_sandbox(work: str, content: Path, context: AttemptContext, **options: Any) -> dict[str, Any]:
    return sandbox.run(
        work,
        content,
        context.folder,
        options,
        seconds=context.settings.identify_timeout_seconds,
        memory_bytes=context.settings.draw_memory_bytes,
    )


def _failed(reason: str, error: BaseException, context: AttemptContext) -> NotYetError:
    """Return how an attempt ends whose work in the sandbox came to nothing."""
    if isinstance(error, SandboxFailure) and error.reason == "sandbox_closed":
        # The machine's fault: no file can be looked into.
        return NotYetError("sandbox_unavailable", phrase(error.detail))
    if disk_usage(context.folder).free < FULL_BYTES:
        # Looked up, not believed: a file that only says so would be tried for ever.
        return NotYetError("disk_full", "no room for what is made of the file")
    # In words of a process that a stranger may rule: the database cannot hold every character.
    return FailedError(reason, phrase(str(error)))


def _scan(content: Path, sha256: str, settings: Settings) -> Scanned:
    """Judge the file; content that the same signatures have judged before is not scanned again."""
    with _scanner(settings) as scanner:
        # Before the scan: signatures that arrive in between only make the file be scanned again.
        version = scanner.versions()
        scanner_selftest.check(scanner, version, settings)
        known = None
        if not scan.copied(content):
            # The verdict may be of a worker that had no open copy of it.
            with transaction() as connection:
                known = verdicts.known(connection, sha256, version)
        verdict = scan.scanned(scanner, content) if known is None else known
    metrics.VERDICTS.labels(verdict.name, "scanner" if known is None else "known").inc()
    return Scanned(verdict, version, known is not None)


@contextmanager
def _scanner(settings: Settings) -> Iterator[Scanner]:
    """Yield the scanner; one that does not answer means that the file waits."""
    try:
        yield Scanner(settings.clamd, settings.scan_timeout_seconds)
    except ScannerUnavailable as error:
        raise NotYetError("scanner_unavailable", str(error)) from error


def _strip(context: AttemptContext, content: Path, media_type: str) -> Stripping:
    """Take the personal metadata out of the original."""
    try:
        answer = _in_sandbox("tasks.attachments.strip:strip", content, context, media_type=media_type)
    except SandboxFailure as error:
        raise _failed("strip_failed", error, context) from error
    path = context.folder / "stripped"
    if answer.get("changed") is not True or not path.is_file():
        # Served as it is where it cannot be stripped: the alternative is to refuse every format unknown.
        return Stripping({"changed": False, "unavailable": phrase(str(answer.get("unavailable") or ""))})
    with path.open("rb") as file:
        digest = file_digest(file, "sha256").hexdigest()
    table = context.claim.table
    if table.sha256 is not None:
        with transaction() as connection:
            other = select(table.id).where(table.sha256 == digest, table.id != context.claim.id).limit(1)
            taken = connection.scalar(other)
        if taken is not None:
            # Before the object is touched: the row could never be made to fit it.
            detail = f"without its metadata it is attachment {taken}, and hashes are unique"
            return Stripping({"changed": False}, reason="duplicate", detail=detail)
    # What is served must have been scanned, and these bytes have not been.
    with _scanner(context.settings) as scanner:
        verdict = scan.judge(scanner.scan_file(path))
    if verdict.reason:
        detail = f"without its metadata: {verdict.signature}"
        event = {"verdict": verdict.name}
        return Stripping(event, reason=verdict.reason, detail=detail, verdict=verdict.name)
    stripped = Stripped(path, digest, path.stat().st_size)
    return Stripping({"changed": True, "bytes": stripped.size, "sha256": digest}, stripped)


def _draw(content: Path, kind: policy.Kind, context: AttemptContext) -> draw.Drawing:
    """Return what was drawn, or why the file has no preview."""
    try:
        return draw.draw(content, context.folder, context.settings, kind)
    except draw.DrawingFailedError as error:
        failed = _failed("drawing_failed", error.__cause__ or error, context)
        tried = context.claim.failures + 1 >= context.settings.attachment_attempts
        if not isinstance(failed, FailedError) or not (error.by_file or (error.killed and tried)):
            raise failed from error
        log.warning(
            "attachment.decoder_failed",
            app=context.claim.app,
            id=str(context.claim.id),
            kind=kind,
            reason=error.preview_reason,
            error=failed.detail,
        )
        return draw.Drawing({}, {}, error.preview_reason, failed.detail)
