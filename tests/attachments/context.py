"""One application's side of a platform, with the pipeline in the test's own process."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Row

from models import openchat, pern
from tasks.apps import APPS
from tasks.attachments import pipeline
from tests.platform import Platform
from workers.scanner import Answer, Scanner

BOTH = pytest.mark.parametrize("app", ["openchat", "pern"])
MODELS: dict[str, type[Any]] = {"openchat": openchat.Attachment, "pern": pern.Attachment}


@dataclass
class AppContext:
    """One application's side of a platform, and the pipeline in this process."""

    platform: Platform
    app: str

    def upload(
        self, content: bytes | None, name: str = "a.txt", media_type: str = "text/plain", **columns: Any
    ) -> UUID:
        """Upload a file that may be looked into."""
        if self.app == "openchat":
            return self.platform.openchat_attachment(content, name, media_type, **columns)
        return self.platform.pern_attachment(content, name, media_type, **{"is_encrypted": False} | columns)

    def work(self, row_id: UUID) -> str:
        table = APPS[self.app].attachments
        assert table is not None
        return pipeline.work(self.app, table, row_id, "worker", self.platform.settings)

    def again(self, row_id: UUID) -> str:
        """Work on a file that waits or was left behind, without waiting."""
        self.platform.sql(
            "UPDATE roomkeeper.attachment_jobs SET not_before = now(),"
            " lease_until = lease_until - interval '1 hour' WHERE attachment_id = :id",
            id=row_id,
        )
        return self.work(row_id)

    def key(self, row_id: UUID) -> str:
        row = self.row(row_id)
        return str(row.storage_key if self.app == "openchat" else row.file_path)

    def row(self, row_id: UUID) -> Row[Any]:
        return self.platform.row(MODELS[self.app], row_id)

    def job(self, row_id: UUID) -> Row[Any]:
        found = self.platform.job(row_id)
        assert found is not None
        return found

    def pictures(self, row_id: UUID) -> list[str]:
        folder = self.platform.store / "derived" / self.app / str(row_id)
        return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []

    def quarantined(self, row_id: UUID) -> bytes | None:
        path = self.platform.settings.quarantine_root / self.app / str(row_id)
        return path.read_bytes() if path.exists() else None

    def assert_unserved(self, row_id: UUID) -> None:
        """Nothing in the row leads to the file, and no picture of it is left."""
        row = self.row(row_id)
        if self.app == "openchat":
            assert (row.storage_url, row.thumbnail_url, row.preview_url) == (None, None, None)
            assert row.processing_status != "completed"
            assert row.scan_result != "clean" or row.processing_status == "failed"
        else:
            assert row.thumbnail_path is None
        assert self.pictures(row_id) == []

    def assert_unserved_row(self, row_id: UUID) -> None:
        """Nothing in the row leads to the file; its pictures may be in the store already."""
        row = self.row(row_id)
        if self.app == "openchat":
            assert (row.storage_url, row.thumbnail_url, row.preview_url) == (None, None, None)
        else:
            assert row.thumbnail_path is None

    def assert_refused(self, row_id: UUID, verdict: str | None, reason: str) -> None:
        job = self.job(row_id)
        assert (job.state, job.outcome, job.verdict, job.reason) == ("finished", "refused", verdict, reason)
        assert job.detail
        self.assert_unserved(row_id)
        if self.app == "openchat":
            row = self.row(row_id)
            assert row.processing_status == "failed"
            assert row.processing_error == f"{reason}: {job.detail}"
            assert row.scan_result == verdict


def at_scan(monkeypatch: pytest.MonkeyPatch, event: Callable[[], object]) -> None:
    """Let something happen once, at the moment when the file is handed to the scanner."""
    real = Scanner.scan_file

    def scan_file(self: Scanner, path: Path) -> Answer:
        if path.name != "content":
            # Whether the scanner can be trusted is found out with other files.
            return real(self, path)
        monkeypatch.setattr(Scanner, "scan_file", real)
        event()
        return real(self, path)

    monkeypatch.setattr(Scanner, "scan_file", scan_file)


def stored(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
