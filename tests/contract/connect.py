"""Examples of `connect`'s policies."""

from datetime import timedelta

from models.connect import (
    ChatRoom,
    Connection,
    InteractionLog,
    Message,
    MessageReadStatus,
    UserSession,
    VideoRequest,
)
from tests.contract.example import AT, NEW, STAMP, Case, Example, Of, Row, goes, refers
from tests.sweeps.sweeping import INSTANT, NOW, ago

_JUST_STARTED = NOW - timedelta(minutes=1)
_CALL = timedelta(hours=4)


def _in_call(side: object, **values: object) -> Case:
    call = {InteractionLog.started_at: _JUST_STARTED, side: Of(UserSession.user_id)}
    more = {getattr(InteractionLog, name): value for name, value in values.items()}
    return Case(
        values={UserSession.status: "in-call"},
        beside=(Row(model=InteractionLog, values={**call, **more}),),  # type: ignore[dict-item]
    )


EXAMPLES = (
    Example(
        policy="connect.sessions",
        row={UserSession.expires_at: ago(days=1)},
        limits=(
            Case(values={UserSession.expires_at: AT}, period=timedelta(0)),
            Case(values={UserSession.expires_at: None, UserSession.updated_at: AT}),
            Case(
                values={
                    UserSession.expires_at: None,
                    UserSession.updated_at: None,
                    UserSession.created_at: AT,
                }
            ),
        ),
        null_due=(UserSession.expires_at, UserSession.updated_at, UserSession.created_at),
        due=({UserSession.expires_at: None, UserSession.updated_at: None, UserSession.created_at: None},),
        stays=(
            {
                UserSession.expires_at: NOW + timedelta(days=400),
                UserSession.updated_at: None,
                UserSession.created_at: None,
            },
        ),
    ),
    Example(
        policy="connect.presence",
        row={UserSession.status: "online"},
        limits=(
            UserSession.updated_at,
            Case(values={UserSession.updated_at: None, UserSession.created_at: AT}),
        ),
        null_due=(UserSession.updated_at, UserSession.created_at),
        null_stays=(UserSession.status,),
        due=(
            {UserSession.status: "in-call"},
            {UserSession.status: "queuing"},
            {UserSession.updated_at: None, UserSession.created_at: None},
            # A call that is over, or without a beginning, does not keep a session.
            _in_call(InteractionLog.user1_id, ended_at=NOW),
            _in_call(InteractionLog.user2_id, started_at=None),
            # Who is not in a call by their session is not held by one.
            Case(beside=_in_call(InteractionLog.user1_id).beside),
        ),
        stays=(
            {UserSession.status: "offline"},
            _in_call(InteractionLog.user1_id),
            _in_call(InteractionLog.user2_id),
            # Until `connect.calls` has closed it.
            _in_call(InteractionLog.user1_id, started_at=ago(days=400)),
        ),
        becomes={UserSession.status: "offline", UserSession.updated_at: STAMP},
    ),
    Example(
        policy="connect.video_requests",
        limits=(
            Case(values={VideoRequest.expires_at: None, VideoRequest.requested_at: AT}),
            Case(values={VideoRequest.expires_at: AT}, period=timedelta(0)),
        ),
        null_due=(VideoRequest.expires_at, VideoRequest.requested_at),
        null_stays=(VideoRequest.status,),
        due=({VideoRequest.expires_at: ago(days=1), VideoRequest.responded_at: ago(days=2)},),
        stays=tuple({VideoRequest.status: status} for status in ("approved", "rejected", "expired")),
        becomes={VideoRequest.status: "expired"},
    ),
    Example(
        policy="connect.calls",
        limits=(InteractionLog.started_at,),
        null_due=(InteractionLog.ended_at,),
        null_stays=(InteractionLog.started_at,),
        due=(
            {InteractionLog.outcome: None},
            {InteractionLog.outcome: "timeout", InteractionLog.started_at: ago(days=4000)},
            Case(
                values={InteractionLog.outcome: "female_connected"},
                becomes={InteractionLog.outcome: "female_connected"},
            ),
            Case(values={InteractionLog.outcome: "both_left"}, becomes={InteractionLog.outcome: "both_left"}),
            Case(
                beside=(refers(Connection.interaction_log_id, {Connection.is_active: False}),),
                values={InteractionLog.outcome: None},
                becomes={InteractionLog.outcome: None},
            ),
        ),
        stays=({InteractionLog.ended_at: NOW},),
        becomes={
            InteractionLog.ended_at: lambda row: row["started_at"] + _CALL,
            InteractionLog.duration_seconds: 4 * 3600,
            InteractionLog.outcome: "timeout",
        },
    ),
    Example(
        policy="connect.chat_rooms",
        row={ChatRoom.connection_id: Row(model=Connection, values={Connection.is_active: False})},
        null_stays=(ChatRoom.is_active,),
        due=({ChatRoom.connection_id: Row(model=Connection, values={Connection.is_active: None})},),
        stays=({ChatRoom.is_active: False}, {ChatRoom.connection_id: NEW}),
        becomes={ChatRoom.is_active: False, ChatRoom.updated_at: STAMP},
    ),
    Example(
        policy="connect.logs",
        row={InteractionLog.outcome: "no_action", InteractionLog.female_user_id: NEW},
        limits=(InteractionLog.started_at,),
        null_due=(InteractionLog.female_user_id,),
        null_stays=(InteractionLog.started_at, InteractionLog.outcome),
        due=({InteractionLog.outcome: "both_left"}, {InteractionLog.outcome: "timeout"}),
        stays=({InteractionLog.outcome: "female_connected"},),
        protected_by=(
            refers(Connection.interaction_log_id),
            refers(Connection.interaction_log_id, {Connection.is_active: False}),
        ),
        held={"user": (InteractionLog.user1_id, InteractionLog.user2_id, InteractionLog.female_user_id)},
    ),
    Example(
        policy="connect.messages",
        limits=(Message.created_at,),
        null_stays=(Message.created_at,),
        due=({Message.is_deleted: True, Message.updated_at: NOW + INSTANT},),
        related=(goes(MessageReadStatus.message_id, {MessageReadStatus.read_at: NOW}),),
        held={
            "user": (Message.sender_user_id, MessageReadStatus.user_id),
            "room": (Message.chat_room_id,),
        },
    ),
)
