"""The SQL by which an application's own migration makes a table a partitioned one, with all its rows.

The old table becomes the partition of what lies before a coming month. No row is copied: the new table gets
all that the old one has, and ATTACH finds every index, constraint and check there already.

A publication that names the table goes on publishing the old one alone, by the old one's new name. So the new
table takes its place, and rows of all partitions are published as the table's: subscribers see no difference.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row

from tasks.retention.partitions import identities, publications
from tasks.retention.partitions.catalog import Found, month, name_of, quoter
from tasks.retention.partitions.table_facts import TableFacts

_COMMANDS = {"r": "SELECT", "a": "INSERT", "w": "UPDATE", "d": "DELETE", "*": "ALL"}


@dataclass(frozen=True, slots=True)
class Conversion:
    """Statements, each without its semicolon.

    Attributes:
        before: run while the application works, each by itself, in no transaction.
        at_once: in one transaction, which takes moments and has the table for itself.
        until: when the old table's share ends: both must have run before.
    """

    before: tuple[str, ...]
    at_once: tuple[str, ...]
    until: datetime


def convert(
    connection: Connection, found: Found, asked: TableFacts, until: datetime, ahead: int
) -> Conversion:
    """Return the statements; the old table keeps what is older than `until`, a month's beginning."""
    made = _Writing(connection, found, asked, until)
    return Conversion(tuple(made.before()), tuple(made.at_once(ahead)), until)


class _Writing:
    def __init__(self, connection: Connection, found: Found, asked: TableFacts, until: datetime) -> None:
        self._found, self._asked, self._until = found, asked, until
        self._quote = quoter(connection)
        self._connection = connection
        # PostgreSQL cuts names after 63 bytes.
        self._old = f"{found.row.name.encode()[:38].decode(errors='ignore')}_before_y{until:%Y}m{until:%m}"
        self._name = found.real(connection)
        self._old_name = found.real(connection, self._old)
        self._age = self._quote(found.age)
        primary = next((key for key in asked.keys if key.primary), None)
        self._primary = primary
        self._widened = primary is not None and found.age not in primary.columns
        columns = [*(primary.columns if primary else []), *([found.age] if self._widened else [])]
        self._key = ", ".join(self._quote(one) for one in columns)
        self._key_index = self._quote(f"{self._old}_pkey")
        self._range = self._quote(f"{self._old}_range")

    def before(self) -> Iterator[str]:
        if self._widened:
            yield f"CREATE UNIQUE INDEX CONCURRENTLY {self._key_index} ON {self._name} ({self._key})"
        bound = f"{self._age} IS NOT NULL AND {self._age} < {self._found.written(self._until, '')}"
        yield f"ALTER TABLE {self._name} ADD CONSTRAINT {self._range} CHECK ({bound}) NOT VALID"
        yield f"ALTER TABLE {self._name} VALIDATE CONSTRAINT {self._range}"

    def at_once(self, ahead: int) -> Iterator[str]:
        name, old = self._name, self._old_name
        yield "SET LOCAL lock_timeout = '5s'"
        yield f"LOCK TABLE {name} IN ACCESS EXCLUSIVE MODE"
        if not self._found.column.required:
            yield f"ALTER TABLE {name} ALTER {self._age} SET NOT NULL"
        for one in self._asked.triggers:
            yield f"DROP TRIGGER {self._quote(one.name)} ON {name}"
        yield f"ALTER TABLE {name} RENAME TO {self._quote(self._old)}"
        yield from self._rename_keys()
        like = f"LIKE {old} INCLUDING ALL EXCLUDING INDEXES"
        yield f"CREATE TABLE {name} ({like}) PARTITION BY RANGE ({self._age})"
        yield f"ALTER TABLE {name} DROP CONSTRAINT {self._range}"
        yield f"ALTER TABLE {name} OWNER TO {self._quote(self._found.row.owner)}"
        yield from self._numbers()
        yield from self._constraints()
        yield from self._secure()
        yield from self._publish()
        yield (
            f"ALTER TABLE {name} ATTACH PARTITION {old} FOR VALUES FROM (MINVALUE) TO "
            f"({self._found.written(self._until, '')})"
        )
        yield f"ALTER TABLE {old} DROP CONSTRAINT {self._range}"
        for number in range(ahead + 1):
            yield from self._partition(month(self._until, number))
        yield from self._identity(ahead)
        for one in self._asked.triggers:
            yield one.definition
            if one.enabled != "O":
                how = {"D": "DISABLE", "R": "ENABLE REPLICA", "A": "ENABLE ALWAYS"}[one.enabled]
                yield f"ALTER TABLE {name} {how} TRIGGER {self._quote(one.name)}"

    def _rename_keys(self) -> Iterator[str]:
        """Free the names of keys and indexes for those of the new table."""
        old, number = self._old_name, 0
        schema = self._quote(self._found.row.schema)
        for one in self._asked.constraints:
            if one.type == "p" and self._widened:
                yield f"ALTER TABLE {old} DROP CONSTRAINT {self._quote(one.name)}"
                yield f"ALTER TABLE {old} ADD PRIMARY KEY USING INDEX {self._key_index}"
            elif one.type in "pu":
                number += 1
                renamed = self._quote(f"{self._old}_k{number}")
                yield f"ALTER TABLE {old} RENAME CONSTRAINT {self._quote(one.name)} TO {renamed}"
        for number, one in enumerate(self._indexes(), 1):
            renamed = self._quote(f"{self._old}_i{number}")
            yield f"ALTER INDEX {schema}.{self._quote(one.name)} RENAME TO {renamed}"

    def _indexes(self) -> list[Row[Any]]:
        return [one for one in self._asked.indexes if not one.of_constraint]

    def _numbers(self) -> Iterator[str]:
        """Go on numbering where the old table stops."""
        for one in self._asked.numbered:
            column = self._quote(one.name)
            if one.identity:
                yield f"ALTER TABLE {self._old_name} ALTER {column} DROP IDENTITY"
                sequence = f"pg_get_serial_sequence('{self._name}', '{one.name}')"
                last = f"coalesce(max({column}), 0) + 1"
                yield f"SELECT setval({sequence}, {last}, false) FROM {self._old_name}"  # noqa: S608
            else:
                sequence = f"{self._quote(one.schema)}.{self._quote(one.sequence)}"
                yield f"ALTER SEQUENCE {sequence} OWNED BY {self._name}.{column}"

    def _constraints(self) -> Iterator[str]:
        for one in self._asked.constraints:
            definition = one.definition
            if one.type == "p" and self._widened:
                definition = f"PRIMARY KEY ({self._key})"
            yield f"ALTER TABLE {self._name} ADD CONSTRAINT {self._quote(one.name)} {definition}"
        for one in self._indexes():
            yield one.definition

    def _secure(self) -> Iterator[str]:
        row, name = self._found.row, self._name
        for grant in self._asked.grants:
            option = " WITH GRANT OPTION" if grant.grantable else ""
            yield f"GRANT {grant.privileges} ON {name} TO {grant.role}{option}"
        for one in self._asked.policies:
            kind = "" if one.permissive else " AS RESTRICTIVE"
            visible = f" USING ({one.visible})" if one.visible else ""
            writable = f" WITH CHECK ({one.writable})" if one.writable else ""
            yield (
                f"CREATE POLICY {self._quote(one.name)} ON {name}{kind} FOR {_COMMANDS[one.command]} "
                f"TO {', '.join(one.roles)}{visible}{writable}"
            )
        if row.row_security:
            yield f"ALTER TABLE {name} ENABLE ROW LEVEL SECURITY"
        if row.forced_security:
            yield f"ALTER TABLE {name} FORCE ROW LEVEL SECURITY"

    def _publish(self) -> Iterator[str]:
        for one in self._asked.publications:
            name = self._quote(one.name)
            # A filter or a list of columns is refused without, so it comes first.
            if publications.switches(one):
                yield f"ALTER PUBLICATION {name} SET (publish_via_partition_root = true)"
            if one.named:
                yield f"ALTER PUBLICATION {name} DROP TABLE {self._old_name}"
                yield publications.add(self._connection, one.name, self._name, one)

    def _identity(self, ahead: int) -> Iterator[str]:
        """Tell rows in change feeds by what they were told by; the old table keeps what it has."""
        identity = self._asked.identity
        if identity.kind == identities.INDEX and identity.name is not None:
            # The index of the old table may be another one now, and those of the new ones have any name.
            yield identities.all_using_index(self._found.real(self._connection, identity.name))
        elif identity.kind != identities.KEY:
            for name in [self._name, *(self._month(month(self._until, one)) for one in range(ahead + 1))]:
                yield identities.set_identity(name, identity.kind)

    def _month(self, begins: datetime) -> str:
        return self._found.real(self._connection, name_of(self._found.row.name, begins))

    def _partition(self, begins: datetime) -> Iterator[str]:
        real = self._month(begins)
        bounds = f"({self._found.written(begins, '')}) TO ({self._found.written(month(begins, 1), '')})"
        yield f"CREATE TABLE {real} PARTITION OF {self._name} FOR VALUES FROM {bounds}"
        yield f"ALTER TABLE {real} OWNER TO {self._quote(self._found.row.owner)}"
        if self._found.row.row_security:
            yield f"ALTER TABLE {real} ENABLE ROW LEVEL SECURITY"
