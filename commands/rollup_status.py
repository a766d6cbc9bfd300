"""How far rollups have come, and whether they are late."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import Connection, func, select

from commands import formatting
from commands.formatting import first_names, rough_duration
from tasks.analytics.calendar import Bucket, bucket_at, preceding
from tasks.analytics.state import (
    NewerDefinitionError,
    OtherZoneError,
    State,
    check,
    lag,
    states_of,
)
from tasks.apps import rollups, zone
from tasks.policies.rollup import Rollup
from workers.inspection import Fault
from workers.settings import Settings, SettingsError

if TYPE_CHECKING:
    from workers.state_metrics import Lag


@dataclass(frozen=True, slots=True)
class RollupStatus:
    """How far a rollup has come.

    Attributes:
        now: by the database's clock.
        state: None if it has never run.
    """

    rollup: Rollup
    now: datetime
    state: State | None

    @property
    def lag(self) -> timedelta | None:
        """For how long the next bucket should have been closed; None if it has never run."""
        return None if self.state is None else lag(self.rollup, self.state, self.now)

    @property
    def late(self) -> bool:
        """Whether that is a fault."""
        return self.lag is not None and self.lag > self.rollup.late_after

    @property
    def closed(self) -> Bucket | None:
        """The last bucket that is closed; None if none is yet."""
        if self.state is None or self.state.watermark <= self.state.covered_from:
            return None
        return preceding(_at(self.rollup, self.state), self.rollup.grain, self.state.zone, self.state.seam)

    @property
    def next(self) -> Bucket | None:
        """The bucket that is to be closed next; None if it has never run."""
        return None if self.state is None else _at(self.rollup, self.state)


def _at(rollup: Rollup, state: State) -> Bucket:
    return bucket_at(state.watermark, rollup.grain, state.zone, state.seam)


def read(connection: Connection, wanted: Iterable[Rollup]) -> dict[str, RollupStatus]:
    """Return how far rollups have come, by name."""
    now = connection.execute(select(func.clock_timestamp())).scalar_one()
    by_name = {rollup.name: rollup for rollup in wanted}
    states = states_of(connection, by_name)
    return {name: RollupStatus(rollup, now, states.get(name)) for name, rollup in by_name.items()}


def require_same(standing: RollupStatus, settings: Settings) -> None:
    """Go on if a run by these settings may compute the rollup.

    Raises:
        SettingsError: it counts days of another zone, or a newer version has computed it.
    """
    if standing.state is not None:
        try:
            check(standing.rollup, standing.state, zone(standing.rollup, settings))
        except (OtherZoneError, NewerDefinitionError) as error:
            raise SettingsError(str(error)) from error


def lags(connection: Connection, settings: Settings) -> "list[Lag]":
    """Return how far the rollups that run have come, as metrics have it."""
    # Not before: a worker sets an environment variable before metrics are imported.
    from workers.state_metrics import Lag

    return [
        Lag(name, one.rollup.late_after, one.lag, None if one.state is None else one.state.watermark)
        for name, one in read(connection, rollups(settings).values()).items()
    ]


def faults(found: Iterable[RollupStatus]) -> list[Fault]:
    """Return what is to be said of those that are late: one fault, however many they are."""
    late = [one for one in found if one.late]
    if not late:
        return []
    worst = max(late, key=lambda one: one.lag or timedelta(0))
    name = worst.rollup.name
    assert worst.lag is not None
    assert worst.next is not None
    bucket = formatting.bucket(worst.next.label)
    what = f"{bucket} should have been closed {rough_duration(worst.lag)} ago"
    if len(late) == 1:
        sentence = f"{name} is late: {what}; {rough_duration(worst.rollup.late_after)} are allowed."
    else:
        names = first_names([one.rollup.name for one in late])
        sentence = f"{len(late)} rollups are late: {names}; of {name} {what}."
    return [
        Fault(
            sentence,
            f"See whether it runs, and how it ends: roomkeeper policies {worst.rollup.app}; close what is "
            f"due at once: roomkeeper run {name}",
        )
    ]
