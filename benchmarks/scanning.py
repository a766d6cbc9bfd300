"""Megabytes a second through our scanner client, beside the bare protocol and clamdscan on the same clamd.

    python -m benchmarks.scanning

Prints one line. 200 files of 1 MB and 5 of 100 MB, all different, random bytes; clamd with test signatures
(real ones are slower, for all) and `DisableCache yes`, for it would otherwise remember clean files. Each
contender takes the files one by one; they take turns, and the medians of the rounds count:

ours       `Scanner.scan_file`, by descriptor over the Unix socket
bare       a loop that does no more than FILDES over a new connection for each file
clamdscan  `clamdscan --fdpass`, a command for each file, as who scans uploads calls it
clamdscan*  the same, all files in one command
streamed   ours over TCP, INSTREAM
instream   the `clamd` package's own
"""

import array
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import clamd as package

from benchmarks import _harness as harness
from benchmarks._harness import Aim, Result, sized
from stack.ports import free_port
from stack.servers import signatures
from stack.servers.clamd import Clamd
from tests.servers import ClamdServer
from workers.scanner import Scanner

MB = 1_000_000
ROUNDS = sized(3, 1)
LARGE = sized(100, 2) * MB
#: How many files, of how many bytes.
SETS = {"small": (sized(200, 4), MB), "large": (sized(5, 1), LARGE)}
_LIMIT = 128 * 1024 * 1024

Contender = Callable[[Sequence[Path]], None]


@dataclass(frozen=True)
class _Uncached(Clamd):
    """clamd without its memory for clean files, on TCP too."""

    port: int = 0

    def _configuration(self) -> str:
        tcp = f"TCPSocket {self.port}\nTCPAddr 127.0.0.1\n"
        return super()._configuration() + "DisableCache yes\n" + tcp


def _roomkeeper(address: str) -> Contender:
    scanner = Scanner(address, 300)

    def scan(files: Sequence[Path]) -> None:
        for path in files:
            assert scanner.scan_file(path).signature is None

    return scan


def _bare(path_of_socket: Path) -> Contender:
    def scan(files: Sequence[Path]) -> None:
        for path in files:
            with socket.socket(socket.AF_UNIX) as client, path.open("rb") as file:
                client.connect(str(path_of_socket))
                client.sendall(b"zFILDES\0")
                descriptor = array.array("i", [file.fileno()])
                client.sendmsg([b"\0"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptor)])
                assert client.recv(256).endswith(b": OK\0")

    return scan


def _clamdscan(configuration: Path) -> dict[str, Contender]:
    """Return the command's two ways; none where it is missing."""
    program = shutil.which("clamdscan")
    if program is None:
        sys.stderr.write("scanning: clamdscan is missing (Debian's clamdscan): it is left out\n")
        return {}

    def scan(files: Sequence[Path]) -> None:
        for path in files:
            scan_together([path])

    def scan_together(files: Sequence[Path]) -> None:
        command = [program, "--fdpass", "--no-summary", f"--config-file={configuration}", *map(str, files)]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)

    return {"clamdscan": scan, "clamdscan*": scan_together}


def _instream(path_of_socket: Path) -> Contender:
    def scan(files: Sequence[Path]) -> None:
        for path in files:
            with path.open("rb") as file:
                answer = package.ClamdUnixSocket(str(path_of_socket), timeout=300).instream(file)
            assert answer["stream"][0] == "OK"

    return scan


def _grown(address: str, path: Path) -> float:
    """Return by how many MiB one file makes a process that scans it larger: measured in a new one."""
    child = os.fork()
    if child == 0:
        scanner = Scanner(address, 300)
        scanner.versions()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        scanner.scan_file(path)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        os._exit(min(grown // 1024, 255))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def measure() -> Result:
    """Have all scan the same files in turn; each must call all of them clean."""
    folder = Path(tempfile.mkdtemp(prefix="roomkeeper-benchmark-"))
    own = signatures.choose(folder / "signatures", own_only=True)
    server = ClamdServer(_Uncached(folder, own, _LIMIT, port=free_port()))
    server.start()
    try:
        unix, tcp = server.address, f"tcp://127.0.0.1:{server.server.port}"  # type: ignore[attr-defined]
        contenders = {
            "ours": _roomkeeper(unix),
            "bare": _bare(server.server.socket),
            **_clamdscan(folder / "clamd.conf"),
            "streamed": _roomkeeper(tcp),
            "instream": _instream(server.server.socket),
        }
        lines: list[str] = []
        aims: list[Aim] = []
        for name, (count, size) in SETS.items():
            files = [folder / f"{name}-{number}" for number in range(count)]
            for path in files:
                path.write_bytes(os.urandom(size))
            speeds: dict[str, list[float]] = {contender: [] for contender in contenders}
            for _ in range(ROUNDS):
                for contender, scan in contenders.items():
                    began = time.perf_counter()
                    scan(files)
                    speeds[contender].append(count * size / MB / (time.perf_counter() - began))
            middle = {contender: median(found) for contender, found in speeds.items()}
            shown = " ".join(f"{contender} {speed:.0f}" for contender, speed in middle.items())
            of_bare = middle["ours"] / middle["bare"]
            of_command = middle["ours"] / middle["clamdscan"] if "clamdscan" in middle else None
            lines.append(
                f"{count}×{size // MB}MB: {shown} MB/s (ours {of_bare:.2f} × bare"
                + (f", {of_command:.2f} × clamdscan)" if of_command else ")")
            )
            aims += [
                Aim(f"{name} files, times the bare protocol", of_bare, 0.9),
                Aim(f"{name} files, times clamdscan", of_command, 1.0),
            ]
            if size == LARGE:
                grown = _grown(unix, files[0]), _grown(tcp, files[0])
                lines.append(f"{size // MB} MB adds {grown[0]} MiB passed, {grown[1]} streamed")
                aims.append(Aim("memory for a large file, MiB", max(grown), 4, at_most=True))
            for path in files:
                path.unlink()
        return Result("scanning: " + "; ".join(lines), tuple(aims))
    finally:
        server.stop()
        shutil.rmtree(folder)


if __name__ == "__main__":
    harness.run(measure)
