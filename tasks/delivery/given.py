"""A batch as a table: arrays of parameters, unnested by the database, the same statement for any number."""

from typing import Any

from sqlalchemy import ARRAY, DateTime, Text, Uuid, bindparam, column, func
from sqlalchemy.sql.selectable import TableValuedAlias
from sqlalchemy.types import TypeEngine

MOMENT = DateTime(timezone=True)
#: What a batch may hold, by name.
TYPES: dict[str, TypeEngine[Any]] = {
    "message_id": Uuid(),
    "user_id": Uuid(),
    "status": Text(),
    "delivered_at": MOMENT,
    "read_at": MOMENT,
}


def given(*names: str) -> TableValuedAlias:
    """Return the table `given`, whose columns are executed with lists, as parameters of the same names."""
    lists = [bindparam(name, type_=ARRAY(TYPES[name])) for name in names]
    columns = [column(name, TYPES[name]) for name in names]
    return func.unnest(*lists).table_valued(*columns, name="given").render_derived()
