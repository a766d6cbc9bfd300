"""What the local stack feeds for retention: rows that have had their time, and rows that have not."""

import os
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from models import audiorooms, connect, echoroom, openchat, pern
from models.platform import AttachmentEvent, DeadLetter, ScanVerdict
from stack.demo.rows import (
    Fed,
    Feed,
    Place,
    a_call,
    a_connection,
    a_listener,
    a_room,
    a_studio,
    a_talk,
    ada,
    bea,
    cleo,
    dan,
    is_changed,
    is_gone,
    pair,
    utc,
)

#: Of a conversation that sets a limit of its own, in days.
OWN_LIMIT = 40


# -- echoroom --------------------------------------------------------------------------------------------


def _echoroom_messages(feed: Feed) -> Fed:
    here = ada(feed, a_room(feed))

    def message(at: datetime, **values: Any) -> UUID:
        content = {"sender_name": "Ada", "content": "Good night"} | values
        return feed.add(echoroom.ChatMessage, created_at=at - feed.period, **content, **here)

    stale = message(feed.soon)
    by = {"user_id": here["user_id"], "emoji": "🌙"}
    reaction = feed.add(echoroom.MessageReaction, message_id=stale, created_at=feed.once, **by)
    reply = message(feed.later, reply_to=stale)
    return Fed(
        "what was said long ago, with a reaction; and a reply from later",
        feed.soon,
        [
            is_gone(echoroom.ChatMessage, stale),
            is_gone(echoroom.MessageReaction, reaction),
            is_changed(echoroom.ChatMessage, reply, reply_to=None),
        ],
        [Place(echoroom.ChatMessage, message(feed.later))],
    )


def _anonymous_users(feed: Feed) -> Fed:
    def user(until: datetime) -> UUID:
        since = until - feed.period
        times = {"last_active": None, "created_at": since, "updated_at": since}
        return feed.add(echoroom.User, username="Ada", is_anonymous=True, **times)

    expired, there = user(feed.soon), user(feed.later)
    columns = {"session_id": a_room(feed), "user_id": expired, "sender_name": "Ada", "content": "Sleep well"}
    # Without a time: it is no sign of life, and does not age.
    message = feed.add(echoroom.ChatMessage, created_at=None, **columns)
    return Fed(
        "a user without an account who never came back; their messages stay",
        feed.soon,
        [
            is_gone(echoroom.User, expired),
            is_changed(echoroom.ChatMessage, message, user_id=None, sender_name="Deleted user"),
        ],
        [Place(echoroom.User, there)],
    )


# -- openchat --------------------------------------------------------------------------------------------


def _deleted(at: datetime) -> dict[str, Any]:
    # As most are: `deleted_at` is often left NULL.
    return {"is_deleted": True, "updated_at": utc(at)}


def _file(feed: Feed, message: UUID, user: UUID, **values: Any) -> UUID:
    name = {"filename": "tickets.pdf", "original_filename": "tickets.pdf", "mime_type": "application/pdf"}
    # Long since looked at: there is no file to this one.
    done = {"processing_status": "completed", "is_scanned": True, "scan_result": "clean"}
    return feed.add(
        openchat.Attachment,
        message_id=message,
        uploaded_by=user,
        file_size=1,
        storage_key=f"uploads/{uuid4()}.pdf",
        **name,
        **done,
        **values,
    )


def _message(feed: Feed, talk: UUID, user: UUID, **values: Any) -> UUID:
    columns = {"sender_id": user, "content": "Tickets", "created_at": utc(feed.counted)}
    return feed.add(openchat.Message, conversation_id=talk, **columns, **values)


def _deleted_attachments(feed: Feed) -> Fed:
    user = bea(feed)
    message = _message(feed, a_talk(feed, user)[0], user)

    def file(until: datetime) -> UUID:
        return _file(feed, message, user, **_deleted(until - feed.period))

    return pair(feed, "a file that was deleted long ago", openchat.Attachment, file)


def _deleted_messages(feed: Feed) -> Fed:
    user = bea(feed)
    talk, _ = a_talk(feed, user)
    stale, stays = (
        _message(feed, talk, user, **_deleted(at - feed.period)) for at in (feed.soon, feed.later)
    )
    return Fed(
        "a message that was deleted long ago, with its file",
        feed.soon,
        [
            is_gone(openchat.Message, stale),
            is_gone(openchat.Attachment, _file(feed, stale, user)),
        ],
        [Place(openchat.Message, stays)],
    )


def _conversation(feed: Feed, until: datetime) -> UUID:
    return feed.add(openchat.Conversation, created_by=bea(feed), **_deleted(until - feed.period))


def _conversation_messages(feed: Feed) -> Fed:
    def message(until: datetime) -> UUID:
        return _message(feed, _conversation(feed, until), bea(feed))

    return pair(feed, "what was said in a conversation that was deleted", openchat.Message, message)


def _deleted_conversations(feed: Feed) -> Fed:
    def conversation(until: datetime) -> UUID:
        return _conversation(feed, until)

    return pair(feed, "an empty conversation that was deleted long ago", openchat.Conversation, conversation)


def _anonymised_users(feed: Feed) -> Fed:
    def user(until: datetime) -> UUID:
        key = bea(feed, bio="Likes tea", **_deleted(until - feed.period))
        # So the row must stay.
        a_talk(feed, key)
        return key

    stale, stays = user(feed.soon), user(feed.later)
    session = feed.add(openchat.Session, user_id=stale, token=str(uuid4()), expires_at=utc(feed.later))
    anonymised = {
        "name": "Deleted user",
        "bio": None,
        "email": f"deleted-{stale}@invalid",
        "is_active": False,
    }
    return Fed(
        "a user who left, and whose messages are still there",
        feed.soon,
        [is_changed(openchat.User, stale, **anonymised), is_gone(openchat.Session, session)],
        [Place(openchat.User, stays)],
    )


def _deleted_users(feed: Feed) -> Fed:
    def user(until: datetime) -> UUID:
        key = uuid4()
        account = {"id": key, "name": "Deleted user", "email": f"deleted-{key}@invalid"}
        state = {"email_verified": False, "is_active": False, "is_deleted": True}
        at = utc(until - feed.period)
        feed.put(openchat.User, **account, **state, deleted_at=at, updated_at=at)
        return key

    return pair(feed, "a user who left, and whom no row names any more", openchat.User, user)


# -- connect ---------------------------------------------------------------------------------------------


def _logs(feed: Feed) -> Fed:
    old = {"started_at": feed.once, "ended_at": feed.once + timedelta(minutes=5), "outcome": "no_action"}
    she, he = cleo(feed), cleo(feed, "male")
    both = {"user1_id": she, "user2_id": he}
    led_on = a_call(feed, **both, **old)
    # What the log says is not what became of it.
    feed.add(connect.Connection, interaction_log_id=led_on, female_user_id=she, **both)
    return Fed(
        "a call that led to nothing; not one that a connection came of",
        feed.soon,
        [is_gone(connect.InteractionLog, a_call(feed, **old))],
        [Place(connect.InteractionLog, led_on)],
    )


def _connect_messages(feed: Feed) -> Fed:
    key, she, he = a_connection(feed)
    room = feed.add(connect.ChatRoom, connection_id=key, room_name="Tea")
    stale, stays = (
        feed.add(
            connect.Message,
            chat_room_id=room,
            sender_user_id=she,
            content="Hello",
            created_at=at - feed.period,
        )
        for at in (feed.soon, feed.later)
    )
    mark = feed.add(connect.MessageReadStatus, message_id=stale, user_id=he)
    return Fed(
        "a message of long ago, with its read mark",
        feed.soon,
        [is_gone(connect.Message, stale), is_gone(connect.MessageReadStatus, mark)],
        [Place(connect.Message, stays)],
    )


# -- pern ------------------------------------------------------------------------------------------------


def _sent(feed: Feed, at: datetime, settings: dict[str, Any]) -> UUID:
    user, stamps = dan(feed), {"created_at": at, "updated_at": at}
    talk = feed.add(pern.Conversation, created_by=user, settings=settings, **stamps)
    return feed.add(
        pern.Message, conversation_id=talk, sender_id=user, content_encrypted=os.urandom(8).hex(), **stamps
    )


def _pern_messages(feed: Feed, settings: dict[str, Any], says: str, period: timedelta) -> Fed:
    stale, stays = (_sent(feed, at - period, settings) for at in (feed.soon, feed.later))
    now = {"created_at": feed.now, "updated_at": feed.now}
    read = feed.add(pern.MessageStatus, message_id=stale, user_id=dan(feed), status="read", **now)
    return Fed(
        says,
        feed.soon,
        [is_gone(pern.Message, stale), is_gone(pern.MessageStatus, read)],
        [Place(pern.Message, stays)],
    )


def _messages(feed: Feed) -> Fed:
    return _pern_messages(feed, {}, "a message of long ago, with who has read it", feed.period)


def _messages_by_conversation(feed: Feed) -> Fed:
    says = f"a message of {OWN_LIMIT} days ago, in a conversation that keeps them for so long"
    limit = {"message_retention_days": OWN_LIMIT}
    return _pern_messages(feed, limit, says, timedelta(days=OWN_LIMIT))


def _audit(severity: str) -> Callable[[Feed], Fed]:
    def feed_it(feed: Feed) -> Fed:
        def entry(until: datetime) -> UUID:
            return feed.add(
                pern.AuditLog,
                action="login",
                resource_type="user",
                severity=severity,
                ip_address="192.0.2.1",
                user_agent="a phone",
                created_at=until - feed.period,
            )

        return pair(feed, f"an audit log of severity {severity}", pern.AuditLog, entry)

    return feed_it


# -- audiorooms ------------------------------------------------------------------------------------------


def _audit_log(feed: Feed) -> Fed:
    def entry(until: datetime) -> UUID:
        return feed.add(audiorooms.AuditLog, event_type="login_success", created_at=until - feed.period)

    return pair(feed, "an entry of the audit log", audiorooms.AuditLog, entry)


def _participants(feed: Feed) -> Fed:
    room = a_studio(feed, active=False)
    stale, stays = (
        a_listener(feed, room, left - timedelta(minutes=10), left_at=left)
        for left in (feed.once, feed.uncounted)
    )
    return Fed(
        "a listener of long ago, whose day has been counted",
        feed.soon,
        [is_gone(audiorooms.RoomParticipant, stale)],
        [Place(audiorooms.RoomParticipant, stays)],
    )


def _rooms(feed: Feed) -> Fed:
    def room(until: datetime) -> UUID:
        since = until - feed.period
        return a_studio(feed, active=False, created_at=since, updated_at=since)

    stale, stays = room(feed.soon), room(feed.later)
    statistics = feed.add(
        audiorooms.RoomAnalytics, room_id=stale, date=utc(feed.once).date(), total_listeners=7
    )
    return Fed(
        "a room that was closed long ago; its statistics stay",
        feed.soon,
        [
            is_gone(audiorooms.AudioRoom, stale),
            is_changed(audiorooms.RoomAnalytics, statistics, room_id=None, total_listeners=7),
        ],
        [Place(audiorooms.AudioRoom, stays)],
    )


# -- ours ------------------------------------------------------------------------------------------------


def _dead_letters(feed: Feed) -> Fed:
    def letter(until: datetime) -> Any:
        values = {"task": "stack.example", "task_id": "", "payload": {}, "reason": "an example"}
        return feed.put(DeadLetter, created_at=until - feed.period, **values)

    return pair(feed, "an old dead letter", DeadLetter, letter)


def _attachment_history(feed: Feed) -> Fed:
    def event(until: datetime) -> Any:
        of = {"app": "pern", "attachment_id": uuid4(), "attempt": 1, "event": "claimed"}
        return feed.put(AttachmentEvent, at=until - feed.period, **of)

    return pair(feed, "the event log of a file that is gone", AttachmentEvent, event)


def _scan_verdicts(feed: Feed) -> Fed:
    def verdict(until: datetime) -> Any:
        reached = {"engine_version": "1", "signature_version": "1", "verdict": "clean"}
        return feed.put(ScanVerdict, sha256=os.urandom(32).hex(), scanned_at=until - feed.period, **reached)

    return pair(feed, "a verdict on a file that is no attachment any more", ScanVerdict, verdict)


#: What is fed for each policy of retention.
AGED: dict[str, Callable[[Feed], Fed]] = {
    "echoroom.messages": _echoroom_messages,
    "echoroom.anonymous_users": _anonymous_users,
    "openchat.deleted_attachments": _deleted_attachments,
    "openchat.deleted_messages": _deleted_messages,
    "openchat.conversation_messages": _conversation_messages,
    "openchat.deleted_conversations": _deleted_conversations,
    "openchat.anonymised_users": _anonymised_users,
    "openchat.deleted_users": _deleted_users,
    "connect.logs": _logs,
    "connect.messages": _connect_messages,
    "pern.messages_by_conversation": _messages_by_conversation,
    "pern.messages": _messages,
    **{
        f"pern.audit_{severity}": _audit(severity)
        for severity in ("info", "warning", "error", "critical", "security")
    },
    "audiorooms.audit_log": _audit_log,
    "audiorooms.participants": _participants,
    "audiorooms.rooms": _rooms,
    "roomkeeper.dead_letters": _dead_letters,
    "roomkeeper.attachment_history": _attachment_history,
    "roomkeeper.scan_verdicts": _scan_verdicts,
}
