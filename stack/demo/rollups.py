"""Plays the API services for rollups: some days that are over, and people who are there right now.

Then watches what the rollups make of them: each must run, and count at least what was fed.
"""

from collections import Counter
from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from sqlalchemy import Connection, Engine, exists, func, insert, select

from models.analytics import RollupState
from models.platform import JobRun
from stack.demo.history import HISTORIES, LIVE, History, Thing, cast, past
from stack.demo.rows import DAYS, Batch, clock
from tasks.analytics.calendar import bucket_at
from tasks.apps import after, policies, rollups, zone
from tasks.policies.rollup import Rollup
from workers.db import create
from workers.settings import Settings

#: How much longer than the longest period of retention all has been counted.
_MARGIN = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Seen:
    """A rollup that has run, and its statistics of what was fed.

    Attributes:
        buckets: how many days, or hours, were fed.
        total: the sum of the column to which each thing adds one, over these.
    """

    rollup: Rollup
    history: History
    buckets: int
    total: int


class RollupDemo:
    """What the rollups that run are to make of what was fed."""

    def __init__(self) -> None:
        # By rollup and bucket, how many things were fed.
        self._fed: dict[str, Counter[date]] = {}
        self._waiting: dict[str, Rollup] = {}
        self._since = datetime.min.replace(tzinfo=UTC)

    def furnish(self, settings: Settings) -> None:
        """Feed the days that are over: before any program runs, and only the first time.

        Otherwise the rollups would have closed these days, and looked at them again once a day.
        """
        engine = create(settings)
        try:
            with engine.begin() as connection:
                if connection.scalar(select(exists().select_from(RollupState))):
                    return
                now = clock(connection)
                today = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
                self._feed(connection, settings, past(today), live=False)
                # As if all before had been counted long ago: what retention is shown with is older, and it
                # takes nothing that was not counted.
                longest = max(after(one, settings) or timedelta(0) for one in policies(settings).values())
                begun, oldest = today - timedelta(days=DAYS), today - longest - _MARGIN
                states = [
                    {
                        "name": name,
                        "zone": (there := zone(one, settings)),
                        "watermark": bucket_at(begun, one.grain, there).start,
                        "definition": one.definition,
                        "covered_from": bucket_at(oldest, one.grain, there).start,
                    }
                    for name, one in rollups(settings).items()
                ]
                connection.execute(insert(RollupState), states)
        finally:
            engine.dispose()

    def feed(self, engine: Engine, settings: Settings, files: int = 0, since: datetime | None = None) -> int:
        """Feed what goes on right now; return how many rollups run.

        Args:
            files: how many were fed just before.
            since: when the first of them was fed; now by default.
        """
        self._waiting = rollups(settings)
        before = deepcopy(self._fed)
        try:
            with engine.begin() as connection:
                self._since = now = clock(connection)
                self._feed(connection, settings, [now - timedelta(minutes=1)] * LIVE, live=True)
        except BaseException:
            # Nothing was fed.
            self._fed = before
            raise
        for name, one in self._waiting.items():
            if HISTORIES[name].thing is None:
                self._count(one, settings, [since or now] * files)
        return len(self._waiting)

    def look(self, engine: Engine) -> list[Seen]:
        """Return those that have run, and have counted all, since the last look."""
        with engine.begin() as connection:
            found = [seen for one in self._waiting.values() if (seen := self._seen(connection, one))]
        for seen in found:
            del self._waiting[seen.rollup.name]
        return found

    @property
    def waiting(self) -> list[Rollup]:
        """Those that have not."""
        return list(self._waiting.values())

    def _feed(
        self, connection: Connection, settings: Settings, moments: list[datetime], *, live: bool
    ) -> None:
        batch = Batch(connection, clock(connection), timedelta(0))
        stage = cast(batch)
        things: dict[Thing, list[Rollup]] = {}
        for name, one in rollups(settings).items():
            if thing := HISTORIES[name].thing:
                things.setdefault(thing, []).append(one)
        for thing, fed_rollups in things.items():
            for moment in moments:
                thing(stage, moment, live)
            batch.flush()
            for one in fed_rollups:
                self._count(one, settings, moments)

    def _count(self, rollup: Rollup, settings: Settings, moments: list[datetime]) -> None:
        there = zone(rollup, settings)
        labels = (bucket_at(moment, rollup.grain, there).label for moment in moments)
        self._fed.setdefault(rollup.name, Counter()).update(labels)

    def _seen(self, connection: Connection, rollup: Rollup) -> Seen | None:
        ran = exists().where(
            JobRun.job == rollup.name, JobRun.outcome == "done", JobRun.started_at > self._since
        )
        if not connection.scalar(select(ran)):
            return None
        history, fed = HISTORIES[rollup.name], self._fed[rollup.name]
        # A file counts where its work begins, which may be a moment later, and on the next day.
        within = rollup.bucket.in_(fed) if history.thing else rollup.bucket >= min(fed, default=date.max)
        query = select(rollup.bucket, func.sum(history.column)).where(within)
        there = {row[0]: row[1] for row in connection.execute(query.group_by(rollup.bucket))}
        if history.thing is None:
            if sum(there.values()) < fed.total():
                return None
        elif any(there.get(label, 0) < number for label, number in fed.items()):
            return None
        return Seen(rollup, history, len(there), sum(there.values()))
