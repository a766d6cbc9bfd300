"""`roomkeeper rollup zone` changes whose days a rollup counts, for all hosts."""

from datetime import UTC, date, datetime, timedelta
from uuid import uuid4

import pytest
from sqlalchemy import insert
from syrupy.assertion import SnapshotAssertion

from models.pern import AuditLog
from tasks.analytics.state import State, state_of
from tasks.apps import ROLLUPS
from tasks.policies.columns import table_of
from tests.commands.cli import Outcome, on, refused, relative, stable
from tests.platform import Platform

EVENTS = ROLLUPS["pern.security_daily"]
#: Commands go by the database's clock.
pytestmark = pytest.mark.usefixtures("same_day")


def change(platform: Platform, zone: str, *options: str, name: str = EVENTS.name) -> Outcome:
    return on(platform, "rollup", "zone", name, zone, *options)


def log(platform: Platform, moment: datetime) -> None:
    what = {"action": "x", "resource_type": "user", "ip_address": "::1", "user_agent": "x"}
    with platform.engine.begin() as connection:
        connection.execute(insert(table_of(AuditLog)).values(id=uuid4(), created_at=moment, **what))


def state(platform: Platform) -> State:
    with platform.engine.begin() as connection:
        found = state_of(connection, EVENTS)
    assert found is not None
    return found


def midnight(days: int) -> datetime:
    """Return the midnight of UTC with which the day began that was so many days ago."""
    now = datetime.now(UTC)
    return now.replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=days)


def lasting(outcome: Outcome) -> str:
    """Return what was printed as it is at every hour: tomorrow may have begun in the other zone."""
    return relative(stable(outcome)).replace("37 days", "36 days")


def days(platform: Platform) -> dict[date, int]:
    rows = platform.sql("SELECT day, events FROM roomkeeper.pern_security_daily")
    return {row.day: row.events for row in rows}


def test_a_change_is_shown_made_and_computed(platform: Platform, snapshot: SnapshotAssertion) -> None:
    log(platform, midnight(3) + timedelta(hours=20))
    assert on(platform, "run", EVENTS.name).code == 0
    before = platform.everything()
    shown = change(platform, "Asia/Kolkata", "--dry-run")
    assert (shown.code, shown.err) == (0, "")
    assert lasting(shown) == snapshot(name="dry run")
    assert platform.everything() == before
    made = change(platform, "Asia/Kolkata")
    assert (made.code, made.err) == (0, "")
    assert lasting(made) == snapshot(name="made")
    assert state(platform).zone == "Asia/Kolkata"
    platform.set(rollup_zones=f"{EVENTS.name}=Asia/Kolkata")
    assert on(platform, "run", EVENTS.name).code == 0
    assert days(platform) == {midnight(2).date(): 1}
    again = change(platform, "Asia/Kolkata")
    assert again.code == 0
    assert stable(again) == snapshot(name="again")


def test_days_that_have_lost_rows_stay(platform: Platform, snapshot: SnapshotAssertion) -> None:
    platform.set(rollup_zones=f"{EVENTS.name}=Asia/Kolkata")
    log(platform, midnight(3))
    assert on(platform, "run", EVENTS.name).code == 0
    platform.sql("UPDATE roomkeeper.rollups SET frozen_to = :at", at=midnight(3))
    made = change(platform, "UTC")
    assert (made.code, made.err) == (0, "")
    assert relative(stable(made)) == snapshot
    # 18:30 of the day, where Kolkata's ends.
    assert state(platform).zone_from == midnight(3) + timedelta(hours=18.5)
    assert " 29.5 hours" in made.out
    # Days of both zones are shown with the report, the list and the check.
    platform.set(rollup_zones="")
    assert on(platform, "run", EVENTS.name).code == 0
    report = on(platform, "report", "pern")
    assert f"UTC (Asia/Kolkata up to {midnight(3):%Y-%m-%d})" in report.out
    assert on(platform, "rollup", "audit", EVENTS.name, "--all").code == 0


@pytest.mark.parametrize(
    ("name", "zone"),
    [
        (EVENTS.name, "Berlin"),
        (EVENTS.name, "CET"),
        ("echoroom.hourly", "Europe/Berlin"),
        ("pern.security", "UTC"),
        ("pern.daily", "Europe/Berlin"),
    ],
    ids=["no zone", "two meanings", "hours", "no rollup", "never run"],
)
def test_what_cannot_be_changed_is_a_sentence(
    platform: Platform, snapshot: SnapshotAssertion, name: str, zone: str
) -> None:
    before = platform.everything()
    assert refused(change(platform, zone, name=name)) == snapshot
    assert platform.everything() == before
