"""A batch as a table: arrays of parameters, unnested by the database, the same statement for any number.

Each array comes in a scalar subquery, which the planner takes for ten rows whatever its length, with a
generic plan as with any other: so messages are found by an index, and never by a scan of their table.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    CTE,
    Boolean,
    ColumnElement,
    Dialect,
    FromClause,
    ScalarSelect,
    Text,
    TypeDecorator,
    and_,
    bindparam,
    case,
    cast,
    column,
    func,
    select,
)
from sqlalchemy.types import TypeEngine

from tasks.policies.status import ReadMarks, StatusRows


class _Literal(TypeDecorator[Iterable[Any]]):
    """An array as PostgreSQL writes it. The driver would look through each element for what needs quotes, and
    that took half of a merge's time; ids, statuses and times in ISO 8601 need none."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Iterable[Any] | None, dialect: Dialect) -> str:
        """Return the elements, each a UUID, a status, a time or None, in braces."""
        del dialect
        return "{" + ",".join(map(_written, value or ())) + "}"


def _written(element: UUID | str | datetime | None) -> str:
    if element is None:
        return "NULL"
    return element.isoformat() if isinstance(element, datetime) else str(element)


def batch_table(**types: TypeEngine[Any]) -> FromClause:
    """Return the table `batch_table`: its columns are parameters of the same names, executed with lists."""
    return unpacked(
        types,
        [
            select(cast(bindparam(name, type_=_Literal()), ARRAY(type_))).scalar_subquery()
            for name, type_ in types.items()
        ],
    )


def unpacked(types: dict[str, TypeEngine[Any]], arrays: Iterable[ScalarSelect[Any]]) -> FromClause:
    """Return the rows that are in arrays, one for each column."""
    columns: Any = [column(name, type_) for name, type_ in types.items()]
    return func.unnest(*arrays).table_valued(*columns, name="batch_table").render_derived()


def not_before(at: Any, sent_at: Any) -> ColumnElement[Any]:
    """Return a time of delivery or reading, which is not before its message was sent; NULL stays NULL.

    The later of two never falls as either grows: so the earliest of some events is the same, whether they are
    compared before or after. An infinite time of sending says nothing.
    """
    sent = case((func.isfinite(sent_at, type_=Boolean), sent_at))
    return case((at.is_not(None), func.greatest(at, sent, type_=at.type)))


def looked_up(table: StatusRows | ReadMarks, batch: FromClause, *also: Any) -> CTE:
    """Return the batch, and whether the message and the person of each row are `there`.

    Args:
        also: columns of the message that are wanted besides.
    """
    there = and_(table.message_id.is_not(None), table.user_id.is_not(None)).label("there")
    return (
        select(*batch.c, there, *also)
        .select_from(batch)
        .outerjoin(table.message_id.class_, table.message_id == batch.c.message_id)
        .outerjoin(table.user_id.class_, table.user_id == batch.c.user_id)
        .cte("known")
    )
