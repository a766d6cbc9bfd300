"""What a connection pooler before the database does not allow, each as a fault with an advice."""

from sqlalchemy import Connection, func, select

from workers.inspection import Fault
from workers.settings import Settings, variable

_UNSUPPORTED = "unsupported startup parameter: "
#: What PgBouncer answers, and what to do about it.
_REFUSALS = {
    "not allowed in statement pooling mode": "Every job uses transactions. Set in its configuration: "
    "pool_mode = transaction",
    "query_wait_timeout": "All connections of its pool are in use. Raise default_pool_size: two for each "
    f"worker process ({variable('worker_processes')} of each worker).",
    "no more connections allowed (max_client_conn)": "Raise max_client_conn in its configuration: two for "
    f"each worker process ({variable('worker_processes')} of each worker), and some for commands.",
}


def warnings(connection: Connection, settings: Settings) -> list[Fault]:
    """Return a warning if statements are prepared and a pooler may give each transaction another server."""
    if not settings.prepared_statements or not is_pooled(connection):
        return []
    return [
        Fault(
            "Statements are prepared, and a pooler stands before the database.",
            f"Set {variable('prepared_statements')}=false, unless the pooler keeps each client on a "
            "connection of its own, or keeps prepared statements itself (PgBouncer 1.21 or newer, "
            "max_prepared_statements above 0).",
            warning=True,
        )
    ]


def is_pooled(connection: Connection) -> bool:
    """Return whether a pooler stands between this process and the database.

    PostgreSQL tells each client the number of its server process; a pooler tells a number of its own.
    """
    driver = connection.connection.dbapi_connection
    number = getattr(getattr(driver, "info", None), "backend_pid", None)
    return number is not None and number != connection.scalar(select(func.pg_backend_pid()))


def refusal(reason: str) -> Fault | None:
    """Return the fault for what a pooler has answered; None for any other answer."""
    _, unsupported, name = reason.partition(_UNSUPPORTED)
    if unsupported:
        return Fault(
            f"A pooler before the database refuses: {_UNSUPPORTED}{name}.",
            f"Take it out of {variable('database_url')} and of PGOPTIONS; jobs need none. Or set in the "
            f"configuration of PgBouncer: ignore_startup_parameters = {name}",
        )
    for answer, advice in _REFUSALS.items():
        if answer in reason:
            return Fault(f"A pooler before the database refuses: {answer}.", advice)
    return None
