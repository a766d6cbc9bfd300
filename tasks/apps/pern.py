"""`pern`: end-to-end encrypted chat, one to one and in groups."""

from datetime import timedelta

from sqlalchemy import (
    CTE,
    Boolean,
    ColumnElement,
    Double,
    Integer,
    Numeric,
    Subquery,
    Text,
    and_,
    case,
    cast,
    exists,
    extract,
    func,
    literal_column,
    or_,
    select,
    true,
    union_all,
)

from models import pern
from models.analytics import PernDaily, PernSecurityDaily, PernSessionsDaily
from models.pern import (
    Attachment,
    AuditLog,
    AuthSession,
    Conversation,
    ConversationParticipant,
    Message,
    MessageStatus,
    User,
    UserPublicKey,
)
from tasks.policies.app import App
from tasks.policies.attachment import AppColumns, AttachmentTable
from tasks.policies.columns import Column
from tasks.policies.retention import Cascade, Ignored, Owners, Retention, SetValues
from tasks.policies.rollup import DAY, FROM, TO, Rollup, SourceTable, bucket_of
from tasks.policies.status import StatusRows
from tasks.policies.sweep import AFTER, NOW, Delete, Sweep, Update, ahead, recent

_SINCE = NOW - AFTER

#: What a user has written, by way of their conversations: an index finds the latest messages there; of a
#: sender, all.
_WRITTEN = and_(
    ConversationParticipant.user_id == User.id,
    ConversationParticipant.is_active.is_(True),
    Message.conversation_id == ConversationParticipant.conversation_id,
    Message.sender_id == User.id,
)

#: The longest limit that a conversation may set: a hundred years; PostgreSQL's dates end some time.
MAX_DAYS = 36_600
_LIMIT = Conversation.settings["message_retention_days"]
_DAYS = case((func.jsonb_typeof(_LIMIT) == "number", cast(_LIMIT.astext, Numeric)))
_VALID = and_(_DAYS >= 1, _DAYS <= MAX_DAYS, func.trunc(_DAYS) == _DAYS)
#: Conversations whose own limit is no whole number of days: it is ignored, and told.
MALFORMED_LIMIT = and_(func.jsonb_typeof(_LIMIT) != "null", _VALID.is_not(True))
#: A conversation's own limit, in days; NULL if it has no valid one.
CONVERSATION_LIMIT = cast(case((_VALID, _DAYS)), Integer)
#: A message's own limit, in days: its conversation's.
_OWN_LIMIT = select(CONVERSATION_LIMIT).where(Conversation.id == Message.conversation_id).scalar_subquery()

_OWNERS: Owners = {
    Message: {"user": (Message.sender_id,), "conversation": (Message.conversation_id,)},
    MessageStatus: {"user": (MessageStatus.user_id,)},
    # Theirs who wrote the message.
    Attachment: {},
    AuditLog: {"user": (AuditLog.user_id, AuditLog.resource_id), "conversation": (AuditLog.resource_id,)},
}
_WITH_A_MESSAGE = (
    Cascade(MessageStatus.message_id, "CASCADE: a status, or reaction, says nothing without its message"),
    Cascade(Attachment.message_id, "CASCADE: a file goes with its message, its object first"),
    SetValues(Message.reply_to_id, "SET NULL: who has replied keeps what they wrote"),
)


def _audit(severity: str, longest: bool = False) -> Retention:
    return Retention(
        name=f"pern.audit_{severity}",
        model=AuditLog,
        rule=f"audit logs of severity {severity} older than {{after}} are archived and deleted, never edited",
        why="An immutable trail for incidents (pern.md, Compliance: Audit Logs)"
        + ("; security is kept longest." if longest else "."),
        age=AuditLog.created_at,
        where=AuditLog.severity == severity,
        owners=_OWNERS,
        must_archive=True,
    )


def _that_day(at: Column) -> ColumnElement[bool]:
    return and_(at >= FROM, at < TO)


# As for `openchat`: no index begins with the time, but one with the conversation.
_message = (
    select(Message.conversation_id, Message.sender_id, Message.message_type)
    .where(Message.conversation_id == Conversation.id, _that_day(Message.created_at))
    .offset(literal_column("0"))
    .lateral("message")
)
_sent = select(*_message.c).select_from(Conversation.__table__.join(_message, true())).cte("sent")
_messages = select(
    func.count().label("messages"),
    func.count(_sent.c.conversation_id.distinct()).label("conversations"),
).subquery("messages")


def _came(at: Column) -> CTE:
    """Return the statuses that came at a moment of that day: whose, and how long after their message."""
    # Each message by its key. PostgreSQL would rather read all that were ever sent, and join.
    sent_at = select(Message.created_at).where(Message.id == MessageStatus.message_id).scalar_subquery()
    came = (
        select(MessageStatus.user_id, at.label("at"), sent_at.label("sent_at"))
        .where(_that_day(at))
        .cte(f"{at.key}_that_day")
        .prefix_with("MATERIALIZED")
    )
    # Clocks that went back deliver nothing before it was sent. One sent at no moment has no such time.
    took = extract("epoch", func.greatest(came.c.at, came.c.sent_at) - came.c.sent_at)
    seconds = case((func.isfinite(came.c.sent_at, type_=Boolean), cast(took, Double)))
    return select(came.c.user_id, seconds.label("seconds")).cte(f"{at.key}_seconds")


def _receipts(of: CTE, many: str, one: str) -> Subquery:
    return select(
        func.count().label(many),
        func.percentile_cont(0.5).within_group(of.c.seconds).label(f"{one}_median_seconds"),
        func.percentile_cont(0.95).within_group(of.c.seconds).label(f"{one}_p95_seconds"),
    ).subquery(many)


_read = _came(MessageStatus.read_at)
_reads = _receipts(_read, "reads", "read")
_deliveries = _receipts(_came(MessageStatus.delivered_at), "deliveries", "delivery")
_people = union_all(
    # A system message names a sender who has not written it.
    select(_sent.c.sender_id.label("user_id")).where(_sent.c.message_type != "system"),
    select(_read.c.user_id),
).subquery("people")
_active = select(func.count(_people.c.user_id.distinct()).label("active_users")).subquery("active")
_daily = (
    select(bucket_of(PernDaily.day), *_messages.c, *_active.c, *_deliveries.c, *_reads.c)
    .select_from(_messages.join(_active, true()).join(_deliveries, true()).join(_reads, true()))
    .where(_messages.c.messages + _deliveries.c.deliveries + _reads.c.reads > 0)
)

PERN = App(
    name="pern",
    about="end-to-end encrypted 1:1 and group chat",
    document="pern.md",
    models=pern,
    attachments=AttachmentTable(
        model=Attachment,
        why="Files are encrypted unless the row says otherwise (pern.md, Data Encryption): those are checked "
        "for size and hash, and cannot be looked into; the others are scanned and drawn.",
        id=Attachment.id,
        key=Attachment.file_path,
        provider=None,
        name=Attachment.file_name,
        media_type=Attachment.mime_type,
        size=Attachment.file_size,
        encrypted=Attachment.is_encrypted,
        sha256=Attachment.file_hash,
        # No soft deletion, no state column: every row is live, and only our own table knows what is done.
        live=true(),
        unprocessed=None,
        created_at=Attachment.created_at,
        app_columns=AppColumns(
            media_type=Attachment.mime_type,
            small_key=Attachment.thumbnail_path,
            updated_at=Attachment.updated_at,
        ),
    ),
    delivery=StatusRows(
        model=MessageStatus,
        why="Delivery and read receipts (pern.md, Message Queue), merged and not overwritten: 'read' is not "
        "taken back by a late 'delivered', and a row that holds a reaction keeps it.",
        # 'reacted' comes from the application alone.
        order=("sent", "failed", "delivered", "read", "reacted"),
        id=MessageStatus.id,
        message=MessageStatus.message_id,
        user=MessageStatus.user_id,
        status=MessageStatus.status,
        delivered_at=MessageStatus.delivered_at,
        read_at=MessageStatus.read_at,
        created_at=MessageStatus.created_at,
        updated_at=MessageStatus.updated_at,
        message_id=Message.id,
        user_id=User.id,
        sent_at=Message.created_at,
    ),
    cleanup=(
        Sweep(
            name="pern.sessions",
            model=AuthSession,
            rule="sessions past expires_at, and those revoked more than {after} ago, are deleted when the "
            "day on which they began is in the figures",
            why="A refresh token that is of no use should not lie about (pern.md, Access Control: Session "
            "Management); one that was revoked may be asked about for a while.",
            due=or_(AuthSession.expires_at < NOW, AuthSession.revoked_at < _SINCE),
            action=Delete(),
            every=timedelta(minutes=5),
            after=timedelta(days=7),
        ),
        Sweep(
            name="pern.keys",
            model=UserPublicKey,
            rule="public keys past expires_at are deactivated, never deleted",
            why="An expired key must not be used to encrypt, and old messages still need it (pern.md, Core "
            "Entities: key rotation).",
            due=and_(UserPublicKey.is_active.is_(True), UserPublicKey.expires_at < NOW),
            action=Update({UserPublicKey.is_active: False, UserPublicKey.updated_at: NOW}),
            every=timedelta(minutes=5),
            # The index by expires_at has all keys that were ever deactivated, too.
            indexed=UserPublicKey.expires_at >= NOW - timedelta(days=1),
            full_pass_every=timedelta(hours=2),
        ),
        Sweep(
            name="pern.presence",
            model=User,
            rule="people online or away without any sign of life for {after} go offline",
            why="A crash leaves people online (pern.md, Caching Strategy: Presence Status). A message, a "
            "refreshed session and a change of the account are signs of life too; last_seen_at stays.",
            due=and_(
                User.status.in_(["online", "away"]),
                recent(User.updated_at).is_not(True),
                recent(User.last_seen_at).is_not(True),
                ~exists().where(AuthSession.user_id == User.id, recent(AuthSession.updated_at)),
                ~exists().where(_WRITTEN, recent(Message.created_at)),
            ),
            action=Update({User.status: "offline", User.updated_at: NOW}),
            every=timedelta(minutes=1),
            after=timedelta(minutes=5),
            ahead=func.greatest(
                ahead(User.updated_at),
                ahead(User.last_seen_at),
                select(func.max(AuthSession.updated_at))
                .where(AuthSession.user_id == User.id, AuthSession.updated_at > NOW)
                .correlate(User)
                .scalar_subquery(),
                select(func.max(Message.created_at))
                .where(_WRITTEN, Message.created_at > NOW)
                .correlate(User)
                .scalar_subquery(),
            ),
        ),
    ),
    retention=(
        Retention(
            name="pern.messages_by_conversation",
            model=Message,
            rule="messages older than their conversation's message_retention_days are deleted, with "
            "statuses, files and objects; a limit that is not a whole number of days is ignored",
            why="The limit that people set for their conversation (pern.md, Privacy: Data Retention), which "
            "nothing else enforces.",
            age=Message.created_at,
            cutoff=NOW - func.make_interval(0, 0, 0, _OWN_LIMIT),
            refers=_WITH_A_MESSAGE,
            owners=_OWNERS,
            ignored=Ignored(
                Conversation, MALFORMED_LIMIT, "message_retention_days is no whole number of days"
            ),
            # Their indexes begin with the conversation.
            full_pass_every=timedelta(days=1),
        ),
        Retention(
            name="pern.messages",
            model=Message,
            rule="messages older than {after} in conversations without a limit of their own are deleted, "
            "with statuses, files and objects",
            why="Messages do not stay for ever (pern.md, Compliance: Data Retention); a conversation's own "
            "limit stands above the general one.",
            age=Message.created_at,
            where=_OWN_LIMIT.is_(None),
            refers=_WITH_A_MESSAGE,
            owners=_OWNERS,
            full_pass_every=timedelta(days=1),
        ),
        *(_audit(severity) for severity in ("info", "warning", "error", "critical")),
        _audit("security", longest=True),
    ),
    rollups=(
        Rollup(
            name="pern.daily",
            model=PernDaily,
            rule="messages sent that day, deleted and system ones too, in how many conversations; statuses "
            "delivered, and read, that day, and in how many seconds from their message; the different people "
            "who sent other than system ones, or read",
            why="Delivery tracking and read receipts (pern.md, Core Entities): how quickly messages arrive, "
            "and how many people are there.",
            grain=DAY,
            bucket=PernDaily.day,
            select=_daily,
            source_tables=(
                SourceTable(Message, (Message.created_at,)),
                SourceTable(MessageStatus, (MessageStatus.delivered_at, MessageStatus.read_at)),
            ),
        ),
        Rollup(
            name="pern.sessions_daily",
            model=PernSessionsDaily,
            rule="sessions that began that day, and the different people whose they are",
            why="Session management (pern.md, Access Control): who signs in, from how many devices.",
            grain=DAY,
            bucket=PernSessionsDaily.day,
            select=select(
                bucket_of(PernSessionsDaily.day),
                func.count().label("sessions"),
                func.count(AuthSession.user_id.distinct()).label("users"),
            )
            # No index has this column; those that expired are deleted, so the table stays small.
            .where(_that_day(AuthSession.created_at))
            .having(func.count() > 0),
            source_tables=(SourceTable(AuthSession, (AuthSession.created_at,)),),
            # `pern.sessions` takes them soon.
            recompute_for=None,
        ),
        Rollup(
            name="pern.security_daily",
            model=PernSecurityDaily,
            rule="entries of the audit log made that day, by severity, and the different people they name",
            why="Incidents are seen by their number first (pern.md, Compliance: Audit Logs).",
            grain=DAY,
            bucket=PernSecurityDaily.day,
            key=(PernSecurityDaily.severity,),
            select=select(
                bucket_of(PernSecurityDaily.day),
                cast(AuditLog.severity, Text).label("severity"),
                func.count().label("events"),
                func.count(AuditLog.user_id.distinct()).label("users"),
            )
            .where(_that_day(AuditLog.created_at))
            .group_by(AuditLog.severity),
            source_tables=(SourceTable(AuditLog, (AuditLog.created_at,)),),
        ),
    ),
    entities={"user": User, "conversation": Conversation},
    untouched={
        pern.Conversation: "only read, for its limit and its messages; it stays when they have gone",
        pern.ConversationParticipant: "only read, for signs of life; memberships do not age",
    },
)
