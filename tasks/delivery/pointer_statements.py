"""The statements that merge events into read pointers, made once for each application."""

from functools import cache
from typing import Any

from sqlalchemy import (
    ARRAY,
    Select,
    Update,
    Uuid,
    and_,
    case,
    false,
    func,
    literal_column,
    or_,
    select,
    true,
    tuple_,
    union_all,
    update,
)
from sqlalchemy.dialects.postgresql import distinct_on

from tasks.delivery.batch_table import batch_table, not_before, unpacked
from tasks.delivery.positions import Named, lowest, places, read_by_all, spans
from tasks.policies.naive import moment_of
from tasks.policies.status import ReadPointers


@cache
def found(table: ReadPointers) -> Select[Any]:
    """Return the query for those of the given pairs (`message`, `user`) that can be recorded."""
    pairs = batch_table(message=Uuid(), user=Uuid())
    message, reader = Named(table.message, "message"), Named(table.participant, "reader")
    # The first one at or behind the place where it has to be, in the order of the unique index: else the
    # planner, which assumes uniform conversation sizes, reads every participant of a large one.
    key = [reader(column) for column in (table.member_of, table.user)]
    nearest = (
        select(
            reader(table.participant).label("participant"),
            reader(table.member_of).label("conversation"),
            reader(table.user).label("user"),
        )
        .where(tuple_(*key) >= tuple_(message(table.conversation), pairs.c.user))
        .order_by(*key)
        .limit(literal_column("1"))
        .lateral("nearest")
    )
    pair = nearest.c
    return (
        select(pairs.c.message, pairs.c.user, pair.participant, pair.conversation)
        .select_from(
            pairs.join(message.rows, message(table.message) == pairs.c.message).join(nearest, true())
        )
        .where(pair.conversation == message(table.conversation), pair.user == pairs.c.user)
    )


@cache
def readers_locked(table: ReadPointers) -> Select[Any]:
    """Return the statement that locks the given participants, in the order of their ids."""
    readers, reader = batch_table(participant=Uuid()), Named(table.participant, "reader")
    key = reader(table.participant)
    return (
        select(key)
        .select_from(readers.join(reader.rows, key == readers.c.participant))
        .order_by(key)
        .with_for_update(key_share=True, of=reader.rows)
    )


@cache
def messages_changed(table: ReadPointers) -> Update:
    """Return the statement that changes the messages which the given events have reached.

    It locks them first, in the order of their ids, and leaves alone those that would stay as they are.
    """
    changes = _reached(table).cte("changes")
    # Through arrays once more, for the planner's sake.
    packed = select(
        *(func.array_agg(column, type_=ARRAY(column.type)).label(column.name) for column in changes.c)
    ).cte("packed")
    change = unpacked(
        {column.name: column.type for column in changes.c},
        [select(column).scalar_subquery() for column in packed.c],
    )
    message = Named(table.message, "message")
    locked = (
        select(*change.c)
        .select_from(change.join(message.rows, message(table.message) == change.c.id))
        .where(
            or_(
                change.c.passed > 0,
                message(table.delivered_at).is_(None),
                message(table.delivered_at) > change.c.at,
                message(table.status) == "sent",
                and_(message(table.status) == "delivered", change.c.by_all),
            )
        )
        .order_by(message(table.message))
        .with_for_update(key_share=True, of=message.rows)
        .cte("locked")
    )
    # From the row as it is when it is written: its application may have changed it just before.
    row, now = Named(table.message), locked.c
    status, count = row(table.status), row(table.read_by_count)
    return (
        update(row.table)
        .where(row(table.message) == now.id)
        .values(
            {
                status: case(
                    (and_(status.in_(["sent", "delivered"]), now.by_all), "read"),
                    (status == "sent", "delivered"),
                    else_=status,
                ),
                row(table.delivered_at): func.least(row(table.delivered_at), now.at),
                count: case((now.passed > 0, func.coalesce(count, 0) + now.passed), else_=count),
            }
        )
    )


@cache
def pointers_moved(table: ReadPointers) -> Update:
    """Return the statement that moves the pointers of those who have read, and counts what is left."""
    place = places(table)
    furthest = (
        select(place, func.max(place.c.last_read_at).over(partition_by=place.c.participant).label("last"))
        .where(place.c.read_at.is_not(None))
        .ext(distinct_on(place.c.participant))
        .order_by(place.c.participant, place.c.at.desc(), place.c.id.desc())
        .subquery("furthest")
    )
    latest, message = furthest.c, Named(table.message, "message")
    here = message(table.conversation) == latest.conversation
    position = tuple_(message(table.created_at), message(table.message))
    old, read = tuple_(latest.old_at, latest.old_id), tuple_(latest.at, latest.id)
    # Where a message is gone its pointer goes to the one before: else it would move with `last_read_at`.
    before = (
        select(message(table.message))
        .where(here, position <= old)
        .order_by(message(table.created_at).desc(), message(table.message).desc())
        .limit(literal_column("1"))
        .correlate(furthest)
        .scalar_subquery()
    )
    at, id_ = (case((read > old, latest[part]), else_=latest[f"old_{part}"]) for part in ("at", "id"))
    unread = (
        select(func.count())
        .select_from(message.rows)
        .where(
            here,
            position > tuple_(at, id_),
            message(table.sender) != latest.user,
            message(table.deleted).is_not(True),
        )
        .correlate(furthest)
        .scalar_subquery()
    )
    moved = (
        select(
            latest.participant,
            case((read > old, latest.id), (latest.dangling, before), else_=latest.pointer).label("pointer"),
            func.greatest(latest.before, latest.last).label("last_read_at"),
            unread.label("unread"),
        )
        .cte("moved")
        .prefix_with("MATERIALIZED")
    )
    reader = Named(table.participant)
    new = {
        reader(table.pointer): moved.c.pointer,
        reader(table.last_read_at): moved.c.last_read_at,
        reader(table.unread_count): moved.c.unread,
    }
    return (
        update(reader.table)
        .where(
            reader(table.participant) == moved.c.participant,
            or_(*(column.is_distinct_from(value) for column, value in new.items())),
        )
        .values(new)
    )


def _reached(table: ReadPointers) -> Select[Any]:
    """Return a row for each message that the given events may change.

    `passed` is how many have newly read it, `at` when it first reached a reader, and `by_all` whether all
    who are waited for have read it now: that is asked only where there is a new reader.
    """
    place = places(table)
    span, least = spans(place), lowest(table, place)

    message = Named(table.message, "message")
    at, id_ = message(table.created_at), message(table.message)
    # Each by itself: one with a later time may have been read before it, by the clocks that there are.
    read_at = not_before(span.c.read_at, moment_of(table.created_at, at))
    passed = tuple_(at, id_) > tuple_(span.c.old_at, span.c.old_id)
    within = (
        select(
            id_.label("id"),
            read_at.label("read_at"),
            passed.label("passed"),
            and_(passed, read_by_all(least, at, id_, message(table.sender))).label("by_all"),
        )
        .where(
            message(table.conversation) == span.c.conversation,
            tuple_(at, id_) > tuple_(span.c.low_at, span.c.low_id),
            tuple_(at, id_) <= tuple_(span.c.at, span.c.id),
            message(table.sender) != span.c.user,
            or_(
                passed,
                message(table.delivered_at).is_(None),
                message(table.delivered_at) > read_at,
            ),
        )
        .lateral("within")
    )
    hits = union_all(
        select(within.c.id, within.c.passed, within.c.read_at.label("at"), within.c.by_all).select_from(
            span.outerjoin(least, least.c.conversation == span.c.conversation).join(within, true())
        ),
        select(
            place.c.id,
            false(),
            not_before(place.c.reached_at, moment_of(table.created_at, place.c.at)),
            and_(place.c.read_at.is_not(None), read_by_all(least, place.c.at, place.c.id, place.c.sender)),
        )
        .select_from(place.outerjoin(least, least.c.conversation == place.c.conversation))
        .where(place.c.sender != place.c.user),
    ).subquery("hits")
    return select(
        hits.c.id,
        func.count().filter(hits.c.passed).label("passed"),
        func.min(hits.c.at).label("at"),
        func.bool_or(hits.c.by_all).label("by_all"),
    ).group_by(hits.c.id)
