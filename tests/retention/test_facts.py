"""A conversation's own limit deletes rows before their days are final: facts count, and no day is frozen."""

import random
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Table, delete, insert, select, update
from sqlalchemy.schema import sort_tables

from models.analytics import AttachmentFact, PernFact, RollupState
from models.pern import Attachment, Message, MessageStatus
from models.platform import AttachmentJob
from tasks.analytics.backfill import Backfill
from tasks.analytics.calendar import Bucket
from tasks.analytics.engine import RollupProgress, RollupRun, differences
from tasks.analytics.state import State, frozen, state_of
from tasks.analytics.zones import change_zone
from tasks.apps import ROLLUPS
from tasks.policies.columns import Model, table_of
from tasks.policies.rollup import Rollup
from tasks.retention import batch
from tasks.retention import task as retention
from tasks.retention.batch import PACE
from tasks.retention.restore import restore
from tasks.sweeps.engine import SweepProgress
from tests.analytics import oracle_attachments, oracle_pern
from tests.analytics.figuring import Row, Rows, agree, flat, stored_metrics
from tests.examples import examples
from tests.platform import Platform, eventually
from tests.retention.dying import kill_at
from tests.retention.retaining import policy
from tests.sweeps import sweeping
from tests.sweeps.sweeping import sweep

OWN, GENERAL = "pern.messages_by_conversation", "pern.messages"
DAILY, ATTACHMENTS = ROLLUPS["pern.daily"], ROLLUPS["roomkeeper.attachments_daily"]
BOTH = (DAILY, ATTACHMENTS)
DAY, HOUR = timedelta(days=1), timedelta(hours=1)
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
MIDNIGHT = NOW - 12 * HOUR


@dataclass
class Chats:
    """Conversations as the application writes them.

    Attributes:
        rows: for the oracle: rows stay here when retention deletes them, as they were then.
        limited: a conversation with a limit of one day.
        others: conversations without one.
    """

    platform: Platform
    rows: Rows = field(default_factory=Rows)
    _written: dict[Table, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.people = [oracle_pern.person(self.rows) for _ in range(4)]
        self.limited, *self.others = (oracle_pern.conversation(self.rows) for _ in range(3))
        self.write()
        self.platform.sql(
            """UPDATE pern.conversations SET settings = '{"message_retention_days": 1}' WHERE id = :id""",
            id=self.limited,
        )

    def begin(self, days: int) -> None:
        """Have both rollups begin so many days ago, with nothing closed: by themselves it would be 35."""
        start = MIDNIGHT - days * DAY
        values = {"zone": "UTC", "watermark": start, "covered_from": start}
        names = [{"name": one.name, "definition": one.definition, **values} for one in BOTH]
        with self.platform.engine.begin() as connection:
            connection.execute(delete(table_of(RollupState)))
            connection.execute(insert(RollupState), names)

    def write(self) -> None:
        """Insert what is new."""
        with self.platform.engine.begin() as connection:
            for table in sort_tables(self.rows.tables):
                for row in self.rows.tables[table][self._written.get(table, 0) :]:
                    connection.execute(insert(table).values(row))
                self._written[table] = len(self.rows.tables[table])
            connection.exec_driver_sql("SELECT pg_stat_force_next_flush()")

    def say(
        self,
        where: UUID,
        at: datetime,
        sender: UUID | None = None,
        readers: Iterable[UUID] = (),
        later: timedelta = timedelta(seconds=61.25),
        **values: Any,
    ) -> UUID:
        """Write a message that these people have received and read some time later."""
        sender = sender or self.people[0]
        key = oracle_pern.message(self.rows, where, at, sender, **values)
        for number, user in enumerate(readers, 1):
            oracle_pern.status(self.rows, key, user, delivered=at + later, read=at + later * (number + 1))
        self.write()
        return key

    def file(self, of: UUID, at: datetime, seconds: float | None = 2.5, **values: Any) -> UUID:
        """Add a file to a message, which the platform began to process then."""
        finished = None if seconds is None else at + timedelta(seconds=seconds)
        key = oracle_attachments.job(
            self.rows, at, finished, app="pern", verdict="clean", size_bytes=5, **values
        )
        described = {"file_name": "a.bin", "file_path": str(key), "file_size": 5, "file_hash": key.hex * 2}
        stamps = {"created_at": at, "updated_at": at, "mime_type": "text/plain"}
        self.rows.add(Attachment, id=key, message_id=of, **described, **stamps)
        self.write()
        return key

    def correct(self, of: Row, **values: Any) -> bool:
        """Change a status, if it is there still."""
        with self.platform.engine.begin() as connection:
            statement = update(table_of(MessageStatus)).where(MessageStatus.id == of["id"]).values(values)
            there = connection.execute(statement).rowcount == 1
        if there:
            of.update(values)
        return there

    def remove(self, of: Row) -> bool:
        """Delete a message as the application does, if it is there still."""
        with self.platform.engine.begin() as connection:
            there = connection.execute(delete(table_of(Message)).where(Message.id == of["id"])).rowcount == 1
        if there:
            statuses, messages = self.rows.of(MessageStatus), self.rows.of(Message)
            statuses[:] = [row for row in statuses if row["message_id"] != of["id"]]
            messages[:] = [row for row in messages if row is not of]
            self._written |= {table: len(rows) for table, rows in self.rows.tables.items()}
        return there

    def agree(self, zone: str = "UTC") -> None:
        """Fail unless all statistics are the oracle's."""
        agree(stored_metrics(self.platform, DAILY), flat(oracle_pern.daily(self.rows, zone)))
        if AttachmentJob.__table__ in self.rows.tables:
            wanted = flat(oracle_attachments.daily(self.rows, zone))
            agree(stored_metrics(self.platform, ATTACHMENTS), wanted)


@pytest.fixture
def chats(platform: Platform) -> Chats:
    platform.set(archive_off=OWN)
    found = Chats(platform)
    found.begin(days=8)
    return found


def compute(now: datetime, zone: str = "UTC", of: Sequence[Rollup] = BOTH) -> list[RollupProgress]:
    """Run rollups: what is closed is computed again, if the last run was a day before."""
    return [RollupRun(one, now, zone).go() for one in of]


def retain(platform: Platform, now: datetime = NOW, name: str = OWN) -> SweepProgress:
    done = retention.run(policy(name), platform.settings, now=now, by_hand=True)
    assert done is not None
    assert (done.remaining, done.error) == (0, None)
    return done


def state(platform: Platform, rollup: Rollup) -> State:
    with platform.engine.begin() as connection:
        found = state_of(connection, rollup)
    assert found is not None
    return found


def frozen_to(platform: Platform) -> list[datetime | None]:
    return [state(platform, one).frozen_to for one in BOTH]


def closed(platform: Platform, rollup: Rollup) -> list[Bucket]:
    at = state(platform, rollup)
    return RollupRun(rollup, NOW, at.zone)._buckets(at.covered_from, at.watermark)


def drift(platform: Platform, now: datetime, of: Sequence[Rollup] = BOTH) -> list[Any]:
    """Return what an audit of all closed days finds; none of them is frozen."""
    found: list[Any] = []
    for rollup in of:
        at = state(platform, rollup)
        with platform.engine.begin() as connection:
            for bucket in closed(platform, rollup):
                assert not frozen(rollup, at, bucket), bucket.label
                found += differences(connection, rollup, bucket, now)
    return found


def there(platform: Platform, model: Model) -> int:
    """Return how many rows a table has."""
    with platform.engine.begin() as connection:
        return len(connection.execute(select(table_of(model))).all())


def some_days(chats: Chats) -> None:
    """Write some days of messages, statuses and files, in all conversations, by the same people."""
    for age in range(6):
        for number, where in enumerate((chats.limited, *chats.others)):
            at = NOW - age * DAY - (number + 1) * timedelta(minutes=100)
            key = chats.say(where, at, chats.people[number], chats.people[: number + 1])
            chats.say(where, at + HOUR, chats.people[3], message_type="system")
            chats.file(key, at, seconds=None if age == 2 else 2.5 * number)


# -- figures --------------------------------------------------------------------------------------------


def test_late_rows_count_after_a_limit_has_deleted_rows_of_the_same_days(chats: Chats) -> None:
    platform = chats.platform
    some_days(chats)
    compute(NOW)
    chats.agree()
    assert retain(platform).rows == 10
    # From the rows that are left, and the facts.
    assert drift(platform, NOW) == []
    for age in (2, 3, 4):
        at = NOW - age * DAY
        # By a user who wrote and read in the limited conversation that day, and one who did not.
        chats.say(chats.others[0], at, chats.people[0], chats.people[2:])
        chats.file(chats.say(chats.others[1], at, chats.people[3]), at, seconds=99)
        chats.say(chats.limited, at + HOUR, chats.people[3], [chats.people[1]])
    changed = next(row for row in chats.rows.of(MessageStatus) if row["read_at"] > NOW - DAY)
    assert chats.correct(changed, read_at=changed["read_at"] - 2 * DAY)
    assert drift(platform, NOW) != []
    done = compute(NOW + DAY)
    assert [one.frozen for one in done] == [0, 0]
    chats.agree()
    assert drift(platform, NOW + DAY) == []
    # What came late to the limited conversation goes, and counts all the same.
    assert retain(platform, NOW + DAY).rows == 5
    compute(NOW + 2 * DAY)
    chats.agree()
    assert frozen_to(platform) == [None, None]
    for rollup in BOTH:
        done_again = Backfill(rollup, NOW + 2 * DAY, "UTC").compute_all(closed(platform, rollup), jobs=2)
        assert (done_again.frozen, done_again.rows) == (0, 0)


STEPS = st.lists(
    st.sampled_from(["say", "say", "late", "late", "correct", "remove", "limit", "limit", "compute"]),
    min_size=6,
    max_size=14,
)


def test_in_any_order_the_statistics_are_those_of_all_rows(platform: Platform) -> None:
    platform.set(archive_off=OWN)
    deleted = 0

    @examples(6)
    @given(steps=STEPS, chance=st.randoms(use_true_random=True))
    def check(steps: list[str], chance: random.Random) -> None:
        nonlocal deleted
        with platform.engine.begin() as connection:
            tables = "pern.users, roomkeeper.rollups, roomkeeper.pern_daily, roomkeeper.pern_facts"
            connection.exec_driver_sql(
                f"TRUNCATE {tables}, roomkeeper.attachments_daily, roomkeeper.job_runs CASCADE"
            )
        chats, now = Chats(platform), NOW
        places = [chats.limited, chats.limited, *chats.others]
        chats.begin(days=6)
        for step in steps:
            now += timedelta(seconds=chance.randrange(8 * 3600))
            statuses, messages = chats.rows.of(MessageStatus), chats.rows.of(Message)
            if step in {"say", "late"}:
                ago = chance.randrange(5 * 86_400 if step == "late" else 7200)
                readers = chance.sample(chats.people, chance.randint(0, 3))
                chats.say(
                    chance.choice(places),
                    now - timedelta(seconds=ago, microseconds=chance.randrange(1_000_000)),
                    chance.choice(chats.people),
                    readers,
                    timedelta(seconds=chance.choice([0, 1.5, 40_000])),
                    message_type=chance.choice(["text", "text", "system"]),
                )
            elif step == "correct" and statuses:
                row = chance.choice(statuses)
                at = now - timedelta(seconds=chance.randrange(5 * 86_400))
                column = chance.choice(["read_at", "delivered_at"])
                chats.correct(row, **{column: chance.choice([None, at, at])})
            elif step == "remove" and messages:
                chats.remove(chance.choice(messages))
            elif step == "limit":
                deleted += retain(platform, now).rows
            elif step == "compute":
                compute(now, of=[DAILY])
        # Statuses that came after their message may be ahead of the last step.
        now += 2 * DAY
        compute(now, of=[DAILY])
        deleted += retain(platform, now).rows
        compute(now + DAY, of=[DAILY])
        chats.agree()
        assert frozen_to(platform) == [None, None]
        assert drift(platform, now + DAY, [DAILY]) == []

    check()
    assert deleted > 5


def test_no_statistic_ever_becomes_less_while_rows_are_deleted(
    chats: Chats, monkeypatch: pytest.MonkeyPatch
) -> None:
    some_days(chats)
    compute(NOW)
    monkeypatch.setattr("tasks.retention.task.PACE", replace(PACE, keys=1, most_keys=1))
    over, computed, errors = threading.Event(), list[int](), list[BaseException]()

    def run() -> None:
        try:
            while not over.is_set():
                for rollup in BOTH:
                    for bucket in closed(chats.platform, rollup)[-6:]:
                        Backfill(rollup, NOW, "UTC").compute(bucket)
                chats.agree()
                computed.append(1)
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        eventually(lambda: computed or errors)
        assert retain(chats.platform).rows == 10
        # One round at least that began after the last batch.
        done = len(computed)
        eventually(lambda: len(computed) > done + 1 or errors)
    finally:
        over.set()
        thread.join()
    assert not errors, errors
    chats.agree()


@pytest.mark.parametrize("zone", ["Asia/Kathmandu", "America/New_York"])
def test_facts_count_in_the_days_of_another_zone(chats: Chats, zone: str) -> None:
    platform = chats.platform
    some_days(chats)
    for minutes in (0, 14, 15, 16, 29, 30, 45, 59):
        # About midnight in a zone with a quarter of an hour.
        at = MIDNIGHT - 2 * DAY + timedelta(hours=18, minutes=minutes)
        chats.say(chats.limited, at, readers=chats.people[:2])
    compute(NOW)
    assert retain(platform).rows == 18
    for rollup in BOTH:
        change_zone(rollup, zone, NOW)
    compute(NOW + DAY, zone)
    chats.agree(zone)
    assert [state(platform, one).seam for one in BOTH] == [None, None]


# -- batches --------------------------------------------------------------------------------------------


def test_statuses_that_go_before_their_message_count_once(
    chats: Chats, monkeypatch: pytest.MonkeyPatch
) -> None:
    people = [oracle_pern.person(chats.rows) for _ in range(25)]
    chats.say(chats.limited, NOW - 3 * DAY, readers=people)
    compute(NOW)
    monkeypatch.setattr(batch, "MOST_DEPENDANTS", 7)
    monkeypatch.setattr(batch, "PORTIONS_SECONDS", 0)
    stopped = retention.run(policy(OWN), chats.platform.settings, now=NOW, by_hand=True)
    assert stopped is not None
    left = there(chats.platform, MessageStatus)
    assert 0 < left < 25
    assert there(chats.platform, Message) == 1
    assert drift(chats.platform, NOW) == []
    monkeypatch.setattr(batch, "PORTIONS_SECONDS", 20.0)
    retain(chats.platform)
    assert there(chats.platform, Message) == 0
    compute(NOW + DAY)
    chats.agree()


@pytest.mark.parametrize(
    "step",
    [
        "tasks.analytics.rollup_guard.keep_facts:after:1",
        "tasks.analytics.rollup_guard.keep_facts:after:4",
        "tasks.retention.receipts.append:after:1",
    ],
)
def test_a_run_that_is_killed_keeps_rows_and_no_facts(chats: Chats, step: str) -> None:
    chats.platform.set(archive_off="", archive_root=chats.platform.folder / "archive")
    at = sweeping.NOW - 3 * DAY
    chats.file(chats.say(chats.limited, at, readers=chats.people), at)
    compute(NOW)
    kill_at(step, OWN, chats.platform.environment)
    assert there(chats.platform, Message) == 1
    assert there(chats.platform, PernFact) == there(chats.platform, AttachmentFact) == 0
    assert drift(chats.platform, NOW) == []
    retain(chats.platform)
    assert there(chats.platform, PernFact) > there(chats.platform, AttachmentFact) == 1
    assert drift(chats.platform, NOW) == []


def test_restored_rows_count_instead_of_their_facts(chats: Chats) -> None:
    platform = chats.platform
    platform.set(archive_off="", archive_root=platform.folder / "archive")
    some_days(chats)
    compute(NOW)
    retain(platform)
    facts = there(platform, PernFact)
    # Another batch, whose facts stay.
    chats.say(chats.limited, NOW - 3 * DAY, readers=chats.people)
    retain(platform)
    assert there(platform, PernFact) > facts
    restore(1, platform.settings, operator="ada", reason="a test")
    assert 0 < there(platform, PernFact) < facts
    compute(NOW + DAY)
    chats.agree()
    assert drift(platform, NOW + DAY) == []


# -- what is kept, and for how long ---------------------------------------------------------------------


def test_facts_say_no_more_than_statistics_need(chats: Chats) -> None:
    at = MIDNIGHT - 3 * DAY + timedelta(minutes=22, seconds=7, microseconds=9)
    chats.say(chats.limited, at, chats.people[1], chats.people[1:3], timedelta(minutes=2))
    chats.say(chats.limited, at, chats.people[2], message_type="system")
    compute(NOW)
    retain(chats.platform)
    with chats.platform.engine.begin() as connection:
        columns = (PernFact.at, PernFact.kind, PernFact.key, PernFact.seconds)
        found = connection.execute(select(*columns)).all()
    quarter = MIDNIGHT - 3 * DAY + timedelta(minutes=15)
    assert sorted(found, key=str) == sorted(
        [
            # Neither who wrote in which conversation, nor when exactly.
            *[(quarter, "message", chats.limited, None)] * 2,
            (quarter, "person", chats.people[1], None),
            *[(quarter, "delivery", None, 120.0)] * 2,
            (quarter, "read", None, 240.0),
            (quarter, "read", None, 360.0),
            # From the statuses, once more.
            (quarter, "person", chats.people[1], None),
            (quarter, "person", chats.people[2], None),
        ],
        key=str,
    )


def test_days_are_frozen_when_their_facts_are_deleted(chats: Chats) -> None:
    platform = chats.platform
    some_days(chats)
    compute(NOW)
    retain(platform)
    before = stored_metrics(platform, DAILY)
    later = NOW + 38 * DAY
    assert sweep(platform, "roomkeeper.pern_facts", now=later).rows > 0
    assert sweep(platform, "roomkeeper.attachment_facts", now=later).rows > 0
    # Either side of forty days: quarters of an hour.
    limit = later - 40 * DAY
    with platform.engine.begin() as connection:
        left = [connection.scalars(select(model.at)).all() for model in (PernFact, AttachmentFact)]
    assert all(at >= limit for each in left for at in each)
    assert all(left)
    daily, attachments = frozen_to(platform)
    assert daily is not None
    assert attachments is not None
    assert limit - DAY < min(daily, attachments) <= max(daily, attachments) < limit
    at = state(platform, DAILY)
    stays = [bucket for bucket in closed(platform, DAILY) if frozen(DAILY, at, bucket)]
    assert {bucket.start <= daily for bucket in stays} == {True}
    assert Backfill(DAILY, later, "UTC").compute_all(closed(platform, DAILY), jobs=2).frozen == len(stays)
    assert stored_metrics(platform, DAILY) == before


def test_rows_that_are_older_than_facts_are_kept_freeze_their_days(chats: Chats) -> None:
    platform = chats.platform
    old = NOW - 40 * DAY
    young = chats.say(chats.limited, old, readers=chats.people[:1], later=timedelta(0))
    older = chats.say(chats.limited, old - sweeping.INSTANT)
    assert young != older
    # A read counts by itself: the day of its message may be frozen.
    half = chats.say(chats.limited, old - 5 * DAY, readers=chats.people[:1], later=3 * DAY)
    assert half
    chats.begin(days=46)
    compute(NOW - 30 * DAY)
    before = stored_metrics(platform, DAILY)
    assert retain(platform).rows == 3
    assert frozen_to(platform) == [old - sweeping.INSTANT, None]
    with platform.engine.begin() as connection:
        found = connection.execute(select(PernFact.kind, PernFact.key)).all()
    assert sorted(found, key=str) == sorted(
        [
            ("message", chats.limited),
            ("person", chats.people[0]),
            ("delivery", None),
            *[("read", None)] * 2,
            *[("person", chats.people[0])] * 2,
        ],
        key=str,
    )
    compute(NOW - 29 * DAY)
    assert stored_metrics(platform, DAILY) == before


def test_a_longer_period_keeps_days_open_for_longer(chats: Chats) -> None:
    chats.platform.set(sweep_after=f"roomkeeper.pern_facts={100 * 86_400}")
    chats.say(chats.limited, NOW - 90 * DAY)
    chats.begin(days=91)
    # Later days have no part in this.
    RollupRun(DAILY, NOW - 88 * DAY, "UTC").go()
    retain(chats.platform)
    assert frozen_to(chats.platform) == [None, None]
    chats.say(chats.others[0], NOW - 90 * DAY)
    Backfill(DAILY, NOW, "UTC").compute_all(closed(chats.platform, DAILY))
    chats.agree()


def test_no_facts_are_kept_of_frozen_days_and_none_stay_there(chats: Chats) -> None:
    platform = chats.platform
    some_days(chats)
    compute(NOW)
    middle = NOW - 3 * DAY
    with platform.engine.begin() as connection:
        connection.execute(update(RollupState).values(frozen_to=middle))
    retain(platform)
    with platform.engine.begin() as connection:
        found = connection.scalars(select(PernFact.at)).all()
        assert found
        assert min(found) >= middle - timedelta(minutes=15)
        # Retention of another conversation's rows, say.
        connection.execute(update(RollupState).values(frozen_to=NOW - DAY))
    sweep(platform, "roomkeeper.pern_facts", now=NOW)
    sweep(platform, "roomkeeper.attachment_facts", now=NOW)
    assert there(platform, PernFact) == there(platform, AttachmentFact) == 0


def test_a_rollup_that_is_off_needs_no_facts(chats: Chats) -> None:
    """Nothing counts them. What goes meanwhile freezes its days, as it does for every policy."""
    platform = chats.platform
    some_days(chats)
    compute(NOW)
    platform.set(sweep_off=DAILY.name)
    retain(platform)
    assert (there(platform, PernFact), there(platform, AttachmentFact)) == (0, 5)
    daily, attachments = frozen_to(platform)
    assert daily is not None
    assert attachments is None


def test_an_overridden_job_stays_and_freezes_its_day(chats: Chats) -> None:
    """It is not deleted with its file, but does not count as finished any more."""
    at = NOW - 3 * DAY
    key = chats.file(chats.say(chats.limited, at), at, override="release")
    compute(NOW)
    retain(chats.platform)
    assert there(chats.platform, AttachmentFact) == 0
    assert there(chats.platform, Attachment) == 0
    assert [row["attachment_id"] for row in chats.rows.of(AttachmentJob)] == [key]
    assert frozen_to(chats.platform) == [None, at]
    compute(NOW + DAY)
    chats.agree()


def test_the_general_limit_keeps_no_facts(chats: Chats) -> None:
    """It has one period for all: that decides how long days can be computed."""
    platform = chats.platform
    some_days(chats)
    platform.set(retention_days=f"{GENERAL}=3", archive_off=GENERAL)
    compute(NOW)
    assert retain(platform, name=GENERAL).rows > 0
    assert there(platform, PernFact) == 0
    assert all(frozen_to(platform))
