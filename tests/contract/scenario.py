"""One scenario for a policy: rows of every kind that its example names, and what must become of each."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from itertools import count
from typing import Any
from uuid import uuid4

from sqlalchemy import Boolean, CheckConstraint, Connection, Date, DateTime, Enum, String, Table, Uuid, insert
from sqlalchemy import Column as TableColumn
from sqlalchemy.dialects.postgresql import INET, JSONB

from models.base import Base
from models.platform import Hold
from tasks.policies.columns import Column, table_of
from tasks.policies.retention import Retention
from tasks.policies.sweep import Sweep
from tests.contract.example import AT, NEW, STAMP, Case, Example, Of, Row, Values, case
from tests.platform import Platform
from tests.sweeps.sweeping import INSTANT, NOW, ago

#: The period that is set for retention policies that have none.
PERIOD = timedelta(days=30)
#: Times of which an example says nothing.
LONG_AGO = ago(days=400)
#: A row by its columns' names, and every row of every table by its key.
Found = dict[str, Any]
Database = dict[str, dict[tuple[Any, ...], Found]]
_ENTITIES = ("user", "conversation", "room")
_numbers = count(1)


@dataclass(slots=True)
class Made:
    """A row of the policy's table, with the rows beside it.

    Attributes:
        what: the case in words.
        becomes: the values that it gets if it is due, other than the example's.
        first: by table, the first row that was made.
        beside: the rows that were made beside it.
    """

    what: str
    due: bool
    becomes: Values
    key: Any = None
    first: dict[Table, Found] = field(default_factory=dict)
    beside: list[tuple[Row, Found]] = field(default_factory=list)


@dataclass(slots=True)
class Scenario:
    """The rows that were made for a policy.

    Attributes:
        on_hold: how many are due but for a legal hold.
        past: the row just past the first limit.
        stamps: the values that a trigger sets: table, key and column.
    """

    policy: Sweep
    example: Example
    made: list[Made] = field(default_factory=list)
    on_hold: int = 0
    past: Made | None = None
    stamps: set[tuple[str, tuple[Any, ...], str]] = field(default_factory=set)

    def keys(self, *, due: bool) -> set[Any]:
        """Return the keys of the rows that are due, or that stay."""
        return {one.key for one in self.made if one.due is due}

    def expected(self, before: Database) -> Database:
        """Return the whole database as a run must leave it, but for `stamps`."""
        after = {table: dict(rows) for table, rows in before.items()}
        for one in self.made:
            if one.due:
                self._take(one, before, after)
        return after

    def _take(self, one: Made, before: Database, after: Database) -> None:
        own = self.policy.table
        by_table: dict[Table, dict[Column, Any]] = {}
        for attribute, value in {**self.example.becomes, **one.becomes}.items():
            by_table.setdefault(column_of(attribute).table, {})[attribute] = value
        for table, values in by_table.items():
            # A row that is in no room, say.
            if table is not own and table not in one.first:
                continue
            key = (one.key,) if table is own else key_in(table, one.first[table])
            self._change(table, key, values, one, before, after)
        if own not in by_table:
            del after[own.fullname][one.key,]
        for row, found in one.beside:
            table = table_of(row.model)
            key = key_in(table, found)
            if row.deleted:
                del after[table.fullname][key]
            elif row.becomes:
                self._change(table, key, row.becomes, one, before, after)

    def _change(
        self,
        table: Table,
        key: tuple[Any, ...],
        values: Values,
        one: Made,
        before: Database,
        after: Database,
    ) -> None:
        row = dict(after[table.fullname][key])
        for attribute, value in values.items():
            column = column_of(attribute)
            if value is STAMP:
                self.stamps.add((table.fullname, key, column.name))
            elif isinstance(value, Of):
                row[column.name] = one.first[column_of(value.column).table][column_of(value.column).name]
            else:
                found = value(before[table.fullname][key]) if callable(value) else value
                row[column.name] = fitting(column, found)
        after[table.fullname][key] = row


def build(platform: Platform, policy: Sweep, example: Example) -> Scenario:
    """Make all rows of a policy's scenario, in one transaction."""
    scenario = Scenario(policy, example)
    with platform.engine.begin() as connection:
        maker = _Maker(connection, scenario)
        for due, one, at in _cases(policy, example):
            made = maker.make(one, at, due=due)
            if scenario.past is None and due and at is not None:
                scenario.past = made
        for row in example.protected_by:
            maker.make(Case(beside=(row,)), None, due=False, what=f"{row.by} refers to it")
        if example.held:
            maker.hold_each()
    return scenario


def period_of(policy: Sweep, example: Example) -> timedelta:
    """Return the period that a policy goes by in tests: one that has none goes by the moment itself."""
    if example.period is not None:
        return example.period
    if isinstance(policy, Retention):
        return policy.after or PERIOD
    return policy.after or timedelta(0)


def snapshot(platform: Platform) -> Database:
    """Return every row of every table, by table and key."""
    found = platform.everything()
    return {
        table.fullname: {
            key_in(table, row): row
            for row in (dict(zip(table.c.keys(), one, strict=True)) for one in found[table.fullname])
        }
        for table in Base.metadata.sorted_tables
    }


def _cases(policy: Sweep, example: Example) -> Iterator[tuple[bool, Case, datetime | None]]:
    """Yield each case with whether it is due, and the time that stands for AT."""
    for given in example.limits:
        one = case(given)
        period = one.period if one.period is not None else period_of(policy, example)
        yield True, one, NOW - period - INSTANT
        yield False, one, NOW - period
        if period:
            yield False, one, NOW
        yield False, one, NOW + INSTANT
    for column in example.null_due:
        yield True, Case(values={column: None}), None
    for column in example.null_stays:
        yield False, Case(values={column: None}), None
    # At least one row that is due, and no more than that.
    yield True, Case(), None
    for due, cases in ((True, example.due), (False, example.stays)):
        for other in cases:
            yield due, case(other), None


@dataclass(slots=True)
class _Maker:
    """Makes rows; what an example leaves open is completed."""

    connection: Connection
    scenario: Scenario

    def make(
        self,
        one: Case,
        at: datetime | None,
        *,
        due: bool,
        what: str | None = None,
        alone: bool = False,
    ) -> Made:
        """Make a row of the policy's table, with what is related to it unless it is to be alone."""
        example, own = self.scenario.example, self.scenario.policy.model
        made = Made(what or _words(one, at), due, one.becomes)
        row = self._row(made, table_of(own), {**example.row, **one.values}, at)
        (made.key,) = key_in(table_of(own), row)
        for also in (*(() if alone else example.related), *one.beside):
            values = dict(also.values) | ({} if also.by is None else {also.by: made.key})
            made.beside.append((also, self._row(made, table_of(also.model), values, at)))
        self.scenario.made.append(made)
        return made

    def hold_each(self) -> None:
        """Make a row that is kept for each column that names someone, and some that no hold concerns."""
        held, app = self.scenario.example.held, self.scenario.policy.name.partition(".")[0]
        for entity, columns in held.items():
            for column in columns:
                # By itself, if it is the row's own: what goes with it may be the same person's.
                alone = column_of(column).table is self.scenario.policy.table
                what = f"on hold: {entity} of {column}"
                made = self.make(Case(), None, due=False, what=what, alone=alone)
                self._hold(app, entity, self._value(made, column))
                self.scenario.on_hold += 1
        entity, column = next((entity, columns[0]) for entity, columns in held.items())
        made = self.make(Case(), None, due=True, what="its hold was lifted")
        self._hold(app, entity, self._value(made, column), lifted_at=NOW, lifted_by="ada")
        made = self.make(Case(), None, due=True, what="the hold is another application's")
        self._hold("another", entity, self._value(made, column))
        for other in _ENTITIES:
            if column not in held.get(other, ()):
                made = self.make(Case(), None, due=True, what=f"the hold is on a {other} of that id")
                self._hold(app, other, self._value(made, column))

    def _value(self, made: Made, column: Column) -> Any:
        found = made.first.get(column_of(column).table, {}).get(column_of(column).name)
        name = self.scenario.policy.name
        assert found is not None, f"{name}: its example makes no row with {column}, which a hold may name"
        return found

    def _hold(self, app: str, entity: str, key: Any, **values: Any) -> None:
        given = {"app": app, "entity": entity, "entity_id": key, "reason": "a case", "placed_by": "ada"}
        self.connection.execute(insert(table_of(Hold)).values(given | values))

    def _row(self, made: Made, table: Table, values: Values, at: datetime | None) -> Found:
        given: Found = {}
        for key in table.primary_key.columns:
            if isinstance(key.type, Uuid) and not key.foreign_keys:
                given[key.name] = uuid4()
        for attribute, value in values.items():
            column = column_of(attribute)
            assert column.table is table, f"{attribute} is not a column of {table.fullname}"
            found = value(given) if callable(value) else self._resolved(made, column, value, at)
            given[column.name] = fitting(column, found)
        for column in table.c:
            if column.name not in given:
                self._complete(made, column, given, at)
        statement = insert(table).values(given).returning(*table.c)
        row = dict(zip(table.c.keys(), self.connection.execute(statement).one(), strict=True))
        made.first.setdefault(table, row)
        return row

    def _resolved(self, made: Made, column: "TableColumn[Any]", value: Any, at: datetime | None) -> Any:
        if value is AT:
            assert at is not None
            return at
        if value is NEW:
            return self._parent(made, column, at) if column.foreign_keys else uuid4()
        if isinstance(value, Of):
            of = column_of(value.column)
            return made.first[of.table][of.name]
        if isinstance(value, Row):
            table = table_of(value.model)
            return key_in(table, self._row(made, table, value.values, at))[0]
        return value

    def _parent(self, made: Made, column: "TableColumn[Any]", at: datetime | None) -> Any:
        (key,) = column.foreign_keys
        return self._row(made, key.column.table, {}, at)[key.column.name]

    def _complete(self, made: Made, column: "TableColumn[Any]", given: Found, at: datetime | None) -> None:
        """Give a column a value if the database requires one, or would take the true time."""
        if isinstance(column.type, DateTime | Date):
            if column.server_default is not None or not column.nullable:
                given[column.name] = fitting(column, LONG_AGO)
            return
        if column.nullable or column.identity is not None:
            return
        allowed = _allowed(column)
        if column.server_default is not None:
            # A default that the table itself does not allow: `connect` has one.
            if allowed and _default(column) not in allowed:
                given[column.name] = allowed[0]
            return
        if column.foreign_keys:
            given[column.name] = self._parent(made, column, at)
        elif column is not column.table.autoincrement_column:
            given[column.name] = _any_value(column)


def _any_value(column: "TableColumn[Any]") -> Any:
    """Return a value that the column takes, and no row has."""
    if isinstance(column.type, Uuid):
        return uuid4()
    if isinstance(column.type, Enum):
        return column.type.enums[0]
    if isinstance(column.type, String):
        return next(iter(_allowed(column)), f"{next(_numbers):06}")
    if isinstance(column.type, Boolean):
        return False
    if isinstance(column.type, INET):
        return "10.0.0.1"
    return {} if isinstance(column.type, JSONB) else 0


def _allowed(column: "TableColumn[Any]") -> list[str]:
    """Return the texts to which the table restricts a column; none if it does not."""
    for one in column.table.constraints:
        if isinstance(one, CheckConstraint):
            found = re.fullmatch(rf"{column.name} in \((.*)\)", str(one.sqltext), re.IGNORECASE)
            if found is not None:
                return re.findall(r"'(\w+)'", found[1])
    return []


def _default(column: "TableColumn[Any]") -> str:
    return str(getattr(column.server_default, "arg", "")).strip("'")


def fitting(column: "TableColumn[Any]", value: Any) -> Any:
    """Return a time as the column has it: a day, or UTC without saying so."""
    if isinstance(value, datetime):
        if isinstance(column.type, Date):
            return value.date()
        if isinstance(column.type, DateTime) and not column.type.timezone and value.tzinfo is not None:
            return value.astimezone(UTC).replace(tzinfo=None)
    return value


def column_of(attribute: Column) -> "TableColumn[Any]":
    """Return the table's column."""
    found: TableColumn[Any] = attribute.property.columns[0]
    return found


def key_in(table: Table, row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return a row's key."""
    return tuple(row[column.name] for column in table.primary_key.columns)


def _words(one: Case, at: datetime | None) -> str:
    parts = [*_described(one.values, at)]
    parts += [f"with {row.model.__name__} ({', '.join(_described(row.values, at))})" for row in one.beside]
    return ", ".join(parts) or "as the example's row says"


def _described(values: Values, at: datetime | date | None) -> Iterator[str]:
    for column, value in values.items():
        if isinstance(value, Row):
            yield f"{column} = {value.model.__name__} ({', '.join(_described(value.values, at))})"
        else:
            yield f"{column} = {at if value is AT else value}"
