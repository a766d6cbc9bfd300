"""What the counters of a conversation must say, told from its rows; and the statements that make them say it.

`read_by_count` of a message is the number of participants, but its sender, whose pointer is at or behind it;
`unread_count` of a participant the number of others' messages behind their pointer, without deleted ones. A
conversation counts messages that are not deleted and participants who are active. No value counts as 0.
"""

from functools import cache
from typing import Any

from sqlalchemy import (
    CTE,
    Update,
    Uuid,
    and_,
    bindparam,
    case,
    func,
    literal,
    null,
    select,
    tuple_,
    union_all,
    update,
)

from tasks.delivery.positions import Named, points_at, standing_at
from tasks.policies.status import ReadPointers

_ONE = bindparam("conversation", type_=Uuid())


def _pointers(table: ReadPointers) -> CTE:
    """Return where each participant's pointer stands."""
    reader, pointed = Named(table.participant, "reader"), Named(table.message, "pointed")
    at, its_id = standing_at(table, reader, pointed)
    return (
        select(
            reader(table.participant).label("participant"),
            reader(table.user).label("user"),
            at.label("at"),
            its_id.label("id"),
        )
        .select_from(reader.rows.outerjoin(pointed.rows, points_at(table, reader, pointed)))
        .where(reader(table.member_of) == _ONE)
        .cte("pointers")
    )


@cache
def read_by(table: ReadPointers) -> Update:
    """Return the statement that corrects `read_by_count` in one conversation."""
    pointers, message = _pointers(table), Named(table.message, "message")
    place = message(table.created_at), message(table.message)
    marks = union_all(
        select(
            message(table.message).label("message"),
            message(table.sender).label("sender"),
            place[0].label("at"),
            place[1].label("id"),
            literal(0).label("pointer"),
        ).where(message(table.conversation) == _ONE),
        select(null(), null(), pointers.c.at, pointers.c.id, literal(1)),
    ).subquery("marks")
    # From the latest on; a pointer comes before the message that it is at.
    order: Any = [marks.c.at.desc(), marks.c.id.desc(), marks.c.pointer.desc()]
    passed = select(
        *marks.c, func.sum(marks.c.pointer).over(order_by=order, rows=(None, 0)).label("readers")
    ).subquery("passed")
    own = tuple_(pointers.c.at, pointers.c.id) >= tuple_(passed.c.at, passed.c.id)
    counted = (
        select(passed.c.message, (passed.c.readers - case((own, 1), else_=0)).label("count"))
        .select_from(passed.outerjoin(pointers, pointers.c.user == passed.c.sender))
        .where(passed.c.message.is_not(None))
        .cte("counted")
    )
    return _corrected(Named(table.message), table.message, table.read_by_count, counted, counted.c.message)


@cache
def unread(table: ReadPointers) -> Update:
    """Return the statement that corrects `unread_count` in one conversation."""
    pointers, message = _pointers(table), Named(table.message, "message")
    behind = and_(
        message(table.conversation) == _ONE,
        tuple_(message(table.created_at), message(table.message)) > tuple_(pointers.c.at, pointers.c.id),
        message(table.sender) != pointers.c.user,
        message(table.deleted).is_not(True),
    )
    number = select(func.count()).select_from(message.rows).where(behind).scalar_subquery()
    counted = select(pointers.c.participant, number.label("count")).cte("counted")
    return _corrected(
        Named(table.participant), table.participant, table.unread_count, counted, counted.c.participant
    )


def _corrected(target: Named, key: Any, counter: Any, counted: CTE, whose: Any) -> Update:
    """Return the update of the counters that are wrong, whose rows are locked in the order of their ids."""
    held = Named(key, "held")
    wrong = (
        select(held(key).label("key"), counted.c.count)
        .select_from(held.rows.join(counted, whose == held(key)))
        .where(func.coalesce(held(counter), 0) != counted.c.count)
        .order_by(held(key))
        .with_for_update(key_share=True, of=held.rows)
        .cte("wrong")
    )
    return (
        update(target.table).where(target(key) == wrong.c.key).values({target(counter).name: wrong.c.count})
    )


@cache
def conversation(table: ReadPointers) -> Update:
    """Return the statement that corrects what one conversation says of itself."""
    row = Named(table.conversation_id)
    message, member = Named(table.message, "message"), Named(table.participant, "member")
    there = and_(message(table.conversation) == _ONE, message(table.deleted).is_not(True))
    messages = select(func.count()).select_from(message.rows).where(there).scalar_subquery()
    latest = select(func.max(message(table.created_at))).where(there).scalar_subquery()
    active = and_(member(table.member_of) == _ONE, member(table.member_status) == "active")
    members = select(func.count()).select_from(member.rows).where(active).scalar_subquery()
    values = {
        row(table.message_count): messages,
        row(table.participant_count): members,
        row(table.last_message_at): latest,
    }
    zero = {row(table.message_count), row(table.participant_count)}
    wrong = [
        (func.coalesce(column, 0) if column in zero else column).is_distinct_from(value)
        for column, value in values.items()
    ]
    return (
        update(row.table)
        .where(row(table.conversation_id) == _ONE, wrong[0] | wrong[1] | wrong[2])
        .values({column.name: value for column, value in values.items()})
    )
