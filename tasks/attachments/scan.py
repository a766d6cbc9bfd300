"""The scanner's answer as a verdict."""

from dataclasses import dataclass

from workers.scanner import Answer

#: Names that clamd gives to what it could not look into. It would call these files clean if it were not
#: told to alert (`AlertExceedsMax`, `AlertEncrypted`); they are not infected either.
SUSPICIONS = {
    "Heuristics.Limits.Exceeded": "limits_exceeded",
    "Heuristics.Encrypted": "encrypted_archive",
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """`clean`, `infected` or `suspicious`, with a reason for machines where it is not clean."""

    name: str
    reason: str | None = None
    signature: str | None = None


def judge(answer: Answer) -> Verdict:
    """Return the verdict for clamd's answer."""
    if answer.signature is None:
        return Verdict("clean")
    for prefix, reason in SUSPICIONS.items():
        if answer.signature.startswith(prefix):
            return Verdict("suspicious", reason, answer.signature)
    return Verdict("infected", "malware", answer.signature)
