"""What clamd looks for: the real signatures where this machine has them, or two harmless test ones."""

import hashlib
import io
import os
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from workers.known_bad import EICAR

REAL = Path("/var/lib/clamav")

#: A text that only our scanner knows. Assembled when used, like `EICAR`.
TEST_MALWARE = "-".join(("ROOMKEEPER", "TEST", "MALWARE")).encode()

#: As clamd reports them, `.UNOFFICIAL` included: it marks what did not come from ClamAV.
EICAR_NAME = "Roomkeeper.Eicar-Test.UNOFFICIAL"
TEST_MALWARE_NAME = "Roomkeeper.Test-Malware.UNOFFICIAL"
#: Both, by name.
TESTS: Mapping[str, bytes] = {EICAR_NAME: EICAR, TEST_MALWARE_NAME: TEST_MALWARE}


_HEADER_BYTES = 512
_LINES = b"daily.ndb"


@dataclass(frozen=True)
class Signatures:
    """A directory of signatures."""

    directory: Path
    #: Whether they find real malware, not only the test texts.
    real: bool

    @property
    def warning(self) -> str | None:
        """What must be said aloud before anybody trusts a verdict; None where there is nothing to say."""
        if self.real:
            return None
        return (
            "The scanner knows only test signatures and finds no real malware; type: sudo freshclam, then "
            "start again."
        )


def choose(own: Path, *, own_only: bool = False, real: Path = REAL) -> Signatures:
    """Return the real signatures if they can be read, else those of the directory `own`, written anew.

    Args:
        own: a directory for the test signatures.
        own_only: do not look for real ones, so that each run is like the other.
        real: where the real ones would be.
    """
    if not own_only and _readable(real):
        return Signatures(real, real=True)
    write(own, TESTS)
    return Signatures(own, real=False)


def write(
    directory: Path,
    texts: Mapping[str, bytes],
    *,
    number: int | None = None,
    released: datetime | None = None,
) -> None:
    """Write signatures of texts, by name, as an unsigned daily database: as versioned and dated as real ones.

    Args:
        directory: made if it is missing; what it holds of an older database is replaced.
        texts: name as clamd is to report it → the bytes that are found anywhere in a file.
        number: the version; by default one that follows from the texts.
        released: the date that it bears; now by default.
    """
    # Name, any file type, any offset, the bytes: found on its own, embedded, and inside archives.
    lines = "".join(
        f"{name.removesuffix('.UNOFFICIAL')}:0:*:{text.hex()}\n" for name, text in texts.items()
    ).encode("ascii")
    moment = released or datetime.now(UTC)
    version = zlib.crc32(lines) % 1_000_000 + 1 if number is None else number
    head = (
        f"ClamAV-VDB:{moment:%d %b %Y %H-%M} +0000:{version}:{len(texts)}:90:X:X:roomkeeper:"
        f"{int(moment.timestamp())}"
    ).encode("ascii")
    info = b"%s\n%s:%d:%s\n" % (head, _LINES, len(lines), hashlib.sha256(lines).hexdigest().encode("ascii"))
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in ((b"daily.info", info), (_LINES, lines)):
            entry = tarfile.TarInfo(name.decode("ascii"))
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    directory.mkdir(parents=True, exist_ok=True)
    new = directory / "daily.new"
    # `.cud` is what clamd loads without ClamAV's own signature; `daily` is where it looks for the version.
    new.write_bytes(head.ljust(_HEADER_BYTES) + packed.getvalue())
    new.replace(directory / "daily.cud")


def _readable(directory: Path) -> bool:
    """Say whether one of the two databases with most of ClamAV's signatures is there for us."""
    files = (directory / f"{name}.{kind}" for name in ("main", "daily") for kind in ("cvd", "cld"))
    return any(os.access(file, os.R_OK) for file in files)
