"""Does an index serve a condition? Judged by the shapes of both, never by a plan: that is of the moment.

One judgement for two sources of indexes: those that the real database has (`tasks/sweeps/index_check.py`),
and those that the models declare (a contract test).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import Any

from sqlalchemy import BinaryExpression, BooleanClauseList, Column, ColumnElement, Index, Null, Table
from sqlalchemy.sql import operators
from sqlalchemy.sql.elements import Grouping

from tasks.policies.columns import parts_of
from tasks.sweeps.predicates import Part, comparison, restriction, stated

#: What a B-tree finds by its first column.
BTREE = frozenset({"<", "<=", "=", ">=", ">", "is null"})
_COMPARISONS = {
    operators.lt: "<",
    operators.le: "<=",
    operators.eq: "=",
    operators.in_op: "=",
    operators.ge: ">=",
    operators.gt: ">",
}


@dataclass(frozen=True, slots=True)
class Shape:
    """What of an index decides whether it serves a condition.

    Attributes:
        name: of the index; None for a primary key of the models.
        column: the name of its first column; None where that is an expression, or nothing that a plain
            comparison can use: of another collation, say.
        finds: the comparisons of that column with a value that it serves, of those in `BTREE`.
        where: to which rows it is restricted: none of them means to all; None where that is not understood.
    """

    name: str | None
    column: str | None
    finds: frozenset[str] = BTREE
    where: frozenset[Part] | None = frozenset()


@cache
def declared(table: Table) -> tuple[Shape, ...]:
    """Return the indexes that the models say the table has, the primary key first."""
    key = Shape(None, next(iter(table.primary_key.columns)).name)
    return (key, *(_declared(index) for index in sorted(table.indexes, key=lambda one: str(one.name))))


def _declared(index: Index) -> Shape:
    first = next(iter(index.columns), None)
    where = index.dialect_options["postgresql"]["where"]
    rows = frozenset[Part]() if where is None else restriction(str(where))
    return Shape(str(index.name), None if first is None else first.name, where=rows)


def first_columns(table: Table) -> list[str]:
    """Return the names of the columns that lead an index which has all rows that compare with a value."""
    return sorted({one.column for one in declared(table) if one.column is not None and _whole(one)})


def _whole(index: Shape) -> bool:
    return index.where is not None and index.where <= {("not null", index.column)}


def served(condition: Any, table: Table, indexes: Sequence[Shape] | None = None) -> bool:
    """Return whether PostgreSQL can find the rows that meet `condition` by these indexes alone.

    It can if the condition compares the first column of an index with what does not depend on the row, or
    says all that a partial index is restricted to. One of the parts of an AND is enough; an OR needs all.

    Args:
        indexes: those that the models declare if None.
    """
    return lacking(condition, table, (), declared(table) if indexes is None else indexes) == []


def lacking(
    condition: Any, table: Table, wanted: Iterable[Shape], indexes: Iterable[Shape]
) -> list[Shape] | None:
    """Return which of the `wanted` indexes would serve a condition together with `indexes`, the fewest.

    None are needed where `indexes` serve it alone; None is returned where both together do not.
    """
    return _lacking(condition, _Given(table, tuple(wanted), tuple(indexes)))


@dataclass(frozen=True, slots=True)
class _Given:
    table: Table
    wanted: tuple[Shape, ...]
    indexes: tuple[Shape, ...]

    def leads(self, index: Shape, condition: Any) -> bool:
        """Return whether the condition is a comparison that the index serves by its first column."""
        if not isinstance(condition, BinaryExpression) or not _is_column(condition.left, self.table):
            return False
        if condition.left.name != index.column or _depends_on_row(condition.right, self.table):
            return False
        return _comparison(condition) in index.finds


def _lacking(condition: Any, given: _Given) -> list[Shape] | None:
    if isinstance(condition, Grouping):
        return _lacking(condition.element, given)
    if isinstance(condition, BooleanClauseList) and condition.operator is not operators.and_:
        found = [_lacking(part, given) for part in condition.clauses]
        known = [part for part in found if part is not None]
        return list(dict.fromkeys(chain.from_iterable(known))) if len(known) == len(found) else None
    parts = list(_conjuncts(condition))
    ways = [_lacking(part, given) for part in parts if isinstance(part, BooleanClauseList)]
    ways += [[] for one in given.indexes if _serves(one, parts, given)]
    ways += [[one] for one in given.wanted if _serves(one, parts, given)]
    return min((way for way in ways if way is not None), key=len, default=None)


def _conjuncts(condition: Any) -> Iterable[Any]:
    """Yield the parts of an AND; what is none is one part."""
    if isinstance(condition, Grouping):
        yield from _conjuncts(condition.element)
    elif isinstance(condition, BooleanClauseList) and condition.operator is operators.and_:
        for part in condition.clauses:
            yield from _conjuncts(part)
    else:
        yield condition


def _serves(index: Shape, parts: list[Any], given: _Given) -> bool:
    if index.where is None:
        return False
    says = frozenset(filter(None, map(comparison, parts)))
    if index.where and stated(index.where, says):
        # However many rows that are, it has no others.
        return True
    # What is compared with a value is not NULL.
    says |= {("not null", one.left.name) for one in parts if _is_compared(one, given.table)}
    return stated(index.where, says) and any(given.leads(index, one) for one in parts)


def _is_compared(condition: Any, table: Table) -> bool:
    compares = isinstance(condition, BinaryExpression) and condition.operator in _COMPARISONS
    return compares and _is_column(condition.left, table)


def _is_column(expression: Any, table: Table) -> bool:
    # By its table: where it stands in a condition of a mapped class it is a copy.
    return isinstance(expression, Column) and expression.table is table


def _depends_on_row(expression: ColumnElement[object], table: Table) -> bool:
    return any(isinstance(part, Column) and part.table is table for part in parts_of(expression))


def _comparison(condition: Any) -> str | None:
    """Return as what an index sees a comparison; None if it is none."""
    if not isinstance(condition, BinaryExpression):
        return None
    if condition.operator is operators.is_:
        # `IS TRUE` is found as `= true` is.
        return "is null" if isinstance(condition.right, Null) else "="
    return _COMPARISONS.get(condition.operator)
