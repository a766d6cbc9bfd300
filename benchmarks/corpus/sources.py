"""The packages whose files are fed: `sources.toml`, one record each."""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["pypi", "npm", "debian"]
FILE = Path(__file__).with_name("sources.toml")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One package, pinned.

    Attributes:
        kind: where it comes from: the source distribution of a Python package, npm, or Debian.
        name, version, sha256: of the one file that is downloaded.
        most: how many files of one family and one ending are taken; which ones follows from their paths.
        quick: whether it belongs to the small corpus of the tests.
    """

    kind: Kind
    name: str
    version: str
    sha256: str
    most: int = 40
    quick: bool = False


def load(*, quick: bool = False) -> list[Source]:
    """Return all packages, or those of the small corpus."""
    with FILE.open("rb") as file:
        records = [Source(**record) for record in tomllib.load(file)["source"]]
    return [record for record in records if record.quick or not quick]
