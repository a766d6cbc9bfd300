"""What `openchat`'s rows have to be after some events, written down as plainly as the rules are."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

from tasks.delivery.events import Event

Position = tuple[datetime, UUID]
_HIGHEST = UUID(int=2**128 - 1)


@dataclass(frozen=True)
class Message:
    """A message, as far as the rules go."""

    id: UUID
    sender: UUID
    created_at: datetime
    status: str
    delivered_at: datetime | None
    read_by_count: int | None
    deleted: bool | None

    @property
    def position(self) -> Position:
        return self.created_at, self.id


@dataclass(frozen=True)
class Participant:
    """A participant, as far as the rules go."""

    user: UUID
    status: str
    pointer: UUID | None
    last_read_at: datetime | None
    unread_count: int | None


@dataclass(frozen=True)
class Room:
    """A conversation."""

    messages: dict[UUID, Message]
    participants: dict[UUID, Participant]

    def lines(self) -> list[str]:
        """Return a line for each row, to be compared."""
        messages = sorted(self.messages.values(), key=lambda message: message.position)
        people = sorted(self.participants.values(), key=lambda participant: participant.user)
        return [str(row) for row in (*messages, *people)]

    def place(self, participant: Participant) -> Position | None:
        """Where the participant's pointer stands; None is before all messages."""
        if participant.pointer in self.messages:
            return self.messages[participant.pointer].position
        if participant.pointer and participant.last_read_at:
            return participant.last_read_at, _HIGHEST
        return None

    def after(self, events: Iterable[Event]) -> "Room":
        """Return the room once all these events are known, whatever their order."""
        known = [
            event
            for event in events
            if event.status in ("delivered", "read")
            and event.message_id in self.messages
            and event.user_id in self.participants
        ]
        reads: dict[UUID, list[tuple[Position, datetime]]] = {}
        for event in known:
            if event.status == "read":
                position = self.messages[event.message_id].position
                reads.setdefault(event.user_id, []).append((position, _naive(event.at)))
        people = {
            user: self._moved(participant, reads[user]) if user in reads else participant
            for user, participant in self.participants.items()
        }
        moved = Room(self.messages, people)
        for user in reads:
            participant = self.participants[user]
            deleted = participant.pointer is not None and participant.pointer not in self.messages
            if deleted and participant.last_read_at:
                # The pointer is all that is left of a reading.
                place = self.place(participant)
                assert place
                reads[user].append((place, participant.last_read_at))
        messages = {
            message.id: self._changed(message, moved, known, reads) for message in self.messages.values()
        }
        return Room(messages, people)

    def _moved(self, participant: Participant, reads: list[tuple[Position, datetime]]) -> Participant:
        old = self.place(participant)
        new = max([*(position for position, _ in reads), *([old] if old else [])])
        passed = [message.position for message in self.messages.values() if message.position <= new]
        before = participant.last_read_at
        # Nothing is read before it was sent.
        last = max([*(max(at, position[0]) for position, at in reads), *([before] if before else [])])
        unread = [
            message
            for message in self.messages.values()
            if message.position > new and message.sender != participant.user and not message.deleted
        ]
        return replace(participant, pointer=max(passed)[1], last_read_at=last, unread_count=len(unread))

    def _changed(
        self,
        message: Message,
        moved: "Room",
        events: list[Event],
        reads: dict[UUID, list[tuple[Position, datetime]]],
    ) -> Message:
        others = [user for user in self.participants if user != message.sender]
        own = [event for event in events if event.message_id == message.id and event.user_id in others]
        times = [_naive(event.at) for event in own]
        times += [at for user in others for place, at in reads.get(user, []) if place >= message.position]
        times = [max(at, message.created_at) for at in times]
        passed = [
            user
            for user in others
            if _has_read(message, moved.place(moved.participants[user]))
            and not _has_read(message, self.place(self.participants[user]))
        ]
        earlier = bool(times) and (message.delivered_at is None or min(times) < message.delivered_at)
        waited_for = [moved.participants[user] for user in others]
        waited_for = [participant for participant in waited_for if participant.status == "active"]
        everybody = all(_has_read(message, moved.place(participant)) for participant in waited_for)
        status = message.status
        # Who has left or lost a pointer is no event: the status waits until there is one.
        if status == "sent" and (own or passed or earlier):
            status = "delivered"
        read = passed or any(event.status == "read" for event in own)
        if status in ("sent", "delivered") and read and waited_for and everybody:
            status = "read"
        return replace(
            message,
            status=status,
            delivered_at=min(times) if earlier else message.delivered_at,
            read_by_count=(message.read_by_count or 0) + len(passed) if passed else message.read_by_count,
        )


def _has_read(message: Message, place: Position | None) -> bool:
    return place is not None and place >= message.position


def _naive(at: datetime) -> datetime:
    return at.replace(tzinfo=None)
