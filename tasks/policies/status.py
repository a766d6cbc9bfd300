"""How an application keeps the statuses of its messages: a record for each of the three ways."""

from dataclasses import dataclass
from typing import Any

from tasks.policies.columns import Column, Model, names_of, table_of
from workers.inspection import Need

_TASK = "delivery.drain"


def _need(model: Any, privileges: set[str], *columns: Column | None) -> Need:
    return Need(table_of(model), frozenset(names_of(columns)), frozenset(privileges))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StatusRows:
    """One row for each message and person, that says how far the message has come with them.

    Attributes:
        model: the table; (message, user) is unique.
        why: the rule in a sentence, with the document it comes from.
        order: the statuses from the weakest to the strongest. One that no event brings, and that outranks
            all that do, stays.
        id: supplied by us, as are the times; None where the database supplies it.
        message_id, user_id: the keys of the message and the person, in tables of their own.
        sent_at: of the message; nothing is delivered, or read, before.
    """

    model: Model
    why: str
    order: tuple[str, ...]
    id: Column | None
    message: Column
    user: Column
    status: Column
    delivered_at: Column
    read_at: Column
    created_at: Column
    updated_at: Column
    message_id: Column
    user_id: Column
    sent_at: Column

    task = _TASK

    @property
    def models(self) -> tuple[Model, ...]:
        """The table."""
        return (self.model,)

    def needs(self) -> list[Need]:
        """Return what the job needs of the database."""
        written = (self.status, self.delivered_at, self.read_at, self.created_at, self.updated_at)
        return [
            _need(self.model, {"SELECT", "INSERT", "UPDATE"}, self.id, self.message, self.user, *written),
            _need(self.message_id.class_, {"SELECT"}, self.message_id, self.sent_at),
            _need(self.user_id.class_, {"SELECT"}, self.user_id),
        ]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ReadMarks:
    """One row for each message and person who has read it. No other status is kept.

    Attributes:
        model: the table; (message, user) is unique, and the database supplies the id.
        why: the rule in a sentence, with the document it comes from.
        read_at: when it was read first.
        message_id, sender, sent_at: of the messages; a sender does not count as a reader, and no message
            is read before it was sent.
        user_id: the key of the person.
    """

    model: Model
    why: str
    message: Column
    user: Column
    read_at: Column
    message_id: Column
    sender: Column
    sent_at: Column
    user_id: Column

    task = _TASK

    @property
    def models(self) -> tuple[Model, ...]:
        """The table."""
        return (self.model,)

    def needs(self) -> list[Need]:
        """Return what the job needs of the database."""
        return [
            _need(self.model, {"SELECT", "INSERT", "UPDATE"}, self.message, self.user, self.read_at),
            _need(self.message_id.class_, {"SELECT"}, self.message_id, self.sender, self.sent_at),
            _need(self.user_id.class_, {"SELECT"}, self.user_id),
        ]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ReadPointers:
    """No row for each reader: each participant's pointer to the last message read, counts on each message.

    Times are naive and hold UTC. Messages stand in the order of (created_at, id).

    Attributes:
        why: the rule in a sentence, with the document it comes from.
        message, conversation, sender, created_at: of the messages.
        status: of a message: 'sent' becomes 'delivered', and that 'read'; all else is the application's own.
        delivered_at: when it first reached a recipient.
        read_by_count: how many participants but the sender have read it.
        deleted: whether a message is deleted; such a one is not unread.
        participant, member_of, user, member_status, joined_at, left_at: of the participants. 'active' ones
            are waited for, unless they have left since they joined; an application may write either.
        user_id, user_deleted: of the users; no message waits for one who is deleted, or anonymised.
        pointer: the last message that was read; no foreign key.
        last_read_at: the latest time of reading.
        unread_count: messages of others after the pointer, without deleted ones.
        conversation_id, message_count, participant_count, last_message_at: of the conversations; only a
            recount writes them.
        last_activity_at: of a conversation; those with the latest are recounted first.
    """

    why: str
    message: Column
    conversation: Column
    sender: Column
    created_at: Column
    status: Column
    delivered_at: Column
    read_by_count: Column
    deleted: Column
    participant: Column
    member_of: Column
    user: Column
    member_status: Column
    joined_at: Column
    left_at: Column
    user_id: Column
    user_deleted: Column
    pointer: Column
    last_read_at: Column
    unread_count: Column
    conversation_id: Column
    message_count: Column
    participant_count: Column
    last_message_at: Column
    last_activity_at: Column

    task = _TASK

    @property
    def models(self) -> tuple[Model, ...]:
        """The messages, the participants and the conversations."""
        owners: list[Any] = [self.message.class_, self.participant.class_, self.conversation_id.class_]
        return tuple(owners)

    def needs(self) -> list[Need]:
        """Return what the job needs of the database."""
        messages, participants, conversations = self.models
        both = {"SELECT", "UPDATE"}
        return [
            _need(
                messages,
                both,
                *(self.message, self.conversation, self.sender, self.created_at, self.status),
                *(self.delivered_at, self.read_by_count, self.deleted),
            ),
            _need(
                participants,
                both,
                *(
                    self.participant,
                    self.member_of,
                    self.user,
                    self.member_status,
                    self.joined_at,
                    self.left_at,
                ),
                *(self.pointer, self.last_read_at, self.unread_count),
            ),
            _need(
                conversations,
                both,
                *(self.conversation_id, self.message_count, self.participant_count, self.last_message_at),
                self.last_activity_at,
            ),
            _need(self.user_id.class_, {"SELECT"}, self.user_id, self.user_deleted),
        ]
