"""Do defaults of columns without a time zone hold UTC? `now()` writes the local time of the session there.

A session's zone comes from its role, its database or the server's configuration, or from the client, which
PostgreSQL does not show to other sessions. Looked at are the roles that may insert into such a table.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, text

from tasks.policies.app import App
from workers.inspection import Fault
from workers.settings import Settings, variable

#: How many roles a sentence names.
_NAMED = 3
# The most specific setting wins: the role's for this database, the role's, the database's, that of all roles.
_ROLES = text("""
    WITH zones AS (
        SELECT setdatabase <> 0 AS of_database, setrole, substr(entry, length('TimeZone=') + 1) AS zone
          FROM pg_catalog.pg_db_role_setting, unnest(setconfig) AS entry
         WHERE entry ILIKE 'TimeZone=%'
           AND setdatabase IN (0, (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()))
    ), tables AS (
        SELECT class.oid
          FROM pg_catalog.pg_class AS class
          JOIN pg_catalog.pg_namespace AS space ON space.oid = class.relnamespace
         WHERE (space.nspname, class.relname) IN (SELECT * FROM unnest(
                   CAST(:schemas AS text[]), CAST(:tables AS text[])))
    )
    SELECT role.rolname AS role, found.zone, found.of_role, found.of_database,
           format('ALTER DATABASE %I SET TimeZone = ''UTC''', current_database()) AS for_all,
           format('ALTER ROLE %I IN DATABASE %I SET TimeZone = ''UTC''', role.rolname, current_database())
           AS for_role
      FROM pg_catalog.pg_roles AS role
      LEFT JOIN LATERAL (
           SELECT zone, setrole <> 0 AS of_role, of_database
             FROM zones WHERE setrole IN (0, role.oid)
            ORDER BY setrole <> 0 DESC, of_database DESC LIMIT 1
           ) AS found ON true
     WHERE role.rolcanlogin
       AND EXISTS (SELECT FROM tables WHERE has_any_column_privilege(role.oid, tables.oid, 'INSERT'))
     ORDER BY role.rolname
""")
_PLAIN = text("SELECT setting, source FROM pg_catalog.pg_settings WHERE name = 'TimeZone'")
#: Where a session's zone comes from that neither its role, its database nor its client sets.
_SERVER = {"default", "configuration file", "command line", "environment variable", "override"}
_SET = text("SELECT set_config('TimeZone', :zone, true)")
# By a session's zone, not AT TIME ZONE: that takes some names, such as CET, for a fixed offset.
_OFFSETS = text("""
    SELECT array_agg(extract(epoch FROM at::timestamp - (at AT TIME ZONE 'UTC'))::int ORDER BY at DESC)
      FROM generate_series(now(), timestamptz '2000-01-01 00:00+00', interval '-720 hours') AS at
""")


@dataclass(frozen=True, slots=True)
class _Source:
    """Where a zone is set, and the statement that sets UTC there for this database only."""

    name: str
    statement: str


def faults(connection: Connection, settings: Settings, apps: Mapping[str, App]) -> list[Fault]:
    """Return where another zone is set than defaults of the applications' columns are read by."""
    return [fault for name, app in apps.items() for fault in _of_app(connection, settings, name, app)]


def _of_app(connection: Connection, settings: Settings, name: str, app: App) -> Iterator[Fault]:
    naive = app.naive_columns()
    if not naive:
        return
    tables = list(dict.fromkeys(column.table for column in naive))
    schemas = [settings.schemas.get(str(table.schema), str(table.schema)) for table in tables]
    named = {"schemas": schemas, "tables": [table.name for table in tables]}
    expected = settings.naive_zone(name, datetime.now(UTC))
    offsets = _offsets(connection, expected)
    roles = connection.execute(_ROLES, named).all()
    server = _server_zone(connection) if any(row.zone is None for row in roles) else None
    found: dict[tuple[_Source, str], list[str]] = {}
    for row in roles:
        found.setdefault((_source(row), row.zone or server or ""), []).append(row.role)
    example = f"{naive[0].table.name}.{naive[0].name}"
    for (source, zone), of in found.items():
        if not zone:
            yield Fault(
                f"The time zone of sessions of {_some(of)} cannot be seen: this one has one of its own.",
                "Reset it for the role of this command (ALTER ROLE ... RESET TimeZone) and in PGTZ; or run: "
                + source.statement,
                warning=True,
            )
        elif (actual := _offsets(connection, zone)) != offsets:
            hours = (actual[0] - offsets[0]) / 3600
            yield Fault(
                f"{source.name} sets the time zone {zone} for sessions of {_some(of)}: default times "
                f"of {name}, such as {example}, are then in that zone; read as {expected} they are "
                f"{hours:+g} hours off now.",
                _advice(name, zone, expected, source),
            )


def _advice(name: str, zone: str, expected: str, source: _Source) -> str:
    until = "until MOMENT', with the moment from which on they write UTC, such as 2026-12-01T09:00Z."
    if expected != "UTC":
        return f"If these sessions write UTC by now, set {variable('naive_zones')}='{name}={expected} {until}"
    return (
        f"Run: {source.statement} and let these sessions connect again. For the rows that are there, set "
        f"{variable('naive_zones')}='{name}={zone} {until}"
    )


def _source(row: Any) -> _Source:
    if row.of_role:
        where = "for this database" if row.of_database else "for all databases"
        return _Source(f"The role {row.role} {where}", f"{row.for_role};")
    if row.zone is None:
        return _Source("The configuration of the server", f"{row.for_all};")
    return _Source("The database" if row.of_database else "ALTER ROLE ALL", f"{row.for_all};")


def _server_zone(connection: Connection) -> str | None:
    """Return the zone that the server's configuration sets, as a session without settings has it."""
    # Not within a transaction of ours, which sets UTC.
    plain = connection.engine.execution_options(isolation_level="AUTOCOMMIT")
    with plain.connect() as session:
        row = session.execute(_PLAIN).one()
    return str(row.setting) if row.source in _SERVER else None


def _offsets(connection: Connection, zone: str) -> list[int]:
    """Return how far a zone is from UTC, in seconds, month by month: the latest first."""
    connection.execute(_SET, {"zone": zone})
    offsets: list[int] = connection.execute(_OFFSETS).scalar_one()
    connection.execute(_SET, {"zone": "UTC"})
    return offsets


def _some(roles: Iterable[str]) -> str:
    names = list(roles)
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more roles" if more > 0 else "")
