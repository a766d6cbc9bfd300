"""What several commands take from their user: who acts, words, and one of some names."""

import getpass
import os
from typing import Annotated, overload

import typer

from workers.settings import SettingsError

Actor = Annotated[str, typer.Option("--actor", help="Who says so; whoever is logged in if it is not given.")]


def either(names: tuple[str, ...]) -> str:
    """Return the names as a sentence has them: `a, b or c`."""
    return f"{', '.join(names[:-1])} or {names[-1]}"


def myself() -> str:
    """Return who is logged in."""
    try:
        return words(os.environ.get("SUDO_USER") or getpass.getuser())
    except (KeyError, OSError):
        # In a container a user need not have a name. (Which of the two it is depends on Python's version.)
        return f"uid {os.getuid()}"


@overload
def words(given: str) -> str: ...
@overload
def words(given: None) -> None: ...
def words(given: str | None) -> str | None:
    """Return what was typed without what no terminal shows and no database keeps: bytes that are no text."""
    if given is None:
        return None
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in given)


def known(option: str, given: str | None, names: tuple[str, ...]) -> None:
    """Let one of the names pass, or none; any other is a sentence."""
    if given is not None and given not in names:
        raise SettingsError(f"{option} must be {either(names)}, not {given!r}.")
