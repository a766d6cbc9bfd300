"""The statements of a sweep, made once for each policy and executed with parameters."""

from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Column,
    ColumnElement,
    Delete,
    Executable,
    Select,
    String,
    Table,
    Update,
    and_,
    bindparam,
    cast,
    delete,
    func,
    literal_column,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.types import UserDefinedType

from tasks.analytics import rollup_guard
from tasks.policies import sweep
from tasks.policies.columns import table_of
from tasks.policies.retention import Retention
from tasks.policies.sweep import Related, Sweep
from tasks.sweeps import future_timestamps

#: Conditions are said twice where another row may be the one that is meant: of what is locked, and of what
#: is changed. See `tasks/sweeps/batch.py`.


class _Place(UserDefinedType[str]):
    """A row's place in its table: `(page,number)`."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "tid"


_place = literal_column("ctid", _Place())
#: Which part of a partitioned table a row lies in; the table itself if it is not partitioned.
_part = literal_column("tableoid", BigInteger())
on_these_pages = and_(
    cast(bindparam("first_place", type_=String), _Place()) <= _place,
    cast(bindparam("last_place", type_=String), _Place()) > _place,
)
_AT_MOST = bindparam("at_most", type_=BigInteger)


@dataclass(frozen=True, slots=True, eq=False)
class Statements:
    """What one policy does, for rows that an index finds (`found`) or that lie on some pages.

    Attributes:
        by_index: changes at most so many rows, of those that are not locked; for a policy that looks at each
            row alone and that an index serves. None of these three changes rows with a time ahead.
        by_pages: changes all on some pages, and waits for who holds one.
        by_pages_free: changes those on some pages that are not locked.
        seen: the keys, and parents, of at most so many rows; `seen_on_pages` of all on some pages. Where the
            policy has `ahead`, with those that wait, and last whether they do.
        seen_ahead, seen_ahead_on_pages: the same of those with a time ahead; None where the policy has none.
        note: notes rows of given keys that wait; `forget` deletes the notes of given rows.
        parents: locks those of given keys that are free, in the order of their keys; `parent` waits for one.
        rows: locks those of given keys that are still due, have a parent among the given ones, and are free.
        change: changes given rows, which are locked, if they are due still: keys, and the event's values.
        along: changes rows of other tables that belong to given ones, those that are not locked.
        still_due: counts those of given rows that are due.
        due_on_pages: counts those on some pages, of a policy that looks at each row alone without those with
            a time ahead.
        due_by_index: counts those that an index finds, up to a number; otherwise as `due_on_pages`.
        freezing: the names of rollups. What changes rows returns, behind all else, a moment for each: buckets
            up to there are frozen.
    """

    by_index: Executable | None
    by_pages: Executable
    by_pages_free: Executable
    seen: Select[Any] | None
    seen_on_pages: Select[Any]
    seen_ahead: Select[Any] | None
    seen_ahead_on_pages: Select[Any] | None
    note: Executable | None
    forget: Executable | None
    parents: Select[Any] | None
    parent: Select[Any] | None
    rows: Select[Any]
    change: Executable
    along: tuple[Executable, ...]
    still_due: Select[Any]
    due_on_pages: Select[Any]
    due_by_index: Select[Any] | None
    freezing: tuple[str, ...]


@cache
def statements(policy: Sweep, *, with_event: bool = False) -> Statements:
    """Return the statements of `policy`; those that change rows return the event's values, if wanted."""
    table = policy.table
    due_or_waits = rollup_guard.due(policy)
    due = future_timestamps.settled(policy, due_or_waits)
    # What an index finds is due as a whole, unless there is a narrower condition.
    # Without a look at what is noted.
    alone = future_timestamps.none(policy, due_or_waits) if policy.row_local else due
    quick = [] if policy.indexed is None else [policy.indexed]
    found, found_or_waits = (
        None if policy.index_condition is None else and_(*quick, condition)
        for condition in (alone, due_or_waits)
    )
    key = key_of(table)
    # Retention has all that it deletes.
    moments = [] if isinstance(policy, Retention) else _moments(policy)
    returned = [*(_event_values(policy) if with_event else []), *(moment for _, moment in moments)]
    parent = policy.lock_first.property.columns[0] if policy.lock_first is not None else None
    home = next(iter(parent.foreign_keys)).column if parent is not None else None
    locked = select(key).where(key == any_of(key, "keys"), due)
    if parent is not None and home is not None:
        locked = locked.where(or_(parent.is_(None), parent == any_of(home, "parents")))
    seen: list[Any] = [key, *([] if parent is None else [parent])]
    # Asked of what is found, and of nothing else.
    seen += [] if policy.ahead is None else [future_timestamps.waits(policy).label("waits")]
    # Of rows that stay, others may go on to refer to them; not if what refers to them is to go.
    stays = isinstance(policy.action, sweep.Update) and not getattr(policy, "refers", ())

    def changed(which: ColumnElement[bool]) -> Executable:
        change = _change(table, policy.action).where(which, alone)
        return change.returning(*returned) if returned else change

    def taken(which: ColumnElement[bool], limit: bool) -> ColumnElement[bool]:
        some = select(_part.label("part"), _place.label("place")).select_from(table).where(which)
        some = some.limit(_AT_MOST) if limit else some
        taken = some.with_for_update(skip_locked=True, key_share=stays).cte("taken")
        # A place is one of each part of a partitioned table. Asked so, it is a hash, and no join.
        return and_(
            _place == func.any(func.array(select(taken.c.place).scalar_subquery())),
            tuple_(_part, _place).in_(select(taken.c.part, taken.c.place)).is_(True),
        )

    return Statements(
        by_index=changed(taken(found, limit=True)) if found is not None else None,
        by_pages=changed(on_these_pages),
        by_pages_free=changed(taken(and_(on_these_pages, alone), limit=False)),
        seen=select(*seen).where(found_or_waits).limit(_AT_MOST) if found_or_waits is not None else None,
        seen_on_pages=select(*seen).where(on_these_pages, due_or_waits),
        seen_ahead=None
        if policy.ahead is None or found_or_waits is None
        else select(*seen).where(found_or_waits, policy.ahead.is_not(None)).limit(_AT_MOST),
        seen_ahead_on_pages=None
        if policy.ahead is None
        else select(*seen).where(on_these_pages, due_or_waits, policy.ahead.is_not(None)),
        note=future_timestamps.note(policy),
        forget=future_timestamps.forget(policy),
        parents=None
        if home is None
        else select(home)
        .where(home == any_of(home, "keys"))
        .order_by(home)
        .with_for_update(skip_locked=True, key_share=True),
        parent=None
        if home is None
        else select(home).where(home == bindparam("key", type_=home.type)).with_for_update(key_share=True),
        rows=locked.with_for_update(skip_locked=True, key_share=stays),
        change=_change(table, policy.action)
        .where(key == any_of(key, "keys"), due)
        .returning(key.label("swept"), *returned),
        along=tuple(_along(policy, one) for one in policy.related),
        still_due=_count(select(key).where(key == any_of(key, "keys"), due)),
        due_on_pages=_count(select(key).where(on_these_pages, alone)),
        due_by_index=None if found is None else _count(select(key).where(found).limit(_AT_MOST)),
        freezing=tuple(name for name, _ in moments),
    )


@cache
def due(policy: Sweep) -> Select[Any]:
    """Return the statement that counts due rows, up to a number: all that a list of policies needs."""
    which = future_timestamps.settled(policy, rollup_guard.due(policy))
    return _count(select(key_of(policy.table)).where(which).limit(_AT_MOST))


def on_pages(first: int, last: int) -> dict[str, str]:
    """Return the parameters of a statement for the pages from `first` until before `last`."""
    return {"first_place": f"({first},0)", "last_place": f"({last},0)"}


def _change(table: Table, then: sweep.Delete | sweep.Update) -> Delete | Update:
    if isinstance(then, sweep.Delete):
        return delete(table)
    return update(table).values({column.property.columns[0]: value for column, value in then.values.items()})


def _along(policy: Sweep, along: Related) -> Executable:
    table = table_of(along.model)
    key, swept = key_of(table), key_of(policy.table)
    # In the order of their keys, so that two of us do not wait for each other either.
    free = (
        select(key)
        .where(along.of, swept == any_of(swept, "keys"))
        .order_by(key)
        .with_for_update(skip_locked=True, of=table)
        .cte("free")
    )
    change = _change(table, along.action).where(key.in_(select(free.c[0])), along.of)
    return change.where(swept == any_of(swept, "keys"))


def _event_values(policy: Sweep) -> list[ColumnElement[Any]]:
    if policy.event is None:
        return []
    return [column.property.columns[0].label(f"told_{n}") for n, column in enumerate(policy.event.columns())]


def _moments(policy: Sweep) -> list[tuple[str, ColumnElement[Any]]]:
    if not isinstance(policy.action, sweep.Delete):
        return []
    return [
        (name, moment.label(f"moment_{n}"))
        for n, (name, moment) in enumerate(rollup_guard.moments(policy.table))
    ]


def key_of(table: Table) -> "Column[Any]":
    """Return the column that is the table's key."""
    (key,) = table.primary_key.columns
    return key


def any_of(column: Any, name: str) -> Any:
    """Return any of an array that is given under `name`, of values like the column's."""
    return func.any(bindparam(name, type_=ARRAY(column.type)))


def _count(rows: Select[Any]) -> Select[Any]:
    return select(func.count()).select_from(rows.subquery())
