"""How far a rollup has come, as its row of `roomkeeper.rollups` says."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, select, update

from models.analytics import RollupState
from tasks.analytics.calendar import Bucket, Seam, bucket_at
from tasks.policies.rollup import Rollup
from workers.settings import variable


class OtherZoneError(Exception):
    """The rollup counts the days of another time zone than the one that is set here."""

    def __init__(self, rollup: str, zone: str, wanted: str) -> None:
        super().__init__(
            f"{rollup} counts days of {zone}, and {variable('rollup_zones')} here says {wanted}: nothing is "
            f"computed. Set {zone} on this host, or change the zone for all: roomkeeper rollup zone {rollup} "
            f"{wanted}"
        )


class NewerDefinitionError(Exception):
    """The rollup's statistics are those of a newer version."""

    def __init__(self, rollup: str) -> None:
        super().__init__(
            f"A newer version has computed {rollup}, and counts something else: nothing is computed. Update "
            "this host."
        )


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
    zone_from: datetime | None
    zone_before: str | None
    definition: int

    @property
    def seam(self) -> Seam | None:
        """Where the days of `zone` begin; None where all are."""
        if self.zone_from is None or self.zone_before is None:
            return None
        return Seam(self.zone_from, self.zone_before)


def check(rollup: Rollup, state: State, zone: str) -> None:
    """Raise if the rollup must not compute anything by these settings, or in this version.

    Args:
        zone: the one that is set.

    Raises:
        OtherZoneError: it counts the days of another zone.
        NewerDefinitionError: a newer version has computed it.
    """
    if state.zone != zone:
        raise OtherZoneError(rollup.name, state.zone, zone)
    if state.definition > rollup.definition:
        raise NewerDefinitionError(rollup.name)


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
    bucket = bucket_at(state.watermark, rollup.grain, state.zone, state.seam)
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
    RollupState.zone_from,
    RollupState.zone_before,
    RollupState.definition,
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
    row: Any = connection.execute(asked).one_or_none()
    return None if row is None else State(*row)


def set_state(connection: Connection, rollup: Rollup, **values: Any) -> None:
    """Change what is noted of how far a rollup has come."""
    connection.execute(update(RollupState).where(RollupState.name == rollup.name).values(**values))


def states_of(connection: Connection, names: Iterable[str]) -> dict[str, State]:
    """Return how far the rollups of these names have come, without those that have never run."""
    wanted = RollupState.name.in_(list(names))
    found = connection.execute(_STATE.add_columns(RollupState.name).where(wanted))
    return {name: State(*state) for *state, name in found}
