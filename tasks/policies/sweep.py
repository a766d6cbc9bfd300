"""A sweep record: which rows of a table are due, and what becomes of them.

A policy is a record. It is checked when it is declared: one that is wrong does not start. Whether an index of
the models serves it is checked by a contract test, and by `roomkeeper check` for the real indexes.

    Sweep(
        name="echoroom.typing",
        model=TypingIndicator,
        rule="typing indicators past expires_at are deleted",
        why="An indicator must not stay for ever (echoroom.md, Cleanup Functions).",
        due=TypingIndicator.expires_at < NOW,
        action=Delete(),
        every=timedelta(seconds=5),
    )
"""

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    Alias,
    ClauseElement,
    ColumnElement,
    DateTime,
    Interval,
    Table,
    Uuid,
    and_,
    bindparam,
    case,
    func,
)
from sqlalchemy import Column as TableColumn
from sqlalchemy.sql.selectable import SelectBase

from tasks.policies.columns import Column, Model, parts_of, table_of
from workers.inspection import Need

#: The moment that a run goes by: the database's clock at its beginning, once, or what an operator gives.
NOW: ColumnElement[Any] = bindparam("now", type_=DateTime(timezone=True))
#: The same for columns that hold UTC without saying so (`openchat`).
NOW_UTC: ColumnElement[Any] = func.timezone("UTC", NOW, type_=DateTime(timezone=False))
#: The policy's `after`, as it is set.
AFTER: ColumnElement[Any] = bindparam("after", type_=Interval())


def recent(at: Any, now: ColumnElement[Any] = NOW) -> ColumnElement[bool]:
    """Return whether a time is a sign of life since NOW - AFTER. For one ahead of NOW see `Sweep.ahead`."""
    return and_(at >= now - AFTER, at <= now)


def ahead(at: Any, now: ColumnElement[Any] = NOW) -> ColumnElement[Any]:
    """Return the time if it lies ahead of NOW, by which `now` a column's zone is told; else NULL."""
    return case((at > now, at))


class PolicyError(Exception):
    """A policy is wrong. The message names it, and says what to do."""


@dataclass(frozen=True, slots=True)
class Delete:
    """Due rows are deleted."""


@dataclass(frozen=True, slots=True, eq=False)
class Update:
    """Due rows get these values, each a plain one or an expression on the row before it was changed."""

    values: Mapping[Column, Any]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Related:
    """Rows of another table that change with a row which has just been swept, in the same transaction.

    Locked rows are skipped, not waited for. Another policy, or the next run, has them.

    Attributes:
        model: the other table.
        of: which of its rows go along: a condition on both.
        action: what happens to them.
    """

    model: Model
    of: ColumnElement[bool]
    action: Delete | Update


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Event:
    """What is told to the people who see a swept row, over Socket.IO.

    Attributes:
        name: as the application's document calls it.
        room: the column whose value is the Socket.IO room that is told.
        data: the event's argument, each a plain value or a column of the row as the sweep leaves it.
    """

    name: str
    room: Column
    data: Mapping[str, Any]

    def columns(self) -> list[Column]:
        """Return the columns that it tells of."""
        return [self.room, *(value for value in self.data.values() if not _plain(value))]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sweep:
    """A policy of the sweep engine (`tasks/sweeps/engine.py`).

    Attributes:
        name: `application.what`: of the policy, and of its task, entry of the timetable and runs.
        model: the table that is swept.
        rule: what happens to which rows, in words; `{after}` stands for the period that is set.
        why: the reason, with the document that it comes from.
        due: which rows, as a condition on NOW and AFTER that may look into other tables and minds NULLs. Of
            rows that are deleted those that a rollup counts go only when their buckets are closed, besides
            (`tasks/analytics/rollup_guard.py`).
        action: what happens to them.
        every: how often, unless set otherwise.
        after: the period in `due`, unless set otherwise; None where there is none.
        ahead: the latest time of a row that would be a sign of life if it did not lie ahead of NOW; NULL
            where there is none. Such a row, if due otherwise, is due once it has been seen with the same
            time for `after`: it counts as of when it was first seen (`tasks/sweeps/future_timestamps.py`).
        indexed: a narrower condition, where no index serves `due`: nearly all that is due meets it, an index
            serves it, and `full_pass_every` finds the rest.
        full_pass_every: in how long the whole table is looked through, some pages at each run, where no index
            serves `due`, or only one that has nearly all rows.
        lock_first: a foreign key of the table to rows that a trigger will touch: they are locked first.
        related: rows of other tables that change with it.
        event: what people see of it.
    """

    name: str
    model: Model
    rule: str
    why: str
    due: ColumnElement[bool]
    action: Delete | Update
    every: timedelta
    after: timedelta | None = None
    ahead: ColumnElement[Any] | None = None
    indexed: ColumnElement[bool] | None = None
    full_pass_every: timedelta | None = None
    lock_first: Column | None = None
    related: tuple[Related, ...] = ()
    event: Event | None = None

    if not TYPE_CHECKING:

        def __new__(cls, *_: object, **given: object) -> "Sweep":
            """Refuse fields that there are not, and miss those that there must be."""
            known = {one.name: one for one in fields(cls)}
            for name in given:
                if name not in known:
                    likely = difflib.get_close_matches(name, known, n=1)
                    hint = f"; did you mean {likely[0]!r}?" if likely else f": {', '.join(known)}."
                    raise PolicyError(f"{given.get('name')}: {name!r} is not a field of a policy{hint}")
            needed = [
                one.name
                for one in known.values()
                if one.init and one.default is MISSING and one.default_factory is MISSING
            ]
            if absent := [name for name in needed if name not in given]:
                raise PolicyError(f"{given.get('name')}: give {', '.join(absent)}; see {__name__}.")
            return object.__new__(cls)

    def __post_init__(self) -> None:
        for fault in self._faults():
            raise PolicyError(f"{self.name}: {fault}")

    def _faults(self) -> Iterator[str]:
        if not re.fullmatch(r"[a-z]+\.[a-z_]+", self.name):
            yield "call it application.what, in small letters."
        for name in ("rule", "why"):
            if len(getattr(self, name).split()) < 3:
                yield f"say in a sentence what its {name} is."
        if self.every <= timedelta(0):
            yield f"`every` must be longer than nothing, not {self.every}."
        if self.after is not None and self.after <= timedelta(0):
            yield f"`after` must be longer than nothing, not {self.after}: all rows would be due."
        if (self.after is not None) != self.uses(AFTER) and not self.off_until_set:
            yield "give `after` if, and only if, its expressions use AFTER."
        if "{after}" in self.rule and self.after is None and not self.off_until_set:
            yield "its rule speaks of a period that it does not have."
        if self.ahead is not None and self.after is None:
            yield "give `after` with `ahead`: for so long a sign of life counts once it was seen."
        if self.ahead is not None and not all(
            isinstance(key.type, Uuid) for key in self.table.primary_key.columns
        ):
            yield "`ahead` is for tables whose key is a uuid."
        if self.full_pass_every is not None and self.full_pass_every < self.every:
            given = self.full_pass_every
            yield f"`full_pass_every` must not be shorter than `every`, {self.every}, not {given}."
        for column in self._own_columns():
            if column.property.columns[0].table is not self.table:
                yield f"{column} is not a column of {self.table.fullname}."
        if self.lock_first is not None and not self.lock_first.property.columns[0].foreign_keys:
            yield f"`lock_first` must be a foreign key, and {self.lock_first} is none."
        if self.related and isinstance(self.action, Delete):
            yield "nothing can go along with rows that are deleted: a foreign key does that."

    @property
    def off_until_set(self) -> bool:
        """Whether it has a period only if an operator gives one; see `tasks/policies/retention.py`."""
        return False

    @property
    def table(self) -> Table:
        """The table that is swept."""
        return table_of(self.model)

    @property
    def task(self) -> str:
        """The name of its task."""
        return self.name

    @property
    def models(self) -> tuple[Model, ...]:
        """The tables whose rows change."""
        return (self.model, *(one.model for one in self.related))

    @property
    def index_condition(self) -> ColumnElement[bool] | None:
        """What an index finds of all that is due: `indexed`, or `due` itself; None where none does."""
        return self.due if self.full_pass_every is None and self.indexed is None else self.indexed

    @property
    def row_local(self) -> bool:
        """Whether a row is judged and changed by itself, without a look into other rows."""
        looks = any(isinstance(part, SelectBase) for part in _parts(self))
        return not (looks or self.related or self.lock_first is not None)

    def _own_columns(self) -> list[Column]:
        changed = list(self.action.values) if isinstance(self.action, Update) else []
        seen = self.event.columns() if self.event is not None else []
        return [*changed, *seen, *([] if self.lock_first is None else [self.lock_first])]

    def _changes(self) -> list[tuple[Table, Delete | Update]]:
        return [(self.table, self.action), *((table_of(one.model), one.action) for one in self.related)]

    def _expressions(self) -> Iterator[Any]:
        """Yield all that it says of rows."""
        yield self.due
        yield from (one for one in (self.indexed, self.ahead) if one is not None)
        for _, then in self._changes():
            for column, value in then.values.items() if isinstance(then, Update) else ():
                yield column.__clause_element__()
                yield value
        for one in self.related:
            yield one.of
        for column in self._own_columns():
            yield column.__clause_element__()

    def uses(self, parameter: ColumnElement[Any]) -> bool:
        """Return whether its expressions have such a parameter."""
        return any(part is parameter for part in _parts(self))

    def needs(self) -> list[Need]:
        """Return what the policy needs of the database."""
        read: dict[Table, set[str]] = {
            table: {key.name for key in table.primary_key.columns} for table in map(table_of, self.models)
        }
        for part in _parts(self):
            source = part.table if isinstance(part, TableColumn) else None
            # Another row of the same table goes by another name.
            source = source.element if isinstance(source, Alias) else source
            if isinstance(source, Table):
                read.setdefault(source, set()).add(part.name)
        # Rows are locked before they go, which takes the right to update them.
        rights = {table: {"SELECT"} for table in read}
        for table, then in self._changes():
            rights[table] |= {"UPDATE", "DELETE"} if isinstance(then, Delete) else {"UPDATE"}
        if self.lock_first is not None:
            (key,) = self.lock_first.property.columns[0].foreign_keys
            read.setdefault(key.column.table, set()).add(key.column.name)
            rights[key.column.table] = {"SELECT", "UPDATE"}
        return [Need(table, frozenset(names), frozenset(rights[table])) for table, names in read.items()]


@cache
def _parts(policy: Sweep) -> tuple[Any, ...]:
    # Kept: a policy does not change, and is asked at each run.
    return tuple(parts_of(*(value for value in policy._expressions() if not _plain(value))))


def _plain(value: object) -> bool:
    return not hasattr(value, "__clause_element__") and not isinstance(value, ClauseElement)
