"""`roomkeeper triggers`: an attachment enqueues itself, and never fails for it."""

from collections.abc import Callable
from time import monotonic
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from commands import grants
from models import openchat
from tests.commands.cli import on
from tests.enqueue.conftest import url_of
from tests.platform import Platform
from workers.db import create

BOTH = pytest.mark.parametrize("app", ["openchat", "pern"])
TABLES = {"openchat": "openchat.attachment", "pern": "pern.attachments"}


def upload(platform: Platform, app: str) -> UUID:
    # pern takes no content twice.
    content = uuid4().bytes
    return platform.openchat_attachment(content) if app == "openchat" else platform.pern_attachment(content)


def outbox(platform: Platform) -> list[tuple[str, Any]]:
    rows = platform.sql("SELECT task, payload FROM roomkeeper.outbox ORDER BY id")
    return [(row.task, row.payload) for row in rows]


def copied(platform: Platform, row_id: UUID) -> str:
    """Return the statement that inserts an openchat attachment like that one, under a new id."""
    columns = ", ".join(
        f'"{column.name}"' for column in openchat.Attachment.__table__.columns if column.name != "id"
    )
    return (
        f"INSERT INTO openchat.attachment ({columns}) SELECT {columns} FROM openchat.attachment"
        f" WHERE id = '{row_id}' RETURNING id"
    )


def installed(platform: Platform, app: str) -> None:
    outcome = on(platform, "triggers", "install", app)
    assert (outcome.code, outcome.err) == (0, "")


@BOTH
def test_a_new_attachment_enqueues_itself(platform: Platform, app: str) -> None:
    outcome = on(platform, "triggers", "install", app)
    assert (outcome.code, outcome.err) == (0, "")
    table = TABLES[app]
    ends = "new attachments enqueue themselves.\n"
    assert outcome.out == f"{app}: the trigger on {table} is there now; {ends}"
    again = on(platform, "triggers", "install", app)
    assert (again.code, again.out) == (0, f"{app}: the trigger on {table} was there already; {ends}")
    row_id = upload(platform, app)
    expected = [("attachments.process", {"app": app, "id": str(row_id)})]
    assert outbox(platform) == expected
    # The other application's do not.
    other = "pern" if app == "openchat" else "openchat"
    upload(platform, other)
    assert outbox(platform) == expected
    assert on(platform, "triggers", "list").out.splitlines() == [
        f"{name}: {'a trigger' if name == app else 'no trigger'} on {TABLES[name]}" for name in TABLES
    ]

    outcome = on(platform, "triggers", "remove", app)
    assert (outcome.code, outcome.out) == (0, f"{app}: the trigger on {table} is removed.\n")
    upload(platform, app)
    assert outbox(platform) == expected
    outcome = on(platform, "triggers", "remove", app)
    assert (outcome.code, outcome.out) == (0, f"{app}: there is no trigger on {table}.\n")


def test_a_table_is_called_as_the_settings_say(platform: Platform) -> None:
    platform.sql('ALTER SCHEMA openchat RENAME TO "Chat-1"')
    platform.set(schemas="openchat=Chat-1")
    installed(platform, "openchat")
    engine = create(platform.settings)
    platform.engine.dispose()
    platform.engine = engine
    row_id = platform.openchat_attachment(b"a")
    assert outbox(platform) == [("attachments.process", {"app": "openchat", "id": str(row_id)})]
    assert on(platform, "triggers", "list").out.splitlines()[0] == "openchat: a trigger on Chat-1.attachment"
    assert on(platform, "triggers", "remove", "openchat").code == 0


def test_an_insert_that_is_rolled_back_leaves_nothing(platform: Platform) -> None:
    row_id = platform.openchat_attachment(b"a")
    installed(platform, "openchat")
    with psycopg.connect(platform.environment["DATABASE_URL"]) as service:
        service.execute(copied(platform, row_id))
        assert service.execute("SELECT FROM roomkeeper.outbox").rowcount == 1
        service.rollback()
    assert outbox(platform) == []


def test_many_rows_in_one_statement_are_all_enqueued(platform: Platform) -> None:
    row_id = platform.openchat_attachment(b"a")
    installed(platform, "openchat")
    with psycopg.connect(platform.environment["DATABASE_URL"]) as service:
        from_ = "FROM openchat.attachment"
        many = copied(platform, row_id).replace(from_, f"{from_}, generate_series(1, 200)")
        ids = [str(made) for (made,) in service.execute(many).fetchall()]
    assert sorted(payload["id"] for _, payload in outbox(platform)) == sorted(ids)


#: What may be wrong when a row is inserted.
TROUBLES = {
    "the table is gone": "ALTER TABLE roomkeeper.outbox RENAME TO inbox",
    "the function is gone": "DROP FUNCTION roomkeeper.enqueue",
    "the registry is empty": "DELETE FROM roomkeeper.sql_tasks",
    "the disk says no": "ALTER TABLE roomkeeper.outbox ADD CHECK (task IS NULL)",
    "the trigger is made wrongly": "ALTER TRIGGER roomkeeper_enqueue ON openchat.attachment RENAME TO other;"
    "CREATE OR REPLACE TRIGGER other AFTER INSERT ON openchat.attachment FOR EACH ROW"
    " EXECUTE FUNCTION roomkeeper.enqueue_attachment()",
}


@pytest.mark.parametrize("trouble", TROUBLES.values(), ids=TROUBLES)
def test_whatever_goes_wrong_the_insert_goes_on(platform: Platform, trouble: str) -> None:
    row_id = platform.openchat_attachment(b"a")
    installed(platform, "openchat")
    for statement in trouble.split(";"):
        platform.sql(statement)
    assert warned(platform, copied(platform, row_id)).startswith(
        "roomkeeper: an attachment was not enqueued: "
    )
    assert len(platform.sql("SELECT FROM openchat.attachment")) == 2


def test_an_outbox_that_is_locked_holds_an_insert_up_for_a_second_only(platform: Platform) -> None:
    row_id = platform.openchat_attachment(b"a")
    installed(platform, "openchat")
    with psycopg.connect(platform.environment["DATABASE_URL"]) as other:
        other.execute("LOCK TABLE roomkeeper.outbox IN ACCESS EXCLUSIVE MODE")
        began = monotonic()
        assert "lock timeout" in warned(platform, copied(platform, row_id))
        # The service's own patience would be 20 seconds.
        assert monotonic() - began < 10
        other.rollback()
    assert len(platform.sql("SELECT FROM openchat.attachment")) == 2
    assert outbox(platform) == []


def warned(platform: Platform, statement: str) -> str:
    """Run a statement that must succeed; return what it is warned of."""
    heard: list[str] = []
    with psycopg.connect(platform.environment["DATABASE_URL"]) as service:
        service.add_notice_handler(lambda notice: heard.append(f"{notice.severity}|{notice.message_primary}"))
        service.execute("SET lock_timeout = '20s'")
        service.execute(statement)
        # The application's own settings are its own.
        assert service.execute("SHOW lock_timeout").fetchone() == ("20s",)
    (warning,) = heard
    severity, _, message = warning.partition("|")
    assert severity == "WARNING"
    return message


def test_the_service_itself_needs_no_right_of_ours(platform: Platform, role: Callable[[], str]) -> None:
    row_id = platform.openchat_attachment(b"a")
    installed(platform, "openchat")
    name = role()
    platform.sql(f'GRANT USAGE ON SCHEMA openchat TO "{name}"')
    platform.sql(f'GRANT SELECT, INSERT ON openchat.attachment TO "{name}"')
    with psycopg.connect(url_of(platform.environment["DATABASE_URL"], name)) as service:
        service.execute(copied(platform, row_id))
    assert len(outbox(platform)) == 1


def test_the_owner_of_the_table_installs_it_with_the_grant(
    platform: Platform, role: Callable[[], str]
) -> None:
    owner, other = role(), role()
    platform.sql(f'ALTER TABLE openchat.attachment OWNER TO "{owner}"')
    for name in (owner, other):
        platform.sql(f'GRANT USAGE ON SCHEMA openchat TO "{name}"')
    url = platform.environment["DATABASE_URL"]
    refusal = (
        "The role {} may not put triggers on openchat.attachment or take them away: that is for its owner. "
        f"Run: roomkeeper grant {owner}; then this command with DATABASE_URL of the role {owner}.\n"
    )

    def runs(command: str, name: str) -> str | None:
        platform.environment["DATABASE_URL"] = url_of(url, name)
        outcome = on(platform, "triggers", command, "openchat")
        assert outcome.code == bool(outcome.err)
        assert outcome.code == 0 or outcome.out == ""
        return outcome.err or None

    for name in (owner, other):
        assert runs("install", name) == refusal.format(name)
    platform.environment["DATABASE_URL"] = url
    assert on(platform, "grant", owner).code == 0
    assert on(platform, "grant", other).code == 0
    assert runs("install", other) == refusal.format(other)
    assert runs("install", owner) is None
    platform.environment["DATABASE_URL"] = url
    upload(platform, "openchat")
    assert len(outbox(platform)) == 1
    assert runs("remove", other) == refusal.format(other)
    assert runs("remove", owner) is None


def test_a_trigger_that_is_switched_off_is_said(platform: Platform) -> None:
    installed(platform, "openchat")
    platform.sql("ALTER TABLE openchat.attachment DISABLE TRIGGER roomkeeper_enqueue")
    found = on(platform, "triggers", "list").out.splitlines()[0]
    assert found == "openchat: a trigger that is switched off on openchat.attachment"


def test_an_application_without_attachments_is_a_sentence(platform: Platform) -> None:
    for command in ("install", "remove"):
        outcome = on(platform, "triggers", command, "connect")
        assert (outcome.code, outcome.out) == (1, "")
        assert outcome.err == "connect has no attachments: there is nothing to put a trigger on.\n"
        outcome = on(platform, "triggers", command, "openchad")
        assert (outcome.code, outcome.out) == (1, "")
        assert outcome.err == (
            "'openchad' is not an application: echoroom, openchat, connect, pern, audiorooms. "
            "Did you mean 'openchat'?\n"
        )


@pytest.mark.parametrize("schemas", ["", "openchat=elsewhere", "openchat=echoroom"])
def test_a_table_that_is_none_is_a_sentence(platform: Platform, schemas: str) -> None:
    platform.sql("ALTER TABLE openchat.attachment RENAME TO attachments")
    platform.set(schemas=schemas)
    schema = schemas.partition("=")[2] or "openchat"
    outcome = on(platform, "triggers", "install", "openchat")
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err == (
        f"The table {schema}.attachment does not exist. Run the application's migrations, or say in "
        "ROOMKEEPER_SCHEMAS what its schema is really called.\n"
    )


def test_a_database_without_the_function_is_a_sentence(platform: Platform) -> None:
    for change in ("DROP FUNCTION roomkeeper.enqueue_attachment", "DROP SCHEMA roomkeeper CASCADE"):
        platform.sql(change)
        outcome = on(platform, "triggers", "install", "pern")
        assert (outcome.code, outcome.out) == (1, "")
        assert outcome.err == "The schema roomkeeper lacks the function. Run: roomkeeper db upgrade\n"


def test_the_trigger_runs_no_code_of_the_tables_owner_with_our_rights(platform: Platform) -> None:
    """An owner may define how their type becomes JSON; converting the row to JSON runs that function."""
    role = f"mallory_{uuid4().hex[:8]}"
    with platform.engine.connect() as connection:

        def run(statement: str) -> Any:
            return connection.exec_driver_sql(statement)

        run(f"CREATE ROLE {role}")
        run(f"CREATE SCHEMA {role} AUTHORIZATION {role}")
        for statement in grants.sql(role):
            run(statement)
        connection.commit()
        try:
            run(f"SET ROLE {role}")
            run(f"CREATE TABLE {role}.log (who text)")
            run(f"CREATE TYPE {role}.mood AS ENUM ('x')")
            body = f"BEGIN INSERT INTO {role}.log VALUES (current_user); RETURN NULL; END"
            for target in ("json", "uuid"):
                run(
                    f"CREATE FUNCTION {role}.to_{target}({role}.mood) RETURNS {target} LANGUAGE plpgsql"
                    f" AS $$ {body} $$"
                )
                run(
                    f"CREATE CAST ({role}.mood AS {target}) WITH FUNCTION {role}.to_{target}({role}.mood)"
                    " AS ASSIGNMENT"
                )
            run(f"CREATE TABLE {role}.files (id uuid, mood {role}.mood)")
            for number, column in enumerate(("id", "mood")):
                run(
                    f"CREATE TRIGGER t{number} AFTER INSERT ON {role}.files FOR EACH ROW"
                    f" EXECUTE FUNCTION roomkeeper.enqueue_attachment('pern', '{column}')"
                )
            run(f"INSERT INTO {role}.files VALUES (gen_random_uuid(), 'x')")
            assert run(f"SELECT * FROM {role}.log").all() == []
            run("RESET ROLE")
            assert len(run("SELECT * FROM roomkeeper.outbox").all()) == 1
        finally:
            connection.rollback()
            run(f"DROP OWNED BY {role} CASCADE")
            run(f"DROP ROLE {role}")
            connection.commit()
