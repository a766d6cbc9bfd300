"""How fast stores are compared with rows, and that memory does not grow with them.

    python -m benchmarks.reconcile

Prints one line, from one PostgreSQL (with fsync, as in production), a directory and SeaweedFS on this
machine. For 200,000 objects in the directory and 20,000 in the bucket, nine of ten named by a row of
`openchat`, all served:

list     objects a second of the store's listing alone
whole    objects a second of a dry run of `roomkeeper reconcile`: listed, written down, compared both ways
memory   how much the process has grown at most in both; and with a tenth of the objects, each time a fresh
         process
"""

import multiprocessing
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from uuid import UUID

import psycopg

from benchmarks import _harness as harness
from benchmarks._harness import Aim, Result, sized
from stack.ports import free_port, free_ports
from stack.servers.postgres import Postgres
from stack.servers.seaweedfs import PORTS, SeaweedFS
from tasks.apps import APPS
from tasks.reconcile import reconcile
from tests.platform import environment
from tests.servers import PostgresServer, SeaweedFSServer
from workers import migrate
from workers.bootstrap import bootstrap
from workers.db import create
from workers.settings import load
from workers.storage import store_for

#: SeaweedFS takes a quarter of an hour to make as many as the directory has.
OBJECTS = sized({"local": 200_000, "s3": 20_000}, {"local": 500, "s3": 100})
#: Measured with the objects divided by these: memory does not grow with them.
PARTS = sized((10, 1), (1,))
BUCKET = "benchmark"
SECRET = "of-the-benchmark"  # noqa: S105 - its server dies with it
THREADS = 16
_KIB_PER_MIB = 1024
_STATUS = Path("/proc/self/status")

_ROWS = """
    INSERT INTO openchat.attachment (id, message_id, uploaded_by, filename, original_filename, mime_type,
                                     file_size, storage_key, storage_provider, processing_status)
    SELECT lpad(to_hex(n), 32, '0')::uuid, %(message)s, %(user)s, 'a', 'a', 'text/plain', 1,
           'uploads/' || n %% 1000 || '/' || lpad(to_hex(n), 32, '0')::uuid, %(store)s, 'completed'
      FROM generate_series(0, %(count)s - 1) AS n
     WHERE n %% 10 > 0
"""
_JOBS = """
    INSERT INTO roomkeeper.attachment_jobs (app, attachment_id, state, outcome, attempt, finished_at)
    SELECT 'openchat', id, 'finished', 'accepted', 1, now() FROM openchat.attachment
"""


@dataclass(frozen=True)
class Cost:
    """What one store took: objects a second, and megabytes of growth."""

    objects: int
    listing: float
    whole: float
    mb: float

    def __str__(self) -> str:
        return f"list {self.listing:,.0f}/s, whole {self.whole:,.0f}/s, {self.mb:.0f} MB for {self.objects:,}"


def key(number: int) -> str:
    """Return the key of an object, as the rows have it."""
    return f"uploads/{number % 1000}/{UUID(int=number)}"


def _fill_directory(root: Path, count: int) -> None:
    for number in range(count):
        path = root / key(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"1")


def _fill_bucket(server: SeaweedFSServer, count: int) -> None:
    def put(number: int) -> None:
        server.client.put_object(Bucket=BUCKET, Key=key(number), Body=b"1")

    with ThreadPoolExecutor(THREADS) as pool:
        for _ in pool.map(put, range(count)):
            pass


def _fill_rows(database: "psycopg.Connection[tuple[object, ...]]", store: str, count: int) -> None:
    database.execute("TRUNCATE roomkeeper.attachment_jobs, openchat.attachment")
    (user,) = _one(database, 'SELECT id FROM openchat."user"')
    (message,) = _one(database, "SELECT id FROM openchat.message")
    database.execute(_ROWS, {"message": message, "user": user, "store": store, "count": count})
    database.execute(_JOBS)
    database.execute("VACUUM ANALYZE openchat.attachment, roomkeeper.attachment_jobs")


def _one(database: "psycopg.Connection[tuple[object, ...]]", statement: str) -> tuple[object, ...]:
    found = database.execute(statement).fetchone()
    assert found is not None
    return found


def _peak_kib() -> int:
    # Not that of `getrusage`, which knows of the process that this one was forked from.
    (line,) = (line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1])


def _measure(values: dict[str, str], store: str, count: int, answer: Connection) -> None:
    """Measure in this process, which has done nothing else."""
    settings = load(values)
    with environment(values):
        # What is loaded and connected once is no growth.
        reconcile(settings.model_copy(update={"reconcile_prefixes": ("nothing/",)}), store=store)
        before, began = _peak_kib(), time.perf_counter()
        assert sum(1 for _ in store_for(store, settings).list("uploads/")) == count
        listing = count / (time.perf_counter() - began)
        began = time.perf_counter()
        found = reconcile(settings, store=store, now=datetime.now(UTC) + timedelta(days=30))
        whole = count / (time.perf_counter() - began)
        assert found is not None
        (one,) = found
        assert (one.listed, one.orphans, one.rows, one.missing) == (count, count // 10, count * 9 // 10, 0), (
            one
        )
        answer.send(Cost(count, listing, whole, (_peak_kib() - before) / _KIB_PER_MIB))


def _apart(values: dict[str, str], store: str, count: int) -> Cost:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_measure, args=(values, store, count, there))
    process.start()
    there.close()
    try:
        cost = here.recv()
    finally:
        process.join()
    assert isinstance(cost, Cost)
    _say(f"{store}: {cost}")
    return cost


@contextmanager
def _servers(folder: Path) -> Iterator[tuple[PostgresServer, SeaweedFSServer]]:
    postgres = PostgresServer(Postgres(folder / "postgres", free_port(), durable=not harness.TINY))
    seaweedfs = SeaweedFSServer(SeaweedFS(folder / "seaweedfs", free_ports(PORTS), secret_key=SECRET))
    with ExitStack() as stack:
        for server in (postgres, seaweedfs):
            stack.callback(server.stop)
            server.start()
        seaweedfs.client.create_bucket(Bucket=BUCKET)
        yield postgres, seaweedfs


def _run(folder: Path, postgres: PostgresServer, seaweedfs: SeaweedFSServer) -> dict[str, tuple[Cost, Cost]]:
    values = {
        "DATABASE_URL": postgres.url(),
        "ROOMKEEPER_QUARANTINE_ROOT": str(folder / "quarantine"),
        "ROOMKEEPER_S3_BUCKET": BUCKET,
        "ROOMKEEPER_RECONCILE_PREFIXES": "uploads/",
        "ROOMKEEPER_RECONCILE_SHARE": "0.5",
        **seaweedfs.settings(),
    }
    engine = create(load(values), connections=4)
    bootstrap(engine, [app.models for app in APPS.values()])
    migrate.upgrade(engine)
    engine.dispose()
    found: dict[str, list[Cost]] = {store: [] for store in OBJECTS}
    with psycopg.connect(postgres.url(), autocommit=True) as database:
        database.execute(
            "INSERT INTO openchat.\"user\" (name, email, email_verified) VALUES ('Ada', 'a@x.org', true)"
        )
        database.execute('INSERT INTO openchat.conversation (created_by) SELECT id FROM openchat."user"')
        database.execute(
            "INSERT INTO openchat.message (conversation_id, sender_id, content)"
            " SELECT id, created_by, 'see' FROM openchat.conversation"
        )
        for store, most in OBJECTS.items():
            for count in (most // part for part in PARTS):
                values["ROOMKEEPER_STORAGE_ROOT"] = str(folder / f"storage-{count}")
                began = time.perf_counter()
                if store == "local":
                    _fill_directory(folder / f"storage-{count}", count)
                else:
                    _fill_bucket(seaweedfs, count)
                _say(f"{store}: {count:,} objects made in {time.perf_counter() - began:.0f} s")
                _fill_rows(database, store, count)
                found[store].append(_apart(values, store, count))
    return {store: (costs[0], costs[-1]) for store, costs in found.items()}


def _say(what: object) -> None:
    sys.stderr.write(f"reconcile: {what}\n")


def measure() -> Result:
    """List and compare both stores, with a tenth of the objects and with all."""
    _say(f"{OBJECTS['local']:,} objects in a directory, {OBJECTS['s3']:,} in a bucket; some minutes in all")
    folder = Path(tempfile.mkdtemp(prefix="roomkeeper-benchmark-"))
    try:
        with _servers(folder) as (postgres, seaweedfs):
            found = _run(folder, postgres, seaweedfs)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    measured = "; ".join(
        f"{store}, {many.objects:,} objects, list {many.listing:,.0f} objects/s, whole {many.whole:,.0f} "
        f"objects/s, memory grows by {many.mb:.1f} MB ({few.mb:.1f} MB with {few.objects:,})"
        for store, (few, many) in found.items()
    )
    return Result(
        f"reconcile: one object in ten named by no row; {measured}",
        tuple(
            aim
            for store, (few, many) in found.items()
            for aim in (
                Aim(f"{store}, whole run, times the listing alone", many.whole / many.listing, 0.2),
                Aim(f"{store}, MB more for ten times the objects", many.mb - few.mb, 20, at_most=True),
            )
        ),
    )


if __name__ == "__main__":
    harness.run(measure)
