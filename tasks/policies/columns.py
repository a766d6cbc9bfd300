"""Tables and columns, as definitions name them."""

from collections.abc import Iterable, Iterator
from typing import Any, cast

from sqlalchemy import Table
from sqlalchemy.orm import DeclarativeBase, InstrumentedAttribute

Model = type[DeclarativeBase]
Column = InstrumentedAttribute[Any]


def table_of(model: Model) -> Table:
    """Return the table that `model` maps."""
    table = model.__table__
    assert isinstance(table, Table)
    return table


def model_of(column: Column) -> Model:
    """Return the model that a column is of."""
    return cast(Model, column.class_)


def names_of(columns: Iterable[Column | None]) -> set[str]:
    """Return the columns' names in the database, without those that an application does not have."""
    return {column.property.columns[0].name for column in columns if column is not None}


def parts_of(*expressions: Any) -> Iterator[Any]:
    """Yield what expressions of SQL consist of, themselves too; what stands in several places, once."""
    seen: dict[int, Any] = {}
    todo = list(expressions)
    while todo:
        one = todo.pop()
        # SQLAlchemy's own walk goes through a subquery anew wherever it is used: of a rollup that takes long.
        if id(one) not in seen:
            seen[id(one)] = one
            todo.extend(one.get_children())
            yield one
