"""`pern`: end-to-end encrypted chat, one to one and in groups."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from sqlalchemy import (
    CTE,
    Boolean,
    ColumnElement,
    Double,
    Insert,
    Integer,
    Numeric,
    Select,
    Subquery,
    Text,
    Uuid,
    and_,
    case,
    cast,
    exists,
    extract,
    func,
    insert,
    literal,
    literal_column,
    or_,
    select,
    true,
    union_all,
)

from models import pern
from models.analytics import PernDaily, PernFact, PernSecurityDaily, PernSessionsDaily
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
from models.platform import AttachmentJob
from tasks.apps.platform import job_facts
from tasks.policies.app import App
from tasks.policies.attachment import AppColumns, AttachmentTable
from tasks.policies.columns import Column, Model, table_of
from tasks.policies.retention import (
    FACTS_BATCH,
    FACTS_FROM,
    GOING,
    Cascade,
    Ignored,
    Owners,
    Retention,
    SetValues,
)
from tasks.policies.rollup import DAY, FROM, TO, Rollup, SourceTable, bucket_of, quarter_of
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
_fact = (
    select(PernFact.kind, PernFact.key, PernFact.seconds).where(_that_day(PernFact.at)).cte("fact_that_day")
)


def _facts(kind: str, column: Any) -> Select[Any]:
    """Return a column of what is kept of rows that were deleted early."""
    return select(column).where(_fact.c.kind == kind)


_sent_in = union_all(select(_sent.c.conversation_id.label("key")), _facts("message", _fact.c.key)).subquery(
    "sent_in"
)
_messages = select(
    func.count(_sent_in.c.key).label("messages"),
    func.count(_sent_in.c.key.distinct()).label("conversations"),
).subquery("messages")


def _seconds(at: Any, sent_at: Any) -> ColumnElement[Any]:
    """Return how long after its message a status came.

    Clocks that went back deliver nothing before it was sent. One sent at no moment has no such time.
    """
    took = extract("epoch", func.greatest(at, sent_at) - sent_at)
    return case((func.isfinite(sent_at, type_=Boolean), cast(took, Double)))


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
    seconds = _seconds(came.c.at, came.c.sent_at)
    return select(came.c.user_id, seconds.label("seconds")).cte(f"{at.key}_seconds")


def _receipts(of: CTE, many: str, one: str) -> Subquery:
    every = union_all(select(of.c.seconds), _facts(one, _fact.c.seconds)).subquery(f"every_{one}")
    return (
        select(
            func.count().label(many),
            func.percentile_cont(0.5).within_group(every.c.seconds).label(f"{one}_median_seconds"),
            func.percentile_cont(0.95).within_group(every.c.seconds).label(f"{one}_p95_seconds"),
        )
        .select_from(every)
        .subquery(many)
    )


_read = _came(MessageStatus.read_at)
_reads = _receipts(_read, "reads", "read")
_deliveries = _receipts(_came(MessageStatus.delivered_at), "deliveries", "delivery")
_people = union_all(
    # A system message names a sender who has not written it.
    select(_sent.c.sender_id.label("user_id")).where(_sent.c.message_type != "system"),
    select(_read.c.user_id),
    _facts("person", _fact.c.key),
).subquery("people")
_active = select(func.count(_people.c.user_id.distinct()).label("active_users")).subquery("active")
_daily = (
    select(bucket_of(PernDaily.day), *_messages.c, *_active.c, *_deliveries.c, *_reads.c)
    .select_from(_messages.join(_active, true()).join(_deliveries, true()).join(_reads, true()))
    .where(_messages.c.messages + _deliveries.c.deliveries + _reads.c.reads > 0)
)


def _kept(kind: str, at: Column, key: Any = None, seconds: Any = None) -> Select[Any]:
    """Return facts of the rows that go, by one of their moments; see `models.analytics.PernFact`."""
    values = (
        quarter_of(at).label("at"),
        literal(kind).label("kind"),
        cast(key, Uuid).label("key"),
        cast(seconds, Double).label("seconds"),
        FACTS_BATCH.label("batch"),
    )
    (row,) = at.property.columns[0].table.primary_key.columns
    kept = select(*values).where(row == func.any(GOING), at >= FACTS_FROM, func.isfinite(at))
    # Who sent or read something counts once.
    return kept.distinct() if kind == "person" else kept


def _keep(*facts: Select[Any]) -> Insert:
    return insert(table_of(PernFact)).from_select(
        ["at", "kind", "key", "seconds", "batch"], union_all(*facts)
    )


_of_message = Message.id == MessageStatus.message_id
_FACTS: Mapping[Model, Insert] = {
    Message: _keep(
        _kept("message", Message.created_at, Message.conversation_id),
        _kept("person", Message.created_at, Message.sender_id).where(Message.message_type != "system"),
    ),
    MessageStatus: _keep(
        _kept(
            "delivery",
            MessageStatus.delivered_at,
            seconds=_seconds(MessageStatus.delivered_at, Message.created_at),
        ).where(_of_message),
        _kept(
            "read", MessageStatus.read_at, seconds=_seconds(MessageStatus.read_at, Message.created_at)
        ).where(_of_message),
        _kept("person", MessageStatus.read_at, MessageStatus.user_id),
    ),
    AttachmentJob: job_facts("pern"),
}

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
            # A limit of a day must not freeze everyone's days, in which rows may come late.
            facts=_FACTS,
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
                SourceTable(PernFact, (PernFact.at,)),
            ),
            # 2: facts of deleted rows count, too.
            definition=2,
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
