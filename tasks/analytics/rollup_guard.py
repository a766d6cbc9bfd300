"""No row leaves before the buckets that need it are closed; what has left freezes them.

What a policy says is due is taken when all of it that rollups count lies in closed buckets: each moment of
each row (`SourceTable.at`), of those that go along with it too, before the watermark, and not before what is
covered: that was never counted, and waits for a backfill. How far the rollups have come is asked once, when
a run begins; since then they have only gone on.

With the rows `roomkeeper.rollups.frozen_to` moves on to the latest of their moments, in one transaction: what
could be computed of these buckets from then on would be less. A run that computes holds the rollup's row,
and has read `frozen_to`; so a batch that moves it waits, at its end, until that run is done. Where it need
not move, the batch does not wait: every run has seen it.

A policy may keep facts of rows that go before their buckets are final (`Retention.facts`), in the same
transaction. Rollups count facts as they count rows, so such a row freezes nothing. A sweep deletes the facts
after a while, as rows that rollups count: then their buckets freeze.

- A bucket is closed for the zone and the definition that it was computed with: for another zone that is set,
  or another definition, a rollup has closed nothing.
- A rollup that has never run has closed nothing. One that is off keeps nothing; but what leaves meanwhile
  freezes buckets all the same, up to now.
- NULL and infinite times are in no bucket. Nor are those before 2000, unless they are covered: they say that
  a clock was never set, and decades of empty buckets are not computed for them.
- A time to come is in a bucket to come: such a row stays until that is closed.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Connection,
    DateTime,
    Table,
    and_,
    bindparam,
    case,
    delete,
    exists,
    func,
    literal,
    or_,
    select,
    text,
    update,
)

from models.analytics import PernFact, RollupState
from models.platform import AttachmentJob as Job
from tasks.apps import POLICIES, ROLLUPS, after, attachments_of, rollups, zone
from tasks.policies.columns import model_of, table_of
from tasks.policies.naive import moment_held, moment_of
from tasks.policies.retention import FACTS_BATCH, FACTS_FROM, GOING, Retention, referred
from tasks.policies.rollup import CLOCKS_SET, Rollup
from tasks.policies.sweep import Delete, Sweep
from workers.settings import Settings

if TYPE_CHECKING:
    import pyarrow as pa

#: How long a batch waits for a rollup that computes: it holds rows meanwhile.
FREEZE_PATIENCE_MS = 3_000
_NEVER, _ALWAYS = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
#: A finite time of our era, of which there is no doubt which of two texts is the later one.
_FINITE = r"^\d{4}-[^B]*$"
_state = table_of(RollupState)
_LATEST = bindparam("latest", type_=DateTime(timezone=True))
_FREEZE = (
    update(_state)
    .values(frozen_to=_LATEST)
    .where(
        _state.c.name == bindparam("rollup"), or_(_state.c.frozen_to.is_(None), _state.c.frozen_to < _LATEST)
    )
    .returning(_state.c.watermark)
)
_PATIENCE = text(f"SELECT set_config('lock_timeout', '{FREEZE_PATIENCE_MS}', true)")


class NotClosedError(Exception):
    """A row has come to count in a bucket that is not closed, since it was found due."""


@dataclass(frozen=True, slots=True)
class Closed:
    """How far the rollups have come that count what some policies take, when it was asked.

    Attributes:
        on: those that run.
        values: the parameters of `due`, and of `moments`.
    """

    on: frozenset[str] = frozenset()
    values: Mapping[str, datetime] = field(default_factory=dict)


#: The latest moment of rows that were taken, by the name of a rollup that counts them.
Latest = dict[str, datetime]


@dataclass(frozen=True, slots=True, eq=False)
class _Counted:
    """Rows that a policy takes and rollups count.

    Attributes:
        joined: how they belong to a row of the policy's; None if they are such rows.
        by: the rollups, each with their moments.
    """

    joined: tuple[ColumnElement[bool], ...] | None
    by: tuple[tuple[Rollup, tuple[Any, ...]], ...]


def due(policy: Sweep) -> ColumnElement[bool]:
    """Return which rows a policy takes: those that it says are due, if their buckets are closed."""
    return and_(policy.due, *closed(policy))


@cache
def closed(policy: Sweep) -> tuple[ColumnElement[bool], ...]:
    """Return what must be true of a row of the policy's before it goes; nothing if no rollup counts it."""
    conditions: list[ColumnElement[bool]] = []
    for one in _counted(policy):
        waits = or_(*(_open(rollup, at) for rollup, moments in one.by for at in moments))
        conditions.append(waits.is_not(True) if one.joined is None else ~exists().where(*one.joined, waits))
    return tuple(conditions)


def counting(policy: Sweep) -> list[Rollup]:
    """Return the rollups that count rows which the policy takes."""
    return list({rollup.name: rollup for one in _counted(policy) for rollup, _ in one.by}.values())


def ask(
    connection: Connection, policies: Iterable[Sweep], settings: Settings, now: datetime | None = None
) -> Closed:
    """Return how far the rollups have come that count what these policies take.

    Args:
        now: up to when buckets of a rollup that is off are frozen; the database's clock if None.
    """
    policies = list(policies)
    names = sorted({one.name for policy in policies for one in counting(policy)})
    if not names:
        return Closed()
    asked = select(
        _state.c.name,
        _state.c.watermark,
        _state.c.covered_from,
        _state.c.frozen_to,
        _state.c.zone,
        _state.c.definition,
    )
    found = {row.name: row for row in connection.execute(asked.where(_state.c.name.in_(names)))}
    on = frozenset(rollups(settings)) & set(names)
    moment = now or connection.execute(select(func.now())).scalar_one()
    kept = _facts_kept(policies, settings)
    values: dict[str, datetime] = {}
    for name in names:
        row, runs = found.get(name), name in on
        rollup = ROLLUPS[name]
        counts = row is not None and (row.zone, row.definition) == (zone(rollup, settings), rollup.definition)
        ends = (row.watermark if row is not None and counts else _NEVER) if runs else _ALWAYS
        begins = row.covered_from if row is not None and runs else _NEVER
        values |= {_key("closed", name): ends, _key("covered", name): begins}
        values[_key("known", name)] = _ALWAYS if runs else moment
        if name in kept:
            # A rollup that is off counts no facts: none are kept, and what goes freezes its buckets.
            frozen_to = (row.frozen_to if row is not None else None) or _NEVER
            values[_key("facts", name)] = max(moment - kept[name], frozen_to) if runs else _ALWAYS
    return Closed(on, values)


def _facts_kept(policies: Iterable[Sweep], settings: Settings) -> dict[str, timedelta]:
    """Return for how long facts of rows that the policies take are kept, by the rollup that counts them."""
    found: dict[str, timedelta] = {}
    for policy in policies:
        for model, statement in policy.facts.items() if isinstance(policy, Retention) else ():
            (sweep,) = (one for one in POLICIES.values() if one.table is statement.table)
            period = after(sweep, settings)
            assert period is not None
            found |= {rollup.name: period for rollup, _ in _feeds(table_of(model))}
    return found


def keep_facts(
    connection: Connection, policy: Retention, table: Table, keys: Sequence[Any], closed: Closed, batch: UUID
) -> None:
    """Keep the facts of a table's rows, in the transaction that deletes them, before it does.

    Args:
        batch: what the facts are found by if the rows are restored.
    """
    for model, statement in policy.facts.items():
        if table_of(model) is table and keys:
            since = min(closed.values[_key("facts", one.name)] for one, _ in _feeds(table))
            values = {GOING.key: list(keys), FACTS_FROM.key: since, FACTS_BATCH.key: batch}
            connection.execute(statement, values)


def forget_facts(connection: Connection, batch: UUID) -> None:
    """Remove the facts of rows that are restored: these count themselves again.

    Facts of jobs stay. A job is not restored; its file gets a new one, which counts on another day.
    """
    connection.execute(delete(PernFact).where(PernFact.batch == batch))


def moments(table: Table) -> list[tuple[str, ColumnElement[Any]]]:
    """Return a row's moments that freeze buckets, each with the rollup's name; NULL where it does not."""
    return [
        (one.name, _freezing(one, column.property.columns[0])) for one, at in _feeds(table) for column in at
    ]


def latest_of(
    table: Table, rows: "pa.Table", closed: Closed, policy: Retention, until: Sequence[str | None] = ()
) -> Latest:
    """Return the latest moments among rows that were deleted, as texts of PostgreSQL's.

    Args:
        until: what the policy says of its own rows, see `Retention.until`.
    """
    import pyarrow as pa

    latest: Latest = {}
    values = _known(table, closed, policy)
    for one, at in _feeds(table):
        names = [column.property.columns[0].name for column in at]
        own = policy.until is not None and table is policy.table
        known = values[_key("known", one.name)]
        for name in names[:-1] if own else names:
            held = _latest(rows[name], known)
            _add(latest, one.name, held and moment_held(table.c[name], held))
        if own:
            _add(latest, one.name, _latest(pa.chunked_array([pa.array(until, pa.string())]), known))
    return latest


def latest_in(
    connection: Connection, table: Table, closed: Closed, policy: Retention | None, *which: Any
) -> Latest:
    """Return the latest moments among rows that are there still.

    Args:
        policy: the one that has kept their facts, if it keeps any; None if it has not.
    """
    asked = moments(table)
    if not asked:
        return {}
    values = closed.values if policy is None else _known(table, closed, policy)
    found = connection.execute(
        select(*(func.max(one) for _, one in asked)).select_from(table).where(*which), values
    )
    return merged([name for name, _ in asked], [found.one()])


def _known(table: Table, closed: Closed, policy: Retention) -> Mapping[str, datetime]:
    """Return the parameters of `moments`; moments of which the policy has kept facts freeze nothing."""
    values = dict(closed.values)
    if any(table_of(model) is table for model in policy.facts):
        for one, _ in _feeds(table):
            known = _key("known", one.name)
            values[known] = min(values[known], values[_key("facts", one.name)])
    return values


def merged(names: Sequence[str], rows: Iterable[Sequence[datetime | None]]) -> Latest:
    """Return the latest of moments that were returned, each column a rollup's."""
    latest: Latest = {}
    for row in rows:
        for name, moment in zip(names, row, strict=True):
            _add(latest, name, moment)
    return latest


def freeze(connection: Connection, closed: Closed, *taken: Latest) -> None:
    """Freeze the buckets of rows that were taken, in their transaction.

    Raises:
        NotClosedError: something of them is in a bucket that is not closed: they must not go.
        sqlalchemy.exc.DBAPIError: a rollup computes for longer than one waits.
    """
    latest: Latest = {}
    for one in taken:
        for name, moment in one.items():
            _add(latest, name, moment)
    if latest:
        connection.execute(_PATIENCE)
    # In one order, as everybody.
    for name in sorted(latest):
        moved = connection.execute(_FREEZE, {"rollup": name, "latest": latest[name]}).one_or_none()
        if moved is not None and name in closed.on and moved.watermark <= latest[name]:
            raise NotClosedError(f"something of it counts in a bucket of {name} that is not closed")


# -- what counts ----------------------------------------------------------------------------------------


@cache
def _feeds(table: Table) -> tuple[tuple[Rollup, tuple[Any, ...]], ...]:
    """Return the rollups that count a table's rows, with their moments."""
    return tuple(
        (one, feed.at) for one in ROLLUPS.values() for feed in one.source_tables if feed.table is table
    )


@cache
def _counted(policy: Sweep) -> tuple[_Counted, ...]:
    found = []
    for table, joined in _taken(policy):
        by = _feeds(table)
        if joined is None and isinstance(policy, Retention) and policy.until is not None:
            by = tuple((rollup, (*at[:-1], policy.until)) for rollup, at in by)
        if by:
            found.append(_Counted(joined, by))
    return tuple(found)


def _taken(policy: Sweep) -> Iterator[tuple[Table, tuple[ColumnElement[bool], ...] | None]]:
    """Yield the tables whose rows a policy takes, and how these belong to its own."""
    if isinstance(policy.action, Delete):
        yield policy.table, None
    if not isinstance(policy, Retention):
        return
    for path in policy.cascade_paths():
        yield table_of(model_of(path[-1].by)), tuple(one.by == referred(one) for one in path)
    attachments = attachments_of(policy.app)
    path_there = policy.path_to(table_of(attachments.model)) if attachments is not None else None
    if attachments is not None and path_there is not None:
        # Its job goes with an attachment (`tasks/retention/pending_deletions.py`).
        there = (one.by == referred(one) for one in path_there)
        yield table_of(Job), (*there, Job.app == policy.app, Job.attachment_id == attachments.id)


# -- moments --------------------------------------------------------------------------------------------


def _key(what: str, rollup: str) -> str:
    return f"{what}_{rollup.replace('.', '_')}"


def _aware(at: Any) -> bool:
    return bool(getattr(at.type, "timezone", True))


def _given(what: str, rollup: str, at: Any) -> ColumnElement[Any]:
    """Return a parameter as a moment of the column's kind: `openchat` keeps UTC without saying so."""
    given: ColumnElement[Any] = bindparam(_key(what, rollup), type_=DateTime(timezone=True))
    return given if _aware(at) else func.timezone("UTC", given, type_=DateTime())


def _fixed(moment: datetime, at: Any) -> ColumnElement[Any]:
    aware = _aware(at)
    return literal(moment if aware else moment.replace(tzinfo=None), DateTime(timezone=aware))


def _open(rollup: Rollup, at: Any) -> ColumnElement[bool]:
    """Return whether a moment is in a bucket that is not closed, or was never computed; NULL is in none."""
    at = moment_of(at)
    never = and_(at >= _fixed(CLOCKS_SET, at), at < _given("covered", rollup.name, at))
    return and_(func.isfinite(at), or_(at >= _given("closed", rollup.name, at), never))


def _freezing(rollup: Rollup, at: Any) -> ColumnElement[Any]:
    """Return a moment, if it freezes a bucket: those that Python cannot hold are in none."""
    at = moment_of(at)
    here = and_(at > _fixed(_NEVER, at), at < _given("known", rollup.name, at))
    return case((here, at))


def _add(latest: Latest, name: str, moment: datetime | None) -> None:
    if moment is not None:
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        latest[name] = max(moment, latest.get(name, moment))


def _latest(texts: "pa.ChunkedArray", known: datetime) -> datetime | None:
    from pyarrow import compute

    finite = texts.filter(compute.match_substring_regex(texts, _FINITE))
    if known != _ALWAYS:
        finite = finite.filter(compute.less(finite, _text(known)))
    found = compute.max(finite).as_py()
    return None if found is None else datetime.fromisoformat(found)


def _text(moment: datetime) -> str:
    """Return a moment as PostgreSQL prints it, so that texts are in the order of their moments."""
    utc = moment.astimezone(UTC)
    fraction = f".{utc.microsecond:06}".rstrip("0").rstrip(".")
    return f"{utc.replace(microsecond=0, tzinfo=None).isoformat(' ')}{fraction}+00"
