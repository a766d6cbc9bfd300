"""Sub-commands whose modules are imported when they are called, not to print what there is."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_group

from commands.start import imported


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a sub-command is defined, and its text in the list of sub-commands.

    Attributes:
        module: the module's name.
        attribute: the name of a function there, or of a `typer.Typer` with sub-commands of its own.
        summary: the first paragraph of its help text. A test compares it with the module's.
    """

    module: str
    attribute: str
    summary: str

    def load(self, name: str) -> Any:
        """Import the module; return its command, which is called `name`."""
        found = getattr(import_module(self.module), self.attribute)
        imported()
        # Typer makes commands only as parts of a whole.
        whole = typer.Typer()
        whole.callback()(lambda: None)
        if isinstance(found, typer.Typer):
            whole.add_typer(found, name=name)
        else:
            whole.command(name)(found)
        return get_group(whole).commands[name]


class LazyGroup(TyperGroup):
    """A group of sub-commands: each is a name and a summary until it is called."""

    entries: ClassVar[Mapping[str, Entry]]

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands = {name: TyperCommand(name, help=entry.summary) for name, entry in self.entries.items()}

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the sub-command that is called, imported, and its arguments."""
        name, _command, rest = super().resolve_command(ctx, args)
        return name, None if name is None else self.entries[name].load(name), rest
