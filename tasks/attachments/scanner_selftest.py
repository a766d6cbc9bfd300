"""Whether the scanner may be believed: asked once for each of its versions, and again from time to time."""

from time import monotonic

from tasks.attachments.errors import NotYetError
from workers import scanner_probes
from workers.scanner import Scanner, Version
from workers.settings import Settings

#: A scanner may be started anew with another configuration and the same signatures.
_SECONDS = 600
#: What this process has asked, and until when the answer counts. A fault is not remembered: a scanner that
#: was mended is believed at once.
_trusted: dict[tuple[str, Version, int], float] = {}


def check(scanner: Scanner, version: Version, settings: Settings) -> None:
    """Do nothing if the scanner can be trusted.

    Raises:
        NotYetError: it would call clean what it cannot look into; the sentence says what to change.
        ScannerUnavailable: it does not answer.
    """
    asked = scanner.address, version, settings.max_file_bytes
    if monotonic() < _trusted.get(asked, 0):
        return
    faults = scanner_probes.faults(scanner, settings)
    if faults:
        raise NotYetError("scanner_misconfigured", " ".join(fault.sentence for fault in faults))
    _trusted.clear()
    _trusted[asked] = monotonic() + _SECONDS
