"""The database: one engine per process, short transactions, UTC and time-outs pinned in each."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import lru_cache
from threading import RLock
from typing import Any

from psycopg.errors import ReadOnlySqlTransaction
from sqlalchemy import URL, Connection, Engine, create_engine, event, func, make_url, select
from sqlalchemy.exc import InternalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from workers import redaction
from workers.database_url import split_hosts
from workers.settings import Settings, get_settings

#: Set per transaction, not per connection: behind a transaction pooler a session-wide SET would leak into,
#: or be lost to, other clients. One statement, so one round trip.
_PIN = (
    "SELECT set_config('TimeZone', 'UTC', true), set_config('statement_timeout', %(statement)s, true),"
    # Values as texts, in archives: whole, and so that any other connection reads them.
    " set_config('DateStyle', 'ISO', true), set_config('IntervalStyle', 'postgres', true),"
    " set_config('extra_float_digits', '1', true),"
    " set_config('lock_timeout', %(lock)s, true),"
    # Whether the server takes no writes, last. The transaction may be read-only itself: a preview is.
    " pg_is_in_recovery() OR current_setting('default_transaction_read_only')::boolean"
)
#: How many connections a process has. A run holds its job's lock on one and does its work on the other; while
#: a file is worked on, a thread renews the lease on the other. Nothing may need a third: behind a pooler,
#: runs with two each would wait for one another.
CONNECTIONS = 2
#: How long a thread waits for one that another thread of the process uses, in seconds.
CONNECTION_SECONDS = 10
#: The key under which a pooled connection notes that its server takes no writes.
_READ_ONLY = "roomkeeper.read_only"


class NoConnectionFree(PoolTimeoutError):
    """All connections that a process may have are in use by itself."""


def create(settings: Settings, *, connections: int = CONNECTIONS, **options: object) -> Engine:
    """Create an engine for `settings`: psycopg, schemas renamed as set, every transaction pinned to UTC.

    A connection to a server that takes no writes serves one transaction and is closed: after a failover the
    next one goes to the new primary.

    Args:
        connections: how many it has at most.
        options: further options of libpq, such as `tcp_user_timeout`.
    """
    url = _url(settings)
    arguments: dict[str, object] = {"connect_timeout": 5, "application_name": "roomkeeper", **options}
    # Or SQLAlchemy fails on a database in SQL_ASCII before anybody could say so in a sentence.
    arguments["client_encoding"] = "utf8"
    hosts = url.query.get("host", "")
    several = not isinstance(hosts, str) or "," in hosts
    if several and "target_session_attrs" not in url.query:
        # The one that takes writes. A single server is taken as it is: `roomkeeper check` says so then.
        arguments["target_session_attrs"] = "read-write"
    if not settings.prepared_statements:
        arguments["prepare_threshold"] = None
    engine = create_engine(
        url,
        pool_size=connections,
        max_overflow=0,
        pool_timeout=CONNECTION_SECONDS,
        pool_pre_ping=True,
        pool_recycle=1800,
        connect_args=arguments,
        # Errors reach logs and Flower, parameters may be what people wrote.
        hide_parameters=True,
    )
    engine = engine.execution_options(schema_translate_map=dict(settings.schemas))
    limits = {"statement": str(settings.statement_timeout_ms), "lock": str(settings.lock_timeout_ms)}

    def pin(connection: Connection) -> None:
        connection.info[_READ_ONLY] = connection.exec_driver_sql(_PIN, limits).one()[-1]

    event.listen(engine, "begin", pin)
    event.listen(engine, "handle_error", redaction.on_error)
    event.listen(engine, "checkin", _leave)
    return engine


@contextmanager
def engine_for(settings: Settings) -> Iterator[Engine]:
    """Yield an engine for `settings`, and close its connections at the end."""
    engine = create(settings)
    try:
        yield engine
    finally:
        engine.dispose()


def _leave(_connection: Any, record: Any) -> None:
    if record.info.get(_READ_ONLY):
        record.invalidate()


def _close(_connection: Any, record: Any) -> None:
    record.invalidate()


def _url(settings: Settings) -> URL:
    text = split_hosts(settings.database_url.get_secret_value())
    return make_url(text).set(drivername="postgresql+psycopg")


def takes_writes(connection: Connection) -> bool:
    """Return whether the server took writes when this transaction began: it is no replica, and not frozen."""
    return not connection.info.get(_READ_ONLY)


def refuse_read_only(connection: Connection) -> None:
    """Raise if the server takes no writes: for work that reads, and then changes what is not in the database.

    A replica may be minutes behind. What it does not know yet would be taken for gone.

    Raises:
        InternalError: as if a statement had tried to write.
    """
    if not takes_writes(connection):
        error = ReadOnlySqlTransaction("the server takes no writes: a replica, or set to read-only")
        raise InternalError(None, None, error, hide_parameters=True)


#: Two threads that ask at once would make two engines, and the one that is not kept would never be closed.
_asking = RLock()


#: How many connections the engine of this process has, once it is made.
_connections = CONNECTIONS


@lru_cache(maxsize=1)
def _engine() -> Engine:
    return create(get_settings(), connections=_connections)


def get_engine() -> Engine:
    """Return this process's engine, one for all its threads. A forked child gets its own."""
    with _asking:
        return _engine()


def forget_engine(*, close: bool = True) -> None:
    """Forget this process's engine, if it has one: the next call of `get_engine` makes another.

    Args:
        close: close its connections, those that another thread uses when it gives them back.
    """
    with _asking:
        if _engine.cache_info().currsize:
            pool = _engine().pool
            _engine().dispose(close=close)
            if close:
                event.listen(pool, "checkin", _close)
            _engine.cache_clear()


@contextmanager
def for_threads(number: int) -> Iterator[None]:
    """Let this process have a connection for each of so many threads, and no less than usual."""
    global _connections
    before = _connections
    if number <= before:
        yield
        return
    forget_engine()
    _connections = number
    try:
        yield
    finally:
        _connections = before
        forget_engine()


@contextmanager
def transaction() -> Iterator[Connection]:
    """Open a transaction on this process's engine; commit at the end, roll back on an exception.

    That exception is what is raised, also if the connection is lost by then and cannot be rolled back.

    Raises:
        NoConnectionFree: this process uses all that it may have.
    """
    own: BaseException | None = None
    try:
        with get_engine().begin() as connection:
            try:
                yield connection
            except BaseException as error:
                own = error
                raise
    except SQLAlchemyError as error:
        if own is not None:
            raise own  # noqa: B904 - the rollback's failure is its context
        if isinstance(error, PoolTimeoutError):
            raise NoConnectionFree(
                "this process already uses all its connections to the database, and none came free within "
                f"{CONNECTION_SECONDS} s: a run may take {CONNECTIONS}, and this one needs another"
            ) from error
        raise


def release_snapshot(connection: Connection) -> None:
    """End the snapshot that the last statement has left, before a transaction waits for something else.

    A query with parameters leaves a portal open, and with it its snapshot, until the next statement: the
    transaction is READ COMMITTED and idle, and keeps VACUUM from removing rows all the same.
    """
    # Without parameters: the driver sends it by the simple protocol, which leaves nothing open.
    connection.exec_driver_sql("SELECT")


def clock() -> datetime:
    """Return the database's time."""
    with transaction() as connection:
        moment: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
        return moment


def _after_fork() -> None:
    _asking.release()
    # The parent's sockets belong to the parent: forget them without closing them.
    forget_engine(close=False)


# Held while forking: or a child could begin with a lock that no thread of its own will ever release.
os.register_at_fork(before=_asking.acquire, after_in_parent=_asking.release, after_in_child=_after_fork)
