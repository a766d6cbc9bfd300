"""Progress of long work: a bar that disappears at the end, or lines if the output is not a terminal."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, TextColumn, TimeElapsedColumn

#: If the output is not a terminal: a line every so many seconds.
LINE_SECONDS = 5.0


class Show(Protocol):
    """Shows how far it is."""

    def __call__(self, text: str, done: float = 0, total: float | None = None) -> None:
        """Show a sentence and, where there is a bar, how much is done of how much; None if unknown."""


@contextmanager
def watching(what: str, *, bar: bool = True) -> Iterator[Show]:
    """Yield what shows how far it is.

    Args:
        what: is shown until there is something to say.
        bar: whether there is a total at some time; a spinner alone turns where there is none.
    """
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    if not console.is_terminal:
        last = monotonic()

        def line(text: str, done: float = 0, total: float | None = None) -> None:  # noqa: ARG001 - no bar
            nonlocal last
            if monotonic() - last >= LINE_SECONDS:
                last = monotonic()
                console.print(text)

        yield line
        return
    columns: list[ProgressColumn] = [
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        *([BarColumn()] if bar else []),
        TimeElapsedColumn(),
    ]
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(what, total=None)

        def show(text: str, done: float = 0, total: float | None = None) -> None:
            progress.update(task, description=text, completed=done, total=total)

        yield show
