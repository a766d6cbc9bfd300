"""`connect`: match, call, then chat."""

from datetime import timedelta

from sqlalchemy import (
    BigInteger,
    Boolean,
    ColumnElement,
    Double,
    Integer,
    and_,
    case,
    cast,
    exists,
    extract,
    func,
    or_,
    select,
    true,
    union_all,
)

from models import connect
from models.analytics import ConnectCallsDaily, ConnectDaily
from models.connect import (
    ChatRoom,
    Connection,
    InteractionLog,
    Message,
    MessageReadStatus,
    User,
    UserSession,
    VideoRequest,
)
from tasks.policies.app import App
from tasks.policies.columns import Column
from tasks.policies.retention import Cascade, Owners, Restrict, Retention
from tasks.policies.rollup import DAY, FROM, TO, Rollup, SourceTable, bucket_of
from tasks.policies.status import ReadMarks
from tasks.policies.sweep import AFTER, NOW, Delete, Sweep, Update, ahead, recent


def _in_open_call(side: Column) -> ColumnElement[bool]:
    """Return whether a session's user is on this side of a call that goes on.

    One that never ends is closed by `connect.calls`, unless its beginning is not known.
    """
    goes_on = and_(InteractionLog.ended_at.is_(None), InteractionLog.started_at.is_not(None))
    return exists().where(side == UserSession.user_id, goes_on).correlate(UserSession)


_UPDATED = func.coalesce(UserSession.updated_at, UserSession.created_at)
# Each side by itself: for both in one condition PostgreSQL has no better way than session by session.
_IN_A_CALL = and_(
    UserSession.status == "in-call",
    or_(_in_open_call(InteractionLog.user1_id), _in_open_call(InteractionLog.user2_id)),
)
_NO_OUTCOME = and_(
    func.coalesce(InteractionLog.outcome, "no_action") == "no_action",
    ~exists().where(Connection.interaction_log_id == InteractionLog.id).correlate(InteractionLog),
)

_OWNERS: Owners = {
    InteractionLog: {
        "user": (InteractionLog.user1_id, InteractionLog.user2_id, InteractionLog.female_user_id)
    },
    Message: {"user": (Message.sender_user_id,), "room": (Message.chat_room_id,)},
    MessageReadStatus: {"user": (MessageReadStatus.user_id,)},
}


def _that_day(at: Column) -> ColumnElement[bool]:
    return and_(at >= FROM, at < TO)


_CALLED = _that_day(InteractionLog.started_at)
_ENDED = func.isfinite(InteractionLog.ended_at, type_=Boolean)
# By its two ends: `duration_seconds` is 0 until it is set, and the document requires no service to set it.
# Clocks that went back make no call shorter than nothing.
_LASTED = extract(
    "epoch", func.greatest(InteractionLog.ended_at, InteractionLog.started_at) - InteractionLog.started_at
)
_calls = (
    select(
        func.coalesce(InteractionLog.interaction_type, "unknown").label("interaction_type"),
        InteractionLog.outcome,
        or_(
            InteractionLog.outcome == "female_connected",
            # The outcome often stays what it was; and a connection that ended was made all the same.
            exists().where(Connection.interaction_log_id == InteractionLog.id).correlate(InteractionLog),
        ).label("connected"),
        case((_ENDED, _LASTED)).label("seconds"),
        InteractionLog.user1_id,
        InteractionLog.user2_id,
    )
    .where(_CALLED)
    .cte("calls")
)
_sides = union_all(
    select(_calls.c.interaction_type, _calls.c.user1_id.label("user_id")),
    select(_calls.c.interaction_type, _calls.c.user2_id),
).subquery("sides")
_users = (
    select(_sides.c.interaction_type, func.count(_sides.c.user_id.distinct()).label("users"))
    .group_by(_sides.c.interaction_type)
    .subquery("users")
)
_CONNECTED = func.count().filter(_calls.c.connected)
_SECONDS = cast(_calls.c.seconds, Double)
_calls_daily = (
    select(
        bucket_of(ConnectCallsDaily.day),
        _calls.c.interaction_type,
        func.count().label("calls"),
        *(
            func.count().filter(_calls.c.outcome == outcome).label(outcome)
            for outcome in ("female_connected", "both_left", "timeout", "no_action")
        ),
        func.count().filter(_calls.c.outcome.is_(None)).label("no_outcome"),
        func.count().filter(_calls.c.seconds.is_(None)).label("open_calls"),
        _CONNECTED.label("connected"),
        (cast(_CONNECTED, Double) / cast(func.count(), Double)).label("connect_rate"),
        func.coalesce(cast(func.sum(_calls.c.seconds), BigInteger), 0).label("total_seconds"),
        func.percentile_cont(0.5).within_group(_SECONDS).label("median_seconds"),
        func.percentile_cont(0.95).within_group(_SECONDS).label("p95_seconds"),
        _users.c.users,
    )
    .join(_users, _users.c.interaction_type == _calls.c.interaction_type)
    .group_by(_calls.c.interaction_type, _users.c.users)
)

_called = union_all(
    select(InteractionLog.user1_id.label("user_id")).where(_CALLED),
    select(InteractionLog.user2_id).where(_CALLED),
).subquery("called")
_in_calls = select(func.count(_called.c.user_id.distinct()).label("users")).subquery("in_calls")
_requests = (
    select(
        func.count().label("requests"),
        *(
            func.count().filter(VideoRequest.status == status).label(f"requests_{status}")
            for status in ("pending", "approved", "rejected", "expired")
        ),
    )
    # No index has this column. There are few requests: only people who are connected make any.
    .where(_that_day(VideoRequest.requested_at))
    .subquery("requests")
)
_messages = (
    select(
        func.count().label("messages"),
        # A system message names a sender who has not written it.
        func.count(Message.sender_user_id.distinct())
        .filter(Message.message_type.is_distinct_from("system"))
        .label("senders"),
    )
    .where(_that_day(Message.created_at))
    .subquery("messages")
)
_daily = (
    select(
        bucket_of(ConnectDaily.day),
        _in_calls.c.users.label("users_in_calls"),
        *_requests.c,
        *_messages.c,
    )
    .select_from(_in_calls.join(_requests, true()).join(_messages, true()))
    .where(_in_calls.c.users + _requests.c.requests + _messages.c.messages > 0)
)

CONNECT = App(
    name="connect",
    about="match, call, then chat",
    document="connect.md",
    models=connect,
    delivery=ReadMarks(
        model=MessageReadStatus,
        why="Who has read a message, and when first (connect.md, message_read_status).",
        message=MessageReadStatus.message_id,
        user=MessageReadStatus.user_id,
        read_at=MessageReadStatus.read_at,
        message_id=Message.id,
        sender=Message.sender_user_id,
        sent_at=Message.created_at,
        user_id=User.id,
    ),
    cleanup=(
        Sweep(
            name="connect.sessions",
            model=UserSession,
            rule="sessions past expires_at are deleted; one without it lives {after} from its last update",
            why="Expired sessions go (connect.md, Automatic Cleanup Policies); the documented function keeps "
            "those without an expiry for ever.",
            due=or_(
                UserSession.expires_at < NOW,
                and_(UserSession.expires_at.is_(None), recent(_UPDATED).is_not(True)),
            ),
            action=Delete(),
            every=timedelta(minutes=5),
            after=timedelta(days=30),
            ahead=case((UserSession.expires_at.is_(None), ahead(_UPDATED))),
            # Those without an expiry may be all: an index of them says nothing of their age.
            indexed=UserSession.expires_at < NOW,
            full_pass_every=timedelta(hours=2),
        ),
        Sweep(
            name="connect.presence",
            model=UserSession,
            rule="sessions online, queuing or in-call that were not updated for {after} go offline; not one "
            "in-call while its user's call is open",
            why="A socket that died says nothing (connect.md, user_sessions). During a call no service "
            "updates the session.",
            due=and_(
                UserSession.status.in_(["online", "in-call", "queuing"]),
                recent(_UPDATED).is_not(True),
                ~_IN_A_CALL,
            ),
            # `updated_at` is set by the application's trigger.
            action=Update({UserSession.status: "offline"}),
            every=timedelta(minutes=1),
            after=timedelta(minutes=10),
            ahead=ahead(_UPDATED),
        ),
        Sweep(
            name="connect.video_requests",
            model=VideoRequest,
            rule="requests pending past expires_at expire; one without it {after} after it was made",
            why="The table has a status for it that nothing sets (connect.md, video_requests).",
            due=and_(
                VideoRequest.status == "pending",
                or_(
                    VideoRequest.expires_at < NOW,
                    and_(VideoRequest.expires_at.is_(None), recent(VideoRequest.requested_at).is_not(True)),
                ),
            ),
            # `responded_at` stays empty: there was no response.
            action=Update({VideoRequest.status: "expired"}),
            every=timedelta(minutes=1),
            after=timedelta(hours=24),
            ahead=case((VideoRequest.expires_at.is_(None), ahead(VideoRequest.requested_at))),
        ),
        Sweep(
            name="connect.calls",
            model=InteractionLog,
            rule="calls that never ended are closed at a length of {after}, as 'timeout' unless they had an "
            "outcome or a connection came of them",
            why="A crash leaves a call open for ever (connect.md, interaction_logs). One that a connection "
            "came of was no timeout, whatever its outcome still says.",
            # One whose beginning is not known stays as it is: its length cannot be computed.
            due=and_(
                InteractionLog.ended_at.is_(None),
                or_(InteractionLog.started_at < NOW - AFTER, InteractionLog.started_at > NOW),
            ),
            action=Update(
                {
                    InteractionLog.ended_at: InteractionLog.started_at + AFTER,
                    InteractionLog.duration_seconds: cast(extract("epoch", AFTER), Integer),
                    InteractionLog.outcome: case((_NO_OUTCOME, "timeout"), else_=InteractionLog.outcome),
                }
            ),
            every=timedelta(minutes=5),
            after=timedelta(hours=4),
            ahead=ahead(InteractionLog.started_at),
            # The index has all calls of all times: an hour's are read, the walk finds older ones.
            indexed=or_(
                and_(
                    InteractionLog.started_at >= NOW - AFTER - timedelta(hours=1),
                    InteractionLog.started_at < NOW - AFTER,
                ),
                InteractionLog.started_at > NOW,
            ),
            full_pass_every=timedelta(days=1),
        ),
        Sweep(
            name="connect.chat_rooms",
            model=ChatRoom,
            rule="chat rooms whose connection is not active are not active either",
            why="A room is that of its connection (connect.md, chat_rooms), which ends without a word to it.",
            due=and_(
                ChatRoom.is_active.is_(True),
                select(Connection.is_active)
                .where(Connection.id == ChatRoom.connection_id)
                .scalar_subquery()
                .is_not(True),
            ),
            action=Update({ChatRoom.is_active: False}),
            every=timedelta(minutes=5),
            # The index has nearly all of them: most rooms are active.
            full_pass_every=timedelta(hours=3),
        ),
    ),
    retention=(
        Retention(
            name="connect.logs",
            model=InteractionLog,
            rule="calls that began more than {after} ago and ended as 'no_action', 'both_left' or 'timeout' "
            "are deleted, but for those that a connection came of",
            why="Calls that led to nothing are kept for a year (connect.md, Automatic Cleanup Policies). The "
            "documented function takes those of living connections too, and with them whole chats.",
            # One whose beginning is not known has no age, and stays.
            age=InteractionLog.started_at,
            # NULL is none of these, for the documented function too: a call of unknown outcome may be one
            # that mattered.
            where=InteractionLog.outcome.in_(["no_action", "both_left", "timeout"]),
            refers=(
                Restrict(
                    Connection.interaction_log_id,
                    "CASCADE: it would take the connection, its chat room, messages and video requests along",
                ),
            ),
            owners=_OWNERS,
            after=timedelta(days=365),
            # The index has all that stay for their connection's sake, of all times: a day's are read, the
            # walk finds older ones.
            indexed=and_(
                InteractionLog.started_at >= NOW - AFTER - timedelta(days=1),
                InteractionLog.started_at < NOW - AFTER,
            ),
            full_pass_every=timedelta(days=1),
        ),
        Retention(
            name="connect.messages",
            model=Message,
            rule="messages older than {after} are deleted, with their read marks",
            why="Messages do not stay for ever (connect.md, Data Retention and Privacy), and no time is "
            "documented. Their room and connection stay.",
            age=Message.created_at,
            refers=(
                Cascade(MessageReadStatus.message_id, "CASCADE: a mark says nothing without its message"),
            ),
            owners=_OWNERS,
        ),
    ),
    rollups=(
        Rollup(
            name="connect.calls_daily",
            model=ConnectCallsDaily,
            rule="calls that began that day, by interaction type ('unknown' where there is none): outcomes "
            "as they stand, connected ones, seconds from began to ended of those that did, different people",
            why="How many calls lead to a connection, and how long they last; the document leaves analytics "
            "to the future (connect.md, Schema Organization).",
            grain=DAY,
            bucket=ConnectCallsDaily.day,
            key=(ConnectCallsDaily.interaction_type,),
            select=_calls_daily,
            source_tables=(
                SourceTable(InteractionLog, (InteractionLog.started_at,)),
                # It counts with its log, which stays for as long as the connection refers to it.
                SourceTable(Connection, (Connection.created_at,)),
            ),
        ),
        Rollup(
            name="connect.daily",
            model=ConnectDaily,
            rule="different people in calls that began that day; video requests made that day, by their "
            "status as it stands; messages sent that day, deleted and system ones too, and the different "
            "people who sent other than system ones",
            why="How many people use it, and for what (connect.md, video_requests and messages).",
            grain=DAY,
            bucket=ConnectDaily.day,
            select=_daily,
            source_tables=(
                SourceTable(InteractionLog, (InteractionLog.started_at,)),
                SourceTable(VideoRequest, (VideoRequest.requested_at,)),
                SourceTable(Message, (Message.created_at,)),
            ),
        ),
    ),
    entities={"user": User, "room": ChatRoom},
    untouched={
        connect.User: "accounts are the application's own",
        connect.Profile: "profiles go with their user",
    },
)
