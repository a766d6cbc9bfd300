"""What the contract must know of a policy: one `Example` for each, as data.

The contract makes rows of it, and completes them: required columns get values, required foreign keys get rows
of their own, and times are long ago. So an example names only what decides.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from tasks.policies.columns import Column, Model, model_of

#: Values of columns: plain ones, one of the marks below, or a `Row` whose key is the value.
Values = Mapping[Column, Any]


class Mark:
    """Stands for a value that is known only when a row is made, or changed."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name


#: The time that a limit is compared with.
AT = Mark("AT")
#: A new row of the table that the column refers to; without a foreign key, a new id.
NEW = Mark("NEW")
#: The true time at which a trigger of the application noted a change.
STAMP = Mark("STAMP")


@dataclass(frozen=True, slots=True)
class Of:
    """The value of a column in the first row of its table that was made for the same case."""

    column: Column


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Row:
    """A row of any table, beside the policy's own.

    Attributes:
        by: the column that refers to the key of the policy's row, if one does.
        deleted: whether it goes with the policy's row.
        becomes: the values that it gets when the policy's row is taken.
    """

    model: Model
    values: Values = field(default_factory=dict)
    by: Column | None = None
    deleted: bool = False
    becomes: Values = field(default_factory=dict)


def goes(by: Column, values: Values | None = None) -> Row:
    """Return a row that refers to the policy's by a column, and goes with it."""
    return Row(model=model_of(by), values=values or {}, by=by, deleted=True)


def changes(by: Column, becomes: Values | None = None, values: Values | None = None) -> Row:
    """Return a row that refers to the policy's by a column, and stays: that column is NULL afterwards."""
    return Row(model=model_of(by), values=values or {}, by=by, becomes={by: None, **(becomes or {})})


def refers(by: Column, values: Values | None = None) -> Row:
    """Return a row that refers to the policy's by a column, and keeps it."""
    return Row(model=model_of(by), values=values or {}, by=by)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Case:
    """A row of the policy's table.

    Attributes:
        values: what it says other than the example's `row`.
        beside: further rows.
        period: of a limit, where it is not the policy's.
        becomes: what it becomes other than `Example.becomes`.
    """

    values: Values = field(default_factory=dict)
    beside: tuple[Row, ...] = ()
    period: timedelta | None = None
    becomes: Values = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Example:
    """Rows by which one policy is tested.

    Attributes:
        policy: its name.
        row: what a row says that is due; all cases begin with it.
        limits: where a time decides: the column that has it, or a case with `AT` in it. A row is due if the
            time is longer ago than the period, and stays if it is not, or lies ahead.
        null_due, null_stays: columns of the policy's table in which NULL leaves a row due, or keeps it.
        due, stays: other rows that are due, or stay.
        related: rows beside each row of the policy's table, with what becomes of them.
        protected_by: rows each of which keeps the policy's row.
        held: by kind of entity, the columns that name whom a legal hold keeps the row for.
        becomes: the values that a due row gets; of other tables, what the first row of the case gets. Where
            it names no column of the policy's table, the row is deleted.
        indexed: whether `indexed`, if there is one, finds the row just past the first limit.
        period: where the policy's rows say it themselves.
        timeless: whether the moment tells wrong clocks, and nothing else.
    """

    policy: str
    row: Values = field(default_factory=dict)
    limits: tuple[Column | Case, ...] = ()
    null_due: tuple[Column, ...] = ()
    null_stays: tuple[Column, ...] = ()
    due: tuple[Values | Case, ...] = ()
    stays: tuple[Values | Case, ...] = ()
    related: tuple[Row, ...] = ()
    protected_by: tuple[Row, ...] = ()
    held: Mapping[str, tuple[Column, ...]] = field(default_factory=dict)
    becomes: Values = field(default_factory=dict)
    indexed: bool = True
    period: timedelta | None = None
    timeless: bool = False


def case(given: "Column | Values | Case") -> Case:
    """Return what an example says in short as a case."""
    if isinstance(given, Case):
        return given
    return Case(values=given if isinstance(given, Mapping) else {given: AT})
