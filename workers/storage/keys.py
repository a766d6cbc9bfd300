"""Which keys can be keys at all. They come from rows, and so, perhaps, from strangers."""

import re
import unicodedata

from workers.storage.base import ObjectMissing

#: Where the pictures are that the platform draws. No original is there: a row whose key points to another
#: file's pictures must not get them moved or given other headers.
DERIVED = "derived"

#: Characters that get into keys by mistake, by their names.
_CONTROLS = {"\t": "a tab", "\n": "a line break", "\r": "a carriage return"}

#: What S3 allows, in UTF-8.
LONGEST_BYTES = 1024


def parts(key: str) -> list[str]:
    """Return the key's parts, without empty ones: some stores take `a//b`, `/a/b` and `a\\b` for `a/b`."""
    return [part for part in re.split(r"[/\\]", key) if part]


def check(key: str) -> None:
    """Let a key pass.

    Raises:
        ObjectMissing: there can be no object under it.
    """
    found = parts(key)
    if not found or {".", ".."} & set(found):
        raise ObjectMissing("the key is no relative path")
    # Not spaces and the like: file names from a Mac have some that even `isprintable` does not know.
    plain = key.isascii() and key.isprintable()
    if not plain and any(unicodedata.category(character) in {"Cc", "Cs"} for character in key):
        raise ObjectMissing("the key has characters that no key has")
    if len(key.encode()) > LONGEST_BYTES:
        raise ObjectMissing(f"the key is longer than {LONGEST_BYTES} bytes")


def check_original(key: str) -> None:
    """Let the key of an original pass.

    Raises:
        ObjectMissing: there can be no original under it.
    """
    check(key)
    if parts(key)[0] == DERIVED:
        raise ObjectMissing(f"there are no originals under {DERIVED}/")


def doubts(key: str) -> list[str]:
    """Return what is unusual about a key under which there is no object, in words."""
    found = []
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", key):
        found.append("the key is a URL")
    elif key.startswith("/"):
        found.append("the key begins with a slash")
    found += [f"the key has {what}" for character, what in _CONTROLS.items() if character in key]
    if any(unicodedata.category(letter) == "Cc" and letter not in _CONTROLS for letter in key):
        found.append("the key has control characters")
    if key != key.strip():
        end = "begins" if key != key.lstrip() else "ends"
        found.append(f"the key {end} with whitespace")
    if re.search(r"%[0-9A-Fa-f]{2}", key):
        found.append("the key seems to be percent-encoded")
    return found
