"""The scanner's face: an answer of clamd's, or "not yet"; real ones first, then one that misbehaves."""

import io
import socket
import struct
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic

import pytest

from stack.ports import free_port
from stack.servers import signatures
from stack.servers.clamd import Clamd
from stack.servers.signatures import EICAR_NAME, TEST_MALWARE, TEST_MALWARE_NAME
from tasks.attachments.scan import Verdict, judge
from tests.servers import ClamdServer
from workers import scanner as module
from workers.known_bad import EICAR, encrypted_zip, nested_zip, zipped
from workers.scanner import Answer, Scanner, ScannerUnavailable, Version

MIB = 1024 * 1024
PATIENCE = 20.0


@dataclass(frozen=True)
class TcpClamd(Clamd):
    """A scanner that listens on TCP too, with small limits: it streams up to 2 MiB, looks into 8 MiB."""

    port: int = 0

    def _configuration(self) -> str:
        listen = f"TCPSocket {self.port}\nTCPAddr 127.0.0.1\nTCPAddr ::1\n"
        return super()._configuration() + listen


@pytest.fixture(scope="module")
def tcp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClamdServer]:
    folder = tmp_path_factory.mktemp("tcp-clamd")
    own = signatures.choose(folder / "signatures", own_only=True)
    server = ClamdServer(TcpClamd(folder, own, MIB, port=free_port()))
    server.start()
    yield server
    server.stop()


@pytest.fixture(params=["unix", "tcp", "tcp6"])
def address(request: pytest.FixtureRequest, tcp: ClamdServer) -> str:
    """The addresses of one and the same scanner."""
    assert isinstance(tcp.server, TcpClamd)
    return {
        "unix": tcp.address,
        "tcp": f"tcp://127.0.0.1:{tcp.server.port}",
        "tcp6": f"tcp://[::1]:{tcp.server.port}",
    }[request.param]


@pytest.fixture
def file(tmp_path: Path) -> Callable[[bytes], Path]:
    """Return a file with the content."""

    def make(content: bytes) -> Path:
        path = tmp_path / "content"
        path.write_bytes(content)
        return path

    return make


@contextmanager
def fake(behave: Callable[[socket.socket], None], backlog: int = 8) -> Iterator[str]:
    """Serve TCP, each connection by `behave` on a thread of its own; yield the address."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=backlog)
    threads = []

    def talk(client: socket.socket) -> None:
        with client, suppress(OSError):
            behave(client)

    def accept() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                threads.append(threading.Thread(target=talk, args=(client,)))
                threads[-1].start()

    acceptor = threading.Thread(target=accept)
    acceptor.start()
    try:
        yield f"tcp://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        acceptor.join()
        listener.close()
        for thread in threads:
            thread.join()


def stream_of(client: socket.socket) -> bytes:
    """Read one INSTREAM command; return the file."""
    with client.makefile("rb") as lines:
        assert lines.readline() == b"nINSTREAM\n"
        content = b""
        while size := struct.unpack("!I", lines.read(4))[0]:
            content += lines.read(size)
        return content


def answering(line: bytes) -> Callable[[socket.socket], None]:
    """Return a scanner that takes a whole file and says `line`."""

    def behave(client: socket.socket) -> None:
        stream_of(client)
        client.sendall(line)

    return behave


def until_hangup(client: socket.socket) -> None:
    """Take everything, answer nothing, until the other side gives up."""
    while client.recv(65536):
        pass


# -- Real ones ----------------------------------------------------------------------------------------------


def test_a_clean_file_has_no_signature(address: str, file: Callable[[bytes], Path]) -> None:
    for content in (b"sunshine", b"", bytes(MIB), zipped(b"nothing")):
        assert Scanner(address, PATIENCE).scan_file(file(content)) == Answer(None)


@pytest.mark.parametrize(("malware", "name"), [(EICAR, EICAR_NAME), (TEST_MALWARE, TEST_MALWARE_NAME)])
def test_what_is_found_is_named(
    address: str, file: Callable[[bytes], Path], malware: bytes, name: str
) -> None:
    # At the end of several chunks too: the whole file must have come across.
    for content in (malware, zipped(zipped(malware)), bytes(MIB) + malware):
        assert Scanner(address, PATIENCE).scan_file(file(content)) == Answer(name)


def test_one_scanner_scans_many_files(address: str, file: Callable[[bytes], Path]) -> None:
    scanner = Scanner(address, PATIENCE)
    assert scanner.scan_file(file(EICAR)).signature == EICAR_NAME
    assert scanner.scan_file(file(b"clean")).signature is None
    assert scanner.scan_file(file(EICAR)).signature == EICAR_NAME


def test_versions_are_asked_for(address: str) -> None:
    version = Scanner(address, PATIENCE).versions()
    assert version.engine[0].isdigit()
    assert version.signatures.isdigit()
    assert version.dated
    assert version.released is not None
    assert abs((datetime.now(UTC) - version.released).total_seconds()) < 86400


@pytest.mark.parametrize("content", [encrypted_zip(), nested_zip()], ids=["encrypted", "nested"])
def test_what_cannot_be_looked_into_is_suspicious(
    address: str, file: Callable[[bytes], Path], content: bytes
) -> None:
    assert judge(Scanner(address, PATIENCE).scan_file(file(content))).name == "suspicious"


def test_a_file_beyond_the_limit_is_suspicious_by_descriptor(
    tcp: ClamdServer, file: Callable[[bytes], Path]
) -> None:
    scanner = Scanner(tcp.address, PATIENCE)
    assert judge(scanner.scan_file(file(bytes(8 * MIB)))).name == "clean"
    verdict = judge(scanner.scan_file(file(bytes(8 * MIB + 1))))
    assert (verdict.name, verdict.reason) == ("suspicious", "limits_exceeded")


def test_a_file_beyond_the_limit_of_the_stream_gets_no_answer(
    tcp: ClamdServer, file: Callable[[bytes], Path]
) -> None:
    assert isinstance(tcp.server, TcpClamd)
    scanner = Scanner(f"tcp://127.0.0.1:{tcp.server.port}", PATIENCE)
    assert scanner.scan_file(file(bytes(2 * MIB))) == Answer(None)
    # One chunk more, and so much more that clamd hangs up while it is being sent.
    for size in (2 * MIB + 1, 16 * MIB):
        with pytest.raises(ScannerUnavailable, match="size limit exceeded"):
            scanner.scan_file(file(bytes(size)))


def test_malware_beside_what_is_encrypted_is_malware(address: str, file: Callable[[bytes], Path]) -> None:
    archive = io.BytesIO(encrypted_zip())
    with zipfile.ZipFile(archive, "a") as both:
        both.writestr("plain", EICAR)
    assert judge(Scanner(address, PATIENCE).scan_file(file(archive.getvalue()))).name == "infected"


@pytest.mark.parametrize(
    ("signature", "verdict"),
    [
        (None, Verdict("clean")),
        ("Win.Trojan.X", Verdict("infected", "malware", "Win.Trojan.X")),
        (EICAR_NAME, Verdict("infected", "malware", EICAR_NAME)),
        (
            "Heuristics.Encrypted.PDF",
            Verdict("suspicious", "encrypted_archive", "Heuristics.Encrypted.PDF"),
        ),
        (
            "Heuristics.Limits.Exceeded.MaxFileSize",
            Verdict("suspicious", "limits_exceeded", "Heuristics.Limits.Exceeded.MaxFileSize"),
        ),
        (
            "Heuristics.Phishing.Email.SpoofedDomain",
            Verdict("suspicious", "heuristics", "Heuristics.Phishing.Email.SpoofedDomain"),
        ),
    ],
)
def test_an_answer_is_judged(signature: str | None, verdict: Verdict) -> None:
    assert judge(Answer(signature)) == verdict


# -- Scanners that are away ---------------------------------------------------------------------------------


def test_a_scanner_that_is_not_there_is_unavailable(tmp_path: Path, file: Callable[[bytes], Path]) -> None:
    absent = tmp_path / "absent.sock"
    refusing = tmp_path / "refusing.sock"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(refusing))
    for address in (
        f"unix:{absent}",
        f"unix:{refusing}",
        f"unix:{file(b'a plain file')}",
        f"tcp://127.0.0.1:{free_port()}",
        f"tcp://[::1]:{free_port()}",
        "tcp://no-such-host.invalid:3310",
        "tcp://127.0.0.1:99999",
    ):
        with pytest.raises(ScannerUnavailable, match="clamd at"):
            Scanner(address, PATIENCE).scan_file(file(b"x"))
        with pytest.raises(ScannerUnavailable, match="clamd at"):
            Scanner(address, PATIENCE).versions()


@pytest.mark.parametrize("method", ["stop", "kill"])
def test_a_scanner_that_went_away_comes_back(
    clamd: ClamdServer, file: Callable[[bytes], Path], method: str
) -> None:
    getattr(clamd, method)()
    with pytest.raises(ScannerUnavailable):
        Scanner(clamd.address, PATIENCE).scan_file(file(b"x"))
    clamd.start()
    assert Scanner(clamd.address, PATIENCE).scan_file(file(EICAR)).signature == EICAR_NAME


def test_a_frozen_scanner_is_given_up(clamd: ClamdServer, file: Callable[[bytes], Path]) -> None:
    clamd.freeze()
    with pytest.raises(ScannerUnavailable, match="timed out"):
        Scanner(clamd.address, 0.3).scan_file(file(b"x"))
    with pytest.raises(ScannerUnavailable, match="timed out"):
        Scanner(clamd.address, 0.3).versions()


def test_connecting_has_a_limit_of_its_own(
    file: Callable[[bytes], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CONNECT_TIMEOUT_SECONDS", 0.3)
    # A queue of connections that is full: the kernel answers no further one.
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        address = listener.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        try:
            for client in waiting:
                client.setblocking(False)
                client.connect_ex(address)
            began = monotonic()
            with pytest.raises(ScannerUnavailable, match="timed out"):
                Scanner(f"tcp://127.0.0.1:{address[1]}", 600).scan_file(file(b"x"))
            assert monotonic() - began < 5
        finally:
            for client in waiting:
                client.close()


# -- Scanners that misbehave --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"\0",
        b"OK\n",
        b"FOUND\n",
        b"stream:\n",
        b"stream: O",
        b"stream: ok\n",
        b"stream: OK OK\n",
        b"stream: OK ERROR\n",
        b"stream: FOUND\n",
        b"stream: two words FOUND\n",
        b"stream: Eicar FOUN",
        b"stream: Can't allocate memory ERROR\n",
        b"INSTREAM size limit exceeded. ERROR\n",
        b"UNKNOWN COMMAND\n",
        b"COMMAND READ TIMED OUT\n",
        b"\xff\xfe\xfd\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"x" * 100_000,
    ],
    ids=lambda line: repr(line[:30]),
)
def test_only_two_kinds_of_answer_are_answers(line: bytes, file: Callable[[bytes], Path]) -> None:
    with fake(answering(line)) as address, pytest.raises(ScannerUnavailable):
        Scanner(address, PATIENCE).scan_file(file(b"x"))


def test_the_two_kinds_of_answer_are_understood(file: Callable[[bytes], Path]) -> None:
    for line, answer in (
        (b"stream: OK\n", Answer(None)),
        (b"stream: Win.Test.EICAR_HDB-1 FOUND\n", Answer("Win.Test.EICAR_HDB-1")),
        (b"stream: A FOUND\nstream: OK\n", Answer("A")),
    ):
        with fake(answering(line)) as address:
            assert Scanner(address, PATIENCE).scan_file(file(b"x")) == answer


def test_the_file_is_streamed_whole(file: Callable[[bytes], Path]) -> None:
    content = bytes(range(256)) * 4099
    seen = []

    def behave(client: socket.socket) -> None:
        seen.append(stream_of(client))
        client.sendall(b"stream: OK\n")

    with fake(behave) as address:
        Scanner(address, PATIENCE).scan_file(file(content))
    assert seen == [content]


def test_a_scanner_that_never_answers_is_given_up(file: Callable[[bytes], Path]) -> None:
    with fake(until_hangup) as address:
        with pytest.raises(ScannerUnavailable, match="timed out"):
            Scanner(address, 0.3).scan_file(file(b"x"))
        with pytest.raises(ScannerUnavailable, match="timed out"):
            Scanner(address, 0.3).versions()


def test_a_scanner_that_stops_reading_is_given_up(file: Callable[[bytes], Path]) -> None:
    over = threading.Event()

    def behave(client: socket.socket) -> None:
        over.wait(PATIENCE)

    with fake(behave) as address:
        try:
            with pytest.raises(ScannerUnavailable, match="timed out"):
                Scanner(address, 0.3).scan_file(file(bytes(16 * MIB)))
        finally:
            over.set()


@pytest.mark.parametrize("reset", [False, True], ids=["hangs up", "resets"])
@pytest.mark.parametrize("after", [0, 1, 300_000])
def test_a_scanner_that_dies_in_the_stream_has_not_answered(
    after: int, reset: bool, file: Callable[[bytes], Path]
) -> None:
    def behave(client: socket.socket) -> None:
        taken = 0
        while taken < after:
            taken += len(client.recv(min(65536, after - taken)))
        if reset:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with fake(behave) as address, pytest.raises(ScannerUnavailable):
        Scanner(address, PATIENCE).scan_file(file(bytes(4 * MIB)))


def test_a_scanner_that_dies_after_the_stream_has_not_answered(file: Callable[[bytes], Path]) -> None:
    def behave(client: socket.socket) -> None:
        stream_of(client)

    with fake(behave) as address, pytest.raises(ScannerUnavailable):
        Scanner(address, PATIENCE).scan_file(file(b"x"))


def test_a_file_that_is_gone_is_not_clean(address: str, tmp_path: Path) -> None:
    with pytest.raises(ScannerUnavailable):
        Scanner(address, PATIENCE).scan_file(tmp_path / "gone")


@pytest.mark.parametrize(
    ("line", "version"),
    [
        (
            b"ClamAV 1.4.6/27000/Mon Jan  1 00:00:00 2024\n",
            Version("1.4.6", "27000", datetime(2024, 1, 1, tzinfo=UTC)),
        ),
        (b"ClamAV 1.4.6/27000/yesterday\n", Version("1.4.6", "27000")),
        (b"ClamAV 1.4.6/27000\n", Version("1.4.6", "27000")),
        (b"ClamAV 1.4.6\n", Version("1.4.6", "local")),
        (b"", None),
        (b"\n", None),
        (b"UNKNOWN COMMAND\n", None),
        (b"SSH-2.0-OpenSSH\n", None),
        (b"\xff\n", None),
    ],
)
def test_a_version_is_understood_or_refused(line: bytes, version: Version | None) -> None:
    def behave(client: socket.socket) -> None:
        assert client.recv(100) == b"nVERSION\n"
        client.sendall(line)

    with fake(behave) as address:
        if version:
            assert Scanner(address, PATIENCE).versions() == version
        else:
            with pytest.raises(ScannerUnavailable):
                Scanner(address, PATIENCE).versions()
