"""A rollup is checked when it is declared; beat runs each, and the settings know their names."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, select

import tasks.analytics.task  # noqa: F401 - its tasks are made when it is imported
from beat_schedule import timetable
from models.analytics import PernSecurityDaily, PernSessionsDaily
from models.pern import AuthSession
from tasks.apps import APPS, POLICIES, ROLLUPS, enabled, rollups
from tasks.policies.columns import table_of
from tasks.policies.rollup import DAY, HOUR, Keyed, Rollup, SourceTable, bucket_of
from tasks.policies.sweep import PolicyError
from workers.app import app
from workers.settings import SettingsError, load

each_rollup = pytest.mark.parametrize("rollup", ROLLUPS.values(), ids=list(ROLLUPS))

GOOD: dict[str, Any] = {
    "name": "pern.test",
    "model": PernSessionsDaily,
    "rule": "sessions that began that day",
    "why": "Because users ask (pern.md, Access Control).",
    "grain": DAY,
    "bucket": PernSessionsDaily.day,
    "select": select(bucket_of(PernSessionsDaily.day), func.count().label("sessions")),
    "source_tables": (SourceTable(AuthSession, (AuthSession.created_at,)),),
}
_ROOMS = ROLLUPS["audiorooms.room_analytics"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"name": "Sessions"}, "Sessions: call it application.what, in small letters."),
        ({"rule": "sessions"}, "pern.test: say in a sentence what its rule is."),
        ({"why": "so there"}, "pern.test: say in a sentence what its why is."),
        ({"select": select(func.count().label("sessions"))}, "pern.test: its select does not give day."),
        (
            {"select": GOOD["select"].add_columns(func.count().label("people"))},
            "pern.test: roomkeeper.pern_sessions_daily has no column people.",
        ),
        ({"select": select(bucket_of(PernSessionsDaily.day))}, "pern.test: its select gives no statistics."),
        ({"source_tables": ()}, "pern.test: say in `source_tables` whose rows it counts."),
        ({"bucket": PernSecurityDaily.day}, "is not a column of roomkeeper.pern_sessions_daily."),
        ({"zone": "Berlin"}, "pern.test: there is no time zone 'Berlin'."),
        ({"grain": HOUR, "zone": "Europe/Berlin"}, "pern.test: hours are of UTC: give no zone."),
        ({"every": timedelta(0)}, "pern.test: `every` must be longer than nothing."),
        ({"late_after": timedelta(0)}, "pern.test: `late_after` must be longer than nothing."),
        ({"grace": timedelta(seconds=-1)}, "pern.test: `grace` must not be negative."),
        ({"keyed": _ROOMS.keyed}, "pern.test: the select of its keys must give what its select gives."),
    ],
)
def test_a_bad_one_does_not_start(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(PolicyError) as caught:
        Rollup(**(GOOD | changes))
    assert sentence in str(caught.value)


def test_a_good_one_is_taken_and_cannot_be_changed() -> None:
    rollup = Rollup(**GOOD)
    assert rollup.figures == ("sessions",)
    with pytest.raises(AttributeError):
        rollup.name = "pern.other"  # type: ignore[misc]


def test_what_is_kept_up_to_date_by_key_has_that_key() -> None:
    assert _ROOMS.keyed is not None
    other = replace(_ROOMS.keyed, key=_ROOMS.bucket)
    assert isinstance(other, Keyed)
    with pytest.raises(PolicyError, match="is not among its keys"):
        replace(_ROOMS, keyed=other)


@each_rollup
@pytest.mark.usefixtures("platform")
def test_beat_runs_each_and_there_is_a_task(rollup: Rollup) -> None:
    entry = timetable(load({"DATABASE_URL": "postgresql://"}))[rollup.name]
    assert entry["task"] == rollup.task
    assert entry["schedule"] == rollup.every
    assert rollup.task in app.tasks


@each_rollup
def test_it_says_what_it_counts_and_why(rollup: Rollup) -> None:
    if rollup.app in APPS:
        assert APPS[rollup.app].document in rollup.why
    assert rollup.name not in POLICIES
    needed = {need.table for need in rollup.needs()}
    assert {rollup.table, *(feed.table for feed in rollup.source_tables)} <= needed


@each_rollup
def test_it_writes_every_figure_that_its_table_has(rollup: Rollup) -> None:
    table = table_of(rollup.model)
    if table.schema == "roomkeeper":
        keys = {rollup.bucket.key, *(column.key for column in rollup.key)}
        assert {*rollup.figures, *keys, "computed_at"} == set(table.c.keys())


def test_every_table_of_figures_has_its_rollup() -> None:
    made = {rollup.table.fullname for rollup in ROLLUPS.values()}
    tables = table_of(PernSessionsDaily).metadata.tables
    with_statistics = {name for name, table in tables.items() if "computed_at" in table.c}
    assert with_statistics == made - {"audiorooms.room_analytics"}


def test_one_that_is_off_does_not_run() -> None:
    settings = load({"DATABASE_URL": "postgresql://", "ROOMKEEPER_SWEEP_OFF": "pern.daily"})
    assert "pern.daily" not in rollups(settings)
    assert "pern.daily" not in timetable(settings)


def test_those_of_an_application_that_is_not_enabled_do_not_run() -> None:
    settings = load({"DATABASE_URL": "postgresql://", "ROOMKEEPER_APPS": "audiorooms"})
    assert {name.partition(".")[0] for name in rollups(settings)} == {"audiorooms", "roomkeeper"}


@pytest.mark.parametrize("name", ["pern.dialy", "echoroom.hourly", "pern.messages"])
def test_a_zone_is_for_a_rollup_of_days(name: str) -> None:
    settings = load({"DATABASE_URL": "postgresql://", "ROOMKEEPER_ROLLUP_ZONES": f"{name}=Europe/Berlin"})
    with pytest.raises(SettingsError, match=f"names '{name}', which is not a rollup of days"):
        enabled(settings)
