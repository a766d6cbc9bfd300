"""Change feeds of partitioned tables: a real subscriber equals the publisher, whatever partitions do."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from commands import checks
from tasks.retention.partitions import PartitionError, create_upcoming
from tests.faults.change_feeds import SUBSCRIPTION, ChangeFeed, change_feed, publisher_and_subscriber
from tests.platform import Platform, environment, eventually
from tests.retention.retaining import days, retain
from tests.retention.test_partitions import PERIOD, SEVERITIES, dropped, find, log, plan, switch
from tests.retention.test_partitions import names as partition_names
from tests.servers import PostgresServer
from tests.sweeps.sweeping import NOW

#: Two servers: one publishes, the other subscribes.
pytestmark = pytest.mark.system

Servers = tuple[PostgresServer, PostgresServer]
LOGS = "SELECT id, action, created_at FROM pern.audit_logs"
JULY = datetime(2026, 7, 2, tzinfo=UTC)
#: When the table is partitioned: NOW is months later, and months were made by jobs since.
BEFORE = datetime(2025, 11, 10, tzinfo=UTC)
VIA_ROOT = "WITH (publish_via_partition_root = true)"
NO_KEY = "ALTER TABLE pern.audit_logs DROP CONSTRAINT audit_logs_pkey"
FULL = ("ALTER TABLE pern.audit_logs REPLICA IDENTITY FULL",)
#: A unique key in place of a primary one.
INDEX = (
    "ALTER TABLE pern.audit_logs ADD CONSTRAINT moments UNIQUE (created_at, id)",
    "ALTER TABLE pern.audit_logs REPLICA IDENTITY USING INDEX moments",
    NO_KEY,
)
KEY_INDEX = ("ALTER TABLE pern.audit_logs REPLICA IDENTITY USING INDEX audit_logs_pkey",)
#: Gives all partitions the identity of the table.
ON_EACH_PARTITION = """
    DO $$ DECLARE part record; BEGIN
    FOR part IN SELECT inhrelid::regclass AS name FROM pg_inherits, pg_class
                 WHERE inhparent = 'pern.audit_logs'::regclass
                   AND pg_class.oid = inhparent AND relreplident = 'f'
    LOOP EXECUTE format('ALTER TABLE %s REPLICA IDENTITY FULL', part.name); END LOOP;
    FOR part IN SELECT indrelid::regclass AS name, relname FROM pg_inherits
                  JOIN pg_index ON indexrelid = inhrelid JOIN pg_class ON pg_class.oid = inhrelid
                 WHERE inhparent = to_regclass('pern.moments')
    LOOP EXECUTE format('ALTER TABLE %s REPLICA IDENTITY USING INDEX %I', part.name, part.relname);
    END LOOP; END $$
"""


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with publisher_and_subscriber(tmp_path_factory.mktemp("change_feeds")) as both:
        yield both


@pytest.fixture
def feed(servers: Servers) -> Iterator[ChangeFeed]:
    made = change_feed(servers)
    yield made
    made.end()


@pytest.fixture
def database(feed: ChangeFeed) -> str:
    return feed.publisher


@pytest.fixture
def platform(platform: Platform) -> Platform:
    platform.set(apps="pern")
    return platform


@pytest.fixture
def monthly(platform: Platform, feed: ChangeFeed) -> Platform:
    """`pern.audit_logs` of the publisher, partitioned a quarter before NOW, and published by no one yet."""
    switch(platform, "pern.audit_logs", BEFORE)
    return platform


def identities(platform: Platform) -> dict[str, str]:
    """Return the replica identity of the table and of each partition, with the columns of its index."""
    query = """
        SELECT relname AS name, CAST(relreplident AS text) || coalesce(' ' || (
            SELECT string_agg(attname, ',' ORDER BY place) FROM pg_index, unnest(indkey) WITH ORDINALITY
                AS part (number, place) JOIN pg_attribute ON attnum = number
             WHERE attrelid = indrelid AND indrelid = class.oid AND indisreplident), '') AS identity
          FROM pg_partition_tree('pern.audit_logs') AS tree JOIN pg_class AS class ON class.oid = relid
    """
    return {row.name: row.identity for row in platform.sql(query)}


def change(platform: Platform, *moments: datetime) -> None:
    """Add two rows at each moment, change one and delete the other: as the application does."""
    for moment in moments:
        kept, deleted = (log(platform, moment + timedelta(seconds=number)) for number in range(2))
        platform.sql("UPDATE pern.audit_logs SET action = 'changed' WHERE id = :id", id=kept)
        platform.sql("DELETE FROM pern.audit_logs WHERE id = :id", id=deleted)


# -- a new month -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("publication", "identity", "expected"),
    [
        pytest.param(f"FOR TABLE pern.audit_logs, pern.marks {VIA_ROOT}", FULL, "f", id="table, full"),
        pytest.param(
            f"FOR TABLE pern.audit_logs, pern.marks {VIA_ROOT}", INDEX, "i created_at,id", id="table, index"
        ),
        pytest.param(f"FOR TABLE pern.audit_logs, pern.marks {VIA_ROOT}", (), "d", id="table, key"),
        pytest.param(f"FOR TABLES IN SCHEMA pern {VIA_ROOT}", FULL, "f", id="schema"),
        pytest.param(f"FOR ALL TABLES {VIA_ROOT}", FULL, "f", id="all tables"),
    ],
)
def test_changes_of_a_new_month_reach_a_subscriber(
    monthly: Platform, feed: ChangeFeed, publication: str, identity: tuple[str, ...], expected: str
) -> None:
    feed.publish(*identity, f"CREATE PUBLICATION changes {publication}")
    if identity:
        feed.publish(ON_EACH_PARTITION)
        feed.receive(*(identity if identity == INDEX else (NO_KEY,)))
    feed.subscribe("changes")
    assert create_upcoming(find(monthly), NOW + timedelta(days=31))
    change(monthly, datetime(2025, 10, 1, tzinfo=UTC), NOW, JULY)
    publisher, subscriber = feed.both(LOGS)
    assert len(publisher) == 3
    assert subscriber == publisher


def test_a_partition_that_lacks_the_identity_of_the_others_is_reported(
    monthly: Platform, feed: ChangeFeed
) -> None:
    """As the months are that were made before the identity was carried."""
    feed.publish(*FULL, f"CREATE PUBLICATION changes FOR TABLE pern.audit_logs, pern.marks {VIA_ROOT}")
    made = plan(monthly, "pern.audit_logs")
    assert made.notes[0] == "Change feeds identify its rows by REPLICA IDENTITY FULL."
    assert len(made.warnings) == len(made.partitions or ()) == 5
    assert made.warnings[-1][0].startswith(
        "The partition pern.audit_logs_y2026m03 has REPLICA IDENTITY DEFAULT, not FULL like the table"
    )
    checked = [fault for fault in checks.database(monthly.settings) if "REPLICA IDENTITY" in fault.sentence]
    assert {fault.warning for fault in checked} == {True}
    assert [fault.advice for fault in checked] == [statement for _, statement in made.warnings]
    feed.publish(*(fault.advice for fault in checked))
    assert plan(monthly, "pern.audit_logs").warnings == []
    assert set(identities(monthly).values()) == {"f"}
    # Set partition by partition, as where these are published by their own names.
    feed.publish("ALTER TABLE pern.audit_logs REPLICA IDENTITY DEFAULT")
    create_upcoming(find(monthly), NOW)
    assert {name: kind for name, kind in identities(monthly).items() if kind != "f"} == {"audit_logs": "d"}
    assert plan(monthly, "pern.audit_logs").warnings == []


def test_an_index_that_a_new_month_would_not_have_is_reported(monthly: Platform, feed: ChangeFeed) -> None:
    part = "pern.audit_logs_y2026m03"
    feed.publish(
        f"CREATE UNIQUE INDEX of_one_month ON {part} (created_at, id)",
        f"ALTER TABLE {part} REPLICA IDENTITY USING INDEX of_one_month",
    )
    with pytest.raises(PartitionError, match=r"is the index of_one_month, which pern\.audit_logs_y2026m04"):
        create_upcoming(find(monthly), NOW)
    feed.publish(f"DROP INDEX pern.of_one_month; ALTER TABLE {part} REPLICA IDENTITY DEFAULT")
    assert create_upcoming(find(monthly), NOW)[0] == "audit_logs_y2026m04"


# -- partitions that are published by their own names ---------------------------------------------------


def test_a_new_month_is_published_as_the_one_before_it(monthly: Platform, feed: ChangeFeed) -> None:
    """By its own name, with the same columns and filter; the subscriber has a table for it."""
    *_, youngest = partition_names(monthly)
    feed.publish(
        f"CREATE PUBLICATION changes FOR TABLE pern.marks, pern.{youngest}"
        " (id, action, resource_type, ip_address, user_agent, created_at)"
        " WHERE (id IS NOT NULL AND 3 % 2 = 1)"
    )
    feed.receive(
        *(
            f"CREATE TABLE pern.audit_logs_y2026m0{month} (LIKE pern.audit_logs INCLUDING ALL)"
            for month in (3, 4, 5, 6, 7)
        )
    )
    feed.subscribe("changes")
    assert [f"audit_logs_y2026m0{month}" for month in (4, 5, 6, 7)] == create_upcoming(
        find(monthly), NOW + timedelta(days=31)
    )
    assert plan(monthly, "pern.audit_logs").warnings == []
    feed.receive(f"ALTER SUBSCRIPTION {SUBSCRIPTION} REFRESH PUBLICATION WITH (copy_data = false)")
    change(monthly, NOW, JULY)
    feed.caught_up()
    published = feed.publish(f"{LOGS} ORDER BY 1")
    parts = " UNION ALL ".join(f"SELECT * FROM pern.audit_logs_y2026m0{month}" for month in (3, 4, 5, 6, 7))
    received = feed.receive(f"SELECT id, action, created_at FROM ({parts}) AS months ORDER BY 1")
    assert len(published) == 2
    assert received == published
    feed.publish("ALTER PUBLICATION changes DROP TABLE pern.audit_logs_y2026m06")
    ((sentence, advice),) = plan(monthly, "pern.audit_logs").warnings
    assert sentence.startswith("The partition audit_logs_y2026m06 is not in the publication changes")
    feed.publish(advice.partition(";")[0])
    assert plan(monthly, "pern.audit_logs").warnings == []


def test_a_publication_that_the_role_may_not_change_is_reported(monthly: Platform, feed: ChangeFeed) -> None:
    *_, youngest = partition_names(monthly)
    feed.publish(
        f"CREATE PUBLICATION changes FOR TABLE pern.{youngest}",
        "CREATE ROLE of_feeds",
        "CREATE ROLE of_months LOGIN",
        "GRANT USAGE, CREATE ON SCHEMA pern TO of_months",
        "ALTER TABLE pern.audit_logs OWNER TO of_months",
        f"ALTER TABLE pern.{youngest} OWNER TO of_months",
        "GRANT CREATE ON DATABASE " + feed.publisher.rpartition("/")[2] + " TO of_feeds",
        "ALTER PUBLICATION changes OWNER TO of_feeds",
    )
    monthly.engine.dispose()
    monthly.environment["DATABASE_URL"] = feed.publisher.replace("//roomkeeper@", "//of_months@")
    refused = pytest.raises(PartitionError, match=r"in the publication changes.*GRANT of_feeds TO")
    with environment({"DATABASE_URL": monthly.environment["DATABASE_URL"]}), refused:
        create_upcoming(find(monthly), NOW)


# -- the conversion --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("publication", "identity", "expected"),
    [
        pytest.param("FOR TABLE pern.audit_logs, pern.marks", (), "d", id="key"),
        pytest.param("FOR TABLE pern.audit_logs, pern.marks", FULL, "f", id="full"),
        pytest.param("FOR TABLE pern.audit_logs, pern.marks", INDEX, "i created_at,id", id="index"),
        pytest.param("FOR TABLE pern.audit_logs, pern.marks", KEY_INDEX, "i id,created_at", id="key's index"),
        pytest.param("FOR TABLES IN SCHEMA pern", FULL, "f", id="schema"),
        pytest.param("FOR ALL TABLES", (), "d", id="all tables"),
    ],
)
def test_a_subscriber_does_not_notice_the_conversion(
    platform: Platform, feed: ChangeFeed, publication: str, identity: tuple[str, ...], expected: str
) -> None:
    feed.publish(*identity, f"CREATE PUBLICATION changes {publication}")
    feed.receive(*((NO_KEY,) if identity == FULL else identity))
    feed.subscribe("changes")
    change(platform, datetime(2025, 9, 1, tzinfo=UTC))
    early = log(platform, datetime(2025, 9, 2, tzinfo=UTC))
    switch(platform, "pern.audit_logs", BEFORE)
    assert set(identities(platform).values()) == {expected}
    assert create_upcoming(find(platform), NOW)
    change(platform, datetime(2025, 9, 3, tzinfo=UTC), datetime(2025, 12, 1, tzinfo=UTC), NOW)
    platform.sql("DELETE FROM pern.audit_logs WHERE id = :id", id=early)
    publisher, subscriber = feed.both(LOGS)
    assert len(publisher) == 4
    assert subscriber == publisher
    assert set(identities(platform).values()) == {expected}


def test_columns_and_rows_of_a_publication_are_carried(platform: Platform, feed: ChangeFeed) -> None:
    columns = "id, action, resource_type, ip_address, user_agent"
    feed.publish(
        f"CREATE PUBLICATION changes FOR TABLE pern.marks, pern.audit_logs ({columns})"
        " WHERE (action = 'a' OR action = 'changed')",
        "ALTER TABLE pern.audit_logs REPLICA IDENTITY FULL",
    )
    made = plan(platform, "pern.audit_logs", now=BEFORE)
    # Already refused by PostgreSQL: the whole old row is more than the columns.
    assert made.reasons == []
    feed.publish("ALTER TABLE pern.audit_logs REPLICA IDENTITY DEFAULT")
    reason, *_ = plan(platform, "pern.audit_logs", now=BEFORE).reasons
    assert (
        "changes publishes (id, action, resource_type, ip_address, user_agent), without created_at" in reason
    )
    feed.publish(
        f"ALTER PUBLICATION changes SET TABLE pern.marks, pern.audit_logs ({columns}, created_at)"
        " WHERE (id IS NOT NULL)"
    )
    feed.subscribe("changes")
    switch(platform, "pern.audit_logs", BEFORE)
    create_upcoming(find(platform), NOW)
    change(platform, datetime(2025, 9, 3, tzinfo=UTC), NOW)
    publisher, subscriber = feed.both(LOGS)
    assert len(publisher) == 2
    assert subscriber == publisher
    ((published, rows),) = feed.publish(
        "SELECT array_length(attnames, 1), rowfilter FROM pg_publication_tables"
        " WHERE tablename = 'audit_logs'"
    )
    assert (published, rows) == (6, "(id IS NOT NULL)")


def test_a_publication_of_other_partitioned_tables_stays_as_it_is(
    platform: Platform, feed: ChangeFeed
) -> None:
    """Their subscribers have tables for the partitions, and would miss these."""
    feed.publish(
        "CREATE TABLE pern.visits (at date) PARTITION BY RANGE (at)",
        "CREATE PUBLICATION changes FOR TABLE pern.visits, pern.audit_logs",
    )
    made = plan(platform, "pern.audit_logs", now=BEFORE)
    assert made.conversion is not None
    assert not any("publish_via_partition_root" in one for one in made.conversion.at_once)
    assert any("publishes partitions by their own names" in note for note in made.notes)
    feed.publish("ALTER PUBLICATION changes SET TABLE pern.visits, pern.audit_logs WHERE (id IS NOT NULL)")
    reason, *_ = plan(platform, "pern.audit_logs", now=BEFORE).reasons
    assert "Give this table a publication of its own" in reason


# -- months that are over --------------------------------------------------------------------------------


def test_rows_that_expire_expire_at_the_subscriber(monthly: Platform, feed: ChangeFeed) -> None:
    """A DROP is not published: a month goes row by row, and is dropped when it is empty."""
    days(monthly, **{f"pern.audit_{severity}": PERIOD for severity in SEVERITIES})
    feed.publish(f"CREATE PUBLICATION changes FOR TABLE pern.audit_logs, pern.marks {VIA_ROOT}")
    feed.subscribe("changes")
    log(monthly, datetime(2025, 12, 24, tzinfo=UTC))
    kept = log(monthly, NOW - timedelta(days=1))
    create_upcoming(find(monthly), NOW)
    why = dropped(monthly, dry_run=True)["audit_logs_y2025m12"]
    assert why == (
        "its deletes are published (changes), and a DROP is not: its rows are deleted one by one, "
        "and then it is dropped"
    )
    assert dropped(monthly)["audit_logs_y2025m12"] == why
    assert retain(monthly, "pern.audit_info").rows == 1
    publisher, subscriber = feed.both("SELECT id FROM pern.audit_logs")
    assert subscriber == publisher == [(kept,)]
    assert dropped(monthly)["audit_logs_y2025m12"] is None
    # What publishes no deletes gets none by a DROP either, and says so.
    feed.publish("ALTER PUBLICATION changes SET (publish = 'insert')")
    create_upcoming(find(monthly), datetime(2026, 1, 5, tzinfo=UTC))
    log(monthly, datetime(2026, 1, 5, tzinfo=UTC))
    assert dropped(monthly)["audit_logs_y2026m01"] is None


def test_beside_the_application_and_retention_a_subscriber_stays_equal(
    platform: Platform, feed: ChangeFeed
) -> None:
    """Conversion, months to come, sweeps, retention and drops, while the application writes all the time."""
    feed.publish(
        *FULL,
        "CREATE PUBLICATION changes FOR TABLES IN SCHEMA pern WITH (publish = 'insert, update, delete')",
    )
    feed.receive(NO_KEY)
    feed.subscribe("changes")
    days(platform, **{f"pern.audit_{severity}": PERIOD for severity in SEVERITIES})
    platform.set(retention_floor=100_000)
    over = threading.Event()
    ages, written = [115, 130], list[int]()

    def write(worker: int) -> None:
        while not over.is_set():
            for day in [*ages]:
                change(platform, NOW - timedelta(days=day, hours=worker))
                written.append(day)

    with ThreadPoolExecutor(2) as pool:
        writers = [pool.submit(write, number) for number in range(2)]
        try:
            _more(written)
            switch(platform, "pern.audit_logs", BEFORE)
            ages += [5, 20, 40, 70]
            for number in range(3):
                create_upcoming(find(platform), NOW + timedelta(days=31 * number))
                for severity in SEVERITIES:
                    retain(platform, f"pern.audit_{severity}")
                _more(written)
        finally:
            over.set()
        for one in writers:
            one.result()
    retain(platform, "pern.audit_info")
    retain(platform, "pern.audit_info")
    assert partition_names(platform)[0] == "audit_logs_y2026m02"
    publisher, subscriber = feed.both("SELECT CAST(logs AS text) FROM pern.audit_logs AS logs")
    assert len(publisher) >= 20
    assert subscriber == publisher


def _more(written: list[int]) -> None:
    """Wait until the application has written some more."""
    enough = len(written) + 20
    eventually(lambda: len(written) > enough)
