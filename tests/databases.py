"""A database for tests: one per test process, emptied after each test, made anew if its shape was changed."""

from collections.abc import Callable, Sequence

import psycopg
from psycopg.sql import SQL, Identifier

#: What the names of such databases begin with.
REUSED = "reused_"
#: What tells that a test altered more than rows. `xmin` is the transaction that wrote a catalog's row; that
#: of pg_class changes with every TRUNCATE, so its columns are looked at instead.
_SHAPE = (
    "SELECT "
    + ", ".join(
        f"(SELECT (count(*), max(xmin::text::bigint))::text FROM pg_catalog.{catalog})"
        for catalog in (
            *("pg_attribute", "pg_attrdef", "pg_constraint", "pg_default_acl", "pg_event_trigger"),
            *("pg_extension", "pg_index", "pg_inherits", "pg_policy", "pg_proc"),
            *("pg_publication", "pg_rewrite", "pg_trigger", "pg_type"),
        )
    )
    # The first temporary table of a session makes a schema, which stays.
    + r""",
    (SELECT (count(*), max(xmin::text::bigint))::text FROM pg_catalog.pg_namespace
      WHERE nspname !~ '^pg_(toast_)?temp_'),
    (SELECT md5(string_agg(concat_ws(' ', oid, relname, relkind, relnamespace, relowner, relacl, reloptions,
            relrowsecurity, relforcerowsecurity, relreplident, relpersistence), ',' ORDER BY oid))
       FROM pg_catalog.pg_class WHERE oid >= 16384),
    (SELECT (datacl, datdba, datallowconn, datconnlimit, datname)::text
       FROM pg_catalog.pg_database WHERE datname = current_database()),
    (SELECT string_agg((setrole, setconfig)::text, ',') FROM pg_catalog.pg_db_role_setting
      WHERE setdatabase = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()))
"""
)
#: Those that have or had rows: what was deleted leaves pages behind.
_USED_TABLES = """
    SELECT format('%I.%I', nspname, relname) FROM pg_catalog.pg_class
      JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
     WHERE pg_class.oid >= 16384 AND relkind = 'r' AND relpersistence <> 't' AND nspname !~ '^pg_'
       AND pg_relation_size(pg_class.oid) > 0
     ORDER BY 1
"""
_SEQUENCES = """
    SELECT setval(format('%I.%I', schemaname, sequencename)::regclass, start_value, false)
      FROM pg_catalog.pg_sequences WHERE last_value IS NOT NULL
"""
#: As if nothing had ever been analysed.
_FORGET_STATISTICS = """
    DELETE FROM pg_catalog.pg_statistic WHERE starelid >= 16384;
    UPDATE pg_catalog.pg_class SET reltuples = -1, relpages = 0
     WHERE oid >= 16384 AND relkind IN ('r', 'p') AND reltuples <> -1
"""
#: Programs that were killed end by themselves; what they were about to do must not come after the emptying.
_TERMINATE = """
    SELECT pg_terminate_backend(pid, 5000) FROM pg_catalog.pg_stat_activity
     WHERE datname = current_database() AND pid <> pg_backend_pid() AND state <> 'idle'
"""


class ReusedDatabase:
    """A copy of a template that serves one test after another.

    Args:
        server: the URL of a database of the server that is not copied or dropped.
        template: the name of the database to be copied.
        url_of: returns the URL of a database by its name.
        name: tells it from others of the server.
        alter: statements that each copy begins with.
    """

    def __init__(
        self,
        server: str,
        template: str,
        url_of: Callable[[str], str],
        *,
        name: str = "",
        alter: Sequence[str] = (),
    ) -> None:
        self._server, self._template, self._url_of = server, template, url_of
        self._prefix, self._alter = f"{REUSED}{name}", alter
        self._made = 0
        self._connection: psycopg.Connection[tuple[str, ...]] | None = None
        self._shape: object = None
        self._known: dict[str, str] = {}

    @property
    def name(self) -> str:
        return f"{self._prefix}{self._made}"

    def url(self) -> str:
        """Return the URL of an empty database with the template's tables, made if there is none."""
        if self._connection is None:
            self._make()
        return self._url_of(self.name)

    def clean(self) -> None:
        """Empty its tables; if anything else was changed, or it is held, drop it."""
        try:
            clean = self._empty()
        except psycopg.Error:
            clean = False
        if not clean:
            self.drop()

    def drop(self) -> None:
        """Drop it, with any open connections; the next test gets another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
            with psycopg.connect(self._server, autocommit=True) as server:
                server.execute(SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(Identifier(self.name)))

    def _make(self) -> None:
        self._made += 1
        with psycopg.connect(self._server, autocommit=True) as server:
            copy = SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY")
            server.execute(copy.format(Identifier(self.name), Identifier(self._template)))
        self._connection = psycopg.connect(self._url_of(self.name), autocommit=True)
        for statement in self._alter:
            self._connection.execute(statement.encode())
        # No triggers: some tables refuse to be emptied.
        self._connection.execute("SET lock_timeout = '5s'; SET session_replication_role = replica")
        self._shape = self._connection.execute(_SHAPE).fetchone()
        # The template's own rows: the migration that it is at.
        self._known = {name: self._content(name) for name in self._used_tables()}

    def _empty(self) -> bool:
        assert self._connection is not None
        self._connection.execute(_TERMINATE)
        if self._connection.execute(_SHAPE).fetchone() != self._shape:
            return False
        if any(self._content(name) != content for name, content in self._known.items()):
            return False
        if todo := [name for name in self._used_tables() if name not in self._known]:
            self._connection.execute(f"TRUNCATE {', '.join(todo)} RESTART IDENTITY CASCADE".encode())
        self._connection.execute(_SEQUENCES)
        self._connection.execute(_FORGET_STATISTICS)
        return True

    def _used_tables(self) -> list[str]:
        assert self._connection is not None
        return [name for (name,) in self._connection.execute(_USED_TABLES)]

    def _content(self, table: str) -> str:
        assert self._connection is not None
        query = f"SELECT md5(string_agg(t::text, ',' ORDER BY t::text)) FROM {table} AS t"
        (found,) = self._connection.execute(query.encode()).fetchone() or ("",)
        return found
