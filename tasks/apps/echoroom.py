"""`echoroom`: mood-based voice rooms."""

from models import echoroom
from tasks.apps.spec import App

ECHOROOM = App(
    name="echoroom",
    about="mood-based voice rooms",
    document="echoroom.md",
    models=echoroom,
    untouched={
        echoroom.ChatSession: "participant counts are recounted by a job to come",
        echoroom.User: "read for signs of life by a job to come",
        echoroom.SessionParticipant: "people who left without a word are cleaned by a job to come",
        echoroom.ChatMessage: "aged out by retention, a job to come",
        echoroom.MessageReaction: "reactions go with their message",
        echoroom.TypingIndicator: "expired indicators are cleaned by a job to come",
        echoroom.VoiceStatus: "voice status of people who are gone is cleaned by a job to come",
    },
)
