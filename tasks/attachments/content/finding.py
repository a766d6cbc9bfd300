"""What an inspection finds: a file's media type, and traits of its content, each with a phrase of detail."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """A trait of one file, and what it was seen by, in a phrase."""

    name: str
    detail: str


@dataclass(frozen=True, slots=True)
class Content:
    """What a file's bytes are: a normal media type, and traits, each at most once."""

    media_type: str
    traits: tuple[Finding, ...] = ()


#: Longer details are cut.
DETAIL_CHARS = 200


def phrase(text: str) -> str:
    """Return what may hold names from outside as one line that shows itself as it is, cut to length."""
    # `isprintable` leaves out control characters and those that turn the direction of writing.
    shown = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
    return shown if len(shown) <= DETAIL_CHARS else shown[: DETAIL_CHARS - 1] + "…"
