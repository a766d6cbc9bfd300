"""`connect`: match, call, then chat."""

from models import connect
from models.connect import Message, MessageReadStatus, User
from tasks.apps.spec import App
from tasks.apps.statuses import ReadMarks

CONNECT = App(
    name="connect",
    about="match, call, then chat",
    document="connect.md",
    models=connect,
    delivery=ReadMarks(
        model=MessageReadStatus,
        why="Who has read a message, and when first (connect.md, message_read_status).",
        message=MessageReadStatus.message_id,
        user=MessageReadStatus.user_id,
        read_at=MessageReadStatus.read_at,
        message_id=Message.id,
        sender=Message.sender_user_id,
        user_id=User.id,
    ),
    untouched={
        connect.User: "accounts are the application's own",
        connect.Profile: "profiles go with their user",
        connect.UserSession: "expired sessions and dead sockets are cleaned by jobs to come",
        connect.InteractionLog: "aged out by retention, a job to come",
        connect.Connection: "a connection keeps its log alive; it never ages by itself",
        connect.VideoRequest: "requests past expiry are closed by a job to come",
        connect.ChatRoom: "rooms of inactive connections are closed by a job to come",
        connect.Message: "aged out by retention, a job to come",
    },
)
