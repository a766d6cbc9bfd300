"""Do the real database's indexes serve the policies? Its catalogue is asked, never the planner.

A plan goes by statistics: of a table that was analysed while it was empty it says nothing. An index serves or
does not at any number of rows, so each is judged as those of the models are (`tasks/sweeps/index_shapes.py`).
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, count, pairwise
from typing import Any

from sqlalchemy import Column, Connection, Index, Row, Table, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex

from tasks.policies.sweep import Sweep
from tasks.sweeps import predicates
from tasks.sweeps.index_shapes import Shape, declared, lacking, served
from workers.inspection import Fault

_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]
#: How many policies or partitions a sentence names.
NAMED = 3

# One query for all tables. A partitioned table has no rows of its own, and its indexes have no entries: what
# counts is what each of its partitions has. An index that is being dropped is none. An index does not serve a
# comparison in another collation than its own, nor one that its operator class does not know; a BRIN index
# leads to pages, which may be nearly all there are.
_INDEXES = text("""
    WITH RECURSIVE part AS (
        SELECT class.oid AS root, space.nspname AS root_schema, class.relname AS root_name,
               class.relkind AS root_kind, class.oid, class.relkind AS kind, '{}'::oid[] AS above
          FROM pg_catalog.pg_class AS class
          JOIN pg_catalog.pg_namespace AS space ON space.oid = class.relnamespace
         WHERE (space.nspname, class.relname) IN (SELECT * FROM unnest(
                   CAST(:schemas AS text[]), CAST(:tables AS text[])))
           AND class.relkind IN ('r', 'p')
         UNION ALL
        SELECT root, root_schema, root_name, root_kind, class.oid, class.relkind, above || part.oid
          FROM part
          JOIN pg_catalog.pg_inherits ON inhparent = part.oid AND NOT inhdetachpending
          JOIN pg_catalog.pg_class AS class ON class.oid = inhrelid
    )
    SELECT root_schema, root_name, root_kind, space.nspname AS schema, class.relname AS name,
           index.relname AS index_name, facts.indisvalid AND facts.indisready AS usable,
           lead.attname AS column, coalesce(operators.names, '{}') AS operators,
           pg_index_column_has_property(facts.indexrelid, 1, 'search_nulls') AS finds_nulls,
           pg_get_expr(facts.indpred, facts.indrelid) AS where,
           ARRAY(SELECT ARRAY[nspname, relname]::text[]
                   FROM unnest(part.above) WITH ORDINALITY AS upper (oid, level)
                   JOIN pg_catalog.pg_class AS class ON class.oid = upper.oid
                   JOIN pg_catalog.pg_namespace AS space ON space.oid = class.relnamespace
                  ORDER BY level) AS above
      FROM part
      JOIN pg_catalog.pg_class AS class ON class.oid = part.oid
      JOIN pg_catalog.pg_namespace AS space ON space.oid = class.relnamespace
      LEFT JOIN pg_catalog.pg_index AS facts ON facts.indrelid = class.oid AND facts.indislive
      LEFT JOIN pg_catalog.pg_class AS index ON index.oid = facts.indexrelid
      LEFT JOIN pg_catalog.pg_am AS method ON method.oid = index.relam
      LEFT JOIN pg_catalog.pg_attribute AS lead
             ON lead.attrelid = class.oid AND lead.attnum = facts.indkey[0] AND lead.attnum <> 0
            AND lead.attcollation = facts.indcollation[0] AND method.amname <> 'brin'
      LEFT JOIN LATERAL (
           SELECT array_agg(operator.oprname::text) AS names
             FROM pg_catalog.pg_opclass AS class
             JOIN pg_catalog.pg_amop AS member
               ON member.amopfamily = class.opcfamily AND member.amoppurpose = 's'
              AND member.amoplefttype = class.opcintype AND member.amoprighttype = class.opcintype
             JOIN pg_catalog.pg_operator AS operator ON operator.oid = member.amopopr
            WHERE class.oid = facts.indclass[0]
           ) AS operators ON true
     WHERE part.kind = 'r'
     ORDER BY root_schema, root_name, NOT class.oid = root, schema, name, index_name
""")
# A name is one of all that the schema has: tables, indexes, sequences.
_NAMES = text("""
    SELECT relname
      FROM pg_catalog.pg_class AS class
      JOIN pg_catalog.pg_namespace AS space ON space.oid = class.relnamespace
     WHERE space.nspname = ANY(CAST(:schemas AS text[]))
""")
#: The longest name that PostgreSQL does not cut off.
_NAME_CHARS = 63


@dataclass(slots=True)
class Part:
    """A table, or a partition of one, with the indexes of it that can be used, and those that cannot.

    `above` are the partitioned tables that a partition is in, from the outermost: schema and name of each.
    """

    schema: str
    name: str
    above: tuple[tuple[str, str], ...] = ()
    usable: list[Shape] = field(default_factory=list)
    broken: list[Shape] = field(default_factory=list)


@dataclass(slots=True)
class RealTable:
    """A table as it is in the database; without parts if it is a view or a foreign table."""

    schema: str
    name: str
    partitioned: bool
    parts: list[Part] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"


@dataclass(frozen=True, slots=True)
class Unserved:
    """A policy whose rows no index finds: each of its runs reads the whole table, or some of its partitions.

    Attributes:
        table: its real name.
        advice: the statements that mend it.
    """

    policy: str
    table: str
    advice: str


def unserved(connection: Connection, policies: Iterable[Sweep], schemas: Mapping[str, str]) -> list[Unserved]:
    """Return which policies no index of the database serves; those that walk through their table need none.

    What cannot be known is not judged: the indexes behind a view or a foreign table.
    """
    asked = [policy for policy in policies if policy.index_condition is not None]
    tables = read(connection, {policy.table for policy in asked}, schemas)
    found = []
    for policy in asked:
        real = tables.get(policy.table)
        lacks = [] if real is None else [part for part in real.parts if not _serves(part, policy)]
        if real is not None and lacks:
            whole = real.partitioned and len(lacks) == len(real.parts)
            advice = _on_all_partitions(connection, policy, real) if whole else _advice(policy, real, lacks)
            found.append(Unserved(policy.name, str(real), advice))
    return found


def _serves(part: Part, policy: Sweep) -> bool:
    return served(policy.index_condition, policy.table, part.usable)


def warnings(found: Sequence[Unserved]) -> list[Fault]:
    """Return a warning for each thing that is to be done, however many policies it serves."""
    grouped: dict[tuple[str, str], list[str]] = defaultdict(list)
    for one in found:
        grouped[one.table, one.advice].append(one.policy)
    return [
        Fault(f"No index serves {_listed(names)}: each run reads all of {table}.", advice, warning=True)
        for (table, advice), names in grouped.items()
    ]


def unindexed(
    connection: Connection, columns: Iterable["Column[Any]"], schemas: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """Yield, of each column that no index finds values in, its real name and the statements that mend it."""
    wanted = list(columns)
    tables = read(connection, {column.table for column in wanted}, schemas)
    for column in wanted:
        real = tables.get(column.table)
        lacks = [] if real is None else [part for part in real.parts if not _finds(part, column.name)]
        if real is not None and lacks:
            name = _quoted(column.name)
            parts = [_quoted(part.schema, part.name) for part in lacks[:NAMED]]
            more = f" And so for {len(lacks) - NAMED:,} more partitions." if len(lacks) > NAMED else ""
            statements = " ".join(f"CREATE INDEX CONCURRENTLY ON {part} ({name});" for part in parts)
            yield f"{real}.{column.name}", statements + more


def _finds(part: Part, column: str) -> bool:
    """Return whether an index finds the part's rows by any value in the column."""
    return any(
        one.column == column
        and "=" in one.finds
        and one.where is not None
        and one.where <= {("not null", column)}
        for one in part.usable
    )


def _listed(names: Sequence[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more:,} more" if more > 0 else "")


def read(
    connection: Connection, tables: Iterable[Table], schemas: Mapping[str, str]
) -> dict[Table, RealTable]:
    """Return the tables with their indexes, but no views and foreign tables: what those have is not known."""
    wanted = {(schemas.get(str(table.schema), str(table.schema)), table.name): table for table in tables}
    names = {"schemas": [schema for schema, _ in wanted], "tables": [name for _, name in wanted]}
    found: dict[Table, RealTable] = {}
    for row in connection.execute(_INDEXES, names):
        table = wanted[row.root_schema, row.root_name]
        real = found.setdefault(table, RealTable(row.root_schema, row.root_name, row.root_kind == "p"))
        if not real.parts or (real.parts[-1].schema, real.parts[-1].name) != (row.schema, row.name):
            real.parts.append(Part(row.schema, row.name, tuple((schema, name) for schema, name in row.above)))
        if row.index_name is not None:
            part = real.parts[-1]
            (part.usable if row.usable else part.broken).append(_shape(row))
    return found


def _shape(row: Row[Any]) -> Shape:
    finds = frozenset(row.operators) | (frozenset({"is null"}) if row.finds_nulls else frozenset())
    where = frozenset[predicates.Part]() if row.where is None else predicates.restriction(row.where)
    return Shape(row.index_name, row.column, finds, where)


# -- what to do about it ---------------------------------------------------------------------------------


def _advice(policy: Sweep, real: RealTable, lacks: Sequence[Part]) -> str:
    statements = [statement for part in lacks[:NAMED] for statement in _mend(part, policy, real)]
    more = len(lacks) - NAMED
    return " ".join(statements) + (f" And so for {more:,} more partitions." if more > 0 else "")


def _on_all_partitions(connection: Connection, policy: Sweep, real: RealTable) -> str:
    """Return the statements that make indexes on a partitioned table, its partitions, and those to come.

    One CREATE INDEX on the table would keep all writers waiting while it reads the whole table. So the
    index is made on the table alone, on one partition after the other, and put together.
    """
    schemas = {real.schema, *(part.schema for part in real.parts)}
    taken = set(connection.scalars(_NAMES, {"schemas": [*schemas]}))
    wanted = lacking(policy.index_condition, policy.table, declared(policy.table), ()) or ()
    statements = [one for shape in wanted for one in _on_tree(shape, policy.table, real, taken)]
    more = len(real.parts) - NAMED
    return " ".join(statements) + (f" And so for {more:,} more partitions." if more > 0 else "")


def _on_tree(shape: Shape, table: Table, real: RealTable, taken: set[str]) -> Iterator[str]:
    """Yield the statements for one index: of a partitioned table, then of what is in it."""
    columns = _columns(shape, table)
    made: dict[tuple[str, str], str] = {}
    for part in real.parts[:NAMED]:
        own = part.schema, part.name
        for upper, one in pairwise((None, *part.above, own)):
            if one is None or one in made:
                continue
            top = str(shape.name or f"{real.name}_{shape.column}_idx")
            made[one] = _free(top if upper is None else f"{one[1]}_{shape.column}_idx", taken)
            how, only = (" CONCURRENTLY", "") if one == own else ("", " ONLY")
            yield f"CREATE INDEX{how} {_quoted(made[one])} ON{only} {_quoted(*one)} {columns};"
            if upper is not None:
                index = _quoted(upper[0], made[upper])
                yield f"ALTER INDEX {index} ATTACH PARTITION {_quoted(one[0], made[one])};"


def _free(wanted: str, taken: set[str]) -> str:
    """Return a name for an index, like the wanted one and not taken; from now on it is."""
    numbered = (wanted[: _NAME_CHARS - len(end)] + end for end in chain([""], (f"_{n}" for n in count(2))))
    name = next(one for one in numbered if one not in taken)
    taken.add(name)
    return name


def _mend(part: Part, policy: Sweep, real: RealTable) -> Iterator[str]:
    """Yield the statements after which indexes of the part serve the policy."""
    wanted = (*part.broken, *declared(policy.table))
    for one in lacking(policy.index_condition, policy.table, wanted, part.usable) or ():
        if one in part.broken:
            index = _quoted(part.schema, str(one.name))
            yield f"REINDEX INDEX CONCURRENTLY {index}; (it is invalid; unless it is being built just now)"
        else:
            taken = {index.name for index in (*part.usable, *part.broken)}
            named = len(real.parts) == 1 and one.name not in taken
            table = _quoted(part.schema, part.name)
            unique = not real.partitioned
            yield f"{_create(one, policy.table, table, named=named, unique=unique)};"


def _create(shape: Shape, table: Table, real: str, *, named: bool, unique: bool) -> str:
    """Return the statement that makes an index of the models on a table whose real name is `real`.

    Args:
        unique: as it is in the models; on a partition it could not be part of one of the whole table.
    """
    index = _declared(shape, table)
    only = " UNIQUE" if unique and (index is None or index.unique) else ""
    name = f" {_quoted(str(index.name))}" if named and index is not None else ""
    return f"CREATE{only} INDEX CONCURRENTLY{name} ON {real} {_columns(shape, table)}"


def _columns(shape: Shape, table: Table) -> str:
    """Return an index's columns and restriction as SQL."""
    index = _declared(shape, table)
    if index is None:
        return f"({_quoted(str(shape.column))})"
    made = str(CreateIndex(index).compile(dialect=_DIALECT))
    return made.partition(f" ON {_DIALECT.identifier_preparer.format_table(table)} ")[2]


def _declared(shape: Shape, table: Table) -> Index | None:
    """Return the index of the models; None for a primary key."""
    return next((one for one in table.indexes if one.name == shape.name), None)


def _quoted(*names: str) -> str:
    return ".".join(_DIALECT.identifier_preparer.quote(name) for name in names)
