"""What is known of content by its hash: the same bytes are not scanned twice with the same signatures."""

from sqlalchemy import Connection, func, select
from sqlalchemy.dialects.postgresql import insert

from models.platform import ScanVerdict
from tasks.attachments.scan import Verdict, judge
from workers.scanner import Answer, Version


def known(connection: Connection, sha256: str, version: Version) -> Verdict | None:
    """Return the verdict that this engine with these signatures has reached on the content, if any.

    Signatures without a version may have changed since; nothing is known by them.
    """
    if not version.dated:
        return None
    row = connection.execute(
        select(ScanVerdict.verdict, ScanVerdict.signature).where(
            ScanVerdict.sha256 == sha256,
            ScanVerdict.engine_version == version.engine,
            ScanVerdict.signature_version == version.signatures,
        )
    ).one_or_none()
    return judge(Answer(row.signature)) if row else None


def keep(connection: Connection, sha256: str, version: Version, verdict: Verdict) -> None:
    """Remember the verdict in place of any older one."""
    if not version.dated:
        return
    statement = insert(ScanVerdict).values(
        sha256=sha256,
        engine_version=version.engine,
        signature_version=version.signatures,
        verdict=verdict.name,
        signature=verdict.signature,
    )
    fresh = statement.excluded
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=[ScanVerdict.sha256],
            set_={
                "engine_version": fresh.engine_version,
                "signature_version": fresh.signature_version,
                "verdict": fresh.verdict,
                "signature": fresh.signature,
                "scanned_at": func.now(),
            },
        )
    )
