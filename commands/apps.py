"""`roomkeeper apps`: which table feeds which job."""

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from tasks.apps import APPS
from tasks.apps.columns import table_of
from tasks.apps.spec import App
from workers.settings import SettingsError


def apps(name: Annotated[str, typer.Argument(help="Only this application.")] = "") -> None:
    """Print every table of the applications, and the job that it feeds or why it feeds none."""
    if name and name not in APPS:
        raise SettingsError(f"{name!r} is not an application: {', '.join(APPS)}.")
    console = Console()
    for app in [APPS[name]] if name else APPS.values():
        console.print(_table(app))


def _table(app: App) -> Table:
    table = Table(title=f"{app.name}: {app.about} ({app.document})", title_justify="left", expand=True)
    table.add_column("table", no_wrap=True)
    table.add_column("job", no_wrap=True)
    table.add_column("why", ratio=1)
    fed: dict[str, list[tuple[str, str]]] = {}
    for job in app.jobs():
        for model in job.models:
            # What was copied of the application's tables for its figures is no table of its own.
            if table_of(model).schema not in app.models.SCHEMAS:
                continue
            fed.setdefault(table_of(model).fullname, []).append((job.task, job.why))
    for name, jobs in fed.items():
        for line, (task, why) in enumerate(jobs):
            table.add_row("" if line else name, task, why)
    for model, reason in app.untouched.items():
        table.add_row(table_of(model).fullname, "–", reason, style="dim")
    return table
