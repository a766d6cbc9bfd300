"""Which index serves which condition: our judgement beside the planner's, on a filled and analysed table.

There the planner is a fair witness. What it concludes and we do not is listed; never the other way.
"""

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import (
    Boolean,
    Column,
    DateTime,
    Engine,
    Enum,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    and_,
    func,
    or_,
    select,
)

from models.audiorooms import RoomParticipant
from models.echoroom import SessionParticipant, TypingIndicator
from models.openchat import Session
from tasks.policies import sweep as policies
from tasks.sweeps import index_check
from tasks.sweeps.index_shapes import served
from tasks.sweeps.predicates import restriction
from workers.db import create
from workers.settings import load

T = Table(
    "t",
    MetaData(),
    Column("id", Integer, primary_key=True),
    Column("n", Integer),
    Column("b", Boolean),
    Column("s", Text),
    Column("v", String(20)),
    Column("k", Enum("a", "b", "c", name="Kind")),
    Column("Odd", Text),
    Column("at", DateTime(timezone=True)),
    schema="shapes",
)
N, B, S, V, K, ODD, AT = (T.c[name] for name in ("n", "b", "s", "v", "k", "Odd", "at"))
NOW = func.now()

#: Indexes, conditions, and whether the one serves the other.
CASES: list[tuple[str, Any, bool]] = [
    ("(n)", N < 5, True),
    ("(n DESC NULLS LAST) INCLUDE (s)", N < 5, True),
    ("(n, s)", N == 5, True),
    ("(n)", N.is_(None), True),
    ("(n)", N != 5, False),
    ("(n)", or_(N < 5, N.is_(None)), True),
    ("(n)", or_(N < 5, S == "a"), False),
    ("(n)", and_(S == "a", N < 5), True),
    ("(n)", and_(S == "a", or_(N < 5, N > 4990)), True),
    ("((n + 1))", N < 5, False),
    ("(b)", B.is_(True), True),
    ("(b)", B.is_(False), True),
    ("(b)", B.is_not(True), False),
    ("USING hash (n)", N == 5, True),
    ("USING hash (n)", N.in_([5, 6]), True),
    ("USING hash (n)", N < 5, False),
    ("USING hash (n)", N.is_(None), False),
    ("USING hash (b)", B.is_(True), True),
    ("(s text_pattern_ops)", S == "a", True),
    ("(s text_pattern_ops)", S < "a", False),
    ("(s text_pattern_ops)", S.is_(None), True),
    ('(s COLLATE "POSIX")', S == "a", False),
    ("(v)", V.in_(["a", "b"]), True),
    ("(k)", K == "a", True),
    ('("Odd")', ODD == "a", True),
    # Restricted to some rows.
    ("(id) WHERE n IS NULL", N.is_(None), True),
    ("(id) WHERE n IS NULL AND s = 'a'", and_(N.is_(None), S == "a"), True),
    ("(id) WHERE n IS NULL AND s = 'a'", N.is_(None), False),
    ("(id) WHERE b", B.is_(True), False),
    ("(id) WHERE b IS TRUE", B.is_(True), True),
    ("(id) WHERE NOT b", B.is_(False), False),
    ("(id) WHERE b = true", and_(B == True), True),  # noqa: E712 - SQL
    ("(id) WHERE b", and_(B == True), True),  # noqa: E712 - SQL
    ("(id) WHERE s = 'a'", S == "a", True),
    ("(id) WHERE s = 'it''s (a) and b'", S == "it's (a) and b", True),
    ("(id) WHERE s IN ('a', 'b', 'c')", S.in_(["c", "a"]), True),
    ("(id) WHERE s IN ('a', 'b')", S.in_(["a", "c"]), False),
    ("(id) WHERE s IN ('a', 'b')", S == "b", True),
    ("(id) WHERE v IN ('a', 'b')", V == "b", True),
    ("(id) WHERE v = 'a'", V == "a", True),
    ("(id) WHERE k = 'a'", K == "a", True),
    ("(id) WHERE \"Odd\" = 'a'", ODD == "a", True),
    ("(id) WHERE n = 5", N == 5, True),
    ("(id) WHERE n = 5", N == 6, False),
    ("(id) WHERE NOT (n IS NULL AND s = 'a')", and_(N.is_(None), S == "a"), False),
    ("(id) WHERE lower(s) = 'a'", S == "a", False),
    # All rows in which the column says anything.
    ("(at) WHERE at IS NOT NULL", AT < NOW, True),
    ("(at) WHERE at IS NOT NULL", AT.is_(None), False),
    ("(n) WHERE at IS NOT NULL", N < 5, False),
    ("(n) WHERE at IS NOT NULL", and_(N < 5, AT < NOW), True),
    ("(at) WHERE s = 'a'", and_(AT < NOW, S == "a"), True),
    ("(at) WHERE s = 'a'", AT < NOW, False),
]
#: The planner concludes more than we do.
NOT_SEEN: list[tuple[str, Any]] = [
    # A skip scan, since PostgreSQL 18: good as long as the first column has few values.
    ("(s, n)", N == 5),
    ("(id) WHERE n > 4", N > 5),
    ("(id) WHERE s = 'a' OR s = 'b'", S == "a"),
    ("(id) WHERE s <> 'a'", S == "b"),
]


@pytest.fixture(scope="module")
def engine(postgres: Any) -> Iterator[Engine]:
    made = create(load({"DATABASE_URL": postgres.url()}))
    with made.begin() as connection:
        connection.exec_driver_sql(
            """
            CREATE SCHEMA shapes;
            CREATE TYPE shapes."Kind" AS ENUM ('a', 'b', 'c');
            CREATE TABLE shapes.t (id int, n int, b bool, s text, v varchar(20), k shapes."Kind", "Odd" text,
                                   at timestamptz);
            INSERT INTO shapes.t SELECT i, nullif(i, 1), mod(i, 100) = 0, 'a', 'a', 'b', 'a', now() FROM
                                 generate_series(1, 5000) AS i;
            """
        )
    with made.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("ANALYZE shapes.t")
    yield made
    with made.begin() as connection:
        connection.exec_driver_sql("DROP SCHEMA shapes CASCADE")
    made.dispose()


def judged(engine: Engine, index: str, condition: Any) -> tuple[bool, bool]:
    """Return our judgement, and the planner's."""
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE INDEX sole ON shapes.t {index}".replace("%", "%%"))
        (part,) = index_check.read(connection, [T], {})[T].parts
        judgement = served(condition, T, part.usable)
        connection.exec_driver_sql("SELECT set_config('enable_seqscan', 'off', true)")
        query = select(T.c.id).where(condition)
        compiled = query.compile(dialect=engine.dialect, compile_kwargs={"literal_binds": True})
        plan = "\n".join(connection.exec_driver_sql(f"EXPLAIN {compiled}").scalars())
        # Without a condition an index is read as a whole, which is right only if it is restricted.
        uses = "Index Cond" in plan or ("sole" in plan and " WHERE " in index)
        connection.rollback()
    return judgement, uses


@pytest.mark.parametrize(("index", "condition", "right"), CASES)
def test_our_judgement_is_the_planners(engine: Engine, index: str, condition: Any, right: bool) -> None:
    judgement, planner = judged(engine, index, condition)
    assert (judgement, planner) == (right, right)


@pytest.mark.parametrize(("index", "condition"), NOT_SEEN)
def test_what_is_not_seen_is_not_called_served(engine: Engine, index: str, condition: Any) -> None:
    assert judged(engine, index, condition) == (False, True)


@pytest.mark.parametrize(
    "where",
    [
        "state = 'waiting'",
        "(state = 'waiting'::text)",
        "((state)::text = 'waiting'::text)",
        "state in ('waiting')",
        "((state)::text = ANY ((ARRAY['waiting'::character varying])::text[]))",
        "(state = ANY (ARRAY['waiting'::pern.\"Kind\"]))",
    ],
)
def test_spellings_of_one_restriction(where: str) -> None:
    assert restriction(where) == frozenset({("in", "state", frozenset({"waiting"}))})


@pytest.mark.parametrize(
    "where", ["a or b", "((a = 1) OR (b = 2))", "(NOT ((a IS NULL) AND b))", "lower(a) = 'x'", "f(a)"]
)
def test_a_restriction_that_is_not_clear_is_not_guessed(where: str) -> None:
    assert restriction(where) is None


@pytest.mark.parametrize(
    ("condition", "right"),
    [
        (TypingIndicator.expires_at < policies.NOW, True),
        (TypingIndicator.expires_at.is_(None), True),
        (TypingIndicator.expires_at >= policies.NOW - policies.AFTER, True),
        (TypingIndicator.session_id.in_([]), True),
        # Not the first column of any index.
        (TypingIndicator.user_id.is_(None), False),
        # Compared with what another row may say otherwise.
        (TypingIndicator.expires_at < TypingIndicator.started_at, False),
        (func.coalesce(TypingIndicator.expires_at, policies.NOW) < policies.NOW, False),
        (TypingIndicator.expires_at != policies.NOW, False),
        (TypingIndicator.expires_at.is_not(None), False),
        (and_(TypingIndicator.expires_at < policies.NOW, TypingIndicator.started_at < policies.NOW), True),
        (or_(TypingIndicator.expires_at < policies.NOW, TypingIndicator.started_at < policies.NOW), False),
        (or_(TypingIndicator.expires_at < policies.NOW, TypingIndicator.expires_at.is_(None)), True),
    ],
)
def test_whether_an_index_serves_is_seen_by_the_condition(condition: Any, right: bool) -> None:
    table: Any = TypingIndicator.__table__
    assert served(condition, table) is right


def test_a_partial_index_serves_what_it_is_restricted_to() -> None:
    table: Any = RoomParticipant.__table__
    assert served(and_(RoomParticipant.left_at.is_(None), RoomParticipant.role == "listener"), table)
    assert not served(RoomParticipant.left_at < policies.NOW, table)
    sessions: Any = Session.__table__
    assert not served(Session.expires_at < policies.NOW, sessions)
    participants: Any = SessionParticipant.__table__
    assert served(SessionParticipant.is_active.is_(True), participants)
