"""`roomkeeper triggers`: an application's attachments are enqueued by the database itself."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

import typer
from psycopg.errors import InsufficientPrivilege, InvalidSchemaName, UndefinedFunction, UndefinedTable
from sqlalchemy import Connection, text
from sqlalchemy.exc import ProgrammingError

from commands.formatting import did_you_mean
from models.platform import SCHEMA
from tasks.apps import APPS, attachments_of
from tasks.policies.columns import names_of, table_of
from workers.bootstrap import BootstrapError
from workers.db import transaction
from workers.settings import SettingsError, get_settings, variable

app = typer.Typer(help="Have the database itself enqueue new attachments.", no_args_is_help=True)

App = Annotated[str, typer.Argument(metavar="APP", help="The application.")]

TRIGGER = "roomkeeper_enqueue"
_FIND = text("""
    SELECT tgenabled AS enabled
      FROM pg_catalog.pg_trigger AS trigger
      JOIN pg_catalog.pg_class AS class ON class.oid = trigger.tgrelid
      JOIN pg_catalog.pg_namespace AS space ON space.oid = class.relnamespace
     WHERE space.nspname = :schema AND class.relname = :table AND trigger.tgname = :trigger
""")
_OWNER = text("""
    SELECT pg_get_userbyid(class.relowner)
      FROM pg_catalog.pg_class AS class
      JOIN pg_catalog.pg_namespace AS space ON space.oid = class.relnamespace
     WHERE space.nspname = :schema AND class.relname = :table
""")


@dataclass(frozen=True)
class Place:
    """An application's table of attachments, as this database calls it, and the column with its ids."""

    app: str
    schema: str
    table: str
    id: str

    def __str__(self) -> str:
        return f"{self.schema}.{self.table}"

    def quoted(self, connection: Connection) -> str:
        """Return the table's name for a statement."""
        quote = connection.dialect.identifier_preparer.quote
        return f"{quote(self.schema)}.{quote(self.table)}"


@app.command()
def install(application: App) -> None:
    """Enqueue each new row of an application's table of attachments, in the transaction that inserts it."""
    place = _place(application)
    with _explained(place), transaction() as connection:
        there = _state(connection, place)
        # The names come from a definition and from the schema's own catalog.
        connection.exec_driver_sql(
            f"CREATE OR REPLACE TRIGGER {TRIGGER} AFTER INSERT ON {place.quoted(connection)} FOR EACH ROW "
            f"EXECUTE FUNCTION {SCHEMA}.enqueue_attachment('{place.app}', '{place.id}')"
        )
    was = "was there already" if there else "is there now"
    typer.echo(f"{application}: the trigger on {place} {was}; new attachments enqueue themselves.")


@app.command()
def remove(application: App) -> None:
    """Remove the trigger; attachments that are not enqueued are found by attachments.recover."""
    place = _place(application)
    with _explained(place), transaction() as connection:
        if not _state(connection, place):
            typer.echo(f"{application}: there is no trigger on {place}.")
            return
        connection.exec_driver_sql(f"DROP TRIGGER {TRIGGER} ON {place.quoted(connection)}")
    typer.echo(f"{application}: the trigger on {place} is removed.")


@app.command("list")
def list_() -> None:
    """Say of each application with attachments whether its table has the trigger."""
    with transaction() as connection:
        for name, application in APPS.items():
            if application.attachments is not None:
                place = _place(name)
                typer.echo(f"{name}: {_state(connection, place) or 'no trigger'} on {place}")


def _place(application: str) -> Place:
    if application not in APPS:
        likely = did_you_mean(application, list(APPS))
        raise SettingsError(f"{application!r} is not an application: {', '.join(APPS)}.{likely}")
    attachments = attachments_of(application)
    if attachments is None:
        raise SettingsError(f"{application} has no attachments: there is nothing to put a trigger on.")
    table = table_of(attachments.model)
    logical = str(table.schema)
    (column,) = names_of([attachments.id])
    return Place(application, get_settings().schemas.get(logical, logical), table.name, column)


def _state(connection: Connection, place: Place) -> str | None:
    enabled = connection.scalar(_FIND, {"schema": place.schema, "table": place.table, "trigger": TRIGGER})
    if enabled is None:
        return None
    return "a trigger that is switched off" if enabled == "D" else "a trigger"


@contextmanager
def _explained(place: Place) -> Iterator[None]:
    """Raise an error that says what is missing: the table, the function, the right."""
    try:
        yield
    except ProgrammingError as error:
        if isinstance(error.orig, UndefinedTable) or _absent(error, place.schema):
            raise SettingsError(
                f"The table {place} does not exist. Run the application's migrations, or say in "
                f"{variable('schemas')} what its schema is really called."
            ) from error
        if isinstance(error.orig, (UndefinedFunction, InvalidSchemaName)):
            raise BootstrapError(
                f"The schema {SCHEMA} lacks the function. Run: roomkeeper db upgrade"
            ) from error
        if isinstance(error.orig, InsufficientPrivilege):
            raise SettingsError(_lacking(place)) from error
        raise


def _absent(error: ProgrammingError, schema: str) -> bool:
    return isinstance(error.orig, InvalidSchemaName) and f'"{schema}"' in str(error.orig)


def _lacking(place: Place) -> str:
    with transaction() as connection:
        role = connection.scalar(text("SELECT current_user"))
        owner = connection.scalar(_OWNER, {"schema": place.schema, "table": place.table})
    return (
        f"The role {role} may not put triggers on {place} or take them away: that is for its owner. Run: "
        f"roomkeeper grant {owner}; then this command with {variable('database_url')} of the role {owner}."
    )
