"""`audiorooms`: broadcast audio rooms."""

from models import audiorooms
from tasks.apps.spec import App

AUDIOROOMS = App(
    name="audiorooms",
    about="broadcast audio rooms",
    document="audiorooms.md",
    models=audiorooms,
    untouched={
        audiorooms.AudioRoom: "suspended rooms are closed by a job to come",
        audiorooms.RoomParticipant: "listeners left behind by a crash are closed by a job to come",
        audiorooms.RoomAnalytics: "daily figures are rolled up by a job to come",
        audiorooms.AuditLog: "aged out by retention, a job to come",
    },
)
