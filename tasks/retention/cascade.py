"""The statements of retention on a policy's rows and on what refers to them, made once for each policy."""

from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Select,
    Table,
    Text,
    bindparam,
    cast,
    delete,
    func,
    literal_column,
    or_,
    select,
    update,
)

from models.platform import AttachmentJob as Job
from tasks.analytics import rollup_guard
from tasks.apps import attachments_of
from tasks.policies.attachment import AttachmentTable
from tasks.policies.columns import table_of
from tasks.policies.retention import Cascade, Retention, SetValues, referred
from tasks.policies.sweep import Delete
from tasks.sweeps.statements import any_of as _any
from tasks.sweeps.statements import key_of

#: All columns that the table has, whatever the models know of it.
ALL: Any = literal_column("*")
_AT_MOST = bindparam("at_most", type_=BigInteger)
#: What a changed column is called after the change, in the archive.
NOW_SUFFIX = ":now"


@dataclass(frozen=True, slots=True, eq=False)
class OwnRowStatements:
    """Statements on a policy's own rows, by their keys: which are due, and what happens to them.

    `due` returns their keys, and, as texts, until when they count in statistics, if the policy says that.
    """

    due: Select[Any]
    delete: Any
    update: Any


@cache
def own_row_statements(policy: Retention) -> OwnRowStatements:
    """Return the statements on the policy's own rows."""
    key = key_of(policy.table)
    these = key == _any(key, "keys")
    then = policy.action
    values = (
        {}
        if isinstance(then, Delete)
        else {to.property.columns[0]: value for to, value in then.values.items()}
    )
    return OwnRowStatements(
        due=select(key, cast(policy.until, Text)).where(these, rollup_guard.due(policy)),
        delete=delete(policy.table).where(these).returning(ALL) if not values else None,
        update=update(policy.table).where(these).values(values).returning(key) if values else None,
    )


@dataclass(frozen=True, slots=True, eq=False)
class CascadeStatements:
    """Statements on rows that go with others: `at_most` of them, by the others' keys, `among` given ones if
    any are, not locked or locked; and their end.
    """

    table: Table
    keys: Select[Any]
    locked: Select[Any]
    delete: Any


def _among(key: Any) -> ColumnElement[bool]:
    given: Any = bindparam("among", type_=ARRAY(key.type))
    # By its value: a plan is made for each execution.
    return or_(given.is_(None), key == func.any(given))


@cache
def cascade_statements(one: Cascade) -> CascadeStatements:
    """Return the statements on what goes with a row."""
    by = one.by.property.columns[0]
    key = key_of(by.table)
    # In no order: none is waited for. To sort a crowd for each portion of it would take ever longer.
    keys = select(key).where(by == _any(referred(one), "keys"), _among(key)).limit(_AT_MOST)
    return CascadeStatements(
        table=by.table,
        keys=keys,
        locked=keys.with_for_update(nowait=True),
        delete=delete(by.table).where(key == _any(key, "keys")).returning(ALL),
    )


def reading(statement: Any) -> "Select[Any]":
    """Return the query for all columns of the rows that a DELETE would delete."""
    return select(ALL).select_from(statement.table).where(statement.whereclause)


@dataclass(frozen=True, slots=True, eq=False)
class SetValuesStatements:
    """Statements on rows that stay when what they refer to goes: what `at_most` of them say before,
    `among` given ones if any are; the change of all of them, and that of `these`.

    Each returns the key and the columns as texts.
    """

    table: Table
    columns: tuple[str, ...]
    before: Any
    change: Any
    change_these: Any


@cache
def set_values_statements(one: SetValues, *, of_itself: bool) -> SetValuesStatements:
    """Return the statements on what stays when a row goes."""
    by = one.by.property.columns[0]
    key = key_of(by.table)
    columns = [column.property.columns[0] for column in one.changes()]
    these: list[Any] = [by == _any(referred(one), "keys")]
    if of_itself:
        # Those that go themselves need no change.
        these.append(key != func.all(bindparam("keys", type_=ARRAY(key.type))))
    texts = [cast(column, Text) for column in (key, *columns)]
    before: Any = select(*texts).where(*these)
    values = {column.property.columns[0]: value for column, value in one.changes().items()}
    change: Any = update(by.table).where(*these).values(values).returning(*texts)
    return SetValuesStatements(
        table=by.table,
        columns=tuple(column.name for column in columns),
        before=before.where(_among(key)).limit(_AT_MOST).with_for_update(key_share=True, nowait=True),
        change=change,
        change_these=change.where(key == _any(key, "these")),
    )


@dataclass(frozen=True, slots=True, eq=False)
class Files:
    """The attachments that go with the rows of given keys, or are these rows.

    Attributes:
        attachments: their table.
        stores: which stores their objects are in, with the keys of the policy's rows, as `root`.
        busy: the keys of the policy's rows of whose attachments a worker processes one.
    """

    app: str
    attachments: AttachmentTable
    stores: Select[Any]
    busy: Select[Any]

    @property
    def table(self) -> Table:
        """The table of the attachments."""
        return table_of(self.attachments.model)


@cache
def files_of(policy: Retention) -> Files | None:
    """Return the statements on the attachments that go; None if none do."""
    attachments = attachments_of(policy.app)
    if attachments is None or not isinstance(policy.action, Delete):
        return None
    root = key_of(policy.table)
    path = policy.path_to(table_of(attachments.model))
    if path is None:
        return None
    joined = [one.by == referred(one) for one in path]
    joined.append(root == _any(root, "keys"))
    own_job = (Job.app == policy.app) & (Job.attachment_id == attachments.id)
    return Files(
        app=policy.app,
        attachments=attachments,
        stores=select(attachments.store_name().label("store"), root.label("root")).where(*joined).distinct(),
        busy=select(root).where(*joined, own_job, leased()),
    )


def leased() -> ColumnElement[bool]:
    """Return the condition on the jobs of attachments that a live worker processes."""
    return (Job.state == "running") & (Job.lease_until > func.clock_timestamp())
