"""The sweep engine: takes rows that are due, batch by batch, until none is left or the run's time is over.

How it goes about it is chosen by what is there:

- **By index** while few rows are due: some rows at a time, of those that an index finds. Without any, that is
  one short question.
- **By heap range** when there is a backlog: more due rows than `ROWS_A_PAGE` for each page of the table,
  counted as far as that. Then the table is read from its first page to its last, some pages at a time. Rows
  of a page go together, so it is several times faster than by index, and as fast as one DELETE of all.
- **By walking**, where no index serves the policy: each run looks through as many pages as its `walk` says,
  and on for as long as it finds something; the next goes on from there.

Each batch is a transaction of its own, of rows that nobody else holds (`tasks/engines/batch.py`), and so
large that it takes about `TARGET_SECONDS`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from time import monotonic, perf_counter

from sqlalchemy import text
from sqlalchemy.dialects.postgresql import insert

from models.platform import SweepPosition
from tasks.apps.sweeps import Sweep
from tasks.engines.batch import Batches, Taken, begin

#: What a batch is to take: a tenth of a second is the most that others should have to wait for a row.
TARGET_SECONDS = 0.05
#: By heap range if more rows than these are due for each page: below, an index is faster.
ROWS_A_PAGE = 3
#: Rows of a batch by index, pages of one by heap range: at first, and at most.
ROWS, MOST_ROWS = 500, 20_000
PAGES, MOST_PAGES = 100, 500


@dataclass(slots=True)
class Progress:
    """What a run has done so far.

    Attributes:
        batches: transactions that changed rows.
        remaining: rows that it saw and could not change.
        page, pages: how far it has read, where it reads pages.
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


@dataclass(slots=True)
class _Size:
    """How large a batch is: it tunes itself."""

    now: int
    most: int

    def learn(self, seconds: float) -> None:
        factor = min(2.0, max(0.25, TARGET_SECONDS / max(seconds, 1e-6)))
        self.now = min(self.most, max(1, int(self.now * factor)))


class Run:
    """One run of a policy."""

    def __init__(
        self,
        batches: Batches,
        seconds: float,
        *,
        thorough: bool = False,
        after_batch: Callable[[Progress, Taken], None] = lambda _progress, _taken: None,
    ) -> None:
        """Prepare it.

        Args:
            seconds: how long it may take.
            thorough: walk through the whole table, where no index serves the policy.
            after_batch: is called after each commit, with what the run and the batch did.
        """
        self.progress = Progress()
        self._batches = batches
        self._policy: Sweep = batches.policy
        self._deadline = monotonic() + seconds
        self._thorough = thorough
        self._after_batch = after_batch
        self._rows = _Size(ROWS, MOST_ROWS)
        self._pages = _Size(PAGES, MOST_PAGES)

    def go(self) -> Progress:
        """Do it; return what it did. What it raises, it raises between two whole batches."""
        if self._policy.found is not None:
            self._by_index()
        if self._policy.walk and not self.progress.more:
            self._walk()
        return self.progress

    def _by_index(self) -> None:
        asked_for_backlog = False
        while True:
            asked = self._rows.now
            taken = self._batch(partial(self._batches.by_index, asked), self._rows)
            if taken.found < asked or not taken.rows:
                return
            if self._over():
                return
            if not asked_for_backlog:
                asked_for_backlog = True
                pages, _ = self._extent()
                if self._batches.due_by_index(ROWS_A_PAGE * pages) == ROWS_A_PAGE * pages:
                    self._range(0, pages)
                    return

    def _range(self, first: int, last: int) -> int:
        """Take what is due on the pages from `first` until before `last`; return the page that comes next."""
        self.progress.pages = last
        while first < last:
            end = min(last, first + self._pages.now)
            self._batch(partial(self._batches.on_pages, first, end), self._pages)
            self.progress.page = first = end
            if self._over():
                break
        return first

    def _walk(self) -> None:
        pages, place = self._extent()
        if self._thorough or pages <= self._policy.walk:
            self._range(0, pages)
            return
        place = start = place % pages
        seen = 0
        # On for as long as there is something, but once round at most.
        while seen < pages and not self.progress.more:
            before, rows = place, self.progress.rows
            place = self._range(place, min(pages, place + self._policy.walk))
            seen += place - before
            place %= pages
            if self.progress.rows == rows:
                break
        if place != start:
            self._remember(place)

    def _batch(self, take: Callable[[], Taken], size: _Size) -> Taken:
        began = perf_counter()
        taken = take()
        seconds = perf_counter() - began
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
           coalesce((SELECT page FROM roomkeeper.sweeps WHERE policy = :policy), 0)
      FROM pg_catalog.pg_class AS class
      JOIN pg_catalog.pg_namespace AS space ON space.oid = class.relnamespace
      LEFT JOIN LATERAL pg_partition_tree(class.oid) AS part ON part.isleaf
     WHERE space.nspname = :of AND class.relname = :called
     GROUP BY class.oid
""")
_REMEMBER = insert(SweepPosition.__table__)  # type: ignore[arg-type]
_REMEMBER = _REMEMBER.on_conflict_do_update(index_elements=["policy"], set_={"page": _REMEMBER.excluded.page})
