"""What a comparison finds, and how much of it is too much."""

from dataclasses import dataclass, field
from datetime import datetime

#: So many may always be mended, whatever share of all they are.
FEW = 20
#: So many are shown.
SAMPLES = 5


@dataclass(slots=True)
class Result:
    """What was found in one store, and what became of it.

    Attributes:
        store: its name.
        listed, listed_bytes: the objects below the prefixes.
        named: of these, those that a row names.
        young: those that no row names, and that are too young to be orphans.
        foreign: those that no row names, of an application that is not in this database.
        orphans, orphan_bytes, oldest, keys: those that no row names: how many, when the oldest of them was
            written, and some keys.
        rows: rows that were looked at: live, served, and their object below the prefixes.
        missing, ids: of these, those whose object is missing: how many at least, and some, as `app id`.
        stopped: why nothing more is changed: what was found is too much. None if it is not.
        deleted: orphans that were removed.
        spared: orphans that a row has come to name meanwhile.
        kept: orphans that the store refused to remove.
        reopened: rows that were given back to the pipeline.
        error: the store's reason for keeping some.
    """

    store: str
    listed: int = 0
    listed_bytes: int = 0
    named: int = 0
    young: int = 0
    foreign: int = 0
    orphans: int = 0
    orphan_bytes: int = 0
    oldest: datetime | None = None
    keys: list[str] = field(default_factory=list)
    rows: int = 0
    missing: int = 0
    ids: list[str] = field(default_factory=list)
    stopped: str | None = None
    deleted: int = 0
    spared: int = 0
    kept: int = 0
    reopened: int = 0
    error: str | None = None


def most(of: int, share: float) -> int:
    """Return how many of so many may be mended before something else is likely to be wrong."""
    return max(FEW, int(of * share))


def reason_to_stop(found: Result, *, expected: bool, share: float) -> str | None:
    """Return why nothing is to be changed, None if it may.

    Args:
        expected: whether rows name objects below the prefixes.
    """
    if not found.listed and expected and share < 1:
        return f"{found.store}: nothing is listed, although rows name objects there"
    if found.orphans > most(found.listed, share):
        return (
            f"{found.store}: {found.orphans:,} of {found.listed:,} objects are named by no row, more than "
            f"{share:.4g} of them"
        )
    if found.missing > most(found.rows, share):
        return (
            f"{found.store}: the objects of {found.missing:,} or more of {found.rows:,} rows are gone, more "
            f"than {share:.4g} of them"
        )
    return None
