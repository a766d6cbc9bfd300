"""`roomkeeper grant`: lets a role hand work over in SQL, and nothing else."""

from typing import Annotated

import typer
from psycopg.errors import InvalidSchemaName, UndefinedFunction
from psycopg.sql import Identifier
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from models.platform import SCHEMA
from workers.bootstrap import BootstrapError
from workers.db import transaction
from workers.settings import SettingsError

#: What a role may call; the last one by a trigger on a table of its own.
FUNCTIONS = ("enqueue(text, jsonb)", "record_status(text, jsonb)", "enqueue_attachment()")
#: Supabase gives these two to everybody's browser.
STRANGERS = ("anon", "authenticated")

_ROLE = text("SELECT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = :role)")


def grant(
    role: Annotated[str, typer.Argument(metavar="ROLE", help="The role that an API service connects as.")],
    show: Annotated[bool, typer.Option("--show", help="Print the SQL instead.")] = False,
) -> None:
    """Let a role call roomkeeper.enqueue and roomkeeper.record_status; it needs no right on our tables."""
    if role in STRANGERS:
        raise SettingsError(
            f"{role} is the role of everybody who has the public key: they would report statuses for each "
            "other. Grant it to the role of your own service, on Supabase service_role."
        )
    statements = sql(role)
    if show:
        for statement in statements:
            typer.echo(f"{statement};")
        return
    try:
        with transaction() as connection:
            if not connection.scalar(_ROLE, {"role": role}):
                raise SettingsError(f"There is no role {role} in this database; make it first.")
            for statement in statements:
                connection.exec_driver_sql(statement)
    except ProgrammingError as error:
        if isinstance(error.orig, (InvalidSchemaName, UndefinedFunction)):
            raise BootstrapError(
                f"There is nothing to grant yet in the schema {SCHEMA}. Run: roomkeeper db upgrade"
            ) from error
        raise
    typer.echo(
        f"{role} may call {SCHEMA}.enqueue and {SCHEMA}.record_status, and put the trigger on tables of its "
        "own. It was given no right on any table."
    )


def sql(role: str) -> tuple[str, str]:
    """Return the statements that give `role` its rights."""
    name = Identifier(role).as_string()
    functions = ", ".join(f"{SCHEMA}.{function}" for function in FUNCTIONS)
    return (
        f"GRANT USAGE ON SCHEMA {SCHEMA} TO {name}",
        f"GRANT EXECUTE ON FUNCTION {functions} TO {name}",
    )
