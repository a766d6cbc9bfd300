"""A retention record: which rows have had their time, and what becomes of what refers to them.

Nothing is deleted by accident. So a policy names every foreign key that leads to its table, and says for
each whether the rows behind it go too, keep theirs alive, or are changed; one that forgets a key does not
start. It has no period but one that a document gives: until an operator sets it, the policy is off. What is
on legal hold, or has something on hold among what would go with it, stays.

    Retention(
        name="pern.messages",
        model=Message,
        rule="messages older than {after} are deleted, ...",
        why="...",
        age=Message.created_at,
        refers=(
            Cascade(MessageStatus.message_id, why="CASCADE: a status without its message says nothing"),
            SetValues(Message.reply_to_id, why="SET NULL: replies stay"),
        ),
        ...
    )
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache, lru_cache
from typing import Any

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    DateTime,
    ForeignKey,
    Insert,
    Table,
    Uuid,
    and_,
    bindparam,
    exists,
    false,
    func,
    or_,
    select,
)
from sqlalchemy import Column as TableColumn
from sqlalchemy.orm import aliased
from sqlalchemy.sql.selectable import SelectBase

from models.base import Base
from models.platform import Hold
from tasks.policies.columns import Column, Model, model_of, parts_of, table_of
from tasks.policies.sweep import AFTER, NOW, NOW_UTC, Delete, Sweep, Update
from workers.inspection import Need

#: Whose a table's rows are: for each kind of entity that may be on hold, the columns or expressions that name
#: it. A table whose rows have no owner has none.
Owners = Mapping[Model, Mapping[str, tuple[Any, ...]]]
#: The keys of the rows that go, for the values of `SetValues`, and for `Retention.facts`.
GOING: Any = bindparam("going", type_=ARRAY(Uuid()))
#: For `Retention.facts`: the moment from which facts are kept, and the batch that they are of.
FACTS_FROM: Any = bindparam("facts_from", type_=DateTime(timezone=True))
FACTS_BATCH: Any = bindparam("facts_batch", type_=Uuid())


@dataclass(frozen=True, slots=True, eq=False)
class Cascade:
    """Rows that refer to a due one by the column `by` go with it, before it; so does what refers to them.

    A policy's family must stay small: what may be thousands is a policy of its own, and `Restrict` here.
    """

    by: Column
    why: str
    refers: "tuple[Cascade | SetValues, ...]" = ()
    to: Column | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Restrict:
    """A row that others refer to by the column `by` is not due: it goes when they have gone."""

    by: Column
    why: str
    to: Column | None = None


@dataclass(frozen=True, slots=True, eq=False)
class SetValues:
    """Rows that refer to a due one by the column `by` stay, and get these values.

    Attributes:
        values: NULL for `by` if they are not given. They may look at GOING, and at the rows that go.
        to: the column that is referred to, where no foreign key says it.
    """

    by: Column
    why: str
    values: Mapping[Column, Any] | None = None
    to: Column | None = None

    def changes(self) -> Mapping[Column, Any]:
        """Return the columns that change, and their values."""
        return {self.by: None} if self.values is None else self.values


Reference = Cascade | Restrict | SetValues


@dataclass(frozen=True, slots=True, eq=False)
class Ignored:
    """Rows of a table that say something which a policy ignores, because it makes no sense: it is told."""

    model: Model
    which: ColumnElement[bool]
    why: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Retention(Sweep):
    """A retention policy: a sweep whose rows are archived and counted, with a receipt (`tasks/retention`).

    Attributes:
        age: what a row's age is told by; a row without it is never due.
        cutoff: before which moment a row has had its time, where the rows say it themselves; NULL for never.
            Otherwise NOW - AFTER.
        where: which rows besides; None for all.
        refers: what refers to the table's rows, key by key, with the reason.
        until: until when a row of the table counts in the statistics that are made of it, where the latest
            moment of `SourceTable.at` does not say it.
        facts: by table, a statement that keeps what statistics need of the rows GOING, by the moments from
            FACTS_FROM on: these do not freeze buckets. For rows that go before their buckets are final. A
            sweep deletes the facts, and freezes the buckets then.
        owners: whose the rows of all tables concerned are, for legal holds.
        after: the period; None where no document gives one: the policy is off until it is set.
        archive: whether rows are archived before they go.
        must_archive: whether an operator may not do without (`ROOMKEEPER_ARCHIVE_OFF`).
        ignored: what of other rows it ignores, and tells at each run.
        follows: policies of the same application that take what keeps rows of this one alive; told to people
            only.
        due: made of the above. What rollups count goes only when its buckets are closed, besides
            (`tasks/analytics/rollup_guard.py`).
    """

    age: Any
    owners: Owners
    cutoff: Any = None
    where: ColumnElement[bool] | None = None
    until: Any = None
    facts: Mapping[Model, Insert] = field(default_factory=dict)
    refers: tuple[Reference, ...] = ()
    archive: bool = True
    must_archive: bool = False
    ignored: Ignored | None = None
    follows: tuple[str, ...] = ()
    action: Delete | Update = field(default_factory=Delete)
    every: timedelta = timedelta(hours=1)
    due: ColumnElement[bool] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "due", self._due())
        Sweep.__post_init__(self)

    @property
    def app(self) -> str:
        """The application, or `roomkeeper`."""
        return self.name.partition(".")[0]

    @property
    def off_until_set(self) -> bool:
        """Whether it has no period of its own."""
        return self.after is None and self.uses(AFTER)

    @property
    def row_local(self) -> bool:
        """Whether rows go by themselves, judged by nothing but themselves and holds."""
        looks = any(isinstance(part, SelectBase) for part in parts_of(self.old_enough()))
        changes = isinstance(self.action, Update)
        return not (looks or self.refers or self._on_hold_by_look() or changes or self.until is not None)

    @property
    def index_condition(self) -> ColumnElement[bool] | None:
        """What an index finds of all that is due."""
        return self.due if self.full_pass_every is None and self.indexed is None else self.indexed

    def cascade_paths(self) -> Iterator[tuple[Cascade, ...]]:
        """Yield the paths from the table to each of those whose rows go with its own, parents first."""
        yield from _paths((), self.refers)

    def path_to(self, table: Table) -> tuple[Cascade, ...] | None:
        """Return the path from the policy's table to one whose rows go; None if those of that one stay."""
        if table is self.table and isinstance(self.action, Delete):
            return ()
        return next((path for path in self.cascade_paths() if table_of(model_of(path[-1].by)) is table), None)

    def tables(self) -> list[Table]:
        """Return the tables whose rows may go."""
        own = [] if isinstance(self.action, Update) else [self.table]
        return [*own, *(table_of(model_of(path[-1].by)) for path in self.cascade_paths())]

    def old_enough(self) -> ColumnElement[bool]:
        """Return which rows have expired, regardless of references and of holds."""
        aware = getattr(self.age.type, "timezone", True)
        cutoff = (NOW if aware else NOW_UTC) - AFTER if self.cutoff is None else self.cutoff
        return and_(self.age < cutoff, *([] if self.where is None else [self.where]))

    def _due(self) -> ColumnElement[bool]:
        kept = [one for one in self.refers if isinstance(one, Restrict)]
        return and_(
            self.old_enough(),
            *(~_refers(one, self.table) for one in kept),
            ~self._held(self.owners.get(self.model, {})),
            *(~self._cascade_held(path) for path in self.cascade_paths() if self._owned(path)),
            *(~self._change_held(one) for one in self.refers if isinstance(one, SetValues)),
        )

    def _owned(self, path: tuple[Cascade, ...]) -> Mapping[str, tuple[Any, ...]]:
        return self.owners.get(model_of(path[-1].by), {})

    def _held(self, owned: Mapping[str, tuple[Any, ...]]) -> ColumnElement[bool]:
        """Return whether a row belongs to an entity on hold."""
        return or_(
            false(), *(_on_hold(self.app, entity, one) for entity, whose in owned.items() for one in whose)
        )

    def _cascade_held(self, path: tuple[Cascade, ...]) -> ColumnElement[bool]:
        """Return whether, of what would go with a row along this path, something is on hold."""
        joined = [_same(one) for one in path]
        # Asked first, once: mostly nothing is on hold, and no row is looked at for it.
        return and_(_any_hold(self.app), exists().where(*joined, self._held(self._owned(path))))

    def _change_held(self, one: SetValues) -> ColumnElement[bool]:
        """Return whether a row that would be changed with a row is on hold: it is to stay as it is."""
        other = aliased(model_of(one.by))
        owned = {
            entity: tuple(getattr(other, column.key) for column in whose if hasattr(column, "key"))
            for entity, whose in self.owners.get(model_of(one.by), {}).items()
        }
        refers = getattr(other, one.by.key) == referred(one)
        return and_(_any_hold(self.app), exists().where(refers, self._held(owned)))

    def _on_hold_by_look(self) -> bool:
        owned = self.owners.get(self.model, {})
        whose = (_element(one) for columns in owned.values() for one in columns)
        return any(isinstance(part, SelectBase) for part in parts_of(*whose))

    def _faults(self) -> Iterator[str]:
        yield from Sweep._faults(self)
        if self.must_archive and not self.archive:
            yield "it must archive, and does not."
        if self.facts and (self.row_local or isinstance(self.action, Update)):
            yield "`facts` are of rows that are deleted by their keys: it changes rows, or deletes by pages."
        for table, refers in self.levels():
            yield from _unnamed(table, refers)
        concerned = [self.model, *(model_of(path[-1].by) for path in self.cascade_paths())]
        for model in concerned:
            if model not in self.owners:
                yield f"say in `owners` whose the rows of {table_of(model).fullname} are; {{}} for no owner."

    def levels(self) -> Iterator[tuple[Table, tuple[Any, ...]]]:
        """Yield each table whose rows go, with what is said of references to it."""
        if isinstance(self.action, Delete):
            yield self.table, self.refers
        for path in self.cascade_paths():
            yield table_of(model_of(path[-1].by)), path[-1].refers

    def needs(self) -> list[Need]:
        """Return what the policy needs of the database."""
        found = {need.table: need for need in Sweep.needs(self)}
        for refers in (self.refers, *(path[-1].refers for path in self.cascade_paths())):
            for one in refers:
                _add(found, one)
        if self.ignored is not None:
            named = {part.name for part in parts_of(self.ignored.which) if isinstance(part, TableColumn)}
            _need(found, table_of(self.ignored.model), frozenset({"id", *named}), {"SELECT"})
        for kept in self.facts.values():
            written = kept.table
            assert isinstance(written, Table)
            _need(found, written, frozenset(written.c.keys()), {"INSERT"})
        for table in self.tables():
            _need(
                found,
                table,
                frozenset(column.name for column in table.columns),
                {"SELECT", "UPDATE", "DELETE"},
            )
        return list(found.values())


def _paths(before: tuple[Cascade, ...], refers: tuple[Any, ...]) -> Iterator[tuple[Cascade, ...]]:
    for one in refers:
        if isinstance(one, Cascade):
            yield (*before, one)
            yield from _paths((*before, one), one.refers)


def referred(one: Reference) -> "TableColumn[Any]":
    """Return the column that is referred to: by a foreign key, or named by the policy where there is none."""
    if one.to is not None:
        named: TableColumn[Any] = one.to.property.columns[0]
        return named
    (key,) = one.by.property.columns[0].foreign_keys
    column: TableColumn[Any] = key.column
    return column


def _same(one: Reference) -> ColumnElement[bool]:
    return one.by == referred(one)


def _refers(one: Reference, table: Table) -> ColumnElement[bool]:
    """Return whether some row refers to one of `table`."""
    if one.by.property.columns[0].table is not table:
        return exists().where(_same(one))
    other = aliased(model_of(one.by))
    return exists().where(getattr(other, one.by.key) == referred(one))


def _element(value: Any) -> Any:
    return value.__clause_element__() if hasattr(value, "__clause_element__") else value


def _in_force(app: str) -> Any:
    return and_(Hold.app == app, Hold.lifted_at.is_(None))


# Each made once, however many policies and columns use it: building them is a good part of the start.
@cache
def _any_hold(app: str) -> ColumnElement[bool]:
    return exists().where(_in_force(app)).correlate(None)


@cache
def _held_ids(app: str, entity: str) -> ColumnElement[Any]:
    """Return the entities that are on hold: the list is made once for a statement, and is mostly empty."""
    ids = select(Hold.entity_id).where(_in_force(app), Hold.entity == entity).correlate(None)
    return func.any(func.array(ids.scalar_subquery(), type_=ARRAY(Uuid())))


def _on_hold(app: str, entity: str, whose: Any) -> ColumnElement[bool]:
    """Return whether an entity is on hold."""
    return func.coalesce(_element(whose) == _held_ids(app, entity), False)


def _unnamed(table: Table, refers: tuple[Any, ...]) -> Iterator[str]:
    """Yield what is wrong with what is said of a table's references."""
    # Not a list: there `in` and `count` would compare columns with `==`, which makes SQL of each comparison.
    named = Counter(one.by.property.columns[0] for one in refers)
    unguarded = {one.by.property.columns[0] for one in refers if one.to is not None}
    for key in _references(tuple(Base.metadata.tables.values())).get(table, ()):
        if key.parent not in named:
            what = key.ondelete or "NO ACTION"
            column = f"{key.parent.table.fullname}.{key.parent.name}"
            yield f"say what becomes of {column} ({what}), which refers to {table.fullname}."
    for column, times in named.items():
        if times > 1:
            yield f"{column} is named twice."
        if bool(column.foreign_keys) == (column in unguarded):
            yield f"say to what {column} refers if, and only if, no foreign key does."


@lru_cache(maxsize=1)
def _references(tables: tuple[Table, ...]) -> dict[Table, list[ForeignKey]]:
    """Return the foreign keys of these tables, by the table that they refer to."""
    found: dict[Table, list[ForeignKey]] = defaultdict(list)
    for table in tables:
        for key in table.foreign_keys:
            found[key.column.table].append(key)
    return dict(found)


def _need(found: dict[Table, Need], table: Table, columns: frozenset[str], rights: set[str]) -> None:
    before = found.get(table, Need(table, frozenset(), frozenset()))
    found[table] = Need(table, before.columns | columns, before.privileges | rights)


def _add(found: dict[Table, Need], one: Reference) -> None:
    columns = {_element(one.by).name, referred(one).name}
    other = one.by.property.columns[0].table
    if isinstance(one, SetValues):
        columns |= {column.property.columns[0].name for column in one.changes()} | {"id"}
    _need(
        found,
        other,
        frozenset(columns & set(other.c.keys())),
        {"SELECT"} if isinstance(one, Restrict) else {"SELECT", "UPDATE"},
    )
