"""Where events and pointers stand in their conversations: what the statements on read pointers are made of.

A position is a pair (created_at, id) of a message.
"""

from typing import Any
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    CTE,
    ColumnElement,
    DateTime,
    FromClause,
    Interval,
    Uuid,
    and_,
    case,
    false,
    func,
    literal,
    literal_column,
    null,
    or_,
    select,
    tuple_,
    union_all,
)
from sqlalchemy.dialects.postgresql import aggregate_order_by, distinct_on

from tasks.delivery.batch_table import batch_table
from tasks.policies.columns import Column, table_of
from tasks.policies.naive import moment_of, stored
from tasks.policies.status import ReadPointers

#: Before every message: where a pointer stands that was never set.
_START: ColumnElement[Any] = literal_column("timestamp '-infinity'", DateTime())
#: The platform's clock, as `openchat` keeps times.
_NOW: ColumnElement[Any] = func.timezone("UTC", func.now(), type_=DateTime())
#: A time of reading that is further ahead says nothing: it was written by a wrong clock.
_LIMIT: ColumnElement[Any] = _NOW + literal_column("interval '1 day'", Interval())
#: A pointer whose message is gone stands behind all messages of its time.
_HIGHEST = literal(UUID(int=2**128 - 1), Uuid())


class Named:
    """A table, under a name of its own if need be; its columns are those of the definition."""

    def __init__(self, key: Column, name: str | None = None) -> None:
        owner: Any = key.class_
        self.table = table_of(owner)
        self.rows: FromClause = self.table.alias(name) if name else self.table

    def __call__(self, column: Column) -> ColumnElement[Any]:
        """Return the column."""
        name: str = column.property.columns[0].name
        return self.rows.c[name]


def places(table: ReadPointers) -> CTE:
    """Return a row for each given event of message and participant, and where the pointer stands as yet.

    `at`, `id` is the position of the message, `old_at`, `old_id` that of the pointer. `before` is when the
    participant has read last so far, as far as it is known. Nothing of what is given was read before it was
    sent, unless its own time is that of a wrong clock.
    """
    events = batch_table(
        message=Uuid(),
        participant=Uuid(),
        reached_at=DateTime(),
        read_at=DateTime(),
        last_read_at=DateTime(),
    )
    message, reader = Named(table.message, "message"), Named(table.participant, "reader")
    pointed = Named(table.message, "pointed")
    old_at, old_id = standing_at(table, reader, pointed)
    before, place = reader(table.last_read_at), message(table.created_at)
    sent_at = moment_of(table.created_at, place)
    tables = (
        events.join(message.rows, message(table.message) == events.c.message)
        .join(reader.rows, reader(table.participant) == events.c.participant)
        .outerjoin(pointed.rows, points_at(table, reader, pointed))
    )
    return (
        select(
            events.c.participant,
            events.c.reached_at,
            events.c.read_at,
            func.greatest(events.c.last_read_at, case((sent_at <= _LIMIT, sent_at)), type_=DateTime()).label(
                "last_read_at"
            ),
            place.label("at"),
            message(table.message).label("id"),
            message(table.sender).label("sender"),
            reader(table.member_of).label("conversation"),
            reader(table.user).label("user"),
            waited_for(table, reader).label("waited_for"),
            reader(table.pointer).label("pointer"),
            case((before <= _LIMIT, before)).label("before"),
            and_(
                reader(table.pointer).is_not(None),
                reader(table.last_read_at).is_not(None),
                pointed(table.message).is_(None),
            ).label("dangling"),
            old_at.label("old_at"),
            old_id.label("old_id"),
        )
        .select_from(tables)
        .cte("places")
    )


def spans(place: CTE) -> CTE:
    """Return what was read, as spans of messages that do not overlap for one participant.

    Each goes from after (`low_at`, `low_id`) to (`at`, `id`) and was first read at `read_at`: who reads
    a message has read all before it. At or below the old pointer everything was read by `before`, so that
    only an earlier reading matters there.
    """
    columns = [
        place.c[name]
        for name in ("participant", "conversation", "user", "before", "dangling", "old_at", "old_id")
    ]
    read = place.c.read_at.is_not(None)
    # A pointer whose message is gone may stand behind messages that nothing has passed. Once it is set
    # anew that could not be told any more, so it is taken now for what it says: all was read by then.
    readings = union_all(
        select(*columns, place.c.at, place.c.id, place.c.read_at).where(read),
        select(*columns, place.c.old_at, place.c.old_id, func.least(place.c.before, _NOW)).where(
            read, place.c.dangling
        ),
    ).subquery("readings")
    falling: dict[str, Any] = {
        "partition_by": readings.c.participant,
        "order_by": [readings.c.at.desc(), readings.c.id.desc()],
    }
    steps = select(
        *(readings.c[name.name] for name in columns[1:]),
        readings.c.at,
        readings.c.id,
        func.min(readings.c.read_at).over(**falling).label("read_at"),
        func.lead(readings.c.at).over(**falling).label("next_at"),
        func.lead(readings.c.id).over(**falling).label("next_id"),
    ).subquery("steps")
    step = steps.c
    whole = or_(
        step.dangling,
        step.before.is_(None),
        step.read_at < step.before,
        tuple_(step.next_at, step.next_id) > tuple_(step.old_at, step.old_id),
    )
    low_at = case((whole, func.coalesce(step.next_at, _START)), else_=step.old_at)
    low_id = case((whole, func.coalesce(step.next_id, _HIGHEST)), else_=step.old_id)
    return (
        select(*step, low_at.label("low_at"), low_id.label("low_id"))
        .where(tuple_(low_at, low_id) < tuple_(step.at, step.id))
        .cte("spans")
    )


def lowest(table: ReadPointers, place: CTE) -> CTE:
    """Return, for each conversation where something was read, how far all have come who are waited for.

    (`first_at`, `first_id`) is the lowest pointer as it will be, `first` whose it is; (`second_at`,
    `second_id`) is the lowest of the others, NULL where there are none.
    """
    reader, pointed = Named(table.participant, "waited_for"), Named(table.message, "pointed")
    rooms = select(place.c.conversation).where(place.c.read_at.is_not(None)).distinct().subquery("rooms")
    stored = (
        select(
            reader(table.participant).label("participant"),
            reader(table.member_of).label("conversation"),
            reader(table.user).label("user"),
            *(
                part.label(name)
                for part, name in zip(standing_at(table, reader, pointed), ("at", "id"), strict=True)
            ),
        )
        .select_from(
            rooms.join(reader.rows, reader(table.member_of) == rooms.c.conversation).outerjoin(
                pointed.rows, points_at(table, reader, pointed)
            )
        )
        .where(waited_for(table, reader))
    )
    moved = select(place.c.participant, place.c.conversation, place.c.user, place.c.at, place.c.id).where(
        place.c.read_at.is_not(None), place.c.waited_for
    )
    both = union_all(stored, moved).subquery("both")
    furthest = (
        select(both)
        .ext(distinct_on(both.c.participant))
        .order_by(both.c.participant, both.c.at.desc(), both.c.id.desc())
        .subquery("furthest")
    )

    return (
        select(furthest.c.conversation, *two_lowest(furthest)).group_by(furthest.c.conversation).cte("lowest")
    )


def two_lowest(pointers: FromClause) -> list[ColumnElement[Any]]:
    """Return the columns of `lowest`, aggregates over rows of `user`, `at` and `id`."""

    def ranked(name: str) -> ColumnElement[Any]:
        value = pointers.c[name]
        order: Any = aggregate_order_by(value, pointers.c.at, pointers.c.id, pointers.c.user)
        return func.array_agg(order, type_=ARRAY(value.type))

    return [
        ranked("user")[1].label("first"),
        ranked("at")[1].label("first_at"),
        ranked("id")[1].label("first_id"),
        ranked("at")[2].label("second_at"),
        ranked("id")[2].label("second_id"),
    ]


def read_by_all(lowest: FromClause, at: Any, id_: Any, sender: Any) -> ColumnElement[bool]:
    """Return whether all who are waited for, but its sender, have read a message; not if there are none."""
    others = lowest.c.first != sender
    limits = (
        case((others, lowest.c[f"first_{part}"]), else_=lowest.c[f"second_{part}"]) for part in ("at", "id")
    )
    return func.coalesce(tuple_(at, id_) <= tuple_(*limits), false())


def waited_for(table: ReadPointers, reader: Named) -> ColumnElement[bool]:
    """Return whether messages wait for a participant before all have read them.

    They do not wait for those who are gone: not active, or left since they joined, or whose user is deleted.
    Any one of the three may be all that the application writes.
    """
    left, user = reader(table.left_at), Named(table.user_id, "account")
    # Not EXISTS: that might become a join with all users.
    deleted = select(user(table.user_deleted)).where(user(table.user_id) == reader(table.user))
    return and_(
        reader(table.member_status) == "active",
        or_(left.is_(None), left < reader(table.joined_at)),
        deleted.correlate(reader.rows).scalar_subquery().is_not(True),
    )


def points_at(table: ReadPointers, reader: Named, pointed: Named) -> ColumnElement[bool]:
    """Return the condition that joins a participant to the message that their pointer names."""
    return and_(
        pointed(table.message) == reader(table.pointer),
        pointed(table.conversation) == reader(table.member_of),
    )


def standing_at(
    table: ReadPointers, reader: Named, pointed: Named
) -> tuple[ColumnElement[Any], ColumnElement[Any]]:
    """Return where a participant's pointer stands: at its message, or at its time if that is gone.

    A time ahead of the clock stands at the present: nothing that is yet to be written has been read.
    """
    read_at = reader(table.last_read_at)
    known = and_(reader(table.pointer).is_not(None), read_at.is_not(None))
    at = stored(table.created_at, func.least(read_at, _NOW, type_=DateTime()))
    without_message = case((known, at), else_=null())
    return (
        func.coalesce(pointed(table.created_at), without_message, _START),
        func.coalesce(pointed(table.message), _HIGHEST),
    )
