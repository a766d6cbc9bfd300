"""People, conversations and messages of the applications that keep message statuses."""

import random
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Table, insert

from models import openchat
from tasks.policies.columns import Model, table_of

#: The time from which tests count.
START = datetime(2026, 3, 1, 12, tzinfo=UTC)


def moment(seconds: float) -> datetime:
    """Return the time so many seconds after `START`."""
    return START + timedelta(seconds=seconds)


def naive(seconds: float) -> datetime:
    """Return the same as `openchat` keeps it."""
    return moment(seconds).replace(tzinfo=None)


@dataclass
class OpenchatWorld:
    """`openchat`'s side. Rows are kept until `save`: many cost no more than one.

    Attributes:
        chance: where ids come from.
    """

    chance: random.Random = field(default_factory=random.SystemRandom)
    _new: dict[Table, list[dict[str, Any]]] = field(default_factory=dict)

    def id(self) -> UUID:
        """Return an id that nothing has."""
        return UUID(int=self.chance.getrandbits(128), version=4)

    def person(self) -> UUID:
        """Add a person; return the id."""
        user = self.id()
        return self._add(openchat.User, id=user, name="Ada", email=f"{user}@x.org", email_verified=True)

    def conversation(self, **columns: Any) -> UUID:
        """Add a conversation without participants; return its id."""
        return self._add(openchat.Conversation, created_by=self.person(), **columns)

    def participant(self, conversation: UUID, user: UUID | None = None, **columns: Any) -> UUID:
        """Add a participant, a new person if no user is given; return the person's id."""
        user = user or self.person()
        values = {"status": "active", "last_read_message_id": None, "last_read_at": None, "unread_count": 0}
        self._add(
            openchat.ConversationParticipant,
            conversation_id=conversation,
            user_id=user,
            **values | columns,
        )
        return user

    def message(self, conversation: UUID, sender: UUID, seconds: float, **columns: Any) -> UUID:
        """Add a message of so many seconds after `START`; return its id."""
        at = naive(seconds)
        values = {
            "status": "sent",
            "read_by_count": 0,
            "delivered_at": None,
            "is_deleted": False,
            "created_at": at,
            "updated_at": at,
        }
        return self._add(
            openchat.Message,
            conversation_id=conversation,
            sender_id=sender,
            content="hello",
            **values | columns,
        )

    def save(self, connection: Connection) -> None:
        """Insert what was added since the last time."""
        for model in (
            openchat.User,
            openchat.Conversation,
            openchat.ConversationParticipant,
            openchat.Message,
        ):
            table = table_of(model)
            if rows := self._new.pop(table, []):
                connection.execute(insert(table), rows)

    def _add(self, model: Model, **values: Any) -> UUID:
        key: UUID = values.setdefault("id", self.id())
        self._new.setdefault(table_of(model), []).append(values)
        return key
