"""Each fault of a live database is found and named, and a sound one has none."""

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import pytest
from sqlalchemy import Connection, Engine, Table, make_url, text

from models import audiorooms, connect, echoroom, openchat, pern
from models.base import Base
from workers.bootstrap import bootstrap
from workers.db import create
from workers.inspection import Fault, Need, inspect
from workers.settings import load

APPS = (echoroom, openchat, connect, pern, audiorooms)
ALL = frozenset({"SELECT", "INSERT", "UPDATE", "DELETE"})
RUN_OR_RENAME = (
    "Run the application's migrations, or say in ROOMKEEPER_SCHEMAS what its schema is really called."
)
RUN = "Run the migrations of the application that the table belongs to."


@pytest.fixture
def engine(empty_database: str) -> Iterator[Engine]:
    engine = create(load({"DATABASE_URL": empty_database}))
    yield engine
    engine.dispose()


@pytest.fixture
def connection(engine: Engine) -> Iterator[Connection]:
    """A transaction that is never committed, on a database with all five applications."""
    bootstrap(engine, APPS)
    with engine.connect() as connection:
        yield connection


def table(model: type[Base]) -> Table:
    assert isinstance(model.__table__, Table)
    return model.__table__


def need(model: type[Base], *columns: str, privileges: frozenset[str] = ALL) -> Need:
    return Need(table(model), frozenset(columns), privileges)


def run(connection: Connection, *statements: str) -> None:
    for statement in statements:
        connection.execute(text(statement))


def test_a_sound_database_has_no_faults(connection: Connection) -> None:
    needs = [
        Need(each, frozenset(each.columns.keys()), ALL)
        for each in Base.metadata.tables.values()
        if each.schema in {schema for app in APPS for schema in app.SCHEMAS}
    ]
    assert len(needs) == 38
    assert inspect(connection, needs, {}) == []


def test_no_needs_no_faults(connection: Connection) -> None:
    assert inspect(connection, [], {}) == []


def test_a_schema_that_is_missing_is_one_fault(connection: Connection) -> None:
    needs = [need(openchat.Message, "id"), need(openchat.Attachment, "id")]
    assert inspect(connection, needs, {"openchat": "chat"}) == [
        Fault("The schema chat does not exist.", RUN_OR_RENAME)
    ]


def test_a_missing_table_is_called_by_its_real_name(connection: Connection) -> None:
    assert inspect(connection, [need(openchat.Attachment, "id")], {"openchat": "public"}) == [
        Fault("The table public.attachment does not exist.", RUN_OR_RENAME)
    ]


def test_a_table_is_found_under_its_real_name(connection: Connection) -> None:
    run(connection, "ALTER SCHEMA openchat RENAME TO chat")
    assert inspect(connection, [need(openchat.Attachment, "id")], {"openchat": "chat"}) == []


def test_a_missing_column(connection: Connection) -> None:
    run(connection, "ALTER TABLE openchat.attachment DROP COLUMN metadata")
    needs = [need(openchat.Attachment, "id"), need(openchat.Attachment, "metadata")]
    assert inspect(connection, needs, {}) == [
        Fault("The column openchat.attachment.metadata does not exist.", RUN)
    ]
    assert inspect(connection, needs[:1], {}) == []


@pytest.mark.parametrize(
    ("model", "column", "real", "wanted"),
    [
        (openchat.Attachment, "mime_type", "character varying(100)", "text"),
        (openchat.Attachment, "created_at", "timestamp with time zone", "timestamp without time zone"),
        (openchat.Attachment, "file_size", "bigint", "integer"),
        (pern.Attachment, "file_name", "character varying(100)", "character varying(255)"),
        (pern.AuditLog, "new_values", "json", "jsonb"),
    ],
)
def test_a_column_of_another_type(
    connection: Connection, model: type[Base], column: str, real: str, wanted: str
) -> None:
    name = f"{table(model).schema}.{table(model).name}"
    run(connection, f"ALTER TABLE {name} ALTER {column} TYPE {real}")
    assert inspect(connection, [need(model, column)], {}) == [
        Fault(f"The column {name}.{column} is of type {real}, not {wanted}.", RUN)
    ]


def test_an_enum_is_compared_by_its_name(connection: Connection) -> None:
    needs = [need(pern.MessageStatus, "status")]
    run(connection, "ALTER TYPE pern.enum_message_statuses_status ADD VALUE 'lost'")
    assert inspect(connection, needs, {}) == []
    run(connection, "ALTER TYPE pern.enum_message_statuses_status RENAME TO fate")
    assert inspect(connection, needs, {}) == [
        Fault(
            "The column pern.message_statuses.status is of type pern.fate, not enum_message_statuses_status.",
            RUN,
        )
    ]


def test_a_view_or_a_partitioned_table_will_do(connection: Connection) -> None:
    run(
        connection,
        "ALTER TABLE openchat.verification RENAME TO v",
        "CREATE VIEW openchat.verification AS SELECT * FROM openchat.v",
        "ALTER TABLE openchat.account RENAME TO a",
        "CREATE TABLE openchat.account (LIKE openchat.a) PARTITION BY HASH (id)",
    )
    for model in (openchat.Verification, openchat.Account):
        assert (
            inspect(connection, [Need(table(model), frozenset(table(model).columns.keys()), ALL)], {}) == []
        )


class TestPlainRole:
    @pytest.fixture
    def role(self, connection: Connection) -> str:
        """A role that may use every table and is subject to row level security."""
        # Never committed, but its name must be free in the whole cluster.
        role = f"plain_{uuid4().hex}"
        schemas = ", ".join(schema for app in APPS for schema in app.SCHEMAS)
        run(
            connection,
            f"CREATE ROLE {role}",
            f"GRANT USAGE ON SCHEMA {schemas} TO {role}",
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schemas} TO {role}",
        )
        return role

    @contextmanager
    def acting(self, connection: Connection, role: str) -> Iterator[None]:
        run(connection, f"SET LOCAL ROLE {role}")
        yield
        run(connection, "RESET ROLE")

    def test_a_missing_privilege(self, connection: Connection, role: str) -> None:
        run(connection, f'REVOKE UPDATE, DELETE ON openchat."user" FROM {role}')
        with self.acting(connection, role):
            assert inspect(connection, [need(openchat.User, "id")], {}) == [
                Fault(
                    f"The role {role} lacks UPDATE, DELETE on openchat.user.",
                    f'GRANT UPDATE, DELETE ON openchat."user" TO {role};',
                )
            ]
            reading = need(openchat.User, "id", privileges=frozenset({"SELECT"}))
            assert inspect(connection, [reading], {}) == []

    def test_a_schema_that_may_not_be_used(self, connection: Connection, role: str) -> None:
        run(connection, f"REVOKE USAGE ON SCHEMA openchat FROM {role}")
        with self.acting(connection, role):
            assert inspect(connection, [need(openchat.User, "id")], {}) == [
                Fault(
                    f"The role {role} may not use the schema openchat.",
                    f"GRANT USAGE ON SCHEMA openchat TO {role};",
                )
            ]

    def blinded(self, role: str, commands: str) -> list[Fault]:
        return [
            Fault(
                f"Row level security hides rows of audiorooms.audio_rooms from the role {role} ({commands}).",
                f"ALTER ROLE {role} BYPASSRLS; or run as the service role.",
            )
        ]

    def look(self, connection: Connection, role: str) -> list[Fault]:
        with self.acting(connection, role):
            return inspect(connection, [need(audiorooms.AudioRoom, "id")], {})

    def test_row_level_security_blinds_and_bypassrls_cures(self, connection: Connection, role: str) -> None:
        assert self.look(connection, role) == self.blinded(role, "SELECT, INSERT, UPDATE, DELETE")
        run(connection, f"ALTER ROLE {role} BYPASSRLS")
        assert self.look(connection, role) == []

    @pytest.mark.parametrize(
        ("policies", "blind"),
        [
            (["FOR ALL USING (true)"], ""),
            (["FOR SELECT USING (true)"], "INSERT, UPDATE, DELETE"),
            (["FOR SELECT USING (public)", "FOR ALL TO {role} USING (true)"], ""),
            (["FOR ALL USING (true)", "AS RESTRICTIVE FOR DELETE USING (active)"], "DELETE"),
            (["FOR ALL USING (true) WITH CHECK (public)"], "INSERT, UPDATE"),
            (
                [
                    "FOR SELECT USING (true)",
                    "FOR INSERT WITH CHECK (true)",
                    "FOR UPDATE USING (true)",
                    "FOR DELETE USING (true)",
                ],
                "",
            ),
            (["TO pg_monitor USING (true)"], "SELECT, INSERT, UPDATE, DELETE"),
        ],
    )
    def test_only_a_plain_true_for_this_role_cures(
        self, connection: Connection, role: str, policies: list[str], blind: str
    ) -> None:
        for number, policy in enumerate(policies):
            run(connection, f"CREATE POLICY p{number} ON audiorooms.audio_rooms {policy.format(role=role)}")
        assert self.look(connection, role) == (self.blinded(role, blind) if blind else [])


def test_a_database_that_is_not_utf8(engine: Engine, empty_database: str) -> None:
    name = f"test_{uuid4().hex}"
    autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
    with autocommit.connect() as connection:
        run(connection, f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'")
    url = make_url(empty_database).set(database=name).render_as_string(hide_password=False)
    other = create(load({"DATABASE_URL": url}))
    try:
        with other.begin() as connection:
            assert inspect(connection, [], {}) == [
                Fault(
                    "The database stores text as LATIN1, not UTF8.",
                    "Create a database with ENCODING 'UTF8' and restore a dump of this one into it.",
                )
            ]
    finally:
        other.dispose()
        with autocommit.connect() as connection:
            run(connection, f"DROP DATABASE {name}")
