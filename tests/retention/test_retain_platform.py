"""Retention of what the platform keeps itself: dead letters, attachments' history, scan verdicts."""

from datetime import datetime, timedelta
from itertools import count
from typing import Any
from uuid import UUID

from sqlalchemy import insert

from models.platform import AttachmentEvent, DeadLetter, ScanVerdict
from tasks.apps import APPS, policies
from tasks.policies.columns import table_of
from tests.platform import Platform
from tests.retention.proving import proven
from tests.retention.retaining import days, policy
from tests.sweeps.sweeping import INSTANT, NOW

LETTERS, HISTORY, VERDICTS = (
    "roomkeeper.dead_letters",
    "roomkeeper.attachment_history",
    "roomkeeper.scan_verdicts",
)
MONTH = timedelta(days=30)
DUE = NOW - MONTH - INSTANT
_hashes = count(1)


def put(platform: Platform, model: Any, **values: Any) -> Any:
    """Insert a row; return its key."""
    table = table_of(model)
    with platform.engine.begin() as connection:
        return connection.scalar(insert(table).values(values).returning(*table.primary_key.columns))


def letter(platform: Platform, at: datetime, **values: Any) -> int:
    given = {"task": "attachments.process", "task_id": "x", "payload": {"args": []}, "reason": "x"}
    key: int = put(platform, DeadLetter, created_at=at, **{**given, **values})
    return key


def event(platform: Platform, of: UUID, at: datetime, attempt: int = 1, **values: Any) -> int:
    given = {"app": "pern", "event": "scan", "at": at, "attempt": attempt}
    key: int = put(platform, AttachmentEvent, attachment_id=of, **{**given, **values})
    return key


def verdict(platform: Platform, at: datetime, name: str = "clean", **values: Any) -> str:
    sha256 = f"{next(_hashes):064x}"
    given = {"engine_version": "1.4.6", "signature_version": "27000", "verdict": name, "scanned_at": at}
    put(platform, ScanVerdict, sha256=sha256, **{**given, **values})
    return sha256


def test_a_receipt_names_the_first_and_the_last_number(platform: Platform) -> None:
    """Numbers, not texts: ten comes after nine."""
    days(platform, **{LETTERS: 30})
    expired = [letter(platform, DUE) for _ in range(12)]
    proven(platform, LETTERS, deleted={DeadLetter: expired}, restored=False)
    (receipt,) = platform.sql("SELECT content FROM roomkeeper.receipts")
    assert receipt.content["keys"] == [str(expired[0]), str(expired[-1])]


def test_a_verdict_goes_without_an_archive(platform: Platform) -> None:
    """And so without a place for archives."""
    days(platform, **{VERDICTS: 30})
    del platform.environment["ROOMKEEPER_ARCHIVE_ROOT"]
    expired = verdict(platform, DUE)
    proven(platform, VERDICTS, deleted={ScanVerdict: [expired]})
    (receipt,) = platform.sql("SELECT content FROM roomkeeper.receipts")
    assert receipt.content["archives"] == []
    assert receipt.content["keys"] == [expired, expired]


def test_nothing_of_ours_has_a_period_until_one_is_set(platform: Platform) -> None:
    running = set(policies(platform.settings))
    assert not {LETTERS, HISTORY, VERDICTS} & running
    assert "roomkeeper.runs" in running
    days(platform, **{LETTERS: 30})
    assert LETTERS in policies(platform.settings)


def test_ours_are_on_no_application_s_page() -> None:
    """No hold is placed on them: what people own is in the applications' tables."""
    assert {policy(name).app for name in (LETTERS, HISTORY, VERDICTS)} == {"roomkeeper"}
    assert "roomkeeper" not in APPS
