"""Retention of `pern`: messages with their statuses, files and objects; audit logs by severity."""

from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from models.pern import Attachment, Conversation, Message, MessageStatus, User
from tasks.restore import restore
from tasks.retention import Stopped
from tests.cleanup.sweeping import INSTANT, NOW, add, ago, rows
from tests.platform import Platform
from tests.retention.retaining import days, everything, retain, retained

STAMPS = {"created_at": NOW, "updated_at": NOW}


def person(platform: Platform) -> UUID:
    key = uuid4()
    names = {"username": key.hex, "email": f"{key}@x.org", "display_name": "Bob", "password_hash": "x"}
    return add(platform, User, id=key, **names, **STAMPS)


def conversation(platform: Platform, **settings: Any) -> UUID:
    return add(
        platform, Conversation, created_by=person(platform), **({"settings": settings} if settings else {}), **STAMPS
    )


def message(platform: Platform, room: UUID, age: timedelta, **values: Any) -> UUID:
    sender = values.pop("sender_id", None) or person(platform)
    at = NOW - age
    return add(
        platform,
        Message,
        conversation_id=room,
        sender_id=sender,
        content_encrypted="…",
        created_at=at,
        updated_at=at,
        **values,
    )


def status(platform: Platform, of: UUID, **values: Any) -> UUID:
    who = values.pop("user_id", None) or person(platform)
    return add(platform, MessageStatus, message_id=of, user_id=who, status="read", **STAMPS, **values)


def attachment(platform: Platform, of: UUID, **values: Any) -> UUID:
    key = platform.put(b"bytes")
    described = {"file_name": "a.bin", "file_path": key, "file_size": 5, "file_hash": uuid4().hex * 2}
    return add(
        platform, Attachment, message_id=of, mime_type="text/plain", **{**described, **values}, **STAMPS
    )


def test_messages_go_with_statuses_files_and_objects_and_replies_stay(platform: Platform) -> None:
    days(platform, **{"pern.messages": 30})
    room = conversation(platform)
    old = message(platform, room, timedelta(days=30) + INSTANT)
    young = message(platform, room, timedelta(days=30), reply_to_id=old)
    read, file = status(platform, old), attachment(platform, old)
    kept_file = attachment(platform, young)
    reply = rows(platform, Message)[young]
    done = retain(platform, "pern.messages")
    assert (done.rows, done.remaining, done.error) == (1, 0, None)
    assert rows(platform, Message) == {young: {**reply, "reply_to_id": None}}
    assert rows(platform, MessageStatus) == {}
    assert set(rows(platform, Attachment)) == {kept_file}
    assert list(platform.objects()) == [rows(platform, Attachment)[kept_file]["file_path"]]
    assert read and file
    assert retain(platform, "pern.messages").rows == 0


def test_what_was_taken_comes_back(platform: Platform) -> None:
    days(platform, **{"pern.messages": 30})
    room = conversation(platform)
    old = message(platform, room, timedelta(days=31), metadata={"a": [1, None]})
    message(platform, room, timedelta(days=1), reply_to_id=old)
    status(platform, old)
    attachment(platform, old)
    before = everything(platform)
    retain(platform, "pern.messages")
    done = restore(1, platform.settings, operator="ada", reason="a mistake")
    assert everything(platform) == before
    assert done.rows == {"pern.messages": 1, "pern.attachments": 1, "pern.message_statuses": 1}
    assert (done.changed, done.other, done.there, done.objects, done.receipt) == (1, 0, 0, 1, 2)
    again = restore(1, platform.settings, operator="ada", reason="a mistake")
    assert everything(platform) == before
    assert (again.there, again.receipt, again.changed) == (3, None, 0)
    with pytest.raises(Stopped, match="were put back"):
        retain(platform, "pern.messages")
