"""What is known of content by its hash: the same bytes are not scanned twice with the same signatures."""

from sqlalchemy import ColumnElement, Connection, bindparam, func, or_, select, tuple_
from sqlalchemy.dialects.postgresql import Insert, insert

from models.platform import ScanVerdict
from tasks.attachments.scan import Verdict, judge
from tasks.policies.columns import table_of
from workers.scanner import Answer, Version


def known(connection: Connection, sha256: str, version: Version) -> Verdict | None:
    """Return the verdict that this engine with these signatures has reached on the content, if any.

    Signatures without a version may have changed since; nothing is known by them.
    """
    if not version.dated:
        return None
    row = connection.execute(
        _KNOWN, {"content": sha256, "engine": version.engine, "signatures": version.signatures}
    ).one_or_none()
    return judge(Answer(row.signature)) if row else None


def infected(connection: Connection, sha256: str) -> Verdict | None:
    """Return the verdict on content that any signatures have called infected."""
    row = connection.execute(_INFECTED, {"content": sha256}).one_or_none()
    return judge(Answer(row.signature)) if row else None


def keep(connection: Connection, sha256: str, version: Version, verdict: Verdict) -> None:
    """Remember the verdict in place of any older one; but what newer signatures call infected stays so."""
    if not version.dated:
        return
    connection.execute(
        _KEEP,
        {
            "sha256": sha256,
            "engine_version": version.engine,
            "signature_version": version.signatures,
            "verdict": verdict.name,
            "signature": verdict.signature,
        },
    )


def _keeping() -> Insert:
    statement = insert(table_of(ScanVerdict))
    names = ("engine_version", "signature_version", "verdict", "signature")
    fresh = {name: statement.excluded[name] for name in names}
    return statement.on_conflict_do_update(
        index_elements=["sha256"],
        set_=fresh | {"scanned_at": func.now()},
        where=or_(ScanVerdict.verdict != "infected", ~_older(fresh["signature_version"])),
    )


def _older(version: ColumnElement[str]) -> ColumnElement[bool]:
    # They are numbers in decimal: the longer is the larger.
    held = ScanVerdict.signature_version
    return tuple_(func.length(version), version) < tuple_(func.length(held), held)


# Made once: making them anew took longer than executing them.
_KEEP = _keeping()
_INFECTED = select(ScanVerdict.signature).where(
    ScanVerdict.sha256 == bindparam("content"), ScanVerdict.verdict == "infected"
)
_KNOWN = select(ScanVerdict.verdict, ScanVerdict.signature).where(
    ScanVerdict.sha256 == bindparam("content"),
    ScanVerdict.engine_version == bindparam("engine"),
    ScanVerdict.signature_version == bindparam("signatures"),
)
