"""`audiorooms`: broadcast audio rooms."""

from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, case, exists, func, literal_column, select, tuple_

from models import audiorooms
from models.audiorooms import AudioRoom, AuditLog, RoomAnalytics, RoomParticipant
from tasks.apps.audiorooms.rollups import ROOM_ANALYTICS
from tasks.apps.audiorooms.stays import DEAD_AFTER, END, LAST, OTHER, OTHER_LEFT, of_room, plausible
from tasks.policies.app import App
from tasks.policies.retention import Owners, Restrict, Retention, SetValues
from tasks.policies.sweep import NOW, Event, Related, Sweep, Update, ahead, recent

_OPEN = RoomParticipant.left_at.is_(None)
_JOINED = RoomParticipant.joined_at


def _in_the_room(model: Any, *conditions: ColumnElement[bool]) -> ColumnElement[bool]:
    """Return whether there is such a row of a stay's room."""
    return exists().where(model.room_id == RoomParticipant.room_id, *conditions)


def _latest_ahead(model: Any, at: Any) -> ColumnElement[Any]:
    """Return the latest time ahead of a stay's room in another table."""
    found = select(func.max(at)).where(model.room_id == RoomParticipant.room_id, at > NOW)
    return found.correlate(RoomParticipant).scalar_subquery()


def _age(stay: Any) -> ColumnElement[Any]:
    """Return the order of stays by age: unknown times are the oldest."""
    return tuple_(
        func.coalesce(plausible(stay.joined_at), literal_column("'-infinity'::timestamptz")), stay.id
    )


#: Other stays of the same client in the same room that began later.
_NEWER = and_(
    OTHER.room_id == RoomParticipant.room_id,
    OTHER.client_id == RoomParticipant.client_id,
    _age(OTHER) > _age(RoomParticipant),
)
_JOINED_AGAIN = select(func.min(plausible(OTHER.joined_at))).where(_NEWER).scalar_subquery()

#: When a stay was over; NULL where that is not known. Times of a wrong clock are ignored.
_OVER = func.coalesce(plausible(RoomParticipant.left_at), END)
_ENDED = case((_OVER.is_not(None), func.greatest(plausible(_JOINED), _OVER)))

_OWNERS: Owners = {
    AuditLog: {"user": (AuditLog.user_id,), "room": (AuditLog.room_id,)},
    RoomParticipant: {"user": (RoomParticipant.user_id,), "room": (RoomParticipant.room_id,)},
    AudioRoom: {"user": (AudioRoom.created_by,), "room": (AudioRoom.id,)},
}

AUDIOROOMS = App(
    name="audiorooms",
    about="broadcast audio rooms",
    document="audiorooms.md",
    models=audiorooms,
    cleanup=(
        # A trigger fills in `connection_duration` when a participant leaves, and a CHECK refuses negative
        # ones: so `left_at` is never before `joined_at`, whatever the clocks said.
        Sweep(
            name="audiorooms.suspended",
            model=AudioRoom,
            rule="active rooms past suspended_until become inactive, and everyone in them leaves as of then",
            why="A suspended room that was not resumed in time is over (audiorooms.md, Restore Rooms on "
            "Startup and Mark Room as Inactive).",
            due=and_(AudioRoom.active.is_(True), AudioRoom.suspended_until < NOW),
            action=Update({AudioRoom.active: False}),
            every=timedelta(minutes=1),
            related=(
                Related(
                    model=RoomParticipant,
                    of=and_(RoomParticipant.room_id == AudioRoom.id, _OPEN),
                    action=Update(
                        {RoomParticipant.left_at: func.greatest(_JOINED, AudioRoom.suspended_until)}
                    ),
                ),
            ),
            event=Event(
                name="room-closed",
                room=AudioRoom.id,
                data={"room_id": AudioRoom.id, "code": AudioRoom.code},
            ),
        ),
        Sweep(
            name="audiorooms.stays",
            model=RoomParticipant,
            rule="people in rooms that are not active, or in none, leave as of the room's end",
            why="Closing a room leaves its stays open (audiorooms.md, Mark Room as Inactive): they would "
            "count as listeners for ever.",
            due=and_(
                _OPEN,
                ~exists().where(AudioRoom.id == RoomParticipant.room_id, AudioRoom.active.is_(True)),
            ),
            action=Update({RoomParticipant.left_at: func.coalesce(func.greatest(_JOINED, END), NOW)}),
            every=timedelta(minutes=1),
            event=Event(
                name="user-left",
                room=RoomParticipant.room_id,
                data={"client_id": RoomParticipant.client_id, "user_id": RoomParticipant.user_id},
            ),
        ),
        Sweep(
            name="audiorooms.dead",
            model=RoomParticipant,
            rule="people in rooms without any sign of life for {after} leave as of the last one",
            why="A server that crashes writes no leaves (audiorooms.md, Track Participant Leaves). The room "
            "stays as it is: its server may come back and restore it (Restore Rooms on Startup).",
            due=and_(
                _OPEN,
                recent(_JOINED).is_not(True),
                exists().where(
                    AudioRoom.id == RoomParticipant.room_id,
                    AudioRoom.active.is_(True),
                    recent(AudioRoom.updated_at).is_not(True),
                ),
                # One by one: PostgreSQL makes a join of each.
                ~_in_the_room(OTHER, recent(OTHER.joined_at)),
                ~_in_the_room(OTHER, recent(OTHER_LEFT)),
                ~_in_the_room(AuditLog, recent(AuditLog.created_at)),
            ),
            action=Update(
                {
                    RoomParticipant.left_at: func.greatest(
                        _JOINED, func.least(NOW, LAST, of_room(AudioRoom.suspended_until))
                    )
                }
            ),
            every=timedelta(minutes=5),
            after=DEAD_AFTER,
            ahead=func.greatest(
                ahead(_JOINED),
                of_room(ahead(AudioRoom.updated_at)),
                _latest_ahead(OTHER, OTHER.joined_at),
                _latest_ahead(OTHER, OTHER_LEFT),
                _latest_ahead(AuditLog, AuditLog.created_at),
            ),
        ),
        Sweep(
            name="audiorooms.duplicates",
            model=RoomParticipant,
            rule="of several open stays of a client in a room all but the newest end where the next began",
            why="A reconnect inserts another row (audiorooms.md, Track Participant Joins), and nothing "
            "closes the one before.",
            due=and_(_OPEN, exists().where(OTHER.left_at.is_(None), _NEWER)),
            # The next one, open or not: so it does not matter in which order they are closed.
            action=Update({RoomParticipant.left_at: func.greatest(_JOINED, func.least(NOW, _JOINED_AGAIN))}),
            every=timedelta(minutes=1),
        ),
        Sweep(
            name="audiorooms.backwards",
            model=RoomParticipant,
            rule="stays that end before they begin end where they begin, and last 0 seconds",
            why="Two clocks that differ (audiorooms.md, Track Participant Leaves): such a stay would count "
            "backwards.",
            due=RoomParticipant.left_at < _JOINED,
            action=Update({RoomParticipant.left_at: _JOINED, RoomParticipant.connection_duration: 0}),
            every=timedelta(hours=1),
            # An index cannot compare two columns.
            full_pass_every=timedelta(days=1),
        ),
    ),
    retention=(
        Retention(
            name="audiorooms.audit_log",
            model=AuditLog,
            rule="entries of the audit log older than {after} are archived and deleted",
            why="It is for security and debugging (audiorooms.md, Log Audit Events); no time is documented.",
            age=AuditLog.created_at,
            owners=_OWNERS,
            must_archive=True,
        ),
        Retention(
            name="audiorooms.participants",
            model=RoomParticipant,
            rule="stays that ended more than {after} ago in rooms that are not active, or in none, are "
            "deleted when all their days are in the figures",
            why="Who was where and when is not kept for ever; the statistics that are made of it are "
            "(audiorooms.md, Update Room Analytics).",
            age=_ENDED,
            where=~exists().where(AudioRoom.id == RoomParticipant.room_id, AudioRoom.active.is_(True)),
            # A stay without an end lasted as long as its room.
            until=_ENDED,
            owners=_OWNERS,
            # No index has their ends.
            full_pass_every=timedelta(days=1),
        ),
        Retention(
            name="audiorooms.rooms",
            model=AudioRoom,
            rule="rooms that are not active and have not changed for {after} are deleted when all stays in "
            "them have gone; their daily statistics stay, without the room",
            why="A room is closed for good (audiorooms.md, Mark Room as Inactive): only active ones are "
            "restored.",
            # A trigger keeps `updated_at`: without one it is as it was made.
            age=func.coalesce(AudioRoom.updated_at, AudioRoom.created_at),
            where=AudioRoom.active.is_not(True),
            refers=(
                Restrict(
                    RoomParticipant.room_id,
                    "CASCADE: stays go by a policy of their own, when they are in the figures",
                ),
                SetValues(
                    RoomAnalytics.room_id,
                    "CASCADE: the statistics are kept, and would go along. The archive says whose they were",
                ),
                SetValues(
                    AuditLog.room_id, "SET NULL: the trail has a time of its own; the archive as above"
                ),
            ),
            owners=_OWNERS,
            follows=("audiorooms.participants",),
            # The index begins with what is true of nearly all.
            full_pass_every=timedelta(days=1),
        ),
    ),
    rollups=(ROOM_ANALYTICS,),
    # People are Supabase's.
    entities={"user": None, "room": AudioRoom},
    untouched={
        audiorooms.RoomAnalytics: "made by the rollup of stays and kept; they lose their room when that goes",
    },
)
