"""What the counters of a conversation must say by its rows, and the statements that correct them.

`read_by_count` of a message is the number of participants, but its sender, whose pointer is at or behind it;
`unread_count` of a participant the number of others' messages behind their pointer, without deleted ones. A
conversation counts messages that are not deleted and participants who are active. No value counts as 0.

A message that was sent or delivered is `read` when all other members have read it: a reading says so at once,
and a recount where a member has left since.
"""

from functools import cache
from typing import Any

from sqlalchemy import (
    CTE,
    BigInteger,
    Update,
    Uuid,
    and_,
    bindparam,
    case,
    cast,
    func,
    literal,
    null,
    select,
    true,
    tuple_,
    union_all,
    update,
)

from tasks.delivery.positions import (
    Named,
    points_at,
    read_by_all,
    standing_at,
    two_lowest,
    waited_for,
)
from tasks.policies.status import ReadPointers

#: So many messages become `read` in one transaction: a member who leaves may have read nothing for years.
MOST_CHANGED = 5_000

_ONE = bindparam("conversation", type_=Uuid())


def _pointers(table: ReadPointers) -> CTE:
    """Return where each participant's pointer stands."""
    reader, pointed = Named(table.participant, "reader"), Named(table.message, "pointed")
    at, id_ = standing_at(table, reader, pointed)
    return (
        select(
            reader(table.participant).label("participant"),
            reader(table.user).label("user"),
            at.label("at"),
            id_.label("id"),
            waited_for(table, reader).label("waited_for"),
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
    """Return the statement that corrects `unread_count` in one conversation.

    It reads the messages once, however many participants there are: to count them for each would take minutes
    in a large conversation.
    """
    pointers, message = _pointers(table), Named(table.message, "message")
    at, id_ = message(table.created_at), message(table.message)
    not_deleted = message(table.deleted).is_not(True)
    marks = union_all(
        select(
            cast(null(), Uuid()).label("participant"),
            at.label("at"),
            id_.label("id"),
            case((not_deleted, 1), else_=0).label("messages"),
            literal(0).label("pointer"),
        ).where(message(table.conversation) == _ONE),
        select(pointers.c.participant, pointers.c.at, pointers.c.id, literal(0), literal(1)),
    ).subquery("marks")
    # From the latest on; a pointer comes before the message that it is at.
    order: Any = [marks.c.at.desc(), marks.c.id.desc(), marks.c.pointer.desc()]
    behind = select(
        marks.c.participant, func.sum(marks.c.messages).over(order_by=order, rows=(None, 0)).label("count")
    ).subquery("behind")
    own = (
        select(pointers.c.participant, func.count().label("count"))
        .select_from(pointers.join(message.rows, message(table.sender) == pointers.c.user))
        .where(
            message(table.conversation) == _ONE,
            tuple_(at, id_) > tuple_(pointers.c.at, pointers.c.id),
            not_deleted,
        )
        .group_by(pointers.c.participant)
        .subquery("own")
    )
    number = behind.c.count - func.coalesce(own.c.count, 0)
    counted = (
        select(behind.c.participant, number.label("count"))
        .select_from(behind.outerjoin(own, own.c.participant == behind.c.participant))
        .where(behind.c.participant.is_not(None))
        .cte("counted")
    )
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
def status(table: ReadPointers) -> Update:
    """Return the statement that marks as `read` what all have read who are waited for, `at_most` messages."""
    pointers, held, row = _pointers(table), Named(table.message, "held"), Named(table.message)
    lowest = select(*two_lowest(pointers)).where(pointers.c.waited_for).cte("lowest")
    key, open_ = held(table.message), ["sent", "delivered"]
    wrong = (
        select(key.label("key"))
        .select_from(held.rows.join(lowest, true()))
        .where(
            held(table.conversation) == _ONE,
            held(table.status).in_(open_),
            read_by_all(lowest, held(table.created_at), key, held(table.sender)),
        )
        .order_by(key)
        .limit(bindparam("at_most", type_=BigInteger()))
        .with_for_update(key_share=True, of=held.rows)
        .cte("wrong")
    )
    # From the row as it is when it is written: its application may have changed it just before.
    return (
        update(row.table)
        .where(row(table.message) == wrong.c.key, row(table.status).in_(open_))
        .values({row(table.status).name: "read"})
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
