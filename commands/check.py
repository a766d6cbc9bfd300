"""`roomkeeper check`: can everything that the platform needs be had?"""

from collections.abc import Callable

import typer
from rich.console import Console
from sqlalchemy.exc import DBAPIError

from commands import check_retention, checks
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
    "retention": check_retention.faults,
}


def check() -> None:
    """Check all that the platform needs; exit code 1, with an advice for each fault."""
    console = Console()
    settings = get_settings()
    names = ", ".join(enabled(settings))
    bad: set[str] = set()
    for name, run in CHECKS.items():
        faults = run(settings)
        checks.tell(faults, console)
        if faults:
            bad.add(name)
        else:
            console.print(f"✓ {name}", style="green")
    warnings = [*check_retention.warnings(settings), *checks.zones(settings)]
    checks.tell(warnings, console, "!", "yellow")
    if _jobs_are_bad(settings, console, told="database" in bad) or bad:
        raise typer.Exit(1)
    console.print(f"Ready for: {names}.")
    console.print("Workers and beat are not looked at: see Flower, or the metrics.")


def _jobs_are_bad(settings: Settings, console: Console, *, told: bool) -> bool:
    """Check the jobs, last; say nothing of them where the ledger can not be read, if that has been told."""
    try:
        faults, note = checks.jobs(settings)
    except DBAPIError:
        if told:
            return False
        raise
    checks.tell(faults, console)
    if not faults:
        console.print(f"✓ jobs{note}", style="green")
    return bool(faults)
