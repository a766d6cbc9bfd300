"""What clamd looks for: the real signatures where this machine has them, or two harmless test ones."""

import os
from dataclasses import dataclass
from pathlib import Path

from workers.known_bad import EICAR

REAL = Path("/var/lib/clamav")

#: A text that only our scanner knows. Assembled when used, like `EICAR`.
TEST_MALWARE = "-".join(("ROOMKEEPER", "TEST", "MALWARE")).encode()

#: As clamd reports them, `.UNOFFICIAL` included: it marks what did not come from ClamAV.
EICAR_NAME = "Roomkeeper.Eicar-Test.UNOFFICIAL"
TEST_MALWARE_NAME = "Roomkeeper.Test-Malware.UNOFFICIAL"


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
    own.mkdir(parents=True, exist_ok=True)
    lines = (
        # Name, any file type, any offset, the bytes: found on its own, embedded, and inside archives.
        f"{name.removesuffix('.UNOFFICIAL')}:0:*:{text.hex()}\n"
        for name, text in ((EICAR_NAME, EICAR), (TEST_MALWARE_NAME, TEST_MALWARE))
    )
    (own / "roomkeeper.ndb").write_text("".join(lines), encoding="ascii")
    return Signatures(own, real=False)


def _readable(directory: Path) -> bool:
    """Say whether one of the two databases with most of ClamAV's signatures is there for us."""
    files = (directory / f"{name}.{kind}" for name in ("main", "daily") for kind in ("cvd", "cld"))
    return any(os.access(file, os.R_OK) for file in files)
