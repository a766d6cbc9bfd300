"""`connect`: match, call, then chat."""

from models import connect
from tasks.apps.spec import App

CONNECT = App(
    name="connect",
    about="match, call, then chat",
    document="connect.md",
    models=connect,
    untouched={
        connect.User: "accounts are the application's own",
        connect.Profile: "profiles go with their user",
        connect.UserSession: "expired sessions and dead sockets are cleaned by jobs to come",
        connect.InteractionLog: "aged out by retention, a job to come",
        connect.Connection: "a connection keeps its log alive; it never ages by itself",
        connect.VideoRequest: "requests past expiry are closed by a job to come",
        connect.ChatRoom: "rooms of inactive connections are closed by a job to come",
        connect.Message: "aged out by retention, a job to come",
        connect.MessageReadStatus: "read marks are kept by a job to come",
    },
)
