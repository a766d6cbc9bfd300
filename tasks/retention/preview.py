"""What a run of retention would take, and why it would leave the rest: counted, and nothing changes.

Counted are the rows that are old enough, each once: those that would go, those that others keep alive, those
on legal hold, those that wait for statistics; and what would go, or change, with the first. A table that no
index serves is read once, some pages at a time, as is one with much that is old. All of it is one moment's
state, and read only.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from heapq import nsmallest
from typing import Any

from sqlalchemy import (
    Connection,
    FromClause,
    RowMapping,
    Select,
    Table,
    Text,
    and_,
    cast,
    exists,
    func,
    literal,
    literal_column,
    not_,
    or_,
    select,
    text,
    true,
)

from tasks.analytics import rollup_guard
from tasks.apps import after, attachments_of
from tasks.policies.columns import model_of, table_of
from tasks.policies.retention import Cascade, Reference, Restrict, Retention, SetValues, referred
from tasks.policies.sweep import Delete
from tasks.retention.safety_limit import Allowance, ApprovalRequired, allowance
from tasks.sweeps.statements import key_of, on_pages, on_these_pages
from workers.db import clock, get_engine
from workers.settings import Settings

SAMPLED = 5
#: Up to so many old rows are counted at once, if an index finds them: above, the table is read.
AT_ONCE = 10_000
#: So many pages at once otherwise: 16 MB of the table.
PAGES = 2_000
#: A row's header, and its place on the page.
_ROW_BYTES = 28
#: As long as it takes; the caller sees how far it is.
_PATIENCE = text("""
    SELECT set_config('statement_timeout', '10min', true), set_config('jit', 'off', true),
           set_config('plan_cache_mode', 'force_custom_plan', true)
""")
_EXTENT = text("""
    SELECT coalesce(max(pg_relation_size(part.relid)), pg_relation_size(CAST(:real AS regclass)))
           / current_setting('block_size')::bigint
      FROM pg_partition_tree(CAST(:real AS regclass)) AS part
     WHERE part.isleaf
""")


@dataclass(slots=True)
class Referring:
    """What refers to the rows that would go, by one key.

    Attributes:
        one: the reference, as the policy names it; `path` leads to it, through what goes too.
        rows: of `Cascade`, those that go; of `SetValues`, those that change, at most; of `Restrict`, the
            policy's own rows that are old enough and are kept.
        size: of those that go, in bytes.
    """

    one: Reference
    path: tuple[Cascade, ...]
    rows: int = 0
    size: int = 0

    @property
    def table(self) -> Table:
        """The table that refers."""
        return table_of(model_of(self.one.by))


@dataclass(slots=True)
class Preview:
    """What a run of a policy would do at a moment.

    Attributes:
        now, period: what it goes by; None for a policy without a period of its own.
        rows: how many of the policy's table would go, or change.
        size: of these, in bytes, as they lie in the table: without indexes.
        oldest, newest: what the ages of these are told by.
        samples: the keys of the oldest.
        referring: what refers to them.
        held: how many are old enough, and kept by legal holds alone.
        not_closed: how many are old enough, and wait for statistics: their buckets are not closed. Some may
            be on hold besides.
        files: how many attachments would go, each an object and its pictures; `file_bytes` as their rows say.
        allowed: how many rows a run may take; None if it may take none, and then `stopped` says why.
    """

    policy: Retention
    now: datetime
    period: timedelta | None
    rows: int = 0
    size: int = 0
    oldest: datetime | None = None
    newest: datetime | None = None
    samples: list[str] = field(default_factory=list)
    referring: list[Referring] = field(default_factory=list)
    held: int = 0
    not_closed: int = 0
    files: int = 0
    file_bytes: int = 0
    allowed: Allowance | None = None
    stopped: str | None = None

    @property
    def too_many(self) -> bool:
        """Whether a run would stop for the number of its rows."""
        return self.allowed is not None and self.allowed.approval is None and self.rows > self.allowed.rows

    @property
    def cutoff(self) -> datetime | None:
        """Before when rows are old enough, if that is the same for all."""
        return None if self.period is None else self.now - self.period


def preview(
    policy: Retention,
    settings: Settings,
    *,
    now: datetime | None = None,
    watch: Callable[[int, int], None] = lambda _page, _pages: None,
) -> Preview:
    """Count what a run of `policy` would take; changes nothing.

    Args:
        now: the moment that it would go by; the database's clock if None.
        watch: is called with how many pages were read, of how many, where the table is read.
    """
    found = Preview(policy, now or clock(), after(policy, settings))
    with reading() as connection:
        try:
            found.allowed = allowance(connection, policy, settings)
        except ApprovalRequired as reason:
            found.stopped = str(reason)
        found.referring = _references(policy)
        rolled_up = rollup_guard.ask(connection, [policy], settings, found.now)
        values = {"now": found.now, "after": found.period, **rolled_up.values}
        samples: list[tuple[datetime, str]] = []
        for statement, more in _statements(connection, policy, values, watch):
            row = connection.execute(statement, {**values, **more}).mappings().one()
            _add(found, row)
            samples += zip(row["ages"], row["keys"], strict=True)
            samples = nsmallest(SAMPLED, samples)
        found.samples = [key for _, key in samples]
    return found


@contextmanager
def reading() -> Iterator[Connection]:
    """Open a transaction that sees one moment's state and may change nothing."""
    fresh = get_engine().connect()
    options = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
    with fresh.execution_options(**options) as connection, connection.begin():
        connection.execute(_PATIENCE)
        yield connection


def _statements(
    connection: Connection,
    policy: Retention,
    values: Mapping[str, Any],
    watch: Callable[[int, int], None],
) -> Iterator[tuple[Select[Any], dict[str, Any]]]:
    """Yield what is to be asked, and with what beside the moment."""
    if policy.index_condition is not None and policy.full_pass_every is None and policy.indexed is None:
        old = select(key_of(policy.table)).where(policy.old_enough()).limit(AT_ONCE + 1)
        if (
            connection.execute(select(func.count()).select_from(old.subquery()), values).scalar_one()
            <= AT_ONCE
        ):
            yield _statement(policy, by_pages=False), {}
            return
    pages = int(connection.execute(_EXTENT, {"real": _real(connection, policy.table)}).scalar_one())
    for first in range(0, max(1, pages), PAGES):
        watch(first, pages)
        yield _statement(policy, by_pages=True), on_pages(first, first + PAGES)
    watch(pages, pages)


def _add(found: Preview, row: RowMapping) -> None:
    found.rows += row["rows"]
    found.size += row["size"]
    found.held += row["held"]
    found.not_closed += row["not_closed"]
    found.files += row["files"]
    found.file_bytes += row["file_bytes"]
    if row["rows"]:
        found.oldest = min(_aware(row["oldest"]), found.oldest or _LAST)
        found.newest = max(_aware(row["newest"]), found.newest or _FIRST)
    for number, one in enumerate(found.referring):
        counted = row[f"reference_{number}"]
        rows, size, files, file_bytes = counted if isinstance(counted, list) else (counted, 0, 0, 0)
        one.rows += rows
        one.size += size
        found.files += files
        found.file_bytes += file_bytes


_FIRST = datetime.min.replace(tzinfo=UTC)
_LAST = datetime.max.replace(tzinfo=UTC)


def _aware(moment: datetime) -> datetime:
    """Return a moment as it is told: some applications keep UTC without saying so."""
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _references(policy: Retention) -> list[Referring]:
    """Return what refers to the policy's rows, and to what goes with them: parents first."""
    found = [Referring(one, ()) for one in policy.refers]
    for path in policy.cascade_paths():
        found += [Referring(one, path) for one in path[-1].refers]
    return found


@cache
def _statement(policy: Retention, *, by_pages: bool) -> Select[Any]:
    table, key = policy.table, key_of(policy.table)
    references = _references(policy)
    stays = [_is_referred_to(one.one, table) for one in references if isinstance(one.one, Restrict)]
    due = func.coalesce(rollup_guard.due(policy), False)
    waits = not_(and_(true(), *rollup_guard.closed(policy)))
    file_bytes = _file_bytes(policy, table)
    at_first = {referred(one.one) for one in references if not one.path}
    at_first |= {referred(one.path[0]) for one in references if one.path}
    old: Any = (
        select(
            key.label("key"),
            _finite(policy.age).label("age"),
            _size(table, table).label("size"),
            due.label("due"),
            waits.label("waits"),
            (literal(0) if file_bytes is None else file_bytes).label("file_bytes"),
            *(kept.label(f"stays_{number}") for number, kept in enumerate(stays)),
            *(column.label(f"to_{column.name}") for column in at_first),
        )
        .where(policy.old_enough(), *([on_these_pages] if by_pages else []))
        .cte("old")
    )
    kept_by = iter(old.c[f"stays_{number}"] for number in range(len(stays)))
    by_others = [old.c[f"stays_{number}"] for number in range(len(stays))]
    files = literal(0) if file_bytes is None else func.count().filter(old.c.due)

    def oldest(what: Any) -> Any:
        first = select(what).where(old.c.due).order_by(old.c.age, old.c.key).limit(SAMPLED)
        return func.array(first.correlate(None).scalar_subquery())

    return select(
        func.count().filter(old.c.due).label("rows"),
        _sum(old.c.size, old.c.due).label("size"),
        func.min(old.c.age).filter(old.c.due).label("oldest"),
        func.max(old.c.age).filter(old.c.due).label("newest"),
        func.count().filter(not_(old.c.due), not_(or_(old.c.waits, *by_others))).label("held"),
        func.count().filter(old.c.waits, not_(or_(False, *by_others))).label("not_closed"),
        files.label("files"),
        _sum(old.c.file_bytes, old.c.due).label("file_bytes"),
        oldest(old.c.age).label("ages"),
        oldest(cast(old.c.key, Text)).label("keys"),
        *(
            (
                func.count().filter(next(kept_by))
                if isinstance(one.one, Restrict)
                else _referring(policy, old, one)
            ).label(f"reference_{number}")
            for number, one in enumerate(references)
        ),
    )


def _referring(policy: Retention, old: Any, what: Referring) -> Any:
    """Return the count of rows that refer to due ones; of those that go, their size and files too."""
    chain: list[Any] = [old.c.due]
    above: Any = None
    for one in (*what.path, what.one):
        column = one.by.property.columns[0]
        here = column.table.alias()
        to = referred(one)
        chain.append(here.c[column.name] == (old.c[f"to_{to.name}"] if above is None else above.c[to.name]))
        above = here
    assert above is not None
    if isinstance(what.one, SetValues):
        if above.element is policy.table:
            # Those that go themselves need no change; but only those that are counted with it are known.
            key = above.c[key_of(policy.table).name]
            chain.append(key.not_in(select(old.c.key).where(old.c.due).correlate(None)))
        return select(func.count()).where(*chain).correlate(None).scalar_subquery()
    file_bytes = _file_bytes(policy, above)
    return (
        select(
            func.json_build_array(
                func.count(),
                _sum(_size(above.element, above)),
                literal(0) if file_bytes is None else func.count(),
                literal(0) if file_bytes is None else _sum(file_bytes),
            )
        )
        .where(*chain)
        .correlate(None)
        .scalar_subquery()
    )


def _finite(age: Any) -> Any:
    """Return a moment that Python can hold: a row may be from before our era, or for ever old."""
    first = "timestamptz '0001-01-02Z'" if getattr(age.type, "timezone", True) else "timestamp '0001-01-02'"
    return func.greatest(age, literal_column(first))


def _is_referred_to(one: Restrict, table: Table) -> Any:
    column = one.by.property.columns[0]
    here = column.table.alias()
    return exists().where(here.c[column.name] == referred(one)).select_from(here).correlate(table)


def _file_bytes(policy: Retention, rows: FromClause) -> Any:
    """Return the size of an attachment's object, as its row says; None if these rows are none that go."""
    attachments = attachments_of(policy.app)
    table = getattr(rows, "element", rows)
    if (
        attachments is None
        or table is not table_of(attachments.model)
        or not isinstance(policy.action, Delete)
    ):
        return None
    return func.coalesce(rows.c[attachments.size.property.columns[0].name], 0)


def _size(table: Table, rows: FromClause) -> Any:
    """Return how much of a table a row takes, with what is stored apart, as it is stored."""
    return sum(
        (func.coalesce(func.pg_column_size(rows.c[column.name]), 0) for column in table.columns),
        literal(_ROW_BYTES),
    )


def _sum(what: Any, where: Any = None) -> Any:
    total = func.sum(what)
    return func.coalesce(total if where is None else total.filter(where), 0)


def _real(connection: Connection, table: Table) -> str:
    """Return a table's name in this database, quoted."""
    quote = connection.dialect.identifier_preparer.quote_identifier
    schemas = connection.get_execution_options().get("schema_translate_map", {})
    return f"{quote(schemas.get(table.schema, table.schema) or '')}.{quote(table.name)}"
