"""The scanner's answer as a verdict."""

from dataclasses import dataclass
from pathlib import Path

from tasks.attachments.content import opened
from workers.scanner import Answer, Scanner

#: Names that clamd gives to what it could not look into, and to what only looks bad. It would call the former
#: clean if it were not told to alert (`AlertExceedsMax`, `AlertEncrypted`); they are not infected either. The
#: first that fits counts.
SUSPICIONS = {
    "Heuristics.Limits.Exceeded": "limits_exceeded",
    "Heuristics.Encrypted": "encrypted_archive",
    "Heuristics.": "heuristics",
}

#: The reason of an infected file.
INFECTED = "malware"


@dataclass(frozen=True, slots=True)
class Verdict:
    """`clean`, `infected` or `suspicious`, with a reason for machines where it is not clean."""

    name: str
    reason: str | None = None
    signature: str | None = None


def copied(content: Path) -> bool:
    """Return whether `identify.inspect` has left an open copy beside a file."""
    return content.with_name(opened.NAME).is_file()


def scanned(scanner: Scanner, content: Path) -> Verdict:
    """Return the verdict on a file, and on its open copy, if `identify.inspect` has left one beside it.

    Raises:
        ScannerUnavailable: no answer.
    """
    verdict = judge(scanner.scan_file(content))
    if not copied(content) or verdict.name == "infected":
        return verdict
    inner = judge(scanner.scan_file(content.with_name(opened.NAME)))
    # The scanner could not open what the copy shows it.
    locked = verdict.reason == "encrypted_archive"
    return inner if locked or verdict.name == "clean" else verdict


def judge(answer: Answer) -> Verdict:
    """Return the verdict for clamd's answer."""
    if answer.signature is None:
        return Verdict("clean")
    for prefix, reason in SUSPICIONS.items():
        if answer.signature.startswith(prefix):
            return Verdict("suspicious", reason, answer.signature)
    return Verdict("infected", INFECTED, answer.signature)
