"""clamd, the virus scanner, from the operating system, with a configuration that fails closed."""

import filecmp
import os
import shutil
import signal
import socket
from dataclasses import dataclass
from pathlib import Path

from stack.errors import StackError
from stack.processes import RunCommand, bound, run
from stack.servers.signatures import Signatures
from stack.sockets import socket_path

MIB = 1024 * 1024
#: clamd counts a little more than the file's own bytes, and reads 2 GiB and over as wrong.
_HEADROOM = MIB
_LARGEST = 2**31 - 1
#: Not in everybody's PATH, but where Debian and others put it.
_SYSTEM_DIRECTORIES = ("/usr/sbin", "/usr/local/sbin")


def system_binary() -> Path:
    """Return the installed clamd.

    Raises:
        StackError: it is not installed; the message says what to type.
    """
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), *_SYSTEM_DIRECTORIES))
    found = shutil.which("clamd", path=path)
    if found is None:
        raise StackError("The virus scanner is missing; type: sudo apt-get install clamav-daemon")
    return Path(found)


@dataclass(frozen=True)
class Clamd:
    """A scanner on a Unix socket, which is how a file can be handed over as a descriptor, without copying."""

    directory: Path
    signatures: Signatures
    #: The largest file that must be scanned whole, in bytes.
    max_file_bytes: int

    name = "clamd"
    stop_signal = signal.SIGTERM

    @property
    def address(self) -> str:
        """As `Settings.clamd` wants it."""
        return f"unix:{self.socket}"

    @property
    def socket(self) -> Path:
        """The socket's path, short enough for the kernel."""
        return socket_path(self.directory, "clamd.sock")

    @property
    def command(self) -> tuple[str, ...]:
        """See `Server`."""
        return (*bound(self.stop_signal), str(self._binary), f"--config-file={self._config}")

    def prepare(self, run: RunCommand = run) -> None:  # noqa: ARG002 - nothing needs to be run
        """See `Server`."""
        installed = system_binary()
        if self.max_file_bytes + _HEADROOM > _LARGEST:
            raise StackError(
                f"ROOMKEEPER_MAX_FILE_BYTES is more than clamd can scan, {_LARGEST - _HEADROOM} bytes."
            )
        self._temporary.mkdir(parents=True, exist_ok=True)
        # Debian's AppArmor profile goes by the path /usr/sbin/clamd and keeps it out of our directories; a
        # copy is not confined, and needs no change to the machine.
        if not (self._binary.exists() and filecmp.cmp(installed, self._binary)):
            # Renamed when it is whole, its mode included.
            fresh = self._binary.with_name("clamd.new")
            shutil.copy2(installed, fresh)
            fresh.replace(self._binary)
        self._config.write_text(self._configuration(), encoding="utf-8")

    def ready(self) -> bool:
        """See `Server`."""
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(1)
                client.connect(str(self.socket))
                client.sendall(b"zPING\0")
                return client.recv(16) == b"PONG\0"
        except OSError:
            return False

    def _configuration(self) -> str:
        limit = self.max_file_bytes + _HEADROOM
        unpacked = min(4 * limit, _LARGEST)
        options = {
            # To the standard output, which its parent process keeps; no second log file, no process id file.
            "Foreground": "yes",
            "LogTime": "yes",
            "LocalSocket": self.socket,
            "LocalSocketMode": "600",
            "FixStaleSocket": "yes",
            "DatabaseDirectory": self.signatures.directory.resolve(),
            "TemporaryDirectory": self._temporary.resolve(),
            # Without these two clamd says OK to what it could not look into.
            "AlertExceedsMax": "yes",
            "AlertEncrypted": "yes",
            # Upload limit ≤ stream ≤ file ≤ scan: any other order lets a part of a file through unseen. An
            # archive may hold several times its own size before it is called too large to judge. The last
            # two are the same because a zip's member beyond MaxFileSize alone is skipped, and the zip said
            # to be OK; beyond MaxScanSize as well, it is reported (unless it is 2 GiB or more).
            "StreamMaxLength": limit,
            "MaxFileSize": unpacked,
            "MaxScanSize": unpacked,
            "ReadTimeout": "120",
            # The old and the new signatures together would take twice the memory.
            "ConcurrentDatabaseReload": "no",
            # Such a reload waits for idle threads, too: by default it does not answer for 30 s.
            "IdleTimeout": "1",
            "SelfCheck": "3600",
            # To hash a picture clamd decodes it, whatever its size: a PNG of 50 KB and 400 megapixels kept a
            # thread for 20 s.
            "ScanImageFuzzyHash": "no",
            # Half a scanner is worse than none: it ends, and is started again.
            "ExitOnOOM": "yes",
        }
        return "".join(f"{name} {value}\n" for name, value in options.items())

    @property
    def _binary(self) -> Path:
        return self.directory.resolve() / "clamd"

    @property
    def _config(self) -> Path:
        return self.directory.resolve() / "clamd.conf"

    @property
    def _temporary(self) -> Path:
        return self.directory / "tmp"
