"""Asks a virus scanner whether it can be trusted: it is handed files, its configuration is not read.

clamd fails open by default: past its limits, and before an encrypted archive, it says OK. No verdict of a
scanner counts that has not passed these probes.
"""

from collections.abc import Callable
from pathlib import Path

from workers.inspection import Fault
from workers.known_bad import EICAR, encrypted_zip, nested_zip
from workers.scanner import Scanner, ScannerUnavailable
from workers.settings import Settings, variable
from workers.workdir import workdir


def faults(clamd: Scanner, settings: Settings) -> list[Fault]:
    """Return what is wrong with the scanner's set-up; nothing if its verdicts can be believed.

    Raises:
        ScannerUnavailable: it does not answer.
    """
    with workdir(settings.work_root) as folder:
        return [fault for probe in _PROBES for fault in probe(clamd, folder, settings)]


def _finds_eicar(clamd: Scanner, folder: Path, _settings: Settings) -> list[Fault]:
    path = folder / "eicar"
    path.write_bytes(EICAR)
    found = clamd.scan_file(path).signature
    if found and not found.startswith("Heuristics."):
        return []
    return [
        Fault("The virus scanner does not find the EICAR test file.", "Give it signatures: run freshclam.")
    ]


def _alerts_on_limits(clamd: Scanner, folder: Path, settings: Settings) -> list[Fault]:
    path = folder / "nested.zip"
    path.write_bytes(nested_zip())
    if clamd.scan_file(path).signature is None:
        return [
            Fault(
                "The virus scanner calls clean what goes beyond its limits.",
                "Set in clamd.conf: AlertExceedsMax yes",
            )
        ]
    # Only a scanner that alerts can be asked whether the largest upload is within its limits. The file
    # has a hole for content: it takes no disk.
    path = folder / "largest"
    with path.open("wb") as file:
        file.truncate(settings.max_file_bytes)
    fits = f"StreamMaxLength, MaxFileSize and MaxScanSize of clamd must be at least {settings.max_file_bytes}"
    advice = f"{fits} bytes, or {variable('max_file_bytes')} smaller."
    try:
        largest = clamd.scan_file(path).signature
    except ScannerUnavailable as error:
        if "size limit" not in str(error):
            # It has said nothing, for another reason.
            raise
        return [
            Fault(f"The virus scanner does not take the largest upload that is allowed: {error}.", advice)
        ]
    if largest is None:
        return []
    return [Fault("The largest upload that is allowed is beyond the virus scanner's limits.", advice)]


def _alerts_on_encryption(clamd: Scanner, folder: Path, _settings: Settings) -> list[Fault]:
    path = folder / "encrypted.zip"
    path.write_bytes(encrypted_zip())
    if clamd.scan_file(path).signature:
        return []
    return [
        Fault("The virus scanner calls encrypted archives clean.", "Set in clamd.conf: AlertEncrypted yes")
    ]


_PROBES: tuple[Callable[[Scanner, Path, Settings], list[Fault]], ...] = (
    _finds_eicar,
    _alerts_on_limits,
    _alerts_on_encryption,
)
