"""`roomkeeper check`: can everything that the platform needs be had?"""

from collections.abc import Callable
from typing import Annotated

import typer
from rich.console import Console
from sqlalchemy.exc import DBAPIError

from commands import check_queues, check_retention, check_rollup_zones, checks
from tasks.apps import enabled
from workers.inspection import Fault
from workers.settings import Settings, get_settings

#: What is checked, in the order in which it is reported.
CHECKS: dict[str, Callable[[Settings], list[Fault]]] = {
    "database": checks.database,
    "broker": lambda settings: [*checks.broker(settings), *checks.installation(settings)],
    "store": lambda settings: [
        *checks.store(settings),
        *checks.providers(settings),
        *checks.work_files(settings),
    ],
    "scanner": checks.scanner,
    "decoder": checks.decoder,
    "retention": check_retention.faults,
    "workers": checks.workers,
    "queues": check_queues.faults,
}


def check(
    strict: Annotated[bool, typer.Option("--strict", help="Exit 1 for warnings too.")] = False,
) -> None:
    """Check all that the platform needs; exit code 1 for a fault (✗), not for a warning (!).

    A fault is what is wrong, or does not run; a warning what is slow, or may be meant so. Each has an advice.
    """
    console = Console()
    settings = get_settings()
    names = ", ".join(enabled(settings))
    bad: set[str] = set()
    for name, run in CHECKS.items():
        _show(name, run(settings), console, bad, strict=strict)
    try:
        faults, note = checks.jobs(settings)
        _show(f"jobs{note}", [*faults, *check_rollup_zones.faults(settings)], console, bad, strict=strict)
    except DBAPIError:
        # The job history cannot be read, which the database's check has reported.
        if "database" not in bad:
            raise
    if bad:
        raise typer.Exit(1)
    console.print(f"Ready for: {names}.")


def _show(name: str, found: list[Fault], console: Console, bad: set[str], *, strict: bool) -> None:
    checks.print_faults(found, console)
    if any(strict or not fault.warning for fault in found):
        bad.add(name)
    else:
        console.print(f"✓ {name}", style="green")
