"""`roomkeeper grant`: a role may hand work over, and nothing else of ours."""

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from commands.grants import FUNCTIONS, sql
from tests.commands.cli import on
from tests.enqueue.conftest import url_of
from tests.platform import Platform

PAYLOAD = {"app": "pern", "id": "0b0f7a1e-2f0c-4c6e-9f0a-8d9a1b2c3d4e"}
EVENT = {
    "message_id": PAYLOAD["id"],
    "user_id": PAYLOAD["id"],
    "status": "read",
    "at": "2026-01-31T23:59:59Z",
}
CALLS: dict[str, Any] = {
    "SELECT roomkeeper.enqueue('attachments.process', %s)": PAYLOAD,
    "SELECT roomkeeper.record_status('pern', %s)": [EVENT],
}


def connected(platform: Platform, role: str) -> "psycopg.Connection[tuple[Any, ...]]":
    return psycopg.connect(url_of(platform.environment["DATABASE_URL"], role), autocommit=True)


def test_a_role_may_call_both_in_a_transaction_of_its_own(
    platform: Platform, role: Callable[[], str]
) -> None:
    name = role()
    outcome = on(platform, "grant", name)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out == (
        f"{name} may call roomkeeper.enqueue and roomkeeper.record_status, and put the trigger on "
        "tables of its own. It was given no right on any table.\n"
    )
    platform.sql(f'CREATE SCHEMA own AUTHORIZATION "{name}"')
    with connected(platform, name) as service:
        service.execute("CREATE TABLE own.work (id int)")
        with service.transaction():
            service.execute("INSERT INTO own.work VALUES (1)")
            for call, given in CALLS.items():
                service.execute(call, (Jsonb(given),))
        with service.transaction(force_rollback=True):
            for call, given in CALLS.items():
                service.execute(call, (Jsonb(given),))
    for table, kept in (("own.work", 1), ("roomkeeper.outbox", 1), ("roomkeeper.status_inbox", 1)):
        assert len(platform.sql(f"SELECT FROM {table}")) == kept
    # Twice is like once.
    assert on(platform, "grant", name) == outcome


def test_a_role_may_do_nothing_else_of_ours(platform: Platform, role: Callable[[], str]) -> None:
    name = role()
    on(platform, "grant", name)
    tables = [
        row.name
        for row in platform.sql(
            "SELECT 'roomkeeper.' || relname AS name FROM pg_class WHERE relkind IN ('r', 'p', 'S')"
            " AND relnamespace = 'roomkeeper'::regnamespace"
        )
    ]
    assert "roomkeeper.outbox" in tables
    with connected(platform, name) as service:
        for table in tables:
            for statement in (
                "SELECT * FROM {}",
                "DELETE FROM {}",
                "INSERT INTO {} DEFAULT VALUES",
                "TRUNCATE {}",
            ):
                with pytest.raises((psycopg.errors.InsufficientPrivilege, psycopg.errors.WrongObjectType)):
                    service.execute(statement.format(table))
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            service.execute("CREATE TABLE roomkeeper.mine (id int)")
    allowed = platform.sql(
        "SELECT format('%s(%s)', proname, pg_get_function_arguments(oid)) AS name FROM pg_proc"
        " WHERE pronamespace = 'roomkeeper'::regnamespace"
        " AND has_function_privilege(:role, oid, 'EXECUTE')",
        role=name,
    )
    assert {row.name for row in allowed} == {
        "enqueue(task text, payload jsonb)",
        "record_status(app text, events jsonb)",
        "enqueue_attachment()",
    }
    assert len(FUNCTIONS) == len(allowed)


def test_without_the_grant_nobody_may_call(platform: Platform, role: Callable[[], str]) -> None:
    name = role()
    for granted in (False, True):
        if granted:
            # Nor with the schema alone.
            platform.sql(f'GRANT USAGE ON SCHEMA roomkeeper TO "{name}"')
        with connected(platform, name) as service:
            for call, given in CALLS.items():
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    service.execute(call, (Jsonb(given),))


def test_the_functions_act_as_their_owner_whatever_the_search_path(platform: Platform) -> None:
    found = platform.sql(
        "SELECT proname, prosecdef, proconfig FROM pg_proc"
        " WHERE pronamespace = 'roomkeeper'::regnamespace AND prolang ="
        " (SELECT oid FROM pg_language WHERE lanname = 'plpgsql')"
    )
    paths = {row.proname: (row.prosecdef, row.proconfig[0]) for row in found}
    path = "search_path=pg_catalog, pg_temp"
    assert paths == {
        "enqueue": (True, path),
        "record_status": (True, path),
        "enqueue_attachment": (True, path),
        # It does nothing but refuse.
        "receipts_are_only_added": (False, path),
        "refuse": (False, path),
    }


def test_what_is_shown_is_what_would_be_done(platform: Platform, role: Callable[[], str]) -> None:
    name = role()
    outcome = on(platform, "grant", name, "--show")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.splitlines() == [
        f'GRANT USAGE ON SCHEMA roomkeeper TO "{name}";',
        "GRANT EXECUTE ON FUNCTION roomkeeper.enqueue(text, jsonb), roomkeeper.record_status(text, jsonb), "
        f'roomkeeper.enqueue_attachment() TO "{name}";',
    ]
    with connected(platform, name) as service:
        call, given = next(iter(CALLS.items()))
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            service.execute(call, (Jsonb(given),))
        for statement in outcome.out.splitlines():
            platform.sql(statement)
        service.execute(call, (Jsonb(given),))


def test_names_are_quoted() -> None:
    assert sql('a"; DROP TABLE x; --')[0] == 'GRANT USAGE ON SCHEMA roomkeeper TO "a""; DROP TABLE x; --"'


@pytest.mark.parametrize("stranger", ["anon", "authenticated"])
def test_strangers_are_refused(platform: Platform, stranger: str) -> None:
    for options in ((), ("--show",)):
        outcome = on(platform, "grant", stranger, *options)
        assert (outcome.code, outcome.out) == (1, "")
        assert outcome.err.startswith(f"{stranger} is the role of everybody who has the public key: ")


def test_a_role_that_is_none_is_a_sentence(platform: Platform) -> None:
    outcome = on(platform, "grant", "stranger")
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err == "There is no role stranger in this database; make it first.\n"


def test_a_database_without_the_functions_is_a_sentence(platform: Platform, role: Callable[[], str]) -> None:
    name = role()
    for change in ("DROP FUNCTION roomkeeper.record_status", "DROP SCHEMA roomkeeper CASCADE"):
        platform.sql(change)
        outcome = on(platform, "grant", name)
        assert (outcome.code, outcome.out) == (1, "")
        assert outcome.err == (
            "There is nothing to grant yet in the schema roomkeeper. Run: roomkeeper db upgrade\n"
        )


def test_who_may_not_grant_is_told(platform: Platform, role: Callable[[], str]) -> None:
    platform.environment["DATABASE_URL"] = url_of(platform.environment["DATABASE_URL"], role())
    outcome = on(platform, "grant", role())
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.faults == [
        (
            "The database refuses: permission denied for schema roomkeeper.",
            "Give the role of DATABASE_URL that right, or name another role there.",
        )
    ]


def test_the_public_may_call_nothing_of_ours(platform: Platform) -> None:
    given = platform.sql(
        "SELECT proname FROM pg_proc, aclexplode(coalesce(proacl, acldefault('f', proowner))) AS given"
        " WHERE pronamespace = 'roomkeeper'::regnamespace AND given.grantee = 0"
    )
    assert given == []
