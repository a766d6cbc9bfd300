"""The statements of a rollup, made once for each and executed with parameters."""

from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import (
    ARRAY,
    CTE,
    ColumnElement,
    DateTime,
    Select,
    bindparam,
    delete,
    exists,
    func,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert

from tasks.policies.naive import moment_of
from tasks.policies.rollup import CLOCKS_SET, KEYS, Rollup, bucket_of

#: When the statistics of a row of ours last changed.
COMPUTED_AT = "computed_at"


@dataclass(frozen=True, slots=True, eq=False)
class Statements:
    """What a rollup does with one bucket; each with its parameters, see `tasks/policies/rollup.py`.

    Attributes:
        replace: puts what the select gives in the place of what is there: (rows written, rows taken away).
            What is the same already is not written.
        replace_keys: the same for KEYS alone; None where the rollup has no such select.
        differs: the bucket's rows that a replacement would change: for each its keys, and then each figure as
            it is there and as it is computed; `there` and `computed` say whether there is such a row at all.
        discard: removes the statistics of days after `after` that are not among `labels`; how many rows.
        earliest: the earliest moment of a row that it counts, from the year 2000 on; NULL if there is none.
    """

    replace: Select[Any]
    replace_keys: Select[Any] | None
    differs: Select[Any]
    discard: Select[Any]
    earliest: Select[Any]


@cache
def statements(rollup: Rollup) -> Statements:
    """Return the statements of a rollup."""
    keyed = rollup.keyed
    return Statements(
        replace=_replace(rollup, rollup.select, None),
        replace_keys=None
        if keyed is None
        else _replace(rollup, keyed.select, keyed.key.property.columns[0] == func.any(KEYS)),
        differs=_differs(rollup),
        discard=_discard(rollup),
        earliest=_earliest(rollup),
    )


def _names(rollup: Rollup) -> tuple[str, list[str]]:
    """Return the names of the target's bucket column, and of its other key columns."""
    return rollup.bucket.property.columns[0].name, [column.property.columns[0].name for column in rollup.key]


def _in_bucket(rollup: Rollup, only: ColumnElement[bool] | None) -> list[ColumnElement[bool]]:
    """Return which rows of the target are the bucket's."""
    bucket, _ = _names(rollup)
    this = rollup.table.c[bucket] == bucket_of(rollup.bucket).element
    return [this, *_keyed(rollup), *([] if only is None else [only])]


def _keyed(rollup: Rollup) -> list[ColumnElement[bool]]:
    """Return which rows of the target can be computed: not those without a key, whose room is gone."""
    _, keys = _names(rollup)
    target = rollup.table
    return [target.c[key].is_not(None) for key in keys if target.c[key].nullable]


def _replace(rollup: Rollup, of: Select[Any], only: ColumnElement[bool] | None) -> Select[Any]:
    target = rollup.table
    bucket, keys = _names(rollup)
    fresh = of.cte("fresh")
    # All of it is of the bucket. If that were asked for, PostgreSQL would expect one row, and compare each
    # with each: of two thousand rooms that takes a third of a second.
    same = exists().where(*(fresh.c[key] == target.c[key] for key in keys or [bucket]))
    removed = _removed(rollup, *_in_bucket(rollup, only), ~same)
    names = [*keys, bucket, *rollup.metrics]
    # In the order of the keys: another transaction that writes several of these rows waits; no deadlock.
    ordered = select(*(fresh.c[name] for name in names)).order_by(*(fresh.c[key] for key in keys))
    into = insert(target).from_select(names, ordered)
    values: dict[str, Any] = {name: into.excluded[name] for name in rollup.metrics}
    if COMPUTED_AT in target.c:
        values[COMPUTED_AT] = func.now()
    changed = or_(*(target.c[name].is_distinct_from(into.excluded[name]) for name in rollup.metrics))
    put = (
        into.on_conflict_do_update(index_elements=[*keys, bucket], set_=values, where=changed)
        .returning(literal(1).label("one"))
        .cte("put")
    )
    return select(
        select(func.count()).select_from(put).scalar_subquery(),
        select(func.count()).select_from(removed).scalar_subquery(),
    )


def _removed(rollup: Rollup, *which: ColumnElement[bool]) -> CTE:
    """Return what removes these rows of the target, or empties them where they are not ours to delete."""
    target, one = rollup.table, literal(1).label("one")
    if rollup.empty_values is None:
        return delete(target).where(*which).returning(one).cte("removed")
    zeros = {column.property.columns[0].name: value for column, value in rollup.empty_values.items()}
    other = or_(*(target.c[name].is_distinct_from(value) for name, value in zeros.items()))
    return update(target).where(*which, other).values(zeros).returning(one).cte("removed")


def _discard(rollup: Rollup) -> Select[Any]:
    bucket, _ = _names(rollup)
    column = rollup.table.c[bucket]
    last = bindparam("after", type_=column.type)
    labels = bindparam("labels", type_=ARRAY(column.type))
    return select(func.count()).select_from(
        _removed(rollup, column > last, column != func.all(labels), *_keyed(rollup))
    )


def _differs(rollup: Rollup) -> Select[Any]:
    bucket, keys = _names(rollup)
    fresh = rollup.select.cte("fresh")
    there = (
        select(*(rollup.table.c[name] for name in [*keys, bucket, *rollup.metrics]))
        .where(*_in_bucket(rollup, None))
        .cte("there")
    )
    same = [there.c[name] == fresh.c[name] for name in [*keys, bucket]]
    on = same[0] if len(same) == 1 else same[0] & same[1]
    for more in same[2:]:
        on &= more
    columns: list[ColumnElement[Any]] = []
    differ = []
    for name in rollup.metrics:
        was: ColumnElement[Any] = there.c[name]
        if rollup.empty_values is not None:
            # A row of zeros says as much as none.
            zero = {column.property.columns[0].name: value for column, value in rollup.empty_values.items()}[
                name
            ]
            differ.append(func.coalesce(was, zero).is_distinct_from(func.coalesce(fresh.c[name], zero)))
        else:
            differ.append(was.is_distinct_from(fresh.c[name]))
        columns += [was.label(f"{name}_there"), fresh.c[name].label(f"{name}_computed")]
    known = (there.c[bucket].is_not(None), fresh.c[bucket].is_not(None))
    if rollup.empty_values is None:
        differ.append(known[0].is_distinct_from(known[1]))
    return (
        select(
            *(func.coalesce(there.c[key], fresh.c[key]).label(key) for key in keys),
            known[0].label("there"),
            known[1].label("computed"),
            *columns,
        )
        .select_from(there.join(fresh, on, full=True))
        .where(or_(*differ))
        .order_by(*(func.coalesce(there.c[key], fresh.c[key]) for key in keys))
    )


def _earliest(rollup: Rollup) -> Select[Any]:
    found = []
    for feed in rollup.source_tables:
        column = feed.at[0]
        aware = getattr(column.type, "timezone", True)
        # Or a clock that was never set would have us compute decades of nothing.
        since = literal(CLOCKS_SET, DateTime(timezone=True))
        bound = since if aware else func.timezone("UTC", since)
        first = select(moment_of(column, func.min(column))).where(column >= bound).scalar_subquery()
        found.append(first if aware else func.timezone("UTC", first))
    return select(func.least(*found))


#: Counters of what was written to tables and their partitions: as long as they say the same, nothing was.
PROBE = """
    SELECT string_agg(id || ':' || pg_stat_get_tuples_inserted(id) || ':'
                      || pg_stat_get_tuples_updated(id) || ':'
                      || pg_stat_get_tuples_deleted(id), ',' ORDER BY id)
           || '/' || current_setting('track_counts')
      FROM unnest(%(tables)s::text[]) AS named
      -- Of a table that is not partitioned it gives nothing.
      LEFT JOIN LATERAL pg_partition_tree(named::regclass) AS part ON true
     CROSS JOIN LATERAL (SELECT coalesce(part.relid, named::regclass)::oid AS id) AS of_them
"""
