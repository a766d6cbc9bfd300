"""The statistics of `openchat`; those of its attachments are the platform's (`tasks/apps/platform.py`)."""

from sqlalchemy import Boolean, Double, and_, case, cast, extract, func, literal_column, select, true

from models.analytics import OpenchatDaily, OpenchatMessagesDaily
from models.openchat import Conversation, Message
from tasks.policies.naive import before, moment_of, since
from tasks.policies.rollup import DAY, FROM_UTC, TO_UTC, Rollup, SourceTable, bucket_of

_FEEDS = (SourceTable(Message, (Message.created_at,)),)

# No index begins with the time, but one with the conversation: each is asked for what was said in it that
# day. 20,000 conversations take 0.15 s, however much was said on other days; to read all of 2 million
# messages takes three times as long. OFFSET keeps PostgreSQL from making a join of it that reads them all.
_message = (
    select(
        Message.conversation_id,
        Message.sender_id,
        Message.content_type,
        Message.is_system_message,
        moment_of(Message.created_at).label("created_at"),
        Message.delivered_at,
    )
    .where(
        Message.conversation_id == Conversation.id,
        since(Message.created_at, FROM_UTC),
        before(Message.created_at, TO_UTC),
    )
    .offset(literal_column("0"))
    .lateral("sent")
)
_sent = Conversation.__table__.join(_message, true())

_columns = _message.c
#: A user wrote it; a system message names a sender who did not.
_WRITTEN = and_(_columns.is_system_message.is_not(True), _columns.content_type != "system")
# A clock that went back delivers nothing before it was sent.
_TOOK = cast(
    extract("epoch", func.greatest(_columns.delivered_at, _columns.created_at) - _columns.created_at), Double
)
_SECONDS = case((func.isfinite(_columns.delivered_at, type_=Boolean), _TOOK))

OPENCHAT_ROLLUPS = (
    Rollup(
        name="openchat.messages_daily",
        model=OpenchatMessagesDaily,
        rule="messages sent that day by content type, deleted ones too",
        why="What people send to one another (openchat.md, Monitoring and Analytics).",
        grain=DAY,
        bucket=OpenchatMessagesDaily.day,
        key=(OpenchatMessagesDaily.content_type,),
        select=select(
            bucket_of(OpenchatMessagesDaily.day), _columns.content_type, func.count().label("messages")
        )
        .select_from(_sent)
        .group_by(_columns.content_type),
        source_tables=_FEEDS,
    ),
    Rollup(
        name="openchat.daily",
        model=OpenchatDaily,
        rule="messages sent that day, deleted and system ones too, in how many conversations; the different "
        "people who sent other than system ones; those delivered by now, and in how many seconds",
        why="Message delivery times and user activity (openchat.md, Monitoring and Analytics).",
        grain=DAY,
        bucket=OpenchatDaily.day,
        select=select(
            bucket_of(OpenchatDaily.day),
            func.count().label("messages"),
            func.count(_columns.sender_id.distinct()).filter(_WRITTEN).label("active_users"),
            func.count(_columns.conversation_id.distinct()).label("conversations"),
            func.count(_SECONDS).label("delivered"),
            func.percentile_cont(0.5).within_group(_SECONDS).label("delivery_median_seconds"),
            func.percentile_cont(0.95).within_group(_SECONDS).label("delivery_p95_seconds"),
        )
        .select_from(_sent)
        .having(func.count() > 0),
        source_tables=_FEEDS,
    ),
)
