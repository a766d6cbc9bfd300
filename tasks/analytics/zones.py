"""A rollup's zone or definition changes: which buckets are computed again, and where the others end.

A bucket is closed for the zone and the definition that it was computed with. After a change the watermark
goes back, so no row is deleted before its new bucket is closed. Buckets that have lost rows cannot be
computed again: they keep their days and their values. The moment at which the last of them ends is the
**seam**. The first bucket of the new zone begins there, not at its midnight, and has a day of its own: no row
is lost, and none is counted twice.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta

from sqlalchemy import func, select

from tasks.analytics.calendar import Bucket, Seam, bucket_at, buckets
from tasks.analytics.state import State, set_state, state_of
from tasks.analytics.statements import statements
from tasks.policies.rollup import Rollup
from workers.db import transaction

_DAY, _INSTANT = timedelta(days=1), timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class ZoneChange:
    """What a change of zone does.

    Attributes:
        before: the state until now.
        after: the state from now on.
        buckets: which are computed again, up to now, in their order.
        rows: how many rows of statistics were removed, because no day of the new zone replaces them.
    """

    before: State
    after: State
    buckets: Sequence[Bucket]
    rows: int = 0


def change_zone(
    rollup: Rollup, zone: str, now: datetime | None = None, *, dry_run: bool = False
) -> ZoneChange | None:
    """Count a rollup's days in another zone from now on; return what that does, or None if it has never run.

    Nothing is computed here: the rollup's next run does that.

    Args:
        now: up to when days are computed again; the database's clock if None.
        dry_run: return what a change would do, and change nothing.
    """
    with transaction() as connection:
        state = state_of(connection, rollup, lock=not dry_run)
        if state is None:
            return None
        if state.zone == zone:
            return ZoneChange(state, state, ())
        moment = now or connection.execute(select(func.clock_timestamp())).scalar_one()
        after = restarted(rollup, state, zone)
        seam = after.seam
        start = after.watermark if seam is None else max(after.watermark, seam.at)
        again = buckets(start, moment, rollup.grain, zone, seam)
        if dry_run:
            return ZoneChange(state, after, again)
        if seam is not None:
            last = seam.last_day
        else:
            was = bucket_at(state.covered_from, rollup.grain, state.zone, state.seam)
            last = min(was.label, bucket_at(start, rollup.grain, zone).label) - _DAY
        values = {"after": last, "labels": [bucket.label for bucket in again]}
        rows = connection.execute(statements(rollup).discard, values).scalar_one()
        set_state(connection, rollup, **asdict(after))
    return ZoneChange(state, after, again, rows)


def restarted(rollup: Rollup, state: State, zone: str) -> State:
    """Return the state with which all buckets are computed again, except those that have lost rows."""
    kept, frozen_to = _kept_until(rollup, state, zone), state.frozen_to
    if zone == state.zone:
        covered_from, seam = state.covered_from, state.seam
        start = max(covered_from, kept or covered_from)
    else:
        covered_from = start = bucket_at(state.covered_from, rollup.grain, zone).start
        seam = None
        if kept is not None and kept >= start:
            covered_from, start = state.covered_from, max(kept, state.covered_from)
            # The zone may change twice before the first new bucket is closed.
            same = state.seam is not None and state.seam.at == start
            seam = state.seam if same else Seam(start, state.zone)
            if start > covered_from:
                # After a second change the days before may be those of a third zone, with other edges.
                frozen_to = max(start - _INSTANT, frozen_to or start - _INSTANT)
    return replace(
        state,
        zone=zone,
        zone_from=None if seam is None else seam.at,
        zone_before=None if seam is None else seam.zone,
        definition=rollup.definition,
        # If the rollup was off, buckets that have lost rows may not be closed yet.
        watermark=min(start, max(state.watermark, covered_from)),
        covered_from=covered_from,
        frozen_to=frozen_to,
        ticked_at=None,
        probe=None,
        recompute_at=None,
    )


def _kept_until(rollup: Rollup, state: State, zone: str) -> datetime | None:
    """Return the end of the last bucket that must stay as it is; None if there is none."""
    ends = []
    if state.frozen_to is not None:
        ends.append(bucket_at(state.frozen_to, rollup.grain, state.zone, state.seam).end)
    if rollup.recompute_for is None and state.watermark > state.covered_from:
        ends.append(state.watermark)
    if rollup.empty_values is not None and zone != state.zone:
        # The days before are the application's own.
        ends.append(state.covered_from)
    return max(ends, default=None)
