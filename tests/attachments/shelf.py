"""The `openchat` side of a platform whose files lie in either store."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import Row

from tests.attachments.context import AppContext


@dataclass
class Shelf(AppContext):
    """An application whose files are in the store `provider`; it remembers what it has uploaded."""

    provider: str = "local"
    uploaded: dict[UUID, bytes] = field(default_factory=dict)

    def upload(
        self, content: bytes | None, name: str = "a.txt", media_type: str = "text/plain", **columns: Any
    ) -> UUID:
        """Upload a file that may be looked into."""
        row_id = super().upload(content, name, media_type, storage_provider=self.provider, **columns)
        if content is not None:
            self.uploaded[row_id] = content
        return row_id

    def replace(self, row_id: UUID, content: bytes) -> None:
        """Store another object in the place of an uploaded one."""
        self.platform.put(content, self.key(row_id), self.provider)
        self.uploaded[row_id] = content

    def objects(self) -> dict[str, bytes]:
        return self.platform.objects(self.provider)

    def pictures(self, row_id: UUID) -> list[str]:
        prefix = f"derived/openchat/{row_id}/"
        return sorted(key.removeprefix(prefix) for key in self.objects() if key.startswith(prefix))

    def quarantined(self, row_id: UUID) -> bytes | None:
        return self.platform.quarantined(self.provider).get(f"openchat/{row_id}")

    def workplace(self) -> Path:
        """Have the files worked on in a directory of our own; return it."""
        folder = self.platform.folder / "work"
        folder.mkdir(exist_ok=True)
        self.platform.set(work_root=folder)
        return folder

    def served(self, row_id: UUID) -> Row[Any]:
        """Return the row of a file that is served."""
        row = self.row(row_id)
        assert (row.processing_status, row.processing_error, row.scan_result) == ("completed", None, "clean")
        assert row.storage_url
        return row

    def assert_nothing_else_is_left(self) -> None:
        """Each original that is not served is in one place, and there is nothing beside them."""
        quarantined = {
            row_id: content
            for row_id, content in self.uploaded.items()
            if self.job(row_id).outcome == "quarantined"
        }
        there = {
            self.key(row_id): self.uploaded[row_id] for row_id in self.uploaded.keys() - quarantined.keys()
        }
        assert self.objects() == there
        names = {f"openchat/{row_id}": content for row_id, content in quarantined.items()}
        assert self.platform.quarantined(self.provider) == names
