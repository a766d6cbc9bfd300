"""What subscribers get of a partitioned table, and what they lose: sentences for plans and checks."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, Row, Table, text

from tasks.retention.partitions import identities, publications
from tasks.retention.partitions.catalog import (
    Found,
    Partition,
    PartitionError,
    find,
    partitions,
    quoter,
    real_schema,
)
from tasks.retention.partitions.identities import Identity
from tasks.retention.partitions.policies import age_of
from workers.inspection import Fault

# A primary key or index that is deferrable, or not valid, identifies no row.
_WITHOUT_IDENTITY = text("""
    SELECT space.nspname AS schema, class.relname AS name, bool_or(pubupdate) AS updates,
           bool_or(pubdelete) AS deletes, string_agg(pubname, ', ' ORDER BY pubname) AS publications
      FROM unnest(CAST(:schemas AS text[]), CAST(:tables AS text[])) AS known (schema, name)
      JOIN pg_catalog.pg_namespace AS known_space ON known_space.nspname = known.schema
      JOIN pg_catalog.pg_class AS whole
        ON whole.relnamespace = known_space.oid AND whole.relname = known.name AND whole.relkind IN ('r', 'p')
     CROSS JOIN LATERAL (SELECT relid FROM pg_partition_tree(whole.oid) WHERE isleaf
                         UNION SELECT whole.oid WHERE whole.relkind = 'r') AS leaf
      JOIN pg_catalog.pg_class AS class
        ON class.oid = leaf.relid AND class.relkind = 'r' AND class.relpersistence = 'p'
      JOIN pg_catalog.pg_namespace AS space ON space.oid = class.relnamespace
      JOIN pg_catalog.pg_publication AS publication
        ON (pubupdate OR pubdelete)
       AND (puballtables OR EXISTS (
            SELECT FROM (SELECT relid FROM pg_partition_ancestors(class.oid)
                         UNION SELECT class.oid) AS above
              JOIN pg_catalog.pg_class AS published ON published.oid = above.relid
             WHERE EXISTS (SELECT FROM pg_catalog.pg_publication_rel
                            WHERE prpubid = publication.oid AND prrelid = published.oid)
                OR EXISTS (SELECT FROM pg_catalog.pg_publication_namespace
                            WHERE pnpubid = publication.oid AND pnnspid = published.relnamespace)))
     WHERE class.relreplident <> 'f'
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_index
                        WHERE indrelid = class.oid AND indisvalid AND indimmediate
                          AND CASE class.relreplident WHEN 'd' THEN indisprimary
                                                      WHEN 'i' THEN indisreplident ELSE false END)
     GROUP BY space.nspname, class.relname
     ORDER BY 1, 2
""")

_BY_ROW = (
    "{names} {verb} its deletes, and PostgreSQL publishes no DROP: expired rows are deleted one by one, and "
    "a month is dropped when it is empty."
)
_PARTITIONED = text("""
    SELECT class.oid, known.schema, known.name
      FROM unnest(CAST(:schemas AS text[]), CAST(:tables AS text[])) AS known (schema, name)
      JOIN pg_catalog.pg_namespace AS space ON space.nspname = known.schema
      JOIN pg_catalog.pg_class AS class
        ON class.relnamespace = space.oid AND class.relname = known.name AND class.relkind = 'p'
     ORDER BY 2, 3
""")


def notes(connection: Connection, found: Found, there: Sequence[Partition]) -> Iterator[str]:
    """Yield how a partitioned table's changes are published, and what follows from that."""
    oid = found.row.oid
    whole = publications.publications(connection, oid)
    by_name = {row.name: row.via_root for row in publications.of_partitions(connection, oid)}
    if not whole and not by_name:
        return
    yield f"Change feeds identify its rows by REPLICA IDENTITY {_shown(connection, oid)}."
    yield from _names(whole)
    for name in by_name:
        yield (
            f"The publication {name} names partitions: a new one is added to it, and each subscriber needs a "
            f"table of its name and ALTER SUBSCRIPTION ... REFRESH PUBLICATION before its month begins."
        )
    deletes = dict.fromkeys(name for one in there for name in publications.of_deletes(connection, one.oid))
    if deletes:
        yield _by_row([*deletes])


def conversion_notes(published: Sequence[Row[Any]], identity: Identity) -> Iterator[str]:
    """Yield what a conversion means for the subscribers of a table."""
    for one in published:
        how = "takes the new table in place of the old one" if one.named else "has the new table too"
        if publications.switches(one):
            yield (
                f"The publication {one.name} {how}, and publishes partitions as the table "
                "(publish_via_partition_root): subscribers change nothing. Who runs this must be its owner, "
                f"{one.owner}, or a member of that role."
            )
        elif one.via_root and one.named:
            yield (
                f"The publication {one.name} {how}: subscribers change nothing. Who runs this must be its "
                f"owner, {one.owner}, or a member of that role."
            )
        elif one.via_root:
            yield f"The publication {one.name} {how}: subscribers change nothing."
    yield from _names([one for one in published if not publications.switches(one)])
    if published and identity.kind == identities.NONE:
        yield "It has no replica identity (NOTHING), and so will its partitions."
    if deletes := [one.name for one in published if one.deletes]:
        yield _by_row(deletes)


def _names(published: Sequence[Row[Any]]) -> Iterator[str]:
    for one in published:
        if not one.via_root:
            yield (
                f"The publication {one.name} publishes partitions by their own names: each subscriber needs "
                "a table for each of them, and ALTER SUBSCRIPTION ... REFRESH PUBLICATION before its month "
                f"begins; or: ALTER PUBLICATION {one.quoted} SET (publish_via_partition_root = true)."
            )


def _by_row(names: Sequence[str]) -> str:
    return _BY_ROW.format(names=", ".join(names), verb="publishes" if len(names) == 1 else "publish")


def _shown(connection: Connection, oid: int) -> Identity:
    return identities.common(identities.members(connection, oid))


def warnings(connection: Connection, found: Found, there: Sequence[Partition]) -> Iterator[tuple[str, str]]:
    """Yield what partitions lack that others of the table have: sentences, and statements that mend it."""
    yield from _without_identity_of_others(connection, found.row.oid)
    yield from _not_published(connection, found, there)


def _without_identity_of_others(connection: Connection, oid: int) -> Iterator[tuple[str, str]]:
    for name, difference, statement in identities.differing(connection, oid):
        yield (
            f"The partition {name} has REPLICA IDENTITY {difference} like the table or its other partitions: "
            "subscribers may keep its deleted rows, or its rows cannot be deleted.",
            statement,
        )


def _not_published(
    connection: Connection, found: Found, there: Sequence[Partition]
) -> Iterator[tuple[str, str]]:
    for one in publications.missing(connection, found, [*there]):
        yield (
            f"The partition {one.partition} is not in the publication {one.publication}, which has the "
            "partitions before it: subscribers get none of its rows.",
            f"{one.statement}; on each subscriber, before: the table; after: ALTER SUBSCRIPTION ... REFRESH "
            "PUBLICATION.",
        )


def faults(connection: Connection, tables: Iterable[Table]) -> list[Fault]:
    """Return what PostgreSQL refuses because of publications, and as warnings what subscribers may lose.

    Tables that are not in this database are left out.
    """
    known = {(real_schema(connection, table), table.name): table for table in tables}
    names = {"schemas": [schema for schema, _ in known], "tables": [name for _, name in known]}
    found = [_refused(connection, row) for row in connection.execute(_WITHOUT_IDENTITY, names)]
    for row in connection.execute(_PARTITIONED, names):
        for sentence, advice in _lacks(connection, known[row.schema, row.name], row.oid):
            found.append(Fault(sentence, advice, warning=True))
    return found


def _refused(connection: Connection, row: Row[Any]) -> Fault:
    quote = quoter(connection)
    name = f"{quote(row.schema)}.{quote(row.name)}"
    which = [verb for verb, published in (("updated", row.updates), ("deleted", row.deletes)) if published]
    return Fault(
        f"Rows of {name} cannot be {' or '.join(which)}: it has no replica identity, and is published "
        f"({row.publications}).",
        f"Give it a primary key, or: ALTER TABLE {name} REPLICA IDENTITY FULL;",
    )


def _lacks(connection: Connection, table: Table, oid: int) -> Iterator[tuple[str, str]]:
    yield from _without_identity_of_others(connection, oid)
    try:
        found = find(connection, table, age_of(table))
    except PartitionError:
        return
    if found.partitioned:
        yield from _not_published(connection, found, partitions(connection, found))
