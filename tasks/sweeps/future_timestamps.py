"""Signs of life with a time in the future: each counts as of when it was first seen.

An API service whose clock is ahead writes times that are yet to come. A row with such a time is noted when it
would be due without it, and is due once it has been noted with the same time for the policy's period. A later
sign has another time, so a user who goes on to give signs is there, however wrong their clock is.
"""

from datetime import timedelta
from typing import Any

from sqlalchemy import (
    ARRAY,
    Column,
    ColumnElement,
    Executable,
    Interval,
    and_,
    bindparam,
    delete,
    func,
    literal,
    or_,
    select,
)
from sqlalchemy.dialects.postgresql import insert

from models.platform import FutureTimestamp
from tasks.policies.columns import table_of
from tasks.policies.sweep import AFTER, NOW, Sweep

#: A note is kept for this long after the sweep could have taken its row, twice over.
_MARGIN = timedelta(hours=1)

_NOTES = table_of(FutureTimestamp)
_SPARE = bindparam("spare", type_=Interval())


def settled(policy: Sweep, due: ColumnElement[bool]) -> ColumnElement[bool]:
    """Return `due`, of rows whose time ahead, if they have one, has been noted for long enough."""
    if policy.ahead is None:
        return due
    return and_(due, or_(policy.ahead.is_(None), policy.ahead == _noted(policy)))


def none(policy: Sweep, due: ColumnElement[bool]) -> ColumnElement[bool]:
    """Return `due`, of rows without a time ahead."""
    return due if policy.ahead is None else and_(due, policy.ahead.is_(None))


def waits(policy: Sweep) -> ColumnElement[bool]:
    """Return whether a row has a time ahead that has not been noted for long enough."""
    assert policy.ahead is not None
    return and_(policy.ahead.is_not(None), func.coalesce(policy.ahead != _noted(policy), True))


def note(policy: Sweep) -> Executable | None:
    """Return the statement that notes given rows (`keys`) with their times ahead; None if there are none.

    What was noted with the same time stays as it is.
    """
    if policy.ahead is None:
        return None
    key = _key(policy)
    keys = bindparam("keys", type_=ARRAY(key.type))
    # Without the note a row would wait for its period once more: it is kept until it surely was taken.
    expires = NOW + AFTER + AFTER + _SPARE
    times = select(literal(policy.name), key, policy.ahead, NOW, expires).where(
        key == func.any(keys), policy.ahead.is_not(None)
    )
    statement = insert(_NOTES).from_select(["policy", "key", "at", "seen_at", "expires_at"], times)
    new = statement.excluded
    return statement.on_conflict_do_update(
        index_elements=[_NOTES.c.policy, _NOTES.c.key],
        set_={"at": new.at, "seen_at": new.seen_at, "expires_at": new.expires_at},
        where=new.at != _NOTES.c.at,
    )


def spare(looked_at: timedelta) -> dict[str, timedelta]:
    """Return the further parameter of `note`, for a policy that looks at each row once in that time."""
    return {"spare": 2 * looked_at + _MARGIN}


def forget(policy: Sweep) -> Executable | None:
    """Return the statement that deletes the notes of given rows (`keys`); None if there are none."""
    if policy.ahead is None:
        return None
    keys = bindparam("keys", type_=ARRAY(_key(policy).type))
    return delete(_NOTES).where(_NOTES.c.policy == policy.name, _NOTES.c.key == func.any(keys))


def _noted(policy: Sweep) -> ColumnElement[Any]:
    """Return the time that a row was noted with, long enough ago."""
    return (
        select(_NOTES.c.at)
        .where(_NOTES.c.policy == policy.name, _NOTES.c.key == _key(policy), _NOTES.c.seen_at < NOW - AFTER)
        .correlate(policy.table)
        .scalar_subquery()
    )


def _key(policy: Sweep) -> "Column[Any]":
    (key,) = policy.table.primary_key.columns
    return key
