"""Backfill: buckets of the past are computed anew, several at once, beside the rollup's own runs.

They go in rounds: between two of them the rollup's own runs, which wait for its state, have their turn.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed, wait
from dataclasses import dataclass, field
from datetime import datetime
from threading import Lock

from sqlalchemy import bindparam, func, select

from tasks.analytics.calendar import Bucket
from tasks.analytics.engine import computing, replace_bucket
from tasks.analytics.state import check, frozen, set_state, state_of
from tasks.policies.rollup import Rollup
from workers.db import for_threads

#: One bucket is computed by one transaction at a time.
_ALONE = select(func.pg_advisory_xact_lock(func.hashtextextended(bindparam("key"), 0)))


class FrozenError(Exception):
    """A bucket has lost rows, or may have: what could be computed of it now is less than what it says."""


@dataclass(slots=True)
class BackfillProgress:
    """What a backfill has done so far.

    Attributes:
        todo: buckets that it is to compute.
        buckets: those that it has computed.
        frozen: those that it left as they are, because rows of them are gone.
        rows: of statistics that it wrote or took away.
    """

    todo: int = 0
    buckets: int = 0
    frozen: int = 0
    rows: int = 0


@dataclass(slots=True)
class Backfill:
    """One backfill of a rollup.

    Attributes:
        now: the moment that it goes by.
        zone: the time zone that is set.
        watch: is called after each bucket.
    """

    rollup: Rollup
    now: datetime
    zone: str
    watch: Callable[[BackfillProgress], None] = lambda _progress: None
    progress: BackfillProgress = field(default_factory=BackfillProgress)
    _adding: Lock = field(default_factory=Lock, init=False, repr=False)

    def compute(self, bucket: Bucket) -> None:
        """Compute one bucket anew, as a whole.

        Raises:
            FrozenError: rows of it are gone; nothing was changed.
            OtherZoneError: the rollup counts the days of another zone; nothing was changed.
        """
        if not self._compute(bucket):
            raise FrozenError(bucket.label)
        self._cover([bucket])

    def compute_all(self, wanted: Iterable[Bucket], jobs: int = 1) -> BackfillProgress:
        """Compute buckets anew, the newest first; return what was done. What is frozen stays as it is.

        Whatever breaks it off, Ctrl-C too, the buckets that have begun are ended.

        Args:
            jobs: how many at once, each on a connection of its own.

        Raises:
            OtherZoneError: the rollup counts the days of another zone.
        """
        todo = sorted(wanted, reverse=True)
        self.progress.todo = len(todo)
        with for_threads(jobs), ThreadPoolExecutor(jobs) as threads:
            for first in range(0, len(todo), jobs):
                going = {threads.submit(self._compute, one): one for one in todo[first : first + jobs]}
                try:
                    for ended in as_completed(going):
                        ended.result()
                        self.watch(self.progress)
                finally:
                    wait(going)
                    self._cover([one for job, one in going.items() if not job.exception() and job.result()])
        return self.progress

    def _compute(self, bucket: Bucket) -> bool:
        """Compute one bucket, while others may be; return whether it is not frozen."""
        with computing() as connection:
            # Shared: a transaction that moves the watermark or freezes buckets waits; other buckets do not.
            state = state_of(connection, self.rollup, share=True)
            assert state is not None
            check(self.rollup, state, self.zone)
            if frozen(self.rollup, state, bucket):
                with self._adding:
                    self.progress.frozen += 1
                return False
            # One bucket by one alone: of two moments the later one must be written last.
            connection.execute(_ALONE, {"key": f"roomkeeper:{self.rollup.name}:{bucket.label}"})
            rows = replace_bucket(connection, self.rollup, bucket, self.now)
            with self._adding:
                self.progress.rows += rows
                self.progress.buckets += 1
        return True

    def _cover(self, computed: Iterable[Bucket]) -> None:
        """Note that what reaches up to what is covered is covered, too."""
        # Even if there is nothing to note: for this one queues up behind those who wait, which a lock that is
        # shared does not.
        with computing() as connection:
            state = state_of(connection, self.rollup, lock=True)
            assert state is not None
            start = state.covered_from
            for bucket in sorted(computed, reverse=True):
                if bucket.end == start:
                    start = bucket.start
            if start != state.covered_from:
                set_state(connection, self.rollup, covered_from=start)
