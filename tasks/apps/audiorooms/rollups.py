"""The statistics of `audiorooms`: per room and day.

Listeners are people, by user, else by client. A reconnect inserts another row for the same client, so a
person's stays that overlap are one presence: a person never counts twice at once. Presences are half-open:
who leaves at the moment at which another joins was not there with them.
"""

from datetime import timedelta
from typing import Any

from sqlalchemy import (
    CTE,
    BigInteger,
    ColumnElement,
    Float,
    Integer,
    Numeric,
    Select,
    String,
    and_,
    case,
    cast,
    delete,
    exists,
    func,
    literal,
    or_,
    select,
    union_all,
)
from sqlalchemy.dialects.postgresql import insert

from models.analytics import AudioroomsLongStay
from models.audiorooms import AudioRoom, RoomAnalytics, RoomParticipant
from tasks.apps.audiorooms.stays import DEAD_AFTER, SKEW, last_sign
from tasks.policies.rollup import (
    CLOCKS_SET,
    DAY,
    FROM,
    KEYS,
    SINCE,
    TO,
    Keyed,
    Rollup,
    SourceTable,
    bucket_of,
)
from tasks.policies.sweep import NOW

_ROOM, _JOINED, _LEFT = RoomParticipant.room_id, RoomParticipant.joined_at, RoomParticipant.left_at
_LISTENS = and_(RoomParticipant.role.is_distinct_from("broadcaster"), _ROOM.is_not(None))

#: No index finds the stays that reach into a day by their end. Nearly all of them began so long before it at
#: most, which an index finds; those that last longer are listed, early enough for a run that comes late.
LOOK_BACK = timedelta(hours=12)
LISTED_AFTER = timedelta(hours=10)
#: How many bits a moment of a day takes, with its direction.
_MOMENT_BITS = 40

#: When a participant left; NULL where that is not known.
_LEFT_AT = case((_LEFT <= NOW + SKEW, _LEFT))

#: A user's name is a UUID, which has no such signs in it.
_PERSON = func.coalesce(
    cast(RoomParticipant.user_id, String),
    literal(":") + RoomParticipant.client_id,
    literal("#") + cast(RoomParticipant.id, String),
)


def _microseconds(moment: Any) -> ColumnElement[Any]:
    """Return how long after the bucket's beginning a moment is: whole numbers are sorted twice as fast."""
    seconds = func.date_part("epoch", moment - FROM, type_=Float())
    return cast(seconds * 1_000_000, BigInteger)


def _raw(*conditions: Any) -> Select[Any]:
    """Return the listeners' stays that may touch the bucket, under these conditions."""
    return select(
        _ROOM.label("room_id"),
        _PERSON.label("person"),
        _JOINED.label("joined"),
        _LEFT_AT.label("left"),
    ).where(_LISTENS, RoomParticipant.joined_at >= CLOCKS_SET, *conditions)


def _stays(raw: CTE) -> CTE:
    """Return the stays that touch the bucket, cut at its edges."""
    # Of each room in which a participant is still there: until when. As the policies `audiorooms.stays`,
    # `suspended` and `dead` will say of them: until now, in a room that is alive; until its end, or its last
    # sign of life. To look for the last one takes all stays of a room; mostly a quick look is enough.
    there = select(raw.c.room_id).where(raw.c.left.is_(None)).distinct().cte("still_there")
    of_room = and_(RoomParticipant.room_id == AudioRoom.id, RoomParticipant.joined_at >= NOW - DEAD_AFTER)
    quick = or_(
        AudioRoom.updated_at.between(NOW - DEAD_AFTER, NOW + SKEW),
        exists().where(of_room, RoomParticipant.joined_at <= NOW + SKEW).correlate(AudioRoom),
    )
    last = last_sign(AudioRoom.id, AudioRoom.updated_at, AudioRoom)
    until = case(
        (
            AudioRoom.active.is_not(True),
            func.coalesce(func.least(AudioRoom.updated_at, AudioRoom.suspended_until), NOW),
        ),
        (quick, AudioRoom.suspended_until),
        (last >= NOW - DEAD_AFTER, AudioRoom.suspended_until),
        else_=func.least(last, AudioRoom.suspended_until),
    )
    ends = (
        select(AudioRoom.id, func.coalesce(until, NOW).label("until"))
        .join(there, there.c.room_id == AudioRoom.id)
        .cte("ends")
    )

    def cut(left: ColumnElement[Any]) -> Select[Any]:
        over = func.greatest(raw.c.joined, func.least(NOW, left))
        return select(
            raw.c.room_id,
            raw.c.person,
            _microseconds(func.greatest(raw.c.joined, FROM)).label("began"),
            _microseconds(func.least(over, TO)).label("ended"),
            # Who began before the bucket is in it if something was left of the stay; who was there for no
            # time at all is of the bucket in which that was.
        ).where(or_(raw.c.joined >= FROM, over > FROM))

    # Apart: to join nearly all to nothing takes as long as to find them.
    left = cut(raw.c.left).where(raw.c.left.is_not(None))
    here = cut(ends.c.until).join(ends, ends.c.id == raw.c.room_id).where(raw.c.left.is_(None))
    return union_all(left, here).cte("stays")


def _metrics(stays: CTE) -> Select[Any]:
    """Return the statistics of the bucket's stays."""
    people = (
        select(
            stays.c.room_id,
            stays.c.person,
            func.count().label("stays"),
            func.min(stays.c.began).label("began"),
            func.max(stays.c.ended).label("ended"),
        )
        .group_by(stays.c.room_id, stays.c.person)
        .cte("people")
    )
    # Of what overlaps, only what is new.
    before = func.max(stays.c.ended).over(
        partition_by=(stays.c.room_id, stays.c.person),
        order_by=(stays.c.began, stays.c.ended),
        rows=(None, -1),
    )
    several = (
        select(stays.c.room_id, stays.c.began, stays.c.ended, before.label("before"))
        .join(
            people,
            and_(
                people.c.stays > 1,
                people.c.room_id == stays.c.room_id,
                people.c.person == stays.c.person,
            ),
        )
        .subquery("several")
    )
    presence = union_all(
        select(people.c.room_id, people.c.began, people.c.ended).where(people.c.stays == 1),
        select(several.c.room_id, func.greatest(several.c.began, several.c.before), several.c.ended).where(
            or_(several.c.before.is_(None), several.c.ended > several.c.before)
        ),
    ).subquery("presence")
    rooms = (
        select(
            people.c.room_id, func.row_number().over().label("number"), func.count().label("listeners")
        ).group_by(people.c.room_id)
    ).cte("rooms")
    spans = (
        select(rooms.c.number, presence.c.began, presence.c.ended)
        .join(rooms, rooms.c.room_id == presence.c.room_id)
        .cte("spans")
    )
    # Room, moment and direction in one number, leaving before joining: one sort of numbers takes half as long
    # as one of three columns. A day has 51 hours at most, less than 2^39 microseconds. Everyone who joins
    # leaves, at the bucket's end at the latest, so that the sum over all rooms begins each room at zero.
    there = spans.c.ended > spans.c.began
    room = spans.c.number.op("<<")(literal(_MOMENT_BITS, Integer))
    joins = room + spans.c.began.op("<<")(literal(1, Integer)) + 1
    leaves = room + spans.c.ended.op("<<")(literal(1, Integer))
    events = union_all(
        select(joins.label("packed"), literal(1).label("step")).where(there),
        select(leaves.label("packed"), literal(-1).label("step")).where(there),
    ).subquery("events")
    running = select(
        events.c.packed,
        func.sum(events.c.step).over(order_by=events.c.packed, rows=(None, 0)).label("listening"),
    ).subquery("running")
    number = running.c.packed.op(">>")(literal(_MOMENT_BITS, Integer))
    peaks = (
        select(number.label("number"), func.max(running.c.listening).label("peak"))
        .group_by(number)
        .subquery("peaks")
    )
    totals = (
        select(spans.c.number, func.sum(spans.c.ended - spans.c.began).label("microseconds"))
        .group_by(spans.c.number)
        .subquery("totals")
    )
    minutes = func.round(cast(totals.c.microseconds, Numeric) / 60_000_000)
    return (
        select(
            rooms.c.room_id,
            bucket_of(RoomAnalytics.date),
            cast(func.coalesce(peaks.c.peak, 0), Integer).label("peak_listeners"),
            cast(minutes, Integer).label("total_listen_minutes"),
            cast(rooms.c.listeners, Integer).label("total_listeners"),
        )
        .join(totals, totals.c.number == rooms.c.number)
        .outerjoin(peaks, peaks.c.number == rooms.c.number)
    )


_TOUCHES = or_(_LEFT > FROM, _LEFT.is_(None), _JOINED >= FROM)
_LISTED = RoomParticipant.id.in_(select(AudioroomsLongStay.id))


def _of(*conditions: Any) -> Select[Any]:
    """Return the statistics of the bucket, of the stays under these conditions."""
    raw = union_all(
        _raw(_JOINED < TO, _JOINED >= FROM - LOOK_BACK, _TOUCHES, *conditions),
        _raw(_JOINED < FROM - LOOK_BACK, _LISTED, _TOUCHES, *conditions),
    )
    return _metrics(_stays(raw.cte("raw")))


_LIST = insert(AudioroomsLongStay)
_STAY = select(RoomParticipant.id)

#: Lists the long stays of KEYS, for who cannot wait until all are surveyed.
LIST_OF_KEYS = _LIST.from_select(
    ["id"], _STAY.where(RoomParticipant.room_id == func.any(KEYS), _LEFT > _JOINED + LISTED_AFTER)
).on_conflict_do_nothing()

ROOM_ANALYTICS = Rollup(
    name="audiorooms.room_analytics",
    model=RoomAnalytics,
    rule="per room and day: the most listeners at once, the minutes they listened, and how many people they "
    "were; latency and packets are left as they are",
    why="The documented rollup counts all history as one day, passes over who is still listening, and its "
    "peak is not a number (audiorooms.md, Update Room Analytics).",
    grain=DAY,
    bucket=RoomAnalytics.date,
    key=(RoomAnalytics.room_id,),
    select=_of(),
    source_tables=(SourceTable(RoomParticipant, (RoomParticipant.joined_at, RoomParticipant.left_at)),),
    every=timedelta(minutes=5),
    keyed=Keyed(
        key=RoomAnalytics.room_id,
        select=_of(RoomParticipant.room_id == func.any(KEYS)),
        changed=select(_ROOM, func.min(_JOINED))
        .where(_LISTENS, _JOINED >= SINCE, _JOINED <= NOW + SKEW)
        .group_by(_ROOM),
        # A clock that is ahead may say that a participant has left already. Of stays that began longer ago
        # that is seen when the day is closed: at each run it would take a look at half a day's stays.
        live=select(_ROOM, func.min(_JOINED))
        .where(
            _LISTENS,
            _JOINED.between(CLOCKS_SET, NOW + SKEW),
            or_(_LEFT.is_(None), and_(_LEFT > NOW, RoomParticipant.joined_at >= NOW - timedelta(hours=1))),
        )
        .group_by(_ROOM),
    ),
    snapshot=(
        _LIST.from_select(
            ["id"], _STAY.where(_LEFT.is_(None), _JOINED < NOW - LISTED_AFTER)
        ).on_conflict_do_nothing(),
    ),
    daily_snapshot=(
        _LIST.from_select(["id"], _STAY.where(_LEFT > _JOINED + LISTED_AFTER)).on_conflict_do_nothing(),
        delete(AudioroomsLongStay).where(~exists().where(RoomParticipant.id == AudioroomsLongStay.id)),
    ),
    # The application's own columns are in the same rows.
    empty_values={
        RoomAnalytics.peak_listeners: 0,
        RoomAnalytics.total_listen_minutes: 0,
        RoomAnalytics.total_listeners: 0,
    },
)
