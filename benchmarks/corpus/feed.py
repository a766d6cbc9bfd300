"""Feeds files to the real pipeline, as an API service does, and reads what became of them in the rows."""

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from uuid import UUID

from benchmarks._servers import running
from benchmarks.corpus.files import CorpusFile
from stack.ports import free_ports
from stack.servers.seaweedfs import PORTS, SeaweedFS
from tests.platform import Platform
from tests.servers import SeaweedFSServer
from workers.db import create
from workers.settings import load

STORES = ("local", "s3")
BUCKET = "corpus"
#: So many rows wait for the worker at most: what is fed lies in the store twice meanwhile.
_AHEAD = 200
#: Where the code of ClamAV's test program is.
_CODE = slice(0x40, 0x74)
#: Progress is reported each time that so many are finished.
_REPORTED = 500
#: Without any file finished for so long the pipeline stands still.
_PATIENCE_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one file.

    Attributes:
        file: the file.
        served: whether its row has a URL.
        preview: whether it has a preview.
        reason, detail: why it is not served.
        media_type: of its row afterwards.
    """

    file: CorpusFile
    served: bool
    preview: bool
    reason: str
    detail: str
    media_type: str


@contextmanager
def platform(store: str, malware: dict[str, bytes]) -> Iterator[Platform]:
    """Start all servers and one worker of two processes, with the store `local` or `s3`.

    Args:
        store: see `STORES`.
        malware: what the scanner knows beside EICAR: name → bytes.
    """
    with ExitStack() as stack:
        folder, environment = stack.enter_context(
            running(
                malware=malware,
                ROOMKEEPER_WORKER_PROCESSES="2",
                ROOMKEEPER_ATTACHMENT_RETRY_SECONDS="0.2",
                ROOMKEEPER_ATTACHMENT_RETRY_MAX_SECONDS="1",
            )
        )
        made = Platform(create(load(environment)), environment, folder)
        stack.callback(made.close)
        if store == "s3":
            server = SeaweedFSServer(SeaweedFS(folder / "seaweedfs", free_ports(PORTS), secret_key="secret"))  # noqa: S106
            stack.callback(server.stop)
            server.start()
            stack.callback(server.client.close)
            server.create_bucket(BUCKET)
            made.use_s3(server, BUCKET)
        made.worker()
        yield made


def feed(made: Platform, files: list[CorpusFile], store: str) -> list[Outcome]:
    """Upload the files and enqueue them; return what became of each, in their order.

    Raises:
        RuntimeError: the pipeline stands still.
    """
    rows: dict[UUID, CorpusFile] = {}
    open_: set[UUID] = set()
    changed = time.monotonic()
    waiting = list(reversed(files))
    while waiting or open_:
        while waiting and len(open_) < _AHEAD:
            one = waiting.pop()
            row_id = made.openchat_attachment(
                one.file.read_bytes(), one.name, one.declared, storage_provider=store
            )
            rows[row_id] = one
            open_.add(row_id)
            made.enqueue("openchat", row_id)
        done, again = _progress(made, open_)
        for row_id in again:
            # As the recovery job does.
            made.enqueue("openchat", row_id)
        if done:
            changed = time.monotonic()
            before = len(rows) - len(open_)
            open_ -= done
            if (before + len(done)) // _REPORTED > before // _REPORTED:
                sys.stderr.write(f"corpus: {before + len(done)} of {len(files)} files on {store}\n")
        if time.monotonic() - changed > _PATIENCE_SECONDS:
            stuck = ", ".join(rows[row_id].key for row_id in list(open_)[:5])
            raise RuntimeError(f"{len(open_)} files are not finished, among them {stuck}")
        time.sleep(0.2)
    return _outcomes(made, rows)


def _progress(made: Platform, open_: set[UUID]) -> tuple[set[UUID], set[UUID]]:
    """Return which are finished, and which are to be enqueued again."""
    found = made.sql(
        "SELECT attachment_id, state, not_before <= now() AS due FROM roomkeeper.attachment_jobs"
        " WHERE app = 'openchat' AND attachment_id = ANY(CAST(:ids AS uuid[]))",
        ids=[str(row_id) for row_id in open_],
    )
    done = {row.attachment_id for row in found if row.state in ("finished", "failed")}
    return done, {row.attachment_id for row in found if row.state == "waiting" and row.due}


def _outcomes(made: Platform, rows: dict[UUID, CorpusFile]) -> list[Outcome]:
    found = made.sql(
        "SELECT id, mime_type, storage_url, preview_url, job.state, outcome, reason, detail"
        " FROM openchat.attachment JOIN roomkeeper.attachment_jobs AS job ON job.attachment_id = id"
    )
    by_id = {row.id: row for row in found}
    outcomes = []
    for row_id, one in rows.items():
        row = by_id[row_id]
        outcomes.append(
            Outcome(
                one,
                row.storage_url is not None,
                row.preview_url is not None,
                row.reason or "",
                row.detail or "",
                row.mime_type,
            )
        )
    return outcomes


def test_program(files: list[CorpusFile]) -> dict[str, bytes]:
    """Return the signature of ClamAV's own test program, where the corpus has it."""
    for one in files:
        if one.key.endswith("clamav-testfiles/clam.exe"):
            # Its code alone: unpackers of programs write another head.
            return {"Roomkeeper.ClamAV-Test-File.UNOFFICIAL": one.file.read_bytes()[_CODE]}
    return {}
