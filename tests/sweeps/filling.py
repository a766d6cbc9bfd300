"""Rows for any table: each column gets a plain value of its type, so that a database looks lived in."""

from collections.abc import Iterable

from sqlalchemy import Connection, Table, text

_COLUMNS = text("""
    SELECT quote_ident(attname) AS name, format_type(atttypid, atttypmod) AS type, typtype = 'e' AS enum,
           CASE WHEN atttypmod > 4 AND typname = 'varchar' THEN atttypmod - 4 ELSE 30 END AS longest
      FROM pg_attribute JOIN pg_type ON pg_type.oid = atttypid
     WHERE attrelid = CAST(:table AS regclass) AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
     ORDER BY attnum
""")
_VALUES = {
    "uuid": "gen_random_uuid()",
    "boolean": "mod(i, 2) = 0",
    "jsonb": "'{}'::jsonb",
    "json": "'{}'::json",
    "inet": "'127.0.0.1'::inet",
    "date": "current_date - i",
    "bytea": "''::bytea",
}


def free(connection: Connection, tables: Iterable[Table]) -> None:
    """Drop checks and foreign keys, by which rows would have to make sense; leave statistics to the test."""
    for table in tables:
        found = connection.execute(
            text(
                "SELECT quote_ident(conname) FROM pg_constraint"
                " WHERE conrelid = CAST(:table AS regclass) AND contype IN ('c', 'f')"
            ),
            {"table": _quoted(table)},
        )
        for name in found.scalars().all():
            connection.exec_driver_sql(f"ALTER TABLE {_quoted(table)} DROP CONSTRAINT {name}")
        connection.exec_driver_sql(f"ALTER TABLE {_quoted(table)} SET (autovacuum_enabled = false)")


def fill(connection: Connection, tables: Iterable[Table], first: int, last: int) -> None:
    """Add the rows number `first` to `last` to each table."""
    for table in tables:
        columns = connection.execute(_COLUMNS, {"table": _quoted(table)}).all()
        names = ", ".join(column.name for column in columns)
        values = ", ".join(_value(column.type, column.enum, column.longest) for column in columns)
        connection.exec_driver_sql(
            f"INSERT INTO {_quoted(table)} ({names}) OVERRIDING SYSTEM VALUE"
            f" SELECT {values} FROM generate_series({first}, {last}) AS i"
        )


def _value(printed: str, enum: bool, longest: int) -> str:
    if enum:
        return f"(enum_range(NULL::{printed}))[1]"
    if printed.endswith("[]"):
        return f"'{{}}'::{printed}"
    if printed.startswith("timestamp"):
        return "(now() - i * interval '1 hour')"
    if printed.startswith(("character", "text")):
        return f"left(md5(i::text), {longest})"
    return _VALUES.get(printed, "i")


def _quoted(table: Table) -> str:
    return f'"{table.schema}"."{table.name}"'
