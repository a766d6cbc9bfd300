"""How far a rollup has come, as its row of `roomkeeper.rollups` says."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, select, update

from models.analytics import RollupState
from tasks.analytics.calendar import Bucket, bucket_at
from tasks.policies.rollup import Rollup


@dataclass(frozen=True, slots=True)
class State:
    """A rollup's row of `roomkeeper.rollups`; see there."""

    zone: str
    watermark: datetime
    covered_from: datetime
    frozen_to: datetime | None
    ticked_at: datetime | None
    probe: str | None
    daily_snapshot_at: datetime | None
    recompute_at: datetime | None
    recomputed_at: datetime | None


def frozen(rollup: Rollup, state: State, bucket: Bucket) -> bool:
    """Return whether a bucket must stay as it is: its rows are gone, or go as soon as it is closed."""
    # What was never counted is left by retention and cleanup until it is.
    if bucket.end <= state.covered_from:
        return False
    rows_deleted = state.frozen_to is not None and bucket.start <= state.frozen_to
    return rows_deleted or (rollup.recompute_for is None and bucket.end <= state.watermark)


def due_by(rollup: Rollup, bucket: Bucket) -> datetime:
    """Return from when on a bucket is to be closed."""
    return bucket.end + rollup.grace


def lag(rollup: Rollup, state: State, now: datetime) -> timedelta:
    """Return for how long the next bucket should have been closed; nothing if it is not yet to be."""
    if state.watermark > now:
        return timedelta(0)
    bucket = bucket_at(state.watermark, rollup.grain, state.zone)
    return max(timedelta(0), now - due_by(rollup, bucket))


_STATE = select(
    RollupState.zone,
    RollupState.watermark,
    RollupState.covered_from,
    RollupState.frozen_to,
    RollupState.ticked_at,
    RollupState.probe,
    RollupState.daily_snapshot_at,
    RollupState.recompute_at,
    RollupState.recomputed_at,
)


def state_of(
    connection: Connection, rollup: Rollup, *, lock: bool = False, share: bool = False
) -> State | None:
    """Return how far a rollup has come; None if it has never run.

    Args:
        lock: no other transaction computes anything of it, or changes this, until the end of this one.
        share: no other transaction changes this until then; others may compute buckets, each its own.
    """
    asked = _STATE.where(RollupState.name == rollup.name)
    if lock or share:
        asked = asked.with_for_update(read=share)
    row = connection.execute(asked).one_or_none()
    return None if row is None else State(*row)


def set_state(connection: Connection, rollup: Rollup, **values: Any) -> None:
    """Change what is noted of how far a rollup has come."""
    connection.execute(update(RollupState).where(RollupState.name == rollup.name).values(**values))


def states_of(connection: Connection, names: Iterable[str]) -> dict[str, State]:
    """Return how far the rollups of these names have come, without those that have never run."""
    wanted = RollupState.name.in_(list(names))
    found = connection.execute(_STATE.add_columns(RollupState.name).where(wanted))
    return {name: State(*state) for *state, name in found}
