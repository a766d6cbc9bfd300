"""Replica identities: the columns by which a change feed identifies a row that was updated or deleted.

PostgreSQL keeps one per partition. Neither `LIKE ... INCLUDING ALL` nor ATTACH carries it, and an ALTER of
the whole table leaves its partitions as they are. A partition that lacks the identity of the others loses
deletes: a subscriber that searches by the whole row finds none, and reports no error.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, text

from tasks.retention.partitions.catalog import PartitionError, quoter

#: `relreplident`, and how ALTER TABLE says it.
FULL, INDEX, KEY, NONE = "f", "i", "d", "n"
_WRITTEN = {FULL: "FULL", KEY: "DEFAULT", NONE: "NOTHING"}
#: A partition that has more of the row than the others loses nothing; one that has less may.
_ORDER = (FULL, INDEX, KEY, NONE)
# The table and its partitions, the youngest last. An index of a partition may be part of one of the table.
_MEMBERS = text("""
    SELECT class.oid, space.nspname AS schema, class.relname AS name, class.relreplident AS kind,
           class.oid = :oid AS whole, index_class.relname AS index_name,
           CASE WHEN class.oid = :oid THEN indexrelid ELSE part.inhparent END AS table_index
      FROM (SELECT CAST(:oid AS oid) AS oid
            UNION ALL SELECT inhrelid FROM pg_catalog.pg_inherits WHERE inhparent = :oid) AS member
      JOIN pg_catalog.pg_class AS class ON class.oid = member.oid AND class.relkind IN ('r', 'p')
      JOIN pg_catalog.pg_namespace AS space ON space.oid = class.relnamespace
      LEFT JOIN pg_catalog.pg_index ON indrelid = class.oid AND indisreplident AND indislive
      LEFT JOIN pg_catalog.pg_class AS index_class ON index_class.oid = indexrelid
      LEFT JOIN pg_catalog.pg_inherits AS part ON part.inhrelid = indexrelid
     WHERE class.oid = :oid OR class.relkind = 'r'
     ORDER BY class.oid
""")
_PART_OF_INDEX = text("""
    SELECT class.relname FROM pg_catalog.pg_inherits
      JOIN pg_catalog.pg_index ON indexrelid = inhrelid AND indrelid = :oid
      JOIN pg_catalog.pg_class AS class ON class.oid = indexrelid
     WHERE inhparent = :index
""")


@dataclass(frozen=True, slots=True)
class Identity:
    """A replica identity, as all partitions of a table should have it.

    Attributes:
        kind: FULL (the whole old row), INDEX, KEY (the primary key), NONE.
        index: the oid of the table's index, of which each partition has a part; None if there is none such.
        name: the name of that index, or of the partition's index that is part of none.
    """

    kind: str
    index: int | None = None
    name: str | None = None

    def __str__(self) -> str:
        return f"USING INDEX {self.name}" if self.kind == INDEX else _WRITTEN[self.kind]


def members(connection: Connection, oid: int) -> list[Row[Any]]:
    """Return a table and its partitions, each with its replica identity."""
    return list(connection.execute(_MEMBERS, {"oid": oid}))


def common(rows: Iterable[Row[Any]]) -> Identity:
    """Return the identity that all partitions should have: the table's, if one was set, or else theirs.

    Where partitions differ, it is the one that loses least.
    """
    found = [(row.whole, _of(row)) for row in rows]
    own = next((identity for whole, identity in found if whole), Identity(KEY))
    if own.kind in (FULL, INDEX):
        return own
    parts = [identity for whole, identity in found if not whole]
    # Of two indexes the one that the youngest partition has.
    return min(reversed(parts), key=lambda one: _ORDER.index(one.kind), default=own)


def _of(row: Row[Any]) -> Identity:
    if row.kind != INDEX:
        return Identity(row.kind)
    # An index that was dropped leaves a table without any identity.
    return Identity(NONE) if row.index_name is None else Identity(INDEX, row.table_index, row.index_name)


def statement(connection: Connection, identity: Identity, oid: int, name: str) -> str:
    """Return the statement that gives a partition the identity.

    Args:
        name: of the partition, with its schema, quoted.

    Raises:
        PartitionError: it is an index, and the partition has no part of it.
    """
    if identity.kind != INDEX:
        return set_identity(name, identity.kind)
    index = connection.scalar(_PART_OF_INDEX, {"oid": oid, "index": identity.index})
    if index is None:
        raise PartitionError(
            f"The replica identity of the partitions is the index {identity.name}, which {name} does not "
            "have: create that index on the whole table, or set REPLICA IDENTITY FULL on each partition"
        )
    return f"ALTER TABLE {name} REPLICA IDENTITY USING INDEX {quoter(connection)(index)}"


def set_identity(name: str, kind: str) -> str:
    """Return the statement that gives a table an identity that is no index."""
    return f"ALTER TABLE {name} REPLICA IDENTITY {_WRITTEN[kind]}"


def differing(connection: Connection, oid: int) -> Iterator[tuple[str, str, str]]:
    """Yield partitions whose identity is not that of the others: name, both identities, what mends it."""
    found = members(connection, oid)
    wanted = common(found)
    quote = quoter(connection)
    for row in found:
        own = _of(row)
        if row.whole or (own.kind, own.index) == (wanted.kind, wanted.index):
            continue
        name = f"{quote(row.schema)}.{quote(row.name)}"
        try:
            mends = f"{statement(connection, wanted, row.oid, name)};"
        except PartitionError as error:
            mends = f"{error}."
        yield name, f"{own}, not {wanted}", mends


def for_conversion(connection: Connection, oid: int) -> Identity:
    """Return the identity of a table that is not partitioned yet."""
    return _of(next(row for row in members(connection, oid) if row.whole))


def all_using_index(index: str) -> str:
    """Return the statement that makes a table and its partitions have an index as their identity.

    Args:
        index: the table's, with its schema, quoted.
    """
    # The names of the partitions' indexes are PostgreSQL's choice.
    literal = index.replace("'", "''")
    parts = (
        "SELECT indrelid::regclass AS name, relname AS index"  # noqa: S608
        f" FROM pg_partition_tree('{literal}') AS tree"
        " JOIN pg_index ON indexrelid = relid JOIN pg_class ON pg_class.oid = relid"
    )
    alter = "EXECUTE format('ALTER TABLE %s REPLICA IDENTITY USING INDEX %I', part.name, part.index);"
    return f"DO $$ DECLARE part record; BEGIN FOR part IN {parts} LOOP {alter} END LOOP; END $$"
