"""`roomkeeper db`: making and migrating what the database must hold."""

from typing import Annotated

import typer
from alembic.util import CommandError

from commands.startup import wait_for_database
from tasks.apps import enabled
from workers import migrate
from workers.bootstrap import BootstrapError
from workers.bootstrap import bootstrap as make
from workers.db import get_engine
from workers.revision import newest
from workers.settings import get_settings

app = typer.Typer(help="Make or migrate what the database must hold.", no_args_is_help=True)


Wait = Annotated[bool, typer.Option("--wait", help="Wait for a database that is away or takes no writes.")]


@app.command()
def bootstrap(wait: Wait = False) -> None:
    """Create the applications' own tables where they are absent: for development and tests.

    In production the applications' migrations make them; Roomkeeper never alters them.
    """
    pages = enabled(get_settings()).values()
    if wait:
        wait_for_database(get_settings())
    for outcome in make(get_engine(), [page.models for page in pages]):
        made = f"created {len(outcome.created)} tables" if outcome.created else "is there"
        typer.echo(f"{outcome.app}: {made}")


@app.command()
def upgrade(wait: Wait = False) -> None:
    """Migrate the platform's own schema, `roomkeeper`, to what this version needs."""
    if wait:
        wait_for_database(get_settings())
    try:
        before, after = migrate.upgrade(get_engine())
    except CommandError as error:
        # A newer version has been here. Going back is its business: it alone knows the way.
        raise BootstrapError(
            f"{error}: run the newer version of Roomkeeper that migrated this database."
        ) from error
    if after is not None and after > newest():
        typer.echo(f"roomkeeper: at {after}, which is newer than this version ({newest()}) and serves it")
        return
    typer.echo(
        f"roomkeeper: at {after}" if before == after else f"roomkeeper: {before or 'nothing'} → {after}"
    )
