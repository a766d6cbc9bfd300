"""The index check on databases that have lived: it goes by the catalogue, so whatever the statistics say."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, Engine

from commands import checks, startup
from models.audiorooms import RoomParticipant
from models.platform import DeadLetter
from stack.ports import free_port
from stack.servers.postgres import Postgres, binaries
from tasks.apps import APPS, POLICIES
from tasks.availability import Faults
from tasks.policies.columns import table_of
from tasks.retention import partitions
from tasks.sweeps import index_check
from tests.servers import PostgresServer
from tests.sweeps.filling import fill, free
from workers import migrate
from workers.bootstrap import bootstrap
from workers.db import create
from workers.settings import Settings, load

#: The tables in which an index finds what is due.
TABLES = list(
    dict.fromkeys(policy.table for policy in POLICIES.values() if policy.index_condition is not None)
)
ROWS = (0, 1, 2, 60, 1000)
#: So that all of them run.
PERIODS = ",".join(f"{name}=400" for name, policy in POLICIES.items() if policy.off_until_set)
FIFTEEN = Path("/usr/lib/postgresql/15/bin")


@dataclass
class Lived:
    """A database of some version of PostgreSQL, with all tables."""

    url: str
    engine: Engine
    settings: Settings
    programs: Path

    def psql(self, *statements: str) -> None:
        """Run statements, each by itself: VACUUM, and CREATE INDEX CONCURRENTLY."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def sound(self) -> None:
        """See that no policy is called unserved, and that a worker would start at once."""
        assert startup.look(self.settings) == (None, Faults([], {}))
        assert checks.database(self.settings) == []


def unserved(connection: Connection) -> dict[str, str]:
    return {one.policy: one.advice for one in index_check.unserved(connection, POLICIES.values(), {})}


@pytest.fixture(scope="module", params=["18", "15"])
def server(
    request: pytest.FixtureRequest, postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[PostgresServer, Path]]:
    """The package's PostgreSQL, and Debian's, with a template to copy."""
    if request.param == "18":
        yield postgres, binaries()
        return
    assert FIFTEEN.exists(), "PostgreSQL 15 is missing; type: sh scripts/install-postgresql-15.sh"
    directory = tmp_path_factory.mktemp("postgres-15")
    fifteen = PostgresServer(Postgres(directory, free_port(), durable=False, programs=FIFTEEN))
    fifteen.start()
    yield fifteen, FIFTEEN
    fifteen.stop()


@pytest.fixture(scope="module")
def template(server: tuple[PostgresServer, Path]) -> str:
    running, _ = server
    name = "template_lived"
    running_sql(running, f"CREATE DATABASE {name}")
    engine = create(load({"DATABASE_URL": running.url(name)}))
    bootstrap(engine, [app.models for app in APPS.values()])
    migrate.upgrade(engine)
    with engine.begin() as connection:
        free(connection, TABLES)
    engine.dispose()
    return name


def running_sql(server: PostgresServer, statement: str) -> None:
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(statement.encode())


@contextmanager
def opened(server: PostgresServer, programs: Path, name: str) -> Iterator[Lived]:
    url = server.url(name)
    settings = load({"DATABASE_URL": url, "ROOMKEEPER_RETENTION_DAYS": PERIODS})
    made = Lived(url, create(settings), settings, programs)
    yield made
    made.engine.dispose()
    running_sql(server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def lived(server: tuple[PostgresServer, Path], template: str) -> Iterator[Lived]:
    running, programs = server
    running_sql(running, f"CREATE DATABASE lived TEMPLATE {template} STRATEGY FILE_COPY")
    with opened(running, programs, "lived") as made:
        yield made


def growing(lived: Lived) -> Iterator[int]:
    """Yield each number of rows once all tables have it."""
    yield ROWS[0]
    for before, rows in pairwise(ROWS):
        with lived.engine.begin() as connection:
            fill(connection, TABLES, before + 1, rows)
        yield rows


def filled(lived: Lived) -> None:
    """Fill all tables at once."""
    with lived.engine.begin() as connection:
        fill(connection, TABLES, 1, ROWS[-1])


# -- no fault where there is none ------------------------------------------------------------------------


def test_never_analysed(lived: Lived) -> None:
    # For good: other tests of this server do without, too.
    lived.psql("ALTER SYSTEM SET autovacuum = off", "SELECT pg_reload_conf()")
    for _ in growing(lived):
        lived.sound()


def test_analysed_with_few_rows_or_none(lived: Lived) -> None:
    for _ in growing(lived):
        lived.psql("ANALYZE")
        lived.sound()


@pytest.mark.parametrize("half", [0, 1])
def test_one_of_two_joined_tables_analysed(lived: Lived, half: int) -> None:
    with psycopg.connect(lived.url) as connection:
        found = connection.execute(
            "SELECT format('ANALYZE %I.%I', nspname, relname) FROM pg_class"
            " JOIN pg_namespace AS space ON space.oid = relnamespace"
            " WHERE relkind = 'r' AND nspname !~ '^pg_|^information' ORDER BY hashtext(nspname || relname)"
        ).fetchall()
    for _ in growing(lived):
        lived.psql(*(statement for (statement,) in found[half::2]))
        lived.sound()


def test_emptied_and_vacuumed(lived: Lived) -> None:
    filled(lived)
    lived.psql("VACUUM ANALYZE")
    with lived.engine.begin() as connection:
        for table in TABLES:
            connection.execute(table.delete())
    lived.sound()
    lived.psql("VACUUM ANALYZE")
    lived.sound()


@pytest.mark.parametrize("server", ["18"], indirect=True)
def test_a_million_rows(lived: Lived) -> None:
    with lived.engine.begin() as connection:
        connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
        fill(connection, [table_of(DeadLetter)], 1, 1_000_000)
    lived.sound()
    lived.psql("ANALYZE roomkeeper.dead_letters")
    lived.sound()
    with dropped(lived, "DROP INDEX roomkeeper.dead_letters_created_at") as named:
        assert named == {
            "roomkeeper.dead_letters": "CREATE INDEX CONCURRENTLY dead_letters_created_at ON "
            "roomkeeper.dead_letters (created_at);"
        }


def test_restored_from_a_dump(lived: Lived, server: tuple[PostgresServer, Path], tmp_path: Path) -> None:
    filled(lived)
    running, programs = server
    dump = tmp_path / "dump"
    subprocess.run([programs / "pg_dump", "-Fc", "-f", dump, lived.url], check=True)
    running_sql(running, "CREATE DATABASE restored")
    with opened(running, programs, "restored") as restored:
        subprocess.run([programs / "pg_restore", "-d", restored.url, dump], check=True)
        restored.sound()
        with dropped(restored, "DROP INDEX audiorooms.idx_participants_active") as named:
            assert set(named) == {"audiorooms.stays", "audiorooms.dead", "audiorooms.duplicates"}


# -- a fault where there is one, at any number of rows ----------------------------------------------------


@contextmanager
def dropped(lived: Lived, *statements: str) -> Iterator[dict[str, str]]:
    """Yield what is called unserved once the statements have run, and take them back."""
    with lived.engine.connect() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
        yield unserved(connection)
        connection.rollback()


#: An index, the policies that need it, and the statement that makes it.
NEEDED = [
    (
        "echoroom.idx_typing_indicators_expires",
        {"echoroom.typing"},
        "CREATE INDEX CONCURRENTLY idx_typing_indicators_expires ON echoroom.typing_indicators (expires_at);",
    ),
    (
        "echoroom.idx_session_participants_active",
        {"echoroom.ghosts", "echoroom.speaking"},
        "CREATE INDEX CONCURRENTLY idx_session_participants_active ON echoroom.session_participants "
        "(is_active);",
    ),
    (
        "openchat.user_status_idx",
        {"openchat.presence"},
        'CREATE INDEX CONCURRENTLY user_status_idx ON openchat."user" (status);',
    ),
    (
        "openchat.message_conversation_created_idx",
        {"openchat.conversation_messages"},
        "CREATE INDEX CONCURRENTLY message_conversation_created_idx ON openchat.message "
        "(conversation_id, created_at);",
    ),
    (
        "interaction_schema.idx_interaction_logs_started_at",
        {"connect.calls", "connect.logs"},
        "CREATE INDEX CONCURRENTLY idx_interaction_logs_started_at ON interaction_schema.interaction_logs "
        "(started_at);",
    ),
    (
        "pern.idx_auth_sessions_revoked_at",
        {"pern.sessions"},
        "CREATE INDEX CONCURRENTLY idx_auth_sessions_revoked_at ON pern.auth_sessions (revoked_at);",
    ),
    (
        "audiorooms.idx_participants_active",
        {"audiorooms.stays", "audiorooms.dead", "audiorooms.duplicates"},
        "CREATE INDEX CONCURRENTLY idx_participants_active ON audiorooms.room_participants "
        "(room_id, left_at) WHERE left_at IS NULL;",
    ),
    (
        "roomkeeper.job_runs_started_at",
        {"roomkeeper.runs"},
        "CREATE INDEX CONCURRENTLY job_runs_started_at ON roomkeeper.job_runs (started_at);",
    ),
]


@pytest.mark.parametrize("rows", [0, 1000])
def test_an_index_that_is_dropped_or_cannot_be_used_is_named(lived: Lived, rows: int) -> None:
    if rows:
        filled(lived)
    lived.psql("ANALYZE")
    for index, policies, statement in NEEDED:
        with dropped(lived, f"DROP INDEX {index}") as named:
            assert named == dict.fromkeys(policies, statement)
        for flag in ("indisvalid", "indisready"):
            broken = f"UPDATE pg_index SET {flag} = false WHERE indexrelid = '{index}'::regclass"
            with dropped(lived, broken) as named:
                assert set(named) == policies
                advice = f"REINDEX INDEX CONCURRENTLY {index};"
                assert all(one.startswith(advice) for one in named.values())
        going = f"UPDATE pg_index SET indislive = false WHERE indexrelid = '{index}'::regclass"
        with dropped(lived, going) as named:
            assert set(named) == policies


@pytest.mark.parametrize("rows", [0, 1000])
def test_an_index_that_is_another_is_no_help(lived: Lived, rows: int) -> None:
    with lived.engine.begin() as connection:
        fill(connection, [table_of(RoomParticipant)], 1, rows)
    lived.psql("ANALYZE audiorooms.room_participants")
    for instead in (
        "(room_id, left_at) WHERE left_at IS NOT NULL",
        "(room_id, left_at) WHERE left_at IS NULL AND role = 'listener'",
        "(room_id, left_at)",
        "((left_at IS NULL))",
        "USING brin (left_at)",
        "USING hash (left_at)",
        "(room_id) INCLUDE (left_at)",
    ):
        with dropped(
            lived,
            "DROP INDEX audiorooms.idx_participants_active",
            f"CREATE INDEX idx_participants_active ON audiorooms.room_participants {instead}",
        ) as named:
            assert set(named) == {"audiorooms.stays", "audiorooms.dead", "audiorooms.duplicates"}, instead
            # Its name is taken.
            assert set(named.values()) == {
                "CREATE INDEX CONCURRENTLY ON audiorooms.room_participants (room_id, left_at) "
                "WHERE left_at IS NULL;"
            }


def test_an_index_of_another_name_and_shape_will_do(lived: Lived) -> None:
    for instead in (
        "(left_at)",
        "(left_at DESC, room_id) INCLUDE (client_id)",
        "(client_id) WHERE ((left_at) IS NULL)",
        "(id) WHERE left_at IS NULL",
    ):
        with dropped(
            lived,
            "DROP INDEX audiorooms.idx_participants_active",
            f"CREATE INDEX another ON audiorooms.room_participants {instead}",
        ) as named:
            assert named == {}, instead


def test_what_a_failed_build_leaves_is_named(lived: Lived) -> None:
    """CREATE UNIQUE INDEX CONCURRENTLY that met two equal values; REINDEX, or another index, mends it."""
    with lived.engine.begin() as connection:
        fill(connection, [table_of(DeadLetter)], 1, 2)
        connection.exec_driver_sql("UPDATE roomkeeper.dead_letters SET created_at = '2026-01-01Z'")
    lived.psql("DROP INDEX roomkeeper.dead_letters_created_at")
    with pytest.raises(psycopg.errors.UniqueViolation):
        lived.psql("CREATE UNIQUE INDEX CONCURRENTLY another ON roomkeeper.dead_letters (created_at)")
    with lived.engine.begin() as connection:
        ((policy, advice),) = unserved(connection).items()
    assert policy == "roomkeeper.dead_letters"
    assert advice.startswith("REINDEX INDEX CONCURRENTLY roomkeeper.another;")
    lived.psql("DELETE FROM roomkeeper.dead_letters", advice.partition(";")[0])
    lived.sound()


def test_the_advice_mends_it(lived: Lived) -> None:
    lived.psql(*(f"DROP INDEX {index}" for index, *_ in NEEDED))
    warnings = checks.database(lived.settings)
    assert warnings
    assert all(one.warning for one in warnings)
    assert startup.look(lived.settings) == (None, Faults([], {}))
    lived.psql(*(one.advice for one in warnings))
    lived.sound()


# -- tables in other guises -------------------------------------------------------------------------------


def partitioned(lived: Lived) -> None:
    """Have `pern.audit_logs` partitioned by month, as its application's migration would."""
    table = partitions.named("pern.audit_logs")
    with lived.engine.begin() as connection:
        found = partitions.find(connection, table, partitions.age_of(table))
        plan = partitions.plan(connection, found, lived.settings, datetime(2026, 3, 1, tzinfo=UTC))
    assert plan.conversion is not None
    lived.psql(*plan.conversion.before)
    with psycopg.connect(lived.url) as connection:
        for statement in plan.conversion.at_once:
            connection.execute(statement.encode())


AUDIT = {f"pern.audit_{severity}" for severity in ("info", "warning", "error", "critical", "security")}
#: Each of them leads to the rows of a severity, or to old ones.
OTHERS = ("severity", "severity_time")


def without_others(lived: Lived) -> None:
    lived.psql(*(f"DROP INDEX pern.idx_audit_logs_{name}" for name in OTHERS))


def test_a_partitioned_table(lived: Lived) -> None:
    without_others(lived)
    with lived.engine.begin() as connection:
        fill(connection, [partitions.named("pern.audit_logs")], 1, 1000)
    partitioned(lived)
    lived.sound()
    lived.psql("ANALYZE pern.audit_logs")
    lived.sound()
    (index,) = names(lived, "pern.audit_logs")
    lived.psql(f"DROP INDEX pern.{index}")
    # On the table only, for a start: it is invalid until each partition has its own.
    lived.psql("CREATE INDEX idx_audit_logs_created_at ON ONLY pern.audit_logs (created_at)")
    (warning,) = checks.database(lived.settings)
    parts = children(lived, "pern.audit_logs")
    statements = mending(warning.advice)
    assert warning.advice.endswith(f" And so for {len(parts) - 3} more partitions.")
    # No statement keeps writers waiting while it reads the table; none is unique.
    assert all(one.startswith(("CREATE INDEX", "ALTER INDEX")) for one in statements)
    assert [one for one in statements if "CREATE" in one and "CONCURRENTLY" not in one] == [
        "CREATE INDEX idx_audit_logs_created_at_2 ON ONLY pern.audit_logs (created_at)"
    ]
    lived.psql(*statements)
    for part in parts[3:]:
        lived.psql(
            *(one.replace(parts[0], part).replace(bare(parts[0]), bare(part)) for one in statements[1:3])
        )
    lived.sound()
    ((valid,),) = asked(
        lived,
        "SELECT indisvalid FROM pg_index WHERE indexrelid = 'pern.idx_audit_logs_created_at_2'::regclass",
    )
    assert valid


def test_a_table_whose_partitions_are_partitioned(lived: Lived) -> None:
    name = "echoroom.typing_indicators"
    lived.psql(
        f"CREATE TABLE echoroom.more (LIKE {name}) PARTITION BY RANGE (expires_at)",
        "CREATE TABLE echoroom.later PARTITION OF echoroom.more FOR VALUES FROM ('2030-01-01') TO (MAXVALUE)"
        " PARTITION BY HASH (id)",
        "CREATE TABLE echoroom.sooner PARTITION OF echoroom.more DEFAULT",
        "CREATE TABLE echoroom.later_0 PARTITION OF echoroom.later FOR VALUES WITH (MODULUS 1, REMAINDER 0)",
        f"DROP TABLE {name} CASCADE",
        "ALTER TABLE echoroom.more RENAME TO typing_indicators",
    )
    found = [one for one in checks.database(lived.settings) if "No index serves" in one.sentence]
    for one in found:
        lived.psql(*mending(one.advice))
    assert [one for one in checks.database(lived.settings) if "No index serves" in one.sentence] == []
    assert "ON ONLY echoroom.later (expires_at)" in found[0].advice
    invalid = "SELECT FROM pg_index JOIN pg_class ON oid = indexrelid WHERE NOT indisvalid"
    assert asked(lived, invalid) == []


def mending(advice: str) -> list[str]:
    """Return the statements of an advice, which are to be run one by one."""
    return [one.strip() for one in advice.split(";")[:-1]]


def bare(name: str) -> str:
    return name.removeprefix("pern.")


def asked(lived: Lived, query: str) -> list[Any]:
    with psycopg.connect(lived.url) as connection:
        return connection.execute(query.encode()).fetchall()


def names(lived: Lived, table: str) -> list[str]:
    """Return the indexes of a table that lead with `created_at`."""
    with psycopg.connect(lived.url) as connection:
        found = connection.execute(
            "SELECT indexrelid::regclass::text FROM pg_index"
            " JOIN pg_attribute ON attrelid = indrelid AND attnum = indkey[0]"
            " WHERE indrelid = %s::regclass AND attname = 'created_at' AND indnatts = 1",
            [table],
        )
        return [name.removeprefix("pern.") for (name,) in found.fetchall()]


def test_a_partition_that_lacks_an_index_or_has_an_invalid_one(lived: Lived) -> None:
    without_others(lived)
    partitioned(lived)
    (index,) = names(lived, "pern.audit_logs")
    lived.psql(f"DROP INDEX pern.{index}")
    parts = children(lived, "pern.audit_logs")
    assert len(parts) > 3
    # One by one, as a careful migration does it.
    lived.psql(*(f"CREATE INDEX CONCURRENTLY ON {part} (created_at)" for part in parts[1:]))
    (warning,) = checks.database(lived.settings)
    assert warning.advice == f"CREATE INDEX CONCURRENTLY ON {parts[0]} (created_at);"
    lived.psql(warning.advice)
    lived.sound()
    (of_part,) = names(lived, parts[1])
    with dropped(
        lived, f"UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'pern.{of_part}'::regclass"
    ) as named:
        assert set(named) == AUDIT
        assert {one.partition(";")[0] for one in named.values()} == {
            f"REINDEX INDEX CONCURRENTLY pern.{of_part}"
        }


def children(lived: Lived, table: str) -> list[str]:
    with psycopg.connect(lived.url) as connection:
        found = connection.execute(
            "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = %s::regclass ORDER BY 1",
            [table],
        )
        return [name for (name,) in found.fetchall()]


def test_a_view_is_not_judged(lived: Lived) -> None:
    with dropped(
        lived,
        "ALTER TABLE echoroom.typing_indicators RENAME TO typing",
        "DROP INDEX echoroom.idx_typing_indicators_expires",
        "CREATE VIEW echoroom.typing_indicators AS SELECT * FROM echoroom.typing",
    ) as named:
        assert named == {}


def test_a_schema_that_is_called_otherwise(lived: Lived) -> None:
    lived.psql('ALTER SCHEMA echoroom RENAME TO "Echo"')
    policies: Any = POLICIES.values()
    with lived.engine.begin() as connection:
        assert index_check.unserved(connection, policies, {"echoroom": "Echo"}) == []
        connection.exec_driver_sql('DROP INDEX "Echo".idx_typing_indicators_expires')
        (found,) = index_check.unserved(connection, policies, {"echoroom": "Echo"})
    assert found.advice == (
        'CREATE INDEX CONCURRENTLY idx_typing_indicators_expires ON "Echo".typing_indicators (expires_at);'
    )
