"""What the real database would take along with a policy's rows: the models may not know all of its tables."""

from sqlalchemy import Connection, Table, text

from tasks.policies.retention import Retention

#: Foreign keys on a table that take rows along, or change them: CASCADE, SET NULL, SET DEFAULT. The others
#: refuse by themselves.
_KEYS = text("""
    SELECT space.nspname AS schema, class.relname AS name,
           ARRAY(SELECT attname FROM pg_catalog.pg_attribute
                  WHERE attrelid = con.conrelid AND attnum = ANY(con.conkey)) AS columns
      FROM pg_catalog.pg_constraint AS con
      JOIN pg_catalog.pg_class AS class ON class.oid = con.conrelid
      JOIN pg_catalog.pg_namespace AS space ON space.oid = class.relnamespace
      JOIN pg_catalog.pg_class AS gone ON gone.oid = con.confrelid
      JOIN pg_catalog.pg_namespace AS home ON home.oid = gone.relnamespace
     WHERE con.contype = 'f' AND con.conparentid = 0 AND con.confdeltype IN ('c', 'n', 'd')
       AND home.nspname = :schema AND gone.relname = :name
""")


class UnknownReferenceError(Exception):
    """A foreign key that the policy does not know leads to its rows. The message says which; nothing went."""


def unknown(connection: Connection, policy: Retention) -> list[str]:
    """Return the references to the policy's tables that it does not name, as `schema.table.column`."""
    real = connection.get_execution_options().get("schema_translate_map", {})

    def place(table: Table) -> tuple[str, str]:
        schema = real.get(table.schema, table.schema)
        assert schema is not None
        return schema, table.name

    found = []
    for table, refers in policy.levels():
        named = {
            (*place(one.by.property.columns[0].table), one.by.property.columns[0].name) for one in refers
        }
        schema, name = place(table)
        for key in connection.execute(_KEYS, {"schema": schema, "name": name}):
            found += [
                f"{key.schema}.{key.name}.{column}"
                for column in key.columns
                if (key.schema, key.name, column) not in named
            ]
    return sorted(set(found))
