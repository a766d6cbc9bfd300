"""The sweep engine: takes rows that are due, batch by batch, until none is left or the run's time is over.

How it goes about it is chosen by what is there:

- **By index** while few rows are due: some rows at a time, of those that an index finds. Without any, that is
  one short question.
- **By heap range** when there is a backlog: more due rows than `ROWS_A_PAGE` for each page of the table,
  counted as far as that. Then the table is read once round, some pages at a time. Rows of a page go
  together, which is several times faster than by index (`python -m benchmarks.sweep`, beside one DELETE of
  all). So it goes too where rows that cannot be changed stand in the way of others: no page is met twice.
- **By walking**, where no index serves the policy: each run looks through its share of the table, so that the
  whole is looked through in the time that its `full_pass_every` says, and on for as long as it finds a crowd.

Where a run by pages stops, the next one goes on. Each batch is a transaction of its own, of rows that no
other holds (`tasks/sweeps/batch.py`), and so large that it takes as long as its `Pace` says. One that takes
too long is tried again with a quarter; of one that the database refuses, each half is tried, down to the row
that it refuses.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import ceil
from time import monotonic, perf_counter

from sqlalchemy import text
from sqlalchemy.dialects.postgresql import insert

from models.platform import SweepCheckpoint
from tasks.policies.sweep import Sweep
from tasks.sweeps.batch import Batches, Contested, Refused, Seen, Taken, begin
from workers import job_history

#: By heap range if more rows than these are due for each page: below, an index is faster.
ROWS_A_PAGE = 3
#: So many rows that were looked up may be refused before the rest is taken by pages.
MOST_REFUSALS = 20
#: A walk looks through so many pages at least.
LEAST_WALK = 20
#: Rows that are only counted are counted on so many pages at once.
COUNT_PAGES = 2_000


@dataclass(frozen=True, slots=True)
class Pace:
    """How large batches are, at first and at most: they tune themselves between.

    Attributes:
        seconds: what a batch is to take: a tenth of a second is the most that others should wait for a row.
        rows, most_rows: of a batch by index.
        keys, most_keys: of one of rows that were looked up.
        pages, most_pages: of one by heap range.
        look: how many rows are looked up at once.
    """

    seconds: float = 0.05
    rows: int = 500
    most_rows: int = 20_000
    keys: int = 100
    most_keys: int = 2_000
    pages: int = 100
    most_pages: int = 500
    look: int = 5_000


@dataclass(slots=True)
class SweepProgress:
    """What a run of a policy has done so far.

    Attributes:
        batches: transactions that changed rows.
        remaining: rows that it saw and could not change.
        page, pages: how many pages it has read of how many, where it reads pages.
        more: whether it stopped with work left.
        error: what the database said of a row that it refused to change.
        longest_seconds: of its batches.
    """

    rows: int = 0
    batches: int = 0
    remaining: int = 0
    page: int = 0
    pages: int = 0
    more: bool = False
    error: str | None = None
    longest_seconds: float = 0.0

    def record(self, entry: job_history.RunEntry) -> None:
        """Put it into the run's entry in the job history."""
        entry.rows, entry.batches, entry.remaining = self.rows, self.batches, self.remaining
        entry.error = entry.error or self.error


@dataclass(slots=True)
class _Size:
    """How large a batch is: it tunes itself."""

    now: int
    most: int
    seconds: float

    def learn(self, seconds: float) -> None:
        factor = min(2.0, max(0.25, self.seconds / max(seconds, 1e-6)))
        self.now = min(self.most, max(1, int(self.now * factor)))


class SweepRun:
    """One run of a policy."""

    def __init__(
        self,
        batches: Batches,
        seconds: float,
        *,
        share: float = 1.0,
        pace: Pace = Pace(),
        after_batch: Callable[[SweepProgress, Taken], None] = lambda _progress, _taken: None,
    ) -> None:
        """Prepare it.

        Args:
            seconds: how long it may take.
            share: of the table, how much a walk looks through where it finds nothing.
            after_batch: is called after each commit, with what the run and the batch did; what it raises ends
                the run.
        """
        self.progress = SweepProgress()
        self._batches = batches
        self._policy: Sweep = batches.policy
        self._deadline = monotonic() + seconds
        self._share = share
        self._after_batch = after_batch
        self._rows = _Size(pace.rows, pace.most_rows, pace.seconds)
        self._keys = _Size(pace.keys, pace.most_keys, pace.seconds)
        self._pages = _Size(pace.pages, pace.most_pages, pace.seconds)
        self._look = pace.look
        self._refusals = 0

    def go(self) -> SweepProgress:
        """Do it; return what it did. What it raises, it raises between two whole batches."""
        whole = False
        if self._policy.index_condition is not None:
            whole = self._by_index() or self._ahead() if self._batches.row_local else self._by_looking()
        if (whole or self._policy.full_pass_every) and not self.progress.more:
            found = self.progress.remaining
            self.progress.remaining = 0
            self._by_pages(1.0 if whole else self._share)
            # Both ways may have met the same rows.
            self.progress.remaining = max(found, self.progress.remaining)
        return self.progress

    def foresee(self, at_most: int) -> int:
        """Count what it would take, up to a number or a little more; changes nothing."""
        batches = self._batches
        found = batches.due_by_index(at_most) if self._policy.index_condition is not None else 0
        if not self._policy.full_pass_every:
            return found
        pages, place = self._extent()
        seen = walked = 0
        least = min(pages, max(LEAST_WALK, ceil(pages * self._share)))
        # Cut short it is no harm: what a run may take is counted as it goes, too.
        while seen < least and max(found, walked) < at_most and monotonic() < self._deadline:
            place %= pages
            last = min(pages, place + COUNT_PAGES, place + least - seen)
            try:
                walked += batches.due_on_pages(place, last)
            except Contested:
                break
            seen += last - place
            place = last
        # An index and the walk may find the same rows.
        return max(found, walked)

    def _by_index(self) -> bool:
        """Take what an index finds; return whether the rest is to be taken by pages."""
        counted = False
        while True:
            asked = self._rows.now
            try:
                taken = self._batch(partial(self._batches.by_index, asked), self._rows)
            except Refused:
                return True
            except Contested as error:
                if self._smaller(self._rows):
                    continue
                self._leave(1, error)
                return False
            if taken.rows < asked or self._over():
                return False
            if not counted:
                counted = True
                backlog = ROWS_A_PAGE * self._extent()[0]
                if self._batches.due_by_index(backlog) == backlog:
                    return True

    def _ahead(self) -> bool:
        """Take what an index finds of rows with a time ahead; return as `_by_index`."""
        if self.progress.more:
            return False
        seen, more = self._batches.look_ahead(self._look)
        self._take_all(seen)
        return more

    def _by_looking(self) -> bool:
        """Look up what an index finds, and take it; return whether the rest is to be taken by pages."""
        seen, more = self._batches.look(self._look)
        self._take_all(seen)
        # By pages, those that are refused are not met first each time.
        return more or self._refusals > MOST_REFUSALS

    def _by_pages(self, share: float) -> None:
        """Take what is due on the pages, from where the last run stopped, on a share of them at least."""
        pages, place = self._extent()
        if not pages:
            return
        self.progress.pages = pages
        least = max(LEAST_WALK, ceil(pages * share))
        place %= pages
        seen = idle = 0
        try:
            # On for as long as there is much, but once round at most.
            while True:
                first, rows = place, self.progress.rows
                # What it falls over is not to be met first each time.
                place = min(pages, first + min(self._pages.now, pages - seen, least - idle))
                self._range(first, place)
                if self.progress.more:
                    place = first
                    return
                seen += place - first
                # A row here and there has the time that `full_pass_every` says; a crowd is no share of a run.
                crowd = self.progress.rows - rows >= place - first
                idle = 0 if crowd else idle + place - first
                place %= pages
                self.progress.page = seen
                if seen >= pages or idle >= least or self._over():
                    return
        finally:
            # Once round it does not matter where the next one begins.
            if seen < pages:
                self._remember(place)

    def _range(self, first: int, last: int) -> None:
        """Take what is due on these pages; says `more` where time was over before all of it was taken."""
        batches = self._batches
        try:
            if self._batches.row_local:
                taken = self._batch(partial(batches.on_pages, first, last), self._pages)
                if not taken.rows:
                    self._pages.learn(0)
                self._take_all(batches.look_ahead_on_pages(first, last))
                return
        except Contested:
            # Too slow for one statement, most likely.
            self._smaller(self._pages)
        except Refused:
            pass
        seen = batches.look_on_pages(first, last)
        if not seen:
            self._pages.learn(0)
        self._take_all(seen)

    def _take_all(self, seen: Seen) -> None:
        """Take these rows: batch by batch, of few parents each; a part that is refused by halves."""
        todo = [sorted(seen, key=lambda row: (str(row[1:]), row[0]), reverse=True)] if seen else []
        while todo:
            some = todo.pop()
            if len(some) > self._keys.now:
                # The end of it first: a list is shortened there at no cost.
                some, rest = some[-self._keys.now :], some[: -self._keys.now]
                todo.append(rest)
            try:
                self._batch(partial(self._batches.take, some), self._keys)
            except (Refused, Contested) as error:
                if len(some) == 1:
                    self._leave(1, error)
                    self._refusals += 1
                    if self._refusals == MOST_REFUSALS + 1 and not self.progress.pages:
                        return
                elif isinstance(error, Contested):
                    self._smaller(self._keys)
                    todo.append(some)
                else:
                    half = len(some) // 2
                    todo += [some[:half], some[half:]]
            if todo and self._over():
                return

    def _batch(self, take: Callable[[], Taken], size: _Size) -> Taken:
        began = perf_counter()
        taken = take()
        seconds = perf_counter() - began - taken.seconds_after
        if taken.rows:
            # Where nothing was due there is nothing to be learnt.
            size.learn(seconds)
        progress = self.progress
        progress.rows += taken.rows
        progress.batches += bool(taken.rows)
        progress.remaining += taken.remaining
        progress.error = taken.error or progress.error
        progress.longest_seconds = max(progress.longest_seconds, seconds)
        self._after_batch(progress, taken)
        return taken

    def _smaller(self, size: _Size) -> bool:
        """Make the next batch a quarter as large; return whether that was possible."""
        before = size.now
        size.now = max(1, before // 4)
        return size.now < before

    def _leave(self, rows: int, error: Exception) -> None:
        self.progress.remaining += rows
        self.progress.error = str(error)

    def _over(self) -> bool:
        self.progress.more = monotonic() >= self._deadline
        return self.progress.more

    def _extent(self) -> tuple[int, int]:
        """Return how many pages the table has (a partitioned one: its largest part), and where to go on."""
        with begin() as connection:
            real = connection.get_execution_options().get("schema_translate_map", {})
            table = self._policy.table
            name = {"of": real.get(table.schema, table.schema), "called": table.name}
            pages, place = connection.execute(_EXTENT, {**name, "policy": self._policy.name}).one()
            return int(pages), int(place)

    def _remember(self, page: int) -> None:
        with begin() as connection:
            connection.execute(_REMEMBER, {"policy": self._policy.name, "page": page})


_EXTENT = text("""
    SELECT coalesce(max(pg_relation_size(part.relid)), pg_relation_size(class.oid))
           / current_setting('block_size')::bigint,
           coalesce((SELECT page FROM roomkeeper.sweep_checkpoints WHERE policy = :policy), 0)
      FROM pg_catalog.pg_class AS class
      JOIN pg_catalog.pg_namespace AS space ON space.oid = class.relnamespace
      LEFT JOIN LATERAL pg_partition_tree(class.oid) AS part ON part.isleaf
     WHERE space.nspname = :of AND class.relname = :called
     GROUP BY class.oid
""")
_REMEMBER = insert(SweepCheckpoint.__table__)  # type: ignore[arg-type]
_REMEMBER = _REMEMBER.on_conflict_do_update(index_elements=["policy"], set_={"page": _REMEMBER.excluded.page})
