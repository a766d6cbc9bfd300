"""Messages and people for `pern` and `connect`, as their own services make them."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Connection, insert, select

from models import connect, pern
from tasks.delivery.events import Event

DAY = datetime(2026, 3, 1, tzinfo=UTC)
Rows = dict[tuple[UUID, UUID], tuple[Any, ...]]


def at(seconds: float) -> datetime:
    """Return the moment so many seconds after the day began."""
    return datetime.fromtimestamp(DAY.timestamp() + seconds, UTC)


def event(message: UUID, user: UUID, status: Any, seconds: float) -> Event:
    return Event(message_id=message, user_id=user, status=status, at=at(seconds))


class Pern:
    """`pern`: people, and messages of one of them."""

    name = "pern"
    stamps = {"created_at": DAY, "updated_at": DAY}  # noqa: RUF012

    def people(self, connection: Connection, count: int) -> list[UUID]:
        ids = sorted(uuid4() for _ in range(count))
        for one in ids:
            names = {"username": one.hex, "email": f"{one}@x.org", "display_name": "Bob"}
            connection.execute(insert(pern.User).values(id=one, password_hash="x", **names, **self.stamps))
        return ids

    def messages(self, connection: Connection, sender: UUID, count: int) -> list[UUID]:
        ids = sorted(uuid4() for _ in range(count))
        self.add(connection, sender, ids)
        return ids

    def add(self, connection: Connection, sender: UUID, ids: Sequence[UUID]) -> None:
        """Add messages with these ids, in a conversation of their own."""
        room = uuid4()
        connection.execute(insert(pern.Conversation).values(id=room, created_by=sender, **self.stamps))
        common = {"conversation_id": room, "sender_id": sender, "content_encrypted": "…", **self.stamps}
        if ids:
            connection.execute(insert(pern.Message), [{"id": one, **common} for one in ids])

    def rows(self, connection: Connection, messages: Sequence[UUID]) -> Rows:
        """Return (status, delivered_at, read_at) by message and person."""
        table = pern.MessageStatus
        columns = (table.message_id, table.user_id, table.status, table.delivered_at, table.read_at)
        found = connection.execute(select(*columns).where(table.message_id.in_(messages)))
        return {(row[0], row[1]): tuple(row[2:]) for row in found}


class Connect:
    """`connect`: people, and messages of one of them to another, with whom they were matched."""

    name = "connect"

    def people(self, connection: Connection, count: int) -> list[UUID]:
        ids = sorted(uuid4() for _ in range(count))
        for one in ids:
            names = {"username": one.hex, "email": f"{one}@x.org", "password_hash": "x", "role": "male"}
            connection.execute(insert(connect.User).values(id=one, **names))
        return ids

    def messages(self, connection: Connection, sender: UUID, count: int) -> list[UUID]:
        ids = sorted(uuid4() for _ in range(count))
        self.add(connection, sender, ids)
        return ids

    def add(self, connection: Connection, sender: UUID, ids: Sequence[UUID]) -> None:
        """Add messages with these ids, in a chat room of their own."""
        (other,) = self.people(connection, 1)
        log, link, room = uuid4(), uuid4(), uuid4()
        both = {"user1_id": sender, "user2_id": other}
        connection.execute(insert(connect.InteractionLog).values(id=log, room_id=str(room), **both))
        connection.execute(
            insert(connect.Connection).values(id=link, interaction_log_id=log, female_user_id=other, **both)
        )
        connection.execute(insert(connect.ChatRoom).values(id=room, connection_id=link, room_name="x"))
        common = {"chat_room_id": room, "sender_user_id": sender, "content": "…", "created_at": DAY}
        if ids:
            connection.execute(insert(connect.Message), [{"id": one, **common} for one in ids])

    def rows(self, connection: Connection, messages: Sequence[UUID]) -> Rows:
        """Return (read_at,) by message and person."""
        table = connect.MessageReadStatus
        columns = (table.message_id, table.user_id, table.read_at)
        found = connection.execute(select(*columns).where(table.message_id.in_(messages)))
        return {(row[0], row[1]): tuple(row[2:]) for row in found}
