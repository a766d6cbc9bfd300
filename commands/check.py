"""`roomkeeper check`: can everything that the platform needs be had?"""

import typer
from rich.console import Console

from commands import checks
from tasks.apps import enabled
from workers.settings import get_settings

#: What is checked, in the order in which it is told.
CHECKS = {
    "database": checks.database,
    "broker": checks.broker,
    "store": checks.store,
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
