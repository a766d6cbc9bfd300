"""Tables and columns, as the pages name them."""

from collections.abc import Iterable
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
