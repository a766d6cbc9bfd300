"""The statistics of `echoroom`: people, messages, reactions and speaking, by room, hour and day.

The application keeps one row for each person and room, and overwrites it when they come again; who speaks is
said only while they do. So each run first copies what it sees: stays to `roomkeeper.echoroom_stays`, speakers
to `roomkeeper.echoroom_speakers`. What is known of a stay:

- Who is there is told by `is_active`, and since when by `joined_at`. Where that is NULL, still to come, or
  of a stay that is over, they are there since they were first seen.
- A stay ends when its row says so: at `left_at`, but not before it began, and not after it was seen to have
  ended; at that moment, where the row does not say when. Where they have come again meanwhile it ends at
  their new `joined_at`, or at the earlier `left_at` that is left over. A person whose row is gone has left
  when they were last seen. An end that was seen stays as it is.
- Who came and went between two runs is known by their row: without a `left_at`, they were there for no time.
  Of several stays of a person between two runs only the last is known.

A stay is written when it is first seen and when it is seen to have ended, not at each run.
"""

from datetime import timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    FromClause,
    Integer,
    Select,
    and_,
    bindparam,
    case,
    exists,
    func,
    literal_column,
    or_,
    select,
    true,
    union,
    union_all,
    update,
)
from sqlalchemy.dialects.postgresql import insert

from models.analytics import EchoroomDaily, EchoroomHourly, EchoroomSpeaker, EchoroomStay, RollupState
from models.echoroom import ChatMessage, ChatSession, MessageReaction, SessionParticipant, VoiceStatus
from tasks.policies.columns import Column, Model, table_of
from tasks.policies.rollup import (
    CLOCKS_SET,
    DAY,
    FROM,
    HOUR,
    KEYS,
    SINCE,
    TO,
    Keyed,
    Rollup,
    SourceTable,
    bucket_of,
    quarter_of,
)
from tasks.policies.sweep import NOW

_HOURLY, _DAILY = "echoroom.hourly", "echoroom.daily"

#: For how long closed buckets are computed again. Stays that ended longer before the last run are not copied.
REVISIT = timedelta(days=3)
#: How long a transaction in which a person joins or leaves may take: rooms are touched by its beginning.
SLACK = timedelta(minutes=5)
#: For how long after its last update a voice status says that its user speaks (`echoroom.voice_speaking`).
SPEAKING = timedelta(minutes=10)
#: How old a message may be for a reaction to count. No index has the times of reactions: those to messages of
#: some rooms are found by their messages. Where people talk with each other a reaction comes soon or never.
REACTED = timedelta(days=1)

_room, _message, _reaction = table_of(ChatSession), table_of(ChatMessage), table_of(MessageReaction)
_row, _voice = table_of(SessionParticipant), table_of(VoiceStatus)
_stay, _speaker, _state = table_of(EchoroomStay), table_of(EchoroomSpeaker), table_of(RollupState)

# -- what is observed -----------------------------------------------------------------------------------

#: The moment of the last run of either rollup.
_LAST = select(func.max(_state.c.ticked_at)).where(_state.c.name.in_((_HOURLY, _DAILY))).scalar_subquery()
#: Two that observe at once would each know less than both.
_IN_TURN = select(func.pg_advisory_xact_lock(func.hashtextextended("roomkeeper:echoroom:observe", 0)))


def _ended() -> Any:
    """Return the statement that ends stays of people who are not there any more, or have come again."""
    stay = _stay.alias("open")
    again = and_(_row.c.joined_at > stay.c.joined_at, _row.c.joined_at <= NOW)
    between = and_(_row.c.left_at >= stay.c.joined_at, _row.c.left_at < _row.c.joined_at)
    last = func.least(func.coalesce(_LAST, stay.c.seen_at), NOW)
    left_at = case(
        (_row.c.session_id.is_(None), func.greatest(stay.c.joined_at, stay.c.seen_at, last)),
        (again, case((between, _row.c.left_at), else_=_row.c.joined_at)),
        # NULL `left_at` is ignored: what is left is NOW.
        (_row.c.is_active.is_not(True), func.greatest(stay.c.joined_at, func.least(_row.c.left_at, NOW))),
        # They have left and come again, and do not say when.
        (and_(_row.c.left_at > stay.c.joined_at, _row.c.left_at <= NOW), _row.c.left_at),
    )
    same = and_(_row.c.session_id == stay.c.room_id, _row.c.user_id == stay.c.user_id)
    ended = (
        select(stay.c.room_id, stay.c.user_id, stay.c.joined_at, left_at.label("left_at"))
        .select_from(stay.outerjoin(_row, same))
        .where(stay.c.left_at.is_(None))
        .subquery("ended")
    )
    return (
        update(_stay)
        .values(left_at=ended.c.left_at)
        .where(
            _stay.c.room_id == ended.c.room_id,
            _stay.c.user_id == ended.c.user_id,
            _stay.c.joined_at == ended.c.joined_at,
            ended.c.left_at.is_not(None),
        )
    )


def _begun() -> Any:
    """Return the statement that copies the stays that rows tell of.

    No index has the times of rows. But a trigger touches the room when a person joins or leaves.
    """
    touched = select(_room.c.id).where(func.coalesce(_room.c.updated_at >= _LAST - SLACK, True))
    left_at = case(
        (
            _row.c.is_active.is_not(True),
            func.greatest(_row.c.joined_at, func.least(func.coalesce(_row.c.left_at, _row.c.joined_at), NOW)),
        ),
        (and_(_row.c.left_at > _row.c.joined_at, _row.c.left_at <= NOW), _row.c.left_at),
    )
    stays = select(_row.c.session_id, _row.c.user_id, _row.c.joined_at, left_at, NOW).where(
        or_(
            _row.c.is_active.is_(True),
            _row.c.session_id == func.any(func.array(touched.scalar_subquery())),
        ),
        _row.c.session_id.is_not(None),
        _row.c.user_id.is_not(None),
        # Who joined before any clock was set is there since they were seen.
        _row.c.joined_at.between(CLOCKS_SET, NOW),
        func.coalesce(left_at >= func.coalesce(_LAST, NOW) - REVISIT, True),
    )
    return (
        insert(_stay)
        .from_select(["room_id", "user_id", "joined_at", "left_at", "seen_at"], stays)
        .on_conflict_do_nothing()
    )


def _there() -> Any:
    """Return the statement that notes who is there, and does not say since when."""
    known = exists().where(
        _stay.c.room_id == _row.c.session_id, _stay.c.user_id == _row.c.user_id, _stay.c.left_at.is_(None)
    )
    seen = select(_row.c.session_id, _row.c.user_id, NOW, NOW).where(
        _row.c.is_active.is_(True), _row.c.session_id.is_not(None), _row.c.user_id.is_not(None), ~known
    )
    return (
        insert(_stay)
        .from_select(["room_id", "user_id", "joined_at", "seen_at"], seen)
        .on_conflict_do_nothing()
    )


def _spoken() -> Any:
    """Return the statement that notes who speaks: now, and when they began to."""

    def seen(of: Any, at: Any, *which: ColumnElement[bool]) -> Select[Any]:
        return select(of.c.session_id, of.c.user_id, quarter_of(at)).where(
            of.c.is_speaking.is_(True), of.c.session_id.is_not(None), of.c.user_id.is_not(None), *which
        )

    updated = _voice.c.last_updated
    found = union(
        seen(_row, NOW, _row.c.is_active.is_(True)),
        seen(_voice, NOW, updated >= NOW - SPEAKING),
        seen(_voice, updated, updated > NOW - timedelta(hours=1), updated <= NOW),
    )
    return insert(_speaker).from_select(["room_id", "user_id", "hour"], found).on_conflict_do_nothing()


OBSERVE = (_IN_TURN, _ended(), _begun(), _there(), _spoken())

# -- what is computed -----------------------------------------------------------------------------------

_TYPES = {
    "messages_text": "text",
    "messages_system": "system",
    "messages_ai_prompt": "ai-prompt",
    "messages_mood_check": "mood-check",
}
_METRICS = ("participants", "peak_participants", "messages", *_TYPES, "reactions", "speakers")
_NONE: ColumnElement[int] = literal_column("0", Integer)
#: An open stay lasts until NOW.
_END = func.coalesce(_stay.c.left_at, func.greatest(_stay.c.joined_at, NOW))


def _part(room: Any, **metrics: Any) -> Select[Any]:
    """Return some statistics of rooms; the others are 0."""
    return select(room.label("room_id"), *(metrics.get(name, _NONE).label(name) for name in _METRICS))


def _select(target: Model, bucket: Column, keyed: bool) -> Select[Any]:
    """Return the select of a bucket, of all rooms or of KEYS alone."""

    def only(room: Any) -> list[ColumnElement[bool]]:
        return [room == func.any(KEYS)] if keyed else []

    room: FromClause = (
        select(func.unnest(KEYS).label("id")).subquery("room")
        if keyed
        else select(_room.c.id).subquery("room")
    )
    # Each figure comes of one part; of a room that is gone, also of what is kept.
    parts = union_all(
        *_presence(only),
        _messages(room),
        _reactions(room),
        _part(_speaker.c.room_id, speakers=func.count(_speaker.c.user_id.distinct()))
        .where(_speaker.c.hour >= FROM, _speaker.c.hour < TO, *only(_speaker.c.room_id))
        .group_by(_speaker.c.room_id),
        _kept(target, bucket, only),
    ).subquery("parts")
    return select(
        parts.c.room_id,
        bucket_of(bucket),
        *(func.max(parts.c[name]).label(name) for name in _METRICS),
    ).group_by(parts.c.room_id)


def _presence(only: Any) -> tuple[Select[Any], Select[Any]]:
    """Return who was there, and how many at most at once."""
    begins, ends = func.greatest(_stay.c.joined_at, FROM), func.least(_END, TO)
    whose = (_stay.c.room_id, _stay.c.user_id)
    stays = (
        select(
            *whose,
            begins.label("begins"),
            ends.label("ends"),
            func.max(ends)
            .over(partition_by=whose, order_by=(begins, ends), rows=(None, -1))
            .label("there_until"),
        )
        .where(
            _stay.c.joined_at < TO,
            or_(
                _stay.c.joined_at >= FROM,
                _stay.c.left_at > FROM,
                and_(_stay.c.left_at.is_(None), NOW > FROM),
            ),
            *only(_stay.c.room_id),
        )
        .cte("stays")
    )
    # A person is one, however many stays of theirs overlap: of a later one counts what is new.
    comes, goes = func.greatest(stays.c.begins, stays.c.there_until), stays.c.ends
    moves = union_all(
        *(
            select(stays.c.room_id, at.label("at"), literal_column(step, Integer).label("step")).where(
                comes < goes
            )
            for at, step in ((comes, "1"), (goes, "-1"))
        )
    ).subquery("moves")
    # Who leaves at a moment does so before others join.
    present = select(
        moves.c.room_id,
        func.sum(moves.c.step)
        .over(partition_by=moves.c.room_id, order_by=(moves.c.at, moves.c.step))
        .label("present"),
    ).subquery("present")
    return (
        _part(stays.c.room_id, participants=func.count(stays.c.user_id.distinct())).group_by(stays.c.room_id),
        _part(present.c.room_id, peak_participants=func.max(present.c.present)).group_by(present.c.room_id),
    )


def _messages(room: FromClause) -> Select[Any]:
    """Return the messages, room by room: their index begins with the room."""
    sent = (
        select(
            func.count().label("messages"),
            *(
                func.count().filter(_message.c.message_type == kind).label(name)
                for name, kind in _TYPES.items()
            ),
        )
        .where(_message.c.session_id == room.c.id, _message.c.created_at >= FROM, _message.c.created_at < TO)
        .having(func.count() > 0)
        .lateral("sent")
    )
    return _part(room.c.id, messages=sent.c.messages, **{name: sent.c[name] for name in _TYPES}).select_from(
        room.join(sent, true())
    )


def _reactions(room: FromClause) -> Select[Any]:
    """Return the reactions to messages that may have any: by these, or all that there are, as is cheaper."""
    return (
        _part(room.c.id, reactions=func.count())
        .select_from(
            room.join(_message, _message.c.session_id == room.c.id).join(
                _reaction, _reaction.c.message_id == _message.c.id
            )
        )
        .where(
            _message.c.created_at > FROM - REACTED,
            _message.c.created_at < TO,
            _reaction.c.created_at >= FROM,
            _reaction.c.created_at < TO,
            _reaction.c.created_at >= _message.c.created_at,
            _reaction.c.created_at < _message.c.created_at + REACTED,
        )
        .group_by(room.c.id)
    )


def _kept(target: Model, bucket: Column, only: Any) -> Select[Any]:
    """Return the statistics of rooms that are gone, as they are: their messages went with them."""
    table = table_of(target)
    named = table.c[bucket.property.columns[0].name]
    return _part(table.c.room_id, **{name: table.c[name] for name in _METRICS}).where(
        named == bindparam("bucket", type_=named.type),
        ~exists().where(_room.c.id == table.c.room_id),
        *only(table.c.room_id),
    )


def _changed() -> Select[Any]:
    """Return rooms in which a person joined, wrote or spoke; rooms that a person leaves were live.

    A reaction, or a message that is deleted, counts when the room is computed for another reason, or closed.
    """
    sent = (
        select(func.min(_message.c.created_at).label("since"))
        .where(_message.c.session_id == _room.c.id, _message.c.created_at >= SINCE)
        .lateral("sent")
    )
    found = union_all(
        select(_stay.c.room_id.label("key"), _stay.c.joined_at.label("since")).where(
            _stay.c.seen_at >= SINCE
        ),
        select(_room.c.id, sent.c.since)
        .select_from(_room.join(sent, true()))
        .where(sent.c.since.is_not(None)),
        select(_speaker.c.room_id, _speaker.c.hour).where(_speaker.c.hour > SINCE - timedelta(hours=1)),
    ).subquery("found")
    return select(found.c.key, func.min(found.c.since).label("since")).group_by(found.c.key)


_LIVE = (
    select(_stay.c.room_id.label("key"), func.min(_stay.c.joined_at).label("since"))
    .where(_stay.c.left_at.is_(None))
    .group_by(_stay.c.room_id)
)
_FEEDS = (
    SourceTable(EchoroomStay, (EchoroomStay.joined_at, EchoroomStay.left_at)),
    SourceTable(EchoroomSpeaker, (EchoroomSpeaker.hour,)),
    SourceTable(ChatMessage, (ChatMessage.created_at,)),
    SourceTable(MessageReaction, (MessageReaction.created_at,)),
)


def _rollup(model: Model, bucket: Column, key: Column, **given: Any) -> Rollup:
    return Rollup(
        model=model,
        bucket=bucket,
        key=(key,),
        select=_select(model, bucket, keyed=False),
        source_tables=_FEEDS,
        keyed=Keyed(
            key=key,
            select=_select(model, bucket, keyed=True),
            changed=_changed(),
            live=_LIVE,
            # Of 2,283 rooms of 5,000 by key: a third of the time of all.
            most=5_000,
        ),
        snapshot=OBSERVE,
        recompute_for=REVISIT,
        **given,
    )


ROLLUPS = (
    _rollup(
        EchoroomHourly,
        EchoroomHourly.hour,
        EchoroomHourly.room_id,
        name=_HOURLY,
        rule="by room and hour: different people whose stays touch it, the most at once, messages by type, "
        "reactions to messages of the day before, and different people who were seen speaking",
        why="A room is judged by the hours in which people meet in it; session_participants keeps only the "
        "last stay of each, and is_speaking only says who speaks now (echoroom.md, Core Tables).",
        grain=HOUR,
        # What is seen of stays and speakers is seen at a run.
        every=timedelta(minutes=1),
        grace=timedelta(minutes=10),
    ),
    _rollup(
        EchoroomDaily,
        EchoroomDaily.day,
        EchoroomDaily.room_id,
        name=_DAILY,
        rule="by room and day: as by the hour, each person once",
        why="Different people and peaks of hours cannot be added up to those of a day (echoroom.md, Core "
        "Tables).",
        grain=DAY,
        every=timedelta(minutes=15),
        grace=timedelta(minutes=10),
    ),
)
