"""`roomkeeper dead-letters`: what was refused or failed for good, and what is to become of it."""

import json
import logging
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from sqlalchemy import Row, delete, func, select

from commands.formatting import timestamp
from commands.policies import quiet
from models.platform import DeadLetter
from workers import dead_letters
from workers.db import transaction
from workers.settings import SettingsError

app = typer.Typer(help="Messages that were refused or failed for good.", no_args_is_help=True)

Ids = Annotated[list[int], typer.Argument(help="Their numbers, from `list`.", min=1)]
Task = Annotated[str | None, typer.Option(help="All of this task.")]
_MANY = 1000


@app.command("list")
def list_letters(
    task: Annotated[str | None, typer.Option(help="Only of this task.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=_MANY, help="At most so many, the latest first.")] = 20,
) -> None:
    """List them, the latest first, with their reasons."""
    statement = select(DeadLetter.id, DeadLetter.created_at, DeadLetter.task, DeadLetter.reason)
    if task is not None:
        statement = statement.where(DeadLetter.task == task)
    with transaction() as connection:
        found = connection.execute(statement.order_by(DeadLetter.id.desc()).limit(limit)).all()
        kept = connection.execute(select(func.count(DeadLetter.id))).scalar_one()
    console = Console(highlight=False)
    table = Table(expand=True)
    for name in ("number", "when (UTC)", "task"):
        table.add_column(name, no_wrap=True)
    table.add_column("reason", ratio=1)
    for row in found:
        # Text from outside: no markup.
        when = timestamp(row.created_at)
        table.add_row(*map(Text, (str(row.id), when, row.task, row.reason)))
    if found:
        console.print(table)
    console.print(f"{len(found)} of {kept}." if kept else "None.")


@app.command()
def show(number: Annotated[int, typer.Argument(min=1, help="Its number, from `list`.")]) -> None:
    """Print one, payload and all."""
    (row,) = _letters([number], None)
    console = Console(soft_wrap=True, highlight=False)
    heading = f"{row.task}, {timestamp(row.created_at)} UTC, message {row.task_id or '–'}"
    console.print(heading, markup=False)
    console.print(row.reason, markup=False)
    console.print(json.dumps(row.payload, indent=2, ensure_ascii=False), markup=False)


@app.command()
def retry(numbers: Ids = [], task: Task = None) -> None:  # noqa: B006 - Typer makes its own list
    """Send them again as they were, and forget them."""
    # Not before: importing tasks makes the Celery application, which `list` does not need.
    from workers.app import app as celery
    from workers.broker_errors import BROKER_AWAY

    celery.loader.import_default_modules()
    sent, left = 0, []
    for row in _letters(numbers, task):
        known, payload = celery.tasks.get(row.task), dead_letters.sent(row.payload)
        if known is None or "args" not in payload:
            left.append(row.id)
            continue
        # Sent first: in between it may be there twice, which no task minds, and never not at all.
        try:
            known.apply_async(payload["args"], payload.get("kwargs") or {})
        except BROKER_AWAY as error:
            raise SettingsError(
                f"The broker is away, so {row.id} and those after it are kept; {sent} sent again."
            ) from error
        with transaction() as connection:
            connection.execute(delete(DeadLetter).where(DeadLetter.id == row.id))
        sent += 1
    Console(highlight=False).print(f"{sent} sent again.")
    if left:
        raise SettingsError(
            f"{', '.join(map(str, left))} cannot be sent again: there is no such task, or its payload was "
            f"unreadable or too long. Look at it: roomkeeper dead-letters show {left[0]}"
        )


@app.command()
def drop(
    numbers: Ids = [],  # noqa: B006 - Typer makes its own list
    task: Task = None,
) -> None:
    """Forget them."""
    rows = _letters(numbers, task)
    with transaction() as connection:
        connection.execute(delete(DeadLetter).where(DeadLetter.id.in_([row.id for row in rows])))
    Console(highlight=False).print(f"{len(rows)} dropped.")


@app.command()
def collect() -> None:
    """Fetch those that wait in the broker since the database was away. A job does so each minute."""
    # Not before: importing tasks makes the Celery application, which `list` does not need.
    from workers import quarantine
    from workers.app import app as celery
    from workers.broker_errors import BROKER_AWAY, described

    celery.loader.import_default_modules()
    try:
        with quiet(logging.ERROR):
            collected, left = quarantine.collect()
    except BROKER_AWAY as error:
        raise SettingsError(f"The broker is away ({described(error)}); what it has stays there.") from error
    Console(highlight=False).print(f"{collected} collected.")
    if left:
        raise SettingsError(f"The database does not take them; {left} are left in the broker.")


def _letters(numbers: list[int], task: str | None) -> list[Row[Any]]:
    """Return the dead letters that are meant, in the order in which they came."""
    if bool(numbers) == bool(task):
        raise SettingsError("Say which: either their numbers, or all of a task with --task.")
    which = DeadLetter.task == task if task else DeadLetter.id.in_(numbers)
    columns = DeadLetter.__table__.columns
    with transaction() as connection:
        found = list(connection.execute(select(*columns).where(which).order_by(DeadLetter.id)).all())
    absent = sorted(set(numbers) - {row.id for row in found})
    if absent:
        raise SettingsError(
            f"There is no dead letter {', '.join(map(str, absent))}; see: roomkeeper dead-letters list"
        )
    return found
