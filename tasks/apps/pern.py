"""`pern`: end-to-end encrypted chat, one to one and in groups."""

from datetime import timedelta

from sqlalchemy import Integer, Numeric, and_, case, cast, exists, func, or_, select, true

from models import pern
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
from tasks.apps.retentions import Changes, Goes, Ignored, Owners, Retention
from tasks.apps.spec import App, AttachmentTable, Mirror
from tasks.apps.statuses import StatusRows
from tasks.apps.sweeps import AFTER, NOW, Delete, Sweep, Update

_SINCE = NOW - AFTER

#: The longest limit that a conversation may set: a hundred years; PostgreSQL's dates end some time.
MAX_DAYS = 36_600
_LIMIT = Conversation.settings["message_retention_days"]
_DAYS = case((func.jsonb_typeof(_LIMIT) == "number", cast(_LIMIT.astext, Numeric)))
_VALID = and_(_DAYS >= 1, _DAYS <= MAX_DAYS, func.trunc(_DAYS) == _DAYS)
#: Conversations whose own limit is no whole number of days: it is ignored, and told.
MALFORMED_LIMIT = and_(func.jsonb_typeof(_LIMIT) != "null", _VALID.is_not(True))
#: A message's own limit, in days: its conversation's, if that has a valid one.
_OWN_LIMIT = (
    select(cast(case((_VALID, _DAYS)), Integer))
    .where(Conversation.id == Message.conversation_id)
    .scalar_subquery()
)

_OWNERS: Owners = {
    Message: {"user": (Message.sender_id,), "conversation": (Message.conversation_id,)},
    MessageStatus: {"user": (MessageStatus.user_id,)},
    # Theirs who wrote the message.
    Attachment: {},
    AuditLog: {"user": (AuditLog.user_id, AuditLog.resource_id), "conversation": (AuditLog.resource_id,)},
}
_WITH_A_MESSAGE = (
    Goes(MessageStatus.message_id, "CASCADE: a status, or reaction, says nothing without its message"),
    Goes(Attachment.message_id, "CASCADE: a file goes with its message, its object first"),
    Changes(Message.reply_to_id, "SET NULL: who has replied keeps what they wrote"),
)


def _audit(severity: str, longest: bool = False) -> Retention:
    return Retention(
        name=f"pern.audit_{severity}",
        model=AuditLog,
        rule=f"audit logs of severity {severity} older than {{after}} are archived and deleted, never edited",
        why="A trail for incidents that nobody edits (pern.md, Compliance: Audit Logs)"
        + ("; security is kept longest." if longest else "."),
        age=AuditLog.created_at,
        guard=AuditLog.severity == severity,
        owners=_OWNERS,
        must_archive=True,
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
        mirror=Mirror(
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
    ),
    cleanup=(
        Sweep(
            name="pern.sessions",
            model=AuthSession,
            rule="sessions past expires_at, and those revoked more than {after} ago, are deleted",
            why="A refresh token that is of no use should not lie about (pern.md, Access Control: Session "
            "Management); one that was revoked may be asked about for a while.",
            due=or_(AuthSession.expires_at < NOW, AuthSession.revoked_at < _SINCE),
            then=Delete(),
            every=timedelta(minutes=5),
            after=timedelta(days=7),
        ),
        Sweep(
            name="pern.keys",
            model=UserPublicKey,
            rule="public keys past expires_at are deactivated, never deleted",
            why="Nobody may encrypt for an expired key, and old messages still need it (pern.md, Core "
            "Entities: key rotation).",
            due=and_(UserPublicKey.is_active.is_(True), UserPublicKey.expires_at < NOW),
            then=Update({UserPublicKey.is_active: False, UserPublicKey.updated_at: NOW}),
            every=timedelta(minutes=5),
            # The index by expires_at has all keys that were ever deactivated, too.
            quick=UserPublicKey.expires_at >= NOW - timedelta(days=1),
            walk=timedelta(hours=2),
        ),
        Sweep(
            name="pern.presence",
            model=User,
            rule="people online or away without any sign of life for {after} go offline",
            why="A crash leaves people online (pern.md, Caching Strategy: Presence Status). A message, a "
            "refreshed session and a change of the account are signs of life too; last_seen_at stays.",
            due=and_(
                User.status.in_(["online", "away"]),
                User.updated_at < _SINCE,
                func.coalesce(User.last_seen_at < _SINCE, True),
                ~exists().where(AuthSession.user_id == User.id, AuthSession.updated_at >= _SINCE),
                # By way of their conversations: an index finds the latest messages there; of a sender, all.
                ~exists().where(
                    ConversationParticipant.user_id == User.id,
                    ConversationParticipant.is_active.is_(True),
                    Message.conversation_id == ConversationParticipant.conversation_id,
                    Message.sender_id == User.id,
                    Message.created_at >= _SINCE,
                ),
            ),
            then=Update({User.status: "offline", User.updated_at: NOW}),
            every=timedelta(minutes=1),
            after=timedelta(minutes=5),
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
            walk=timedelta(days=1),
        ),
        Retention(
            name="pern.messages",
            model=Message,
            rule="messages older than {after} in conversations without a limit of their own are deleted, "
            "with statuses, files and objects",
            why="Messages do not stay for ever (pern.md, Compliance: Data Retention); a conversation's own "
            "limit stands above the general one.",
            age=Message.created_at,
            guard=_OWN_LIMIT.is_(None),
            refers=_WITH_A_MESSAGE,
            owners=_OWNERS,
            walk=timedelta(days=1),
        ),
        *(_audit(severity) for severity in ("info", "warning", "error", "critical")),
        _audit("security", longest=True),
    ),
    entities={"user": User, "conversation": Conversation},
    untouched={
        pern.Conversation: "only read, for its limit; it stays when its messages have gone",
        pern.ConversationParticipant: "only read, for signs of life; memberships do not age",
    },
)
