"""One batch of a sweep: a transaction that takes some due rows, and never waits while it holds any.

A policy that looks at each row alone does it in one statement. For one that looks into other rows as well,
due rows are looked up first, without locks; batches of them are then locked, and changed if they are due
still: that statement sees what was committed before the locks were had, so that a sign of life that came in
between is not overlooked.

Rows that a trigger will touch (`lock_first`) are locked before, in the order of their keys, those that are
free. If none is, the first is waited for while nothing else is held. So a sweep, others, and an API service
that joins, leaves or changes rooms cannot wait for each other in a circle.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import Connection, Executable
from sqlalchemy.exc import DBAPIError

from tasks.analytics.rollup_guard import Closed, NotClosedError, freeze, merged
from tasks.policies.sweep import Sweep
from tasks.sweeps.future_timestamps import spare
from tasks.sweeps.statements import Statements, due, on_pages, statements
from workers.database_errors import ErrorKind, kind_of
from workers.db import transaction

#: How long the statement for a range of pages waits for a transaction that holds a row there.
PATIENCE_MS = 20
#: How long a parent is waited for, while nothing is held.
PARENT_PATIENCE_MS = 1000
#: How long a statement that changes rows may take: then fewer are taken at once.
CHANGE_MS = 5_000
#: Rows that could not be changed are counted as far as this.
MOST_REMAINING = 1_000
#: A commit does not wait for the disk: what a crash of the database takes back is due again. A plan is made
#: for the moment that is asked for, or "past NOW" is taken for a third of the table; and for one process:
#: starting helpers takes ten times as long as most sweeps do.
_SET = """
    SELECT set_config('statement_timeout',
                      coalesce(%(longest)s::text, current_setting('statement_timeout')), true),
           set_config('lock_timeout', %(patience)s, true), set_config('synchronous_commit', 'off', true),
           set_config('plan_cache_mode', 'force_custom_plan', true), set_config('jit', 'off', true),
           set_config('max_parallel_workers_per_gather', '0', true)
"""

log = structlog.get_logger(__name__)

#: The key of a row that was seen, and that of its parent where the policy has one.
Seen = Sequence[tuple[Any, ...]]


class Refused(Exception):
    """The database refuses to change one of the rows: a constraint, or a trigger."""


class Contested(Exception):
    """The batch took too long, or another transaction held what it needed: a smaller one may do."""


@dataclass(slots=True)
class Taken:
    """What a batch did.

    Attributes:
        rows: how many rows of the policy's table it changed.
        remaining: how many it saw and could not change.
        error: why some could not, where it is known.
        event_rows: what its event carries of each row, in the order of the event's columns.
        seconds_after: how long it worked on after its commit, when it held nothing any more.
    """

    rows: int = 0
    remaining: int = 0
    error: str | None = None
    event_rows: list[Sequence[Any]] = field(default_factory=list)
    seconds_after: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Batches:
    """The batches of one run of a policy. Each may raise Refused or Contested, and has then done nothing.

    Attributes:
        now: the moment that the run goes by.
        after: the period that is set.
        emits: whether its event is wanted.
        closed: how far the rollups have come that count its rows.
        looked_at: in what time each row of its table is looked at.
    """

    policy: Sweep
    now: datetime
    after: timedelta | None
    emits: bool = False
    closed: Closed = field(default_factory=Closed)
    looked_at: timedelta = timedelta(0)

    @property
    def row_local(self) -> bool:
        """Whether rows are taken by themselves, without a look at others."""
        return self.policy.row_local

    def by_index(self, at_most: int) -> Taken:
        """Take at most so many rows of those that an index finds; for a policy that looks at each alone."""
        made = self._statements
        assert made.by_index is not None
        assert made.due_by_index is not None
        values = self._values(at_most=at_most)
        with self._begin(PATIENCE_MS) as connection:
            taken = self._changed(connection, made.by_index, values)
            if not taken.rows:
                # Locked rows are skipped without notice.
                left = {**values, "at_most": MOST_REMAINING}
                taken.remaining = connection.execute(made.due_by_index, left).scalar_one()
            return taken

    def on_pages(self, first: int, last: int) -> Taken:
        """Take all due rows on the pages from `first` until before `last`; as `by_index`, of each alone."""
        made = self._statements
        values = self._values(**on_pages(first, last))
        try:
            # Without a look at who holds what: that takes as long again as to delete.
            with self._begin(PATIENCE_MS) as connection:
                return self._changed(connection, made.by_pages, values)
        except Contested:
            with self._begin(PATIENCE_MS) as connection:
                taken = self._changed(connection, made.by_pages_free, values)
                taken.remaining = connection.execute(made.due_on_pages, values).scalar_one()
                return taken

    def look(self, at_most: int) -> tuple[Seen, bool]:
        """Return at most so many of the due rows that an index finds, and whether there may be more."""
        made = self._statements
        assert made.seen is not None
        seen, waiting = self._look(made.seen, self._values(at_most=at_most))
        return seen, len(seen) + waiting == at_most

    def look_on_pages(self, first: int, last: int) -> Seen:
        """Return the due rows on the pages from `first` until before `last`."""
        return self._look(self._statements.seen_on_pages, self._values(**on_pages(first, last)))[0]

    def look_ahead(self, at_most: int) -> tuple[Seen, bool]:
        """As `look`, of rows with a time ahead; for a policy that looks at each row alone."""
        made = self._statements
        if made.seen_ahead is None:
            return [], False
        seen, waiting = self._look(made.seen_ahead, self._values(at_most=at_most))
        return seen, len(seen) + waiting == at_most

    def look_ahead_on_pages(self, first: int, last: int) -> Seen:
        """As `look_on_pages`, of rows with a time ahead; for a policy that looks at each row alone."""
        made = self._statements
        if made.seen_ahead_on_pages is None:
            return []
        return self._look(made.seen_ahead_on_pages, self._values(**on_pages(first, last)))[0]

    def take(self, seen: Seen) -> Taken:
        """Take those of the rows that are due still, and that are not locked."""
        made = self._statements
        values = self._values(keys=sorted(row[0] for row in seen))
        taken = Taken()
        with self._begin(PARENT_PATIENCE_MS) as connection:
            if self.policy.lock_first is not None:
                values["parents"] = self._lock_parents(connection, made, seen)
            held = list(connection.execute(made.rows, values).scalars())
            if held:
                values["keys"] = held
                changed = connection.execute(made.change, values).all()
                taken.rows = len(changed)
                event_rows = self._event_rows(connection, [tuple(row)[1:] for row in changed])
                taken.event_rows = event_rows if self.emits else []
                swept = {**values, "keys": [row[0] for row in changed]}
                self._along(connection, made, swept)
                if made.forget is not None and changed:
                    connection.execute(made.forget, swept)
            if not taken.rows:
                # Locked by another transaction, or not due any more.
                values["keys"] = [row[0] for row in seen]
                taken.remaining = connection.execute(made.still_due, values).scalar_one()
        return taken

    def due(self, at_most: int) -> int:
        """Count due rows, up to a number. May read the whole table; raises DBAPIError, as any query does."""
        with transaction() as connection:
            return int(connection.execute(due(self.policy), self._values(at_most=at_most)).scalar_one())

    def due_by_index(self, at_most: int) -> int:
        """Count the due rows that an index finds, up to a number."""
        found = self._statements.due_by_index
        assert found is not None
        with begin() as connection:
            return int(connection.execute(found, self._values(at_most=at_most)).scalar_one())

    def due_on_pages(self, first: int, last: int) -> int:
        """Count the due rows on the pages from `first` until before `last`."""
        values = self._values(**on_pages(first, last))
        with begin() as connection:
            return int(connection.execute(self._statements.due_on_pages, values).scalar_one())

    def _begin(self, patience_ms: int) -> AbstractContextManager[Connection]:
        """Open the transaction of a batch."""
        return begin(patience_ms, CHANGE_MS)

    def _along(self, connection: Connection, made: Statements, values: Mapping[str, Any]) -> None:
        for along in made.along:
            try:
                with connection.begin_nested():
                    connection.execute(along, values)
            except DBAPIError as error:
                if not isinstance(_sort(error), Refused):
                    raise
                # The row itself is right all the same; the other table has a policy of its own.
                log.warning("sweep.left_behind", policy=self.policy.name, error=words(error))

    def _lock_parents(self, connection: Connection, made: Statements, seen: Seen) -> list[Any]:
        wanted = sorted({row[1] for row in seen if row[1] is not None})
        assert made.parents is not None
        assert made.parent is not None
        free = list(connection.execute(made.parents, {"keys": wanted}).scalars())
        if free or not wanted or any(row[1] is None for row in seen):
            return free
        try:
            with connection.begin_nested():
                return list(connection.execute(made.parent, {"key": wanted[0]}).scalars())
        except DBAPIError as error:
            if isinstance(_sort(error), Contested):
                return []
            raise

    def _look(self, seen: Executable, values: Mapping[str, Any]) -> tuple[Seen, int]:
        """Return what is due; note what waits, a time ahead being its only sign of life, and count it."""
        with begin() as connection:
            found = [tuple(row) for row in connection.execute(seen, values)]
            note = self._statements.note
            if note is None:
                return found, 0
            waiting = [row[0] for row in found if row[-1]]
            if waiting:
                keys = {"keys": sorted(waiting), **spare(self.looked_at)}
                connection.execute(note, {**values, **keys})
            return [row[:-1] for row in found if not row[-1]], len(waiting)

    def _changed(self, connection: Connection, statement: Executable, values: Mapping[str, Any]) -> Taken:
        result = connection.execute(statement, values)
        if not result.returns_rows:
            return Taken(rows=result.rowcount)
        event_rows = self._event_rows(connection, [tuple(row) for row in result])
        return Taken(rows=len(event_rows), event_rows=event_rows if self.emits else [])

    def _event_rows(self, connection: Connection, changed: Sequence[Sequence[Any]]) -> list[Sequence[Any]]:
        """Freeze the buckets of what was deleted; return what else was returned of each row."""
        freezing = self._statements.freezing
        if not freezing:
            return list(changed)
        freeze(connection, self.closed, merged(freezing, [row[-len(freezing) :] for row in changed]))
        return [row[: -len(freezing)] for row in changed]

    def _values(self, **more: Any) -> dict[str, Any]:
        return {"now": self.now, "after": self.after, **self.closed.values, **more}

    @property
    def _statements(self) -> Statements:
        return statements(self.policy, with_event=self.emits)


@contextmanager
def begin(patience_ms: int = PATIENCE_MS, longest_ms: int | None = None) -> Iterator[Connection]:
    """Open a transaction of a sweep, which waits so long for a lock.

    Args:
        longest_ms: how long a statement may take; None for as long as is set.

    Raises:
        Refused, Contested: what the database says of a row, or of the moment; a row has come to count in a
            bucket that is not closed.
        DBAPIError: all else.
    """
    try:
        with transaction() as connection:
            longest = None if longest_ms is None else str(longest_ms)
            connection.exec_driver_sql(_SET, {"patience": str(patience_ms), "longest": longest})
            yield connection
    except NotClosedError as error:
        raise Contested(str(error)) from error
    except DBAPIError as error:
        sorted_out = _sort(error)
        if sorted_out is error:
            raise
        raise sorted_out from error


def _sort(error: DBAPIError) -> Exception:
    match kind_of(error):
        case ErrorKind.CONTENTION:
            return Contested(words(error))
        case ErrorKind.DATA:
            return Refused(words(error))
        case _:
            # Of the server, rights or the statement: no smaller batch would fare better.
            return error


def words(error: DBAPIError) -> str:
    """Return what the database said, in a line."""
    message = str(error.orig).strip().partition("\n")[0]
    return f"{type(error.orig).__name__}: {message or 'refused'}"
