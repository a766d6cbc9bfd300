"""Objects that change under our hands, scanners and stores that fail or lie, full disks, restarts."""

import os
import socketserver
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from io import BufferedIOBase
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from stack.demo.samples import drawing
from stack.servers import signatures
from stack.servers.clamd import Clamd
from tasks.attachments import examine
from tests.attachments.context import AppContext, at_scan
from tests.attachments.shelf import Shelf
from tests.fault_proxy import Fault, FaultProxy
from tests.platform import Platform, eventually
from tests.servers import ClamdServer, PostgresServer, SeaweedFSServer
from workers.known_bad import EICAR
from workers.storage import local, s3_client
from workers.storage.local import LocalStore
from workers.storage.s3 import S3Store
from workers.workdir import workdir

pytestmark = pytest.mark.system

PNG = drawing("PNG")
_numbers = count(1)


def version() -> bytes:
    """Return the picture once more, of the same size and with other bytes."""
    return PNG + b"%08d" % next(_numbers)


@pytest.fixture(params=["local", "s3"])
def shelf(request: pytest.FixtureRequest, platform: Platform) -> Shelf:
    if request.param == "s3":
        platform.use_s3(request.getfixturevalue("seaweedfs"), request.getfixturevalue("bucket"))
    return Shelf(platform, "openchat", request.param)


@pytest.fixture
def openchat_context(platform: Platform) -> AppContext:
    return AppContext(platform, "openchat")


@pytest.fixture
def proxy(seaweedfs: SeaweedFSServer) -> Iterator[FaultProxy]:
    proxy = FaultProxy(seaweedfs.server.ports["s3"])
    yield proxy
    proxy.close()


@pytest.fixture
def remote(
    platform: Platform,
    seaweedfs: SeaweedFSServer,
    bucket: str,
    proxy: FaultProxy,
    monkeypatch: pytest.MonkeyPatch,
) -> Shelf:
    """Files in S3, behind the proxy; a request is tried once, for what comes of three is tested elsewhere."""
    monkeypatch.setattr(s3_client, "_TRIES", 1)
    s3_client._client.cache_clear()
    platform.use_s3(seaweedfs, bucket, proxy.address)
    platform.set(s3_timeout_seconds=0.5, attachment_attempts=1)
    shelf = Shelf(platform, "openchat", "s3")
    shelf.workplace()
    return shelf


def work_is_clear(shelf: Shelf) -> bool:
    return list((shelf.platform.folder / "work").iterdir()) == []


# -- Objects that change ------------------------------------------------------------------------------------


def changed_while_it_is_read(
    monkeypatch: pytest.MonkeyPatch, event: Callable[[], None], proxy: FaultProxy | None
) -> AbstractContextManager[None]:
    """Let `event` happen whenever an object has been opened or half of it read, in the `with` block."""
    if proxy is not None:
        return proxy.doing(Fault(("GET",), half_got=event))
    return _changed_on_disk(monkeypatch, event)


@contextmanager
def _changed_on_disk(monkeypatch: pytest.MonkeyPatch, event: Callable[[], None]) -> Iterator[None]:
    real, seen = local._version, count()

    def version_of(found: os.stat_result) -> str:
        # The first is taken when the file has been opened, the second when it has been read.
        version = real(found)
        if next(seen) % 2 == 0:
            event()
        return version

    with monkeypatch.context() as patched:
        patched.setattr(local, "_version", version_of)
        yield


def test_an_object_that_changes_while_it_is_read_is_given_up(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    proxy = request.getfixturevalue("proxy") if shelf.provider == "s3" else None
    if proxy is not None:
        shelf.platform.use_s3(
            request.getfixturevalue("seaweedfs"), str(shelf.platform.settings.s3_bucket), proxy.address
        )
    shelf.workplace()
    row_id = shelf.upload(version(), "a.png", "image/png")
    with changed_while_it_is_read(monkeypatch, lambda: shelf.replace(row_id, version()), proxy):
        for end in ("waiting", "waiting", "failed"):
            assert shelf.again(row_id) == f"{end} (object_changed)"
            shelf.assert_unserved(row_id)
            assert work_is_clear(shelf)
    assert shelf.job(row_id).failures == 3
    shelf.assert_nothing_else_is_left()


def test_an_object_that_changes_after_its_scan_is_never_served(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    row_id = shelf.upload(version(), "a.png", "image/png")
    for end in ("waiting", "waiting", "failed"):
        at_scan(monkeypatch, lambda: shelf.replace(row_id, version()))
        assert shelf.again(row_id) == f"{end} (object_changed)"
        shelf.assert_unserved_row(row_id)
    shelf.assert_unserved(row_id)
    shelf.assert_nothing_else_is_left()


def test_malware_in_the_place_of_what_was_scanned_goes_to_quarantine(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    malware = PNG + EICAR
    row_id = shelf.upload(PNG + bytes(len(EICAR)), "a.png", "image/png")
    at_scan(monkeypatch, lambda: shelf.replace(row_id, malware))
    assert shelf.work(row_id) == "waiting (object_changed)"
    shelf.assert_unserved_row(row_id)
    assert shelf.again(row_id) == "quarantined (malware)"
    shelf.assert_unserved(row_id)
    shelf.assert_nothing_else_is_left()


def test_an_object_that_changes_just_before_it_is_published_is_never_served(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind: Any = LocalStore if shelf.provider == "local" else S3Store
    real = kind.publish

    def publish(self: Any, *arguments: Any) -> None:
        shelf.replace(row_id, version())
        real(self, *arguments)

    row_id = shelf.upload(version(), "a.png", "image/png")
    with monkeypatch.context() as patched:
        patched.setattr(kind, "publish", publish)
        assert shelf.work(row_id) == "waiting (object_changed)"
    shelf.assert_unserved_row(row_id)
    assert shelf.again(row_id) == "accepted"
    assert len(shelf.pictures(row_id)) == 2


# -- Scanners that lie --------------------------------------------------------------------------------------

TEXT = b"Milk, bread\n"
VERSION = b"ClamAV 1.4.6/27000/Sat Nov 21 06:00:00 2026\n"


@dataclass
class FakeClamd:
    """A scanner that can be trusted with all but `TEXT`: of that it says `answer`, None for nothing."""

    address: str = ""
    version: bytes = VERSION
    answer: bytes | None = b""
    #: Hang up after so many bytes of `TEXT`.
    patience: int | None = None

    def talk(self, lines: BufferedIOBase, answer: Callable[[bytes], object]) -> None:
        if lines.readline() == b"nVERSION\n":
            answer(self.version)
            return
        content = b""
        while size := struct.unpack("!I", lines.read(4))[0]:
            content += lines.read(size)
            if self.patience is not None and content.startswith(TEXT):
                return
        if content.startswith(TEXT):
            if self.answer is not None:
                answer(self.answer)
            else:
                lines.read(1)
        elif not content.strip(b"\0"):
            answer(b"stream: OK\n")
        else:
            answer(b"stream: Known.Bad FOUND\n")


@pytest.fixture
def fake() -> Iterator[FakeClamd]:
    clamd = FakeClamd()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            clamd.talk(self.rfile, self.wfile.write)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        clamd.address = f"tcp://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield clamd
        server.shutdown()
        thread.join()


NONSENSE = (
    b"",
    b"\n",
    b"OK\n",
    b"stream:\n",
    b"stream: ok\n",
    b"stream: OK and more\n",
    b"stream: FOUND\n",
    b"stream: a\0b FOUND\n",
    b"stream: \xff\xfe FOUND\n",
    b"INSTREAM size limit exceeded. ERROR\n",
    b"UNKNOWN COMMAND\n",
    VERSION,
    b"x" * 100_000,
)


def test_what_is_no_answer_of_a_scanner_is_never_a_verdict(
    openchat_context: AppContext, fake: FakeClamd
) -> None:
    openchat_context.platform.set(clamd=fake.address, max_file_bytes=100_000, attachment_attempts=1)
    row_id = openchat_context.upload(TEXT)

    def waits() -> None:
        assert openchat_context.again(row_id) == "waiting (scanner_unavailable)", fake
        job = openchat_context.job(row_id)
        assert (job.failures, job.verdict, job.outcome) == (0, None, None)
        openchat_context.assert_unserved(row_id)

    openchat_context.work(row_id)
    for fake.answer in NONSENSE:
        waits()
    fake.patience = 1
    waits()
    fake.patience, fake.answer = None, None
    openchat_context.platform.set(scan_timeout_seconds=0.3)
    waits()
    fake.version = b"PONG\n"
    waits()
    fake.version, fake.answer = VERSION, b"stream: OK\n"
    openchat_context.platform.set(scan_timeout_seconds=20)
    assert openchat_context.again(row_id) == "accepted"
    assert openchat_context.job(row_id).signature_version == "27000"


@dataclass(frozen=True)
class CarelessClamd(Clamd):
    """A scanner that fails open in one way, unless there is a file `mended`."""

    lapse: str = ""

    def _configuration(self) -> str:
        careful = super()._configuration()
        if (self.directory / "mended").exists():
            return careful
        option = self.lapse.split()[0]
        return "".join(
            f"{self.lapse}\n" if line.split()[0] == option else line for line in careful.splitlines(True)
        )


@pytest.mark.parametrize("lapse", ["AlertEncrypted no", "AlertExceedsMax no"])
def test_a_scanner_that_fails_open_is_not_believed_until_it_is_mended(
    openchat_context: AppContext, tmp_path: Path, lapse: str
) -> None:
    known = signatures.choose(tmp_path / "signatures", own_only=True)
    (tmp_path / "clamd").mkdir()
    clamd = ClamdServer(CarelessClamd(tmp_path / "clamd", known, 1_000_000, lapse))
    clamd.start()
    try:
        openchat_context.platform.set(clamd=clamd.address, max_file_bytes=1_000_000, attachment_attempts=1)
        row_ids = [openchat_context.upload(TEXT), openchat_context.upload(EICAR)]
        for row_id in row_ids * 2:
            assert openchat_context.again(row_id) == "waiting (scanner_misconfigured)"
            job = openchat_context.job(row_id)
            assert (job.failures, job.verdict, job.outcome) == (0, None, None)
            openchat_context.assert_unserved(row_id)
        error = openchat_context.row(row_ids[0]).processing_error
        assert error.startswith("scanner_misconfigured: The virus scanner calls ")
        clamd.stop()
        (tmp_path / "clamd" / "mended").touch()
        clamd.start()
        ends = [openchat_context.again(row_id) for row_id in row_ids]
        assert ends == ["accepted", "quarantined (malware)"]
    finally:
        clamd.stop()


# -- Stores that fail or lie --------------------------------------------------------------------------------

FAULTS = {
    "an error": Fault(("GET",), status=500),
    "silence": Fault(("GET",), hang=True),
    "an object cut off": Fault(("GET",), cut=0.5),
    "an object cut off at once": Fault(("GET",), cut=0),
    "an object shorter than it is said to be": Fault(("GET",), longer=10),
    "an object that is damaged": Fault(("GET",), corrupt=True),
    "an error after the object": Fault(("HEAD",), status=500),
    "an error for a picture": Fault(("PUT",), status=503, containing="derived/"),
    "an error for the second picture": Fault(("PUT",), status=500, containing="derived/", after=1),
    "silence for a picture": Fault(("PUT",), hang=True, containing="small"),
    "a picture that is damaged": Fault(("PUT",), corrupt_sent=True, containing="derived/"),
    "a picture that arrives without a word": Fault(("PUT",), unanswered=True, containing="derived/"),
    "an error for the original's headers": Fault(("PUT",), status=500, containing="uploads/"),
}


def test_a_store_that_fails_or_lies_costs_time_and_nothing_else(remote: Shelf, proxy: FaultProxy) -> None:
    row_id = remote.upload(PNG, "a.png", "image/png")
    for what, fault in FAULTS.items():
        with proxy.doing(fault):
            assert remote.again(row_id) == "waiting (store_unavailable)", what
        job = remote.job(row_id)
        assert (job.failures, job.outcome) == (0, None), what
        assert remote.row(row_id).processing_error.startswith("store_unavailable: the object"), what
        remote.assert_unserved_row(row_id)
        assert work_is_clear(remote), what
    assert remote.again(row_id) == "accepted"
    assert len(remote.pictures(row_id)) == 2
    # No half of anything, no second copy.
    assert len(remote.objects()) == 3
    assert remote.objects()[remote.key(row_id)] == PNG


def test_a_store_that_fails_when_a_refusal_is_concluded(remote: Shelf, proxy: FaultProxy) -> None:
    row_id = remote.upload(PNG, "a.html", "text/html")
    with proxy.doing(Fault(("DELETE",), status=500)):
        assert remote.work(row_id) == "waiting (store_unavailable)"
    remote.assert_unserved(row_id)
    assert remote.again(row_id) == "refused (type_mismatch)"
    infected = remote.upload(EICAR)
    for fault in (
        Fault(("PUT",), status=500, containing="quarantine/"),
        Fault(("PUT",), unanswered=True, containing="quarantine/"),
        Fault(("DELETE",), status=500, containing="uploads/"),
        Fault(("DELETE",), unanswered=True, containing="uploads/"),
    ):
        with proxy.doing(fault):
            assert remote.again(infected) == "waiting (store_unavailable)", fault
        assert remote.job(infected).outcome is None
        remote.assert_unserved(infected)
    assert remote.again(infected) == "quarantined (malware)"
    remote.assert_nothing_else_is_left()


def test_a_store_that_is_killed_in_any_phase_and_comes_back(
    remote: Shelf, proxy: FaultProxy, seaweedfs: SeaweedFSServer
) -> None:
    row_id, infected = remote.upload(PNG, "a.png", "image/png"), remote.upload(EICAR)
    for row, fault in (
        (row_id, Fault(("GET",), half_got=seaweedfs.kill)),
        (row_id, Fault(("PUT",), half_sent=seaweedfs.kill, containing="large")),
        (infected, Fault(("PUT",), before=seaweedfs.kill, containing="quarantine/")),
    ):
        with proxy.doing(fault):
            assert remote.again(row) == "waiting (store_unavailable)", fault
        # As long as it is away.
        assert remote.again(row) == "waiting (store_unavailable)", fault
        remote.assert_unserved_row(row)
        assert remote.job(row).failures == 0
        assert work_is_clear(remote)
        seaweedfs.start()
    # It answers before it can store again.
    eventually(lambda: remote.again(row_id) == "accepted", what="the file is served")
    assert len(remote.pictures(row_id)) == 2
    eventually(lambda: remote.again(infected) == "quarantined (malware)", what="the virus is moved")
    assert remote.quarantined(infected) == EICAR
    assert len(remote.objects()) == 3


# -- Disks that are full ------------------------------------------------------------------------------------


def test_a_file_waits_while_the_disk_is_full(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that is always full, in the place of the file that is fetched: no right to mount is needed."""
    shelf.platform.set(attachment_attempts=1)
    work = shelf.workplace()
    row_id = shelf.upload(TEXT)

    @contextmanager
    def full(parent: Path | None) -> Iterator[Path]:
        with workdir(parent) as folder:
            (folder / "content").symlink_to("/dev/full")
            yield folder

    with monkeypatch.context() as patched:
        patched.setattr("tasks.attachments.pipeline.workdir", full)
        for _ in range(3):
            assert shelf.again(row_id) == "waiting (disk_full)"
            assert list(work.iterdir()) == []
    job = shelf.job(row_id)
    assert (job.failures, job.outcome) == (0, None)
    assert shelf.row(row_id).processing_error == "disk_full: No space left on device"
    shelf.assert_unserved(row_id)
    assert shelf.again(row_id) == "accepted"


# -- Restarts of the database -------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [PNG, PNG + EICAR], ids=["clean", "infected"])
def test_a_database_that_restarts_in_each_phase(
    openchat_context: AppContext, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    openchat_context.platform.set(attachment_attempts=1, strip_originals="openchat")
    real, restarted = examine.AttemptContext.phase, []

    @contextmanager
    def phase(self: examine.AttemptContext, name: str) -> Iterator[dict[str, Any]]:
        with real(self, name) as detail:
            restarted.append(name)
            postgres.stop()
            postgres.start()
            yield detail

    row_id = openchat_context.upload(content, "a.png", "image/png")
    monkeypatch.setattr(examine.AttemptContext, "phase", phase)
    ends = [openchat_context.work(row_id)]
    while ends[-1] == "waiting (database_unavailable)" and len(ends) < 3:
        ends.append(openchat_context.again(row_id))
    assert ends[-1] == ("accepted" if content == PNG else "quarantined (malware)")
    assert {"fetch", "identify", "scan"} <= set(restarted)
    assert ({"strip", "draw", "store"} <= set(restarted)) is (content == PNG)
    assert openchat_context.job(row_id).failures == 0


def test_a_database_that_restarts_while_an_object_is_moved_into_quarantine(
    shelf: Shelf, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind: Any = LocalStore if shelf.provider == "local" else S3Store
    real = kind.quarantine

    def quarantine(self: Any, key: str, name: str) -> str:
        place: str = real(self, key, name)
        postgres.stop()
        postgres.start()
        return place

    row_id = shelf.upload(EICAR)
    with monkeypatch.context() as patched:
        patched.setattr(kind, "quarantine", quarantine)
        assert shelf.work(row_id) == "waiting (database_unavailable)"
    assert (shelf.job(row_id).failures, shelf.job(row_id).outcome) == (0, None)
    shelf.assert_unserved(row_id)
    assert shelf.again(row_id) == "quarantined (malware)"
    shelf.assert_nothing_else_is_left()


# -- Deaths -------------------------------------------------------------------------------------------------


def test_a_file_that_kills_while_it_is_stored_leaves_no_pictures_when_it_is_parked(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deaths of real processes are in `test_kills.py`."""
    kind: Any = LocalStore if shelf.provider == "local" else S3Store

    def publish(self: Any, *_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(kind, "publish", publish)
    row_id = shelf.upload(PNG, "a.png", "image/png")
    for attempt in (1, 2, 3):
        with pytest.raises(KeyboardInterrupt):
            shelf.again(row_id) if attempt > 1 else shelf.work(row_id)
        assert len(shelf.pictures(row_id)) == 2
        shelf.assert_unserved_row(row_id)
    assert shelf.again(row_id) == "failed (worker_lost)"
    shelf.assert_unserved(row_id)
    shelf.assert_nothing_else_is_left()
