"""One batch of a sweep: a transaction that takes some due rows, and never waits while it holds any.

A policy that looks at each row alone does it in one statement. One that looks into other rows as well takes
its rows first, and changes those that are due still: the second statement sees what was committed before the
locks were had, so that a sign of life that came in between is not overlooked.

Rows that a trigger will touch (`parent`) are locked before, in the order of their keys, those that are free.
If none is, the first is waited for while nothing else is held. So a sweep, others, and an API service that
joins, leaves or changes rooms can not wait for each other in a circle.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import structlog
from psycopg.errors import LockNotAvailable
from sqlalchemy import Connection, Executable
from sqlalchemy.exc import DBAPIError, OperationalError

from tasks.apps.sweeps import Sweep
from tasks.engines.statements import Statements, on_pages, statements
from workers.db import transaction

#: How long the statement for a range of pages waits for somebody who holds a row there.
PATIENCE_MS = 20
#: How long a parent is waited for, while nothing is held.
PARENT_PATIENCE_MS = 1000
#: Rows that could not be changed are counted as far as this.
MOST_REMAINING = 1_000
#: What the database says of a row, by a constraint or a trigger. The others have their turn all the same.
#: Classes of SQLSTATE: data, integrity constraints, triggers, and what functions raise.
REFUSALS = {"09", "22", "23", "27", "44", "P0"}

#: A commit does not wait for the disk: what a crash of the database takes back is due again. A plan is made
#: for the moment that is asked for, or "past NOW" is taken for a third of the table; and for one process:
#: starting helpers takes ten times as long as most sweeps do.
_SET = """
    SELECT set_config('lock_timeout', %(patience)s, true), set_config('synchronous_commit', 'off', true),
           set_config('plan_cache_mode', 'force_custom_plan', true), set_config('jit', 'off', true),
           set_config('max_parallel_workers_per_gather', '0', true)
"""

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Taken:
    """What a batch did.

    Attributes:
        rows: how many rows of the policy's table it changed.
        found: how many it saw; fewer than were asked for means that there are no more.
        remaining: how many of these it could not change.
        told: what its event tells of each row, in the order of the event's columns.
        error: what the database said of a row that it refused to change.
    """

    rows: int = 0
    found: int = 0
    remaining: int = 0
    told: list[Sequence[Any]] = field(default_factory=list)
    error: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Batches:
    """The batches of one run of a policy.

    Attributes:
        now: the moment that the run goes by.
        after: the period that is set.
        told: whether what its event tells is wanted.
    """

    policy: Sweep
    now: datetime
    after: timedelta | None
    tells: bool = False

    def by_index(self, at_most: int) -> Taken:
        """Take at most so many rows of those that an index finds."""
        made = self._statements
        values = self._values(at_most=at_most)
        if self.policy.alone:
            assert made.by_index is not None
            assert made.due_by_index is not None
            try:
                with begin(PATIENCE_MS) as connection:
                    taken = self._changed(connection, made.by_index, values)
                    if not taken.rows:
                        # Rows that somebody holds are passed over in silence.
                        left = {**values, "at_most": MOST_REMAINING}
                        taken.remaining = connection.execute(made.due_by_index, left).scalar_one()
                    return taken
            except DBAPIError as error:
                self._refused(error)
        assert made.seen is not None
        return self._one_way_or_another(made.seen, values)

    def on_pages(self, first: int, last: int) -> Taken:
        """Take all due rows on the pages from `first` until before `last`."""
        made = self._statements
        values = self._values(**on_pages(first, last))
        if self.policy.alone:
            try:
                try:
                    # Without a look at who holds what: that takes as long again as to delete.
                    with begin(PATIENCE_MS) as connection:
                        return self._changed(connection, made.by_pages, values)
                except OperationalError as error:
                    if not isinstance(error.orig, LockNotAvailable):
                        raise
                with begin(PATIENCE_MS) as connection:
                    taken = self._changed(connection, made.by_pages_free, values)
                    taken.remaining = connection.execute(made.due_on_pages, values).scalar_one()
                    return taken
            except DBAPIError as error:
                self._refused(error)
        return self._one_way_or_another(made.seen_on_pages, values)

    def due(self, at_most: int) -> int:
        """Count due rows, up to a number. May read the whole table."""
        with begin(PATIENCE_MS) as connection:
            return int(connection.execute(self._statements.due, self._values(at_most=at_most)).scalar_one())

    def due_by_index(self, at_most: int) -> int:
        """Count the due rows that an index finds, up to a number."""
        found = self._statements.due_by_index
        if found is None:
            return 0
        with begin(PATIENCE_MS) as connection:
            return int(connection.execute(found, self._values(at_most=at_most)).scalar_one())

    # -- rows that are taken first, and changed then -------------------------------------------------

    def _one_way_or_another(self, seen: Executable, values: Mapping[str, Any]) -> Taken:
        """Take the rows that `seen` returns, all together, or one by one if one of them is refused."""
        with begin(PATIENCE_MS) as connection:
            rows = [tuple(row) for row in connection.execute(seen, values)]
        if not rows:
            return Taken()
        try:
            return self._take(rows)
        except DBAPIError as error:
            self._refused(error)
        all_taken = Taken()
        for row in rows:
            try:
                taken = self._take([row])
            except DBAPIError as error:
                _raise_unless_refused(error)
                taken = Taken(found=1, remaining=1, error=_words(error))
            all_taken.rows += taken.rows
            all_taken.found += taken.found
            all_taken.remaining += taken.remaining
            all_taken.told += taken.told
            all_taken.error = taken.error or all_taken.error
        return all_taken

    def _take(self, seen: Sequence[Sequence[Any]]) -> Taken:
        made = self._statements
        values = self._values(keys=sorted(row[0] for row in seen))
        with begin(PARENT_PATIENCE_MS) as connection:
            if self.policy.parent is not None:
                values["parents"] = self._lock_parents(connection, made, seen)
            held = list(connection.execute(made.rows, values).scalars())
            taken = Taken(found=len(seen))
            if held:
                values["keys"] = held
                changed = connection.execute(made.change, values).all()
                taken.rows = len(changed)
                taken.told = [tuple(row)[1:] for row in changed] if self.tells else []
                values["keys"] = [row[0] for row in changed]
                for along in made.along:
                    connection.execute(along, values)
        # Some were not due any more, which is no fault; to tell these from those that are held costs more
        # than it is worth where anything was changed.
        taken.remaining = 0 if taken.rows else self._still_due(values, seen)
        return taken

    def _still_due(self, values: Mapping[str, Any], seen: Sequence[Sequence[Any]]) -> int:
        with begin(PATIENCE_MS) as connection:
            again = self._statements.still_due
            return int(connection.execute(again, {**values, "keys": [row[0] for row in seen]}).scalar_one())

    def _lock_parents(
        self, connection: Connection, made: Statements, seen: Sequence[Sequence[Any]]
    ) -> list[Any]:
        wanted = sorted({row[1] for row in seen if row[1] is not None})
        assert made.parents is not None
        assert made.parent is not None
        free = list(connection.execute(made.parents, {"keys": wanted}).scalars())
        if free or not wanted or any(row[1] is None for row in seen):
            return free
        try:
            with connection.begin_nested():
                return list(connection.execute(made.parent, {"key": wanted[0]}).scalars())
        except OperationalError as error:
            if isinstance(error.orig, LockNotAvailable):
                return []
            raise

    # -- all of them ---------------------------------------------------------------------------------

    def _changed(self, connection: Connection, statement: Executable, values: Mapping[str, Any]) -> Taken:
        result = connection.execute(statement, values)
        told = list(result.all()) if result.returns_rows else []
        rows = len(told) if result.returns_rows else result.rowcount
        return Taken(rows=rows, found=rows, told=[tuple(row) for row in told])

    def _values(self, **more: Any) -> dict[str, Any]:
        return {"now": self.now, "after": self.after, **more}

    @property
    def _statements(self) -> Statements:
        return statements(self.policy, told=self.tells)

    def _refused(self, error: DBAPIError) -> None:
        _raise_unless_refused(error)
        log.warning("sweep.refused", policy=self.policy.name, error=_words(error))


@contextmanager
def begin(patience_ms: int = PATIENCE_MS) -> Iterator[Connection]:
    """Open a transaction of a sweep, which waits so long for a lock."""
    with transaction() as connection:
        connection.exec_driver_sql(_SET, {"patience": str(patience_ms)})
        yield connection


def _raise_unless_refused(error: DBAPIError) -> None:
    if (getattr(error.orig, "sqlstate", None) or "")[:2] not in REFUSALS:
        raise error


def _words(error: DBAPIError) -> str:
    """Return what the database said, without the row's values, which may be what people wrote."""
    diagnostics = getattr(error.orig, "diag", None)
    return f"{type(error.orig).__name__}: {getattr(diagnostics, 'message_primary', None) or 'refused'}"
