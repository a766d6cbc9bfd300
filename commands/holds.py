"""`roomkeeper hold`: legal holds. What they name is taken by no retention until they are lifted."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Timer
from typing import Annotated
from uuid import UUID

import typer
from rich.console import Console

from commands import arguments, checks
from commands.formatting import quantity, timestamp
from commands.policies import ready
from tasks.apps import APPS
from tasks.policies.columns import table_of
from workers.db import transaction
from workers.inspection import Need
from workers.settings import Settings, SettingsError, get_settings, variable

app = typer.Typer(help="Legal holds: what retention must not take.", no_args_is_help=True)

#: After a longer wait the command says what it waits for.
PATIENCE_SECONDS = 1.0


@app.command()
def add(
    application: Annotated[str, typer.Argument(metavar="APP", help="The application.")],
    entity: Annotated[
        str, typer.Argument(metavar="ENTITY", help="What is held: user, conversation or room.")
    ],
    entity_id: Annotated[UUID, typer.Argument(metavar="ID", help="Its id.")],
    reason: Annotated[str, typer.Option("--reason", help="Why; it is kept with the hold.")],
    actor: arguments.Actor = "",
) -> None:
    """Keep all rows of a user, a conversation or a room, and what goes with them, until it is lifted."""
    settings = get_settings()
    why, who = arguments.reason(reason), arguments.actor(actor)
    _look(application, entity, settings)
    from tasks.retention import holds, object_deletions

    try:
        with _patiently():
            number = holds.place(application, entity, entity_id, reason=why, actor=who)
    except holds.HoldError as error:
        raise SettingsError(str(error)) from error
    typer.echo(
        f"Hold {number}: retention takes no rows of {application} {entity} {entity_id} until it is lifted. "
        "What went before is in the receipts: roomkeeper retention receipts"
    )
    with transaction() as connection:
        files = object_deletions.number_of_files(connection, application)
    if files:
        typer.echo(
            f"The objects of {quantity(files, 'file')} of {application}, whose rows were "
            "deleted before, still wait to be deleted: the hold does not keep them. To keep them, restore "
            "the receipts that are listed by: roomkeeper retention pending"
        )
    if application not in settings.apps:
        typer.echo(f"{application} is not in {variable('apps')}: retention takes nothing of it anyway.")


@app.command("list")
def list_(
    every: Annotated[bool, typer.Option("--all", help="Those that were lifted, too.")] = False,
) -> None:
    """List the holds in force."""
    ready(get_settings())
    from tasks.retention import holds

    with transaction() as connection:
        found = holds.every(connection, lifted=every)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    for row in found:
        hold = row._mapping
        lifted = (
            f"; lifted {timestamp(hold['lifted_at'])} by {hold['lifted_by']}" if hold["lifted_at"] else ""
        )
        console.print(
            f"{hold['id']}  {timestamp(hold['placed_at'])}  {hold['app']} {hold['entity']} "
            f"{hold['entity_id']}  {hold['placed_by']}: {hold['reason']}{lifted}"
        )
    if not found:
        console.print("None.")


@app.command()
def lift(
    number: Annotated[int, typer.Argument(metavar="NUMBER", min=1, help="The hold's number, from `list`.")],
    actor: arguments.Actor = "",
) -> None:
    """Lift a hold: what it has kept is due by its age again."""
    ready(get_settings())
    from tasks.retention import holds

    try:
        holds.lift(number, actor=arguments.actor(actor))
    except holds.HoldError as error:
        raise SettingsError(str(error)) from error
    typer.echo(f"Hold {number} is lifted: what it has kept, and is old enough, goes with the next runs.")


def _look(application: str, entity: str, settings: Settings) -> None:
    """See whether it can be asked for the entity; end if it cannot."""
    found = APPS.get(application)
    model = found.entities.get(entity) if found is not None else None
    wanted = []
    if model is not None:
        table = table_of(model)
        wanted.append(Need(table, frozenset(table.primary_key.columns.keys()), frozenset({"SELECT"})))
    checks.require_database(settings, wanted)


@contextmanager
def _patiently() -> Iterator[None]:
    """Say what is waited for, if it takes long."""
    message = "Waiting for what retention is taking at this moment…"
    timer = Timer(PATIENCE_SECONDS, Console(stderr=True, highlight=False, soft_wrap=True).print, (message,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
