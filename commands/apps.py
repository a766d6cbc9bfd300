"""`roomkeeper apps`: which jobs use each table."""

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from commands.app_tables import AppTables, read
from workers.errors import OperatorError


def apps(name: Annotated[str, typer.Argument(help="Only this application.")] = "") -> None:
    """Print every table of the applications with the jobs that use it, or why none does."""
    known = read()
    if name and name not in known:
        raise OperatorError(f"{name!r} is not an application: {', '.join(known)}.")
    console = Console()
    for app in [name] if name else known:
        console.print(_table(app, known[app]))


def _table(name: str, app: AppTables) -> Table:
    table = Table(title=f"{name}: {app['about']} ({app['document']})", title_justify="left", expand=True)
    table.add_column("table / job", no_wrap=True)
    table.add_column("why", ratio=1)
    for used, jobs in app["jobs"].items():
        table.add_row(used, app["untouched"].get(used, ""), style="bold")
        for task, why in jobs:
            table.add_row(f"  {task}", why)
    for untouched, reason in app["untouched"].items():
        if untouched not in app["jobs"]:
            table.add_row(untouched, reason, style="bold")
    return table
