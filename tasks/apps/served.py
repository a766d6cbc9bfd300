"""Does an index serve a condition? Judged by its shape, before there is a database to ask."""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import BinaryExpression, BooleanClauseList, ClauseElement, Column, ColumnElement, Index, Table
from sqlalchemy.sql import operators
from sqlalchemy.sql.elements import Grouping

from tasks.apps.columns import parts_of

_COMPARISONS = {operators.lt, operators.le, operators.gt, operators.ge, operators.eq, operators.in_op}


def served(condition: Any, table: Table) -> bool:
    """Say whether PostgreSQL can find the rows that meet `condition` by the table's indexes alone.

    It can if the condition compares the first column of an index with what does not depend on the row, or
    says all that a partial index is restricted to. One of the parts of an AND is enough; an OR needs all.
    """
    if isinstance(condition, Grouping):
        return served(condition.element, table)
    if isinstance(condition, BooleanClauseList):
        parts = [served(part, table) for part in condition.clauses]
        return any(parts) if condition.operator is operators.and_ else all(parts)
    if any(_text(condition) == _text(where) for where in _restrictions(table)):
        return True
    if not isinstance(condition, BinaryExpression):
        return False
    left, right = condition.left, condition.right
    compared = condition.operator in _COMPARISONS or condition.operator is operators.is_
    return compared and left in _first_columns(table) and not _depends_on_row(right, table)


def first_columns(table: Table) -> list[str]:
    """Return the names of the columns that lead an index, for advice."""
    return sorted({column.name for column in _first_columns(table)})


def _first_columns(table: Table) -> "list[Column[object]]":
    """Return the columns that lead an index which has all rows, or all in which the column is not NULL."""
    found = list(table.primary_key.columns)[:1]
    for index in _indexes(table):
        first = next(iter(index.columns), None)
        where = index.dialect_options["postgresql"]["where"]
        if first is not None and (where is None or _text(where) == f"{first.name} is not null"):
            found.append(first)
    return found


def _restrictions(table: Table) -> Iterable[ClauseElement]:
    for index in _indexes(table):
        where = index.dialect_options["postgresql"]["where"]
        if where is not None:
            yield where


def _indexes(table: Table) -> list[Index]:
    return sorted(table.indexes, key=lambda index: str(index.name))


def _depends_on_row(expression: ColumnElement[object], table: Table) -> bool:
    return any(isinstance(part, Column) and part.table is table for part in parts_of(expression))


def _text(condition: ClauseElement) -> str:
    """Return the condition as an index's definition has it: no table's name, small letters."""
    words = str(condition).lower().replace("(", "").replace(")", "")
    return " ".join(word.rsplit(".", 1)[-1] for word in words.split())
