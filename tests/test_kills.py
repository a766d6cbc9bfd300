"""Real workers that are killed in each phase, that fight for a file, whose disk is full."""

import json
import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from models import openchat, pern
from stack.demo.samples import photo
from tests.fault_proxy import Fault, FaultProxy
from tests.platform import Platform, Program, eventually
from tests.servers import ClamdServer, SeaweedFSServer
from workers.known_bad import EICAR

pytestmark = pytest.mark.system

PHOTO = photo(400, 300)
TEXT = b"Milk, bread\n"


@dataclass
class Hold:
    """A request that is held at the door: `reached` once it came, until it may pass or is cut off.

    `skip` is how many like it pass before.
    """

    method: str
    fragment: str
    skip: int = 0
    reached: threading.Event = field(default_factory=threading.Event)
    over: threading.Event = field(default_factory=threading.Event)
    passes: bool = False

    def wait(self) -> None:
        self.reached.set()
        self.over.wait(60)
        if not self.passes:
            raise ConnectionAbortedError

    def end(self, *, passes: bool = False) -> None:
        self.passes = passes
        self.over.set()


@dataclass
class Gate(FaultProxy):
    """A proxy in front of the store at which requests can be held."""

    holds: list[Hold] = field(default_factory=list)

    def hold(self, method: str, fragment: str, skip: int = 0) -> Hold:
        """Hold such requests until the hold's end."""
        self.holds.append(Hold(method, fragment, skip))
        return self.holds[-1]

    def fault_for(self, method: str, path: str) -> Fault:
        for hold in self.holds:
            if hold.method == method and hold.fragment in path and not hold.over.is_set():
                hold.skip -= 1
                if hold.skip < 0:
                    return Fault((method,), before=hold.wait)
        return Fault()


@pytest.fixture
def gate(seaweedfs: SeaweedFSServer) -> Iterator[Gate]:
    gate = Gate(seaweedfs.server.ports["s3"])
    yield gate
    for hold in gate.holds:
        hold.end()
    gate.close()


# -- What one looks at --------------------------------------------------------------------------------------


def recover(platform: Platform) -> None:
    """Have a worker do the recovery job's work once."""
    platform.send("attachments.recover", queue="attachments")


def in_phase(platform: Platform, row_id: UUID, phase: str) -> None:
    """Wait until the file is in the phase."""

    def there() -> bool:
        job = platform.job(row_id)
        return job is not None and (job.state, job.phase) == ("running", phase)

    eventually(there, what=f"{row_id} is in the phase {phase}")


def children(pid: int) -> list[int]:
    with suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def alive(pid: int) -> bool:
    """Return whether the process runs; one that ended and was not buried does not."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def kill_all(worker: Program) -> None:
    """SIGKILL all processes that do a worker's tasks, and see what they had started end with them."""
    processes = worker.children()
    helpers = [helper for child in processes for helper in children(child)]
    assert helpers
    strangers = [stranger for helper in helpers for stranger in children(helper)]
    for child in processes:
        os.kill(child, signal.SIGKILL)
    eventually(lambda: not any(map(alive, (*processes, *helpers, *strangers))), what="all have ended")
    eventually(
        lambda: len(set(worker.children()) - set(processes)) == len(processes),
        what="there are as many new ones",
    )


@dataclass(frozen=True)
class Upload:
    """A kind of file, and the phase in which its worker is to die."""

    content: bytes
    app: str = "openchat"
    provider: str = "s3"
    name: str = "a.txt"
    media_type: str = "text/plain"


PHOTOS = {"name": "a.jpg", "media_type": "image/jpeg"}
UPLOADS = {
    "fetch": Upload(TEXT),
    "identify": Upload(TEXT),
    "strip": Upload(PHOTO, **PHOTOS),
    "draw": Upload(PHOTO, "pern", "local", **PHOTOS),
    "store": Upload(PHOTO, **PHOTOS),
    "quarantine": Upload(EICAR),
    "commit_outcome": Upload(TEXT),
}


@dataclass
class Files:
    """The files that were uploaded, one of each kind, by the phase in which their worker dies."""

    platform: Platform
    number: int
    row_ids: dict[str, UUID] = field(default_factory=dict)

    def upload(self, *phases: str) -> None:
        for phase in phases:
            one = UPLOADS[phase]
            if one.app == "pern":
                # The same file cannot be attached twice there.
                content = one.content + b"%04d" % self.number
                row_id = self.platform.pern_attachment(content, one.name, one.media_type, is_encrypted=False)
            else:
                row_id = self.platform.openchat_attachment(
                    one.content, one.name, one.media_type, storage_provider=one.provider
                )
            self.row_ids[phase] = row_id

    def enqueue(self, *phases: str) -> None:
        for phase in phases:
            self.platform.enqueue(UPLOADS[phase].app, self.row_ids[phase])

    def key(self, phase: str) -> str:
        row = self._row(phase)
        return str(row["storage_key"] if UPLOADS[phase].app == "openchat" else row["file_path"])

    def finished(self, *phases: str) -> None:
        for phase in phases:
            self.platform.finished(self.row_ids[phase])

    def taken_up(self, *phases: str) -> None:
        """Wait until the leases of the dead have run out, and the files are finished."""
        abandoned = (
            "SELECT FROM roomkeeper.attachment_jobs WHERE attachment_id = ANY(:ids)"
            " AND (lease_until < now() OR state = 'finished')"
        )
        ids = [self.row_ids[phase] for phase in phases]
        eventually(
            lambda: len(self.platform.sql(abandoned, ids=ids)) == len(ids), what="the leases have run out"
        )
        recover(self.platform)
        self.finished(*phases)

    def _row(self, phase: str) -> dict[str, Any]:
        model: type[Any] = openchat.Attachment if UPLOADS[phase].app == "openchat" else pern.Attachment
        return dict(self.platform.row(model, self.row_ids[phase])._mapping)

    def essence(self, phase: str) -> dict[str, Any]:
        """Return all that is known and kept of a file, but for ids, times and the numbers of attempts."""
        row_id = self.row_ids[phase]
        job = self.platform.job(row_id)
        assert job is not None
        varying_job_columns = {
            "attachment_id",
            "attempt",
            "failures",
            "waits",
            "worker",
            "timings",
            "judged_object",
        }
        varying_row_columns = {"id", "message_id", "uploaded_by", "file_hash"}
        last = self.platform.sql(
            "SELECT event FROM roomkeeper.attachment_events"
            " WHERE attachment_id = :id AND attempt = :attempt AND event <> 'claimed' ORDER BY id",
            id=row_id,
            attempt=job.attempt,
        )
        known = {
            "job": {name: value for name, value in job._mapping.items() if name not in varying_job_columns},
            "row": {
                name: value for name, value in self._row(phase).items() if name not in varying_row_columns
            },
            "story": [event.event for event in last],
            "objects": {
                f"{place} {key}": content.hex()
                for place, found in self._places(phase)
                for key, content in found.items()
                if str(row_id) in key or key == self.key(phase)
            },
        }
        stamps = {"job": "_at", "row": "_at"}
        for part, ending in stamps.items():
            known[part] = {k: v for k, v in dict(known[part]).items() if not k.endswith(ending)}
        json_text = json.dumps(known, default=str)
        json_text = (
            json_text.replace(str(row_id), "ID")
            .replace(self.key(phase), "KEY")
            .replace(str(job.sha256), "SHA")
        )
        # What signs an address, and what makes the contents of `pern` differ.
        json_text = re.sub(r"\?[^\"]*X-Amz[^\"]*", "", json_text).replace(
            (b"%04d" % self.number).hex() + '"', '"'
        )
        return dict(json.loads(json_text))

    def _places(self, phase: str) -> list[tuple[str, dict[str, bytes]]]:
        provider = UPLOADS[phase].provider
        return [
            ("store", self.platform.objects(provider)),
            ("quarantine", self.platform.quarantined(provider)),
        ]


# -- Kills --------------------------------------------------------------------------------------------------


def test_files_whose_workers_are_killed_in_any_phase_end_as_if_nothing_had_happened(
    platform: Platform, clamd: ClamdServer, seaweedfs: SeaweedFSServer, bucket: str, gate: Gate
) -> None:
    work = platform.folder / "work"
    work.mkdir()
    platform.use_s3(seaweedfs, bucket, gate.address)
    platform.set(
        worker_processes=4,
        work_root=work,
        strip_originals="openchat",
        s3_timeout_seconds=20,
        clamd=clamd.address,
    )
    worker = platform.worker()
    undisturbed, disturbed = Files(platform, 1), Files(platform, 2)
    undisturbed.upload(*UPLOADS)
    undisturbed.enqueue(*UPLOADS)

    # Held by the store, which is slow to answer.
    first = ("fetch", "store", "quarantine", "commit_outcome")
    disturbed.upload(*first)
    ids = disturbed.row_ids
    fetch = gate.hold("GET", disturbed.key("fetch"))
    # The pictures are stored already and the original is rewritten: asked after for the second time.
    store = gate.hold("HEAD", disturbed.key("store"), skip=1)
    quarantine = gate.hold("PUT", f"quarantine/openchat/{ids['quarantine']}")
    commit = gate.hold("GET", disturbed.key("commit_outcome"))
    undisturbed.finished(*UPLOADS)
    # A worker writes the outcome first and removes its files then.
    eventually(lambda: list(work.iterdir()) == [], what="the work folder is clear")
    disturbed.enqueue(*first)
    for hold in (fetch, store, quarantine, commit):
        eventually(hold.reached.is_set, what=f"{hold.method} {hold.fragment} is asked for")
    with platform.engine.begin() as locked:
        locked.execute(
            text("SELECT FROM openchat.attachment WHERE id = :id FOR UPDATE"), {"id": ids["commit_outcome"]}
        )
        commit.end(passes=True)
        eventually(lambda: waiting_for_locks(platform), what="the outcome is being written")
        kill_all(worker)
    for hold in (fetch, store, quarantine):
        hold.end()
    disturbed.taken_up(*first)

    # Held by sandboxes that do not answer: each process is given one, which is then stopped.
    second = ("strip", "draw", "identify")
    disturbed.upload(*second)
    spare = [platform.pern_attachment(b"%d" % number, is_encrypted=False) for number in range(2)]
    clamd.freeze()
    disturbed.enqueue("strip", "draw")
    for row_id in spare:
        platform.enqueue("pern", row_id)
    for row_id in (ids["strip"], ids["draw"], *spare):
        in_phase(platform, row_id, "scan")
    helpers = [helper for child in worker.children() for helper in children(child)]
    assert len(helpers) == 4
    for helper in helpers:
        os.kill(helper, signal.SIGSTOP)
    clamd.thaw()
    for row_id in spare:
        platform.finished(row_id)
    disturbed.enqueue("identify")
    for phase in second:
        in_phase(platform, ids[phase], phase)
    kill_all(worker)
    disturbed.taken_up(*second)

    for phase in UPLOADS:
        job = platform.job(ids[phase])
        assert job is not None
        assert (job.attempt, job.failures) == (2, 1), phase
        assert disturbed.essence(phase) == undisturbed.essence(phase), phase
    # Every object belongs to a row.
    for provider in ("s3", "local"):
        owned = {str(row_id) for files in (undisturbed, disturbed) for row_id in files.row_ids.values()}
        owned |= {files.key(phase) for files in (undisturbed, disturbed) for phase in UPLOADS}
        strangers = [key for key in platform.objects(provider) if not any(one in key for one in owned)]
        assert len(strangers) == (len(spare) if provider == "local" else 0), strangers
    assert platform.dead_letters() == []
    # What the dead were working on lies there until the next sweep.
    assert len(list(work.iterdir())) == len(UPLOADS)
    platform.send("attachments.rescan", queue="attachments")
    eventually(lambda: not list(work.iterdir()), what="the directories of the dead are removed")
    assert worker.process.poll() is None


def waiting_for_locks(platform: Platform) -> int:
    """Return how many transactions wait for what another has locked."""
    # Not in the transaction that has locked it: it would see the same each time.
    statement = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    return len(platform.sql(statement))


def test_two_workers_with_the_same_message_at_the_same_moment(platform: Platform) -> None:
    platform.set(worker_processes=1)
    programs = [platform.start("worker", "attachments") for _ in range(2)]
    eventually(lambda: all(" ready." in one.output() for one in programs), what="both workers are ready")
    row_id = platform.openchat_attachment(TEXT)
    with platform.engine.begin() as locked:
        # Both get as far as the claim, and no further.
        locked.execute(text("LOCK TABLE roomkeeper.attachment_jobs IN SHARE MODE"))
        for _ in programs:
            platform.enqueue("openchat", row_id)
        eventually(lambda: waiting_for_locks(platform) == 2, what="both are about to claim it")
    job = platform.finished(row_id)

    def ends() -> list[str]:
        """Return how the task ended, by the workers' own account."""
        return sorted(
            end for one in programs for end in re.findall(r"succeeded in [^:]*: '([a-z ]+)'", one.output())
        )

    eventually(lambda: ends() == ["accepted", "nothing to do"], what="each has come to its end")
    assert (job.attempt, job.failures, job.outcome) == (1, 0, "accepted")
    assert platform.job(row_id) == job
    claims = platform.sql("SELECT FROM roomkeeper.attachment_events WHERE event = 'claimed'")
    assert len(claims) == 1


# -- Full disks ---------------------------------------------------------------------------------------------


@contextmanager
def ballast(folder: Path, leaving: int) -> Iterator[None]:
    """Fill a file system but for so many bytes, in the `with` block."""
    room = os.statvfs(folder)
    path = folder / "ballast"
    try:
        with path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, room.f_bavail * room.f_frsize - leaving)
        yield
    finally:
        path.unlink()


def test_files_wait_while_a_disk_is_full_wherever_that_strikes(platform: Platform) -> None:
    work, pictures = platform.folder / "work", platform.store / "derived"
    work.mkdir()
    pictures.mkdir()
    platform.set(worker_processes=1, attachment_attempts=1, work_root=work)
    small = "mount -t tmpfs -o size=3m none"
    mount = f'{small} {work} && {small} {pictures} && exec "$@"'
    user_options = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    worker = platform.worker(under=("unshare", "--mount", *user_options, "sh", "-c", mount, "sh"))
    # The worker's own disks, seen from outside.
    seen = Path(f"/proc/{worker.process.pid}/root")
    its_work, its_pictures = seen / work.relative_to("/"), seen / pictures.relative_to("/")
    page = os.sysconf("SC_PAGE_SIZE")
    row_id = platform.openchat_attachment(PHOTO, "a.jpg", "image/jpeg")

    def waits(times: int) -> None:
        def waiting() -> bool:
            recover(platform)
            job = platform.job(row_id)
            return job is not None and job.state in ("waiting", "failed") and job.waits >= times

        eventually(waiting, what=f"it waits for the {times}. time: {platform.job(row_id)}")
        job, row = platform.job(row_id), platform.row(openchat.Attachment, row_id)
        assert job is not None
        assert (job.state, job.reason, job.failures) == ("waiting", "disk_full", 0), job
        assert (row.storage_url, row.thumbnail_url, row.processing_status) == (None, None, "pending")
        assert [path.name for path in its_work.iterdir() if path.name != "ballast"] == []

    # For the file itself; for its pictures; for its pictures in the store.
    for times, (folder, leaving) in enumerate(
        ((its_work, page), (its_work, len(PHOTO) + 3 * page), (its_pictures, 4 * page)), 1
    ):
        with ballast(folder, leaving):
            platform.sql("UPDATE roomkeeper.attachment_jobs SET not_before = now(), enqueued_at = NULL")
            platform.enqueue("openchat", row_id)
            waits(times)
            found = {path.name for path in its_pictures.rglob("*") if path.is_file()}
            # The small one may have found room.
            assert found <= {"ballast", "small.webp"}
    platform.sql("UPDATE roomkeeper.attachment_jobs SET not_before = now(), enqueued_at = NULL")
    recover(platform)
    assert platform.finished(row_id).outcome == "accepted"
    stored = [path.name for path in its_pictures.rglob("*") if path.is_file()]
    assert sorted(stored) == ["large.webp", "small.webp"]
