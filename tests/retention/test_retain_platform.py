"""Retention of what the platform keeps itself: dead letters, attachments' history, scan verdicts."""

from datetime import datetime, timedelta
from itertools import count
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import insert

from models.platform import AttachmentEvent, AttachmentJob, DeadLetter, ScanVerdict
from tasks.apps import APPS, policies
from tasks.apps.columns import table_of
from tests.cleanup.sweeping import INSTANT, NOW, ago
from tests.platform import Platform
from tests.retention.proving import proven
from tests.retention.retaining import days, policy

LETTERS, HISTORY, VERDICTS = (
    "roomkeeper.dead_letters",
    "roomkeeper.attachment_history",
    "roomkeeper.scan_verdicts",
)
MONTH = timedelta(days=30)
DUE = NOW - MONTH - INSTANT
_hashes = count(1)

both = pytest.mark.parametrize("by_hand", [True, False], ids=["by hand", "as beat does"])


def put(platform: Platform, model: Any, **values: Any) -> Any:
    """Insert a row; return its key."""
    table = table_of(model)
    with platform.engine.begin() as connection:
        return connection.scalar(insert(table).values(values).returning(*table.primary_key.columns))


def letter(platform: Platform, at: datetime, **values: Any) -> int:
    given = {"task": "attachments.process", "task_id": "x", "payload": {"args": []}, "reason": "x"}
    key: int = put(platform, DeadLetter, created_at=at, **{**given, **values})
    return key


def job(platform: Platform, app: str = "pern", attempt: int = 3, **values: Any) -> UUID:
    """Return an attachment that has been tried so often."""
    key = uuid4()
    put(platform, AttachmentJob, app=app, attachment_id=key, state="parked", attempt=attempt, **values)
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


@both
def test_dead_letters_age_out(platform: Platform, by_hand: bool) -> None:
    days(platform, **{LETTERS: 30})
    gone = {
        letter(platform, DUE),
        letter(platform, ago(days=4000), payload={"a": ["é\\", None, 1e300]}, reason='",\r\n\\.'),
    }
    letter(platform, NOW - MONTH)
    letter(platform, NOW)
    proven(platform, LETTERS, gone={DeadLetter: gone}, by_hand=by_hand)


def test_a_receipt_names_the_first_and_the_last_number(platform: Platform) -> None:
    """Numbers, not texts: ten comes after nine."""
    days(platform, **{LETTERS: 30})
    gone = [letter(platform, DUE) for _ in range(12)]
    proven(platform, LETTERS, gone={DeadLetter: gone}, restored=False)
    (receipt,) = platform.sql("SELECT content FROM roomkeeper.receipts")
    assert receipt.content["keys"] == [str(gone[0]), str(gone[-1])]


@both
def test_of_an_attachment_that_is_there_the_latest_attempt_is_told(platform: Platform, by_hand: bool) -> None:
    days(platform, **{HISTORY: 30})
    there, gone_away = job(platform), uuid4()
    gone = {
        event(platform, there, DUE, attempt=2),
        event(platform, there, ago(days=400), attempt=1, seconds=0.25, worker="w", detail={"error": "é"}),
        # Of no attempt: a late detection, say.
        event(platform, there, DUE, attempt=0, event="late_detection"),
        event(platform, gone_away, DUE, attempt=3),
        event(platform, gone_away, DUE, attempt=0, actor="ada", reason="reported"),
        # Another application's attachment has the same id.
        event(platform, there, DUE, attempt=3, app="openchat"),
        event(platform, there, DUE, attempt=3, app="openchat", actor="ada", reason="reported"),
    }
    for attempt in (3, 4):
        event(platform, there, DUE, attempt=attempt)
    for attempt in (0, 1, 3):
        event(platform, there, ago(days=400), attempt=attempt, event="release", actor="ada", reason="fine")
    for young in (NOW - MONTH, NOW):
        event(platform, there, young, attempt=1)
        event(platform, gone_away, young)
    proven(platform, HISTORY, gone={AttachmentEvent: gone}, by_hand=by_hand)


@both
def test_clean_verdicts_on_what_nobody_has_are_forgotten(platform: Platform, by_hand: bool) -> None:
    days(platform, **{VERDICTS: 30})
    gone = {verdict(platform, DUE), verdict(platform, ago(days=4000))}
    for app in ("pern", "openchat"):
        job(platform, app, sha256=verdict(platform, DUE))
    job(platform, sha256=None)
    # What was ever bad is known for ever.
    verdict(platform, ago(days=4000), "infected", signature="Eicar")
    verdict(platform, ago(days=4000), "suspicious", signature="Heuristics.Encrypted")
    verdict(platform, NOW - MONTH)
    verdict(platform, NOW)
    proven(platform, VERDICTS, gone={ScanVerdict: gone}, by_hand=by_hand)


def test_a_verdict_goes_without_an_archive(platform: Platform) -> None:
    """And so without a place for archives."""
    days(platform, **{VERDICTS: 30})
    del platform.environment["ROOMKEEPER_ARCHIVE_ROOT"]
    gone = verdict(platform, DUE)
    proven(platform, VERDICTS, gone={ScanVerdict: [gone]})
    (receipt,) = platform.sql("SELECT content FROM roomkeeper.receipts")
    assert receipt.content["archives"] == []
    assert receipt.content["keys"] == [gone, gone]


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
