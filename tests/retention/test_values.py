"""What was archived comes back as it was, whatever the values: of all types, known to the models or not."""

import json
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Table, delete, select, text

from models.audiorooms import RoomAnalytics
from models.openchat import Conversation, Message, User
from models.pern import AuditLog
from tasks.policies.columns import table_of
from tasks.retention import archive, receipts
from tasks.retention.cascade import ALL
from tasks.retention.restore import Restored, restore
from tasks.sweeps.statements import any_of, key_of
from tests.examples import examples
from tests.platform import Platform
from tests.retention.retaining import days, retain
from tests.sweeps.sweeping import add
from workers.db import get_engine, transaction
from workers.storage.archives import archive_for

#: So many rows are one archive.
BATCH = 3
AUDIT_LOGS, MESSAGES, ANALYTICS = table_of(AuditLog), table_of(Message), table_of(RoomAnalytics)

several = examples(15)


# -- there and back -------------------------------------------------------------------------------------


def put(platform: Platform, table: Table, types: dict[str, str], rows: Sequence[dict[str, Any]]) -> None:
    """Insert rows whose values are texts, as users type them; each has an id of its own."""
    names = ", ".join(f'"{name}"' for name in types)
    values = ", ".join(f"CAST(CAST(:v{n} AS text) AS {of})" for n, of in enumerate(types.values()))
    statement = text(f"INSERT INTO {table.fullname} (id, {names}) VALUES (CAST(:id AS uuid), {values})")
    with platform.engine.begin() as connection:
        for row in rows:
            given = {f"v{n}": row.get(name) for n, name in enumerate(types)}
            connection.execute(statement, {"id": uuid4(), **given})


def texts(platform: Platform, table: Table) -> list[str]:
    """Return the whole table as PostgreSQL writes it: what Python cannot read is compared too."""
    return [row[0] for row in platform.sql(f"SELECT one::text FROM {table.fullname} AS one ORDER BY id")]


def away(platform: Platform, table: Table) -> list[int]:
    """Take all rows as batches of retention do; return the numbers of the receipts."""
    store = archive_for(platform.settings)
    assert store is not None
    key, numbers = key_of(table), []
    with platform.engine.begin() as connection:
        keys = list(connection.execute(select(key).order_by(key)).scalars())
    for start in range(0, len(keys), BATCH):
        some = keys[start : start + BATCH]
        with transaction() as connection:
            going = delete(table).where(key == any_of(key, "keys")).returning(ALL)
            rows = archive.copy_out(connection, going, {"keys": some})
            assert rows.num_rows == len(some)
            kept = archive.write(store, f"test/{uuid4()}.parquet", table.fullname, rows, {})
            number = receipts.append(
                connection,
                kind="taken",
                policy="test",
                run=uuid4(),
                rows=len(some),
                content={"archives": [kept.said()]},
            )
            numbers.append(number)
    assert texts(platform, table) == []
    return numbers


def back(platform: Platform, number: int) -> Restored:
    return restore(number, platform.settings, operator="ada", reason="a test")


def comes_back(platform: Platform, table: Table) -> None:
    """Take all rows and put them back, twice: they are what they were. Then empty the table."""
    days(platform)
    before = texts(platform, table)
    assert before
    numbers = away(platform, table)
    for number in numbers:
        assert back(platform, number).other == 0
    assert texts(platform, table) == before
    again = [back(platform, number) for number in numbers]
    assert {(one.rows[table.fullname], one.other, one.receipt) for one in again} == {(0, 0, None)}
    assert sum(one.there for one in again) == len(before)
    assert texts(platform, table) == before
    platform.sql(f"DELETE FROM {table.fullname}")


# -- values ---------------------------------------------------------------------------------------------

#: No NUL: PostgreSQL has none. No half of a pair: that is no character.
characters = st.characters(exclude_characters="\0", exclude_categories=["Cs"])
nasty = st.sampled_from(
    [
        *(
            "",
            " ",
            '"',
            '""',
            ",",
            "\\",
            "\\N",
            "\\.",
            "\n",
            "\r",
            "\r\n",
            "\\.\n",
            "'",
            "NULL",
            "null",
            "\t",
        ),
        *(
            "\ufeff",
            "\u2028",
            "\x85",
            "\x1a",
            "\x7f",
            "👩‍👩‍👧",
            "a\n\\.\nb",
            '","',
            "{}",
            "(,)",
            "%s",
            ":x",
            "$1",
            "é",
        ),
    ]
)
words = st.one_of(nasty, st.text(characters, max_size=40), st.lists(nasty, max_size=4).map("".join))
numbers = st.one_of(
    st.integers().map(str),
    st.sampled_from(
        ["1e400", "-0", "-0.0", "1.000", "0.1", "1e-300", "9" * 400, "9007199254740993", "-1.5E+10"]
    ),
)
values = st.recursive(
    st.one_of(st.sampled_from(["null", "true", "false", "[]", "{}"]), numbers, words.map(json.dumps)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda found: f"[{','.join(found)}]"),
        st.dictionaries(words, inner, max_size=3).map(
            lambda found: "{" + ",".join(f"{json.dumps(name)}:{value}" for name, value in found.items()) + "}"
        ),
    ),
    max_leaves=6,
)
addresses = st.one_of(
    st.ip_addresses(v=4).map(str),
    st.tuples(st.ip_addresses(v=4), st.integers(0, 32)).map(lambda found: f"{found[0]}/{found[1]}"),
    st.ip_addresses(v=6).map(str),
    st.tuples(st.ip_addresses(v=6), st.integers(0, 128)).map(lambda found: f"{found[0]}/{found[1]}"),
)
#: As PostgreSQL reads them, which has more of them than Python.
ends_of_time = [
    "infinity",
    "-infinity",
    "4714-11-24 00:00:00 BC",
    "0001-01-01 00:00:00",
    "294276-12-31 23:59:59",
]
naive = st.one_of(
    st.datetimes().map(str),
    st.sampled_from([*ends_of_time, "2026-03-29 02:30:00.000001", "0044-03-15 12:00 BC"]),
)
aware = st.one_of(
    st.tuples(st.datetimes(), st.sampled_from(["Z", "+14:00", "-12:00", "+05:45", "+00:00:01"])).map(
        lambda found: f"{found[0]}{found[1]}"
    ),
    st.sampled_from([*ends_of_time, "0001-06-01 00:00:00+00 BC"]),
)
dates = st.one_of(
    st.dates().map(str), st.sampled_from(["infinity", "-infinity", "4714-11-24 BC", "5874897-12-31"])
)
wholes = st.one_of(st.integers(-(2**31), 2**31 - 1), st.sampled_from([-(2**31), 2**31 - 1])).map(str)
bigs = st.one_of(st.integers(-(2**63), 2**63 - 1), st.sampled_from([-(2**63), 2**63 - 1])).map(str)
booleans = st.sampled_from(["true", "false"])


def rows_of(**columns: st.SearchStrategy[str | None]) -> st.SearchStrategy[list[dict[str, Any]]]:
    return st.lists(st.fixed_dictionaries(columns), min_size=1, max_size=7)


def maybe(strategy: st.SearchStrategy[str]) -> st.SearchStrategy[str | None]:
    return st.one_of(st.none(), strategy)


# -- the tables as the models know them -----------------------------------------------------------------

AUDIT = {
    "action": "text",
    "resource_type": "text",
    "resource_id": "uuid",
    "severity": "pern.enum_audit_logs_severity",
    "old_values": "jsonb",
    "new_values": "jsonb",
    "ip_address": "inet",
    "user_agent": "text",
    "created_at": "timestamptz",
}
audit_logs = rows_of(
    action=words.map(lambda found: found[:100]),
    resource_type=words.map(lambda found: found[:50]),
    resource_id=maybe(st.uuids().map(str)),
    severity=st.sampled_from(["info", "warning", "error", "critical", "security"]),
    old_values=maybe(values),
    new_values=maybe(values),
    ip_address=addresses,
    user_agent=words,
    created_at=aware,
)


@several
@given(rows=audit_logs)
def test_audit_logs_come_back(platform: Platform, rows: list[dict[str, Any]]) -> None:
    put(platform, AUDIT_LOGS, AUDIT, rows)
    comes_back(platform, AUDIT_LOGS)


MESSAGE = {
    **dict.fromkeys(("content", "formatted_content", "mentions", "edit_history", "metadata"), "text"),
    **dict.fromkeys(("thread_order", "reply_count"), "integer"),
    **dict.fromkeys(("is_pinned", "is_deleted"), "boolean"),
    **dict.fromkeys(("edited_at", "deleted_at", "created_at", "updated_at"), "timestamp"),
}
messages = rows_of(
    content=words,
    **{name: maybe(words) for name in ("formatted_content", "mentions", "edit_history", "metadata")},
    **{name: maybe(wholes) for name in ("thread_order", "reply_count")},
    **{name: maybe(booleans) for name in ("is_pinned", "is_deleted")},
    **{name: maybe(naive) for name in ("edited_at", "deleted_at")},
    created_at=naive,
    updated_at=naive,
)


@several
@given(rows=messages)
def test_naive_times_whole_numbers_and_booleans_come_back(
    platform: Platform, rows: list[dict[str, Any]]
) -> None:
    who = add(platform, User, name="Ada", email=f"{uuid4()}@x.org", email_verified=True)
    room = add(platform, Conversation, created_by=who)
    of = {"conversation_id": str(room), "sender_id": str(who)}
    put(platform, MESSAGES, MESSAGE | dict.fromkeys(of, "uuid"), [row | of for row in rows])
    comes_back(platform, MESSAGES)


ANALYTICS_COLUMNS = {
    "date": "date",
    "peak_listeners": "integer",
    "total_packets_sent": "bigint",
    "total_packets_received": "bigint",
    "created_at": "timestamptz",
}
analytics_rows = rows_of(
    date=dates,
    peak_listeners=maybe(wholes),
    total_packets_sent=maybe(bigs),
    total_packets_received=maybe(bigs),
    created_at=maybe(aware),
)


@several
@given(rows=analytics_rows)
def test_dates_and_large_numbers_come_back(platform: Platform, rows: list[dict[str, Any]]) -> None:
    put(platform, ANALYTICS, ANALYTICS_COLUMNS, rows)
    comes_back(platform, ANALYTICS)


# -- what the models do not know ------------------------------------------------------------------------

#: Types that an application may add a column of, with values that are easily spoilt.
UNKNOWN = {
    "numeric[]": ["{}", "{1.000,NULL,NaN}", "[0:1]={1,2}", "{{1,2},{3,4}}", "{Infinity}"],
    "text[]": ["{}", '{"","NULL",NULL,"a,b","\\"","\\\\","{}","\n"}'],
    "pern.enum_audit_logs_severity[]": ["{info,security}"],
    "tstzrange": ["empty", "(,)", "[2026-01-01Z,2026-01-02 00:00:00.000001Z)", "[-infinity,infinity]"],
    "tstzmultirange": ["{}", "{[2026-01-01Z,2026-01-02Z),[2027-01-01Z,)}"],
    "bytea": ["\\x", "\\x00ff5c0a0d22", "\\x" + "00" * 3000],
    "numeric": ["NaN", "-Infinity", "1.2300", "0." + "0" * 300 + "1", "9" * 1000],
    "double precision": [
        "0.1",
        "NaN",
        "-Infinity",
        "-0",
        "5e-324",
        "1.7976931348623157e308",
        "0.30000000000000004",
    ],
    "real": ["0.1", "1e-45", "16777216", "3.4028235e38"],
    "boolean": ["true", "false"],
    "bigint": ["-9223372036854775808"],
    "json": ['{"a" : 1,  "a":2}', "1e400", "null", '"\\u0000"', " [1 ,2]\n"],
    "interval": [
        "1 year 2 mons -3 days 04:05:06.000007",
        "-1 mons",
        "infinity",
        "-1 days +00:00:01",
        "178000000 years",
    ],
    "time": ["24:00:00", "00:00:00.000001"],
    "timetz": ["12:00:00+14", "23:59:59.999999-15:59:59"],
    "timestamp(0)": ["2026-01-02 03:04:05"],
    "date": ["infinity", "0001-01-01 BC", "2026-02-01"],
    "char(5)": ["", "a", "  a  "],
    "varchar(3)": ["", "   "],
    '"char"': ["\\377", "a", ""],
    "bit varying": ["", "0101"],
    "point": ["(0.1,-1e300)"],
    "polygon": ["((0,0),(1,1),(1,0))"],
    "cidr": ["10.0.0.0/8", "::/0"],
    "macaddr8": ["08:00:2b:01:02:03:04:05"],
    "tsvector": ["'a':1A,2 '''':3"],
    "money": ["-12.34"],
    "oid": ["4294967295"],
    "pg_lsn": ["FFFFFFFF/FFFFFFFF"],
    "jsonpath": ['$."a"[*] ? (@ > 1)'],
    "pair": ["(,)", '("a,""b\n",)', '("",2)'],
    "pair[]": ['{"(\\"a\\\\\\\\\\",1)",NULL}'],
    "nothing_empty": ["x"],
}


def with_unknown(platform: Platform) -> dict[str, str]:
    """Give `pern.audit_logs` a column of each type, some with odd names; return the types."""
    platform.sql("CREATE TYPE pair AS (a text, b integer)")
    platform.sql("CREATE DOMAIN nothing_empty AS text NOT NULL DEFAULT 'd' CHECK (VALUE <> '')")
    names = {f"x{n}": of for n, of in enumerate(UNKNOWN)}
    names |= dict.fromkeys(("Größe %s", 'a "b", c', "select", "x" * 63, "%(x)s", "two\nlines"), "text")
    with platform.engine.begin() as connection:
        # One that is gone leaves a gap.
        connection.exec_driver_sql("ALTER TABLE pern.audit_logs ADD COLUMN gone text DEFAULT 'x'")
        for name, of in names.items():
            quoted = name.replace('"', '""')
            connection.connection.driver_connection.execute(  # type: ignore[union-attr]
                f'ALTER TABLE pern.audit_logs ADD COLUMN "{quoted}" {of}'
            )
        connection.exec_driver_sql("ALTER TABLE pern.audit_logs DROP COLUMN gone")
        for made in (
            "long_agent integer GENERATED ALWAYS AS (length(user_agent)) STORED",
            "agent text GENERATED ALWAYS AS (upper(user_agent)) VIRTUAL",
            "number bigint GENERATED ALWAYS AS IDENTITY",
            "other smallint GENERATED BY DEFAULT AS IDENTITY",
            "must text NOT NULL DEFAULT ''",
        ):
            connection.exec_driver_sql(f"ALTER TABLE pern.audit_logs ADD COLUMN {made}")
    return names


def unknown_rows(names: dict[str, str]) -> list[dict[str, Any]]:
    """Return rows that have each value of each type, and one of NULLs."""
    plain = {"action": "a", "resource_type": "b", "severity": "info", "ip_address": "::1", "user_agent": ""}
    plain |= {"created_at": "2020-01-01Z"}
    most = max(map(len, UNKNOWN.values()))
    return [plain] + [
        plain
        | {name: found[n % len(found)] for name, of in names.items() for found in [UNKNOWN.get(of, [name])]}
        for n in range(most)
    ]


def insert_unknown(platform: Platform, names: dict[str, str]) -> None:
    types = {"action": "text", "resource_type": "text", "severity": AUDIT["severity"], "ip_address": "inet"}
    types |= {"user_agent": "text", "created_at": "timestamptz", **names}
    driver = platform.engine.raw_connection()
    try:
        for row in unknown_rows(names):
            given = {name: row.get(name) for name in types}
            # A domain may not take NULL.
            given = {k: "d" if types[k] == "nothing_empty" and v is None else v for k, v in given.items()}
            listed = ", ".join('"' + name.replace('"', '""').replace("%", "%%") + '"' for name in types)
            casts = ", ".join(f"CAST(%s AS {of})" for of in types.values())
            driver.cursor().execute(
                f"INSERT INTO pern.audit_logs (id, {listed}) VALUES (gen_random_uuid(), {casts})",
                list(given.values()),
            )
        driver.commit()
    finally:
        driver.close()


def test_columns_that_the_models_do_not_know_come_back(platform: Platform) -> None:
    insert_unknown(platform, with_unknown(platform))
    comes_back(platform, AUDIT_LOGS)


@pytest.mark.parametrize("when", ["taken", "restored"])
def test_settings_of_the_database_spoil_nothing(platform: Platform, when: str) -> None:
    """Another way to write dates, times or numbers is in force when rows go, or when they come back."""
    insert_unknown(platform, with_unknown(platform))
    days(platform)
    before = texts(platform, AUDIT_LOGS)
    odd = {
        "datestyle": "SQL, DMY",
        "intervalstyle": "sql_standard",
        "extra_float_digits": "-15",
        "bytea_output": "escape",
        "timezone": "Asia/Kathmandu",
        "standard_conforming_strings": "off",
    }

    def set_to(values: dict[str, str] | None) -> None:
        name = platform.sql("SELECT current_database()")[0][0]
        for setting in odd:
            change = "RESET" if values is None else "SET"
            to = (
                ""
                if values is None
                else f" TO '{values[setting]}'"
                if setting != "datestyle"
                else " TO SQL, DMY"
            )
            platform.sql(f"ALTER DATABASE {name} {change} {setting}{to}")
        platform.engine.dispose()
        get_engine().dispose()

    set_to(odd if when == "taken" else None)
    numbers = away(platform, AUDIT_LOGS)
    set_to(odd if when == "restored" else None)
    for number in numbers:
        back(platform, number)
    set_to(None)
    assert texts(platform, AUDIT_LOGS) == before


# -- as a policy takes them -----------------------------------------------------------------------------


def test_a_policy_s_rows_come_back(platform: Platform) -> None:
    """Large ones among small ones, in one batch; nothing is said of them but what they say."""
    days(platform, **{"pern.audit_info": 30})
    large = ['"' * 3_000_000, "\r\n,\\." * 600_000, "é" * 1_500_000, ""]
    plain = {"action": "a", "resource_type": "b", "severity": "info", "ip_address": "10.0.0.1/8"}
    put(
        platform,
        AUDIT_LOGS,
        AUDIT,
        [
            plain | {"created_at": at, "user_agent": agent, "old_values": old}
            for at in ("2020-01-01Z", "0044-03-15 BC", "infinity")
            for agent in large
            for old in (None, "null")
        ],
    )
    before = texts(platform, AUDIT_LOGS)
    assert len(before) == 24
    assert retain(platform, "pern.audit_info").rows == 16
    left = texts(platform, AUDIT_LOGS)
    assert set(left) < set(before)
    assert len(left) == 8
    for (number,) in platform.sql("SELECT number FROM roomkeeper.receipts ORDER BY number"):
        back(platform, number)
    assert texts(platform, AUDIT_LOGS) == before
