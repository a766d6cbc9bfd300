"""`connect`: match, call, then chat."""

from datetime import timedelta

from sqlalchemy import ColumnElement, Integer, and_, case, cast, exists, extract, func, or_, select

from models import connect
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
from tasks.apps.columns import Column
from tasks.apps.retentions import Goes, Owners, Retention, Stays
from tasks.apps.spec import App
from tasks.apps.statuses import ReadMarks
from tasks.apps.sweeps import AFTER, NOW, Delete, Sweep, Update


def _in_open_call(side: Column) -> ColumnElement[bool]:
    """Return whether a session's user is on this side of a call that goes on.

    One that never ends is closed by `connect.calls`, unless nobody knows when it began.
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
                and_(UserSession.expires_at.is_(None), func.coalesce(_UPDATED < NOW - AFTER, True)),
            ),
            then=Delete(),
            every=timedelta(minutes=5),
            after=timedelta(days=30),
            # Those without an expiry may be all: an index of them says nothing of their age.
            quick=UserSession.expires_at < NOW,
            walk=timedelta(hours=2),
        ),
        Sweep(
            name="connect.presence",
            model=UserSession,
            rule="sessions online, queuing or in-call that were not updated for {after} go offline; not one "
            "in-call while its user's call is open",
            why="A socket that died says nothing (connect.md, user_sessions). During a call nobody updates "
            "the session.",
            due=and_(
                UserSession.status.in_(["online", "in-call", "queuing"]),
                func.coalesce(_UPDATED < NOW - AFTER, True),
                ~_IN_A_CALL,
            ),
            # `updated_at` is set by the application's trigger.
            then=Update({UserSession.status: "offline"}),
            every=timedelta(minutes=1),
            after=timedelta(minutes=10),
        ),
        Sweep(
            name="connect.video_requests",
            model=VideoRequest,
            rule="requests pending past expires_at expire; one without it {after} after it was made",
            why="The table has a status for it that nothing sets (connect.md, video_requests).",
            due=and_(
                VideoRequest.status == "pending",
                func.coalesce(
                    func.coalesce(VideoRequest.expires_at, VideoRequest.requested_at + AFTER) < NOW, True
                ),
            ),
            # `responded_at` stays empty: nobody did.
            then=Update({VideoRequest.status: "expired"}),
            every=timedelta(minutes=1),
            after=timedelta(hours=24),
        ),
        Sweep(
            name="connect.calls",
            model=InteractionLog,
            rule="calls that never ended are closed at a length of {after}, as 'timeout' unless they had an "
            "outcome or a connection came of them",
            why="A crash leaves a call open for ever (connect.md, interaction_logs). One that a connection "
            "came of was no timeout, whatever its outcome still says.",
            # One whose beginning is not known stays as it is: nobody can say how long it was.
            due=and_(InteractionLog.ended_at.is_(None), InteractionLog.started_at < NOW - AFTER),
            then=Update(
                {
                    InteractionLog.ended_at: InteractionLog.started_at + AFTER,
                    InteractionLog.duration_seconds: cast(extract("epoch", AFTER), Integer),
                    InteractionLog.outcome: case((_NO_OUTCOME, "timeout"), else_=InteractionLog.outcome),
                }
            ),
            every=timedelta(minutes=5),
            after=timedelta(hours=4),
            # The index has all calls of all times: an hour's are read, the walk finds older ones.
            quick=and_(
                InteractionLog.started_at >= NOW - AFTER - timedelta(hours=1),
                InteractionLog.started_at < NOW - AFTER,
            ),
            walk=timedelta(days=1),
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
            then=Update({ChatRoom.is_active: False}),
            every=timedelta(minutes=5),
            # The index has nearly all of them: most rooms are active.
            walk=timedelta(hours=3),
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
            # NULL is none of these, for the documented function too: a call of which nobody knows what came
            # may be one that mattered.
            guard=InteractionLog.outcome.in_(["no_action", "both_left", "timeout"]),
            refers=(
                Stays(
                    Connection.interaction_log_id,
                    "CASCADE: it would take the connection, its chat room, messages and video requests along",
                ),
            ),
            owners=_OWNERS,
            after=timedelta(days=365),
            # The index has all that stay for their connection's sake, of all times: a day's are read, the
            # walk finds older ones.
            quick=and_(
                InteractionLog.started_at >= NOW - AFTER - timedelta(days=1),
                InteractionLog.started_at < NOW - AFTER,
            ),
            walk=timedelta(days=1),
        ),
        Retention(
            name="connect.messages",
            model=Message,
            rule="messages older than {after} are deleted, with their read marks",
            why="Messages do not stay for ever (connect.md, Data Retention and Privacy), and no time is "
            "documented. Their room and connection stay.",
            age=Message.created_at,
            refers=(Goes(MessageReadStatus.message_id, "CASCADE: a mark says nothing without its message"),),
            owners=_OWNERS,
        ),
    ),
    entities={"user": User, "room": ChatRoom},
    untouched={
        connect.User: "accounts are the application's own",
        connect.Profile: "profiles go with their user",
        connect.Connection: "a connection keeps its log alive; it never ages by itself",
    },
)
