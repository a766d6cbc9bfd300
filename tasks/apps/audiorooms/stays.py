"""When a stay in a room of `audiorooms` was over, and what tells that a room is alive."""

from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, case, func, or_, select
from sqlalchemy.orm import aliased

from models.audiorooms import AudioRoom, AuditLog, RoomParticipant
from tasks.policies.sweep import NOW

#: A time that is further ahead of the database's clock tells nothing. Clients send their own, and one that is
#: some hours wrong has joined all the same.
SKEW = timedelta(days=1)
#: After so long without any sign of life the server of a room has crashed.
DEAD_AFTER = timedelta(hours=12)

#: Another stay.
OTHER = aliased(RoomParticipant)
#: When others left, which is not before they joined: see `audiorooms.backwards`.
OTHER_LEFT = func.greatest(OTHER.joined_at, OTHER.left_at)


def plausible(at: Any) -> ColumnElement[Any]:
    """Return the time, or NULL if it is of a wrong clock."""
    return case((at <= NOW + SKEW, at))


def of_room(value: Any, *conditions: ColumnElement[bool]) -> ColumnElement[Any]:
    """Return a value of a stay's room itself; NULL where there is none."""
    found = select(value).where(AudioRoom.id == RoomParticipant.room_id, *conditions)
    return found.correlate(RoomParticipant).scalar_subquery()


def last_sign(room: Any, updated_at: Any, of: Any) -> ColumnElement[Any]:
    """Return a room's last sign of life.

    Args:
        room, updated_at: the room's id, and when it was last changed.
        of: the model of the rows that this is asked of.
    """

    def latest(model: Any, at: ColumnElement[Any]) -> ColumnElement[Any]:
        return select(func.max(at)).where(model.room_id == room).correlate(of).scalar_subquery()

    return func.greatest(
        plausible(updated_at),
        latest(OTHER, func.greatest(plausible(OTHER.joined_at), plausible(OTHER_LEFT))),
        latest(AuditLog, plausible(AuditLog.created_at)),
    )


#: That of a stay's room.
LAST = last_sign(RoomParticipant.room_id, of_room(AudioRoom.updated_at), RoomParticipant)
#: When a room that is not active ended, as far as it is known. A suspension that was over before the room was
#: closed is its end: our own closing comes up to a minute later. LEAST passes over NULLs.
END = of_room(
    func.least(NOW, AudioRoom.updated_at, AudioRoom.suspended_until),
    or_(AudioRoom.updated_at.is_not(None), AudioRoom.suspended_until.is_not(None)),
)
