"""Finds out about one file: fetch → identify → scan → strip → draw. Changes nothing outside its directory."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import file_digest
from pathlib import Path
from shutil import disk_usage
from typing import Any

from sqlalchemy import select

from tasks.attachments import attachment_work, draw, identify, policy, scan, scanner_selftest, verdicts
from tasks.attachments.errors import FailedError, NotYetError
from tasks.attachments.history import EventLog
from tasks.attachments.lease import Lease
from tasks.attachments.objects import quarantine_name
from tasks.attachments.scan import Verdict
from tasks.attachments.traits import phrase
from workers import metrics, sandbox
from workers.db import transaction
from workers.sandbox import SandboxFailure
from workers.scanner import Scanner, ScannerUnavailable, Version
from workers.settings import Settings
from workers.storage import ObjectMissing, ObjectStore, ObjectTooLarge
from workers.storage.base import Fetched

#: With less room than this, work that writes files may have failed for want of it.
FULL_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Stripped:
    """The original without its personal metadata; not stored yet."""

    path: Path
    sha256: str
    size: int


@dataclass(slots=True)
class Findings:
    """What is known of the file so far; `reason` says why it is not served."""

    outcome: str = "accepted"
    verdict: str | None = None
    reason: str | None = None
    detail: str | None = None
    fetched: Fetched | None = None
    in_quarantine: bool = False
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

    def refuse(self, reason: str, detail: str, verdict: str | None = None) -> None:
        """Decide that the file is not served."""
        self.outcome, self.reason, self.detail = "refused", reason, detail
        self.verdict = verdict or self.verdict


@dataclass(frozen=True, slots=True)
class AttemptContext:
    """What an examination works with."""

    mine: attachment_work.Claim
    store: ObjectStore
    folder: Path
    lease: Lease
    story: EventLog
    settings: Settings

    @contextmanager
    def phase(self, name: str) -> Iterator[dict[str, Any]]:
        """Enter a phase: the lease is checked and says where we are, the story takes what is found."""
        self.lease.enter(name)
        with self.story.phase(name) as detail, metrics.PHASES.labels(name).time():
            yield detail


def examine(desk: AttemptContext) -> Findings:
    """Return what is to become of the file.

    Raises:
        NotYetError, jobs.LeaseLostError, StoreError, OSError.
    """
    mine, found = desk.mine, Findings()
    content = desk.folder / "content"

    with desk.phase("fetch") as detail:
        try:
            found.fetched, found.in_quarantine = _fetch(desk, content)
        except ObjectTooLarge as error:
            # Not scanned, so not clean: what is too large to look into is suspicious.
            found.refuse("too_large", str(error), "suspicious")
            return _overridden(desk, found)
        detail |= {"bytes": found.fetched.size, "sha256": found.fetched.sha256}
    metrics.BYTES.labels(mine.app).inc(found.fetched.size)
    if mine.override != "quarantine":
        _look_into(desk, content, found)
    return _overridden(desk, found)


def _overridden(desk: AttemptContext, found: Findings) -> Findings:
    """Do what an operator has said, in spite of what was found."""
    mine = desk.mine
    if mine.override == "quarantine":
        found.refuse("operator", "quarantined by an operator", "suspicious")
        found.outcome = "quarantined"
    elif _released(desk, found):
        found.outcome, found.reason, found.detail = "accepted", None, None
        # Nobody has looked into it.
        found.verdict = found.verdict or "opaque"
    return found


def _released(desk: AttemptContext, found: Findings) -> bool:
    """Say whether an operator wants the file served, knowing this content and this reason against it."""
    mine = desk.mine
    if mine.override != "release" or not found.reason or not (found.fetched and found.fetched.size):
        return False
    same = mine.override_sha256 == found.fetched.sha256 and mine.override_reason == found.reason
    desk.story.add("released" if same else "release_void", in_spite_of=f"{found.reason}: {found.detail}")
    return same


def _look_into(desk: AttemptContext, content: Path, found: Findings) -> None:
    """Find out whether the file may be served, and what is to be shown of it."""
    mine = desk.mine
    assert found.fetched is not None
    if found.fetched.size == 0:
        found.refuse("empty", "the object has no bytes")
        return
    mismatch = _mismatch(mine, found.fetched)
    if mine.encrypted:
        with transaction() as connection:
            known_bad = verdicts.infected(connection, found.fetched.sha256)
        if known_bad:
            # Not what its row says, then: somebody has uploaded the same bytes elsewhere.
            _take_over(found, known_bad)
        elif mismatch:
            found.refuse(*mismatch)
        else:
            found.verdict = "opaque"
        return

    with desk.phase("identify") as detail:
        decision = _identify(desk, content, found)
        detail |= {"type": found.media_type, "traits": list(found.traits)}

    # What will be refused is scanned all the same: malware under a false name belongs in quarantine.
    with desk.phase("scan") as detail:
        known = _scan(content, found, desk.settings)
        detail |= {"verdict": found.verdict, "signature": found.signature, "known": known}
    if found.verdict == "suspicious" and decision.verdict == "suspicious":
        # The scanner only says that it could not look; ours may say why.
        found.refuse(decision.reason or "", decision.detail or "")
    if found.verdict == "clean" and mismatch:
        found.refuse(*mismatch)
    elif found.verdict == "clean" and decision.reason:
        found.refuse(decision.reason, decision.detail or "", decision.verdict)
    if _released(desk, found):
        found.outcome, found.reason, found.detail = "accepted", None, None
    if found.reason or found.verdict != "clean":
        return
    # Another spelling is no correction: it would cost a text its charset.
    if decision.media_type != policy.normal(mine.media_type):
        found.corrected = decision.media_type

    if mine.app in desk.settings.strip_originals:
        with desk.phase("strip") as detail:
            detail |= _strip(desk, content, found)
        if found.outcome != "accepted":
            return
    if decision.draw:
        with desk.phase("draw") as detail:
            _draw(content, decision.draw, desk, found)
            detail["pictures"] = sorted(found.pictures)


def _fetch(desk: AttemptContext, content: Path) -> tuple[Fetched, bool]:
    """Fetch the object. Return whether it came from quarantine, too."""
    mine, limit = desk.mine, desk.settings.max_file_bytes
    try:
        return desk.store.fetch(mine.key, content, limit=limit), False
    except ObjectMissing:
        # An attempt that died after it moved the object and before it could say so, or a second look.
        name = quarantine_name(mine.app, mine.id)
        return desk.store.fetch_quarantined(name, content, limit=limit), True


def _mismatch(mine: attachment_work.Claim, fetched: Fetched) -> tuple[str, str] | None:
    """Return why the object is not the one that the row describes, or None."""
    if mine.rewritten_sha256 == fetched.sha256:
        # An attempt that died after it had stripped the original, and before it could tell the row.
        return None
    if fetched.size != mine.size:
        return "size_mismatch", f"the row says {mine.size} bytes, the object has {fetched.size}"
    if mine.sha256 is not None and mine.sha256.strip().lower() != fetched.sha256:
        return "hash_mismatch", "the object's SHA-256 is not the one in the row"
    return None


def _identify(desk: AttemptContext, content: Path, found: Findings) -> policy.Decision:
    try:
        seen = identify.parse(_in_sandbox("tasks.attachments.identify:inspect", content, desk))
    except (SandboxFailure, ValueError) as error:
        raise _failed("identify_failed", error, desk) from error
    decision = policy.decide(seen, desk.mine.media_type, desk.mine.name, desk.mine.table.rules)
    found.media_type, found.traits, found.risk = seen.media_type, decision.findings, decision.risk
    return decision


def _in_sandbox(work: str, content: Path, desk: AttemptContext, **options: Any) -> dict[str, Any]:
    return sandbox.run(
        work,
        content,
        desk.folder,
        options,
        seconds=desk.settings.identify_timeout_seconds,
        memory_bytes=desk.settings.draw_memory_bytes,
    )


def _failed(reason: str, error: Exception, desk: AttemptContext) -> NotYetError:
    """Return how an attempt ends whose work in the sandbox came to nothing."""
    if isinstance(error, SandboxFailure) and error.reason == "sandbox_closed":
        # The machine's fault: no file can be looked into.
        return NotYetError("sandbox_unavailable", phrase(error.detail))
    if disk_usage(desk.folder).free < FULL_BYTES:
        # Looked up, not believed: a file that only says so would be tried for ever.
        return NotYetError("disk_full", "no room for what is made of the file")
    # In words of a process that a stranger may rule: the database cannot hold every character.
    return FailedError(reason, phrase(str(error)))


def _scan(content: Path, found: Findings, settings: Settings) -> bool:
    """Judge the file. Return whether its content had been judged before."""
    assert found.fetched is not None
    with _scanner(settings) as scanner:
        # Before the scan: signatures that arrive in between only make the file be scanned again.
        found.version = version = scanner.versions()
        scanner_selftest.check(scanner, version, settings)
        with transaction() as connection:
            verdict = verdicts.known(connection, found.fetched.sha256, version)
        known = verdict is not None
        if verdict is None:
            verdict = found.fresh_verdict = scan.judge(scanner.scan_file(content))
    metrics.VERDICTS.labels(verdict.name, "known" if known else "scanner").inc()
    _take_over(found, verdict)
    return known


def _take_over(found: Findings, verdict: Verdict) -> None:
    """Take over the scanner's verdict, whatever it is."""
    found.verdict, found.signature = verdict.name, verdict.signature
    if verdict.reason:
        found.refuse(verdict.reason, verdict.signature or "")
    if verdict.name == "infected":
        found.outcome = "quarantined"


@contextmanager
def _scanner(settings: Settings) -> Iterator[Scanner]:
    """Yield the scanner; one that does not answer means that the file waits."""
    try:
        yield Scanner(settings.clamd, settings.scan_timeout_seconds)
    except ScannerUnavailable as error:
        raise NotYetError("scanner_unavailable", str(error)) from error


def _strip(desk: AttemptContext, content: Path, found: Findings) -> dict[str, Any]:
    """Take the personal metadata out of the original; return what is to be told of it."""
    assert found.media_type is not None
    try:
        said = _in_sandbox("tasks.attachments.strip:strip", content, desk, media_type=found.media_type)
    except SandboxFailure as error:
        raise _failed("strip_failed", error, desk) from error
    path = desk.folder / "stripped"
    if said.get("changed") is not True or not path.is_file():
        # Served as it is where it cannot be stripped: the alternative is to refuse every format unknown.
        return {"changed": False, "unavailable": phrase(str(said.get("unavailable") or ""))}
    with path.open("rb") as file:
        digest = file_digest(file, "sha256").hexdigest()
    table = desk.mine.table
    if table.sha256 is not None:
        with transaction() as connection:
            other = select(table.id).where(table.sha256 == digest, table.id != desk.mine.id).limit(1)
            taken = connection.scalar(other)
        if taken is not None:
            # Before the object is touched: the row could never be made to fit it.
            found.refuse("duplicate", f"without its metadata it is attachment {taken}, and hashes are unique")
            return {"changed": False}
    # What is served must have been scanned, and these bytes have not been.
    with _scanner(desk.settings) as scanner:
        verdict = scan.judge(scanner.scan_file(path))
    if verdict.reason:
        found.verdict = verdict.name
        found.refuse(verdict.reason, f"without its metadata: {verdict.signature}")
        return {"verdict": verdict.name}
    found.stripped = Stripped(path, digest, path.stat().st_size)
    return {"changed": True, "bytes": found.stripped.size, "sha256": digest}


def _draw(content: Path, kind: str, desk: AttemptContext, found: Findings) -> None:
    try:
        drawing = draw.draw(content, desk.folder, desk.settings, kind)
    except draw.DrawingFailedError as error:
        raise _failed("drawing_failed", error, desk) from error
    if drawing.reason:
        found.refuse(drawing.reason, drawing.detail or "")
    found.pictures, found.metadata = drawing.pictures, drawing.metadata
