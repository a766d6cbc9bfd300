"""Examples of `audiorooms`' policies."""

from datetime import datetime, timedelta
from typing import Any

from models.audiorooms import AudioRoom, AuditLog, RoomAnalytics, RoomParticipant
from tests.contract.example import AT, NEW, STAMP, Case, Example, Of, Row, changes, refers
from tests.contract.scenario import LONG_AGO
from tests.sweeps.sweeping import INSTANT, NOW, ago

_HOUR_AGO = ago(hours=1)


def _room(**values: Any) -> Row:
    return Row(model=AudioRoom, values={getattr(AudioRoom, name): value for name, value in values.items()})


def _left(at: datetime, joined: datetime | None = LONG_AGO) -> dict[Any, Any]:
    """Return how a stay ends at a moment."""
    seconds = None if joined is None else (at - joined) // timedelta(seconds=1)
    return {RoomParticipant.left_at: at, RoomParticipant.connection_duration: seconds}


#: The last sign of life just past the limit of `audiorooms.dead`.
_LAST = ago(hours=12, than=INSTANT)

EXAMPLES = (
    Example(
        policy="audiorooms.suspended",
        row={AudioRoom.suspended_until: LONG_AGO},
        limits=(AudioRoom.suspended_until,),
        null_stays=(AudioRoom.suspended_until, AudioRoom.active),
        stays=({AudioRoom.active: False},),
        related=(
            # A stay does not end before it began.
            Row(
                model=RoomParticipant,
                by=RoomParticipant.room_id,
                values={RoomParticipant.joined_at: NOW},
                becomes=_left(NOW, NOW),
            ),
            refers(RoomParticipant.room_id, {RoomParticipant.left_at: LONG_AGO}),
            Row(
                model=RoomParticipant,
                by=RoomParticipant.room_id,
                values={RoomParticipant.joined_at: None},
                becomes={RoomParticipant.left_at: Of(AudioRoom.suspended_until)},
            ),
        ),
        becomes={AudioRoom.active: False, AudioRoom.updated_at: STAMP},
    ),
    Example(
        policy="audiorooms.stays",
        row={
            RoomParticipant.room_id: _room(active=False, updated_at=_HOUR_AGO),
            RoomParticipant.joined_at: LONG_AGO,
        },
        null_due=(RoomParticipant.left_at,),
        due=(
            Case(values={RoomParticipant.room_id: None}, becomes=_left(LONG_AGO)),
            Case(values={RoomParticipant.joined_at: None}, becomes=_left(_HOUR_AGO, None)),
            {RoomParticipant.room_id: _room(active=None, updated_at=_HOUR_AGO)},
        ),
        stays=({RoomParticipant.room_id: NEW}, {RoomParticipant.left_at: LONG_AGO}),
        becomes=_left(_HOUR_AGO),
    ),
    Example(
        policy="audiorooms.dead",
        row={RoomParticipant.room_id: NEW, RoomParticipant.joined_at: LONG_AGO},
        limits=(
            Case(
                values={RoomParticipant.joined_at: AT},
                becomes={RoomParticipant.left_at: lambda row: row["joined_at"]},
            ),
            Case(values={RoomParticipant.room_id: _room(updated_at=AT)}, becomes=_left(_LAST)),
            Case(
                beside=(
                    Row(
                        model=AuditLog,
                        values={AuditLog.room_id: Of(RoomParticipant.room_id), AuditLog.created_at: AT},
                    ),
                ),
                becomes=_left(_LAST),
            ),
            Case(
                beside=(
                    Row(
                        model=RoomParticipant,
                        values={
                            RoomParticipant.room_id: Of(RoomParticipant.room_id),
                            RoomParticipant.left_at: AT,
                        },
                    ),
                ),
                becomes=_left(_LAST),
            ),
        ),
        null_due=(RoomParticipant.left_at,),
        null_stays=(RoomParticipant.room_id,),
        due=(Case(values={RoomParticipant.joined_at: None}, becomes=_left(LONG_AGO, None)),),
        stays=(
            {RoomParticipant.left_at: LONG_AGO},
            {RoomParticipant.room_id: _room(active=False)},
            {RoomParticipant.room_id: _room(active=None)},
        ),
        becomes=_left(LONG_AGO),
    ),
    Example(
        policy="audiorooms.duplicates",
        row={
            RoomParticipant.room_id: NEW,
            RoomParticipant.client_id: "ada",
            RoomParticipant.joined_at: LONG_AGO,
        },
        timeless=True,
        related=(
            Row(
                model=RoomParticipant,
                values={
                    RoomParticipant.room_id: Of(RoomParticipant.room_id),
                    RoomParticipant.client_id: Of(RoomParticipant.client_id),
                    RoomParticipant.joined_at: _HOUR_AGO,
                },
            ),
        ),
        null_due=(RoomParticipant.left_at,),
        null_stays=(RoomParticipant.room_id, RoomParticipant.client_id),
        due=(Case(values={RoomParticipant.joined_at: None}, becomes=_left(_HOUR_AGO, None)),),
        stays=({RoomParticipant.left_at: LONG_AGO},),
        becomes=_left(_HOUR_AGO),
    ),
    Example(
        policy="audiorooms.backwards",
        row={RoomParticipant.joined_at: NOW, RoomParticipant.left_at: LONG_AGO},
        limits=(RoomParticipant.left_at,),
        null_stays=(RoomParticipant.joined_at, RoomParticipant.left_at),
        becomes=_left(NOW, NOW),
    ),
    Example(
        policy="audiorooms.audit_log",
        row={AuditLog.user_id: NEW, AuditLog.room_id: NEW},
        limits=(AuditLog.created_at,),
        null_due=(AuditLog.user_id, AuditLog.room_id),
        null_stays=(AuditLog.created_at,),
        held={"user": (AuditLog.user_id,), "room": (AuditLog.room_id,)},
    ),
    Example(
        policy="audiorooms.participants",
        row={
            RoomParticipant.room_id: _room(active=False),
            RoomParticipant.user_id: NEW,
            RoomParticipant.joined_at: LONG_AGO,
            RoomParticipant.left_at: LONG_AGO,
        },
        limits=(RoomParticipant.left_at, RoomParticipant.joined_at),
        null_due=(
            RoomParticipant.joined_at,
            RoomParticipant.left_at,
            RoomParticipant.room_id,
            RoomParticipant.user_id,
        ),
        due=(
            {RoomParticipant.role: None},
            {RoomParticipant.room_id: _room(active=None)},
            # What a wrong clock says is passed over: the room's end is that of the stay.
            {RoomParticipant.left_at: NOW + timedelta(days=365)},
            {RoomParticipant.joined_at: NOW + timedelta(days=365)},
        ),
        stays=(
            {RoomParticipant.room_id: _room(active=True)},
            {RoomParticipant.left_at: None, RoomParticipant.room_id: None},
        ),
        held={"user": (RoomParticipant.user_id,), "room": (RoomParticipant.room_id,)},
    ),
    Example(
        policy="audiorooms.rooms",
        row={AudioRoom.active: False, AudioRoom.created_by: NEW},
        limits=(
            AudioRoom.updated_at,
            Case(values={AudioRoom.updated_at: None, AudioRoom.created_at: AT}),
        ),
        null_due=(AudioRoom.active, AudioRoom.updated_at, AudioRoom.created_at, AudioRoom.created_by),
        stays=(
            {AudioRoom.active: True},
            {AudioRoom.updated_at: None, AudioRoom.created_at: None},
        ),
        protected_by=(refers(RoomParticipant.room_id),),
        related=(
            changes(RoomAnalytics.room_id),
            changes(AuditLog.room_id, values={AuditLog.user_id: NEW}),
        ),
        held={"user": (AudioRoom.created_by, AuditLog.user_id), "room": (AudioRoom.id,)},
    ),
)
