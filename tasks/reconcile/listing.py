"""What a store holds, brought into the database, where it can be compared with millions of rows."""

from collections.abc import Callable, Iterator
from itertools import islice

from sqlalchemy import Connection, text

from workers.db import transaction
from workers.storage import ObjectMissing, ObjectStore
from workers.storage.base import Stored

#: So many are written at once.
BATCH = 2_000
#: How long one statement over everything may take.
LONG_MS = 20 * 60 * 1000

_INSERT = text("""
    INSERT INTO roomkeeper.listed_objects (store, key, size_bytes, modified_at)
    SELECT :store, * FROM unnest(
        CAST(:keys AS text[]), CAST(:sizes AS bigint[]), CAST(:times AS timestamptz[]))
    ON CONFLICT DO NOTHING
""")
_LONG = text("""
    SELECT set_config('statement_timeout', :long, true),
           set_config('idle_in_transaction_session_timeout', :long, true),
           -- One that asks again for each object would take days.
           set_config('enable_nestloop', 'off', true),
           set_config('work_mem', '64MB', true)
""")
_EMPTY = text("DELETE FROM roomkeeper.listed_objects")
_ANALYZE = text("ANALYZE roomkeeper.listed_objects")


class WrongPrefixError(Exception):
    """What keys are said to begin with leads nowhere; the message has the prefix and says why."""


class ListingLostError(Exception):
    """The database has forgotten the listing: it crashed meanwhile."""


def unhurried(connection: Connection) -> None:
    """Let the statements of this transaction go over everything."""
    connection.execute(_LONG, {"long": str(LONG_MS)})


def empty() -> None:
    """Forget what was listed: by this run, or by one that was killed."""
    with transaction() as connection:
        unhurried(connection)
        connection.execute(_EMPTY)


def fill(name: str, store: ObjectStore, prefixes: tuple[str, ...], watch: Callable[[str], None]) -> None:
    """List everything below the prefixes, which may overlap.

    Raises:
        WrongPrefixError, StoreError.
        ListingLostError.
    """
    written = listed = 0
    # All are looked at before the first is listed.
    ways = [_ways(store, prefix) for prefix in prefixes]
    for way in ways:
        while batch := list(islice(way, BATCH)):
            written += _write(name, batch)
            listed += len(batch)
            watch(f"{name}: {listed:,} objects listed")
    with transaction() as connection:
        unhurried(connection)
        connection.execute(_ANALYZE)
        count = text("SELECT count(*) FROM roomkeeper.listed_objects WHERE store = :store")
        if connection.scalar(count, {"store": name}) != written:
            raise ListingLostError(f"{name}: the database has lost the listing; run it again")


def _ways(store: ObjectStore, prefix: str) -> Iterator[Stored]:
    try:
        return store.list(prefix)
    except ObjectMissing as error:
        raise WrongPrefixError(f"{prefix!r}: {error}") from error


def _write(name: str, batch: list[Stored]) -> int:
    values = {
        "store": name,
        "keys": [one.key for one in batch],
        "sizes": [one.size for one in batch],
        "times": [one.modified for one in batch],
    }
    with transaction() as connection:
        return connection.execute(_INSERT, values).rowcount
