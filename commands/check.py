"""`roomkeeper check`: can everything that the platform needs be had?"""

from collections.abc import Callable

import typer
from rich.console import Console

from commands import checks
from tasks.apps import enabled
from workers.inspection import Fault
from workers.settings import Settings, get_settings

#: What is checked, in the order in which it is told.
CHECKS: dict[str, Callable[[Settings], list[Fault]]] = {
    "database": checks.database,
    "broker": checks.broker,
    "store": lambda settings: [*checks.store(settings), *checks.providers(settings)],
    "scanner": checks.scanner,
    "decoder": checks.decoder,
}


def check() -> None:
    """Check all that the platform needs; exit code 1, with an advice for each fault."""
    console = Console()
    settings = get_settings()
    names = ", ".join(enabled(settings))
    bad = False
    for name, run in CHECKS.items():
        faults = run(settings)
        checks.tell(faults, console)
        if faults:
            bad = True
        else:
            console.print(f"✓ {name}", style="green")
    if bad:
        raise typer.Exit(1)
    console.print(f"Ready for: {names}.")
    console.print("Workers and beat are not looked at: see Flower, or the metrics.")
