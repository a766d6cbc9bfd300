"""Which content may call itself what, and what is done with content of which trait.

Two tables of `tasks/policies` decide: one record per family of types (`media_types.py`), one per trait
(`traits.py`). Content is what was found by the bytes; a claim is the declared type, or what the file name's
extension stands for. A claim agrees with content of its own type, or of its own family where the family
allows it.

A claim that does not agree is refused in two cases only. The content is a program, a package or active, and
the claim hides that; or the claim is a program or active, and the content is something else, which a system
would run by its name. Any other false claim does no harm: it is ignored, and the file is kept as what it is.
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
    CONTAINER,
    ELF,
    FONT,
    GENERIC,
    HARMLESS,
    MEDIA,
    PACKAGE,
    PAGE,
    PICTURE,
    PROGRAM,
    SCRIPTS,
    TEXT,
    UNMISTAKABLE,
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
_RISKY = frozenset({"macros", "external_template", "allowed_template"})


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
    mismatch = _mismatch(actual, declared, named, name)
    kept = actual if mismatch else _best(actual, declared, named)
    refusals = [*_by_traits(content, rules), *_by_name(name, actual), *_by_rules(actual, kept, rules)]
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


def _mismatch(content: str, declared: str, named: str, name: str) -> _Refusal | None:
    if _hides(declared, content):
        return _Refusal("type_mismatch", f"declared as {declared[:80]}, but the content is {content}")
    if _hides(named, content) and not (names.site(name) and _harmless(content, declared)):
        return _Refusal("name_mismatch", f"named like {named}, but the content is {content}")
    return None


def _hides(claim: str, content: str) -> bool:
    """Return whether the claim hides what the content would do, or would have it done by its name."""
    if claim in GENERIC or _agrees(claim, content):
        return False
    if content == "application/gzip" and claim == "image/svg+xml":
        # `.svgz`, which a browser would show only if it were sent as SVG, unpacked on the way.
        return False
    return family(content) in (PROGRAM, PACKAGE, ACTIVE) or family(claim) in (PROGRAM, ACTIVE)


def _harmless(content: str, declared: str) -> bool:
    """Return whether content and declaration agree on a type that does no harm, whatever it is called."""
    return declared not in GENERIC and family(content) in HARMLESS and _agrees(declared, content)


def _by_traits(content: Content, rules: Rules) -> Iterator[_Refusal]:
    found = {finding.name: finding.detail for finding in content.traits}
    for trait in TRAITS:
        action = rules.actions.get(trait.name, trait.action)
        if trait.name in found and action != "accept":
            yield _Refusal(trait.name, f"{trait.says}: {found[trait.name]}", action == "suspicious")


def _by_name(name: str, content: str) -> Iterator[_Refusal]:
    if trick := names.deceives(name):
        yield _Refusal("unsafe_name", f"a program whose name {trick}")
    elif PROGRAM.has(content) and names.deceives_as_site(name):
        yield _Refusal("unsafe_name", "a program whose name reads like that of a web site")


def _by_rules(content: str, kept: str, rules: Rules) -> Iterator[_Refusal]:
    # Both: what the content is, and what it is served as.
    if fits(content, rules.refuse) or fits(kept, rules.refuse):
        yield _Refusal("not_allowed", f"the application refuses {kept}")
    elif rules.allow is not None and not _allowed(content, kept, rules.allow):
        yield _Refusal("not_allowed", f"the application does not accept {kept}")


def _allowed(content: str, kept: str, allow: tuple[str, ...]) -> bool:
    # What only its uploader knows is no picture because it calls itself one: such a type is to be named.
    unknown = content in GENERIC or (TEXT.has(content) and family(kept) in (PICTURE, FONT, PAGE))
    return kept in allow if unknown else fits(kept, allow)


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
    if content in GENERIC:
        # Unknown is not hostile: the uploader's own format, but none that is known whenever it is seen.
        return claimed not in (PROGRAM, ACTIVE) and not fits(claim, UNMISTAKABLE) and not _xml(claim)
    if _text(content):
        # Any text can be a format of its own, a few tags make libmagic see a page, and a script is text.
        if claimed in (None, TEXT, ACTIVE) or claim in ALSO_TEXT or claim in SCRIPTS:
            return True
        # Pictures, fonts and pages that are written as text.
        return content == "text/plain" and claimed in (PICTURE, FONT, PAGE) and not fits(claim, UNMISTAKABLE)
    if kind is None:
        # Where neither is one of ours, libmagic's name and the world's may differ.
        return claimed is None
    if kind is PACKAGE and claimed is None:
        return True
    if content == "application/zip" and (claimed is None or claim == "application/java-archive"):
        return True
    if content == "application/java-archive":
        # Packages and extensions of other programs are such archives, too.
        return claimed in (None, PACKAGE)
    return (kind.lenient and claimed is kind and not _xml(claim)) or {claim, content} <= ELF


def _xml(claim: str) -> bool:
    """Return whether a browser runs scripts in what is sent under this type: no other content may have it."""
    return claim.endswith(("+xml", "/xml"))


def _text(content: str) -> bool:
    """Return whether the content is text: plain, a page or a script."""
    return family(content) in (TEXT, ACTIVE) or content in SCRIPTS


def _best(content: str, declared: str, named: str) -> str:
    """Return the type to keep: what is claimed where the claim agrees and says more, or the content's."""
    kind = family(content)
    if declared not in GENERIC and _agrees(declared, content) and not _by_extension(declared, content):
        return content if kind is not None and kind.correct else declared
    if content in GENERIC:
        return declared if declared in GENERIC else content
    if kind is ACTIVE and named not in GENERIC and _agrees(named, content):
        # A text with a few tags: what it is called says more. No page is made of it.
        return "text/plain" if _by_extension(named, content) else named
    if kind is not None and not kind.correct and family(named) is kind:
        return named
    if kind is ACTIVE and declared in ALSO_TEXT:
        return "text/plain"
    # libmagic takes TypeScript for Java.
    return "text/plain" if kind is TEXT and content.startswith("text/x-") else content


def _by_extension(claim: str, content: str) -> bool:
    """Return whether a system claims this by the extension alone, and it is a text of another kind."""
    if not _text(content) or claim not in ALSO_TEXT:
        return False
    # Programs export tables and letters as pages that are opened by Excel and Word.
    return not (family(content) is ACTIVE and CONTAINER.has(claim))
