"""Puts back what a receipt says was taken: from its archives, keys and all, as often as one likes.

Rows come back parents first; then those that were changed get their old values, unless they were changed
again since. Objects that were deleted do not come back; those that still wait to be deleted stay. Statistics
stay as they were: their buckets are frozen, for what is back may not be all that they counted; or facts of
the rows were kept, which are removed, and the rows count instead. The policy that took the rows stops until
an operator approves it: by their age they are due still.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from sqlalchemy import Connection, Row, Table, text
from sqlalchemy.exc import IntegrityError

from models.base import Base
from tasks.analytics import rollup_guard
from tasks.retention import object_deletions, pending_deletions, receipts
from tasks.retention.archive import Archived, copy_in, fetched, load
from tasks.retention.cascade import NOW_SUFFIX
from tasks.retention.partitions import PartitionError, create_for_rows
from tasks.sweeps.batch import Contested
from tasks.sweeps.statements import key_of
from workers.db import transaction
from workers.settings import Settings
from workers.storage.archives import archive_for

if TYPE_CHECKING:
    import pyarrow as pa

#: As long as it takes: a receipt is one batch.
_PATIENCE = text(
    "SELECT set_config('statement_timeout', '10min', true), set_config('lock_timeout', '1min', true),"
    " set_config('idle_in_transaction_session_timeout', '10min', true)"
)
_COLUMNS = text("""
    SELECT attname AS name, format_type(atttypid, atttypmod) AS type, attgenerated <> '' AS generated
      FROM pg_catalog.pg_attribute
     WHERE attrelid = CAST(:real AS regclass) AND attnum > 0 AND NOT attisdropped
     ORDER BY attnum
""")


class RestoreError(Exception):
    """What a receipt names cannot be put back; nothing was. The message says why."""


@dataclass(slots=True)
class Restored:
    """What came back.

    Attributes:
        rows: by table, how many rows were put back.
        there: rows that were there already, as they were archived.
        other: rows that are there with other values, or in whose place another is: these stay.
        absent: rows whose old values could not be put back, because they have gone themselves since. Restore
            what they went with, then this once more.
        changed: rows whose old values were put back.
        objects: how many of their objects were deleted; these do not come back.
        objects_kept: how many were still to be deleted, and stay now.
        receipt: the number of the receipt of this; None if nothing was to be done.
    """

    rows: dict[str, int] = field(default_factory=dict)
    there: int = 0
    other: int = 0
    absent: int = 0
    changed: int = 0
    objects: int = 0
    objects_kept: int = 0
    receipt: int | None = None


def restore(
    number: int,
    settings: Settings,
    *,
    operator: str,
    reason: str,
    watch: Callable[[str, int], None] = lambda _table, _rows: None,
    waiting: Callable[[float], None] = lambda _seconds: None,
) -> Restored:
    """Put back what receipt `number` says was taken, in one transaction.

    Args:
        watch: is called with a table's name and its rows when these have come back.
        waiting: is called about once a second, with the seconds so far, while another process deletes
            objects of the receipt: a restore waits for that, and reports which were deleted.

    Raises:
        RestoreError: there is no such receipt, or no archive of it; the database does not take the rows; or
            another process deletes objects of them and does not end.
        StoreError: an archive is not there, or not what was written.
    """
    with transaction() as connection:
        receipt = receipts.one(connection, number)
    if receipt is None:
        raise RestoreError(f"There is no receipt {number}; see: roomkeeper retention receipts")
    if receipts.digest(dict(receipt._mapping)) != receipt.hash:
        raise RestoreError(f"Receipt {number} is not what was written; see: roomkeeper retention verify")
    if receipt.kind not in {"taken", "dropped"}:
        raise RestoreError(
            f"Receipt {number} is of rows that were {receipt.kind}: there is nothing to restore."
        )
    archived = [Archived(**one) for one in receipt.content.get("archives", [])]
    if not archived:
        raise RestoreError(f"Receipt {number} names no archive: its rows are gone.")
    store = archive_for(settings)
    if store is None:
        raise RestoreError(f"Receipt {number} names archives, and no place of archives is set up.")
    # All of them before anything is locked: a store may take long.
    with fetched(store, archived) as paths:
        return _put_back(receipt, archived, paths, operator, reason, watch, waiting)


def _put_back(
    receipt: Row[Any],
    archived: Sequence[Archived],
    paths: Mapping[str, Path],
    operator: str,
    reason: str,
    watch: Callable[[str, int], None],
    waiting: Callable[[float], None],
) -> Restored:
    """Put back what the archives hold, which were fetched; see `restore`."""
    number = receipt.number
    done = Restored()
    try:
        with transaction() as connection:
            # A deletion of objects at work is waited for; no other one begins.
            pending_deletions.lock(connection, number, waiting)
            connection.execute(_PATIENCE)
            app, keys = receipt.content.get("app", ""), set[str]()
            for one in [*reversed([one for one in archived if not one.changed])]:
                rows = load(paths[one.key])
                _rows(connection, one, rows, done)
                keys |= pending_deletions.keys_in(app, one.table, rows)
                watch(one.table, one.rows)
            if keys:
                # Rows of another receipt may have named the same objects.
                pending_deletions.lock_keys(connection, keys, waiting)
                connection.execute(_PATIENCE)
            for one in archived:
                if one.changed:
                    _values(connection, one, load(paths[one.key]), done)
            if facts := receipt.content.get("facts"):
                rollup_guard.forget_facts(connection, UUID(facts))
            done.objects_kept = pending_deletions.cancel(connection, number, app)
            known = object_deletions.of_receipt(connection, number)
            # Of older receipts nothing else is known: they were written when their objects were deleted.
            deleted = receipt.content.get("objects", 0) if known is None else known.outcomes.get("deleted", 0)
            done.objects = int(deleted)
            if any(done.rows.values()) or done.changed:
                content = {
                    "of": number,
                    "tables": done.rows,
                    "changed": done.changed,
                    "operator": operator,
                    "reason": reason,
                }
                done.receipt = receipts.append(
                    connection,
                    kind="restored",
                    policy=receipt.policy,
                    run=uuid4(),
                    rows=sum(done.rows.values()),
                    content=content,
                )
    except Contested as error:
        raise RestoreError(
            f"Nothing was put back: {error}. See what keeps the store or the database busy, and try again; "
            "what waits: roomkeeper retention pending"
        ) from error
    except IntegrityError as error:
        raise RestoreError(
            f"The database does not take the rows of receipt {number}: "
            f"{error.orig}. What they refer to may have gone later: "
            "restore that receipt first."
        ) from error
    return done


def _rows(connection: Connection, one: Archived, rows: "pa.Table", done: Restored) -> None:
    """Put back rows of one table."""
    table = Base.metadata.tables[one.table]
    real, quote = _names(connection, table)
    columns = {row.name: row for row in connection.execute(_COLUMNS, {"real": real})}
    _all_known(one, rows, columns)
    try:
        create_for_rows(connection, table, rows)
    except PartitionError as error:
        raise RestoreError(str(error)) from error
    names = [quote(name) for name in rows.column_names if not columns[name].generated]
    listed, key = ", ".join(names), quote(key_of(table).name)
    connection.exec_driver_sql(f"CREATE TEMP TABLE restored (LIKE {real}) ON COMMIT DROP")
    # What the application requires of a row, it requires of the real one.
    for name in columns:
        connection.exec_driver_sql(f"ALTER TABLE restored ALTER {quote(name)} DROP NOT NULL")
    copy_in(connection, f"restored ({', '.join(quote(name) for name in rows.column_names)})", rows)
    back = connection.exec_driver_sql(
        f"INSERT INTO {real} ({listed}) OVERRIDING SYSTEM VALUE SELECT {listed} FROM restored"  # noqa: S608
        " ON CONFLICT DO NOTHING"
    ).rowcount
    as_they_were = connection.exec_driver_sql(
        f"SELECT count(*) FROM restored AS old JOIN {real} AS new ON new.{key} = old.{key}"  # noqa: S608
        f" WHERE ({_texts('new', names)}) IS NOT DISTINCT FROM ({_texts('old', names)})"
    ).scalar_one()
    connection.exec_driver_sql("DROP TABLE restored")
    done.rows[one.table] = done.rows.get(one.table, 0) + back
    done.there += max(0, as_they_were - back)
    done.other += one.rows - max(back, as_they_were)


def _values(connection: Connection, one: Archived, rows: "pa.Table", done: Restored) -> None:
    """Give rows that stayed the values that they had, where they have those that they were given."""
    real, quote = _names(connection, Base.metadata.tables[one.table])
    columns = {row.name: row for row in connection.execute(_COLUMNS, {"real": real})}
    changed = [name for name in rows.column_names[1:] if not name.endswith(NOW_SUFFIX)]
    _all_known(one, rows.select(changed), columns)
    name = key_of(Base.metadata.tables[one.table]).name
    key, kind = quote(name), columns[name].type
    texts = ", ".join(f"{quote(name)} text" for name in rows.column_names)
    connection.exec_driver_sql(f"CREATE TEMP TABLE restored ({texts}) ON COMMIT DROP")
    copy_in(connection, "restored", rows)
    sets = ", ".join(f"{quote(name)} = CAST(old.{quote(name)} AS {columns[name].type})" for name in changed)
    untouched = " AND ".join(
        f"CAST(new.{quote(name)} AS text) IS NOT DISTINCT FROM old.{quote(name + NOW_SUFFIX)}"
        for name in changed
    )
    done.changed += connection.exec_driver_sql(
        f"UPDATE {real} AS new SET {sets} FROM restored AS old"  # noqa: S608
        f" WHERE new.{key} = CAST(old.id AS {kind}) AND {untouched}"
        # Done before: they are what they were.
        f" AND ({_texts('new', [quote(name) for name in changed])})"
        f" IS DISTINCT FROM ({_texts('old', [quote(name) for name in changed])})"
    ).rowcount
    done.absent += connection.exec_driver_sql(
        "SELECT count(*) FROM restored AS old"  # noqa: S608
        f" WHERE NOT EXISTS (SELECT FROM {real} AS new WHERE new.{key} = CAST(old.id AS {kind}))"
    ).scalar_one()
    connection.exec_driver_sql("DROP TABLE restored")


def _names(connection: Connection, table: Table) -> tuple[str, Callable[[str], str]]:
    """Return a table's name in this database, quoted, and what quotes others."""
    quote = connection.dialect.identifier_preparer.quote_identifier
    schemas: Mapping[str | None, str | None] = connection.get_execution_options().get(
        "schema_translate_map", {}
    )
    schema = schemas.get(table.schema, table.schema)
    assert schema is not None
    return f"{quote(schema)}.{quote(table.name)}", quote


def _texts(of: str, names: list[str]) -> str:
    return ", ".join(f"CAST({of}.{name} AS text)" for name in names)


def _all_known(one: Archived, rows: "pa.Table", columns: Mapping[str, Any]) -> None:
    if missing := [name for name in rows.column_names if name not in columns]:
        raise RestoreError(
            f"{one.table} has no column {', '.join(missing)} any more, and {one.key} has: give it back for "
            "as long as this takes, or read the archive yourself; it is Parquet."
        )
