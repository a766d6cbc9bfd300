"""The virus scanner: our own face on the `clamd` package.

The package gets the protocol right and the failures wrong: no time-out while connecting, IPv4 only, `None`
for a scanner that died after the upload, a bare BrokenPipeError past a size limit. Here there are two kinds
of end: an answer (`OK` or `FOUND`), or `ScannerUnavailable`, which means "not yet" and never "clean".
"""

import array
import re
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from workers.storage.base import CHUNK_BYTES

# For its version number alone the package imports pkg_resources, if it is there: 0.1 s of CPU each start.
_absent = "pkg_resources" not in sys.modules and not sys.modules.setdefault("pkg_resources", cast(Any, None))
import clamd  # noqa: E402

if _absent:
    del sys.modules["pkg_resources"]

#: Connecting to a scanner on this host or network takes milliseconds; the rest is for the scan.
CONNECT_TIMEOUT_SECONDS = 5.0


#: What stands for the number of signatures that have none.
UNVERSIONED = "local"


class ScannerUnavailable(Exception):
    """The scanner gave no answer. The file waits."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the scanner said of one file; `signature` names what was found, None for nothing."""

    signature: str | None


@dataclass(frozen=True, slots=True)
class Version:
    """The engine and its signatures.

    Attributes:
        engine: ClamAV's version.
        signatures: the number of the daily signatures; `local` for a database that has none.
        released: when those were made, by their own account; None for a database that does not say.
    """

    engine: str
    signatures: str
    released: datetime | None = None

    @property
    def dated(self) -> bool:
        """Whether new signatures can be told from old ones."""
        return self.signatures != UNVERSIONED


class Scanner(clamd.ClamdNetworkSocket):  # type: ignore[misc]  # the package has no types
    """A clamd at `unix:/path` or `tcp://host:port`.

    On a socket of this host the open file itself is passed (FILDES): no copy, no stream limit, and clamd
    needs no right to the directory. Elsewhere it is streamed.
    """

    def __init__(self, address: str, timeout: float) -> None:
        self.address = address
        self.timeout = timeout
        self.unix = address.removeprefix("unix:") if address.startswith("unix:") else None

    def _init_socket(self) -> None:
        if self.unix is not None:
            self.clamd_socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.clamd_socket.settimeout(CONNECT_TIMEOUT_SECONDS)
            try:
                self.clamd_socket.connect(self.unix)
            except OSError:
                self.clamd_socket.close()
                raise
        else:
            host, _, port = self.address.removeprefix("tcp://").rpartition(":")
            self.clamd_socket = socket.create_connection(
                (host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT_SECONDS
            )
        self.clamd_socket.settimeout(self.timeout)

    def scan_file(self, path: Path) -> Answer:
        """Scan the file.

        Raises:
            ScannerUnavailable: no answer, an error, or nonsense.
        """
        try:
            self._init_socket()
            try:
                line = self._by_descriptor(path) if self.unix is not None else self._streamed(path)
            finally:
                self.clamd_socket.close()
        except (OSError, clamd.ClamdError, UnicodeDecodeError) as error:
            raise ScannerUnavailable(f"clamd at {self.address}: {error}") from error
        return _answer(line)

    def versions(self) -> Version:
        """Ask for the engine's and the signatures' version.

        Raises:
            ScannerUnavailable: no answer.
        """
        try:
            line = self._ask("VERSION")
        except (OSError, clamd.ClamdError, UnicodeDecodeError) as error:
            raise ScannerUnavailable(f"clamd at {self.address}: {error}") from error
        parts = line.split("/")
        if not parts[0].startswith("ClamAV ") or not line.isprintable():
            raise ScannerUnavailable(f"clamd at {self.address} gave no version but {line[:80]!r}")
        engine = parts[0].removeprefix("ClamAV ")
        if len(parts) == 1:
            return Version(engine, UNVERSIONED)
        return Version(engine, parts[1], _moment(parts[2]) if len(parts) > 2 else None)

    def _ask(self, command: str) -> str:
        self._init_socket()
        try:
            self._send_command(command)
            return str(self._recv_response())
        finally:
            self.clamd_socket.close()

    def _by_descriptor(self, path: Path) -> str:
        with path.open("rb") as file:
            self._send_command("FILDES")
            descriptor = array.array("i", [file.fileno()])
            self.clamd_socket.sendmsg([b"\0"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptor)])
            return str(self._recv_response())

    def _streamed(self, path: Path) -> str:
        self._send_command("INSTREAM")
        # Past its size limit clamd answers and hangs up: the answer is there to be read all the same.
        with suppress(BrokenPipeError, ConnectionResetError), path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                self.clamd_socket.sendall(len(chunk).to_bytes(4) + chunk)
            self.clamd_socket.sendall(bytes(4))
        return str(self._recv_response())


def _moment(text: str) -> datetime | None:
    """Read a date as clamd prints it, `Sat Nov 21 06:00:00 2026`; it is in the time zone of clamd's host."""
    try:
        # Hours do not matter: signatures are too old after days.
        return datetime.strptime(text.strip(), "%a %b %d %H:%M:%S %Y").replace(tzinfo=UTC)
    except ValueError:
        return None


_ANSWER = re.compile(r"[^:]+: (?:(?P<signature>[!-~]+) FOUND|OK)")


def _answer(line: str) -> Answer:
    match = _ANSWER.fullmatch(line)
    if not match:
        # An empty line is a clamd that died; an ERROR is none of our two answers either.
        raise ScannerUnavailable(f"clamd answered {line[:120]!r}")
    return Answer(match["signature"])
