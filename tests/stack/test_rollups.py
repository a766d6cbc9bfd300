"""What the local stack feeds for rollups: something for each, and what comes of it is told."""

from datetime import UTC, date, datetime, timedelta

import pytest
from sqlalchemy import func, select

from models.openchat import Message
from stack.demo.history import HISTORIES, LIVE, past
from stack.demo.rollups import RollupDemo, Seen
from stack.demo.rows import DAYS
from tasks.analytics import task as analytics
from tasks.analytics.calendar import bucket_at
from tasks.apps import ROLLUPS, rollups
from tasks.policies.columns import model_of, table_of
from tests.platform import Platform, eventually
from workers.db import clock

pytestmark = pytest.mark.usefixtures("same_day")

#: What files that are scanned are counted by: these tests feed none.
NAMES = [name for name, history in HISTORIES.items() if history.thing is not None]


def roll(platform: Platform, *names: str) -> None:
    for name in names:
        # To its end, however busy the machine is.
        assert analytics.run(ROLLUPS[name], platform.settings, by_hand=True) is not None


def midnight() -> datetime:
    return clock().astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def test_there_is_a_history_for_every_rollup() -> None:
    assert sorted(HISTORIES) == sorted(ROLLUPS), "say in stack/demo/history.py what is fed for it"
    for name, history in HISTORIES.items():
        assert table_of(model_of(history.column)) is ROLLUPS[name].table
        assert history.column.key in ROLLUPS[name].metrics


def test_days_differ_and_all_have_something() -> None:
    today = datetime(2026, 3, 16, tzinfo=UTC)
    moments = past(today)
    days = {moment.date() for moment in moments}
    assert days == {(today - timedelta(days=back)).date() for back in range(1, DAYS + 1)}
    assert len({sum(moment.date() == day for moment in moments) for day in days}) > 3


@pytest.mark.parametrize("name", NAMES)
def test_each_thing_adds_one_to_its_figure(platform: Platform, name: str) -> None:
    demo = RollupDemo()
    demo.furnish(platform.settings)
    roll(platform, name)
    rollup, history = ROLLUPS[name], HISTORIES[name]
    expected: dict[date, int] = {}
    for moment in past(midnight()):
        label = bucket_at(moment, rollup.grain, rollup.zone).label
        expected[label] = expected.get(label, 0) + 1
    with platform.engine.begin() as connection:
        query = select(rollup.bucket, func.sum(history.column)).where(rollup.bucket.in_(expected))
        assert {row[0]: row[1] for row in connection.execute(query.group_by(rollup.bucket))} == expected


def test_what_goes_on_is_counted_once_its_rollup_has_run(platform: Platform) -> None:
    demo = RollupDemo()
    demo.furnish(platform.settings)
    # Before it was fed, and where there is nothing to count.
    roll(platform, "openchat.daily", "roomkeeper.attachments_daily")
    assert demo.feed(platform.engine, platform.settings) == len(ROLLUPS)
    assert demo.look(platform.engine) == []
    roll(platform, "pern.daily")
    (seen,) = demo.look(platform.engine)
    assert seen.rollup.name == "pern.daily"
    # What goes on is a minute old: right after midnight it is yesterday's.
    days = DAYS + (clock() - timedelta(minutes=1) >= midnight())
    assert (seen.buckets, seen.total) == (days, len(past(midnight())) + LIVE)

    def again() -> list[Seen]:
        # The database counts what was written a moment late, and then it is computed.
        roll(platform, "openchat.daily")
        return demo.look(platform.engine)

    (seen,) = eventually(again)
    assert seen.rollup.name == "openchat.daily"
    # Each is told once.
    assert demo.look(platform.engine) == []
    assert {one.name for one in demo.waiting} == ROLLUPS.keys() - {"openchat.daily", "pern.daily"}


@pytest.mark.parametrize("which", ["min", "max"])
def test_a_day_that_was_counted_too_low_is_not_told(platform: Platform, which: str) -> None:
    demo = RollupDemo()
    demo.furnish(platform.settings)
    demo.feed(platform.engine, platform.settings)
    roll(platform, "openchat.daily")
    platform.sql(
        "UPDATE roomkeeper.openchat_daily SET messages = messages - 1"
        f" WHERE day = (SELECT {which}(day) FROM roomkeeper.openchat_daily)"
    )
    assert demo.look(platform.engine) == []


def test_files_are_counted_by_those_that_were_fed(platform: Platform) -> None:
    demo = RollupDemo()
    demo.furnish(platform.settings)
    demo.feed(platform.engine, platform.settings, files=1)
    roll(platform, "roomkeeper.attachments_daily")
    assert demo.look(platform.engine) == []
    platform.sql(
        "INSERT INTO roomkeeper.attachment_jobs (app, attachment_id, state) VALUES"
        " ('pern', gen_random_uuid(), 'waiting')"
    )

    def again() -> list[Seen]:
        roll(platform, "roomkeeper.attachments_daily")
        return demo.look(platform.engine)

    (seen,) = eventually(again)
    assert (seen.rollup.name, seen.buckets, seen.total) == ("roomkeeper.attachments_daily", 1, 1)


def test_a_file_may_be_worked_on_after_midnight(platform: Platform) -> None:
    demo = RollupDemo()
    demo.furnish(platform.settings)
    yesterday = midnight() - timedelta(microseconds=1)
    demo.feed(platform.engine, platform.settings, files=2, since=yesterday)
    platform.sql(
        "INSERT INTO roomkeeper.attachment_jobs (app, attachment_id, state, created_at) VALUES"
        " ('pern', gen_random_uuid(), 'waiting', :yesterday), ('pern', gen_random_uuid(), 'waiting', now())",
        yesterday=yesterday,
    )
    roll(platform, "roomkeeper.attachments_daily")
    (seen,) = demo.look(platform.engine)
    assert (seen.buckets, seen.total) == (2, 2)


def test_the_days_that_are_over_are_fed_once(platform: Platform) -> None:
    def messages() -> int:
        with platform.engine.begin() as connection:
            return connection.scalar(select(func.count()).select_from(table_of(Message))) or 0

    RollupDemo().furnish(platform.settings)
    fed = messages()
    assert fed == len(past(midnight()))
    again = RollupDemo()
    again.furnish(platform.settings)
    assert messages() == fed
    # What goes on is fed each time, and all that is waited for then.
    again.feed(platform.engine, platform.settings)
    assert messages() == fed + LIVE
    roll(platform, "openchat.daily")
    (seen,) = again.look(platform.engine)
    assert (seen.buckets, seen.total) == (1, LIVE)


def test_only_what_runs_is_fed(platform: Platform) -> None:
    platform.set(apps="pern", sweep_off="pern.daily")
    demo = RollupDemo()
    demo.furnish(platform.settings)
    left = {"pern.sessions_daily", "pern.security_daily", "roomkeeper.attachments_daily"}
    assert rollups(platform.settings).keys() == left
    assert demo.feed(platform.engine, platform.settings) == len(left)
    assert {row.name for row in platform.sql("SELECT name FROM roomkeeper.rollups")} == left
    for table in ("pern.messages", "openchat.message", "audiorooms.room_participants"):
        assert platform.sql(f"SELECT FROM {table}") == []
