"""How the commands of retention print: a name and its value on a line, and how far long work is."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

from commands import progress


def console() -> Console:
    """Return a console that prints text as it is."""
    return Console(highlight=False, markup=False, soft_wrap=True)


def line(out: Console, name: str, text: str) -> None:
    """Print a value under its name."""
    out.print(f"{name:>18}  {text}")


@contextmanager
def bar(what: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Yield what shows how many units of how many are done."""
    with progress.watching(what) as show:
        yield lambda done, total: show(f"{what}, {unit} {done:,} of {total:,}", done, total)
