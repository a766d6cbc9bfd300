"""Rows of `pern` for tests of retention."""

from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from models.pern import Attachment, Conversation, Message, MessageStatus, User
from tests.platform import Platform
from tests.sweeps.sweeping import NOW, add

STAMPS = {"created_at": NOW, "updated_at": NOW}


def person(platform: Platform) -> UUID:
    key = uuid4()
    names = {"username": key.hex, "email": f"{key}@x.org", "display_name": "Bob", "password_hash": "x"}
    return add(platform, User, id=key, **names, **STAMPS)


def conversation(platform: Platform, **settings: Any) -> UUID:
    return add(
        platform,
        Conversation,
        created_by=person(platform),
        **({"settings": settings} if settings else {}),
        **STAMPS,
    )


def message(platform: Platform, room: UUID, age: timedelta, **values: Any) -> UUID:
    sender = values.pop("sender_id", None) or person(platform)
    at = NOW - age
    return add(
        platform,
        Message,
        conversation_id=room,
        sender_id=sender,
        created_at=at,
        updated_at=at,
        **{"content_encrypted": "…", **values},
    )


def status(platform: Platform, of: UUID, **values: Any) -> UUID:
    who = values.pop("user_id", None) or person(platform)
    return add(platform, MessageStatus, message_id=of, user_id=who, status="read", **STAMPS, **values)


def attachment(platform: Platform, of: UUID, **values: Any) -> UUID:
    key = values.get("file_path") or platform.put(b"bytes")
    described = {"file_name": "a.bin", "file_path": key, "file_size": 5, "file_hash": uuid4().hex * 2}
    return add(
        platform, Attachment, message_id=of, mime_type="text/plain", **{**described, **values}, **STAMPS
    )
