"""Rows for sweeps, and sweeps of them at an exact moment."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert

from models.analytics import RollupState
from tasks.apps import POLICIES, ROLLUPS
from tasks.policies.columns import table_of
from tasks.sweeps import task as cleanup
from tasks.sweeps.engine import SweepProgress
from tests.platform import Platform

#: The moment that sweeps go by in tests.
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
INSTANT = timedelta(microseconds=1)
#: Tables of ours in which every run leaves something.
RUN_TABLES = {
    "roomkeeper.job_runs",
    "roomkeeper.sweep_checkpoints",
    "roomkeeper.rollups",
    "roomkeeper.future_timestamps",
}


def ago(*, than: timedelta = timedelta(0), **parts: float) -> datetime:
    """Return the moment so long before NOW: `ago(minutes=30)`; `than` is taken off once more."""
    return NOW - timedelta(**parts) - than


def naive(moment: datetime) -> datetime:
    """Return the moment as `openchat` keeps it: in UTC, without saying so."""
    return moment.astimezone(UTC).replace(tzinfo=None)


def close_rollups(platform: Platform) -> None:
    """Say of all rollups of which nothing is said yet that they have closed all buckets there can be."""
    always = {
        "zone": "UTC",
        "covered_from": datetime.min.replace(tzinfo=UTC),
        "watermark": datetime.max.replace(tzinfo=UTC),
    }
    with platform.engine.begin() as connection:
        statement = insert(RollupState).values(
            [{"name": name, "definition": rollup.definition, **always} for name, rollup in ROLLUPS.items()]
        )
        connection.execute(statement.on_conflict_do_nothing())


def rolled_up(platform: Platform, name: str, **values: datetime | None) -> None:
    """Say how far a rollup has come: its watermark, `covered_from` and `frozen_to`."""
    close_rollups(platform)
    table = table_of(RollupState)
    with platform.engine.begin() as connection:
        connection.execute(table.update().where(table.c.name == name).values(values))


def sweep(platform: Platform, name: str, *, by_hand: bool = True, now: datetime = NOW) -> SweepProgress:
    """Run a policy at NOW, through its whole table, or as beat would. Statistics keep nothing."""
    close_rollups(platform)
    done = cleanup.run(POLICIES[name], platform.settings, now=now, by_hand=by_hand)
    assert done is not None, "another run is under way"
    return done


def add(platform: Platform, model: Any, **values: Any) -> UUID:
    """Insert a row with an id of its own; return the id."""
    key = values.pop("id", None) or uuid4()
    with platform.engine.begin() as connection:
        connection.execute(insert(table_of(model)).values(id=key, **values))
    assert isinstance(key, UUID)
    return key


def rows(platform: Platform, model: Any) -> dict[UUID, dict[str, Any]]:
    """Return the whole table by id."""
    with platform.engine.begin() as connection:
        found = connection.execute(select(table_of(model))).mappings().all()
    return {row["id"]: dict(row) for row in found}


def others(platform: Platform) -> dict[str, list[tuple[Any, ...]]]:
    """Return every row of every table but those in which a run leaves something."""
    return {name: found for name, found in platform.everything().items() if name not in RUN_TABLES}


def changed(before: Mapping[UUID, Mapping[str, Any]], key: UUID, **values: Any) -> dict[UUID, dict[str, Any]]:
    """Return the table as `before`, but for these values of one row."""
    assert set(values) <= set(before[key])
    return {other: {**row, **values} if other == key else dict(row) for other, row in before.items()}


def swept(
    platform: Platform,
    name: str,
    table: dict[UUID, dict[str, Any]],
    by_hand: bool,
) -> None:
    """Run it: `table` is all that its table then holds; nothing else changes, and nothing the next time."""
    policy = POLICIES[name]
    before = others(platform)
    due = sum(row != table.get(key) for key, row in rows(platform, policy.model).items())
    assert sweep(platform, name, by_hand=by_hand).rows == due
    assert rows(platform, policy.model) == table
    after = others(platform)
    of = table_of(policy.model).fullname
    assert {**before, of: None} == {**after, of: None}
    assert sweep(platform, name, by_hand=by_hand).rows == 0
    assert others(platform) == after
