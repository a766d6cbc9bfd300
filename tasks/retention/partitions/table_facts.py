"""What else the catalogue says of a table that is to be partitioned: keys, references, and all that a new
table must have too."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, text

from tasks.retention.partitions import identities, publications
from tasks.retention.partitions.catalog import Found, quoter
from tasks.retention.partitions.identities import Identity

_SIZE = text("""
    -- Of a table that has never been vacuumed or analysed there is no estimate.
    SELECT CASE WHEN bool_and(part.reltuples >= 0 OR part.relkind = 'p')
                THEN coalesce(sum(greatest(part.reltuples, 0)), 0)::bigint END AS rows,
           coalesce(sum(pg_total_relation_size(part.oid)), 0)::bigint AS bytes
      FROM (SELECT relid FROM pg_partition_tree(:oid) WHERE isleaf UNION SELECT CAST(:oid AS oid)) AS tree
      JOIN pg_catalog.pg_class AS part ON part.oid = tree.relid
""")
_KEYS = text("""
    SELECT class.relname AS name, indisprimary AS primary, indisexclusion AS exclusion,
           CASE WHEN 0 = ANY(indkey) THEN ARRAY[]::text[] ELSE ARRAY(
               SELECT attname::text
                 FROM unnest(indkey[0:indnkeyatts - 1]) WITH ORDINALITY AS part (number, place)
                 JOIN pg_catalog.pg_attribute ON attrelid = indrelid AND attnum = number ORDER BY place
           ) END AS columns
      FROM pg_catalog.pg_index JOIN pg_catalog.pg_class AS class ON class.oid = indexrelid
     WHERE indrelid = :oid AND (indisunique OR indisexclusion)
     ORDER BY NOT indisprimary, class.relname
""")
_REFERENCES = text("""
    SELECT conrelid::regclass::text AS table,
           ARRAY(SELECT attname::text FROM unnest(conkey) WITH ORDINALITY AS part (number, place)
                   JOIN pg_catalog.pg_attribute ON attrelid = conrelid AND attnum = number ORDER BY place)
               AS columns,
           ARRAY(SELECT attname::text FROM unnest(confkey) WITH ORDINALITY AS part (number, place)
                   JOIN pg_catalog.pg_attribute ON attrelid = confrelid AND attnum = number ORDER BY place)
               AS to
      FROM pg_catalog.pg_constraint
     WHERE confrelid = :oid AND contype = 'f' AND conparentid = 0
     ORDER BY 1, conname
""")
_CONSTRAINTS = text("""
    SELECT conname AS name, contype AS type, pg_get_constraintdef(oid) AS definition
      FROM pg_catalog.pg_constraint
     WHERE conrelid = :oid AND contype IN ('f', 'u', 'p') AND conparentid = 0
     ORDER BY contype, conname
""")
_INDEXES = text("""
    SELECT class.relname AS name, pg_get_indexdef(indexrelid) AS definition, indisprimary AS primary,
           EXISTS (SELECT FROM pg_catalog.pg_constraint WHERE conindid = indexrelid AND conrelid = indrelid)
               AS of_constraint
      FROM pg_catalog.pg_index JOIN pg_catalog.pg_class AS class ON class.oid = indexrelid
     WHERE indrelid = :oid ORDER BY class.relname
""")
_TRIGGERS = text("""
    SELECT tgname AS name, pg_get_triggerdef(trigger.oid) AS definition, tgenabled AS enabled,
           tgoldtable IS NOT NULL OR tgnewtable IS NOT NULL AS transition,
           tgtype & 16 <> 0 AND tgtype & 2 <> 0 AS before_update, prosrc AS source
      FROM pg_catalog.pg_trigger AS trigger JOIN pg_catalog.pg_proc AS proc ON proc.oid = tgfoid
     WHERE tgrelid = :oid AND NOT tgisinternal ORDER BY tgname
""")
_VIEWS = text("""
    SELECT DISTINCT rewrite.ev_class::regclass::text AS name
      FROM pg_catalog.pg_depend AS depend
      JOIN pg_catalog.pg_rewrite AS rewrite ON rewrite.oid = depend.objid
     WHERE depend.classid = 'pg_rewrite'::regclass AND depend.refclassid = 'pg_class'::regclass
       AND depend.refobjid = :oid AND rewrite.ev_class <> :oid
     ORDER BY 1
""")
_POLICIES = text("""
    SELECT polname AS name, polpermissive AS permissive, polcmd AS command,
           ARRAY(SELECT CASE role WHEN 0 THEN 'public' ELSE quote_ident(pg_get_userbyid(role)) END
                   FROM unnest(polroles) AS role) AS roles,
           pg_get_expr(polqual, polrelid) AS visible, pg_get_expr(polwithcheck, polrelid) AS writable
      FROM pg_catalog.pg_policy WHERE polrelid = :oid ORDER BY polname
""")
_GRANTS = text("""
    SELECT CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END AS role,
           string_agg(privilege_type, ', ' ORDER BY privilege_type) AS privileges, is_grantable AS grantable
      FROM pg_catalog.pg_class, aclexplode(relacl)
     WHERE pg_class.oid = :oid AND grantee <> relowner
     GROUP BY grantee, is_grantable ORDER BY 1
""")
_NUMBERED = text("""
    SELECT attname AS name, attidentity AS identity, seq.relname AS sequence, space.nspname AS schema
      FROM pg_catalog.pg_attribute AS attribute
      JOIN pg_catalog.pg_depend AS depend
        ON depend.refclassid = 'pg_class'::regclass AND depend.refobjid = attrelid
       AND depend.refobjsubid = attnum AND depend.classid = 'pg_class'::regclass
       AND depend.deptype IN ('a', 'i')
      JOIN pg_catalog.pg_class AS seq ON seq.oid = depend.objid AND seq.relkind = 'S'
      JOIN pg_catalog.pg_namespace AS space ON space.oid = seq.relnamespace
     WHERE attrelid = :oid AND attnum > 0 AND NOT attisdropped ORDER BY attnum
""")


@dataclass(frozen=True, slots=True)
class TableFacts:
    """What the catalogue says, and a look at the rows.

    Attributes:
        rows, bytes: how many, as the database estimates, if it does; and the size with indexes.
        latest: the youngest row's age column.
        without: rows whose age is NULL; 2 stands for more.
        keys: unique keys: name, columns (none if there is an expression), whether it is the primary one.
        exclusions: names of constraints that exclude.
        references: foreign keys that point here: table, columns, the columns that they point to.
        constraints: foreign keys, primary and unique constraints of its own.
        numbered: columns with a sequence of their own.
        publications: those that publish it; see `tasks.retention.partitions.publications`.
        identity: its replica identity.
    """

    rows: int | None
    bytes: int
    latest: datetime | None
    without: int
    keys: list[Row[Any]]
    exclusions: list[str]
    references: list[Row[Any]]
    constraints: list[Row[Any]]
    indexes: list[Row[Any]]
    triggers: list[Row[Any]]
    views: list[str]
    policies: list[Row[Any]]
    grants: list[Row[Any]]
    publications: list[Row[Any]]
    identity: Identity
    numbered: list[Row[Any]]
    restamping: list[str]

    @property
    def with_transition(self) -> list[str]:
        """Names of triggers that look at all rows of a statement."""
        return [one.name for one in self.triggers if one.transition]


def ask(connection: Connection, found: Found) -> TableFacts:
    """Ask the database all that."""
    oid = {"oid": found.row.oid}

    def rows(statement: Any) -> list[Row[Any]]:
        return list(connection.execute(statement, oid))

    size = connection.execute(_SIZE, oid).one()
    keys, triggers = rows(_KEYS), rows(_TRIGGERS)
    age, name = quoter(connection)(found.age), found.real(connection)
    # Indexes on the age answer both at once.
    latest = connection.exec_driver_sql(f"SELECT max({age}) FROM {name}").scalar_one()  # noqa: S608
    without = connection.exec_driver_sql(
        f"SELECT count(*) FROM (SELECT FROM {name} WHERE {age} IS NULL LIMIT 2) AS few"  # noqa: S608
    ).scalar_one()
    return TableFacts(
        rows=size.rows,
        bytes=size.bytes,
        latest=latest,
        without=without,
        keys=[one for one in keys if not one.exclusion],
        exclusions=[one.name for one in keys if one.exclusion],
        references=rows(_REFERENCES),
        constraints=rows(_CONSTRAINTS),
        indexes=rows(_INDEXES),
        triggers=triggers,
        views=[one.name for one in rows(_VIEWS)],
        policies=rows(_POLICIES),
        grants=rows(_GRANTS),
        publications=publications.publications(connection, found.row.oid),
        identity=identities.for_conversion(connection, found.row.oid),
        numbered=rows(_NUMBERED),
        restamping=[one.name for one in triggers if one.before_update and _sets(one.source, found.age)],
    )


def _sets(source: str, column: str) -> bool:
    """Return whether a trigger's source gives a column of the new row a value."""
    code = "".join(source.lower().split())
    return f"new.{column.lower()}:=" in code or f"new.{column.lower()}=" in code
