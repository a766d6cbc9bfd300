"""The bootstrap makes what is absent, once, and refuses to touch what is half there."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from threading import Barrier

import pytest
from sqlalchemy import Engine, inspect, select, text

from models import audiorooms, connect, echoroom, openchat, pern
from workers.bootstrap import BootstrapError, Outcome, bootstrap
from workers.db import create
from workers.settings import load

APPS = (echoroom, openchat, connect, pern, audiorooms)

MakeEngine = Callable[..., Engine]


@pytest.fixture
def make_engine(empty_database: str) -> Iterator[MakeEngine]:
    """Make engines on one empty database, with schemas renamed as said."""
    with ExitStack() as stack:

        def make(schemas: str = "") -> Engine:
            engine = create(load({"DATABASE_URL": empty_database, "ROOMKEEPER_SCHEMAS": schemas}))
            stack.callback(engine.dispose)
            return engine

        yield make


def tables(engine: Engine, schema: str) -> set[str]:
    return set(inspect(engine).get_table_names(schema))


def run(engine: Engine, *statements: str) -> None:
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))


def test_the_second_time_nothing_is_done(make_engine: MakeEngine) -> None:
    engine = make_engine()
    first = bootstrap(engine, APPS)
    assert [outcome.app for outcome in first] == ["echoroom", "openchat", "connect", "pern", "audiorooms"]
    assert sum(len(outcome.created) for outcome in first) == 38
    assert "user_schema.profiles" in first[2].created
    assert bootstrap(engine, APPS) == [Outcome(outcome.app, ()) for outcome in first]


def test_only_what_is_asked_for_is_made(make_engine: MakeEngine) -> None:
    engine = make_engine()
    bootstrap(engine, [openchat])
    assert inspect(engine).get_schema_names() == ["information_schema", "openchat", "public"]


def test_half_an_application_is_refused_and_left_alone(make_engine: MakeEngine) -> None:
    engine = make_engine()
    bootstrap(engine, [openchat])
    run(engine, "DROP TABLE openchat.attachment, openchat.session")
    before = tables(engine, "openchat")
    with pytest.raises(
        BootstrapError, match=r"^openchat: openchat\.attachment, openchat\.session missing.*own migrations"
    ):
        bootstrap(engine, [echoroom, openchat, pern])
    assert tables(engine, "openchat") == before
    assert tables(engine, "echoroom")
    assert not tables(engine, "pern")


def test_schemas_may_be_called_something_else(make_engine: MakeEngine) -> None:
    engine = make_engine(
        'user_schema=public,interaction_schema=public,communication_schema=public,pern=Pern "2",auth=au'
    )
    outcomes = bootstrap(engine, (connect, pern, audiorooms))
    assert bootstrap(engine, (connect, pern, audiorooms)) == [Outcome(each.app, ()) for each in outcomes]
    assert "public.chat_rooms" in outcomes[0].created
    assert 'Pern "2".messages' in outcomes[1].created
    assert tables(engine, "au") == {"users"}
    assert set(inspect(engine).get_schema_names()) == {
        "information_schema", "public", 'Pern "2"', "audiorooms", "au"
    }  # fmt: skip
    with engine.begin() as connection:
        connection.execute(text("SELECT public.cleanup_expired_sessions()"))
        # The enum's type has moved with its table.
        read = select(pern.MessageStatus.id).where(pern.MessageStatus.status == "read")
        assert connection.execute(read).all() == []


def test_two_applications_cannot_share_a_table(make_engine: MakeEngine) -> None:
    engine = make_engine("echoroom=public,pern=public")
    with pytest.raises(BootstrapError, match=r"public\.users would belong .* ROOMKEEPER_SCHEMAS"):
        bootstrap(engine, APPS)
    assert not tables(engine, "public")


def test_what_supabase_brings_is_left_alone(make_engine: MakeEngine) -> None:
    engine = make_engine()
    run(
        engine,
        "CREATE SCHEMA auth",
        "CREATE TABLE auth.users (id uuid PRIMARY KEY, email text)",
        "CREATE FUNCTION auth.uid() RETURNS uuid LANGUAGE sql AS 'SELECT NULL::uuid'",
        "CREATE SCHEMA echoroom",
        "CREATE FUNCTION echoroom.update_updated_at_column() RETURNS trigger LANGUAGE plpgsql"
        " AS 'BEGIN NEW.updated_at = ''2020-01-01Z''; RETURN NEW; END'",
    )
    bootstrap(engine, (echoroom, audiorooms))
    assert [column["name"] for column in inspect(engine).get_columns("users", "auth")] == ["id", "email"]
    with engine.begin() as connection:
        bodies = text(
            "SELECT proname, prosrc FROM pg_proc WHERE proname IN ('uid', 'update_updated_at_column')"
        )
        found = {row.proname: row.prosrc for row in connection.execute(bodies)}
    assert found["uid"] == "SELECT NULL::uuid"
    assert "2020" in found["update_updated_at_column"]


def test_two_at_once_both_succeed(make_engine: MakeEngine) -> None:
    barrier = Barrier(2)

    def start(engine: Engine) -> list[Outcome]:
        barrier.wait(10)
        return bootstrap(engine, APPS)

    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(start, (make_engine(), make_engine()))
    assert sum(len(outcome.created) for outcome in one + other) == 38
    for first, second in zip(one, other, strict=True):
        assert bool(first.created) != bool(second.created)


def test_a_label_that_we_do_not_know_can_be_read(make_engine: MakeEngine) -> None:
    engine = make_engine()
    bootstrap(engine, [pern])
    run(
        engine,
        "ALTER TYPE pern.enum_users_status ADD VALUE 'dreaming'",
        "INSERT INTO pern.users (id, username, email, password_hash, display_name, status, created_at,"
        " updated_at) VALUES (gen_random_uuid(), 'a', 'a', '', 'a', 'away', now(), now())",
    )
    run(engine, "UPDATE pern.users SET status = 'dreaming'")
    with engine.begin() as connection:
        assert connection.execute(select(pern.User.status)).scalar_one() == "dreaming"
