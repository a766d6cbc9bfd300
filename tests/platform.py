"""A whole platform for a test: database, broker, scanner, store, settings; its programs on demand."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID, uuid4

from celery import Celery
from sqlalchemy import Connection, Engine, Row, exists, insert, select, text

from models import openchat, pern
from models.base import Base
from models.platform import AttachmentJob, DeadLetter
from stack.processes import last_lines
from tests.servers import SeaweedFSServer
from workers.settings import Settings, load

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

T = TypeVar("T")
PATIENCE_SECONDS = 60.0


def eventually(fact: Callable[[], T], patience_seconds: float = PATIENCE_SECONDS, what: str = "") -> T:
    """Return what `fact` returns once it is true; fail if that takes too long."""
    deadline = time.monotonic() + patience_seconds
    while not (found := fact()):
        assert time.monotonic() < deadline, f"not within {patience_seconds} s: {what or fact}"
        time.sleep(0.02)
    return found


@dataclass
class Program:
    """A program of the platform as a real process: `roomkeeper worker attachments`, say."""

    process: "subprocess.Popen[bytes]"
    log: Path

    def kill(self) -> None:
        """SIGKILL it and all its children at once, as a machine that loses power does."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def freeze(self) -> None:
        """SIGSTOP it and all its children, as a machine that is suspended does."""
        os.killpg(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT it after `freeze`."""
        os.killpg(self.process.pid, signal.SIGCONT)

    def children(self) -> list[int]:
        """Return the pids of its child processes."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in path.read_text().split()]

    def output(self) -> str:
        """Return its log so far."""
        return self.log.read_text(errors="replace")


@dataclass
class Platform:
    """Everything that a job needs. `environment` is what its programs are started with."""

    engine: Engine
    environment: dict[str, str]
    folder: Path
    programs: list[Program] = field(default_factory=list)
    #: Of the `s3` store, as an API service has it; see `use_s3`.
    client: "S3Client | None" = None

    @property
    def settings(self) -> Settings:
        """The settings as the environment has them now."""
        return load(self.environment)

    @property
    def store(self) -> Path:
        return self.settings.storage_root

    def set(self, **settings: object) -> None:
        """Change settings by field, `attachment_attempts=2`: for programs started from now on."""
        self.environment.update(
            {f"ROOMKEEPER_{name.upper()}": str(value) for name, value in settings.items()}
        )

    def use_s3(self, server: SeaweedFSServer, bucket: str, endpoint: str | None = None) -> None:
        """Set up the `s3` store, which the platform may reach through a proxy at `endpoint`."""
        self.environment.update(server.settings(endpoint))
        self.set(s3_bucket=bucket, s3_timeout_seconds=5)
        self.client = server.client

    # -- what API services do ---------------------------------------------------------------------------

    def put(self, content: bytes, key: str | None = None, provider: str = "local", **headers: str) -> str:
        """Store an object as an API service would, with `headers` as boto3 calls them; return its key."""
        key = key or f"uploads/{uuid4()}"
        if provider == "s3":
            assert self.client is not None
            self.client.put_object(Bucket=str(self.settings.s3_bucket), Key=key, Body=content, **headers)  # type: ignore[arg-type]
            return key
        path = self.store / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return key

    def openchat_attachment(
        self, content: bytes | None, name: str = "file.bin", media_type: str = "text/plain", **columns: Any
    ) -> UUID:
        """Upload to `openchat`: the object (none for `content=None`), and all rows that it needs."""
        key = columns.pop("storage_key", None)
        if content is not None:
            key = self.put(content, key, columns.get("storage_provider", "local"))
        values = {
            "filename": name,
            "original_filename": name,
            "mime_type": media_type,
            "file_size": len(content or b""),
            "storage_key": key or f"uploads/{uuid4()}",
            # As openchat.md has it: the service itself writes an address, before anybody has scanned.
            "storage_url": f"/files/{key}",
        } | columns
        with self.engine.begin() as connection:
            user = _one(
                connection,
                insert(openchat.User).values(name="Ada", email=f"{uuid4()}@x.org", email_verified=True),
            )
            room = _one(connection, insert(openchat.Conversation).values(created_by=user))
            message = _one(
                connection,
                insert(openchat.Message).values(conversation_id=room, sender_id=user, content="see"),
            )
            statement = insert(openchat.Attachment).values(message_id=message, uploaded_by=user, **values)
            return _one(connection, statement)

    def pern_attachment(
        self, content: bytes | None, name: str = "file.bin", media_type: str = "text/plain", **columns: Any
    ) -> UUID:
        """Upload to `pern`, encrypted unless `is_encrypted=False` is given."""
        now = datetime.now(UTC)
        stamps = {"created_at": now, "updated_at": now}
        user, room, message, row_id = uuid4(), uuid4(), uuid4(), columns.pop("id", None) or uuid4()
        key = self.put(content) if content is not None else f"uploads/{uuid4()}"
        values = {
            "file_name": name,
            "file_path": key,
            "file_size": len(content or b""),
            "file_hash": sha256(content or row_id.bytes).hexdigest(),
            "mime_type": media_type,
        } | columns
        with self.engine.begin() as connection:
            people = {
                "username": user.hex,
                "email": f"{user}@x.org",
                "display_name": "Bob",
                "password_hash": "x",
            }
            connection.execute(insert(pern.User).values(id=user, **people, **stamps))
            connection.execute(insert(pern.Conversation).values(id=room, created_by=user, **stamps))
            connection.execute(
                insert(pern.Message).values(
                    id=message, conversation_id=room, sender_id=user, content_encrypted="…", **stamps
                )
            )
            connection.execute(
                insert(pern.Attachment).values(id=row_id, message_id=message, **stamps, **values)
            )
        return row_id

    def send(self, task: str, *args: object, queue: str = "attachments", **options: Any) -> str:
        """Publish a message as any Celery client would; return its id."""
        with Celery(
            "client", broker=self.environment["ROOMKEEPER_BROKER_URL"], set_as_current=False
        ) as client:
            return str(client.send_task(task, args=list(args), queue=queue, **options).id)

    def enqueue(self, app: str, row_id: UUID) -> str:
        """Enqueue an attachment."""
        return self.send("attachments.process", {"app": app, "id": str(row_id)})

    # -- what one looks at ------------------------------------------------------------------------------

    def objects(self, provider: str = "local") -> dict[str, bytes]:
        """Return all that a store may serve, by key; and what is half written there."""
        if provider == "s3":
            prefix = self.settings.s3_quarantine_prefix
            return {key: content for key, content in self._bucket().items() if not key.startswith(prefix)}
        return _files(self.store)

    def quarantined(self, provider: str = "local") -> dict[str, bytes]:
        """Return all that is in a store's quarantine, by name."""
        if provider == "s3":
            prefix = self.settings.s3_quarantine_prefix
            found = self._bucket().items()
            return {key.removeprefix(prefix): content for key, content in found if key.startswith(prefix)}
        return _files(self.settings.quarantine_root)

    def _bucket(self) -> dict[str, bytes]:
        assert self.client is not None
        bucket = str(self.settings.s3_bucket)
        listed = self.client.list_objects_v2(Bucket=bucket).get("Contents", [])
        keys = [one["Key"] for one in listed]
        return {key: self.client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}

    def job(self, row_id: UUID) -> Row[Any] | None:
        """Return the attachment's row in our own table."""
        columns = AttachmentJob.__table__.columns
        with self.engine.begin() as connection:
            found = connection.execute(select(*columns).where(AttachmentJob.attachment_id == row_id))
            return found.one_or_none()

    def finished(self, row_id: UUID, patience_seconds: float = PATIENCE_SECONDS) -> Row[Any]:
        """Wait until the attachment is finished or failed; return its row in our own table."""

        def over() -> Row[Any] | None:
            job = self.job(row_id)
            return job if job is not None and job.state in {"finished", "failed"} else None

        found = eventually(over, patience_seconds, f"attachment {row_id} finished; now {self.job(row_id)}")
        assert found is not None
        return found

    def row(self, model: type[Any], row_id: UUID) -> Row[Any]:
        """Return the application's row."""
        with self.engine.begin() as connection:
            return connection.execute(select(*model.__table__.columns).where(model.id == row_id)).one()

    def dead_letters(self) -> Sequence[Row[Any]]:
        """Return all dead letters."""
        with self.engine.begin() as connection:
            return connection.execute(select(*DeadLetter.__table__.columns)).all()

    def collected(self) -> Sequence[Row[Any]]:
        """Make dead letters of what is in the quarantine, as a job does each minute; return all."""
        from workers.quarantine import collect

        # A test may have a broker of its own.
        with environment({"ROOMKEEPER_BROKER_URL": self.environment["ROOMKEEPER_BROKER_URL"]}):
            collect()
        return self.dead_letters()

    def sql(self, statement: str, **values: object) -> Any:
        """Run a statement; return its rows, if it has any."""
        with self.engine.begin() as connection:
            result = connection.execute(text(statement), values)
            return result.all() if result.returns_rows else None

    def everything(self) -> dict[str, list[tuple[Any, ...]]]:
        """Return every row of every table, to be compared whole."""
        tables = Base.metadata.sorted_tables
        with self.engine.begin() as connection:
            # Most are empty, and a question each takes its time.
            filled = connection.execute(select(*(exists(select(table)) for table in tables))).one()
            return {
                table.fullname: sorted(map(tuple, connection.execute(select(table)).all()), key=repr)
                if any_rows
                else []
                for table, any_rows in zip(tables, filled, strict=True)
            }

    # -- its programs -----------------------------------------------------------------------------------

    def start(self, *arguments: str, under: Sequence[str] = ()) -> Program:
        """Start `roomkeeper ARGUMENTS` as a process of its own, in a process group of its own.

        `under` is what it is started by, and replaced with: `unshare --mount`, say.
        """
        log = self.folder / f"program-{len(self.programs)}.log"
        command = [*under, str(Path(sys.executable).with_name("roomkeeper")), *arguments]
        with log.open("wb") as out:
            process = subprocess.Popen(
                command,
                # What it says is waited for.
                env=self.environment | {"PYTHONUNBUFFERED": "1"},
                stdout=out,
                stderr=out,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        program = Program(process, log)
        self.programs.append(program)
        return program

    def worker(self, kind: str = "attachments", under: Sequence[str] = ()) -> Program:
        """Start a worker and wait until it takes messages."""
        program = self.start("worker", kind, under=under)

        def ready() -> bool:
            assert program.process.poll() is None, last_lines(program.output())
            return " ready." in program.output()

        eventually(ready, what=f"the worker {kind} is ready")
        return program

    def close(self) -> None:
        """End all its programs."""
        for program in self.programs:
            if program.process.poll() is None:
                program.kill()
        self.engine.dispose()


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Make `values` this process's environment for the platform's settings, and forget what was cached."""
    from workers.db import forget_engine
    from workers.settings import get_settings

    def forget() -> None:
        forget_engine()
        get_settings.cache_clear()

    before = dict(os.environ)
    forget()
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        forget()


def ago(seconds: float) -> datetime:
    """Return the moment so many seconds ago."""
    return datetime.now(UTC) - timedelta(seconds=seconds)


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _one(connection: Connection, statement: Any) -> UUID:
    found = connection.scalar(statement.returning(statement.table.c.id))
    assert isinstance(found, UUID)
    return found
