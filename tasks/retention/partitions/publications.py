"""Publications: which change feeds a table and its partitions are in, and what a new partition must be in.

A publication names tables, schemas or all tables. With `publish_via_partition_root` a partition's rows are
published as rows of the table. Without it they are published under the partition's name: then each subscriber
needs a table of that name, and ALTER SUBSCRIPTION ... REFRESH PUBLICATION, for each month.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from psycopg.errors import InsufficientPrivilege
from sqlalchemy import Connection, Row, text
from sqlalchemy.exc import DBAPIError

from tasks.retention.partitions.catalog import Found, Partition, PartitionError, quoter

_PUBLICATIONS = text("""
    SELECT pubname AS name, quote_ident(pubname) AS quoted, pubviaroot AS via_root,
           quote_ident(pg_get_userbyid(pubowner)) AS owner, pubupdate AS updates,
           pubdelete AS deletes, member.prrelid IS NOT NULL AS named,
           puballtables OR EXISTS (SELECT FROM pg_catalog.pg_publication_namespace
                                    WHERE pnpubid = publication.oid AND pnnspid = class.relnamespace)
               AS encloses,
           (SELECT array_agg(attname::text ORDER BY attnum) FROM pg_catalog.pg_attribute
             WHERE attrelid = prrelid AND attnum = ANY(prattrs)) AS columns,
           pg_get_expr(prqual, prrelid) AS filter,
           EXISTS (SELECT FROM pg_catalog.pg_class AS other
                    WHERE other.relkind = 'p' AND NOT other.relispartition AND other.oid <> class.oid
                      AND (puballtables
                           OR EXISTS (SELECT FROM pg_catalog.pg_publication_namespace
                                       WHERE pnpubid = publication.oid AND pnnspid = other.relnamespace)
                           OR EXISTS (SELECT FROM pg_catalog.pg_publication_rel
                                       WHERE prpubid = publication.oid AND prrelid = other.oid)))
               AS others_partitioned
      FROM pg_catalog.pg_publication AS publication
      JOIN pg_catalog.pg_class AS class ON class.oid = :oid
      LEFT JOIN pg_catalog.pg_publication_rel AS member ON prpubid = publication.oid AND prrelid = class.oid
     ORDER BY pubname
""")
# What a publication says of partitions by their names, the table's and its schema's aside.
_OF_PARTITIONS = text("""
    SELECT pubname AS name, quote_ident(pg_get_userbyid(pubowner)) AS owner, pubviaroot AS via_root,
           prrelid AS oid,
           (SELECT array_agg(attname::text ORDER BY attnum) FROM pg_catalog.pg_attribute
             WHERE attrelid = prrelid AND attnum = ANY(prattrs)) AS columns,
           pg_get_expr(prqual, prrelid) AS filter
      FROM pg_catalog.pg_publication_rel
      JOIN pg_catalog.pg_publication AS publication ON publication.oid = prpubid
      JOIN pg_catalog.pg_class AS class ON class.oid = :oid
     WHERE prrelid IN (SELECT inhrelid FROM pg_catalog.pg_inherits WHERE inhparent = :oid)
       AND NOT puballtables
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_publication_rel AS member
                        WHERE member.prpubid = publication.oid AND member.prrelid = :oid)
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_publication_namespace
                        WHERE pnpubid = publication.oid AND pnnspid = class.relnamespace)
     ORDER BY pubname
""")
_OF_DELETES = text("""
    SELECT pubname FROM pg_catalog.pg_publication AS publication
     WHERE pubdelete
       AND (puballtables OR EXISTS (
            SELECT FROM (SELECT relid FROM pg_partition_ancestors(:oid)
                         UNION SELECT CAST(:oid AS oid)) AS above
              JOIN pg_catalog.pg_class AS class ON class.oid = above.relid
             WHERE EXISTS (SELECT FROM pg_catalog.pg_publication_rel
                            WHERE prpubid = publication.oid AND prrelid = class.oid)
                OR EXISTS (SELECT FROM pg_catalog.pg_publication_namespace
                            WHERE pnpubid = publication.oid AND pnnspid = class.relnamespace)))
     ORDER BY pubname
""")


@dataclass(frozen=True, slots=True)
class Missing:
    """A partition that is not in a publication which the ones before it are in, by name.

    Attributes:
        partition: its name.
        statement: adds it; for the owner of the publication.
    """

    partition: str
    publication: str
    statement: str


def publications(connection: Connection, oid: int) -> list[Row[Any]]:
    """Return those that publish a table by its own name, its schema's, or with all tables.

    `columns` and `filter` are what of it is published, None for all; `others_partitioned` is whether other
    partitioned tables are published.
    """
    return [one for one in connection.execute(_PUBLICATIONS, {"oid": oid}) if one.named or one.encloses]


def switches(row: Row[Any]) -> bool:
    """Return whether a conversion makes a publication publish partitions as the whole table.

    Not where other partitioned tables are in it: their subscribers expect the partitions' names.
    """
    return not row.via_root and not row.others_partitioned


def of_partitions(connection: Connection, oid: int) -> list[Row[Any]]:
    """Return of each partition that is named by a publication which does not have the table itself."""
    return list(connection.execute(_OF_PARTITIONS, {"oid": oid}))


def of_deletes(connection: Connection, oid: int) -> list[str]:
    """Return the names of publications by which subscribers get the deletes of a table or partition."""
    return list(connection.scalars(_OF_DELETES, {"oid": oid}))


def add(connection: Connection, publication: str, table: str, row: Row[Any]) -> str:
    """Return the statement that publishes a table as another one is: the same columns, the same rows.

    Args:
        table: its name with its schema, quoted.
        row: of the other one, with `columns` and `filter`.
    """
    quote = quoter(connection)
    columns = f" ({', '.join(quote(one) for one in row.columns)})" if row.columns else ""
    where = f" WHERE ({row.filter})" if row.filter else ""
    return f"ALTER PUBLICATION {quote(publication)} ADD TABLE {table}{columns}{where}"


def missing(connection: Connection, found: Found, there: list[Partition]) -> Iterator[Missing]:
    """Yield which partitions are not published as those before them are."""
    named = of_partitions(connection, found.row.oid)
    quote = quoter(connection)
    for publication in dict.fromkeys(row.name for row in named):
        rows = {row.oid: row for row in named if row.name == publication}
        latest: Row[Any] | None = None
        for one in sorted((one for one in there if not one.default), key=_begins):
            if one.oid in rows:
                latest = rows[one.oid]
            elif latest is not None and one.plain:
                table = f"{quote(one.schema)}.{quote(one.name)}"
                added = add(connection, publication, table, latest)
                yield Missing(one.name, publication, added)


def publish(
    connection: Connection, found: Found, there: list[Partition], begins: datetime, table: str
) -> None:
    """Add a new partition to the publications that the one before it is in, by name; or else the one after.

    Args:
        there: the partitions besides the new one.
        begins: when the new one does.
        table: the new one, with its schema, quoted.

    Raises:
        PartitionError: the role may not; the transaction is of no use any more.
    """
    in_order = sorted((one for one in there if not one.default), key=_begins)
    before = [one for one in in_order if _begins(one) < begins]
    if not in_order:
        return
    neighbour = before[-1] if before else in_order[0]
    for row in of_partitions(connection, found.row.oid):
        if row.oid != neighbour.oid:
            continue
        try:
            # A filter may have a percent sign, which psycopg takes for a parameter.
            connection.exec_driver_sql(add(connection, row.name, table, row).replace("%", "%%"))
        except DBAPIError as error:
            if not isinstance(error.orig, InsufficientPrivilege):
                raise
            raise PartitionError(
                f"The partition {table} must be in the publication {row.name}, as {neighbour.name} is, and "
                f"the role may not add it: who does must be {row.owner}, whom the publication belongs to, or "
                f"a member of that role: GRANT {row.owner} TO ..."
            ) from error


def _begins(one: Partition) -> datetime:
    return one.begins or datetime.min.replace(tzinfo=UTC)
