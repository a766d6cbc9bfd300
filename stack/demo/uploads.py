"""Plays the API services: stores bytes, inserts rows, enqueues. Then watches what becomes of them."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID, uuid4

from celery import Celery
from sqlalchemy import Connection, Engine, Row, insert, select

from models import openchat, pern
from models.platform import AttachmentJob as Job
from stack.demo.samples import Sample, sha256
from workers.db import create
from workers.settings import Settings
from workers.storage.s3_client import client_for


class Uploads(Protocol):
    """One of the stores, as the services use it: by means of their own, without the platform's rules."""

    def put(self, key: str, content: bytes, media_type: str) -> None:
        """Store an object."""

    def holds(self, key: str) -> bool:
        """Say whether there is an object."""


class Disk:
    """The directory of the `local` store."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def put(self, key: str, content: bytes, media_type: str) -> None:  # noqa: ARG002 - a file has no type
        path = self._root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def holds(self, key: str) -> bool:
        return (self._root / key).is_file()


class Bucket:
    """The bucket of the `s3` store."""

    def __init__(self, settings: Settings) -> None:
        self._client = client_for(settings)
        self._bucket = settings.s3_bucket or ""

    def put(self, key: str, content: bytes, media_type: str) -> None:
        self._client.put_object(Bucket=self._bucket, Key=key, Body=content, ContentType=media_type)

    def holds(self, key: str) -> bool:
        return self._client.list_objects_v2(Bucket=self._bucket, Prefix=key)["KeyCount"] == 1


@dataclass(frozen=True, slots=True)
class Fed:
    """A sample that has been fed in."""

    sample: Sample
    id: UUID


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of one: `right` if it is what the sample says must become of it."""

    fed: Fed
    right: bool
    sentence: str


@contextmanager
def services(settings: Settings) -> Iterator["Services"]:
    """Open what the API services hold: the database, the broker, the stores."""
    engine = create(settings)
    client = Celery("services", broker=settings.broker_url.get_secret_value(), set_as_current=False)
    try:
        yield Services(engine, client, {"local": Disk(settings.storage_root), "s3": Bucket(settings)})
    finally:
        client.close()
        engine.dispose()


class Services:
    """The API services of `openchat` and `pern`, as far as uploads go.

    Attributes:
        engine: their connections to the database.
    """

    def __init__(self, engine: Engine, client: Celery, stores: Mapping[str, Uploads]) -> None:
        self.engine = engine
        self._client = client
        self._stores = stores

    def feed(self, samples: tuple[Sample, ...]) -> list[Fed]:
        """Upload the samples, each as its application's API would."""
        uploads = {"openchat": self._openchat, "pern": self._pern}
        fed = []
        for sample in samples:
            content = sample.content()
            key = f"uploads/{uuid4()}{Path(sample.name).suffix}"
            self._stores[sample.provider].put(key, content, sample.media_type)
            with self.engine.begin() as connection:
                row_id = uploads[sample.app](connection, sample, key, content)
            if sample.announced:
                # All that a Python service needs to know: a name, a queue, an id.
                self._client.send_task(
                    "attachments.process", args=[{"app": sample.app, "id": str(row_id)}], queue="attachments"
                )
            fed.append(Fed(sample, row_id))
        return fed

    def watch(self, fed: list[Fed], pause: Callable[[], None]) -> Iterator[Fate]:
        """Yield each one's fate as it is known, for as long as the caller likes; `pause` between looks."""
        waiting = {one.id: one for one in fed}
        query = select(*Job.__table__.columns).where(Job.state.in_(["finished", "failed"]))
        while waiting:
            with self.engine.begin() as connection:
                rows = connection.execute(query.where(Job.attachment_id.in_(waiting))).all()
            for row in rows:
                one = waiting.pop(row.attachment_id)
                yield _fate(one, row, self._stores[one.sample.provider])
            if waiting:
                pause()

    def _openchat(self, connection: Connection, sample: Sample, key: str, content: bytes) -> UUID:
        user = connection.scalar(
            insert(openchat.User)
            .values(name="Ada", email=f"{uuid4()}@example.org", email_verified=True)
            .returning(openchat.User.id)
        )
        conversation = connection.scalar(
            insert(openchat.Conversation).values(created_by=user).returning(openchat.Conversation.id)
        )
        message = connection.scalar(
            insert(openchat.Message)
            .values(conversation_id=conversation, sender_id=user, content=sample.says, content_type="file")
            .returning(openchat.Message.id)
        )
        row_id = connection.scalar(
            insert(openchat.Attachment)
            .values(
                message_id=message,
                uploaded_by=user,
                filename=Path(key).name,
                original_filename=sample.name,
                mime_type=sample.media_type,
                file_size=len(content),
                storage_key=key,
                storage_provider=sample.provider,
            )
            .returning(openchat.Attachment.id)
        )
        assert isinstance(row_id, UUID)
        return row_id

    def _pern(self, connection: Connection, sample: Sample, key: str, content: bytes) -> UUID:
        now = datetime.now(UTC)
        stamps = {"created_at": now, "updated_at": now}
        user, conversation, message, row_id = uuid4(), uuid4(), uuid4(), uuid4()
        name = f"bob-{user.hex[:12]}"
        connection.execute(
            insert(pern.User).values(
                id=user,
                username=name,
                email=f"{name}@example.org",
                display_name="Bob",
                password_hash=os.urandom(8).hex(),
                **stamps,
            )
        )
        connection.execute(insert(pern.Conversation).values(id=conversation, created_by=user, **stamps))
        connection.execute(
            insert(pern.Message).values(
                id=message, conversation_id=conversation, sender_id=user, content_encrypted="…", **stamps
            )
        )
        connection.execute(
            insert(pern.Attachment).values(
                id=row_id,
                message_id=message,
                file_name=sample.name,
                file_path=key,
                file_size=len(content),
                file_hash=sha256(content),
                mime_type=sample.media_type,
                is_encrypted=sample.encrypted,
                **stamps,
            )
        )
        return row_id


def _fate(fed: Fed, row: Row[Any], store: Uploads) -> Fate:
    sample = fed.sample
    drawn = [key for key in (row.small_key, row.large_key) if key and store.holds(key)]
    right = (row.outcome, row.verdict, row.reason, len(drawn)) == (
        sample.outcome,
        sample.verdict,
        sample.reason,
        2 if sample.pictures else 0,
    )
    parts = [f"{row.outcome or row.state}, {row.verdict or 'no verdict'}"]
    if row.reason:
        parts.append(f"{row.reason}: {row.detail}")
    if drawn:
        parts.append("two pictures")
    parts.append(f"{sum(row.timings.values()):.2f} s")
    return Fate(fed, right, "; ".join(parts))
