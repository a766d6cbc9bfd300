"""Is what the jobs need really in the database? One sentence and one line of advice for each fault."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Enum, Row, Table, text
from sqlalchemy.types import TypeEngine

from workers.settings import variable

_SERVER = text("SELECT current_user AS role, current_setting('server_encoding') AS encoding")
_SCHEMAS = text("""
    SELECT nspname AS name, has_schema_privilege(oid, 'USAGE') AS usable
      FROM pg_catalog.pg_namespace
     WHERE nspname = ANY(CAST(:schemas AS text[]))
""")
# A partitioned table, a foreign one or a view will do in place of a table if its columns do.
_TABLES = text("""
    SELECT space.nspname AS schema, class.relname AS name, class.oid,
           row_security_active(class.oid) AS row_security,
           ARRAY(
               SELECT privilege FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS privilege
                WHERE has_table_privilege(class.oid, privilege)
           ) AS privileges
      FROM pg_catalog.pg_class AS class
      JOIN pg_catalog.pg_namespace AS space ON space.oid = class.relnamespace
     WHERE (space.nspname, class.relname) IN (SELECT * FROM unnest(
               CAST(:schemas AS text[]), CAST(:tables AS text[])))
       AND class.relkind IN ('r', 'p', 'f', 'v')
""")
_COLUMNS = text("""
    SELECT attribute.attrelid AS oid, attribute.attname AS name,
           format_type(attribute.atttypid, attribute.atttypmod) AS printed,
           CASE type.typtype WHEN 'e' THEN type.typname END AS enum
      FROM pg_catalog.pg_attribute AS attribute
      JOIN pg_catalog.pg_type AS type ON type.oid = attribute.atttypid
     WHERE attribute.attrelid = ANY(CAST(:oids AS oid[]))
       AND attribute.attnum > 0 AND NOT attribute.attisdropped
""")
# Only the policies that apply to this role; 0 stands for PUBLIC.
_POLICIES = text("""
    SELECT polrelid AS oid, polcmd AS command, polpermissive AS permissive,
           pg_get_expr(polqual, polrelid) AS visible,
           coalesce(pg_get_expr(polwithcheck, polrelid), pg_get_expr(polqual, polrelid)) AS writable
      FROM pg_catalog.pg_policy
     WHERE polrelid = ANY(CAST(:oids AS oid[]))
       AND EXISTS (
           SELECT FROM unnest(polroles) AS role
            WHERE CASE role WHEN 0 THEN true ELSE pg_has_role(role, 'USAGE') END
       )
""")
#: The privileges that may be needed, in the order in which they are named, and `pg_policy`'s letters.
_COMMANDS = {"SELECT": "r", "INSERT": "a", "UPDATE": "w", "DELETE": "d"}
_MIGRATE = "Run the migrations of the application that the table belongs to."
_MIGRATE_OR_RENAME = (
    f"Run the application's migrations, or say in {variable('schemas')} what its schema is really called."
)


@dataclass(frozen=True)
class Need:
    """What jobs need of one table: columns by their names in the database, and commands.

    `privileges` is a subset of SELECT, INSERT, UPDATE and DELETE.
    """

    table: Table
    columns: frozenset[str]
    privileges: frozenset[str]


@dataclass(frozen=True)
class Fault:
    """What is wrong, and what to do about it.

    Attributes:
        warning: what is slow, or may be meant so: nothing is wrong yet, and everything runs.
    """

    sentence: str
    advice: str
    warning: bool = False


def inspect(connection: Connection, needs: Iterable[Need], schemas: Mapping[str, str]) -> list[Fault]:
    """Compare the database with `needs`; an empty list means that the jobs can run.

    `schemas` maps logical schema names to real ones; a name that it lacks is real. Rights are those of the
    role that `connection` acts as. Five queries, however many the needs.
    """
    found = inspect_schemas(connection, needs, schemas)
    return list(dict.fromkeys(fault for faults in found.values() for fault in faults))


def inspect_schemas(
    connection: Connection, needs: Iterable[Need], schemas: Mapping[str, str]
) -> dict[str, list[Fault]]:
    """Do the same; return the faults by the logical schema they are of, those of the whole database under ''.

    One of a real schema that several share is a fault of each.
    """
    wanted = _merge(needs, schemas)
    server = connection.execute(_SERVER).one()
    faults: dict[str, list[Fault]] = defaultdict(list)
    if server.encoding != "UTF8":
        faults[""].append(
            Fault(
                f"The database stores text as {server.encoding}, not UTF8.",
                "Create a database with ENCODING 'UTF8' and restore a dump of this one into it.",
            )
        )
    logical: dict[str, set[str]] = defaultdict(set)
    for (schema, _), need in wanted.items():
        logical[schema].add(str(need.table.schema))
    names = sorted(logical)
    usable = {row.name: row.usable for row in connection.execute(_SCHEMAS, {"schemas": names})}
    for schema in names:
        for name in sorted(logical[schema]):
            faults[name] += _of_schema(connection, schema, usable, server.role)

    found = {
        (row.schema, row.name): row
        for row in connection.execute(
            _TABLES, {"schemas": [schema for schema, _ in wanted], "tables": [name for _, name in wanted]}
        )
    }
    oids = {"oids": [row.oid for row in found.values()]}
    columns = {(row.oid, row.name): row for row in connection.execute(_COLUMNS, oids)}
    policies = connection.execute(_POLICIES, oids).all()
    for (schema, name), need in wanted.items():
        table = found.get((schema, name))
        found_faults = faults[str(need.table.schema)]
        if table:
            found_faults += _of_columns(connection, need, table, columns)
            found_faults += _of_rights(connection, need, table, server.role, policies)
        elif schema in usable:
            found_faults.append(Fault(f"The table {schema}.{name} does not exist.", _MIGRATE_OR_RENAME))
    return faults


def _merge(needs: Iterable[Need], schemas: Mapping[str, str]) -> dict[tuple[str, str], Need]:
    """Gather the needs of each table, by its real schema and name."""
    merged: dict[tuple[str, str], Need] = {}
    for need in needs:
        logical = str(need.table.schema)
        key = schemas.get(logical, logical), need.table.name
        other = merged.get(key, need)
        merged[key] = Need(need.table, need.columns | other.columns, need.privileges | other.privileges)
    return dict(sorted(merged.items(), key=lambda item: item[0]))


def _of_schema(connection: Connection, schema: str, usable: Mapping[str, bool], role: str) -> list[Fault]:
    if schema not in usable:
        return [Fault(f"The schema {schema} does not exist.", _MIGRATE_OR_RENAME)]
    if usable[schema]:
        return []
    grant = f"GRANT USAGE ON SCHEMA {_quote(connection, schema)} TO {_quote(connection, role)};"
    return [Fault(f"The role {role} may not use the schema {schema}.", grant)]


def _of_columns(
    connection: Connection, need: Need, table: Row[Any], columns: Mapping[tuple[int, str], Row[Any]]
) -> list[Fault]:
    faults = []
    for name in sorted(need.columns):
        full = f"{table.schema}.{table.name}.{name}"
        column = columns.get((table.oid, name))
        wanted = need.table.columns[name].type
        if column is None:
            faults.append(Fault(f"The column {full} does not exist.", _MIGRATE))
        elif isinstance(wanted, Enum):
            if column.enum != wanted.name:
                faults.append(
                    Fault(f"The column {full} is of type {column.printed}, not {wanted.name}.", _MIGRATE)
                )
        elif column.printed != _printed(connection, wanted):
            sentence = f"The column {full} is of type {column.printed}, not {_printed(connection, wanted)}."
            faults.append(Fault(sentence, _MIGRATE))
    return faults


def _printed(connection: Connection, wanted: TypeEngine[Any]) -> str:
    """Return the type as PostgreSQL's `format_type` prints it."""
    compiled = wanted.compile(dialect=connection.dialect).lower().replace(", ", ",")
    return re.sub(r"^varchar\b", "character varying", re.sub(r"^float\b", "double precision", compiled))


def _of_rights(
    connection: Connection, need: Need, table: Row[Any], role: str, policies: Iterable[Row[Any]]
) -> list[Fault]:
    faults = []
    full = f"{table.schema}.{table.name}"
    quoted = f"{_quote(connection, table.schema)}.{_quote(connection, table.name)}"
    needed = [command for command in _COMMANDS if command in need.privileges]
    lacking = ", ".join(command for command in needed if command not in table.privileges)
    if lacking:
        faults.append(
            Fault(
                f"The role {role} lacks {lacking} on {full}.",
                f"GRANT {lacking} ON {quoted} TO {_quote(connection, role)};",
            )
        )
    own = [policy for policy in policies if policy.oid == table.oid]
    blind = ", ".join(command for command in needed if not _open(command, own))
    if table.row_security and blind:
        faults.append(
            Fault(
                f"Row level security hides rows of {full} from the role {role} ({blind}).",
                f"ALTER ROLE {_quote(connection, role)} BYPASSRLS; or run as the service role.",
            )
        )
    return faults


def _open(command: str, policies: Iterable[Row[Any]]) -> bool:
    """Do the policies plainly let `command` at every row? One that would have to be evaluated does not."""
    own = [policy for policy in policies if policy.command in ("*", _COMMANDS[command])]
    if not all(policy.permissive for policy in own):
        return False
    sees = command == "INSERT" or any(policy.visible == "true" for policy in own)
    writes = command in ("SELECT", "DELETE") or any(policy.writable == "true" for policy in own)
    return sees and writes


def _quote(connection: Connection, name: str) -> str:
    return connection.dialect.identifier_preparer.quote(name)
