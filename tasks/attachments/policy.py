"""Which content may call itself what, and what is done with content of which trait.

Two tables of `tasks/policies` decide: one record per family of types (`media_types.py`), one per trait
(`traits.py`). Content is what was found by the bytes; a claim is the declared type, or what the file name's
extension stands for. A claim agrees with content of its own type, or of its own family where the family
allows it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from tasks.attachments import names
from tasks.attachments.content.finding import Content
from tasks.policies.attachment import Rules
from tasks.policies.media_types import (
    ACTIVE,
    ALSO_TEXT,
    ELUSIVE,
    GENERIC,
    MEDIA,
    PROGRAM,
    TEXT,
    family,
    fits,
    implied,
    normal,
    risk,
)
from tasks.policies.raw_photos import RAW, raw_photo
from tasks.policies.traits import TRAITS

__all__ = ["DRAWN", "Decision", "Kind", "decide", "normal"]

#: What pictures are made of what.
Kind = Literal["picture", "raw", "document", "video", "audio"]
#: The types that pictures are made of; those of the family of films and sounds are drawn by their family.
DRAWN: Mapping[str, Kind] = MappingProxyType(
    {
        "image/jpeg": "picture",
        "image/png": "picture",
        "image/gif": "picture",
        "image/webp": "picture",
        "image/avif": "picture",
        "image/bmp": "picture",
        "image/tiff": "picture",
        "image/heic": "picture",
        "image/heif": "picture",
        "image/heic-sequence": "picture",
        "image/heif-sequence": "picture",
        "image/apng": "picture",
        "application/pdf": "document",
    }
)
#: Traits by which a document is as much at risk as a program.
_RISKY = frozenset({"macros", "external_template"})


@dataclass(frozen=True, slots=True)
class Decision:
    """What the policy says of one file.

    Attributes:
        media_type: what the row's type should be.
        reason: why it is refused, for machines; None when it is accepted.
        detail: the same for people.
        verdict: 'suspicious', where the refusal is one; None where the scanner's word stands.
        draw: as what pictures are to be made of it; None for no pictures.
        findings: the names of its traits, those that are accepted too.
        risk: how soon it is scanned again when there are new signatures, 3 first, 0 last.
    """

    media_type: str
    reason: str | None = None
    detail: str | None = None
    verdict: Literal["suspicious"] | None = None
    draw: Kind | None = None
    findings: tuple[str, ...] = ()
    risk: int = 0


@dataclass(frozen=True, slots=True)
class _Refusal:
    """Why a file is refused; `suspicious` refusals count before the others, and then in their order."""

    reason: str
    detail: str
    suspicious: bool = False


def decide(content: Content, declared: str, name: str, rules: Rules | None = None) -> Decision:
    """Decide on a file by what its content is, what its uploader declared and what it is called."""
    actual, declared, named = normal(content.media_type), normal(declared), implied(name)
    actual = raw_photo(actual, declared, named) or actual
    findings = tuple(finding.name for finding in content.traits)
    danger = 3 if _RISKY & set(findings) else risk(actual)
    rules = rules or Rules()
    mismatch = _mismatch(actual, declared, named)
    kept = actual if mismatch else _best(actual, declared, named)
    refusals = [*_by_traits(content, rules), *_by_name(name), *_by_rules(actual, kept, rules)]
    if mismatch:
        refusals.insert(0, mismatch)
    if refusals:
        worst = next((refusal for refusal in refusals if refusal.suspicious), refusals[0])
        return Decision(
            kept,
            worst.reason,
            worst.detail,
            "suspicious" if worst.suspicious else None,
            findings=findings,
            risk=danger,
        )
    return Decision(kept, draw=_drawn(actual, kept), findings=findings, risk=danger)


def _mismatch(content: str, declared: str, named: str) -> _Refusal | None:
    if not _agrees(declared, content):
        return _Refusal("type_mismatch", f"declared as {declared[:80]}, but the content is {content}")
    if not _agrees(named, content):
        return _Refusal("name_mismatch", f"named like {named}, but the content is {content}")
    return None


def _by_traits(content: Content, rules: Rules) -> Iterator[_Refusal]:
    found = {finding.name: finding.detail for finding in content.traits}
    for trait in TRAITS:
        action = rules.actions.get(trait.name, trait.action)
        if trait.name in found and action != "accept":
            yield _Refusal(trait.name, f"{trait.says}: {found[trait.name]}", action == "suspicious")


def _by_name(name: str) -> Iterator[_Refusal]:
    if trick := names.deceives(name):
        yield _Refusal("unsafe_name", f"a program whose name {trick}")


def _by_rules(content: str, kept: str, rules: Rules) -> Iterator[_Refusal]:
    # Both: what the content is, and what it is served as.
    if fits(content, rules.refuse) or fits(kept, rules.refuse):
        yield _Refusal("not_allowed", f"the application refuses {kept}")
    elif rules.allow is not None and not fits(kept, rules.allow):
        yield _Refusal("not_allowed", f"the application does not accept {kept}")


def _drawn(content: str, kept: str) -> Kind | None:
    if fits(kept, RAW):
        return "raw"
    if content in DRAWN:
        return DRAWN[content]
    if MEDIA.has(content):
        # The containers of film and sound are the same, and who records a voice says so.
        return "audio" if kept.startswith("audio/") else "video"
    return None


def media_claim(content: str, declared: str, name: str) -> str | None:
    """Return the type of film or sound that a file claims to be, where libmagic does not know its content.

    Then the decoder is to be asked (`drawing/container.py`): brands, containers and what precedes the first
    box are many. Content of a known kind is never asked about: a program is no film.
    """
    content = normal(content)
    if content not in GENERIC and family(content) is not None:
        return None
    claims = (normal(declared), implied(name))
    return next((claim for claim in claims if MEDIA.has(claim)), None)


def _agrees(claim: str, content: str) -> bool:
    if claim in GENERIC or claim == content:
        return True
    kind, claimed = family(content), family(claim)
    if kind is None:
        # Where neither is one of ours, libmagic's name and the world's may differ. Content that it does not
        # know may be the uploader's own format, but not one that it would have known.
        return claimed is None or (content in GENERIC and claim in ELUSIVE)
    if kind is TEXT:
        # Any text can be a format of its own, and a script or a page looks like any text.
        return claimed in (None, TEXT, ACTIVE) or claim in ALSO_TEXT or _script(claim)
    if content == "application/zip" and (claimed is None or claim == "application/java-archive"):
        return True
    return kind.lenient and claimed is kind


def _script(claim: str) -> bool:
    return claim.startswith("text/") and PROGRAM.has(claim)


def _best(content: str, declared: str, named: str) -> str:
    """Return the type to keep, of three that agree."""
    kind = family(content)
    if declared not in GENERIC and not (kind is TEXT and declared in ALSO_TEXT):
        return content if kind is not None and kind.correct else declared
    if content in GENERIC:
        return declared
    if kind is not None and not kind.correct and family(named) is kind:
        return named
    # libmagic takes TypeScript for Java.
    return "text/plain" if kind is TEXT and content.startswith("text/x-") else content
