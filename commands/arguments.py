"""What several commands take from their user: who acts, words, and one of some names."""

import getpass
import os
from typing import Annotated

import typer

from commands.formatting import alternatives, printable
from workers import advice
from workers.settings import SettingsError

Actor = Annotated[str, typer.Option("--actor", help="Who says so; by default the user who is logged in.")]


def actor(name: str) -> str:
    """Return who acts: the name given with --actor, or else the user who is logged in."""
    return printable(name).strip() or myself()


def reason(text: str) -> str:
    """Return the reason given with --reason.

    Raises:
        SettingsError: there is none; or it is the placeholder of a command that was pasted.
    """
    why = printable(text).strip()
    # The command may have been at the end of a sentence.
    if not any(map(str.isalnum, why)) or why.rstrip(".") == advice.REASON:
        raise SettingsError("--reason must say why, in a few words.")
    return why


def myself() -> str:
    """Return who is logged in."""
    try:
        return printable(os.environ.get("SUDO_USER") or getpass.getuser())
    except (KeyError, OSError):
        # In a container a user need not have a name. (Which of the two it is depends on Python's version.)
        return f"uid {os.getuid()}"


def known(option: str, given: str | None, names: tuple[str, ...]) -> None:
    """Let one of the names pass, or none; any other is a sentence."""
    if given is not None and given not in names:
        raise SettingsError(f"{option} must be {alternatives(names)}, not {given!r}.")
